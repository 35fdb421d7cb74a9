//! A newcomer's side of admission: it knocks, and waits for a welcome.
//!
//! A master that has been stopped may have taken the knock with it, and whoever takes its role over knows nothing of it.
//! So a newcomer that waits long knocks again, on another channel, and keeps the ones before: a master that is merely
//! slow finds the same memory in both knocks and drops the later one, so being impatient costs nobody anything.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{
    Access, Channel, Interest, Mapping, Name, Poller, Received, Sealing, Sent, Word, memfd, process,
};
use shm_bus_ring::layout::{LAYOUT_VERSION, sequencer_bytes};
use shm_bus_ring::{Address, Sequencer};

use crate::attach::AttachOptions;
use crate::directory_memory::DirectoryReader;
use crate::error::{BusError, Result};
use crate::payload_memory::OwnMemory;
use crate::record::MemberId;
use crate::shared::{Parts, Shared};
use crate::wire::{self, MAX_DATAGRAM, Reply, Request};

/// How long before the second knock; each later one waits twice as long.
const IMPATIENCE: Duration = Duration::from_millis(200);

/// Why a newcomer is not in yet.
pub(crate) enum Joining {
    Failed(BusError),
    /// Nobody is there who has heard the knock. The memory is used for the next try: a master that has seen it before
    /// knows that its owner moved on.
    Hangup(OwnMemory),
}

impl<E: Into<BusError>> From<E> for Joining {
    fn from(error: E) -> Self {
        Joining::Failed(error.into())
    }
}

/// Who wants in, and how.
pub(crate) struct Newcomer<'a> {
    pub name: &'a str,
    pub place: &'a Name,
    pub options: &'a AttachOptions,
    pub deadline: Instant,
}

/// What the master gave.
struct Welcome {
    member: MemberId,
    address: u64,
    term: u64,
    sequencer_fd: OwnedFd,
    directory_fd: OwnedFd,
}

impl Newcomer<'_> {
    /// Knocks on `first` and waits. Gives the attachment and how long the master took for its answer.
    pub fn join(&self, first: Channel, own: OwnMemory) -> core::result::Result<(Shared, Duration), Joining> {
        let poller = Poller::new()?;
        let mut channels = Vec::new();
        if !self.knock(&first, &own)? {
            return Err(Joining::Hangup(own));
        }
        poller.add(first.as_fd(), 0, Interest::READ)?;
        channels.push((first, Instant::now()));
        let (mut impatience, mut events) = (IMPATIENCE, Vec::new());
        let mut next = Instant::now() + impatience;
        let mut buffer = vec![0; MAX_DATAGRAM];
        let (welcome, channel, answered) = 'answered: loop {
            for index in (0..channels.len()).rev() {
                let (channel, since) = &channels[index];
                match channel.recv(&mut buffer) {
                    Ok(Received::Message { len, fds, .. }) => {
                        let (welcome, took) = (read_answer(&buffer[..len], fds)?, since.elapsed());
                        break 'answered (welcome, channels.swap_remove(index).0, took);
                    }
                    Ok(Received::Empty) => {}
                    Ok(Received::Closed) => drop(channels.swap_remove(index)),
                    Err(error) if error.is_disconnected() => drop(channels.swap_remove(index)),
                    Err(error) => return Err(error.into()),
                }
            }
            if channels.is_empty() {
                return Err(Joining::Hangup(own));
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Err(self.too_late().into());
            }
            if now >= next {
                if let Ok(channel) = Channel::connect(self.place)
                    && self.knock(&channel, &own)?
                {
                    poller.add(channel.as_fd(), channels.len() as u64, Interest::READ)?;
                    channels.push((channel, now));
                }
                impatience *= 2;
                next = now + impatience;
            }
            poller.wait(&mut events, Some(self.deadline.min(next).saturating_duration_since(now)))?;
        };
        // Taken back before the term is looked at: whoever reigns later finds those knocks closed and lets them be.
        drop(channels);
        self.enter(welcome, channel, own).map(|shared| (shared, answered))
    }

    /// Says hello; `false` if nobody is there to hear it.
    fn knock(&self, channel: &Channel, own: &OwnMemory) -> Result<bool> {
        let (ours, theirs) = (process::uid(), channel.peer()?.uid);
        if theirs != ours {
            let why = format!("the bus belongs to uid {theirs}, you are uid {ours}");
            return Err(BusError::Refused { why });
        }
        let hello = wire::with_greeting(&Request::Hello { protocol: self.options.protocol });
        let bell = own.bell.to_give()?;
        match channel.send(&hello, &[own.fd.as_fd(), bell.as_fd()]) {
            Ok(sent) => Ok(sent == Sent::Done),
            Err(error) if error.is_disconnected() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub fn too_late(&self) -> BusError {
        let waited = self.options.timeout.as_millis() as u64;
        BusError::NoMaster { name: self.name.to_owned(), waited }
    }

    fn enter(
        &self,
        welcome: Welcome,
        channel: Channel,
        own: OwnMemory,
    ) -> core::result::Result<Shared, Joining> {
        let Welcome { member, address, term, sequencer_fd, directory_fd } = welcome;
        let longest = sequencer_bytes(*Sequencer::LOG2_SLOTS.end());
        let bytes = memfd::verify(sequencer_fd.as_fd(), Sealing::Shared, longest)?;
        let mapping = Arc::new(Mapping::shared(sequencer_fd.as_fd(), bytes as usize, Access::ReadWrite)?);
        let sequencer = Sequencer::open(mapping.region()?)?;
        // A welcome counts only in its own reign: a successor may have decided otherwise.
        if sequencer.term().0 != term {
            return Err(Joining::Hangup(own));
        }
        let directory = DirectoryReader::open(directory_fd.as_fd())?;
        Ok(Shared::new(Parts {
            name: self.name.to_owned(),
            place: self.place.clone(),
            hint_word: Word::new(mapping.clone(), sequencer.hint_futex_offset() as usize)?,
            space_word: Word::new(mapping, sequencer.space_futex_offset() as usize)?,
            sequencer,
            sequencer_fd,
            own,
            member,
            address: Address(address),
            protocol: self.options.protocol,
            directory,
            channel,
            term,
        })?)
    }
}

fn read_answer(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Welcome> {
    let protocol = |why: &str| BusError::Protocol { why: why.to_owned() };
    match wire::greeted_version(bytes) {
        Some(LAYOUT_VERSION) => {}
        Some(theirs) => return Err(BusError::Version { ours: LAYOUT_VERSION, theirs }),
        None => return Err(protocol("the master answered without a greeting")),
    }
    match wire::decode(&bytes[wire::GREETING_BYTES..]) {
        Some(Reply::Welcome { member, address, term }) => {
            let [sequencer_fd, directory_fd] = <[OwnedFd; 2]>::try_from(fds)
                .map_err(|_| protocol("the master's welcome came without its memories"))?;
            Ok(Welcome { member, address, term, sequencer_fd, directory_fd })
        }
        Some(Reply::Refused { why }) => Err(BusError::Refused { why }),
        _ => Err(protocol("the master's answer is neither a welcome nor a refusal")),
    }
}
