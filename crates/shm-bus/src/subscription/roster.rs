//! Who is attached as of a reader's position, and what of their memory is leased.

use std::sync::Arc;

use shm_bus_ring::{Address, AttachmentId, Frame, LaneKind, Sender, Senders, intact};

use crate::payload_memory::PeerMemory;
use crate::record::MemberId;
use crate::shared::Shared;

pub(super) struct Attached {
    pub member: MemberId,
    pub address: Address,
    pub memory: Option<Arc<PeerMemory>>,
}

/// Everyone attached as of the reader's position.
pub(super) struct Roster {
    shared: Arc<Shared>,
    by_id: Vec<Option<Attached>>,
    /// Set when somebody attached was looked for whose memory has not arrived.
    pub missing: bool,
}

impl Roster {
    pub fn new(shared: Arc<Shared>, members: impl Iterator<Item = (MemberId, Address)>) -> Self {
        let mut roster = Roster { shared, by_id: Vec::new(), missing: false };
        members.for_each(|(member, address)| roster.set(member, address));
        roster
    }

    pub fn set(&mut self, member: MemberId, address: Address) {
        let index = usize::from(member.id);
        if self.by_id.len() <= index {
            self.by_id.resize_with(index + 1, || None);
        }
        self.by_id[index] = Some(Attached { member, address, memory: None });
    }

    pub fn remove(&mut self, member: MemberId) {
        if let Some(slot) = self.by_id.get_mut(usize::from(member.id))
            && slot.as_ref().is_some_and(|a| a.member == member)
        {
            *slot = None;
        }
    }

    pub fn knows(&self, id: AttachmentId) -> bool {
        self.by_id.get(id.index()).is_some_and(Option::is_some)
    }

    /// A sender whose frame was just checked: attached, with its memory.
    #[inline]
    pub fn of(&self, frame: &Frame) -> Option<(&Attached, &Arc<PeerMemory>)> {
        let attached = self.by_id.get(frame.sender.index())?.as_ref()?;
        Some((attached, attached.memory.as_ref()?))
    }

    /// Whether nothing of a frame that was read just now had been overwritten.
    pub fn is_intact(&self, frame: &Frame) -> bool {
        self.of(frame).is_some_and(|(_, m)| intact(m.view(), frame.lane, frame.header.serial))
    }
}

impl Senders for Roster {
    #[inline]
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>> {
        let attached = self.by_id.get_mut(id.index())?.as_mut()?;
        if attached.memory.is_none() {
            attached.memory = self.shared.memory_of(attached.member);
            self.missing = attached.memory.is_none();
        }
        attached.memory.as_ref().map(|m| Sender { view: m.view(), geometry: m.geometry() })
    }
}

/// The oldest loan of each sender among what is leased now. Its memory is kept: the sender may have departed in the
/// same poll, and is not on the roster any more.
#[derive(Default)]
pub(super) struct Lease {
    oldest: Vec<Leased>,
}

struct Leased {
    memory: Arc<PeerMemory>,
    lane: LaneKind,
    serial: u64,
    /// The first stamp of that sender.
    stamp: u64,
}

impl Lease {
    pub fn is_empty(&self) -> bool {
        self.oldest.is_empty()
    }

    #[inline]
    pub fn add(&mut self, frame: &Frame, memory: &Arc<PeerMemory>) {
        let (lane, serial) = (frame.lane, frame.header.serial);
        match self.oldest.iter_mut().find(|o| o.lane == lane && Arc::ptr_eq(&o.memory, memory)) {
            // Loans may be published out of loan order.
            Some(oldest) => oldest.serial = oldest.serial.min(serial),
            None => {
                let (memory, stamp) = (memory.clone(), frame.place.stamp.0);
                self.oldest.push(Leased { memory, lane, serial, stamp });
            }
        }
    }

    /// Ends it. The stamp of a message that was overwritten meanwhile, if there is one.
    pub fn end(&mut self) -> Option<u64> {
        let is_overwritten = |leased: &Leased| !intact(leased.memory.view(), leased.lane, leased.serial);
        self.oldest.drain(..).filter(is_overwritten).map(|leased| leased.stamp).min()
    }
}
