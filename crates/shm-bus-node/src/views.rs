//! The second map of each foreign payload memory: the one that JavaScript sees. Native code never reads through it.
//!
//! A program that stores into a view gets a private copy of that page ([`Guarded`]). While there is one, a message that
//! touches it is delivered as a copy; when no lease is left the page is shared again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::Unknown;
use napi::{Env, Result};
use shm_bus::{BusError, MemberId, PeerMemory};
use shm_bus_os::{Guarded, guard};

use crate::error::to_js;
use crate::external;

/// One memory's map and its number.
#[derive(Clone)]
pub struct ViewMap {
    pub member: MemberId,
    pub number: u32,
    pub map: Arc<Guarded>,
}

/// The maps of one attachment, numbered for JavaScript.
#[derive(Default)]
pub struct ViewTable {
    inner: Mutex<Inner>,
    /// Whether something waits for [`ViewTable::take_retired`].
    has_retired: AtomicBool,
    /// Counts the calls that forgot maps.
    forgotten: AtomicU32,
    /// [`guard::stores`] when the maps were last asked.
    stores: AtomicU32,
}

#[derive(Default)]
struct Inner {
    by_member: HashMap<MemberId, ViewMap>,
    next: u32,
    /// Maps of members that have departed, kept for the rows that stand in a table already.
    retired: Vec<ViewMap>,
    /// Subscriptions whose messages are leased now.
    leases: u32,
}

impl Inner {
    fn all(&self) -> impl Iterator<Item = &ViewMap> {
        self.by_member.values().chain(&self.retired)
    }
}

impl ViewTable {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The map of a memory, which is made when it is first asked for.
    pub fn map_of(&self, memory: &PeerMemory) -> core::result::Result<ViewMap, BusError> {
        let mut inner = self.lock();
        if let Some(view) = inner.by_member.get(&memory.member()) {
            return Ok(view.clone());
        }
        let view = ViewMap { member: memory.member(), number: inner.next, map: Arc::new(memory.view_map()?) };
        inner.next += 1;
        inner.by_member.insert(view.member, view.clone());
        Ok(view)
    }

    /// Retires the map of a member that has departed. It stays while messages are leased, then JavaScript is told by
    /// [`ViewTable::take_retired`].
    pub fn retire(&self, member: MemberId) {
        let mut inner = self.lock();
        if let Some(view) = inner.by_member.remove(&member) {
            inner.retired.push(view);
            self.has_retired.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there are retired maps that nobody looks at: mostly one load.
    pub fn has_retired(&self) -> bool {
        self.has_retired.load(Ordering::Relaxed) && self.lock().leases == 0
    }

    /// Forgets the retired maps and gives their numbers; none while messages are leased. They read as zeros from here
    /// on, for whoever carried one out of its ArrayBuffer, and hold no memory.
    pub fn take_retired(&self) -> Vec<u32> {
        let mut inner = self.lock();
        if inner.leases > 0 {
            return Vec::new();
        }
        self.has_retired.store(false, Ordering::Relaxed);
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        let retired = std::mem::take(&mut inner.retired);
        for view in &retired {
            // Without room for another map it stays as it is until its last view goes.
            let _ = view.map.blank();
        }
        retired.into_iter().map(|view| view.number).collect()
    }

    /// Changes when maps are forgotten: whoever remembers a map asks for it again.
    pub fn forgotten(&self) -> u32 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Whether the program has stored into one of these maps since the last call: mostly one load.
    pub fn take_stored(&self) -> bool {
        let stores = guard::stores();
        stores != self.stores.load(Ordering::Relaxed) && {
            self.stores.store(stores, Ordering::Relaxed);
            // Each is asked: what one has to tell is told with what the others have.
            self.lock().all().filter(|v| v.map.take_stored()).count() > 0
        }
    }

    /// A subscription's messages are leased from here on.
    pub fn lease(&self) {
        self.lock().leases += 1;
    }

    /// They no longer are. With the last lease every private page is shared again.
    pub fn end_lease(&self) -> core::result::Result<(), BusError> {
        let mut inner = self.lock();
        inner.leases -= 1;
        if inner.leases == 0 {
            for view in inner.all().filter(|v| v.map.has_private()) {
                view.map.share_again()?;
            }
        }
        Ok(())
    }

    /// An ArrayBuffer over map `number`: another one for each call. Once is enough, unless the program has carried the
    /// memory out of it (`buffer.transfer()`).
    pub fn array_buffer(&self, env: &Env, number: u32) -> Result<Option<Unknown<'static>>> {
        let found = self.lock().all().find(|v| v.number == number).map(|v| v.map.clone());
        let Some(map) = found else { return Ok(None) };
        let mapping = map.mapping();
        // SAFETY: the mapping is readable while the Arc lives, and guarded: a store lands in a private page.
        unsafe { external::array_buffer(env, mapping.base(), mapping.len(), map.clone()) }.map(Some)
    }

    /// Puts zeros in the place of every map, so that whoever carried one out of its ArrayBuffer reads nothing, and
    /// forgets them all.
    pub fn blank(&self) -> Result<()> {
        let mut inner = self.lock();
        for view in inner.all() {
            view.map.blank().map_err(|e| to_js(&e.into()))?;
        }
        inner.by_member.clear();
        inner.retired.clear();
        Ok(())
    }
}
