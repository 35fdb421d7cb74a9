//! The master's role: admits, joins, retires. It is not in the data path; everything it decides goes into the order as
//! control records, member word first, record second.

mod admission;
mod connections;
mod departure;
mod membership;
mod reign;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, Interest, Poller, Received, process};
use shm_bus_ring::layout::MAX_ATTACHMENTS;
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Fenced, Full, MemberWord, Policy, PublishError, ReaderState, Waker,
};

use self::departure::Retired;
pub(crate) use self::reign::Former;
use crate::client::{Attachments, Client};
use crate::directory::Directory;
use crate::directory_memory::{DirectoryWriter, MAX_ENCODED};
use crate::error::{BusError, Result};
use crate::overload::Stall;
use crate::payload_memory::PeerMemory;
use crate::record::{Credentials, Departure, MAX_ADDRESSES, MAX_GROUP_NAME, MemberId, Record, Stamped};
use crate::shared::{MappedPeers, Shared, lock};
use crate::socket::Socket;
use crate::subscription::{DEFAULT_DEADLINE, MAX_DEADLINE};
use crate::wire::{self, Failure, GREETING_BYTES, MAX_DATAGRAM, MAX_NAMES, Reply, Request, WirePolicy};

/// Poller tokens below this are the control thread's own; client `n` has `2n` (channel) and `2n + 1` (pidfd).
pub(crate) const FIRST_CLIENT: u64 = 8;
pub(crate) const LISTENER: u64 = 2;
/// How often a full ring or a retired member is looked at again. Only while there is one.
pub(crate) const RETRY: Duration = Duration::from_millis(1);
/// Unadmitted connections at once, and how long one may stay so.
const MAX_STRANGERS: usize = 64;
const STRANGER: Duration = Duration::from_secs(5);
/// How often the role looks whether it still is one.
const SELF_CHECK: Duration = Duration::from_secs(1);
/// How long a full ring may hold up what ends a reign.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
const HOUSEKEEPING: Duration = Duration::from_millis(50);

/// What follows once a record is in the order. A join is a reader's first if it did not count before.
enum Then {
    Nothing,
    Welcome { client: u64 },
    Opened { client: u64, request: u64, names: Vec<String> },
    Joined { client: u64, request: u64, member: MemberId, policy: WirePolicy, first: bool },
    Left { client: u64, request: u64 },
    Departed { member: MemberId, client: Option<Box<Client>>, acknowledged: bool },
    Told { member: MemberId, evictions: u8 },
}

impl Then {
    /// The client that waits for it.
    fn client(&self) -> Option<u64> {
        match self {
            Then::Welcome { client }
            | Then::Opened { client, .. }
            | Then::Joined { client, .. }
            | Then::Left { client, .. } => Some(*client),
            Then::Nothing | Then::Departed { .. } | Then::Told { .. } => None,
        }
    }
}

pub(crate) struct Role {
    shared: Arc<Shared>,
    term: u64,
    stall: Stall,
    waker: Waker,
    directory: Directory,
    memory: Arc<DirectoryWriter>,
    /// This process, for the others to watch.
    process: Arc<OwnedFd>,
    poller: Arc<Poller>,
    socket: Option<Arc<Socket>>,
    listening: bool,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    /// What is to be published, and what follows; an entry without a record only waits for those before it.
    queue: VecDeque<(Option<Record>, Then)>,
    blocked: bool,
    retired: Vec<Retired>,
    next_housekeeping: Instant,
}

impl Role {
    /// A role that is yet to be won: it publishes nothing unless `term` is this attachment's.
    pub fn new(shared: Arc<Shared>, term: u64, memory: DirectoryWriter, poller: Arc<Poller>) -> Result<Role> {
        Ok(Role {
            term,
            stall: Stall::default(),
            waker: Waker::default(),
            directory: Directory::new(),
            memory: Arc::new(memory),
            process: Arc::new(process::pidfd_open(process::pid())?),
            poller,
            socket: None,
            listening: false,
            clients: BTreeMap::new(),
            next_client: FIRST_CLIENT,
            queue: VecDeque::new(),
            blocked: false,
            retired: Vec::new(),
            next_housekeeping: Instant::now() + HOUSEKEEPING,
            shared,
        })
    }

    /// Takes connections from here on.
    pub fn listen(mut self, socket: Arc<Socket>) -> Result<Self> {
        self.poller.add(socket.listener.as_fd(), LISTENER, Interest::READ)?;
        self.listening = true;
        self.shared.set_reign(self.term, socket.clone(), None);
        self.socket = Some(socket);
        self.keep_socket();
        Ok(self)
    }

    /// The number of this reign.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The first master of a new bus. `own_channel` is this end of its attachment's own side channel.
    pub fn found(
        shared: Arc<Shared>,
        memory: DirectoryWriter,
        poller: Arc<Poller>,
        own_channel: Channel,
    ) -> Result<Self> {
        let (member, address) = (shared.member, shared.address.0);
        let mut role = Role::new(shared.clone(), shared.sequencer.term().0, memory, poller)?;
        let credentials = role.add_own(own_channel)?;
        role.enqueue(Record::Master { member }, Then::Nothing);
        role.enqueue(Record::Attached { member, address, credentials }, Then::Nothing);
        role.tick()?;
        Ok(role)
    }

    /// The role's own attachment is a client like any other.
    pub fn add_own(&mut self, channel: Channel) -> Result<Credentials> {
        let mut own = Client::connected(channel)?;
        let credentials = own.credentials.clone();
        own.pidfd = None;
        own.member = Some(self.shared.member);
        own.welcomed = true;
        self.add(own)?;
        Ok(credentials)
    }

    fn enqueue(&mut self, record: Record, then: Then) {
        self.wait_in_queue(Some(record), then);
    }

    fn wait_in_queue(&mut self, record: Option<Record>, then: Then) {
        if let Some(client) = then.client().and_then(|n| self.clients.get_mut(&n)) {
            client.pending += 1;
        }
        self.queue.push_back((record, then));
    }

    fn queued(&self) -> impl Iterator<Item = &Record> {
        self.queue.iter().filter_map(|(record, _)| record.as_ref())
    }

    fn word(&self, member: MemberId) -> MemberWord {
        self.shared.sequencer.members().word(AttachmentId(member.id))
    }

    /// Changes a member's word, if the id is still its own.
    fn set_word(&self, member: MemberId, change: impl Fn(MemberWord) -> MemberWord) {
        let members = self.shared.sequencer.members();
        let mut word = self.word(member);
        while word.generation() == member.generation {
            match members.exchange(AttachmentId(member.id), word, change(word)) {
                Ok(()) => return,
                Err(newer) => word = newer,
            }
        }
    }

    /// How long the control thread may sleep. Once a second the role looks whether it still is one.
    pub fn timeout(&self) -> Duration {
        if self.blocked { RETRY } else { self.next_housekeeping.saturating_duration_since(Instant::now()) }
    }

    /// Whether the term has passed to somebody else.
    pub fn is_fenced(&self) -> bool {
        self.shared.sequencer.term().0 != self.term
    }

    /// Publishes what is queued, and looks after what has to be looked after.
    pub fn tick(&mut self) -> core::result::Result<(), Fenced> {
        if self.is_fenced() {
            return Err(Fenced);
        }
        self.blocked = false;
        while let Some((mut record, mut then)) = self.queue.pop_front() {
            if record.as_mut().is_some_and(|record| !self.is_due(record)) {
                continue;
            }
            if let Some(before) = self.prepare(&mut then) {
                self.queue.push_front((record, then));
                self.queue.push_front(before);
                continue;
            }
            let published = match &record {
                Some(record) => self.publish(record),
                None => Ok(0),
            };
            match published {
                Ok(stamp) => self.act(then, stamp),
                Err(PublishError::Full(full)) => {
                    let raised = self.raise_floor(&then, full.stamp);
                    self.queue.push_front((record, then));
                    if !raised && !self.relieve(&full) {
                        self.blocked = true;
                        break;
                    }
                }
                // The term has passed on, this attachment is no member any more, or the order is beyond use: there is no
                // role to play.
                Err(_) => return Err(Fenced),
            }
        }
        if Instant::now() >= self.next_housekeeping {
            self.keep_house();
        }
        Ok(())
    }

    /// What no event tells: retired ids that are free by now, members of a former term that left without a channel to
    /// say so, strangers that never introduce themselves, a socket file that somebody took away.
    fn keep_house(&mut self) {
        self.keep_socket();
        let gone: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| match c.member {
                Some(member) if c.channel.is_none() => {
                    let withdrawn = self.shared.peers.get(member).is_some_and(|p| p.is_withdrawn());
                    withdrawn || self.word(member).attach() != AttachState::Live
                }
                Some(_) => false,
                None => c.since.elapsed() >= STRANGER,
            })
            .map(|(n, _)| *n)
            .collect();
        for n in gone {
            self.remove(n, Departure::Closed, false);
        }
        for id in 0..self.shared.sequencer.members().high() as u16 {
            self.record_eviction(id);
        }
        self.reuse();
        let waiting = !self.retired.is_empty()
            || !self.listening
            || self.clients.values().any(|c| c.channel.is_none() || c.member.is_none());
        self.next_housekeeping = Instant::now() + if waiting { HOUSEKEEPING } else { SELF_CHECK };
    }

    /// A full ring: wakes whoever may hold it in its sleep, and takes the place of who has held it too long.
    pub fn relieve(&mut self, full: &Full) -> bool {
        self.shared.wake(shm_bus_ring::Bucket::MIXED, full.stamp, &mut self.waker);
        let shared = self.shared.clone();
        self.stall.relieve(&shared, full, lock(&shared.control_lane).gate())
    }

    /// A record's whole way: announced, in the order, in the directory, settled. The directory comes before the
    /// settling: who finds the word settled finds the record in the directory.
    fn publish(&mut self, record: &Record) -> core::result::Result<u64, PublishError<Fenced>> {
        let published = self.put_in_order(record);
        if let Ok(stamp) = published {
            self.directory.apply(stamp, self.term, record);
            // The size was checked before the record was queued.
            let _ = self.memory.write(&self.directory);
        }
        self.shared.sequencer.settle_control(self.term);
        published
    }

    pub fn put_in_order(&mut self, record: &Record) -> core::result::Result<u64, PublishError<Fenced>> {
        let shared = self.shared.clone();
        let bytes = Stamped { term: self.term, record: record.clone() }.encode();
        let published = lock(&shared.control_lane).record(
            &shared.sequencer,
            &mut MappedPeers(&shared),
            shared.owner(),
            self.term,
            &bytes,
            shm_bus_os::clock::monotonic_nanos(),
        )?;
        if let Some(bucket) = published.wake {
            shared.wake(bucket, published.stamp.0 + 1, &mut self.waker);
        }
        Ok(published.stamp.0)
    }

    fn act(&mut self, then: Then, stamp: u64) {
        if let Some(client) = then.client().and_then(|n| self.clients.get_mut(&n)) {
            client.pending -= 1;
        }
        match then {
            Then::Nothing => {}
            Then::Welcome { client } => self.welcome(client),
            Then::Opened { client, request, names } => {
                let addresses =
                    names.iter().filter_map(|n| self.directory.group_named(n)).map(|a| a.0).collect();
                self.reply(client, &Reply::Opened { request, addresses });
            }
            Then::Joined { client, request, member, .. } => {
                let attached = self.directory.members().map(|(member, m)| (member, m.address)).collect();
                self.reply(
                    client,
                    &Reply::Joined {
                        request,
                        stamp,
                        evictions: self.directory.evictions(member).unwrap_or(0),
                        term: self.term,
                        master: self.shared.member.id,
                        attached,
                    },
                );
            }
            Then::Left { client, request } => self.reply(client, &Reply::Left { request }),
            Then::Told { member, evictions } => self.set_word(member, |w| {
                let told = w.reader() == ReaderState::Evicted && w.evictions() == evictions;
                if told { w.with_reader(ReaderState::None) } else { w }
            }),
            Then::Departed { member, client, acknowledged } => {
                let mut pidfd = None;
                if let Some(mut client) = client {
                    if acknowledged {
                        client.send(wire::encode(&Reply::Goodbye), Attachments::None);
                    }
                    pidfd = client.pidfd;
                }
                // One that was stopped in between may have taken sleepers' bits away that are not its own any more.
                self.shared.wake_everyone();
                self.retired.push(Retired { member, stamp, acknowledged, pidfd });
                self.next_housekeeping = self.next_housekeeping.min(Instant::now() + HOUSEKEEPING);
            }
        }
    }
}

/// Why a directory entry cannot be had is decided before anything is published, so the error type stays the bus's.
impl From<Fenced> for BusError {
    fn from(_: Fenced) -> Self {
        BusError::Closed
    }
}
