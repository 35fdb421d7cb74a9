//! Departure: a member goes, and its id and memory become free once nobody needs them.

use super::*;

/// A member whose id and memory are not free for another yet.
pub(super) struct Retired {
    pub member: MemberId,
    pub stamp: u64,
    pub acknowledged: bool,
    pub pidfd: Option<OwnedFd>,
}

impl Retired {
    fn is_gone(&self) -> bool {
        self.acknowledged
            || self.pidfd.as_ref().is_none_or(|fd| process::is_dead(fd.as_fd()).unwrap_or(false))
    }
}

impl Role {
    pub(super) fn remove(&mut self, n: u64, departure: Departure, acknowledged: bool) {
        let Some(client) = self.drop_client(n) else { return };
        if let Some(member) = client.member {
            if !acknowledged {
                self.shared.mourn(member, client.pidfd.as_ref().and_then(|fd| fd.try_clone().ok()));
            }
            self.retire(member, Some(client), departure, acknowledged);
        }
    }

    /// Member word first, record second: no frame of the departed has a stamp above its record.
    pub(super) fn retire(
        &mut self,
        member: MemberId,
        client: Option<Client>,
        departure: Departure,
        acknowledged: bool,
    ) {
        if self.is_fenced() {
            return;
        }
        self.set_word(member, |w| w.with_attach(AttachState::Departed).with_reader(ReaderState::None));
        self.shared.sequencer.sleepers().forget(AttachmentId(member.id));
        self.shared.release_space();
        self.shared.sequencer.refresh_eviction_lag();
        let address = self.address_of(member);
        let then = Then::Departed { member, client: client.map(Box::new), acknowledged };
        self.enqueue(Record::Departed { member, address, departure }, then);
    }

    /// The address of a member, whose attach record may have yet to come into the order.
    fn address_of(&self, member: MemberId) -> u64 {
        let queued = self.queued().find_map(|record| match record {
            Record::Attached { member: other, address, .. } if *other == member => Some(*address),
            _ => None,
        });
        let known = || self.directory.address_of(member.id).filter(|_| self.directory.has(member));
        let told = || self.shared.sequencer.members().read(AttachmentId(member.id)).address;
        queued.or_else(|| known().map(|a| a.0)).unwrap_or_else(told)
    }

    /// Frees the ids whose last frame every reader has passed and whose owner is known to be gone.
    pub(super) fn reuse(&mut self) {
        if self.retired.is_empty() {
            return;
        }
        let Ok(found) = self.shared.sequencer.find() else {
            return;
        };
        let mut gate = shm_bus_ring::Gate::default();
        gate.scan(&self.shared.sequencer, found.stamp, &mut MappedPeers(&self.shared));
        let (free, kept) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition::<Vec<_>, _>(|r| r.stamp < gate.cached() && r.is_gone());
        self.retired = kept;
        for Retired { member, .. } in free {
            self.set_word(member, |w| w.with_attach(AttachState::Free));
            self.shared.forget(member);
            for n in self.welcomed() {
                if let Some(client) = self.clients.get_mut(&n) {
                    client.forget(member, wire::encode(&Reply::Forget { member }));
                }
                self.push(n);
            }
        }
    }
}
