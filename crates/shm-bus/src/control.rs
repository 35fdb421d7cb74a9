//! The control thread of an attachment: listens to the master, and plays the master's role when it falls to this one.
//!
//! It sleeps in one epoll call and touches no message.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::{Channel, Event, Interest, Poller, Sent, process};
use shm_bus_ring::{AttachState, AttachmentId};

use crate::attach::{Parted, is_backlog_full, is_nobody};
use crate::error::Result;
use crate::record::MemberId;
use crate::role::{PATIENCE, RETRY, Role};
use crate::shared::{Link, Shared};
use crate::silence::{Heard, SLICE, Silence};
use crate::succession::{Begun, Succession};
use crate::watch::{DOOR, MASTER, SUCCESSOR, Watch};
use crate::wire::{self, Request};

const CHANNEL: u64 = 0;
const BELL: u64 = 1;
const RECONNECT: Duration = Duration::from_millis(2);
const GOODBYE: Duration = Duration::from_millis(20);
/// How often what is missing is asked for, at least.
const MISSING: Duration = Duration::from_secs(1);

/// What this attachment is to the bus.
enum Office {
    None,
    /// It has taken the role, and its reign has yet to begin.
    Successor(Box<Succession>),
    Master(Box<Role>),
}

/// What the control thread needs to start.
pub(crate) struct Control {
    shared: Arc<Shared>,
    poller: Arc<Poller>,
    office: Office,
    /// The channel that the poller watches; nothing of it is read while the link is lost.
    polled: Arc<Channel>,
    is_lost: bool,
    /// Set while nobody has answered on this channel yet: the term that was known when it was made.
    unanswered: Option<u64>,
    silence: Silence,
    /// Set once a ping was sent into this silence.
    pinged: bool,
    /// What the master has handed over did not all arrive: when it is asked for again, and how long after that.
    missing: Option<(Instant, Duration)>,
    watch: Watch,
}

impl Control {
    pub fn new(parted: Parted) -> Result<Self> {
        let Parted { shared, poller, role, answered } = parted;
        let polled = shared.channel();
        poller.add(shared.control.as_fd(), BELL, Interest::READ)?;
        poller.add(polled.as_fd(), CHANNEL, Interest::READ)?;
        Ok(Control {
            office: role.map_or(Office::None, |role| Office::Master(Box::new(role))),
            is_lost: false,
            unanswered: None,
            silence: Silence::new(answered, Instant::now()),
            pinged: false,
            missing: None,
            watch: Watch::new(poller.clone()),
            shared,
            poller,
            polled,
        })
    }

    /// Runs until the attachment is closed.
    pub fn run(mut self) {
        let mut events: Vec<Event> = Vec::new();
        loop {
            self.serve();
            if self.poller.wait(&mut events, self.timeout()).is_err() {
                break;
            }
            // One that was stopped in its sleep serves nobody in a reign that is over.
            if matches!(&self.office, Office::Master(role) if role.is_fenced()) {
                self.office = Office::None;
            }
            for event in &events {
                self.on_event(event.token);
            }
            if self.shared.is_closed() {
                break;
            }
            self.follow();
        }
        let shared = self.shared.clone();
        self.leave();
        shared.end_reign();
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let office = match &self.office {
            Office::None => None,
            Office::Successor(_) => Some(RETRY),
            Office::Master(role) => Some(role.timeout()),
        };
        let lost = (self.is_lost && matches!(self.office, Office::None)).then_some(RECONNECT);
        let silence = self.silence.next_look().map(until);
        let watch = self.watch.next_look().map(until);
        let missing = self.missing.map(|(at, _)| until(at));
        [office, lost, silence, watch, missing].into_iter().flatten().min()
    }

    /// Plays the role, if it is this attachment's.
    fn serve(&mut self) {
        self.office = match std::mem::replace(&mut self.office, Office::None) {
            Office::None => Office::None,
            Office::Successor(succession) => match succession.begin() {
                Ok(Begun::NotYet(succession)) => Office::Successor(succession),
                Ok(Begun::Reign(reign)) => {
                    self.watch.end();
                    match reign.role.listen(reign.socket) {
                        Ok(role) => {
                            self.shared.follow(role.term(), reign.directory);
                            self.attach_channel(reign.channel);
                            self.unanswered = None;
                            Office::Master(Box::new(role))
                        }
                        Err(_) => Office::None,
                    }
                }
                Err(_) => Office::None,
            },
            Office::Master(mut role) => match role.tick() {
                Ok(()) => Office::Master(role),
                Err(_) => Office::None,
            },
        };
    }

    fn on_event(&mut self, token: u64) {
        match token {
            BELL => {
                let _ = self.shared.control.drain();
            }
            // Only an end of file says that the master is gone; an error of this process says nothing about another.
            CHANNEL => {
                if !self.is_lost && matches!(self.shared.drain(), Ok(Link::Down)) {
                    self.lose();
                }
            }
            // Its channel may stay open in a child that it has forked.
            MASTER => {
                if self.watch.master_died(&self.shared) {
                    self.lose();
                }
            }
            SUCCESSOR => self.watch.successor_died(),
            DOOR => self.watch.somebody_knocks(),
            token => {
                if let Office::Master(role) = &mut self.office {
                    role.on_event(token);
                }
            }
        }
    }

    /// The master is gone, or has let this attachment go.
    fn lose(&mut self) {
        if self.is_lost {
            return;
        }
        self.let_go();
        self.silence.rest();
        let (term, master) = self.shared.sequencer.term();
        let generation = self.shared.sequencer.members().word(master).generation();
        let process = self.shared.reign().process.and_then(|process| process.try_clone().ok());
        self.shared.mourn(MemberId { id: master.0, generation }, process);
        // If nobody has followed yet, the first to swap the term does.
        if term == self.shared.known_term() {
            self.take_over(term, true);
        }
    }

    /// Whether nobody else is left who could know more.
    fn is_only_candidate(&self) -> bool {
        let members = self.shared.sequencer.members();
        let others = (0..members.high() as u16).filter(|id| *id != self.shared.member.id);
        let (_, master) = self.shared.sequencer.term();
        others.map(AttachmentId).all(|id| id == master || members.word(id).attach() != AttachState::Live)
    }

    /// Stops listening to the channel.
    fn let_go(&mut self) {
        let _ = self.poller.remove(self.polled.as_fd());
        self.is_lost = true;
        self.unanswered = None;
    }

    /// Takes the role from the master of the term `seen`. One that is only silent knows everything itself: who does not
    /// leaves the role to it until that is hopeless.
    fn take_over(&mut self, seen: u64, is_gone: bool) {
        if self.shared.own_word().is_none() {
            // It was this attachment that the master let go.
            self.shared.close();
            return;
        }
        let has_hung_up = self.is_lost && seen == self.shared.known_term();
        let incomplete = is_gone && self.is_only_candidate() || self.silence.is_hopeless(Instant::now());
        let taken = Succession::take(&self.shared, &self.poller, seen, has_hung_up, incomplete);
        if let Ok(Some(succession)) = taken {
            self.office = Office::Successor(Box::new(succession));
            self.silence.rest();
            self.serve();
        }
    }

    fn attach_channel(&mut self, channel: Channel) {
        if !self.is_lost {
            let _ = self.poller.remove(self.polled.as_fd());
        }
        self.unanswered = Some(self.shared.known_term());
        self.shared.replace_channel(channel);
        self.polled = self.shared.channel();
        self.is_lost = self.poller.add(self.polled.as_fd(), CHANNEL, Interest::READ).is_err();
    }

    /// Sees to it that this attachment has a master that answers.
    fn follow(&mut self) {
        if !matches!(self.office, Office::None) {
            self.silence.rest();
            self.missing = None;
            return;
        }
        if self.shared.own_word().is_none() {
            self.shared.close();
            return;
        }
        self.watch.keep(&self.shared);
        let (now, term) = (Instant::now(), self.shared.sequencer.term().0);
        let known = self.shared.known_term();
        if self.unanswered.is_some_and(|before| before != known) {
            self.unanswered = None;
        }
        // Whoever answers on this channel reigns no more. Where nobody has answered, it may be the successor's.
        if !self.is_lost && self.unanswered.is_none() && known != term {
            self.silence.robbed(term, now);
            self.let_go();
        }
        if self.is_lost {
            self.look_for_master();
        }
        self.ask_for_what_is_missing(now);
        self.listen_to_silence(now, term);
    }

    /// Somebody else took the role: presents itself there.
    fn look_for_master(&mut self) {
        let shared = &self.shared;
        let connected =
            Channel::connect(&shared.place).and_then(|channel| Ok((channel, shared.own.bell.to_give()?)));
        match connected {
            Ok((channel, bell)) => {
                let again = wire::with_greeting(&Request::Again { member: self.shared.member });
                let fds = [self.shared.own.fd.as_fd(), bell.as_fd()];
                let ours = channel.peer().is_ok_and(|peer| peer.uid == process::uid());
                if ours && matches!(channel.send(&again, &fds), Ok(Sent::Done)) {
                    self.attach_channel(channel);
                }
            }
            Err(error) if is_nobody(&error) || is_backlog_full(&error) => {}
            // This process has no descriptors left, say: that is no silence of the master's.
            Err(_) => self.silence.restart(Instant::now()),
        }
    }

    /// What came with descriptors is lost where this process had none left for them.
    fn ask_for_what_is_missing(&mut self, now: Instant) {
        if self.is_lost || self.unanswered.is_some() || self.shared.is_settled() {
            self.missing = None;
            return;
        }
        let (at, pause) = *self.missing.get_or_insert((now + SLICE, SLICE));
        if now >= at {
            self.shared.tell(&Request::Reign);
            let pause = (2 * pause).min(MISSING);
            self.missing = Some((now + pause, pause));
        }
    }

    fn listen_to_silence(&mut self, now: Instant, term: u64) {
        let lost = self.is_lost;
        let wanting =
            lost || self.unanswered.is_some() || self.shared.is_suspected() || self.watch.is_awaited(now);
        if !wanting {
            self.silence.rest();
            return;
        }
        let heard = self.shared.heard();
        let known = self.shared.known_term();
        if self.silence.next_look().is_none() {
            self.pinged = false;
            self.silence.ask(heard, (term != known || !lost).then_some(term), now);
        }
        let said = if lost && term == known {
            self.silence.look_for_successor(now)
        } else {
            self.silence.look(heard, term, now)
        };
        // Whoever was to answer may be gone too. It leaves no channel behind that could say so: it had yet to take it.
        let expected = lost || self.unanswered.is_some();
        if expected && term != known && said != Heard::Answer && self.watch.is_successor_gone(&self.shared) {
            self.take_over(term, true);
            return;
        }
        match said {
            Heard::Nothing => {}
            // Those who came may be in by now, and nobody else asks.
            Heard::Silence if self.watch.was_let_in() => return,
            Heard::Silence => {}
            Heard::Answer => {
                self.shared.clear_suspicion();
                self.watch.answered(now);
                return;
            }
            Heard::TooLong => self.take_over(term, lost && term == known),
        }
        if !self.pinged && !lost && (said == Heard::Silence || self.shared.is_suspected()) {
            self.pinged = self.shared.tell(&Request::Ping);
        }
    }

    fn leave(mut self) {
        if let Office::Master(role) = std::mem::replace(&mut self.office, Office::None) {
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
        let mut told = !self.is_lost && self.shared.tell(&Request::Detach);
        while !self.is_lost && !self.shared.said_goodbye() && start.elapsed() < PATIENCE {
            if self.poller.wait(&mut events, Some(GOODBYE)).is_err() {
                break;
            }
            let _ = self.shared.control.drain();
            told = told || self.shared.tell(&Request::Detach);
            if !matches!(self.shared.drain(), Ok(Link::Up)) {
                break;
            }
        }
    }
}
