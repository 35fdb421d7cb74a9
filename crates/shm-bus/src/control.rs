//! The control thread of an attachment: listens to the master, and plays the master's role when it falls to this one.
//!
//! It sleeps in one epoll call and touches no message.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, Event, EventFd, Interest, Listener, Name, Poller};
use shm_bus_ring::{AttachState, AttachmentId};

use crate::directory_memory::DirectoryWriter;
use crate::error::Result;
use crate::replica::Replica;
use crate::role::Role;
use crate::shared::{Link, Shared};
use crate::wire::{self, Request};

const CHANNEL: u64 = 0;
const STOP: u64 = 1;
/// How long a new master has to appear before another candidate takes the next term.
const SILENCE: Duration = Duration::from_millis(100);
const RECONNECT: Duration = Duration::from_millis(2);
/// How long a departing attachment waits for the order to take its last record.
const PATIENCE: Duration = Duration::from_millis(500);

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
        Ok(Control {
            shared,
            name,
            poller,
            stop,
            role,
            lost: None,
            polled,
        })
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
                (Some(role), None) => role.timeout(),
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
        match self.shared.drain() {
            Ok(Link::Up) => {}
            Ok(Link::Down) | Err(_) => {
                let _ = self.poller.remove(self.polled.as_fd());
                self.lost = Some((Instant::now(), self.shared.sequencer.term().0));
                self.take_over();
            }
        }
    }

    fn is_live(&self) -> bool {
        let me = self.shared.member;
        let word = self.shared.sequencer.members().word(AttachmentId(me.id));
        word.generation() == me.generation && word.attach() == AttachState::Live
    }

    /// The master's end is closed: it has left, or it is dead. Whoever swaps the term first is the next.
    fn take_over(&mut self) {
        if !self.is_live() {
            // It was this attachment that the master let go.
            self.shared.close();
            return;
        }
        let sequencer = &self.shared.sequencer;
        let seen = sequencer.term();
        if self.lost.is_some_and(|(_, term)| term != seen.0) {
            return;
        }
        let holder = sequencer.members().word(seen.1);
        let holder_answers = seen.1.0 != self.shared.member.id
            && holder.attach() == AttachState::Live
            && Channel::connect(&self.name).is_ok();
        if holder_answers {
            return;
        }
        if let Ok(term) = sequencer.take_term(seen, AttachmentId(self.shared.member.id))
            && let Ok((role, channel)) = self.take_up(term)
        {
            self.role = Some(role);
            self.attach_channel(channel);
        }
    }

    fn take_up(&self, term: u64) -> Result<(Role, Channel)> {
        let shared = &self.shared;
        let mut replica = Replica::new(shared)?;
        let tail = shared.sequencer.find()?.stamp;
        replica.catch_up(shared, tail)?;
        if let Name::Path(path) = &self.name {
            // The former master's: this attachment holds the lock that keeps others from making a new bus.
            let _ = std::fs::remove_file(path);
        }
        let listener = Listener::bind(&self.name)?;
        let memory = DirectoryWriter::create()?;
        memory.write(replica.directory())?;
        let (mine, masters) = Channel::pair()?;
        let directory = replica.directory().clone();
        let role = Role::take_up(
            shared.clone(),
            term,
            directory,
            memory,
            self.poller.clone(),
            listener,
            masters,
        )?;
        Ok((role, mine))
    }

    fn attach_channel(&mut self, channel: Channel) {
        self.shared.replace_channel(channel);
        self.polled = self.shared.channel();
        if self
            .poller
            .add(self.polled.as_fd(), CHANNEL, Interest::READ)
            .is_ok()
        {
            self.lost = None;
        }
    }

    /// Somebody else took the role: finds its socket, or takes the next term if it stays silent.
    fn look_for_master(&mut self) {
        if !self.is_live() {
            self.shared.close();
            return;
        }
        if let Ok(channel) = Channel::connect(&self.name) {
            let again = wire::with_greeting(&Request::Again {
                member: self.shared.member,
            });
            if matches!(channel.send(&again, &[]), Ok(shm_bus_os::Sent::Done)) {
                self.attach_channel(channel);
                return;
            }
        }
        let term = self.shared.sequencer.term().0;
        match self.lost {
            Some((_, seen)) if seen != term => self.lost = Some((Instant::now(), term)),
            Some((since, _)) if since.elapsed() >= SILENCE => self.take_over(),
            _ => {}
        }
    }

    fn leave(mut self) {
        match self.role.take() {
            Some(role) => role.resign(PATIENCE),
            None if self.lost.is_none() => {
                let start = Instant::now();
                let mut events = Vec::new();
                let mut told = self.shared.tell(&Request::Detach);
                while !self.shared.said_goodbye() && start.elapsed() < PATIENCE {
                    let slice = Duration::from_millis(20);
                    if self.poller.wait(&mut events, Some(slice)).is_err() {
                        break;
                    }
                    if !told {
                        told = self.shared.tell(&Request::Detach);
                    }
                    if !matches!(self.shared.drain(), Ok(Link::Up)) {
                        break;
                    }
                }
            }
            None => {}
        }
    }
}
