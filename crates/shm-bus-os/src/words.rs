//! The bridge from a mapping to the ring's view of memory: safe, because the mapping knows what it allows and lives as
//! long as whatever is made from it.

use std::any::Any;
use std::sync::Arc;

use shm_bus_ring::{Region, View};

use crate::error::{OsError, Result};
use crate::mapping::{Access, Mapping};

impl Mapping {
    /// The mapping for loads only. Keeps it alive.
    pub fn view(self: &Arc<Self>) -> View {
        let owner: Arc<dyn Any + Send + Sync> = self.clone();
        // SAFETY: the range is mapped readable and page-aligned while the owner lives, and `Mapping` never shrinks it.
        unsafe { View::new(self.base(), self.len() as u64, owner) }
    }

    /// The mapping for loads and stores. Keeps it alive.
    ///
    /// # Errors
    /// [`OsError::WrongKind`] if it is mapped read-only.
    pub fn region(self: &Arc<Self>) -> Result<Region> {
        if self.access() != Access::ReadWrite {
            return Err(OsError::WrongKind { want: "a writable mapping" });
        }
        let owner: Arc<dyn Any + Send + Sync> = self.clone();
        // SAFETY: as above, and it is mapped writable.
        Ok(unsafe { Region::new(self.base(), self.len() as u64, owner) })
    }
}
