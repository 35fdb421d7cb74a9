//! Keeps tests that start processes apart from tests that watch an fd being closed: between fork and exec a child holds
//! a copy of every fd, close-on-exec or not.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

static FORKING: RwLock<()> = RwLock::new(());

/// Until the guard is dropped no other test starts a process.
pub(crate) fn none() -> RwLockReadGuard<'static, ()> {
    FORKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process while no other test watches its fds; spawning returns once the child runs its own program.
pub(crate) fn spawn(command: &mut std::process::Command) -> std::process::Child {
    let _alone = FORKING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}
