//! The master's role: admits, joins, retires. It is not in the data path; everything it decides goes into the order as
//! control records, member word first, record second.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, Interest, Poller, Received, process};
use shm_bus_ring::layout::MAX_ATTACHMENTS;
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Full, Kind, MemberWord, Message, Policy, PublishError, ReaderState,
};

use crate::client::{Attachments, Client};
use crate::directory::Directory;
use crate::directory_memory::{DirectoryWriter, MAX_ENCODED};
use crate::error::{BusError, Result};
use crate::overload::Stall;
use crate::payload_memory::PeerMemory;
use crate::record::{Departure, MAX_ADDRESSES, MAX_GROUP_NAME, MemberId, Record, Stamped};
use crate::replica::Replica;
use crate::shared::{MappedPeers, Shared, Waker, duplicate_failed, lock};
use crate::socket::Socket;
use crate::subscription::MAX_DEADLINE;
use crate::wire::{self, Failure, GREETING_BYTES, MAX_DATAGRAM, MAX_NAMES, Reply, Request, WirePolicy};

/// Poller tokens below this are the control thread's own; client `n` has `2n` (channel) and `2n + 1` (pidfd).
pub(crate) const FIRST_CLIENT: u64 = 8;
pub(crate) const LISTENER: u64 = 2;
/// How often a full ring or a retired member is looked at again. Only while there is one.
const RETRY: Duration = Duration::from_millis(1);
/// An attachment that was evicted as often as this may not read any more: its count has 8 bits.
const MAX_EVICTIONS: u8 = 250;
/// Unadmitted connections at once, and how long one may stay so.
const MAX_STRANGERS: usize = 64;
const STRANGER: Duration = Duration::from_secs(5);
/// How often the role looks whether it still is one.
const SELF_CHECK: Duration = Duration::from_secs(1);
/// How long a full ring may hold up the record that begins or ends a reign.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);
const HOUSEKEEPING: Duration = Duration::from_millis(50);

/// The term has passed to somebody else.
pub(crate) struct Fenced;

/// What follows once a record is in the order.
enum Then {
    Nothing,
    Welcome {
        client: u64,
    },
    Opened {
        client: u64,
        request: u64,
        names: Vec<String>,
    },
    Joined {
        client: u64,
        request: u64,
    },
    Left {
        client: u64,
        request: u64,
    },
    Departed {
        member: MemberId,
        client: Option<Box<Client>>,
        acknowledged: bool,
    },
}

impl Then {
    /// The client that waits for it.
    fn client(&self) -> Option<u64> {
        match self {
            Then::Welcome { client }
            | Then::Opened { client, .. }
            | Then::Joined { client, .. }
            | Then::Left { client, .. } => Some(*client),
            Then::Nothing | Then::Departed { .. } => None,
        }
    }
}

/// A member whose id and memory are not free for another yet.
struct Retired {
    member: MemberId,
    stamp: u64,
    acknowledged: bool,
    pidfd: Option<OwnedFd>,
}

impl Retired {
    fn is_gone(&self) -> bool {
        self.acknowledged
            || self
                .pidfd
                .as_ref()
                .is_none_or(|fd| process::is_dead(fd.as_fd()).unwrap_or(false))
    }
}

pub(crate) struct Role {
    shared: Arc<Shared>,
    term: u64,
    stall: Stall,
    waker: Waker,
    directory: Directory,
    memory: DirectoryWriter,
    poller: Arc<Poller>,
    socket: Option<Socket>,
    listening: bool,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
    /// What is to be published, and what follows; an entry without a record only waits for those before it.
    queue: VecDeque<(Option<Record>, Then)>,
    blocked: bool,
    retired: Vec<Retired>,
    evictions: HashMap<MemberId, u8>,
    next_housekeeping: Instant,
}

impl Role {
    fn new(shared: Arc<Shared>, term: u64, memory: DirectoryWriter, poller: Arc<Poller>) -> Role {
        Role {
            term,
            stall: Stall::default(),
            waker: Waker::default(),
            directory: Directory::new(),
            memory,
            poller,
            socket: None,
            listening: false,
            clients: BTreeMap::new(),
            next_client: FIRST_CLIENT,
            queue: VecDeque::new(),
            blocked: false,
            retired: Vec::new(),
            evictions: HashMap::new(),
            next_housekeeping: Instant::now() + HOUSEKEEPING,
            shared,
        }
    }

    /// Takes connections from here on.
    pub fn listen(mut self, socket: Socket) -> Result<Self> {
        self.poller
            .add(socket.listener.as_fd(), LISTENER, Interest::READ)?;
        self.listening = true;
        self.socket = Some(socket);
        Ok(self)
    }

    /// The first master of a new bus. `own_channel` is this end of its attachment's own side channel.
    pub fn found(
        shared: Arc<Shared>,
        memory: DirectoryWriter,
        poller: Arc<Poller>,
        own_channel: Channel,
    ) -> Result<Self> {
        let (member, address) = (shared.member, shared.address.0);
        let mut role = Role::new(shared.clone(), shared.sequencer.term().0, memory, poller);
        let own = Client::connected(own_channel)?;
        let credentials = own.credentials.clone();
        role.add_own(own)?;
        role.enqueue(Record::Master { member }, Then::Nothing);
        role.enqueue(
            Record::Attached {
                member,
                address,
                credentials,
            },
            Then::Nothing,
        );
        role.tick()?;
        Ok(role)
    }

    /// The successor of a master that is gone, in a term that was won.
    ///
    /// Its own `master` record comes first: whatever the former master still got into the order stands below it, and is
    /// applied before anything is decided. With `incomplete` it does without what it cannot know.
    pub fn take_over(
        shared: Arc<Shared>,
        term: u64,
        mut replica: Replica,
        memory: DirectoryWriter,
        poller: Arc<Poller>,
        own_channel: Channel,
        incomplete: bool,
    ) -> Result<Self> {
        let me = shared.member;
        let control = shared.sequencer.control();
        let mut role = Role::new(shared.clone(), term, memory, poller);
        role.add_own(Client::connected(own_channel)?)?;
        let record = Record::Master { member: me };
        let start = Instant::now();
        let stamp = loop {
            match role.put_in_order(&record) {
                Ok(stamp) => break stamp,
                Err(PublishError::Full(full)) if start.elapsed() < PATIENCE => {
                    role.relieve(&full);
                    std::thread::sleep(RETRY);
                }
                Err(_) => return Err(BusError::Closed),
            }
        };
        if !replica.inherit(&shared, stamp, control)? && !incomplete {
            return Err(BusError::Closed);
        }
        role.directory = replica.directory().clone();
        role.directory.apply(stamp, term, &record);
        role.memory.write(&role.directory)?;
        shared.sequencer.settle_control(term);
        let members: Vec<_> = role
            .directory
            .members()
            .map(|(m, e)| (m, e.credentials.clone()))
            .collect();
        for (member, credentials) in members.into_iter().filter(|(member, _)| *member != me) {
            role.inherit(member, Client::inherited(member, credentials))?;
        }
        role.inherit_ids();
        Ok(role)
    }

    fn add_own(&mut self, mut own: Client) -> Result<()> {
        own.pidfd = None;
        own.member = Some(self.shared.member);
        own.welcomed = true;
        self.add(own).map(drop)
    }

    /// A member of the former term: still there, or gone with or without its record.
    fn inherit(&mut self, member: MemberId, client: Option<Client>) -> Result<()> {
        let word = self.word(member);
        let live = word.generation() == member.generation && word.attach() == AttachState::Live;
        match client {
            Some(client) if live => self.add(client).map(drop),
            client => {
                self.retire(member, client, Departure::Died, false);
                Ok(())
            }
        }
    }

    /// Ids that the former master left between two states: half admitted, so that nobody but their owner knows of them
    /// and it tries again; or departed and not free yet.
    fn inherit_ids(&mut self) {
        let stamp = self.directory.as_of;
        for id in (0..self.shared.sequencer.members().high() as u16).map(AttachmentId) {
            let word = self.shared.sequencer.members().word(id);
            let member = MemberId {
                id: id.0,
                generation: word.generation(),
            };
            if self.directory.has(member) {
                self.record_eviction(id.0);
            } else if word.attach() == AttachState::Joining {
                self.set_word(member, |w| {
                    w.with_attach(AttachState::Free).with_reader(ReaderState::None)
                });
            } else if word.attach() == AttachState::Departed {
                self.retired.push(Retired {
                    member,
                    stamp,
                    acknowledged: true,
                    pidfd: None,
                });
            }
        }
    }

    fn add(&mut self, client: Client) -> Result<u64> {
        let n = self.next_client;
        self.next_client += 1;
        if let Some(channel) = &client.channel {
            self.poller.add(channel.as_fd(), 2 * n, Interest::READ)?;
        }
        if let Some(pidfd) = &client.pidfd {
            self.poller.add(pidfd.as_fd(), 2 * n + 1, Interest::READ)?;
        }
        self.clients.insert(n, client);
        Ok(n)
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
        if self.blocked {
            RETRY
        } else {
            self.next_housekeeping.saturating_duration_since(Instant::now())
        }
    }

    /// One event of the poller that is not the control thread's own.
    pub fn on_event(&mut self, token: u64) {
        if token == LISTENER {
            self.accept();
            return;
        }
        let n = token / 2;
        if token % 2 == 1 {
            if self.clients.contains_key(&n) {
                self.remove(n, Departure::Died, false);
            }
            return;
        }
        let mut buffer = vec![0; MAX_DATAGRAM];
        // Bounded, so that one who floods does not keep the others waiting; the poller reports the rest again.
        for _ in 0..64 {
            let Some(client) = self.clients.get(&n) else {
                return;
            };
            let Some(channel) = &client.channel else { return };
            match channel.recv(&mut buffer) {
                Ok(Received::Message { len, fds, .. }) => self.on_message(n, &buffer[..len], fds),
                Ok(Received::Empty) => break,
                // Without a word: whoever closes says so first. That its process is dead is often not to be seen yet.
                Ok(Received::Closed) => {
                    self.remove(n, Departure::Died, false);
                    return;
                }
                // A truncated message is no message; what came with it is closed.
                Err(error) if !error.is_disconnected() && error.errno().is_none() => {}
                Err(_) => {
                    self.remove(n, Departure::Died, false);
                    return;
                }
            }
        }
        self.push(n);
    }

    fn accept(&mut self) {
        loop {
            let Some(socket) = &self.socket else { return };
            let channel = match socket.listener.accept() {
                Ok(Some(channel)) => channel,
                Ok(None) => break,
                Err(_) => {
                    // No descriptors left: whoever knocks waits in the backlog until the next housekeeping.
                    let _ = self.poller.remove(socket.listener.as_fd());
                    self.listening = false;
                    self.next_housekeeping = Instant::now() + HOUSEKEEPING;
                    break;
                }
            };
            if self.clients.values().filter(|c| c.member.is_none()).count() >= MAX_STRANGERS {
                continue;
            }
            // One that cannot be looked at, or that belongs to another user, is let go by dropping its channel.
            if let Ok(client) = Client::connected(channel) {
                if client.credentials.uid == process::uid() {
                    let _ = self.add(client);
                } else {
                    let mut client = client;
                    let why = format!(
                        "the bus belongs to uid {}, you are uid {}",
                        process::uid(),
                        client.credentials.uid
                    );
                    client.send(wire::with_greeting(&Reply::Refused { why }), Attachments::None);
                }
            }
        }
    }

    /// Sends what client `n` has waiting, and asks to be told when more can be sent.
    fn push(&mut self, n: u64) {
        let Some(client) = self.clients.get_mut(&n) else {
            return;
        };
        if !client.flush() {
            self.remove(n, Departure::Died, false);
            return;
        }
        if client.is_flooded() {
            self.remove(n, Departure::Closed, false);
            return;
        }
        if let Some(channel) = &client.channel {
            let interest = if client.has_mail() {
                Interest::BOTH
            } else {
                Interest::READ
            };
            let _ = self.poller.modify(channel.as_fd(), 2 * n, interest);
        }
    }

    fn send(&mut self, n: u64, bytes: Vec<u8>, attachments: Attachments) {
        if let Some(client) = self.clients.get_mut(&n) {
            client.send(bytes, attachments);
            self.push(n);
        }
    }

    fn reply(&mut self, n: u64, reply: &Reply) {
        self.send(n, wire::encode(reply), Attachments::None);
    }

    fn on_message(&mut self, n: u64, bytes: &[u8], fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get(&n) else {
            return;
        };
        let Some(member) = client.member else {
            self.on_greeting(n, bytes, fds);
            return;
        };
        // Bytes that are no request are ignored: they can only be their sender's loss.
        let Some(request) = wire::decode::<Request>(bytes) else {
            return;
        };
        if client.is_flooded() {
            self.remove(n, Departure::Closed, false);
            return;
        }
        match request {
            Request::Open { request, names } => self.open(n, request, names),
            Request::Join {
                request,
                addresses,
                policy,
            } => self.join(n, member, request, addresses, policy),
            Request::Leave {
                request,
                addresses,
                last,
            } => self.leave(n, member, request, addresses, last),
            Request::Ring { member } => self.send_ring(n, member),
            Request::Evicted { id } => self.record_eviction(id),
            Request::Detach => self.remove(n, Departure::Closed, true),
            Request::Hello { .. } | Request::Again { .. } => {}
        }
    }

    fn on_greeting(&mut self, n: u64, bytes: &[u8], fds: Vec<OwnedFd>) {
        let answer = match wire::greeted_version(bytes) {
            Some(version) if version == shm_bus_ring::layout::LAYOUT_VERSION => {
                match wire::decode::<Request>(&bytes[GREETING_BYTES..]) {
                    Some(Request::Hello { protocol }) => self.admit(n, protocol, fds),
                    Some(Request::Again { member }) => self.again(n, member, fds),
                    _ => Err("expected a hello".into()),
                }
            }
            // The greeting in front of the answer tells it this build's version.
            Some(_) => Err("another layout version".into()),
            None => Err("expected a greeting".into()),
        };
        if let Err(why) = answer {
            self.send(n, wire::with_greeting(&Reply::Refused { why }), Attachments::None);
            self.drop_client(n);
        }
    }

    /// Admission: verify the newcomer's memory, hand it to everyone, member word `joining`, attach record, `live`,
    /// answer.
    fn admit(&mut self, n: u64, protocol: u32, fds: Vec<OwnedFd>) -> core::result::Result<(), String> {
        let spoken = self.shared.protocol;
        if protocol != spoken {
            return Err(format!("the bus speaks protocol {spoken}, not {protocol}"));
        }
        let [fd, eventfd] =
            <[OwnedFd; 2]>::try_from(fds).map_err(|fds| format!("{} descriptors instead of 2", fds.len()))?;
        if self.directory.encode().len() as u64 + 64 > MAX_ENCODED {
            return Err("the directory is full".into());
        }
        let id = self
            .free_id()
            .ok_or_else(|| format!("the bus has {MAX_ATTACHMENTS} attachments already"))?;
        let members = self.shared.sequencer.members();
        let before = members.word(AttachmentId(id));
        let member = MemberId {
            id,
            generation: before.generation().wrapping_add(1).max(1),
        };
        let memory = PeerMemory::open(member, fd, eventfd).map_err(|e| e.to_string())?;
        if memory.geometry().header_count() > self.shared.sequencer.slot_count() / 4 {
            let most = self.shared.sequencer.slot_count() / 4;
            return Err(format!(
                "headers must be at most {most}, a quarter of the bus's slots"
            ));
        }
        self.let_moved_on_go(n, &memory);
        let members = self.shared.sequencer.members();
        let address = self.next_address();
        members.set_address(AttachmentId(id), address.0);
        members.set_reader(AttachmentId(id), 0, 0, 0);
        members.cover(AttachmentId(id));
        let joining = MemberWord::new(
            member.generation,
            AttachState::Joining,
            ReaderState::None,
            Policy::Block,
            0,
        );
        members
            .exchange(AttachmentId(id), before, joining)
            .map_err(|_| "the member table changed".to_owned())?;
        self.shared.peers.insert(memory);
        for other in self.welcomed() {
            self.send_ring(other, member);
        }
        let client = self.clients.get_mut(&n).expect("the caller has it");
        client.member = Some(member);
        let credentials = client.credentials.clone();
        self.enqueue(
            Record::Attached {
                member,
                address: address.0,
                credentials,
            },
            Then::Welcome { client: n },
        );
        Ok(())
    }

    /// A newcomer whose former master died before it could say welcome comes back with the same memory: the member it
    /// became without knowing is nobody.
    fn let_moved_on_go(&mut self, n: u64, memory: &PeerMemory) {
        let credentials = &self.clients[&n].credentials;
        let ghosts: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| c.channel.is_none() && c.credentials == *credentials)
            .filter(|(_, c)| {
                let known = c.member.and_then(|m| self.shared.peers.get(m));
                known.is_some_and(|k| k.identity().is_some() && k.identity() == memory.identity())
            })
            .map(|(n, _)| *n)
            .collect();
        for ghost in ghosts {
            self.remove(ghost, Departure::Closed, true);
        }
    }

    /// A member of a former term presents itself to this one, and gets every memory once more: what the former master
    /// had on its way to it is lost.
    fn again(&mut self, n: u64, member: MemberId, fds: Vec<OwnedFd>) -> core::result::Result<(), String> {
        let credentials = &self.clients[&n].credentials;
        let former = self
            .clients
            .iter()
            .find(|(_, c)| c.channel.is_none() && c.member == Some(member));
        let Some(former) = former
            .filter(|(_, c)| c.credentials == *credentials)
            .map(|(n, _)| *n)
        else {
            return Err("no such member".into());
        };
        if let Ok([fd, eventfd]) = <[OwnedFd; 2]>::try_from(fds)
            && self.shared.peers.get(member).is_none()
            && let Ok(memory) = PeerMemory::open(member, fd, eventfd)
        {
            self.shared.peers.insert(memory);
            for other in self.welcomed() {
                self.send_ring(other, member);
            }
        }
        self.drop_client(former);
        let client = self.clients.get_mut(&n).expect("the caller has it");
        (client.member, client.welcomed) = (Some(member), true);
        let fd = self.memory.fd().try_clone_to_owned().map_err(|e| e.to_string())?;
        self.send(
            n,
            wire::encode(&Reply::Directory { term: self.term }),
            Attachments::Owned(vec![fd]),
        );
        self.send_all_rings(n, member);
        Ok(())
    }

    fn send_all_rings(&mut self, n: u64, but: MemberId) {
        for peer in self.shared.peers.all().iter().filter(|p| p.member() != but) {
            self.send_ring(n, peer.member());
        }
    }

    fn free_id(&self) -> Option<u16> {
        let taken = |id: u16| {
            self.retired.iter().any(|r| r.member.id == id)
                || self
                    .clients
                    .values()
                    .any(|c| c.member.is_some_and(|m| m.id == id))
                || self
                    .queued()
                    .any(|r| matches!(r, Record::Departed { member, .. } if member.id == id))
        };
        (0..MAX_ATTACHMENTS as u16).find(|id| !taken(*id))
    }

    fn next_address(&self) -> Address {
        let waiting = self
            .queued()
            .filter(|r| matches!(r, Record::Attached { .. }))
            .count() as u64;
        Address::unicast(self.directory.free_address().suffix() + waiting)
    }

    fn send_ring(&mut self, n: u64, member: MemberId) {
        if let Some(memory) = self.shared.peers.get(member) {
            self.send(
                n,
                wire::encode(&Reply::Ring { member }),
                Attachments::Memory(memory),
            );
        }
    }

    /// Makes the groups that are missing, one at a time so that two who ask for one name get one group.
    fn open(&mut self, n: u64, request: u64, names: Vec<String>) {
        if names.len() > MAX_NAMES {
            let failure = Failure::Limit {
                what: "names".into(),
                limit: MAX_NAMES as u64,
            };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        if let Some(name) = names.iter().find(|name| !is_group_name(name)) {
            let failure = Failure::Name { name: name.clone() };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        let pending = |name: &str| {
            self.queued()
                .any(|record| matches!(record, Record::Group { name: other, .. } if other == name))
        };
        let mut missing: Vec<String> = Vec::new();
        for name in &names {
            if self.directory.group_named(name).is_none() && !pending(name) && !missing.contains(name) {
                missing.push(name.clone());
            }
        }
        let waiting = self
            .queued()
            .filter(|r| matches!(r, Record::Group { .. }))
            .count() as u16;
        let first = self
            .directory
            .free_group()
            .map(|g| u32::from(g.prefix()) + u32::from(waiting));
        let room = self.directory.encode().len() + missing.iter().map(|n| 2 * n.len() + 24).sum::<usize>();
        let last = first.map(|f| f + missing.len() as u32);
        if room as u64 > MAX_ENCODED / 2 || last.is_none_or(|l| l >= u32::from(u16::MAX)) {
            let failure = Failure::Limit {
                what: "groups".into(),
                limit: u64::from(u16::MAX),
            };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        for (prefix, name) in (first.expect("checked")..).zip(missing) {
            let address = Address::group(prefix as u16).0;
            self.enqueue(Record::Group { address, name }, Then::Nothing);
        }
        self.wait_in_queue(
            None,
            Then::Opened {
                client: n,
                request,
                names,
            },
        );
    }

    fn join(&mut self, n: u64, member: MemberId, request: u64, addresses: Vec<u64>, policy: WirePolicy) {
        let own = self.directory.address_of(member.id);
        if addresses.len() > MAX_ADDRESSES {
            let failure = Failure::Limit {
                what: "addresses".into(),
                limit: MAX_ADDRESSES as u64,
            };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        let not_his = addresses
            .iter()
            .find(|a| Some(Address(**a)) != own && self.directory.name_of(Address(**a)).is_none());
        if let Some(address) = not_his {
            self.reply(
                n,
                &Reply::Failed {
                    request,
                    failure: Failure::NotYours { address: *address },
                },
            );
            return;
        }
        let WirePolicy::Block { deadline } = policy;
        let deadline = deadline.min(MAX_DEADLINE.as_millis() as u64);
        let room = self.directory.encode().len() + addresses.len() * 16;
        if room as u64 > MAX_ENCODED || self.word(member).evictions() >= MAX_EVICTIONS {
            let failure = Failure::Limit {
                what: "memberships".into(),
                limit: MAX_ENCODED,
            };
            self.reply(n, &Reply::Failed { request, failure });
            return;
        }
        let members = self.shared.sequencer.members();
        if !self.word(member).counts() {
            // The floor counts from before the record on, so that nothing the reader will need is overwritten.
            let floor = self.shared.sequencer.find().map_or(0, |found| found.stamp);
            members.set_reader(AttachmentId(member.id), floor, deadline, 0);
            self.set_word(member, |w| {
                w.with_reader(ReaderState::Live).with_policy(Policy::Block)
            });
        }
        self.enqueue(
            Record::Joined { member, addresses },
            Then::Joined { client: n, request },
        );
    }

    fn leave(&mut self, n: u64, member: MemberId, request: u64, addresses: Vec<u64>, last: bool) {
        if last {
            self.set_word(member, |w| {
                if w.reader() == ReaderState::Evicted {
                    w
                } else {
                    w.with_reader(ReaderState::None)
                }
            });
            self.shared.release_space();
        }
        let addresses: Vec<u64> = addresses.into_iter().take(MAX_ADDRESSES).collect();
        self.enqueue(
            Record::Left { member, addresses },
            Then::Left { client: n, request },
        );
    }

    /// Publishes the record of an eviction that somebody has made, once.
    fn record_eviction(&mut self, id: u16) {
        let word = self.shared.sequencer.members().word(AttachmentId(id));
        let member = MemberId {
            id,
            generation: word.generation(),
        };
        if word.reader() == ReaderState::Evicted
            && self.directory.has(member)
            && self.evictions.insert(member, word.evictions()) != Some(word.evictions())
        {
            self.enqueue(Record::Evicted { member }, Then::Nothing);
        }
    }

    fn drop_client(&mut self, n: u64) -> Option<Client> {
        let client = self.clients.remove(&n)?;
        if let Some(channel) = &client.channel {
            let _ = self.poller.remove(channel.as_fd());
        }
        if let Some(pidfd) = &client.pidfd {
            let _ = self.poller.remove(pidfd.as_fd());
        }
        Some(client)
    }

    fn remove(&mut self, n: u64, departure: Departure, acknowledged: bool) {
        let Some(client) = self.drop_client(n) else { return };
        if let Some(member) = client.member {
            if !acknowledged {
                self.shared
                    .mourn(member, client.pidfd.as_ref().and_then(|fd| fd.try_clone().ok()));
            }
            self.retire(member, Some(client), departure, acknowledged);
        }
    }

    /// Member word first, record second: no frame of the departed has a stamp above its record.
    fn retire(&mut self, member: MemberId, client: Option<Client>, departure: Departure, acknowledged: bool) {
        if self.is_fenced() {
            return;
        }
        self.set_word(member, |w| {
            w.with_attach(AttachState::Departed)
                .with_reader(ReaderState::None)
        });
        self.shared.sequencer.sleepers().forget(AttachmentId(member.id));
        self.shared.release_space();
        let address = self
            .shared
            .sequencer
            .members()
            .read(AttachmentId(member.id))
            .address;
        let then = Then::Departed {
            member,
            client: client.map(Box::new),
            acknowledged,
        };
        self.enqueue(
            Record::Departed {
                member,
                address,
                departure,
            },
            then,
        );
    }

    fn is_fenced(&self) -> bool {
        self.shared.sequencer.term().0 != self.term
    }

    /// Publishes what is queued, and looks after what has to be looked after.
    pub fn tick(&mut self) -> core::result::Result<(), Fenced> {
        if self.is_fenced() {
            return Err(Fenced);
        }
        self.blocked = false;
        while let Some((record, then)) = self.queue.pop_front() {
            let published = match &record {
                Some(record) => self.publish(record),
                None => Ok(0),
            };
            match published {
                Ok(stamp) => self.act(then, stamp),
                Err(PublishError::Full(full)) => {
                    self.queue.push_front((record, then));
                    if !self.relieve(&full) {
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
        if let Some(socket) = &mut self.socket {
            if socket.restore() && self.listening {
                self.listening = false;
            }
            if !self.listening {
                self.listening = self
                    .poller
                    .add(socket.listener.as_fd(), LISTENER, Interest::READ)
                    .is_ok();
            }
        }
        let gone: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| match c.member {
                Some(member) => c.channel.is_none() && self.word(member).attach() != AttachState::Live,
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
            || self
                .clients
                .values()
                .any(|c| c.channel.is_none() || c.member.is_none());
        self.next_housekeeping = Instant::now() + if waiting { HOUSEKEEPING } else { SELF_CHECK };
    }

    /// A full ring: wakes whoever may hold it in its sleep, and takes the place of who has held it too long.
    fn relieve(&mut self, full: &Full) -> bool {
        self.shared
            .wake(shm_bus_ring::Bucket::MIXED, full.stamp, &mut self.waker);
        let shared = self.shared.clone();
        self.stall
            .relieve(&shared, full, lock(&shared.control_lane).gate())
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

    fn put_in_order(&mut self, record: &Record) -> core::result::Result<u64, PublishError<Fenced>> {
        let shared = self.shared.clone();
        let sequencer = &shared.sequencer;
        let mut lane = lock(&shared.control_lane);
        let mut peers = MappedPeers(&shared);
        let bytes = Stamped {
            term: self.term,
            record: record.clone(),
        }
        .encode();
        let loan = lane.loan(sequencer, &mut peers, bytes.len() as u64)?;
        lane.write(&loan, 0, &bytes);
        let message = Message {
            destinations: &[Address::EVERYONE],
            topic: 0,
            descriptors: 0,
            time: shm_bus_os::clock::monotonic_nanos(),
        };
        let frames = [(loan, Kind::Control, message, bytes.len() as u64)];
        let term = self.term;
        sequencer.announce_control(term);
        // I-TERM: after the slot was found and before each swap, or a master that was stopped in between could admit
        // somebody in a term that is not its own.
        let fenced = |_| {
            if sequencer.term().0 == term {
                Ok(())
            } else {
                Err(Fenced)
            }
        };
        match lane.publish(sequencer, &mut peers, shared.owner(), &frames, fenced) {
            Ok(published) => {
                if let Some(bucket) = published.wake {
                    shared.wake(bucket, published.stamp.0 + 1, &mut self.waker);
                }
                Ok(published.stamp.0)
            }
            Err(error) => {
                let [(loan, ..)] = frames;
                lane.abandon(loan);
                Err(error)
            }
        }
    }

    fn act(&mut self, then: Then, stamp: u64) {
        if let Some(client) = then.client().and_then(|n| self.clients.get_mut(&n)) {
            client.pending -= 1;
        }
        match then {
            Then::Nothing => {}
            Then::Welcome { client } => self.welcome(client),
            Then::Opened {
                client,
                request,
                names,
            } => {
                let addresses = names
                    .iter()
                    .filter_map(|n| self.directory.group_named(n))
                    .map(|a| a.0)
                    .collect();
                self.reply(client, &Reply::Opened { request, addresses });
            }
            Then::Joined { client, request } => {
                let attached = self
                    .directory
                    .members()
                    .map(|(member, m)| (member, m.address))
                    .collect();
                self.reply(
                    client,
                    &Reply::Joined {
                        request,
                        stamp,
                        term: self.term,
                        master: self.shared.member.id,
                        attached,
                    },
                );
            }
            Then::Left { client, request } => self.reply(client, &Reply::Left { request }),
            Then::Departed {
                member,
                client,
                acknowledged,
            } => {
                let mut pidfd = None;
                if let Some(mut client) = client {
                    if acknowledged {
                        client.send(wire::encode(&Reply::Goodbye), Attachments::None);
                    }
                    pidfd = client.pidfd;
                }
                self.evictions.remove(&member);
                self.retired.push(Retired {
                    member,
                    stamp,
                    acknowledged,
                    pidfd,
                });
                self.next_housekeeping = self.next_housekeeping.min(Instant::now() + HOUSEKEEPING);
            }
        }
    }

    /// The members that have been told so.
    fn welcomed(&self) -> Vec<u64> {
        self.clients
            .iter()
            .filter(|(_, c)| c.welcomed)
            .map(|(n, _)| *n)
            .collect()
    }

    fn welcome(&mut self, n: u64) {
        let Some(client) = self.clients.get_mut(&n) else {
            return;
        };
        let Some(member) = client.member else { return };
        client.welcomed = true;
        self.set_word(member, |w| w.with_attach(AttachState::Live));
        let address = self.directory.address_of(member.id).unwrap_or(Address::MASTER).0;
        let fds = self
            .shared
            .sequencer_fd
            .try_clone()
            .and_then(|s| Ok(vec![s, self.memory.fd().try_clone_to_owned()?]));
        match fds {
            Ok(fds) => self.send(
                n,
                wire::with_greeting(&Reply::Welcome {
                    member,
                    address,
                    term: self.term,
                }),
                Attachments::Owned(fds),
            ),
            Err(error) => {
                let why = duplicate_failed(&error).to_string();
                self.send(n, wire::with_greeting(&Reply::Refused { why }), Attachments::None);
                self.remove(n, Departure::Closed, true);
                return;
            }
        }
        self.send_all_rings(n, member);
    }

    /// Frees the ids whose last frame every reader has passed and whose owner is known to be gone.
    fn reuse(&mut self) {
        if self.retired.is_empty() {
            return;
        }
        let Ok(found) = self.shared.sequencer.find() else {
            return;
        };
        let mut gate = shm_bus_ring::Gate::default();
        gate.scan(
            &self.shared.sequencer,
            found.stamp,
            &mut MappedPeers(&self.shared),
        );
        let (free, kept) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition::<Vec<_>, _>(|r| r.stamp < gate.cached() && r.is_gone());
        self.retired = kept;
        for Retired { member, .. } in free {
            self.set_word(member, |w| w.with_attach(AttachState::Free));
            self.shared.peers.remove(member);
            for n in self.welcomed() {
                if let Some(client) = self.clients.get_mut(&n) {
                    client.forget(member, wire::encode(&Reply::Forget { member }));
                }
                self.push(n);
            }
        }
    }

    /// Leaves the role. The others take over when their channels close; the successor publishes this attachment's
    /// departure, which its member word says first.
    pub fn resign(mut self) {
        let start = Instant::now();
        // What was asked before is still done.
        while !self.queue.is_empty() && start.elapsed() < PATIENCE && self.tick().is_ok() {
            if self.blocked {
                std::thread::sleep(RETRY);
            }
        }
        self.shared.depart();
        for client in self.clients.values_mut() {
            client.flush();
        }
    }
}

fn is_group_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_GROUP_NAME && !name.chars().any(char::is_control)
}

/// Why a directory entry cannot be had is decided before anything is published, so the error type stays the bus's.
impl From<Fenced> for BusError {
    fn from(_: Fenced) -> Self {
        BusError::Closed
    }
}
