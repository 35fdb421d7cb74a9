//! Groups, joins and leaves, and the records of evictions.

use super::*;

/// An attachment that was evicted as often as this may not read any more: its count has 8 bits.
const MAX_EVICTIONS: u8 = 250;
/// One that was evicted as often as this is not waited for any more.
const WORN: u8 = 3;

impl Role {
    /// Makes the groups that are missing, one at a time so that two who ask for one name get one group.
    pub(super) fn open(&mut self, n: u64, request: u64, names: Vec<String>) {
        if names.len() > MAX_NAMES {
            let failure = Failure::Limit { what: "names".into(), limit: MAX_NAMES as u64 };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        if let Some(name) = names.iter().find(|name| !is_group_name(name)) {
            let failure = Failure::Name { name: name.clone() };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        let pending = |name: &str| {
            self.queued().any(|record| matches!(record, Record::Group { name: other, .. } if other == name))
        };
        let mut missing: Vec<String> = Vec::new();
        for name in &names {
            if self.directory.group_named(name).is_none() && !pending(name) && !missing.contains(name) {
                missing.push(name.clone());
            }
        }
        let waiting = self.queued().filter(|r| matches!(r, Record::Group { .. })).count() as u16;
        let first = self.directory.free_group().map(|g| u32::from(g.prefix()) + u32::from(waiting));
        let room = self.directory.encode().len() + missing.iter().map(|n| 2 * n.len() + 24).sum::<usize>();
        let last = first.map(|f| f + missing.len() as u32);
        if room as u64 > MAX_ENCODED / 2 || last.is_none_or(|l| l >= u32::from(u16::MAX)) {
            let failure = Failure::Limit { what: "groups".into(), limit: u64::from(u16::MAX) };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        for (prefix, name) in (first.expect("checked")..).zip(missing) {
            let address = Address::group(prefix as u16).0;
            self.enqueue(Record::Group { address, name }, Then::Nothing);
        }
        self.wait_in_queue(None, Then::Opened { client: n, request, names });
    }

    pub(super) fn join(
        &mut self,
        n: u64,
        member: MemberId,
        request: u64,
        addresses: Vec<u64>,
        policy: WirePolicy,
    ) {
        self.record_eviction(member.id);
        let own = self.directory.address_of(member.id);
        if addresses.len() > MAX_ADDRESSES {
            let failure = Failure::Limit { what: "addresses".into(), limit: MAX_ADDRESSES as u64 };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        let not_his = addresses
            .iter()
            .find(|a| Some(Address(**a)) != own && self.directory.name_of(Address(**a)).is_none());
        if let Some(address) = not_his {
            self.reply(n, &Reply::Failed { request, failure: Failure::NotYours { address: *address } });
            return;
        }
        let room = self.directory.encode().len() + addresses.len() * 16;
        if room as u64 > MAX_ENCODED || self.word(member).evictions() >= MAX_EVICTIONS {
            let failure = Failure::Limit { what: "memberships".into(), limit: MAX_ENCODED };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        let evictions = self.word(member).evictions();
        if evictions >= WORN && matches!(policy, WirePolicy::Block { .. }) {
            self.reply(n, &Reply::Failed { request, failure: Failure::Worn { evictions } });
            return;
        }
        let lossy = policy == WirePolicy::Lossy;
        let then = Then::Joined { client: n, request, member, policy, first: false };
        self.enqueue(Record::Joined { member, addresses, lossy }, then);
    }

    /// Whether a record still says something at its turn, with those in front of it in the order. One of who leaves is
    /// told apart from what it goes on taking.
    pub(super) fn is_due(&self, record: &mut Record) -> bool {
        match record {
            Record::Joined { member, .. } => self.directory.has(*member),
            Record::Left { member, addresses, lossy, kept } => {
                let over = |address: &u64| !self.directory.takes(*member, Address(*address), !*lossy);
                (*addresses, *kept) = std::mem::take(addresses).into_iter().partition(over);
                self.directory.has(*member)
            }
            Record::Evicted { member, count } => {
                self.directory.evictions(*member).is_some_and(|recorded| recorded < *count)
            }
            _ => true,
        }
    }

    /// What comes before a record, at its turn and no sooner: a reader that counted from its request on would hold up
    /// the records in front of its own, and the role with them. Gives what has to be in the order first: whoever evicted
    /// the reader may not have come to say so, and once it counts again its word does not either.
    pub(super) fn prepare(&mut self, then: &mut Then) -> Option<(Option<Record>, Then)> {
        let Then::Joined { member, policy, first, .. } = then else { return None };
        let unrecorded = self.unrecorded_eviction(member.id);
        if unrecorded.is_none() {
            *first |= self.count_reader(*member, *policy);
        }
        unrecorded.map(|(record, told)| (Some(record), told))
    }

    /// Makes a reader count, with the policy it asks for. `true` if it has not counted before.
    fn count_reader(&self, member: MemberId, policy: WirePolicy) -> bool {
        let (id, sequencer) = (AttachmentId(member.id), &self.shared.sequencer);
        let present = sequencer.members().read(id);
        // It may have gone while its record waited for its turn.
        if present.word.generation() != member.generation || present.word.attach() != AttachState::Live {
            return false;
        }
        let (counts, evictions) = (present.word.counts(), present.word.evictions());
        let (policy, deadline, max_lag) = match policy {
            WirePolicy::Lossy => return false,
            WirePolicy::AsBefore if counts => return false,
            WirePolicy::AsBefore if evictions < WORN => {
                (Policy::Block, DEFAULT_DEADLINE.as_millis() as u64, 0)
            }
            WirePolicy::AsBefore => (Policy::Evict, 0, sequencer.slot_count()),
            WirePolicy::Block { deadline } => {
                (Policy::Block, deadline.min(MAX_DEADLINE.as_millis() as u64), 0)
            }
            WirePolicy::Pinned => (Policy::Pinned, 0, 0),
            WirePolicy::Evict { lag } => (Policy::Evict, 0, lag.clamp(1, sequencer.slot_count())),
        };
        // The floor of a new reader counts from before its record on, so that nothing it will need is overwritten.
        let floor = if counts { present.floor } else { sequencer.find().map_or(0, |found| found.stamp) };
        sequencer.members().set_reader(id, floor, deadline, max_lag);
        self.set_word(member, |w| {
            if w.attach() != AttachState::Live {
                return w;
            }
            let reader = if counts { w.reader() } else { ReaderState::Live };
            w.with_reader(reader).with_policy(policy)
        });
        self.shared.sequencer.refresh_eviction_lag();
        !counts
    }

    /// A ring that is full at `stamp` may be held by the floor of the reader whose join record waits for room in it. It
    /// starts behind its record, so its floor may follow. `true` if it did.
    pub(super) fn raise_floor(&self, then: &Then, stamp: u64) -> bool {
        let Then::Joined { member, first: true, .. } = then else { return false };
        let (members, id) = (self.shared.sequencer.members(), AttachmentId(member.id));
        let reader = members.read(id);
        if reader.word.generation() != member.generation || reader.floor >= stamp {
            return false;
        }
        members.set_reader(id, stamp, reader.deadline, reader.max_lag);
        self.shared.release_space();
        true
    }

    pub(super) fn leave(
        &mut self,
        n: u64,
        member: MemberId,
        request: u64,
        addresses: Vec<u64>,
        lossy: bool,
        last: bool,
    ) {
        if last {
            // At once: it may be what holds up the records in front of its own.
            self.set_word(member, |w| {
                if w.reader() == ReaderState::Evicted { w } else { w.with_reader(ReaderState::None) }
            });
            // Nor does it count when the record of a join has its turn that it no longer waits for.
            for (_, then) in &mut self.queue {
                if let Then::Joined { member: other, policy, first, .. } = then
                    && *other == member
                {
                    (*policy, *first) = (WirePolicy::Lossy, false);
                }
            }
            self.shared.release_space();
            self.shared.sequencer.refresh_eviction_lag();
        }
        let addresses: Vec<u64> = addresses.into_iter().take(MAX_ADDRESSES).collect();
        let record = Record::Left { member, addresses, lossy, kept: Vec::new() };
        self.enqueue(record, Then::Left { client: n, request });
    }

    /// Publishes the record of an eviction that somebody has made, once: then the member word no longer asks for it.
    pub(super) fn record_eviction(&mut self, id: u16) {
        if let Some((record, told)) = self.unrecorded_eviction(id)
            && !self.queued().any(|queued| *queued == record)
        {
            self.enqueue(record, told);
        }
    }

    /// The record of an eviction that is not in the order, whoever held the role then: the member word counts them, and so
    /// does the directory.
    fn unrecorded_eviction(&self, id: u16) -> Option<(Record, Then)> {
        let word = self.shared.sequencer.members().word(AttachmentId(id));
        let (member, count) = (MemberId { id, generation: word.generation() }, word.evictions());
        let recorded = self.directory.evictions(member)?;
        (word.attach() == AttachState::Live && recorded < count)
            .then_some((Record::Evicted { member, count }, Then::Told { member, evictions: count }))
    }
}

fn is_group_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_GROUP_NAME && !name.chars().any(char::is_control)
}
