//! What an attachment watches besides its channel: the master's process, and whether newcomers wait at the bus's
//! socket.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use shm_bus_os::{Interest, Poller, process};
use shm_bus_ring::{AttachState, AttachmentId};

use crate::client::Client;
use crate::record::MemberId;
use crate::shared::Shared;
use crate::socket::Socket;

pub(crate) const DOOR: u64 = 3;
pub(crate) const MASTER: u64 = 4;
pub(crate) const SUCCESSOR: u64 = 5;
/// How long a newcomer is let wait that a master which answers does not admit: it has no descriptors left, say.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of those who wait at the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Nobody; the poller tells.
    Watched,
    /// Somebody came.
    Knocked,
    /// Somebody waits, and the master knows.
    Left(Instant),
}

/// What of the present reign is in the poller.
pub(crate) struct Watch {
    poller: Arc<Poller>,
    socket: Option<Arc<Socket>>,
    process: Option<Arc<OwnedFd>>,
    /// Whether the process has died, and is not in the poller any more.
    is_dead: bool,
    successor: Option<Successor>,
    door: Door,
}

/// Who holds the role of a term and has yet to answer.
struct Successor {
    term: u64,
    /// None if it is gone, or not known here.
    process: Option<OwnedFd>,
    is_dead: bool,
}

impl Watch {
    pub fn new(poller: Arc<Poller>) -> Self {
        Watch { poller, socket: None, process: None, is_dead: false, successor: None, door: Door::Watched }
    }

    /// Watches what was handed over last.
    pub fn keep(&mut self, shared: &Shared) {
        let reign = shared.reign();
        if self.successor.as_ref().is_some_and(|s| shared.known_term() >= s.term) {
            self.forget_successor();
        }
        if !same(&self.socket, &reign.socket) {
            self.forget_socket();
            if let Some(socket) = &reign.socket
                && self.poller.add(socket.listener.as_fd(), DOOR, Interest::READ_ONCE).is_ok()
            {
                (self.socket, self.door) = (reign.socket, Door::Watched);
            }
        }
        if !same(&self.process, &reign.process) {
            self.forget_process();
            if let Some(process) = &reign.process
                && self.poller.add(process.as_fd(), MASTER, Interest::READ).is_ok()
            {
                (self.process, self.is_dead) = (reign.process, false);
            }
        }
    }

    /// Watches nothing any more: this attachment is the master.
    pub fn end(&mut self) {
        self.forget_socket();
        self.forget_process();
        self.forget_successor();
    }

    fn forget_successor(&mut self) {
        if let Some(Successor { process: Some(process), is_dead: false, .. }) = self.successor.take() {
            let _ = self.poller.remove(process.as_fd());
        }
    }

    /// Whether the one that holds the role by now has left or died before it answered.
    pub fn is_successor_gone(&mut self, shared: &Shared) -> bool {
        let (term, id) = shared.sequencer.term();
        if self.successor.as_ref().is_none_or(|s| s.term != term) {
            self.forget_successor();
            self.successor = Some(self.look_up(shared, term, id));
        }
        self.successor.as_ref().is_some_and(|s| s.is_dead)
            || shared.sequencer.members().word(id).attach() != AttachState::Live
    }

    fn look_up(&self, shared: &Shared, term: u64, id: AttachmentId) -> Successor {
        let mut successor = Successor { term, process: None, is_dead: false };
        let directory = shared.directory.read().unwrap_or_else(PoisonError::into_inner).read();
        let Ok(directory) = directory else { return successor };
        let generation = shared.sequencer.members().word(id).generation();
        let entry = directory.members().find(|(member, _)| *member == MemberId { id: id.0, generation });
        if let Some((member, entry)) = entry {
            match Client::inherited(member, entry.credentials.clone()) {
                Some(client) => {
                    successor.process = client
                        .pidfd
                        .filter(|pidfd| self.poller.add(pidfd.as_fd(), SUCCESSOR, Interest::READ).is_ok());
                }
                None => successor.is_dead = true,
            }
        }
        successor
    }

    /// The poller has told of its death.
    pub fn successor_died(&mut self) {
        if let Some(Successor { process: Some(process), is_dead, .. }) = &mut self.successor
            && !*is_dead
            && process::is_dead(process.as_fd()).unwrap_or(false)
        {
            let _ = self.poller.remove(process.as_fd());
            *is_dead = true;
        }
    }

    fn forget_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = self.poller.remove(socket.listener.as_fd());
        }
    }

    fn forget_process(&mut self) {
        if let Some(process) = self.process.take()
            && !self.is_dead
        {
            let _ = self.poller.remove(process.as_fd());
        }
    }

    /// The poller has told of a death: whether it is the present master's.
    pub fn master_died(&mut self, shared: &Shared) -> bool {
        let Some(process) = &self.process else { return false };
        if self.is_dead || !process::is_dead(process.as_fd()).unwrap_or(false) {
            return false;
        }
        let _ = self.poller.remove(process.as_fd());
        self.is_dead = true;
        same(&self.process, &shared.reign().process) && shared.is_settled()
    }

    /// The poller has told that somebody came.
    pub fn somebody_knocks(&mut self) {
        self.door = Door::Knocked;
    }

    /// Whether somebody waits at the door, for all that is known.
    pub fn is_awaited(&mut self, now: Instant) -> bool {
        if matches!(self.door, Door::Left(until) if now >= until) {
            self.rearm();
        }
        self.door == Door::Knocked
    }

    /// Whether those who came are in by now.
    pub fn was_let_in(&mut self) -> bool {
        let waiting = self.socket.as_ref().is_some_and(|s| s.listener.has_waiting().unwrap_or(false));
        if self.door == Door::Knocked && !waiting {
            self.rearm();
            return true;
        }
        false
    }

    /// The master is there: whoever still waits is its business, for a while.
    pub fn answered(&mut self, now: Instant) {
        if self.door == Door::Knocked && !self.was_let_in() {
            self.door = Door::Left(now + PAUSE);
        }
    }

    fn rearm(&mut self) {
        self.door = Door::Watched;
        if let Some(socket) = &self.socket {
            let _ = self.poller.modify(socket.listener.as_fd(), DOOR, Interest::READ_ONCE);
        }
    }

    /// When to look next.
    pub fn next_look(&self) -> Option<Instant> {
        match self.door {
            Door::Left(until) => Some(until),
            Door::Watched | Door::Knocked => None,
        }
    }
}

fn same<T>(one: &Option<Arc<T>>, other: &Option<Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
