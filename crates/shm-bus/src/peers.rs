//! The payload memories that this attachment holds, by member.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::payload_memory::PeerMemory;
use crate::record::MemberId;

/// A table shared by the control thread, which fills it, and the threads that publish and read.
#[derive(Default)]
pub(crate) struct PeerTable {
    memories: Mutex<HashMap<MemberId, Arc<PeerMemory>>>,
}

impl PeerTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<MemberId, Arc<PeerMemory>>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, member: MemberId) -> Option<Arc<PeerMemory>> {
        self.lock().get(&member).cloned()
    }

    pub fn insert(&self, memory: PeerMemory) {
        self.lock().entry(memory.member()).or_insert_with(|| Arc::new(memory));
    }

    pub fn remove(&self, member: MemberId) {
        self.lock().remove(&member);
    }

    /// Lets go of every memory that `keep` does not want.
    pub fn retain(&self, keep: impl Fn(MemberId) -> bool) {
        self.lock().retain(|member, _| keep(*member));
    }

    pub fn all(&self) -> Vec<Arc<PeerMemory>> {
        self.lock().values().cloned().collect()
    }
}
