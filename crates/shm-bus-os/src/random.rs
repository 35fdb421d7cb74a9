//! Numbers nobody can guess: bus ids.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{OsError, Result};

/// 128 random bits from the kernel: `getrandom(2)` without flags.
///
/// # Errors
/// [`OsError::Syscall`] with `ENOSYS` or `EPERM` where a sandbox forbids the call. Blocks only in the first moments
/// after boot, until the kernel has gathered entropy.
pub fn bits() -> Result<u128> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(OsError::at("getrandom", || "drawing a random number")(errno)),
        }
    }
    Ok(u128::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differs_each_time() {
        let drawn: std::collections::HashSet<u128> = (0..100).map(|_| bits().unwrap()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
