//! The second map of each foreign payload memory: the one that JavaScript sees. Native code never reads through it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::Unknown;
use napi::{Env, Result};
use shm_bus::{BusError, MemberId, PeerMemory};
use shm_bus_os::Mapping;

use crate::error::to_js;
use crate::external;

/// The maps of one attachment, numbered for JavaScript.
#[derive(Default)]
pub struct ViewTable {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    numbers: HashMap<MemberId, u32>,
    mappings: HashMap<u32, Arc<Mapping>>,
    next: u32,
    retired: Vec<u32>,
}

impl ViewTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a memory's map, which is made when it is first asked for.
    #[inline]
    pub fn number_of(&self, memory: &PeerMemory) -> core::result::Result<u32, BusError> {
        let mut inner = self.lock();
        if let Some(number) = inner.numbers.get(&memory.member()) {
            return Ok(*number);
        }
        let mapping = Arc::new(memory.map_again()?);
        let number = inner.next;
        inner.next += 1;
        inner.numbers.insert(memory.member(), number);
        inner.mappings.insert(number, mapping);
        Ok(number)
    }

    /// Forgets the map of a member that has departed; JavaScript is told by [`ViewTable::take_retired`].
    pub fn retire(&self, member: MemberId) {
        let mut inner = self.lock();
        if let Some(number) = inner.numbers.remove(&member) {
            inner.mappings.remove(&number);
            inner.retired.push(number);
        }
    }

    pub fn take_retired(&self) -> Vec<u32> {
        std::mem::take(&mut self.lock().retired)
    }

    /// The ArrayBuffer over map `number`. To be asked for once.
    pub fn array_buffer(&self, env: &Env, number: u32) -> Result<Option<Unknown<'static>>> {
        let Some(mapping) = self.lock().mappings.get(&number).cloned() else {
            return Ok(None);
        };
        // SAFETY: the mapping is readable while the Arc lives. It is mapped read-only: a store faults.
        unsafe { external::array_buffer(env, mapping.base(), mapping.len(), mapping.clone()) }.map(Some)
    }

    /// Puts zeros in the place of every map, so that whoever carried one out of its ArrayBuffer reads nothing.
    pub fn blank(&self) -> Result<()> {
        for mapping in self.lock().mappings.values() {
            mapping.replace_with_zeros().map_err(|e| to_js(&e.into()))?;
        }
        Ok(())
    }
}
