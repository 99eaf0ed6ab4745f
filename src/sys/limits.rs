//! Resource limits, see prlimit(2). Units are the kernel's: bytes, seconds, microseconds or a count. Any thread.

use crate::unit::Resource;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// What the kernel calls `struct rlimit64`, the same on every machine.
#[repr(C)]
pub(super) struct Pair {
    /// The limit in force.
    pub(super) soft: u64,
    /// What it may be raised to.
    pub(super) hard: u64,
}

/// The kernel's number of a resource (`RLIMIT_CPU` …).
pub fn rlimit_number(resource: Resource) -> i32 {
    let number = match resource {
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Stack => libc::RLIMIT_STACK,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Rss => libc::RLIMIT_RSS,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::As => libc::RLIMIT_AS,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Locks => libc::RLIMIT_LOCKS,
        Resource::Sigpending => libc::RLIMIT_SIGPENDING,
        Resource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Resource::Nice => libc::RLIMIT_NICE,
        Resource::Rtprio => libc::RLIMIT_RTPRIO,
        Resource::Rttime => libc::RLIMIT_RTTIME,
    };
    // The C libraries disagree about the sign of the type; the numbers are small.
    number as i32
}

/// This process's own limit: (soft, hard), `u64::MAX` for none.
///
/// # Errors
/// `EINVAL` if there is no such resource.
pub fn limit(resource: i32) -> io::Result<(u64, u64)> {
    let mut old = Pair { soft: 0, hard: 0 };
    let none: *const Pair = std::ptr::null();
    // SAFETY: prlimit64(2) writes two 64-bit numbers to `old`, which has room for them.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut old) };
    if done == 0 { Ok((old.soft, old.hard)) } else { Err(io::Error::last_os_error()) }
}

/// Sets this process's own limit.
///
/// # Errors
/// `EPERM` above the hard limit without `CAP_SYS_RESOURCE`; `EINVAL` if `soft` is above `hard`.
pub fn set_limit(resource: i32, soft: u64, hard: u64) -> io::Result<()> {
    let new = Pair { soft, hard };
    let none: *mut Pair = std::ptr::null_mut();
    // SAFETY: prlimit64(2) reads two 64-bit numbers from `new`.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const new, none) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many descriptors are kept for orders and for starting services: what others bring gets none of them.
const RESERVE: u64 = 64;

/// Whether a descriptor that somebody has brought takes one of the last: the kernel gives the lowest number that is
/// free, so a high one means that hardly any is left.
pub fn is_scarce(fd: BorrowedFd<'_>) -> bool {
    let (soft, _) = limit(libc::RLIMIT_NOFILE as i32).unwrap_or((u64::MAX, u64::MAX));
    let number = u64::try_from(fd.as_raw_fd()).unwrap_or(0);
    number >= soft.saturating_sub(RESERVE.min(soft / 4))
}

/// Whether the next descriptor would be one of the last: for who had better not take it at all. `like`: one that is open.
pub fn would_be_scarce(like: BorrowedFd<'_>) -> bool {
    super::fd::dup(like).map_or(true, |next| is_scarce(next.as_fd()))
}

/// The first port that everybody may bind: below it CAP_NET_BIND_SERVICE is needed.
pub fn first_free_port() -> u16 {
    first_number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024)
}

/// The first of the ports that the kernel gives to clients.
pub fn first_local_port() -> u16 {
    first_number("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or(32768)
}

fn first_number(path: &str) -> Option<u16> {
    std::fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::isolated;
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let soft_of = |title: &str| {
            let line = limits.lines().find(|line| line.starts_with(title)).unwrap();
            let word = line[title.len()..].split_whitespace().next().unwrap().to_owned();
            if word == "unlimited" { u64::MAX } else { word.parse().unwrap() }
        };
        for (resource, title) in [
            (Resource::Cpu, "Max cpu time"),
            (Resource::Stack, "Max stack size"),
            (Resource::Core, "Max core file size"),
            (Resource::Nofile, "Max open files"),
            (Resource::Nproc, "Max processes"),
            (Resource::Memlock, "Max locked memory"),
            (Resource::Sigpending, "Max pending signals"),
            (Resource::Msgqueue, "Max msgqueue size"),
            (Resource::Rttime, "Max realtime timeout"),
        ] {
            assert_eq!(limit(rlimit_number(resource)).unwrap().0, soft_of(title), "{title}");
        }
    }

    #[test]
    fn the_last_descriptors_are_kept() {
        isolated("sys::limits::tests::the_last_descriptors_are_kept", || {
            use nix::fcntl::{FcntlArg, fcntl};
            use std::os::fd::{FromRawFd, OwnedFd};
            let nofile = rlimit_number(Resource::Nofile);
            let input = std::io::stdin();
            for (limit, first) in [(1024, 1024 - 64), (100, 75)] {
                set_limit(nofile, limit, limit_of(nofile)).unwrap();
                let numbered = |number: i32| {
                    let raw = fcntl(input.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(number)).unwrap();
                    assert_eq!(raw, number);
                    // SAFETY: the kernel has just made it for us.
                    unsafe { OwnedFd::from_raw_fd(raw) }
                };
                assert!(!is_scarce(numbered(first - 1).as_fd()));
                assert!(is_scarce(numbered(first).as_fd()) && is_scarce(numbered(limit as i32 - 1).as_fd()));
                assert!(!would_be_scarce(input.as_fd()));
                let mut all = Vec::new();
                while !would_be_scarce(input.as_fd()) {
                    all.push(super::super::fd::dup(input.as_fd()).unwrap());
                    assert!(all.len() < limit as usize);
                }
                // None is left at all.
                while let Ok(more) = super::super::fd::dup(input.as_fd()) {
                    all.push(more);
                }
                assert!(would_be_scarce(input.as_fd()));
            }
        });
    }

    /// The hard limit.
    fn limit_of(resource: i32) -> u64 {
        limit(resource).unwrap().1
    }

    #[test]
    fn a_limit_is_set_and_read_back() {
        isolated("sys::limits::tests::a_limit_is_set_and_read_back", || {
            let core = rlimit_number(Resource::Core);
            set_limit(core, 0, 4096).unwrap();
            assert_eq!(limit(core).unwrap(), (0, 4096));
            assert_eq!(set_limit(core, 2, 1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        });
    }
}
