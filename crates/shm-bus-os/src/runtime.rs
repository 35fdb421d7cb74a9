//! The runtime directory: where the sockets and lock files of a user's buses lie.
//!
//! Whoever can write there can pose as a bus, so it must belong to this user alone. That is checked on the open
//! directory, not on the path.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, mkdir, open};
use rustix::io::Errno;

use crate::channel::MAX_PATH;
use crate::error::{OsError, Result};
use crate::process;

/// A directory that was found to be private.
#[derive(Debug)]
pub struct RuntimeDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl RuntimeDir {
    /// Where buses live unless told otherwise; nothing is made or checked. The first that applies, `variable` being how to
    /// look up the environment (variables that are empty or hold a relative path do not count):
    /// `$SHM_BUS_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/shm-bus`, `/run/user/UID/shm-bus` if `/run/user/UID` exists,
    /// `/tmp/shm-bus-UID`.
    pub fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
        let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(path) = directory("SHM_BUS_RUNTIME_DIR") {
            return path;
        }
        if let Some(path) = directory("XDG_RUNTIME_DIR") {
            return path.join("shm-bus");
        }
        let uid = process::uid();
        let of_session = PathBuf::from(format!("/run/user/{uid}"));
        if of_session.is_dir() {
            return of_session.join("shm-bus");
        }
        PathBuf::from(format!("/tmp/shm-bus-{uid}"))
    }

    /// Opens the runtime directory and checks that it is a directory (not a symlink to one), belongs to this effective
    /// user, and is closed to everybody else (`mode & 077 == 0`). An explicit one must exist; the
    /// [default one](RuntimeDir::default_path) is made with mode 0700 if need be, its parent is not.
    ///
    /// # Errors
    /// [`OsError::NotPrivate`], which says what to do; [`OsError::Syscall`]: `ENOENT`, `EACCES`.
    pub fn open(explicit: Option<&Path>) -> Result<Self> {
        match explicit {
            Some(path) => Self::open_private(path),
            None => Self::open_or_make(&Self::default_path(|name| std::env::var_os(name))),
        }
    }

    fn open_or_make(path: &Path) -> Result<Self> {
        match mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open_private(path),
            Err(errno) => {
                let hint = "set SHM_BUS_RUNTIME_DIR to a directory of yours";
                let what = || format!("making the runtime directory {} ({hint})", path.display());
                Err(OsError::at("mkdir", what)(errno))
            }
        }
    }

    fn open_private(path: &Path) -> Result<Self> {
        // Without a trailing slash or dot, which would make the kernel follow a symlink after all.
        let path: PathBuf = path.components().collect();
        let not_private = |why: &str| OsError::NotPrivate { path: path.clone(), why: why.to_owned() };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match open(&path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(not_private(
                    "it is not a directory, or a symlink to one; name the directory itself",
                ));
            }
            Err(errno) => {
                let what =
                    || format!("opening the runtime directory {} (make it with mode 0700)", path.display());
                return Err(OsError::at("open", what)(errno));
            }
        };
        let stat = fstat(&fd).map_err(OsError::at("fstat", || format!("looking at {}", path.display())))?;
        let uid = process::uid();
        if stat.st_uid != uid {
            let owner = stat.st_uid;
            return Err(not_private(&format!(
                "it belongs to uid {owner}, this process is uid {uid}; choose another one"
            )));
        }
        let mode = stat.st_mode & 0o7777;
        if mode & 0o077 != 0 {
            return Err(not_private(&format!(
                "its mode {mode:04o} lets others in; make a directory of your own with mode 0700 and name that"
            )));
        }
        Ok(Self { fd, path })
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file directly in it. `name` must be a plain file name.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `EINVAL` if `name` is empty, `.`, `..`, or contains a slash or a zero byte.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(OsError::at("open", || format!("using {name:?} as a file name"))(Errno::INVAL));
        }
        Ok(self.path.join(name))
    }

    /// The path of a socket directly in it.
    ///
    /// # Errors
    /// [`OsError::NameTooLong`] if it has more than [`MAX_PATH`] bytes; else as for [`RuntimeDir::file`].
    pub fn socket(&self, name: &str) -> Result<PathBuf> {
        let path = self.file(name)?;
        let have = path.as_os_str().len();
        if have > MAX_PATH {
            return Err(OsError::NameTooLong { name: path.display().to_string(), have, max: MAX_PATH });
        }
        Ok(path)
    }
}

impl AsFd for RuntimeDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;
    use crate::scratch::Scratch;

    fn default(variables: &[(&str, &str)]) -> PathBuf {
        let find = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        RuntimeDir::default_path(find)
    }

    #[test]
    fn the_environment_decides_first() {
        assert_eq!(default(&[("SHM_BUS_RUNTIME_DIR", "/a"), ("XDG_RUNTIME_DIR", "/b")]), Path::new("/a"));
        assert_eq!(
            default(&[("SHM_BUS_RUNTIME_DIR", ""), ("XDG_RUNTIME_DIR", "/b")]),
            Path::new("/b/shm-bus")
        );
        let fallback = default(&[("SHM_BUS_RUNTIME_DIR", "relative"), ("XDG_RUNTIME_DIR", "x")]);
        let uid = process::uid();
        let session = format!("/run/user/{uid}");
        let want = if Path::new(&session).is_dir() {
            format!("{session}/shm-bus")
        } else {
            format!("/tmp/shm-bus-{uid}")
        };
        assert_eq!(fallback, Path::new(&want));
    }

    #[test]
    fn a_default_directory_is_made_private_and_found_again() {
        let scratch = Scratch::new("runtime");
        let path = scratch.path().join("shm-bus");
        assert_eq!(RuntimeDir::open(Some(&path)).unwrap_err().errno(), Some(libc::ENOENT));
        for _ in 0..2 {
            let runtime = RuntimeDir::open_or_make(&path).unwrap();
            assert_eq!(runtime.path(), path);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        RuntimeDir::open(Some(&path)).unwrap();
        let error = RuntimeDir::open_or_make(&path.join("no/such")).unwrap_err();
        assert!(error.to_string().contains("SHM_BUS_RUNTIME_DIR"), "{error}");
    }

    #[test]
    fn what_is_not_private_is_refused() {
        let scratch = Scratch::new("public");
        let path = scratch.path().join("d");
        fs::create_dir(&path).unwrap();
        for mode in [0o701, 0o710, 0o720, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = RuntimeDir::open_or_make(&path).unwrap_err();
            assert!(error.to_string().contains("mode 0700"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        RuntimeDir::open(Some(&path)).unwrap();

        let link = scratch.path().join("link");
        symlink(&path, &link).unwrap();
        let slash = scratch.path().join("link/");
        let dot = scratch.path().join("link/.");
        for path in [link, slash, dot] {
            assert!(matches!(RuntimeDir::open(Some(&path)), Err(OsError::NotPrivate { .. })), "{path:?}");
        }
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(RuntimeDir::open_or_make(&file), Err(OsError::NotPrivate { .. })));

        // Only root can give a directory away.
        if chown(&path, Some(12345), None).is_ok() {
            let error = RuntimeDir::open(Some(&path)).unwrap_err();
            assert!(error.to_string().contains("12345"), "{error}");
        }
    }

    #[test]
    fn socket_paths_are_bounded_and_plain() {
        let scratch = Scratch::new("socket");
        let runtime = RuntimeDir::open(Some(scratch.path())).unwrap();
        let room = MAX_PATH - scratch.path().as_os_str().len() - 1;
        assert_eq!(runtime.socket(&"x".repeat(room)).unwrap().as_os_str().len(), MAX_PATH);
        let error = runtime.socket(&"x".repeat(room + 1)).unwrap_err();
        assert!(matches!(error, OsError::NameTooLong { have: 108, max: 107, .. }), "{error}");
        for name in ["", ".", "..", "a/b", "/abs", "nul\0"] {
            assert_eq!(runtime.socket(name).unwrap_err().errno(), Some(libc::EINVAL), "{name:?}");
        }
    }
}
