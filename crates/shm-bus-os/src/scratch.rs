//! Directories for tests, of mode 0700, that remove themselves.

use std::path::{Path, PathBuf};

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let unique = crate::random::bits().unwrap() as u32;
        let path = std::env::temp_dir().join(format!("shm-bus-{name}-{unique:08x}"));
        rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
