//! What the threads of one attachment share: the memories, the channel to the master, and who waits for its answers.

mod positions;
mod reign;
mod wake;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, EventFd, Listener, Name, OsError, Received, Sent, Word, clock, process};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Lane, LaneKind, MemberWord, Ordering as Memory,
    Owner, Peers, ReaderState, Sequencer, SleepKind, View, fence,
};

use self::positions::Positions;
use self::reign::News;
pub(crate) use self::reign::Reign;
use self::wake::Sleeping;
use crate::directory_memory::DirectoryReader;
use crate::error::{BusError, Result, duplicate_failed};
use crate::payload_memory::{OwnMemory, PeerMemory};
use crate::peers::PeerTable;
use crate::record::MemberId;
use crate::socket::Socket;
use crate::wire::{self, Failure, MAX_DATAGRAM, Reply, Request, WirePolicy};

/// An answer that takes longer makes one ask whether the master is there.
const PROMPT: Duration = Duration::from_millis(20);
/// How long before a request is sent once more to a master that is there.
const REPEAT: Duration = Duration::from_millis(500);
/// How long before a request is sent once more that could not be sent.
const AGAIN: Duration = Duration::from_millis(1);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of a look into the channel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// End of file: the master is gone or has let this attachment go.
    Down,
}

pub(crate) struct Shared {
    pub name: String,
    /// Where the bus's socket is found.
    pub place: Name,
    pub sequencer: Sequencer,
    pub hint_word: Word,
    pub space_word: Word,
    pub own: OwnMemory,
    pub member: MemberId,
    pub address: Address,
    /// Number of the application's protocol: what a newcomer must speak, should this attachment hold the role.
    pub protocol: u32,
    pub peers: PeerTable,
    pub directory: RwLock<DirectoryReader>,
    /// The descriptors that a successor has to hand on.
    pub sequencer_fd: OwnedFd,
    /// The channel to the master. Replaced by the control thread after a take-over.
    channel: Mutex<Arc<Channel>>,
    receive: Mutex<Box<[u8]>>,
    requests: Mutex<HashMap<u64, SyncSender<Reply>>>,
    next_request: AtomicU64,
    /// Set once: no more publishing, reading or asking.
    closed: AtomicBool,
    said_goodbye: AtomicBool,
    /// Set once somebody could not be woken because its memory was not here yet.
    missed_wakes: AtomicBool,
    positions: Mutex<Positions>,
    /// Monotonic milliseconds of the last request for a missing memory.
    asked_at: AtomicU64,
    next_subscription: AtomicU64,
    memberships: Mutex<BTreeMap<(u64, bool), u32>>,
    sleeping: Mutex<Sleeping>,
    /// Held while a subscription joins or leaves, so that the master hears of them in the order they were decided.
    pub joining: Mutex<()>,
    /// The headers and cells of the master's role, kept for a second reign.
    pub control_lane: Mutex<Lane>,
    /// The term of the master that the channel leads to.
    known_term: AtomicU64,
    reign: Mutex<Reign>,
    news: News,
    /// Wakes the control thread.
    pub control: EventFd,
    /// Processes whose channel closed while their member word said that they were there: they are dying.
    dying: Mutex<Vec<OwnedFd>>,
}

/// Everything [`Shared::new`] puts together.
pub(crate) struct Parts {
    pub name: String,
    pub place: Name,
    pub sequencer: Sequencer,
    pub sequencer_fd: OwnedFd,
    pub hint_word: Word,
    pub space_word: Word,
    pub own: OwnMemory,
    pub member: MemberId,
    pub address: Address,
    pub protocol: u32,
    pub directory: DirectoryReader,
    pub channel: Channel,
    pub term: u64,
}

impl Shared {
    pub fn new(parts: Parts) -> Result<Self> {
        let shared = Shared {
            name: parts.name,
            place: parts.place,
            sequencer: parts.sequencer,
            hint_word: parts.hint_word,
            space_word: parts.space_word,
            member: parts.member,
            address: parts.address,
            protocol: parts.protocol,
            peers: PeerTable::default(),
            directory: RwLock::new(parts.directory),
            sequencer_fd: parts.sequencer_fd,
            channel: Mutex::new(Arc::new(parts.channel)),
            receive: Mutex::new(vec![0; MAX_DATAGRAM].into()),
            requests: Mutex::default(),
            next_request: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            said_goodbye: AtomicBool::new(false),
            missed_wakes: AtomicBool::new(false),
            positions: Mutex::default(),
            asked_at: AtomicU64::new(0),
            next_subscription: AtomicU64::new(1),
            memberships: Mutex::default(),
            sleeping: Mutex::default(),
            joining: Mutex::default(),
            control_lane: Mutex::new(Lane::new(
                parts.own.region.clone(),
                parts.own.geometry,
                LaneKind::Control,
            )),
            known_term: AtomicU64::new(parts.term),
            reign: Mutex::default(),
            news: News::default(),
            control: EventFd::new()?,
            dying: Mutex::default(),
            own: parts.own,
        };
        // One sees oneself as the others do.
        let dup = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| duplicate_failed(&e));
        let (fd, bell) = (dup(shared.own.fd.as_fd())?, shared.own.bell.to_give()?);
        shared.peers.insert(PeerMemory::open(shared.member, fd, bell)?);
        Ok(shared)
    }

    pub fn owner(&self) -> Owner {
        Owner { id: AttachmentId(self.member.id), generation: self.member.generation }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From now on every call says [`BusError::Closed`]; whoever waits is told at once.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        lock(&self.requests).clear();
        // Whoever sleeps has to hear of it: the event loop, blocked threads and the control thread.
        self.rouse();
        let _ = self.own.bell.ring();
        let _ = self.hint_word.wake(u32::MAX, u32::MAX);
    }

    pub fn said_goodbye(&self) -> bool {
        self.said_goodbye.load(Ordering::Acquire)
    }

    pub fn channel(&self) -> Arc<Channel> {
        lock(&self.channel).clone()
    }

    /// Follows another channel. Whoever waits for an answer on the former one asks again.
    pub fn replace_channel(&self, channel: Channel) {
        *lock(&self.channel) = Arc::new(channel);
        lock(&self.requests).clear();
    }

    /// Reads what the master has sent. Called by the control thread when there is something, and by a publisher that
    /// misses a ring which must be in the socket by now.
    pub fn drain(&self) -> Result<Link> {
        let mut buffer = lock(&self.receive);
        let channel = self.channel();
        loop {
            match channel.recv(&mut buffer) {
                Ok(Received::Message { len, fds, .. }) => {
                    self.hear();
                    if let Some(reply) = wire::decode(&buffer[..len]) {
                        self.handle(reply, fds);
                    }
                }
                Ok(Received::Empty) => return Ok(Link::Up),
                Ok(Received::Closed) => return Ok(Link::Down),
                Err(error) if error.is_disconnected() => return Ok(Link::Down),
                // Cut off, because this process has no descriptors left: what is missing is asked for again.
                Err(OsError::Truncated { .. }) => self.hear(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn handle(&self, reply: Reply, fds: Vec<OwnedFd>) {
        match reply {
            Reply::Ring { member } => {
                let mut fds = fds.into_iter();
                if let (Some(fd), Some(bell)) = (fds.next(), fds.next()) {
                    // A memory that fails its checks is its owner's loss: its frames are refused as an unknown sender's.
                    if let Ok(memory) = PeerMemory::open(member, fd, bell) {
                        self.peers.insert(memory);
                        fence(Memory::SeqCst);
                        if self.missed_wakes.load(Ordering::Relaxed)
                            && let Some(peer) = self.peers.get(member)
                        {
                            let _ = peer.ringer().ring();
                        }
                    }
                }
            }
            Reply::Forget { member } => self.forget(member),
            Reply::Directory { term } => {
                if let Some(reader) = fds.first().and_then(|fd| DirectoryReader::open(fd.as_fd()).ok()) {
                    self.follow(term, reader);
                }
            }
            Reply::Reign { term, inode } => {
                let mut fds = fds.into_iter();
                if let (Some(process), Some(listener)) = (fds.next(), fds.next())
                    && let Ok(listener) = Listener::from_fd(listener)
                {
                    let socket = Socket::inherited(&self.place, listener, inode);
                    self.set_reign(term, Arc::new(socket), Some(process));
                }
            }
            Reply::Opened { request, .. }
            | Reply::Joined { request, .. }
            | Reply::Left { request }
            | Reply::Failed { request, .. } => {
                if let Some(waiting) = lock(&self.requests).remove(&request) {
                    // Whoever asked may have stopped waiting.
                    let _ = waiting.try_send(reply);
                }
            }
            Reply::Goodbye => self.said_goodbye.store(true, Ordering::Release),
            // To one that presents itself again: it is no member any more.
            Reply::Refused { .. } => self.close(),
            Reply::Welcome { .. } | Reply::Pong => {}
        }
    }

    /// Follows the master of `term`: reads its directory from here on, and lets go of what its predecessor could no
    /// longer call in.
    pub fn follow(&self, term: u64, directory: DirectoryReader) {
        if term < self.known_term() {
            return;
        }
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
        self.known_term.store(term, Ordering::Release);
        self.peers.retain(|member| {
            let word = self.sequencer.members().word(AttachmentId(member.id));
            word.generation() == member.generation && word.attach() != AttachState::Free
        });
    }

    /// Remembers the process of a member that went without a word.
    pub fn mourn(&self, member: MemberId, pidfd: Option<OwnedFd>) {
        let word = self.sequencer.members().word(AttachmentId(member.id));
        let pidfd = pidfd.filter(|pidfd| !process::is_own(pidfd.as_fd()));
        if word.generation() == member.generation && word.attach() == AttachState::Live {
            self.let_the_dead_go();
            lock(&self.dying).extend(pidfd);
        }
    }

    /// Lets go of a member that is gone, with the memory and the process that it was known by.
    pub fn forget(&self, member: MemberId) {
        self.peers.remove(member);
        self.let_the_dead_go();
    }

    fn let_the_dead_go(&self) {
        lock(&self.dying).retain(|pidfd| !process::is_dead(pidfd.as_fd()).unwrap_or(true));
    }

    /// Waits until those are gone that went without a word: only then does the kernel let go of their locks.
    pub fn wait_for_dying(&self, patience: Duration) {
        let start = Instant::now();
        for pidfd in lock(&self.dying).drain(..) {
            let _ = process::wait_dead(pidfd.as_fd(), patience.saturating_sub(start.elapsed()));
        }
    }

    /// The term of the master that the channel leads to.
    pub fn known_term(&self) -> u64 {
        self.known_term.load(Ordering::Acquire)
    }

    /// Sends without waiting; `false` if the master's queue is full or it is gone.
    pub fn tell(&self, request: &Request) -> bool {
        matches!(self.channel().send(&wire::encode(request), &[]), Ok(Sent::Done))
    }

    /// Asks the master and waits for its answer. A request is asked again when the master dies meanwhile: all of them
    /// say the same thing twice without harm.
    pub fn ask(&self, timeout: Duration, make: impl Fn(u64) -> Request) -> Result<Reply> {
        let start = Instant::now();
        loop {
            if self.is_closed() {
                return Err(BusError::Closed);
            }
            let request = self.next_request.fetch_add(1, Ordering::Relaxed);
            let answer = self.expect(request);
            let told = self.tell(&make(request));
            let left = || timeout.saturating_sub(start.elapsed());
            let mut answered = answer.recv_timeout(if told { PROMPT } else { AGAIN }.min(left()));
            if answered == Err(RecvTimeoutError::Timeout) && start.elapsed() >= PROMPT {
                self.suspect();
                if told {
                    answered = answer.recv_timeout(REPEAT.min(left()));
                }
            }
            lock(&self.requests).remove(&request);
            match answered {
                Ok(Reply::Failed { failure, .. }) => return Err(failed(failure)),
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Disconnected) if self.is_closed() => return Err(BusError::Closed),
                Err(_) if start.elapsed() >= timeout => {
                    return Err(BusError::NoMaster {
                        name: self.name.clone(),
                        waited: timeout.as_millis() as u64,
                    });
                }
                Err(_) => {}
            }
        }
    }

    fn expect(&self, request: u64) -> Receiver<Reply> {
        let (sender, receiver) = sync_channel(1);
        lock(&self.requests).insert(request, sender);
        receiver
    }

    /// The memory of a member: from the table, or from the socket, where it must be before the member's attach record
    /// is in the order.
    pub fn memory_of(&self, member: MemberId) -> Option<Arc<PeerMemory>> {
        self.peers.get(member).or_else(|| {
            self.drain().ok()?;
            let found = self.peers.get(member);
            // Asked for at most once in a while: a publisher may look for it with every message.
            let (now, before) = (self.now_ms(), self.asked_at.load(Ordering::Relaxed));
            if found.is_none() && now.saturating_sub(before) >= 10 {
                self.asked_at.store(now, Ordering::Relaxed);
                self.tell(&Request::Ring { member });
                self.suspect();
            }
            found
        })
    }

    /// The stamp that comes next, as far as can be told: the hint may lag behind it while nobody sleeps.
    pub fn tail(&self) -> u64 {
        self.sequencer.find().map_or_else(|_| self.sequencer.hint(), |found| found.stamp)
    }

    /// Says in the member word that this attachment is gone: no frame of it follows. Word first, record second; the
    /// record is the role-holder's.
    pub fn depart(&self) {
        // Held, so that no thread of this attachment touches the bits of an id that may be another's behind this.
        let _sleeping = lock(&self.sleeping);
        let owner = self.owner();
        while let Some(word) = self.own_word() {
            let gone = word.with_attach(AttachState::Departed).with_reader(ReaderState::None);
            let _ = self.sequencer.members().exchange(owner.id, word, gone);
        }
        self.sequencer.sleepers().forget(owner.id);
        self.release_space();
    }

    /// This attachment's own member word, if it is still a live member.
    pub fn own_word(&self) -> Option<MemberWord> {
        let owner = self.owner();
        let word = self.sequencer.members().word(owner.id);
        (word.generation() == owner.generation && word.attach() == AttachState::Live).then_some(word)
    }

    /// Takes the place of a reader whose time is up, as its own policy says. `true` if it did.
    pub fn evict(&self, id: AttachmentId, word: MemberWord) -> bool {
        if !self.sequencer.members().evict(id, word) {
            return false;
        }
        self.release_space();
        self.tell(&Request::Evicted { id: id.0 });
        true
    }

    pub fn now_ms(&self) -> u64 {
        clock::monotonic_nanos() / 1_000_000
    }
}

/// The pages a gate is computed from.
pub(crate) struct MappedPeers<'a>(pub &'a Shared);

impl Peers for MappedPeers<'_> {
    fn page(&mut self, id: AttachmentId, generation: u32) -> Option<View> {
        self.0.memory_of(MemberId { id: id.0, generation }).map(|m| m.view().clone())
    }
}

fn failed(failure: Failure) -> BusError {
    match failure {
        Failure::Limit { limit, .. } => BusError::Limit { what: "groups", limit },
        Failure::NotYours { address } => BusError::Refused {
            why: format!("the address {} is neither a group nor this attachment's own", Address(address)),
        },
        Failure::Worn { evictions } => BusError::Refused {
            why: format!(
                "this attachment was evicted {evictions} times; read with overload 'lossy' or 'evict', or attach anew"
            ),
        },
        Failure::Name { name } => BusError::InvalidName {
            what: "group",
            name,
            why: "it must have 1 to 200 bytes and no control characters",
        },
    }
}
