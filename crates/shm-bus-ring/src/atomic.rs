//! The one place where the crate chooses its atomics: the hardware's, or loom's under `--cfg loom`.

#[cfg(not(loom))]
pub use core::sync::atomic::{Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{Ordering, fence};

/// The orderings of a compare-and-swap that publishes: what was written before is visible to whoever reads the new
/// word, and a failed attempt has seen what its winner wrote.
pub struct AcquireRelease;

impl AcquireRelease {
    /// Ordering of the successful exchange.
    pub const SUCCESS: Ordering = Ordering::SeqCst;
    /// Ordering of the load in a failed exchange.
    pub const FAILURE: Ordering = Ordering::Acquire;
}

/// A sequentially consistent fence directly after a read-modify-write.
///
/// On x86-64 every locked instruction is a full barrier already and an `mfence` after it would double the cost of a
/// publish, so only the compiler is held back there; everywhere else, and in the model checker, it is a real fence.
#[inline(always)]
pub fn fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}
