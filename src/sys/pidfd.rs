//! What a pidfd tells: whether its process lives, which process it is, how it has ended (pidfd_open(2), ioctl_pidfd(2)).

use super::fd;
use super::wait::WaitStatus;
use crate::time::Span;
use nix::sys::inotify::{InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

/// `struct pidfd_info` as it was first, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`.
const EXIT: u64 = 1 << 3;

/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: u64 = (3 << 30) | ((size_of::<Info>() as u64) << 16) | (0xff << 8) | 11;

/// Whether its process has ended; a zombie has.
pub fn is_over(pidfd: BorrowedFd<'_>) -> bool {
    fd::readable(pidfd, Span::ZERO)
}

/// The number that one process has for ever; `None` before Linux 6.9, where all have the same.
pub fn inode(pidfd: BorrowedFd<'_>) -> Option<u64> {
    // Where they are anonymous inodes, an inotify has the same.
    static ANONYMOUS: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let anonymous = *ANONYMOUS.get_or_init(|| {
        let other = Inotify::init(InitFlags::IN_CLOEXEC).ok()?;
        fd::identity(other.as_fd().as_raw_fd()).ok()
    });
    let own = fd::identity(pidfd.as_raw_fd()).ok()?;
    (own != anonymous?).then_some(own.1)
}

/// How a process that is not our child has ended, once it was reaped by whoever is its parent: that is waited for a little.
/// `None` before Linux 6.15, or if nobody reaps it.
pub fn status(pidfd: BorrowedFd<'_>, patience: Span) -> Option<WaitStatus> {
    let mut info = Info { mask: EXIT, ..Info::default() };
    let until = super::clock::now() + patience;
    loop {
        // SAFETY: the structure has the size that the request's number says, and lives through the call.
        let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
        if done == 0 && info.mask & EXIT != 0 {
            let status = info.exit_code;
            return Some(if libc::WIFSIGNALED(status) {
                WaitStatus::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
            } else {
                WaitStatus::Exited(libc::WEXITSTATUS(status))
            });
        }
        info.mask = EXIT;
        let rest = until.since(super::clock::now());
        if rest.is_zero() || !hung_up(pidfd, rest) {
            return None;
        }
    }
}

/// Waits until its process was reaped; whether it was in time.
fn hung_up(pidfd: BorrowedFd<'_>, within: Span) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let milliseconds = u16::try_from(within.0.div_ceil(1_000_000)).unwrap_or(u16::MAX);
    let mut polled = [PollFd::new(pidfd, PollFlags::empty())];
    let ready = poll(&mut polled, PollTimeout::from(milliseconds)).is_ok_and(|ready| ready > 0);
    ready && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use super::super::process;
    use super::*;
    use std::process::Command;

    #[test]
    fn a_pidfd_tells_how_its_process_has_ended() {
        for (script, expected) in [
            ("exit 7", WaitStatus::Exited(7)),
            ("kill -9 $$", WaitStatus::Signaled { signal: 9, core: false }),
        ] {
            let mut child = Command::new("/bin/sh")
                .args(["-c", &format!("read x; {script}")])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pidfd = process::pidfd_open(child.id().cast_signed()).unwrap();
            assert!(!is_over(pidfd.as_fd()));
            assert_eq!(status(pidfd.as_fd(), Span::ZERO), None);
            drop(child.stdin.take());
            child.wait().unwrap();
            assert!(is_over(pidfd.as_fd()));
            // Only newer kernels tell.
            let told = status(pidfd.as_fd(), Span::from_millis(200));
            assert!(told.is_none() || told == Some(expected), "{told:?}");
        }
    }

    #[test]
    fn every_process_has_a_number_of_its_own_where_the_kernel_gives_one() {
        let us = process::pidfd_open(process::pid()).unwrap();
        let again = process::pidfd_open(process::pid()).unwrap();
        assert_eq!(inode(us.as_fd()), inode(again.as_fd()));
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let other = process::pidfd_open(child.id().cast_signed()).unwrap();
        assert!(inode(us.as_fd()).is_none() || inode(us.as_fd()) != inode(other.as_fd()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
