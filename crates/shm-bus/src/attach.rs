//! Finding a bus, or founding it.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{
    Access, Channel, LockFile, Mapping, Name, OsError, Poller, RuntimeDir, Sealing, Word, memfd, probe,
    random,
};
use shm_bus_ring::layout::sequencer_bytes;
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Geometry, MemberWord, Policy, ReaderState, Sequencer,
};

use crate::directory::Directory;
use crate::directory_memory::{DirectoryReader, DirectoryWriter};
use crate::error::{BusError, Result};
use crate::newcomer::{Joining, Newcomer};
use crate::payload_memory::{self, OwnMemory};
use crate::record::MemberId;
use crate::role::Role;
use crate::shared::{Parts, Shared};
use crate::socket::Socket;

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
    pub parted: Parted,
    pub place: Place,
}

/// The parts of it that its control thread is made of.
pub(crate) struct Parted {
    pub shared: Arc<Shared>,
    pub poller: Arc<Poller>,
    /// The master's role, if this attachment founded the bus.
    pub role: Option<Role>,
    /// How long the master took to answer.
    pub answered: Duration,
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
    let parted = OwnMemory::create(geometry).and_then(|own| {
        let region = own.region.clone();
        // A master that died meanwhile may have admitted it: its successor sees that nobody will come.
        attach_at(name, &mut place, own, options).inspect_err(|_| payload_memory::withdraw(&region))
    });
    match parted {
        Ok(parted) => Ok(Attached { parted, place }),
        Err(error) => {
            place.clear_if_last();
            Err(error)
        }
    }
}

fn attach_at(name: &str, place: &mut Place, mut own: OwnMemory, options: &AttachOptions) -> Result<Parted> {
    let socket = place.socket.clone();
    let deadline = Instant::now() + options.timeout;
    let newcomer = Newcomer { name, place: &socket, options, deadline };
    loop {
        // While this attachment holds the lock, shared, the bus cannot be founded anew under its hands.
        if place.lock.try_shared()? && place.lock.is_current()? {
            match Channel::connect(&place.socket) {
                Ok(_) if options.master == MasterMode::Only => {
                    return Err(BusError::Exists { name: name.to_owned() });
                }
                Ok(channel) => match newcomer.join(channel, own) {
                    Ok((shared, answered)) => {
                        let (shared, poller) = (Arc::new(shared), Arc::new(Poller::new()?));
                        return Ok(Parted { shared, poller, role: None, answered });
                    }
                    Err(Joining::Failed(error)) => return Err(error),
                    // The master left before it answered: somebody takes over, or nobody is there.
                    Err(Joining::Hangup(memory)) => own = memory,
                },
                Err(error) if is_nobody(&error) => {
                    if place.lock.try_exclusive()? && place.lock.is_current()? {
                        if options.master == MasterMode::Never {
                            return Err(BusError::NotFound { name: name.to_owned() });
                        }
                        return found(name, place, own, options);
                    }
                }
                Err(error) if is_backlog_full(&error) => {}
                Err(error) => return Err(error.into()),
            }
        } else if !place.lock.is_current()? {
            place.reopen()?;
        }
        if Instant::now() >= deadline {
            return Err(newcomer.too_late());
        }
        std::thread::sleep(POLL);
    }
}

/// More knock at the socket than it holds.
pub(crate) fn is_backlog_full(error: &OsError) -> bool {
    const EAGAIN: i32 = 11;
    error.errno() == Some(EAGAIN)
}

/// No socket file, or nobody listens behind it.
pub(crate) fn is_nobody(error: &OsError) -> bool {
    const ENOENT: i32 = 2;
    const ECONNREFUSED: i32 = 111;
    matches!(error.errno(), Some(ENOENT | ECONNREFUSED))
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
        place: place.socket.clone(),
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
    let socket = Arc::new(Socket::prepare(&place.socket, term)?.place()?);
    let role = Role::found(shared.clone(), memory, poller.clone(), masters)?.listen(socket)?;
    // From here on others may connect; the lock becomes the shared one of an attachment. It cannot fail: nobody else
    // founds while the socket answers, and whoever holds it exclusively for a look lets it go again.
    while !place.lock.try_shared()? {
        std::thread::sleep(POLL);
    }
    Ok(Parted { shared, poller, role: Some(role), answered: Duration::ZERO })
}
