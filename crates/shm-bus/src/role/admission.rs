//! Admission: a newcomer becomes a member, and a member of a former term becomes one of this.

use super::*;

impl Role {
    pub(super) fn on_greeting(&mut self, n: u64, bytes: &[u8], fds: Vec<OwnedFd>) {
        // It may be that a successor was meant: whoever has presented itself here tries again there.
        if self.is_fenced() {
            self.drop_client(n);
            return;
        }
        let answer = match wire::greeted_version(bytes) {
            Some(version) if version == shm_bus_ring::layout::LAYOUT_VERSION => {
                match wire::decode::<Request>(&bytes[GREETING_BYTES..]) {
                    Some(Request::Hello { protocol }) => self.admit(n, protocol, fds),
                    Some(Request::Again { member }) => self.again(n, member, fds),
                    _ => Err("expected a hello".into()),
                }
            }
            // The greeting in front of the answer tells it this build's version.
            Some(_) => Err("another layout version".into()),
            None => Err("expected a greeting".into()),
        };
        if let Err(why) = answer {
            self.send(n, wire::with_greeting(&Reply::Refused { why }), Attachments::None);
            self.drop_client(n);
        }
    }

    /// Admission: verify the newcomer's memory, hand it to everyone, member word `joining`, attach record, `live`,
    /// answer.
    pub(super) fn admit(
        &mut self,
        n: u64,
        protocol: u32,
        fds: Vec<OwnedFd>,
    ) -> core::result::Result<(), String> {
        let spoken = self.shared.protocol;
        if protocol != spoken {
            return Err(format!("the bus speaks protocol {spoken}, not {protocol}"));
        }
        let [fd, bell] =
            <[OwnedFd; 2]>::try_from(fds).map_err(|fds| format!("{} descriptors instead of 2", fds.len()))?;
        if self.directory.encode().len() as u64 + 64 > MAX_ENCODED {
            return Err("the directory is full".into());
        }
        let id =
            self.free_id().ok_or_else(|| format!("the bus has {MAX_ATTACHMENTS} attachments already"))?;
        let members = self.shared.sequencer.members();
        let before = members.word(AttachmentId(id));
        let member = MemberId { id, generation: before.generation().wrapping_add(1).max(1) };
        let memory = PeerMemory::open(member, fd, bell).map_err(|e| e.to_string())?;
        if memory.geometry().header_count() > self.shared.sequencer.slot_count() / 4 {
            let most = self.shared.sequencer.slot_count() / 4;
            return Err(format!("headers must be at most {most}, a quarter of the bus's slots"));
        }
        if self.has_given_up(n, &memory) {
            self.drop_client(n);
            return Ok(());
        }
        self.let_moved_on_go(n, &memory);
        let members = self.shared.sequencer.members();
        let address = self.next_address();
        members.cover(AttachmentId(id));
        let joining =
            MemberWord::new(member.generation, AttachState::Joining, ReaderState::None, Policy::Block, 0);
        members
            .exchange(AttachmentId(id), before, joining)
            .map_err(|_| "the member table changed".to_owned())?;
        members.set_address(AttachmentId(id), address.0);
        self.shared.peers.insert(memory);
        for other in self.welcomed() {
            self.send_ring(other, member);
        }
        let client = self.clients.get_mut(&n).expect("the caller has it");
        client.member = Some(member);
        let credentials = client.credentials.clone();
        self.enqueue(
            Record::Attached { member, address: address.0, credentials },
            Then::Welcome { client: n },
        );
        Ok(())
    }

    /// A newcomer that is impatient knocks more than once, with the same memory: one knock is enough, and none if it
    /// went away. Taken from a channel that was closed in the meantime, a knock says nothing of what its sender wants now.
    fn has_given_up(&self, n: u64, memory: &PeerMemory) -> bool {
        let gone = |c: &Client| c.channel.as_ref().is_none_or(|c| c.hung_up().unwrap_or(true));
        gone(&self.clients[&n])
            || self.clients.values().any(|c| c.channel.is_some() && self.is_behind(c, memory))
    }

    /// Whether that client was admitted with this memory.
    fn is_behind(&self, client: &Client, memory: &PeerMemory) -> bool {
        let known = client.member.and_then(|m| self.shared.peers.get(m));
        known.is_some_and(|k| k.identity().is_some() && k.identity() == memory.identity())
    }

    /// A newcomer whose former master died before it could say welcome comes back with the same memory: the member it
    /// became without knowing is nobody.
    pub(super) fn let_moved_on_go(&mut self, n: u64, memory: &PeerMemory) {
        let credentials = &self.clients[&n].credentials;
        let ghosts: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, c)| {
                c.channel.is_none() && c.credentials == *credentials && self.is_behind(c, memory)
            })
            .map(|(n, _)| *n)
            .collect();
        for ghost in ghosts {
            self.remove(ghost, Departure::Closed, true);
        }
    }

    /// A member of a former term presents itself to this one, and gets every memory once more: what the former master
    /// had on its way to it is lost.
    pub(super) fn again(
        &mut self,
        n: u64,
        member: MemberId,
        fds: Vec<OwnedFd>,
    ) -> core::result::Result<(), String> {
        let credentials = &self.clients[&n].credentials;
        let former = self.clients.iter().find(|(_, c)| c.channel.is_none() && c.member == Some(member));
        let Some(former) = former.filter(|(_, c)| c.credentials == *credentials).map(|(n, _)| *n) else {
            return Err("no such member".into());
        };
        if let Ok([fd, bell]) = <[OwnedFd; 2]>::try_from(fds)
            && self.shared.peers.get(member).is_none()
            && let Ok(memory) = PeerMemory::open(member, fd, bell)
        {
            self.shared.peers.insert(memory);
            for other in self.welcomed() {
                self.send_ring(other, member);
            }
        }
        self.drop_client(former);
        let client = self.clients.get_mut(&n).expect("the caller has it");
        (client.member, client.welcomed) = (Some(member), true);
        self.introduce(n);
        self.send_all_rings(n, member);
        Ok(())
    }

    /// Hands over what belongs to this reign.
    pub(super) fn introduce(&mut self, n: u64) {
        let directory = wire::encode(&Reply::Directory { term: self.term });
        self.send(n, directory, Attachments::Directory(self.memory.clone()));
        self.send_reign(n);
    }

    pub(super) fn send_all_rings(&mut self, n: u64, but: MemberId) {
        for peer in self.shared.peers.all().iter().filter(|p| p.member() != but) {
            self.send_ring(n, peer.member());
        }
    }

    pub(super) fn free_id(&self) -> Option<u16> {
        let taken = |id: u16| {
            self.retired.iter().any(|r| r.member.id == id)
                || self.clients.values().any(|c| c.member.is_some_and(|m| m.id == id))
                || self.queued().any(|r| matches!(r, Record::Departed { member, .. } if member.id == id))
        };
        (0..MAX_ATTACHMENTS as u16).find(|id| !taken(*id))
    }

    pub(super) fn next_address(&self) -> Address {
        let waiting = self.queued().filter(|r| matches!(r, Record::Attached { .. })).count() as u64;
        Address::unicast(self.directory.free_address().suffix() + waiting)
    }

    pub(super) fn send_ring(&mut self, n: u64, member: MemberId) {
        if let Some(memory) = self.shared.peers.get(member) {
            self.send(n, wire::encode(&Reply::Ring { member }), Attachments::Memory(memory));
        }
    }

    /// The members that have been told so.
    pub(super) fn welcomed(&self) -> Vec<u64> {
        self.clients.iter().filter(|(_, c)| c.welcomed).map(|(n, _)| *n).collect()
    }

    pub(super) fn welcome(&mut self, n: u64) {
        let Some(client) = self.clients.get_mut(&n) else {
            return;
        };
        let Some(member) = client.member else { return };
        client.welcomed = true;
        self.set_word(member, reign::welcomed);
        let address = self.directory.address_of(member.id).unwrap_or(Address::MASTER).0;
        let welcome = wire::with_greeting(&Reply::Welcome { member, address, term: self.term });
        self.send(n, welcome, Attachments::Welcome(self.shared.clone(), self.memory.clone()));
        self.send_reign(n);
        self.send_all_rings(n, member);
    }
}
