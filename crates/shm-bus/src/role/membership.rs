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
        // Whoever evicted it may not have come to say so. Its record comes before the next that it joins with.
        self.record_eviction(member.id);
        match self.count_reader(member, policy) {
            Ok(first) => {
                self.enqueue(
                    Record::Joined { member, addresses },
                    Then::Joined { client: n, request, first },
                );
            }
            Err(failure) => self.reply(n, &Reply::Failed { request, failure }),
        }
    }

    /// Makes a reader count, with the policy it asks for. `true` if it has not counted before.
    fn count_reader(&self, member: MemberId, policy: WirePolicy) -> core::result::Result<bool, Failure> {
        let (id, sequencer) = (AttachmentId(member.id), &self.shared.sequencer);
        let present = sequencer.members().read(id);
        let (counts, evictions) = (present.word.counts(), present.word.evictions());
        let (policy, deadline, max_lag) = match policy {
            WirePolicy::Lossy => return Ok(false),
            WirePolicy::AsBefore if counts => return Ok(false),
            WirePolicy::AsBefore if evictions < WORN => {
                (Policy::Block, DEFAULT_DEADLINE.as_millis() as u64, 0)
            }
            WirePolicy::AsBefore => (Policy::Evict, 0, sequencer.slot_count()),
            WirePolicy::Block { .. } if evictions >= WORN => return Err(Failure::Worn { evictions }),
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
            let reader = if counts { w.reader() } else { ReaderState::Live };
            w.with_reader(reader).with_policy(policy)
        });
        self.shared.sequencer.refresh_eviction_lag();
        Ok(!counts)
    }

    /// A ring that is full at `stamp` may be held by the floors of readers whose join records wait for room in it. They
    /// start behind their records, so their floors may follow. `true` if one did.
    pub(super) fn raise_floors(&self, stamp: u64) -> bool {
        let members = self.shared.sequencer.members();
        let mut raised = false;
        for (record, then) in &self.queue {
            if let (Some(Record::Joined { member, .. }), Then::Joined { first: true, .. }) = (record, then) {
                let reader = members.read(AttachmentId(member.id));
                if reader.word.generation() == member.generation && reader.floor < stamp {
                    let id = AttachmentId(member.id);
                    members.set_reader(id, stamp, reader.deadline, reader.max_lag);
                    raised = true;
                }
            }
        }
        if raised {
            self.shared.release_space();
        }
        raised
    }

    pub(super) fn leave(&mut self, n: u64, member: MemberId, request: u64, addresses: Vec<u64>, last: bool) {
        if last {
            self.set_word(member, |w| {
                if w.reader() == ReaderState::Evicted { w } else { w.with_reader(ReaderState::None) }
            });
            self.shared.release_space();
            self.shared.sequencer.refresh_eviction_lag();
        }
        let addresses: Vec<u64> = addresses.into_iter().take(MAX_ADDRESSES).collect();
        self.enqueue(Record::Left { member, addresses }, Then::Left { client: n, request });
    }

    /// Publishes the record of an eviction that somebody has made, once: then the member word no longer asks for it.
    pub(super) fn record_eviction(&mut self, id: u16) {
        let word = self.shared.sequencer.members().word(AttachmentId(id));
        let member = MemberId { id, generation: word.generation() };
        let waits = self.queued().any(|r| matches!(r, Record::Evicted { member: other } if *other == member));
        if word.reader() == ReaderState::Evicted && self.directory.has(member) && !waits {
            self.enqueue(Record::Evicted { member }, Then::Told { member, evictions: word.evictions() });
        }
    }
}

fn is_group_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_GROUP_NAME && !name.chars().any(char::is_control)
}
