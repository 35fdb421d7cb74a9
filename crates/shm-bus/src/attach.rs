//! Finding a bus, or founding it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{
    Access, Channel, Interest, LockFile, Mapping, Name, OsError, Poller, Received, RuntimeDir, Sealing, Sent,
    Word, memfd, probe, process, random,
};
use shm_bus_ring::layout::{LAYOUT_VERSION, sequencer_bytes};
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Geometry, MemberWord, Policy, ReaderState, Sequencer,
};

use crate::directory::Directory;
use crate::directory_memory::{DirectoryReader, DirectoryWriter};
use crate::error::{BusError, Result};
use crate::payload_memory::OwnMemory;
use crate::record::MemberId;
use crate::role::Role;
use crate::shared::{Parts, Shared};
use crate::socket::Socket;
use crate::wire::{self, MAX_DATAGRAM, Reply, Request};

/// Whether this attachment may found the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MasterMode {
    /// Join the bus, or found it if there is none.
    #[default]
    Auto,
    /// Join the bus; it is an error if there is none.
    Never,
    /// Found the bus; it is an error if there is one.
    Only,
}

/// How to attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// Whether this attachment may found the bus.
    pub master: MasterMode,
    /// Bytes of this attachment's payload ring: a power of two from 64 KiB to 8 GiB. The largest message is a quarter.
    pub ring_bytes: u64,
    /// Messages that this attachment may have in flight: a power of two from 64 to 32768.
    pub headers: u64,
    /// Slots of the order as a power of two (6 to 24), if this attachment founds the bus.
    pub log2_slots: u32,
    /// Where the bus's socket and lock file stand; the user's own runtime directory by default.
    pub runtime_directory: Option<PathBuf>,
    /// How long to wait for the master's answer.
    pub timeout: Duration,
    /// Number of the user's own protocol; the master's must be the same.
    pub protocol: u32,
}

impl Default for AttachOptions {
    fn default() -> Self {
        AttachOptions {
            master: MasterMode::Auto,
            ring_bytes: 4 << 20,
            headers: 1 << 14,
            log2_slots: Sequencer::DEFAULT_LOG2_SLOTS,
            runtime_directory: None,
            timeout: Duration::from_secs(5),
            protocol: 0,
        }
    }
}

/// An attachment ready to run.
pub(crate) struct Attached {
    pub shared: Arc<Shared>,
    pub poller: Arc<Poller>,
    pub role: Option<Role>,
    pub place: Place,
}

/// Where a bus is: its socket, and the lock that every attachment holds shared while it lives. Only who can take the
/// lock exclusively, when nobody is left, may found the bus or clear it away.
pub(crate) struct Place {
    pub socket: Name,
    lock_path: PathBuf,
    lock: LockFile,
}

const POLL: Duration = Duration::from_millis(1);
/// The longest name of a bus, in bytes.
pub const MAX_BUS_NAME: usize = 64;

fn check_name(name: &str) -> Result<()> {
    let bad = |why| Err(BusError::InvalidName { what: "bus", name: name.to_owned(), why });
    let plain = name.strip_prefix('@').unwrap_or(name);
    if plain.is_empty() {
        bad("it is empty")
    } else if name.len() > MAX_BUS_NAME {
        bad("it is longer than 64 bytes")
    } else if plain.contains('/') || plain == "." || plain == ".." {
        bad("it must not contain a slash or be a directory's name")
    } else if plain.chars().any(char::is_control) {
        bad("it must not contain control characters")
    } else {
        Ok(())
    }
}

impl Place {
    fn open(name: &str, options: &AttachOptions) -> Result<Self> {
        let directory =
            RuntimeDir::open(options.runtime_directory.as_deref()).map_err(BusError::RuntimeDirectory)?;
        let lock_path = directory.file(&format!("{name}.lock")).map_err(BusError::RuntimeDirectory)?;
        let socket = match name.strip_prefix('@') {
            // Abstract names are the whole machine's: the runtime directory keeps users and tests apart.
            Some(plain) => Name::Abstract(format!("shm-bus/{:x}/{plain}", fingerprint(&lock_path))),
            None => {
                Name::Path(directory.socket(&format!("{name}.sock")).map_err(BusError::RuntimeDirectory)?)
            }
        };
        let lock = LockFile::open(&lock_path)?;
        Ok(Place { socket, lock_path, lock })
    }

    fn reopen(&mut self) -> Result<()> {
        self.lock = LockFile::open(&self.lock_path)?;
        Ok(())
    }

    /// Clears away what the last attachment leaves behind.
    pub fn clear_if_last(self) {
        if self.lock.try_exclusive().unwrap_or(false) && self.lock.is_current().unwrap_or(false) {
            if let Name::Path(path) = &self.socket {
                let _ = std::fs::remove_file(path);
            }
            let _ = self.lock.unlink();
        }
    }
}

/// FNV-1a (Fowler, Noll, Vo) of a path: keeps abstract names of different runtime directories apart.
fn fingerprint(path: &std::path::Path) -> u64 {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Attaches to the bus `name`, founding it if there is none and the options allow.
pub(crate) fn attach(name: &str, options: &AttachOptions) -> Result<Attached> {
    check_name(name)?;
    let geometry = Geometry::new(options.headers, options.ring_bytes)?;
    if !Sequencer::LOG2_SLOTS.contains(&options.log2_slots) {
        let why = "must be a power of two from 64 to 16777216".to_owned();
        return Err(BusError::InvalidOption { option: "slots", why });
    }
    probe::require().map_err(BusError::Unsupported)?;
    let mut place = Place::open(name, options)?;
    match attach_at(name, &mut place, geometry, options) {
        Ok((shared, poller, role)) => Ok(Attached { shared, poller, role, place }),
        Err(error) => {
            place.clear_if_last();
            Err(error)
        }
    }
}

type Parted = (Arc<Shared>, Arc<Poller>, Option<Role>);

fn attach_at(name: &str, place: &mut Place, geometry: Geometry, options: &AttachOptions) -> Result<Parted> {
    let mut own = Some(OwnMemory::create(geometry)?);
    let deadline = Instant::now() + options.timeout;
    let too_late =
        || BusError::NoMaster { name: name.to_owned(), waited: options.timeout.as_millis() as u64 };
    loop {
        // While this attachment holds the lock, shared, the bus cannot be founded anew under its hands.
        if place.lock.try_shared()? && place.lock.is_current()? {
            match Channel::connect(&place.socket) {
                Ok(_) if options.master == MasterMode::Only => {
                    return Err(BusError::Exists { name: name.to_owned() });
                }
                Ok(channel) => {
                    let memory = own.take().map_or_else(|| OwnMemory::create(geometry), Ok)?;
                    match join(name, channel, memory, options, deadline) {
                        Ok(shared) => {
                            return Ok((Arc::new(shared), Arc::new(Poller::new()?), None));
                        }
                        Err(Joining::Failed(error)) => return Err(error),
                        // The master left before it answered: somebody takes over, or nobody is there.
                        Err(Joining::Hangup(memory)) => own = Some(memory),
                    }
                }
                Err(error) if is_nobody(&error) => {
                    if place.lock.try_exclusive()? && place.lock.is_current()? {
                        if options.master == MasterMode::Never {
                            return Err(BusError::NotFound { name: name.to_owned() });
                        }
                        let memory = own.take().map_or_else(|| OwnMemory::create(geometry), Ok)?;
                        return found(name, place, memory, options);
                    }
                }
                Err(error) if error.errno() == Some(EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        } else if !place.lock.is_current()? {
            place.reopen()?;
        }
        if Instant::now() >= deadline {
            return Err(too_late());
        }
        std::thread::sleep(POLL);
    }
}

const EAGAIN: i32 = 11;

/// No socket file, or nobody listens behind it.
pub(crate) fn is_nobody(error: &OsError) -> bool {
    const ENOENT: i32 = 2;
    const ECONNREFUSED: i32 = 111;
    matches!(error.errno(), Some(ENOENT | ECONNREFUSED))
}

enum Joining {
    Failed(BusError),
    /// The memory is used for the next try: a master that has seen it before knows that its owner moved on.
    Hangup(OwnMemory),
}

impl<E: Into<BusError>> From<E> for Joining {
    fn from(error: E) -> Self {
        Joining::Failed(error.into())
    }
}

fn join(
    name: &str,
    channel: Channel,
    own: OwnMemory,
    options: &AttachOptions,
    deadline: Instant,
) -> core::result::Result<Shared, Joining> {
    let (ours, theirs) = (process::uid(), channel.peer()?.uid);
    if theirs != ours {
        let why = format!("the bus belongs to uid {theirs}, you are uid {ours}");
        return Err(BusError::Refused { why }.into());
    }
    let hello = wire::with_greeting(&Request::Hello { protocol: options.protocol });
    let bell = own.bell.to_give()?;
    match channel.send(&hello, &[own.fd.as_fd(), bell.as_fd()]) {
        Ok(Sent::Done) => {}
        Ok(Sent::Full) => return Err(Joining::Hangup(own)),
        Err(error) if error.is_disconnected() => return Err(Joining::Hangup(own)),
        Err(error) => return Err(error.into()),
    }
    let poller = Poller::new()?;
    poller.add(channel.as_fd(), 0, Interest::READ)?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    let (bytes, fds) = loop {
        match channel.recv(&mut buffer) {
            Ok(Received::Message { len, fds, .. }) => break (&buffer[..len], fds),
            Ok(Received::Empty) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let waited = options.timeout.as_millis() as u64;
                    return Err(BusError::NoMaster { name: name.to_owned(), waited }.into());
                }
                poller.wait(&mut Vec::new(), Some(left))?;
            }
            Ok(Received::Closed) => return Err(Joining::Hangup(own)),
            Err(error) if error.is_disconnected() => return Err(Joining::Hangup(own)),
            Err(error) => return Err(error.into()),
        }
    };
    let protocol = |why: &str| BusError::Protocol { why: why.to_owned() };
    match wire::greeted_version(bytes) {
        Some(LAYOUT_VERSION) => {}
        Some(theirs) => {
            return Err(BusError::Version { ours: LAYOUT_VERSION, theirs }.into());
        }
        None => return Err(protocol("the master answered without a greeting").into()),
    }
    match wire::decode(&bytes[wire::GREETING_BYTES..]) {
        Some(Reply::Welcome { member, address, term }) => {
            let [sequencer_fd, directory_fd] = <[OwnedFd; 2]>::try_from(fds)
                .map_err(|_| protocol("the master's welcome came without its memories"))?;
            let bytes = memfd::verify(
                sequencer_fd.as_fd(),
                Sealing::Shared,
                sequencer_bytes(*Sequencer::LOG2_SLOTS.end()),
            )?;
            let mapping = Arc::new(Mapping::shared(sequencer_fd.as_fd(), bytes as usize, Access::ReadWrite)?);
            let sequencer = Sequencer::open(mapping.region()?)?;
            let directory = DirectoryReader::open(directory_fd.as_fd())?;
            Ok(Shared::new(Parts {
                name: name.to_owned(),
                hint_word: Word::new(mapping.clone(), sequencer.hint_futex_offset() as usize)?,
                space_word: Word::new(mapping, sequencer.space_futex_offset() as usize)?,
                sequencer,
                sequencer_fd,
                own,
                member,
                address: Address(address),
                protocol: options.protocol,
                directory,
                channel,
                term,
            })?)
        }
        Some(Reply::Refused { why }) => Err(BusError::Refused { why }.into()),
        _ => Err(protocol("the master's answer is neither a welcome nor a refusal").into()),
    }
}

/// Founds the bus, holding its lock exclusively.
fn found(name: &str, place: &Place, own: OwnMemory, options: &AttachOptions) -> Result<Parted> {
    if own.geometry.header_count() > 1 << (options.log2_slots - 2) {
        let why = format!("must be at most a quarter of the {} slots", 1u64 << options.log2_slots);
        return Err(BusError::InvalidOption { option: "headers", why });
    }
    let bytes = sequencer_bytes(options.log2_slots);
    let sequencer_fd = memfd::create("shm-bus-sequencer", bytes)?;
    memfd::allocate(sequencer_fd.as_fd(), bytes)?;
    let mapping = Arc::new(Mapping::shared(sequencer_fd.as_fd(), bytes as usize, Access::ReadWrite)?);
    memfd::seal(sequencer_fd.as_fd(), Sealing::Shared)?;
    let sequencer = Sequencer::create(mapping.region()?, options.log2_slots, random::bits()?)?;
    let member = MemberId { id: 0, generation: 1 };
    let me = AttachmentId(member.id);
    let word = MemberWord::new(member.generation, AttachState::Live, ReaderState::None, Policy::Block, 0);
    sequencer.members().cover(me);
    let term = match (sequencer.members().exchange(me, MemberWord(0), word), sequencer.take_term((0, me), me))
    {
        (Ok(()), Ok(term)) => term,
        _ => {
            return Err(BusError::Protocol { why: "the fresh sequencer memory was not empty".into() });
        }
    };
    let memory = DirectoryWriter::create()?;
    memory.write(&Directory::new())?;
    let (channel, masters) = Channel::pair()?;
    let poller = Arc::new(Poller::new()?);
    let shared = Arc::new(Shared::new(Parts {
        name: name.to_owned(),
        hint_word: Word::new(mapping.clone(), sequencer.hint_futex_offset() as usize)?,
        space_word: Word::new(mapping, sequencer.space_futex_offset() as usize)?,
        sequencer,
        sequencer_fd,
        own,
        member,
        address: Address::MASTER,
        protocol: options.protocol,
        directory: DirectoryReader::open(memory.fd())?,
        channel,
        term,
    })?);
    // In the place of a dead master's, if there is one: nobody else holds the lock.
    let mut socket = Socket::prepare(&place.socket, term)?;
    socket.place()?;
    let role = Role::found(shared.clone(), memory, poller.clone(), masters)?.listen(socket)?;
    // From here on others may connect; the lock becomes the shared one of an attachment. It cannot fail: nobody else
    // founds while the socket answers, and whoever holds it exclusively for a look lets it go again.
    while !place.lock.try_shared()? {
        std::thread::sleep(POLL);
    }
    Ok((shared, poller, Some(role)))
}
