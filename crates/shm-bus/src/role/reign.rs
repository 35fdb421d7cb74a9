//! A reign's beginning and end: what a successor inherits, and what is left in order.

use super::*;
use crate::replica::Replica;

/// Whose role was taken.
#[derive(Clone, Copy)]
pub(crate) struct Former {
    pub id: AttachmentId,
    /// Its side channel has ended: it is gone even if its process lives, as another program say.
    pub has_hung_up: bool,
}

impl Role {
    /// The successor's `master` record is in the order at `stamp`, and everything below it is known: who is there, and
    /// who is gone with or without its record.
    pub fn succeed(&mut self, replica: &Replica, stamp: u64, record: &Record, former: Former) -> Result<()> {
        self.directory = replica.directory().clone();
        self.directory.apply(stamp, self.term, record);
        self.memory.write(&self.directory)?;
        self.shared.sequencer.settle_control(self.term);
        let me = self.shared.member;
        let members: Vec<_> = self.directory.members().map(|(m, e)| (m, e.credentials.clone())).collect();
        for (member, credentials) in members.into_iter().filter(|(member, _)| *member != me) {
            self.inherit(member, Client::inherited(member, credentials), former)?;
        }
        self.inherit_ids();
        Ok(())
    }

    /// A member of the former term: still there, or gone with or without its record. One whose attach record is in the
    /// order is a member, also if the former master had yet to say so; it may have been welcomed meanwhile.
    fn inherit(&mut self, member: MemberId, client: Option<Client>, former: Former) -> Result<()> {
        self.set_word(member, welcomed);
        let word = self.word(member);
        let live = word.generation() == member.generation && word.attach() == AttachState::Live;
        let was_master = former.id.0 == member.id;
        match client {
            Some(client) if live && !(was_master && former.has_hung_up) => self.add(client).map(drop),
            client => {
                // The master that found somebody dead may have changed the word; its own it changes when it leaves.
                let said_so = !live && (was_master || client.is_some());
                let departure = if said_so { Departure::Closed } else { Departure::Died };
                self.retire(member, client, departure, false);
                Ok(())
            }
        }
    }

    /// Ids that the former master left between two states: half admitted, so that nobody but their owner knows of them
    /// and it tries again; departed and not free yet; or lost to one who does not know everything.
    fn inherit_ids(&mut self) {
        let stamp = self.directory.as_of;
        for id in (0..self.shared.sequencer.members().high() as u16).map(AttachmentId) {
            let word = self.shared.sequencer.members().word(id);
            let member = MemberId { id: id.0, generation: word.generation() };
            if self.directory.has(member) {
                self.record_eviction(id.0);
                continue;
            }
            match word.attach() {
                // One whose term has passed on without its knowledge must not let go of somebody whom its successor
                // admits: that one's word could only be seen in the successor's term.
                AttachState::Joining if !self.is_fenced() => {
                    let free = word.with_attach(AttachState::Free).with_reader(ReaderState::None);
                    let _ = self.shared.sequencer.members().exchange(id, word, free);
                }
                AttachState::Live => self.retire(member, None, Departure::Closed, false),
                AttachState::Departed => {
                    self.retired.push(Retired { member, stamp, acknowledged: true, pidfd: None });
                }
                AttachState::Free | AttachState::Joining => {}
            }
        }
    }

    /// Puts the socket's file back if somebody took it away, and listens again where it had to be given up.
    pub(super) fn keep_socket(&mut self) {
        let Some(socket) = &self.socket else { return };
        if let Some(restored) = socket.restored().map(Arc::new) {
            let _ = self.poller.remove(socket.listener.as_fd());
            self.listening = false;
            self.shared.set_reign(self.term, restored.clone(), None);
            self.socket = Some(restored);
            for n in self.welcomed() {
                self.send_reign(n);
            }
        }
        if let Some(socket) = &self.socket
            && !self.listening
        {
            self.listening = self.poller.add(socket.listener.as_fd(), LISTENER, Interest::READ).is_ok();
        }
    }

    /// What this reign hands over besides its directory.
    pub(super) fn send_reign(&mut self, n: u64) {
        if let Some(socket) = &self.socket {
            let reign = Reply::Reign { term: self.term, inode: socket.inode() };
            let attachments = Attachments::Reign(self.process.clone(), socket.clone());
            self.send(n, wire::encode(&reign), attachments);
        }
    }

    /// Leaves the role. The others take over when their channels close; the successor publishes this attachment's
    /// departure, which its member word says first.
    pub fn resign(mut self) {
        let start = Instant::now();
        // What was asked before is still done.
        while !self.queue.is_empty() && start.elapsed() < PATIENCE && self.tick().is_ok() {
            if self.blocked {
                std::thread::sleep(RETRY);
            }
        }
        self.shared.depart();
        for client in self.clients.values_mut() {
            client.flush();
        }
    }
}

impl Drop for Role {
    /// The poller watches what is behind a descriptor, and of that others may have copies.
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = self.poller.remove(socket.listener.as_fd());
        }
        for n in self.clients.keys().copied().collect::<Vec<_>>() {
            self.drop_client(n);
        }
    }
}

/// A joining member that was told so. Any other word stays as it is: somebody else may have decided meanwhile.
pub(super) fn welcomed(word: MemberWord) -> MemberWord {
    if word.attach() == AttachState::Joining { word.with_attach(AttachState::Live) } else { word }
}
