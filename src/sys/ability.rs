//! What this kernel and container let us do: each question is answered by trying, and leaves nothing behind.
//! Main thread, nothing else running: one answer starts a process.

use super::spawn::{self, Plan, Traps};
use super::{capability, fd, flows, limits, seccomp, sockdiag, socket, steer, tally, wait};
use crate::unit::{Address, Listen, ListenKind, Resource, undeclared_socket};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// Whether a process can be put under a filter whose calls come to us, and whether that costs no_new_privs.
///
/// # Errors
/// `EBUSY` under another supervisor's filter; `ENOSYS`, `EPERM`, `EINVAL` where it is forbidden or not known.
pub fn interception() -> io::Result<bool> {
    if !seccomp::SUPPORTED || !seccomp::available() {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    }
    let null = fd::dev_null()?;
    let mut plan = Plan::new(c"/proc/self/exe".into(), [null.as_fd(); 3]);
    plan.argv.push(c"--version".into());
    plan.traps = Traps::Sockets;
    let process = spawn::spawn(&plan).map_err(|error| io::Error::from_raw_os_error(error.errno))?;
    let listener = process.listener;
    wait::reap(process.pid)?;
    match listener {
        Some(Ok(_)) => Ok(!capability::has(capability::SYS_ADMIN)),
        Some(Err(errno)) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    }
}

/// Whether descriptors of other processes can be copied (pidfd_getfd(2)): tried on this one, which Yama does not
/// concern, so that it is asked too.
///
/// # Errors
/// `EPERM` or `ENOSYS`.
pub fn descriptor_copies() -> io::Result<()> {
    let null = fd::dev_null()?;
    seccomp::copy_fd(super::process::pid(), std::os::fd::AsRawFd::as_raw_fd(&null))?;
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim().parse().unwrap_or(0) {
        0 | 1 => Ok(()),
        2 if capability::has(capability::SYS_PTRACE) => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// Whether a port below those that everybody may bind can be bound.
///
/// # Errors
/// `EACCES`.
pub fn low_ports() -> io::Result<()> {
    for port in (1..limits::first_free_port()).rev() {
        match std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Whether clone3(2) is there.
///
/// # Errors
/// `ENOSYS` or `EPERM`.
pub fn clone3() -> io::Result<()> {
    let nothing: *const u8 = std::ptr::null();
    // SAFETY: of a structure of no bytes nothing is read: the kernel refuses it with EINVAL.
    let done = unsafe { libc::syscall(libc::SYS_clone3, nothing, 0) };
    let error = io::Error::last_os_error();
    if done >= 0 || error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
}

/// Whether a TCP address can be steered by BPF.
///
/// # Errors
/// What setsockopt(2) says, or why no loopback port could be bound.
pub fn steering() -> io::Result<()> {
    let address = Address::Inet((Ipv4Addr::LOCALHOST, 0).into());
    let listen = Listen { kind: ListenKind::Stream, address };
    let options = undeclared_socket("doctor", listen.clone()).options;
    let opened = socket::open(&listen, &options, socket::Place::FirstSlot)
        .map_err(|error| io::Error::other(error.text))?;
    steer::attach(opened.fd.as_fd(), &steer::to_first())
}

/// Whether UDP can be steered, and new connections counted where TCP is.
///
/// # Errors
/// Those of bpf(2): `EPERM` without CAP_BPF.
pub fn programs() -> io::Result<()> {
    let address = Address::Inet((Ipv4Addr::LOCALHOST, 0).into());
    let listen = Listen { kind: ListenKind::Stream, address };
    let options = undeclared_socket("doctor", listen.clone()).options;
    let tally = tally::Tally::new()?;
    let opened = socket::open(&listen, &options, socket::Place::FirstSlot)
        .map_err(|error| io::Error::other(error.text))?;
    let canary = steer::Canary { index: 0, weight: 50, draw: steer::Draw::Connection };
    let plan = steer::Plan { serving: 0, canary: Some(canary), probes: Vec::new() };
    tally.attach(opened.fd.as_fd(), &plan)?;
    flows::Flows::new(64, crate::time::Span::from_secs(1)).map(drop)
}

/// Whether the kernel lists connections (sock_diag(7)).
///
/// # Errors
/// What netlink says.
pub fn connection_lists() -> io::Result<()> {
    sockdiag::tcp_rows(1, &[sockdiag::state::LISTEN]).map(drop)
}

/// Whether queued connections can be moved to another listener (`net.ipv4.tcp_migrate_req`).
pub fn migration() -> bool {
    steer::migrates()
}

/// The most descriptors that this process may have.
///
/// # Errors
/// Those of prlimit(2).
pub fn most_descriptors() -> io::Result<u64> {
    limits::limit(limits::rlimit_number(Resource::Nofile)).map(|(_, hard)| hard)
}
