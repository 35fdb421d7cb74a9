//! What the threads of one attachment share: the memories, the channel to the master, and who waits for its answers.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, OsError, Received, Sent, Word, clock, process};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Lane, LaneKind, MemberWord, Ordering as Memory,
    Owner, Peers, Policy, ReaderState, Sequencer, SleepKind, View, fence,
};

use crate::directory_memory::DirectoryReader;
use crate::error::{BusError, Result};
use crate::payload_memory::{OwnMemory, PeerMemory};
use crate::peers::PeerTable;
use crate::record::MemberId;
use crate::wire::{self, Failure, MAX_DATAGRAM, Reply, Request};

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
    memberships: Mutex<BTreeMap<u64, u32>>,
    sleeping: Mutex<Sleeping>,
    /// Held while a subscription joins or leaves, so that the master hears of them in the order they were decided.
    pub joining: Mutex<()>,
    /// The headers and cells of the master's role, kept for a second reign.
    pub control_lane: Mutex<Lane>,
    /// The term of the master that the channel leads to.
    known_term: AtomicU64,
    /// Processes whose channel closed while their member word said that they were there: they are dying.
    dying: Mutex<Vec<OwnedFd>>,
}

/// Who of this attachment sleeps, and for what.
#[derive(Default)]
struct Sleeping {
    blocked: Vec<BucketSet>,
    armed: Option<BucketSet>,
}

/// Positions of the counting subscriptions; the cursor is the smallest.
#[derive(Default)]
struct Positions {
    by_subscription: BTreeMap<u32, u64>,
    /// How often this attachment had been evicted when these were taken: an eviction ends all of them at once.
    evictions: u8,
}

/// Everything [`Shared::new`] puts together.
pub(crate) struct Parts {
    pub name: String,
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
            dying: Mutex::default(),
            own: parts.own,
        };
        // One sees oneself as the others do.
        let dup = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| duplicate_failed(&e));
        let (fd, eventfd) = (dup(shared.own.fd.as_fd())?, dup(shared.own.eventfd.as_fd())?);
        shared.peers.insert(PeerMemory::open(shared.member, fd, eventfd)?);
        Ok(shared)
    }

    pub fn owner(&self) -> Owner {
        Owner {
            id: AttachmentId(self.member.id),
            generation: self.member.generation,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From now on every call says [`BusError::Closed`]; whoever waits is told at once.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        lock(&self.requests).clear();
        // Whoever sleeps has to hear of it: the event loop, and blocked threads.
        let _ = self.own.eventfd.signal();
        let _ = self.hint_word.wake(u32::MAX, u32::MAX);
    }

    pub fn said_goodbye(&self) -> bool {
        self.said_goodbye.load(Ordering::Acquire)
    }

    pub fn channel(&self) -> Arc<Channel> {
        lock(&self.channel).clone()
    }

    pub fn replace_channel(&self, channel: Channel) {
        *lock(&self.channel) = Arc::new(channel);
    }

    /// Reads what the master has sent. Called by the control thread when there is something, and by a publisher that
    /// misses a ring which must be in the socket by now.
    pub fn drain(&self) -> Result<Link> {
        let mut buffer = lock(&self.receive);
        let channel = self.channel();
        loop {
            match channel.recv(&mut buffer) {
                Ok(Received::Message { len, fds, .. }) => {
                    if let Some(reply) = wire::decode(&buffer[..len]) {
                        self.handle(reply, fds);
                    }
                }
                Ok(Received::Empty) => return Ok(Link::Up),
                Ok(Received::Closed) => return Ok(Link::Down),
                Err(error) if error.is_disconnected() => return Ok(Link::Down),
                // Cut off, because this process has no descriptors left: what is missing is asked for again.
                Err(error) if error.errno().is_none() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn handle(&self, reply: Reply, fds: Vec<OwnedFd>) {
        match reply {
            Reply::Ring { member } => {
                let mut fds = fds.into_iter();
                if let (Some(fd), Some(eventfd)) = (fds.next(), fds.next()) {
                    // A memory that fails its checks is its owner's loss: its frames are refused as an unknown sender's.
                    if let Ok(memory) = PeerMemory::open(member, fd, eventfd) {
                        self.peers.insert(memory);
                        fence(Memory::SeqCst);
                        if self.missed_wakes.load(Ordering::Relaxed)
                            && let Some(peer) = self.peers.get(member)
                        {
                            let _ = peer.eventfd().signal();
                        }
                    }
                }
            }
            Reply::Forget { member } => self.peers.remove(member),
            Reply::Directory { term } => {
                if let Some(reader) = fds.first().and_then(|fd| DirectoryReader::open(fd.as_fd()).ok()) {
                    self.follow(term, reader);
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
            Reply::Welcome { .. } | Reply::Refused { .. } => {}
        }
    }

    /// Follows the master of `term`: reads its directory from here on, and lets go of what its predecessor could no
    /// longer call in.
    pub fn follow(&self, term: u64, directory: DirectoryReader) {
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
        if word.generation() == member.generation && word.attach() == AttachState::Live {
            let mut dying = lock(&self.dying);
            dying.retain(|pidfd| !process::is_dead(pidfd.as_fd()).unwrap_or(true));
            dying.extend(pidfd);
        }
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
            let slice = if self.tell(&make(request)) {
                Duration::from_millis(500)
            } else {
                Duration::from_millis(1)
            };
            let left = timeout.saturating_sub(start.elapsed());
            let answered = answer.recv_timeout(slice.min(left));
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
            }
            found
        })
    }

    /// The stamp that comes next, as far as can be told: the hint may lag behind it while nobody sleeps.
    pub fn tail(&self) -> u64 {
        self.sequencer
            .find()
            .map_or_else(|_| self.sequencer.hint(), |found| found.stamp)
    }

    /// Wakes whoever sleeps and is concerned. The hint goes first, past the stamp.
    pub fn wake(&self, bucket: Bucket, tail: u64, waker: &mut Waker) {
        self.sequencer.raise_hint(tail);
        let sleepers = self.sequencer.sleepers();
        let futex_bits = bucket.futex_bits();
        let mut blocked = false;
        for word in 0..self.sequencer.members().high().div_ceil(64) {
            let mut bits = sleepers.concerned(bucket, word);
            if bits == 0 {
                continue;
            }
            // SYNC kind: a sleeper says how it sleeps before it says that it does, so the kind is looked at after.
            fence(Memory::Acquire);
            let pollers = sleepers.pollers(word);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let id = AttachmentId((word * 64) as u16 + bit as u16);
                let generation = self.sequencer.members().word(id).generation();
                let member = MemberId { id: id.0, generation };
                let peer = self.peers.get(member).or_else(|| {
                    // A newcomer publishes before it has everyone's eventfd: who cannot be woken now is woken when
                    // its memory comes.
                    self.missed_wakes.store(true, Ordering::Relaxed);
                    fence(Memory::SeqCst);
                    self.memory_of(member)
                });
                let Some(peer) = peer else {
                    blocked = true;
                    continue;
                };
                let by_eventfd = pollers >> bit & 1 != 0;
                // One wake a sleep: the sleeper counts its sleeps in its own page (SYNC sleep orders the count before
                // its last look, so an old count means that look has seen this frame). A futex wake reaches those
                // whose bitset has this bucket's bit, and only that bit is remembered.
                let epoch = peer.view().load(payload::SLEEP_EPOCH, Memory::Acquire);
                if waker.is_new(
                    id,
                    generation,
                    epoch,
                    if by_eventfd { u32::MAX } else { futex_bits },
                ) {
                    if by_eventfd {
                        // Full or closed: it is awake or gone.
                        let _ = peer.eventfd().signal();
                    } else {
                        blocked = true;
                    }
                }
            }
        }
        if blocked {
            let _ = self.hint_word.wake(u32::MAX, futex_bits);
        }
    }

    /// Announces a sleep: counts it, sets the sleeper's bits, and gives the value of the hint to sleep on. The caller
    /// looks once more before it sleeps.
    pub fn fall_asleep(&self, buckets: &BucketSet, kind: SleepKind) -> u32 {
        let mut sleeping = lock(&self.sleeping);
        match kind {
            SleepKind::Futex => sleeping.blocked.push(*buckets),
            SleepKind::EventFd => sleeping.armed = Some(*buckets),
        }
        // The id may be another's by now, and then so are its bits. One that is closed was woken before it slept.
        if self.own_word().is_none() {
            let _ = self.own.eventfd.signal();
            return (self.sequencer.hint() as u32).wrapping_sub(1);
        }
        self.own.region.count(payload::SLEEP_EPOCH, 1);
        self.sequencer.sleepers().enter(self.owner().id, buckets, kind);
        self.sequencer.hint() as u32
    }

    /// Takes the announcement back. What other threads of this attachment sleep for stays.
    pub fn wake_up(&self, buckets: &BucketSet, kind: SleepKind) {
        let mut sleeping = lock(&self.sleeping);
        match kind {
            SleepKind::Futex => {
                if let Some(index) = sleeping.blocked.iter().position(|b| b == buckets) {
                    sleeping.blocked.swap_remove(index);
                }
            }
            SleepKind::EventFd => sleeping.armed = None,
        }
        // The id may be another's by now, and then so are its bits.
        if self.own_word().is_none() {
            return;
        }
        let others: Vec<BucketSet> = sleeping.blocked.iter().chain(&sleeping.armed).copied().collect();
        let sleepers = self.sequencer.sleepers();
        sleepers.leave(self.owner().id, buckets, &others);
        if kind == SleepKind::Futex
            && sleeping.blocked.is_empty()
            && let Some(armed) = sleeping.armed
        {
            // A blocked thread has made this attachment one that is woken by the futex: back to the event loop, which
            // looks once more for what came meanwhile.
            sleepers.enter(self.owner().id, &armed, SleepKind::EventFd);
            let _ = self.own.eventfd.signal();
        }
    }

    /// Whether a thread of this attachment is blocked in a wait.
    pub fn has_sleepers(&self) -> bool {
        !lock(&self.sleeping).blocked.is_empty()
    }

    /// Announces (or takes back) that this attachment waits for space.
    pub fn want_space(&self, waiting: bool) {
        let _sleeping = lock(&self.sleeping);
        if self.own_word().is_some() {
            self.sequencer.wait_for_space(self.owner().id, waiting);
        }
    }

    /// Says in the member word that this attachment is gone: no frame of it follows. Word first, record second; the
    /// record is the role-holder's.
    pub fn depart(&self) {
        // Held, so that no thread of this attachment touches the bits of an id that may be another's behind this.
        let _sleeping = lock(&self.sleeping);
        let owner = self.owner();
        while let Some(word) = self.own_word() {
            let gone = word
                .with_attach(AttachState::Departed)
                .with_reader(ReaderState::None);
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

    /// Stores a subscription's position and with it the cursor. Publishers that wait for space are woken. Nothing
    /// happens for a subscription that is closed, or from before an eviction.
    pub fn advance(&self, subscription: u32, evictions: u8, position: u64) {
        let mut positions = lock(&self.positions);
        if positions.evictions == evictions
            && let Some(held) = positions.by_subscription.get_mut(&subscription)
        {
            *held = position;
            self.store_cursor(&positions);
        }
    }

    /// A new subscription, holding the cursor where it is until its own position is known. Gives its number and the
    /// count of evictions that it belongs to.
    pub fn reserve_position(&self) -> (u32, u8) {
        let number = self.next_subscription.fetch_add(1, Ordering::Relaxed) as u32;
        let evictions = self.own_word().map_or(0, MemberWord::evictions);
        let mut positions = lock(&self.positions);
        if positions.evictions != evictions {
            *positions = Positions {
                evictions,
                ..Positions::default()
            };
        }
        // Below its start whatever happens: the floor that the role stores holds it up.
        let cursor = self.own.region.load(payload::CURSOR, Memory::Relaxed);
        positions.by_subscription.insert(number, cursor);
        (number, evictions)
    }

    /// Takes a subscription out; `true` if it was the last.
    pub fn release_position(&self, subscription: u32) -> bool {
        let mut positions = lock(&self.positions);
        let counted = positions.by_subscription.remove(&subscription).is_some();
        self.store_cursor(&positions);
        counted && positions.by_subscription.is_empty()
    }

    fn store_cursor(&self, positions: &Positions) {
        let Some(cursor) = positions.by_subscription.values().min() else {
            return;
        };
        if self.own.region.load(payload::CURSOR, Memory::Relaxed) == *cursor {
            return;
        }
        // SYNC release: everything read below the cursor happened before a publisher sees it.
        self.own.region.store(payload::CURSOR, *cursor, Memory::Release);
        // SYNC space: the cursor before the look at who waits.
        fence(Memory::SeqCst);
        if self.sequencer.space_wanted() {
            self.release_space();
        }
    }

    /// Wakes every publisher that waits for space.
    pub fn release_space(&self) {
        self.sequencer.release_space();
        let _ = self.space_word.wake(u32::MAX, u32::MAX);
        for word in 0..self.sequencer.members().high().div_ceil(64) {
            let mut bits = self.sequencer.space_waiters(word);
            while bits != 0 {
                let id = (word * 64) as u16 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                let generation = self.sequencer.members().word(AttachmentId(id)).generation();
                if let Some(peer) = self.memory_of(MemberId { id, generation }) {
                    let _ = peer.eventfd().signal();
                }
            }
        }
    }

    /// Takes the place of a reader whose time is up, as its own policy says. `true` if it did.
    pub fn evict(&self, id: AttachmentId, word: MemberWord) -> bool {
        if word.reader() != ReaderState::Live || word.policy() == Policy::Pinned {
            return false;
        }
        let evicted = word.with_reader(ReaderState::Evicted).with_eviction();
        if self.sequencer.members().exchange(id, word, evicted).is_err() {
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

/// What a publishing thread remembers of its wakes: the last sleep of each attachment that it has ended.
#[derive(Default)]
pub(crate) struct Waker {
    last: Vec<Woken>,
}

#[derive(Clone, Copy, Default)]
struct Woken {
    generation: u32,
    epoch: u64,
    /// The futex bits that were woken; all of them by an eventfd.
    bits: u32,
}

impl Waker {
    fn is_new(&mut self, id: AttachmentId, generation: u32, epoch: u64, bits: u32) -> bool {
        if self.last.len() <= id.index() {
            self.last.resize(id.index() + 1, Woken::default());
        }
        let woken = &mut self.last[id.index()];
        if (woken.generation, woken.epoch) != (generation, epoch) {
            *woken = Woken {
                generation,
                epoch,
                bits: 0,
            };
        }
        let new = bits & !woken.bits != 0;
        woken.bits |= bits;
        new
    }
}

/// The pages a gate is computed from.
pub(crate) struct MappedPeers<'a>(pub &'a Shared);

impl Peers for MappedPeers<'_> {
    fn page(&mut self, id: AttachmentId, generation: u32) -> Option<View> {
        self.0
            .memory_of(MemberId { id: id.0, generation })
            .map(|m| m.view().clone())
    }
}

pub(crate) fn duplicate_failed(error: &std::io::Error) -> BusError {
    let what = "duplicating a file descriptor (their limit is ulimit -n)";
    OsError::of_std("fcntl(F_DUPFD_CLOEXEC)", what, error).into()
}

fn failed(failure: Failure) -> BusError {
    match failure {
        Failure::Limit { limit, .. } => BusError::Limit {
            what: "groups",
            limit,
        },
        Failure::NotYours { address } => BusError::Refused {
            why: format!(
                "the address {} is neither a group nor this attachment's own",
                Address(address)
            ),
        },
        Failure::Name { name } => BusError::InvalidName {
            what: "group",
            name,
            why: "it must have 1 to 200 bytes and no control characters",
        },
    }
}

/// Which addresses this attachment's subscriptions want, and how many of them each.
impl Shared {
    pub fn count_memberships(&self, addresses: &[Address]) {
        let mut memberships = lock(&self.memberships);
        for address in addresses {
            *memberships.entry(address.0).or_default() += 1;
        }
    }

    /// Gives the addresses that nobody wants any more.
    pub fn uncount_memberships(&self, addresses: &[Address]) -> Vec<Address> {
        let mut memberships = lock(&self.memberships);
        let mut gone = Vec::new();
        for address in addresses {
            if let Some(count) = memberships.get_mut(&address.0) {
                *count -= 1;
                if *count == 0 {
                    memberships.remove(&address.0);
                    gone.push(*address);
                }
            }
        }
        gone
    }
}
