//! Who else refers to a process's socket: further descriptors of it (dup(2)), poll sets that it was added to, rings.
//! proc_pid_fd(5), proc_pid_fdinfo(5), epoll_ctl(2).
//!
//! A socket that is put in place of another one ([`super::seccomp::Listener::replace`]) is another file: a poll set to
//! which the old one was added knows nothing of it, and a program that waits there would wait for ever. So what refers
//! to the old file is looked up, and made to refer to the new one.

use super::seccomp::copy_fd;
use nix::libc;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A socket in a poll set, as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The process's descriptor of the poll set.
    pub epoll: i32,
    /// The number that the socket had when it was added: with the file, what it is known by.
    pub number: i32,
    /// What is waited for, with flags.
    pub events: u32,
    /// What the process gets to know it by.
    pub data: u64,
}

/// What of one process refers to a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Its descriptors of it.
    pub numbers: Vec<i32>,
    /// Where it is waited for.
    pub registrations: Vec<Registration>,
    /// An io_uring of the process has files or waits of its own: what it refers to cannot be seen.
    pub in_ring: bool,
}

/// Looks for what a process, or a thread with descriptors of its own, has of the socket with this inode number.
///
/// # Errors
/// What reading /proc says: `EACCES` where we may not look.
pub fn of(process: i32, inode: u64) -> io::Result<References> {
    let mut found = References::default();
    let socket = format!("socket:[{inode}]");
    let mut polls = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // It may be closed by now.
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        match target.to_str() {
            Some(name) if name == socket => found.numbers.push(number),
            Some("anon_inode:[eventpoll]") => polls.push(number),
            Some("anon_inode:[io_uring]") => found.in_ring |= ring_refers(&info(process, number)),
            _ => {}
        }
    }
    for epoll in polls {
        let text = info(process, epoll);
        found.registrations.extend(text.lines().filter_map(|line| registration(line, epoll, inode)));
    }
    found.numbers.sort_unstable();
    Ok(found)
}

/// The inode number of a thread's socket; `None` if the descriptor is none.
pub fn inode_of(tid: i32, fd: i32) -> Option<u64> {
    let target = fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn info(process: i32, number: i32) -> String {
    fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default()
}

/// `tfd:        5 events:       19 data: ffffffffffffffff  pos:0 ino:1f2e sdev:9`
fn registration(line: &str, epoll: i32, inode: u64) -> Option<Registration> {
    let (_, rest) = line.split_once("tfd:")?;
    let (number, rest) = rest.split_once("events:")?;
    let (events, rest) = rest.split_once("data:")?;
    let (data, rest) = rest.split_once("pos:")?;
    let (_, rest) = rest.split_once("ino:")?;
    let found = u64::from_str_radix(rest.split_ascii_whitespace().next()?, 16).ok()?;
    if found != inode {
        return None;
    }
    Some(Registration {
        epoll,
        number: number.trim().parse().ok()?,
        events: u32::from_str_radix(events.trim(), 16).ok()?,
        data: u64::from_str_radix(data.trim(), 16).ok()?,
    })
}

/// Whether an io_uring has registered files, or waits on some.
fn ring_refers(info: &str) -> bool {
    let files = info.lines().find_map(|line| line.strip_prefix("UserFiles:"));
    let has_files = files.and_then(|count| count.trim().parse().ok()).is_some_and(|count: u32| count > 0);
    let waits = info.split_once("PollList:").is_some_and(|(_, list)| list.contains("op="));
    has_files || waits
}

/// Adds `socket`, which by now stands in place of the old one, to a poll set of the process or thread, as the old one was.
///
/// The kernel knows it by the number that it has where it is added. That number may be something else's here, so it is
/// done by a thread with a table of descriptors of its own; this waits for it, for as long as three system calls take.
///
/// # Errors
/// Those of pidfd_getfd(2), unshare(2) and epoll_ctl(2). One that is there already is no error.
pub fn carry_over(process: i32, socket: BorrowedFd<'_>, what: &Registration) -> io::Result<()> {
    let epoll = copy_fd(process, what.epoll)?;
    std::thread::scope(|scope| {
        let add = || add_as(epoll.as_raw_fd(), socket.as_raw_fd(), what);
        let thread = std::thread::Builder::new().name("epoll".into()).stack_size(64 * 1024);
        let done = thread.spawn_scoped(scope, add)?.join();
        done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// On a thread that ends with this: its descriptors are nobody else's from here on.
fn add_as(mut epoll: i32, socket: i32, what: &Registration) -> io::Result<()> {
    // SAFETY: takes a number; only this thread's table is copied.
    check(unsafe { libc::unshare(libc::CLONE_FILES) })?;
    if epoll == what.number {
        // SAFETY: takes a number.
        epoll = check(unsafe { libc::dup(epoll) })?;
    }
    if socket != what.number {
        // SAFETY: takes numbers; what is replaced is this thread's copy.
        check(unsafe { libc::dup3(socket, what.number, libc::O_CLOEXEC) })?;
    }
    let mut event = libc::epoll_event { events: what.events, u64: what.data };
    // SAFETY: the kernel reads `event`, which is alive.
    let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, what.number, &raw mut event) };
    match check(added) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.map(drop),
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};

    fn socket() -> OwnedFd {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap()
    }

    #[test]
    fn every_reference_of_a_process_is_found() {
        let own = socket();
        let second = own.try_clone().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(&second, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, u64::MAX - 5)).unwrap();
        let inode = super::super::socket::inode(own.as_fd()).unwrap();
        let found = of(super::super::process::pid(), inode).unwrap();
        let mut numbers = [own.as_raw_fd(), second.as_raw_fd()];
        numbers.sort_unstable();
        assert_eq!(found.numbers, numbers);
        assert!(!found.in_ring);
        let [registration] = found.registrations.as_slice() else { panic!("{found:?}") };
        assert_eq!((registration.epoll, registration.number), (epoll.0.as_raw_fd(), second.as_raw_fd()));
        assert_eq!(registration.data, u64::MAX - 5);
        let flags = (EpollFlags::EPOLLIN | EpollFlags::EPOLLET).bits() as u32;
        assert_eq!(registration.events & flags, flags);
        assert_eq!(of(super::super::process::pid(), u64::MAX).unwrap(), References::default());
    }

    #[test]
    fn what_was_waited_for_is_waited_for_on_the_new_socket() {
        let old = socket();
        let number = old.as_raw_fd();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(&old, EpollEvent::new(EpollFlags::EPOLLIN, 77)).unwrap();
        let inode = super::super::socket::inode(old.as_fd()).unwrap();
        let process = super::super::process::pid();
        let [registration] = &of(process, inode).unwrap().registrations[..] else { panic!() };
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = held.as_raw_fd();
        carry_over(process, held.as_fd(), registration).unwrap();
        carry_over(process, held.as_fd(), registration).unwrap();
        assert_eq!((old.as_raw_fd(), held.as_raw_fd()), (number, before), "our own table is as it was");
        drop(old);
        let _client = TcpStream::connect(held.local_addr().unwrap()).unwrap();
        let mut events = [EpollEvent::empty(); 4];
        let count = epoll.wait(&mut events, EpollTimeout::from(5000_u16)).unwrap();
        assert_eq!((count, events[0].data()), (1, 77));
    }

    #[test]
    fn a_ring_with_files_or_waits_is_told_from_one_that_has_none() {
        assert!(!ring_refers("SqMask:\t0x3\nUserFiles:\t0\nUserBufs:\t0\nPollList:\nCqOverflowList:\n"));
        assert!(ring_refers("UserFiles:\t2\nPollList:\n"));
        assert!(ring_refers("UserFiles:\t0\nPollList:\n  op=6, task_works=0\n"));
        assert!(!ring_refers(""));
    }
}
