//! Attaching where the kernel, or a sandbox around the process, refuses something: one clear error, and nothing is left.
#![allow(missing_docs)]

mod common;

use common::Scratch;
use shm_bus::{Bus, BusError};

/// One instruction of a filter program.
fn instruction(code: u32, operand: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: if_true, jf: if_false, k: operand }
}

/// From here on, in this thread only, these system calls fail; with an operation only if it is their second argument.
fn forbid(calls: &[(libc::c_long, Option<u32>)], errno: i32) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_ulong};
    let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let give = |action| instruction(BPF_RET | BPF_K, action, 0, 0);
    let skip_unless = |value, count| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count);
    // struct seccomp_data: the number is at byte 0, the low half of the second argument at byte 24.
    let mut program = Vec::new();
    for (number, operation) in calls {
        program.extend([load(0), skip_unless(*number as u32, if operation.is_some() { 3 } else { 1 })]);
        program.extend(operation.iter().flat_map(|operation| [load(24), skip_unless(*operation, 1)]));
        program.push(give(libc::SECCOMP_RET_ERRNO | errno as u32));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let (zero, one, mode): (c_ulong, c_ulong, c_ulong) = (0, 1, c_ulong::from(libc::SECCOMP_MODE_FILTER));
    // SAFETY: both calls read their arguments only; `filter` points at `program`, which is alive. The filter can only
    // make calls of this thread fail.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter), 0);
    }
}

/// What attaching says in a thread where those calls are forbidden: as the founder, and with a bus to join.
fn without(calls: &[(libc::c_long, Option<u32>)], errno: i32) -> [Result<(), BusError>; 2] {
    let scratch = Scratch::new();
    let attach = || {
        std::thread::scope(|threads| {
            let attached = threads.spawn(|| {
                forbid(calls, errno);
                Bus::attach("test", &scratch.options()).map(drop)
            });
            attached.join().unwrap()
        })
    };
    let founding = attach();
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "{founding:?}");
    let master = scratch.attach();
    let joining = attach();
    let next = scratch.attach();
    assert!(master.is_master());
    drop(next);
    [founding, joining]
}

#[test]
fn a_call_that_the_bus_cannot_do_without_is_named() {
    let missing = [
        (libc::SYS_memfd_create, None, "memfd_create"),
        (libc::SYS_futex, Some(libc::FUTEX_WAIT_BITSET as u32), "FUTEX_WAIT_BITSET"),
        (libc::SYS_pidfd_open, None, "pidfd_open"),
        (libc::SYS_eventfd2, None, "eventfd2"),
        (libc::SYS_fcntl, Some(libc::F_ADD_SEALS as u32), "F_ADD_SEALS"),
    ];
    for (number, operation, name) in missing {
        for errno in [libc::ENOSYS, libc::EPERM] {
            for outcome in without(&[(number, operation)], errno) {
                let error = outcome.unwrap_err();
                assert_eq!(error.code(), "ERR_SHM_BUS_UNSUPPORTED", "{error}");
                let text = error.to_string();
                assert!(text.contains(name) && text.contains("seccomp"), "{text}");
            }
        }
    }
}

#[test]
fn any_other_call_that_fails_is_an_error_and_leaves_nothing() {
    let failing = [
        (libc::SYS_ftruncate, libc::ENOMEM),
        (libc::SYS_fallocate, libc::ENOSPC),
        (libc::SYS_madvise, libc::ENOMEM),
        (libc::SYS_socket, libc::EMFILE),
        (libc::SYS_socketpair, libc::EMFILE),
        (libc::SYS_bind, libc::EACCES),
        (libc::SYS_listen, libc::EOPNOTSUPP),
        (libc::SYS_connect, libc::EACCES),
        (libc::SYS_sendmsg, libc::ENOBUFS),
        (libc::SYS_recvmsg, libc::ENOMEM),
        (libc::SYS_setsockopt, libc::EPERM),
        (libc::SYS_epoll_create1, libc::EMFILE),
        (libc::SYS_epoll_ctl, libc::ENOSPC),
        (libc::SYS_fstatfs, libc::EACCES),
        (libc::SYS_fcntl, libc::EMFILE),
    ];
    for (number, errno) in failing {
        for error in without(&[(number, None)], errno).into_iter().filter_map(Result::err) {
            let codes = ["ERR_SHM_BUS_SYSTEM", "ERR_SHM_BUS_UNSUPPORTED", "ERR_SHM_BUS_RUNTIME_DIRECTORY"];
            assert!(codes.contains(&error.code()), "call {number}: {} {error}", error.code());
        }
    }
    // No thread can be started.
    let clones = [(libc::SYS_clone3, None), (libc::SYS_clone, None)];
    for outcome in without(&clones, libc::EAGAIN) {
        assert_eq!(outcome.unwrap_err().code(), "ERR_SHM_BUS_SYSTEM");
    }
}
