//! The master's end of one side channel: what it knows of the process there, and what it still has to send.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use shm_bus_os::{Channel, OsError, Sent, process};

use crate::directory_memory::DirectoryWriter;
use crate::error::Result;
use crate::payload_memory::PeerMemory;
use crate::record::{Credentials, MemberId};
use crate::shared::Shared;
use crate::socket::Socket;

/// Messages that may wait for one client: a memory of every other attachment, twice over, and some answers.
const MAX_MAIL: usize = 4096;
/// Requests of one client that may wait for the order.
const MAX_PENDING: u32 = 256;
const ESRCH: i32 = 3;

/// Descriptors that go with a message.
pub(crate) enum Attachments {
    None,
    Memory(Arc<PeerMemory>),
    Directory(Arc<DirectoryWriter>),
    Welcome(Arc<Shared>, Arc<DirectoryWriter>),
    Reign(Arc<OwnedFd>, Arc<Socket>),
}

impl Attachments {
    fn send(&self, channel: &Channel, bytes: &[u8]) -> core::result::Result<Sent, OsError> {
        match self {
            Attachments::None => channel.send(bytes, &[]),
            Attachments::Memory(memory) => {
                channel.send(bytes, &[memory.fd(), memory.ringer().to_give()?.as_fd()])
            }
            Attachments::Directory(directory) => channel.send(bytes, &[directory.fd()]),
            Attachments::Welcome(shared, directory) => {
                channel.send(bytes, &[shared.sequencer_fd.as_fd(), directory.fd()])
            }
            Attachments::Reign(process, socket) => {
                channel.send(bytes, &[process.as_fd(), socket.listener.as_fd()])
            }
        }
    }
}

/// One process, or one thread of it, that has connected.
pub(crate) struct Client {
    /// Gone while a member of a former master has not connected to this one yet.
    pub channel: Option<Channel>,
    pub pidfd: Option<OwnedFd>,
    pub credentials: Credentials,
    /// Set once it is admitted.
    pub member: Option<MemberId>,
    /// Set when its welcome was sent: until then it reads nothing else, and the welcome is followed by all it missed.
    pub welcomed: bool,
    /// When it connected, or was inherited.
    pub since: Instant,
    /// Requests that are queued and not answered yet.
    pub pending: u32,
    outbox: VecDeque<(Vec<u8>, Attachments)>,
}

impl Client {
    /// Who connected, as the kernel tells it.
    pub fn connected(channel: Channel) -> Result<Self> {
        let peer = channel.peer()?;
        let pidfd = channel.peer_pidfd()?;
        let credentials = Credentials {
            pid: peer.pid,
            // A process that is gone already has no start time; its pidfd says so.
            start_time: process::start_time(peer.pid).unwrap_or(0),
            uid: peer.uid,
            gid: peer.gid,
        };
        Ok(Client {
            channel: Some(channel),
            pidfd: Some(pidfd),
            credentials,
            member: None,
            welcomed: false,
            since: Instant::now(),
            pending: 0,
            outbox: VecDeque::new(),
        })
    }

    /// A member of a former master, known by its credentials alone; none if its process is gone.
    pub fn inherited(member: MemberId, credentials: Credentials) -> Option<Self> {
        let pidfd = match process::pidfd_open(credentials.pid) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if error.errno() == Some(ESRCH) => return None,
            // No descriptors left, say: it lives until its own channel or its member word says otherwise.
            Err(_) => None,
        };
        if process::start_time(credentials.pid).is_ok_and(|time| time != credentials.start_time) {
            return None;
        }
        Some(Client {
            channel: None,
            pidfd,
            credentials,
            member: Some(member),
            welcomed: true,
            since: Instant::now(),
            pending: 0,
            outbox: VecDeque::new(),
        })
    }

    /// Whether more waits for it than for one that reads now and then.
    pub fn is_flooded(&self) -> bool {
        self.outbox.len() > MAX_MAIL || self.pending > MAX_PENDING
    }

    /// Queues a message and sends what can be sent. `false` once the channel is broken.
    pub fn send(&mut self, bytes: Vec<u8>, attachments: Attachments) -> bool {
        self.outbox.push_back((bytes, attachments));
        self.flush()
    }

    /// Sends what can be sent now. Messages of a client that never reads stay here and cost the others nothing.
    pub fn flush(&mut self) -> bool {
        let Some(channel) = &self.channel else { return true };
        while let Some((bytes, attachments)) = self.outbox.front() {
            match attachments.send(channel, bytes) {
                Ok(Sent::Done) => {
                    self.outbox.pop_front();
                }
                Ok(Sent::Full) => return true,
                Err(error) if error.is_disconnected() => return false,
                // Too many descriptors, in flight for this user or in this process: later.
                Err(_) => return true,
            }
        }
        true
    }

    /// Tells it that a memory is of no more use; one that it was not even sent is not sent at all, so that the outbox
    /// of one that never reads holds only what is alive.
    pub fn forget(&mut self, member: MemberId, bytes: Vec<u8>) -> bool {
        let waiting = self.outbox.iter().position(
            |(_, attached)| matches!(attached, Attachments::Memory(memory) if memory.member() == member),
        );
        match waiting {
            Some(index) => {
                self.outbox.remove(index);
                true
            }
            None => self.send(bytes, Attachments::None),
        }
    }

    pub fn has_mail(&self) -> bool {
        !self.outbox.is_empty()
    }
}
