//! The master's end of one side channel: what it knows of the process there, and what it still has to send.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use shm_bus_os::{Channel, Sent, process};

use crate::error::Result;
use crate::payload_memory::PeerMemory;
use crate::record::{Credentials, MemberId};

/// Descriptors that go with a message.
pub(crate) enum Attachments {
    None,
    Memory(Arc<PeerMemory>),
    Owned(Vec<OwnedFd>),
}

impl Attachments {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Attachments::None => Vec::new(),
            Attachments::Memory(memory) => memory.fds().to_vec(),
            Attachments::Owned(fds) => fds.iter().map(AsFd::as_fd).collect(),
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
            outbox: VecDeque::new(),
        })
    }

    /// A member of a former master, known by its credentials alone. No pidfd if its process is not there any more.
    pub fn inherited(member: MemberId, credentials: Credentials) -> Self {
        let pidfd = process::pidfd_open(credentials.pid)
            .ok()
            .filter(|_| process::start_time(credentials.pid).is_ok_and(|t| t == credentials.start_time));
        Client {
            channel: None,
            pidfd,
            credentials,
            member: Some(member),
            welcomed: true,
            outbox: VecDeque::new(),
        }
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
            match channel.send(bytes, &attachments.fds()) {
                Ok(Sent::Done) => {
                    self.outbox.pop_front();
                }
                Ok(Sent::Full) => return true,
                Err(error) if error.is_disconnected() => return false,
                // Too many descriptors in flight for this user: later.
                Err(_) => return true,
            }
        }
        true
    }

    pub fn has_mail(&self) -> bool {
        !self.outbox.is_empty()
    }
}
