//! The control thread of an attachment: listens to the master, and plays the master's role when it falls to this one.
//!
//! It sleeps in one epoll call and touches no message.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, Event, EventFd, Interest, Name, Poller, Sent, process};
use shm_bus_ring::AttachmentId;

use crate::attach::is_nobody;
use crate::directory_memory::{DirectoryReader, DirectoryWriter};
use crate::error::Result;
use crate::record::MemberId;
use crate::replica::Replica;
use crate::role::{PATIENCE, Role};
use crate::shared::{Link, Shared};
use crate::socket::Socket;
use crate::wire::{self, Request};

const CHANNEL: u64 = 0;
const STOP: u64 = 1;
/// How long a new master has to appear before another candidate takes the next term.
const SILENCE: Duration = Duration::from_millis(100);
/// How long before one takes the role who does not know everything that the last master did.
const LAST_RESORT: Duration = Duration::from_secs(5);
const RECONNECT: Duration = Duration::from_millis(2);
const GOODBYE: Duration = Duration::from_millis(20);

/// What the control thread needs to start.
pub(crate) struct Control {
    shared: Arc<Shared>,
    name: Name,
    poller: Arc<Poller>,
    stop: Arc<EventFd>,
    role: Option<Role>,
    /// While there is no channel: since when, and the term that was seen then.
    lost: Option<(Instant, u64)>,
    polled: Arc<Channel>,
}

impl Control {
    pub fn new(
        shared: Arc<Shared>,
        name: Name,
        poller: Arc<Poller>,
        stop: Arc<EventFd>,
        role: Option<Role>,
    ) -> Result<Self> {
        let polled = shared.channel();
        poller.add(stop.as_fd(), STOP, Interest::READ)?;
        poller.add(polled.as_fd(), CHANNEL, Interest::READ)?;
        Ok(Control { shared, name, poller, stop, role, lost: None, polled })
    }

    /// Runs until the attachment is closed.
    pub fn run(mut self) {
        let mut events: Vec<Event> = Vec::new();
        loop {
            if let Some(role) = &mut self.role
                && role.tick().is_err()
            {
                self.role = None;
            }
            let timeout = match (&self.role, self.lost) {
                (_, Some(_)) => Some(RECONNECT),
                (Some(role), None) => Some(role.timeout()),
                (None, None) => None,
            };
            if self.poller.wait(&mut events, timeout).is_err() {
                break;
            }
            for event in &events {
                match event.token {
                    STOP => {
                        let _ = self.stop.drain();
                    }
                    CHANNEL => self.on_channel(),
                    token => {
                        if let Some(role) = &mut self.role {
                            role.on_event(token);
                        }
                    }
                }
            }
            if self.lost.is_some() && !self.shared.is_closed() {
                self.look_for_master();
            }
            if self.shared.is_closed() {
                break;
            }
        }
        self.leave();
    }

    fn on_channel(&mut self) {
        // Only an end of file says that the master is gone; an error of this process says nothing about another.
        if !matches!(self.shared.drain(), Ok(Link::Down)) {
            return;
        }
        let _ = self.poller.remove(self.polled.as_fd());
        let (term, master) = self.shared.sequencer.term();
        let generation = self.shared.sequencer.members().word(master).generation();
        self.shared.mourn(MemberId { id: master.0, generation }, self.polled.peer_pidfd().ok());
        self.lost = Some((Instant::now(), term));
        // If nobody has followed yet, the first to swap the term does. One who has gets time to make its socket.
        if term == self.shared.known_term() {
            self.take_over();
        }
    }

    /// Takes the next term, if it is still the one that was seen when the channel closed or the silence began.
    fn take_over(&mut self) {
        if self.shared.own_word().is_none() {
            // It was this attachment that the master let go.
            self.shared.close();
            return;
        }
        let Some((since, seen)) = self.lost else { return };
        let _ = self.try_take_over(seen, since.elapsed() >= LAST_RESORT);
    }

    /// Everything that can fail for want of descriptors or memory comes before the term is swapped.
    ///
    /// One that has never read the directory of the last master, and can no longer read all of its records in the order,
    /// leaves the role to those who have; `incomplete` when nobody else has taken it for long.
    fn try_take_over(&mut self, seen: u64, incomplete: bool) -> Result<()> {
        let shared = self.shared.clone();
        let sequencer = &shared.sequencer;
        let me = AttachmentId(shared.member.id);
        let mut replica = Replica::new(&shared)?;
        let (control, tail) = (sequencer.control(), sequencer.find()?.stamp);
        if !replica.inherit(&shared, tail, control)? && !incomplete {
            return Ok(());
        }
        let memory = DirectoryWriter::create()?;
        let directory = DirectoryReader::open(memory.fd())?;
        let (mine, masters) = Channel::pair()?;
        let mut socket = Socket::prepare(&self.name, (seen + 1) << 16 | u64::from(me.0))?;
        let present = sequencer.term();
        if present.0 != seen {
            return Ok(());
        }
        let Ok(term) = sequencer.take_term(present, me) else {
            return Ok(());
        };
        let role =
            Role::take_over(shared.clone(), term, replica, memory, self.poller.clone(), masters, incomplete)?;
        if sequencer.term().0 != term {
            return Ok(());
        }
        socket.place()?;
        shared.follow(term, directory);
        self.role = Some(role.listen(socket)?);
        self.attach_channel(mine);
        Ok(())
    }

    fn attach_channel(&mut self, channel: Channel) {
        self.shared.replace_channel(channel);
        self.polled = self.shared.channel();
        if self.poller.add(self.polled.as_fd(), CHANNEL, Interest::READ).is_ok() {
            self.lost = None;
        }
    }

    /// Somebody else took the role: finds its socket, or takes the next term if it stays silent.
    fn look_for_master(&mut self) {
        if self.shared.own_word().is_none() {
            self.shared.close();
            return;
        }
        let (term, _) = self.shared.sequencer.term();
        let shared = &self.shared;
        let connected =
            Channel::connect(&self.name).and_then(|channel| Ok((channel, shared.own.bell.to_give()?)));
        match connected {
            Ok((channel, bell)) => {
                let again = wire::with_greeting(&Request::Again { member: self.shared.member });
                let fds = [self.shared.own.fd.as_fd(), bell.as_fd()];
                let ours = channel.peer().is_ok_and(|peer| peer.uid == process::uid());
                if ours && matches!(channel.send(&again, &fds), Ok(Sent::Done)) {
                    self.attach_channel(channel);
                    return;
                }
            }
            Err(error) if is_nobody(&error) => {}
            // This process has no descriptors left, say: that is no silence of the master's.
            Err(_) => {
                self.lost = Some((Instant::now(), term));
                return;
            }
        }
        match self.lost {
            Some((_, seen)) if seen != term => self.lost = Some((Instant::now(), term)),
            Some((since, _)) if since.elapsed() >= SILENCE => self.take_over(),
            _ => {}
        }
    }

    fn leave(mut self) {
        if let Some(role) = self.role.take() {
            role.resign();
            return;
        }
        let start = Instant::now();
        let mut events = Vec::new();
        // Threads that are blocked in a wait take their sleepers' bits back before the id can be another's.
        while self.shared.has_sleepers() && start.elapsed() < PATIENCE {
            let _ = self.shared.hint_word.wake(u32::MAX, u32::MAX);
            std::thread::sleep(RECONNECT);
        }
        self.shared.depart();
        let mut told = self.lost.is_none() && self.shared.tell(&Request::Detach);
        while self.lost.is_none() && !self.shared.said_goodbye() && start.elapsed() < PATIENCE {
            if self.poller.wait(&mut events, Some(GOODBYE)).is_err() {
                break;
            }
            let _ = self.stop.drain();
            told = told || self.shared.tell(&Request::Detach);
            if !matches!(self.shared.drain(), Ok(Link::Up)) {
                break;
            }
        }
    }
}
