use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::{Command, Stdio};

use super::*;
use crate::forks;
use crate::process;
use crate::scratch::Scratch;

fn message(channel: &Channel, buf: &mut [u8]) -> (usize, Vec<OwnedFd>, Option<Credentials>) {
    match channel.recv(buf).unwrap() {
        Received::Message { len, fds, credentials } => (len, fds, credentials),
        other => panic!("{other:?}"),
    }
}

/// A pipe whose write end goes over a channel: the read end sees whether every copy was closed.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).unwrap();
    (reader.into(), writer.into())
}

fn all_writers_closed(reader: &OwnedFd) -> bool {
    rustix::io::read(reader, &mut [0u8; 1]) == Ok(0)
}

#[test]
fn a_message_keeps_its_bounds_fds_and_sender() {
    let _quiet = forks::none();
    let (one, other) = Channel::pair().unwrap();
    let (reader, writer) = pipe();
    assert_eq!(one.send(b"first", &[writer.as_fd(), reader.as_fd()]).unwrap(), Sent::Done);
    assert_eq!(one.send(b"second", &[]).unwrap(), Sent::Done);
    drop(writer);
    let mut buf = [0; 64];
    let (len, fds, credentials) = message(&other, &mut buf);
    assert_eq!((&buf[..len], fds.len()), (&b"first"[..], 2));
    let me =
        Credentials { pid: process::pid(), uid: process::uid(), gid: rustix::process::getegid().as_raw() };
    assert_eq!(credentials, Some(me));
    assert_eq!(other.peer().unwrap(), me);
    for fd in &fds {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
    rustix::io::write(&fds[0], b"x").unwrap();
    assert_eq!(rustix::io::read(&reader, &mut buf), Ok(1));
    assert!(!all_writers_closed(&reader));
    drop(fds);
    assert!(all_writers_closed(&reader));
    let (len, fds, _) = message(&other, &mut buf);
    assert_eq!((&buf[..len], fds.len()), (&b"second"[..], 0));
    assert!(matches!(other.recv(&mut buf).unwrap(), Received::Empty));
}

#[test]
fn as_many_fds_as_the_kernel_takes() {
    let _quiet = forks::none();
    let (one, other) = Channel::pair().unwrap();
    let (reader, writer) = pipe();
    let many = vec![writer.as_fd(); MAX_FDS + 1];
    assert_eq!(one.send(b"x", &many).unwrap_err().errno(), Some(libc::EINVAL));
    assert_eq!(one.send(b"x", &many[1..]).unwrap(), Sent::Done);
    let (_, fds, credentials) = message(&other, &mut [0; 1]);
    assert_eq!(fds.len(), MAX_FDS);
    assert!(credentials.is_some());
    drop(many);
    drop(writer);
    assert!(!all_writers_closed(&reader));
    drop(fds);
    assert!(all_writers_closed(&reader));
}

#[test]
fn cut_off_data_closes_the_fds() {
    let _quiet = forks::none();
    let (one, other) = Channel::pair().unwrap();
    let (reader, writer) = pipe();
    one.send(b"longer", &[writer.as_fd()]).map(drop).unwrap();
    drop(writer);
    let error = other.recv(&mut [0; 4]).unwrap_err();
    assert_eq!(error, OsError::Truncated { data: true, control: false, len: 4 });
    assert!(all_writers_closed(&reader));
    assert!(matches!(other.recv(&mut [0; 4]).unwrap(), Received::Empty));
}

#[test]
fn cut_off_fds_close_those_that_came() {
    let _quiet = forks::none();
    let (one, other) = Channel::pair().unwrap();
    let (reader, writer) = pipe();
    one.send(b"data", &[writer.as_fd(); 8]).map(drop).unwrap();
    drop(writer);
    let mut buf = [0; 16];
    // Room for the credentials and for some, not all, of the fds.
    let error = other.recv_with(&mut buf, &mut [MaybeUninit::uninit(); 7]).unwrap_err();
    assert_eq!(error, OsError::Truncated { data: false, control: true, len: 4 });
    assert_eq!(&buf[..4], b"data");
    assert!(all_writers_closed(&reader));
}

#[test]
fn a_full_queue_is_not_an_error() {
    let (one, other) = Channel::pair().unwrap();
    let mut sent = 0;
    while one.send(&[7; 1000], &[]).unwrap() == Sent::Done {
        sent += 1;
        assert!(sent < 100_000);
    }
    let mut received = 0;
    while let Received::Message { len, .. } = other.recv(&mut [0; 2000]).unwrap() {
        assert_eq!(len, 1000);
        received += 1;
    }
    assert_eq!(received, sent);
    assert_eq!(one.send(b"again", &[]).unwrap(), Sent::Done);
}

#[test]
fn empty_and_oversized_messages_are_refused() {
    let (one, _other) = Channel::pair().unwrap();
    assert_eq!(one.send(b"", &[]).unwrap_err().errno(), Some(libc::EINVAL));
    let error = one.send(&vec![0; 64 << 20], &[]).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EMSGSIZE));
    assert!(!error.is_disconnected());
}

#[test]
fn a_closed_peer_is_told_apart_and_its_last_words_arrive() {
    let _quiet = forks::none();
    let (one, other) = Channel::pair().unwrap();
    one.send(b"unread", &[]).map(drop).unwrap();
    other.send(b"last words", &[]).map(drop).unwrap();
    assert!(!one.hung_up().unwrap());
    drop(other);
    assert!(one.hung_up().unwrap());
    let mut buf = [0; 64];
    let (len, ..) = message(&one, &mut buf);
    assert_eq!(&buf[..len], b"last words");
    assert!(matches!(one.recv(&mut buf).unwrap(), Received::Closed));
    assert!(matches!(one.recv(&mut buf).unwrap(), Received::Closed));
    assert!(one.send(b"x", &[]).unwrap_err().is_disconnected());
}

#[test]
fn a_socket_file_is_private_and_is_never_removed() {
    let _quiet = forks::none();
    let directory = Scratch::new("listener");
    let path = directory.path().join("bus.sock");
    let name = Name::Path(path.clone());
    assert_eq!(Channel::connect(&name).unwrap_err().errno(), Some(libc::ENOENT));
    let listener = Listener::bind(&name).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(Listener::bind(&name).unwrap_err().errno(), Some(libc::EADDRINUSE));

    assert!(listener.accept().unwrap().is_none());
    let client = Channel::connect(&name).unwrap();
    // Sent before it is accepted, and yet the sender is known.
    client.send(b"hello", &[]).map(drop).unwrap();
    let server = listener.accept().unwrap().unwrap();
    let mut buf = [0; 16];
    let (len, _, credentials) = message(&server, &mut buf);
    assert_eq!(&buf[..len], b"hello");
    assert_eq!(credentials.unwrap().pid, process::pid());
    assert_eq!(server.send(b"welcome", &[]).unwrap(), Sent::Done);
    assert_eq!(message(&client, &mut buf).0, 7);

    drop(listener);
    assert!(path.exists());
    assert_eq!(Channel::connect(&name).unwrap_err().errno(), Some(libc::ECONNREFUSED));
}

#[test]
fn abstract_names_work_and_vanish() {
    let _quiet = forks::none();
    let name = Name::Abstract(format!("shm-bus-test-{:x}", crate::random::bits().unwrap()));
    let listener = Listener::bind(&name).unwrap();
    let client = Channel::connect(&name).unwrap();
    let server = listener.accept().unwrap().unwrap();
    client.send(b"x", &[]).map(drop).unwrap();
    assert_eq!(message(&server, &mut [0; 4]).0, 1);
    drop(listener);
    assert_eq!(Channel::connect(&name).unwrap_err().errno(), Some(libc::ECONNREFUSED));
}

#[test]
fn names_are_checked_for_length() {
    let long = Name::Path(PathBuf::from("/tmp").join("x".repeat(103)));
    assert!(matches!(Listener::bind(&long), Err(OsError::NameTooLong { have: 108, max: 107, .. })));
    assert!(matches!(Channel::connect(&Name::Abstract("x".repeat(108))), Err(OsError::NameTooLong { .. })));
    assert_eq!(Listener::bind(&Name::Path(PathBuf::new())).unwrap_err().errno(), Some(libc::EINVAL));
    assert_eq!(Listener::bind(&Name::Abstract(String::new())).unwrap_err().errno(), Some(libc::EINVAL));
    let directory = Scratch::new("long");
    let room = MAX_PATH - directory.path().as_os_str().len() - 1;
    Listener::bind(&Name::Path(directory.path().join("x".repeat(room)))).unwrap();
    let most = format!("{:0>107x}", crate::random::bits().unwrap());
    Listener::bind(&Name::Abstract(most)).unwrap();
}

#[test]
fn the_peer_has_a_pidfd_either_way() {
    let (one, _other) = Channel::pair().unwrap();
    for pidfd in [one.peer_pidfd().unwrap(), one.peer_pidfd_by_number().unwrap()] {
        assert!(!process::is_dead(pidfd.as_fd()).unwrap());
        let link = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        assert!(link.lines().any(|line| line == format!("Pid:\t{}", process::pid())), "{link}");
    }
}

#[test]
fn a_peer_that_hung_up_gets_no_pidfd_by_number() {
    let _quiet = forks::none();
    let (one, other) = Channel::pair().unwrap();
    drop(other);
    assert_eq!(one.peer_pidfd_by_number().unwrap_err().errno(), Some(libc::ESRCH));
}

#[test]
fn the_peers_process_is_seen_dying() {
    let name = Name::Abstract(format!("shm-bus-test-{:x}", crate::random::bits().unwrap()));
    let listener = Listener::bind(&name).unwrap();
    let Name::Abstract(text) = &name else { unreachable!() };
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "channel::tests::child_that_connects_and_waits", "--ignored"]);
    let mut child = forks::spawn(program.env("SHM_BUS_TEST_NAME", text).stdout(Stdio::null()));
    let server = loop {
        match listener.accept().unwrap() {
            Some(server) => break server,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(server.peer().unwrap().pid, child.id());
    let pidfds = [server.peer_pidfd().unwrap(), server.peer_pidfd_by_number().unwrap()];
    assert!(pidfds.iter().all(|pidfd| !process::is_dead(pidfd.as_fd()).unwrap()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(pidfds.iter().all(|pidfd| process::is_dead(pidfd.as_fd()).unwrap()));
    assert!(server.hung_up().unwrap());
    assert!(server.peer_pidfd_by_number().is_err());
}

#[test]
#[ignore = "the child process of another test"]
fn child_that_connects_and_waits() {
    let Ok(name) = std::env::var("SHM_BUS_TEST_NAME") else {
        return;
    };
    let _channel = Channel::connect(&Name::Abstract(name)).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_label_is_there_or_is_not() {
    let (one, _other) = Channel::pair().unwrap();
    if let Some(label) = one.peer_label().unwrap() {
        assert!(!label.is_empty() && !label.contains('\0'));
    }
}

#[test]
fn unix_sockets_are_known_as_such() {
    let (one, _other) = Channel::pair().unwrap();
    assert!(is_unix_socket(one.as_fd()).unwrap());
    assert!(!is_unix_socket(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).unwrap());
    assert!(!is_unix_socket(pipe().0.as_fd()).unwrap());
}

#[test]
fn a_listener_can_be_handed_over_and_outlives_its_maker() {
    let _quiet = forks::none();
    let scratch = Scratch::new("handed");
    let name = Name::Path(scratch.path().join("s"));
    let first = Listener::bind(&name).unwrap();
    let second = Listener::from_fd(first.try_clone_fd().unwrap()).unwrap();
    assert!(!second.has_waiting().unwrap());
    drop(first);
    let one = Channel::connect(&name).unwrap();
    assert!(second.has_waiting().unwrap());
    let other = second.accept().unwrap().unwrap();
    assert!(!second.has_waiting().unwrap());
    assert_eq!(one.send(b"x", &[]).unwrap(), Sent::Done);
    assert_eq!(message(&other, &mut [0; 8]).0, 1);
    drop(second);
    assert_eq!(Channel::connect(&name).unwrap_err().errno(), Some(libc::ECONNREFUSED));
}

#[test]
fn what_is_no_listener_is_not_taken_for_one() {
    let (one, _other) = Channel::pair().unwrap();
    let (reader, _writer) = pipe();
    let stream: OwnedFd = std::os::unix::net::UnixDatagram::unbound().unwrap().into();
    for fd in [one.as_fd().try_clone_to_owned().unwrap(), reader, stream] {
        assert!(matches!(Listener::from_fd(fd), Err(OsError::WrongKind { .. })));
    }
}
