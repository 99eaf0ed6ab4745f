//! Waiting for descriptors: poll(2) on the signals, the self-pipe and one epoll that holds everything else. So a turn
//! costs what is ready, not what is registered, and allocates nothing. Level-triggered. Main thread only.

use super::{clock, fd};
use crate::time::Monotime;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The caller's own name of a registered descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

impl Token {
    /// The signals' descriptor, first of [`Poller::new`].
    pub const SIGNALS: Token = Token(u64::MAX);
    /// The self-pipe, second of [`Poller::new`].
    pub const WAKE: Token = Token(u64::MAX - 1);
}

/// What to wait for. Hang-ups and errors are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Something can be read, or accepted.
    pub read: bool,
    /// Something can be written, or a connect has ended.
    pub write: bool,
}

impl Interest {
    /// Reading.
    pub const READ: Interest = Interest { read: true, write: false };
    /// Writing.
    pub const WRITE: Interest = Interest { read: false, write: true };
    /// Both.
    pub const BOTH: Interest = Interest { read: true, write: true };
    /// Neither: only that the other side, or the socket itself, is gone.
    pub const HANGUP_ONLY: Interest = Interest { read: false, write: false };

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.read);
        flags.set(EpollFlags::EPOLLOUT, self.write);
        flags
    }
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// A read tells something: data, the end, or the priority event of [`Poller::add_priority`]. Set on a hang-up too: a
    /// pipe whose writers are gone reports nothing else.
    pub readable: bool,
    /// A write does not block.
    pub writable: bool,
    /// The other side is gone; of a listener: it was shut down.
    pub hangup: bool,
    /// An error is pending.
    pub error: bool,
}

/// How many ready descriptors one turn takes from the kernel. The others come first the next time.
const BATCH: usize = 128;

/// The poll set.
#[derive(Debug)]
pub struct Poller {
    signals: OwnedFd,
    wake: OwnedFd,
    epoll: Epoll,
    ready: Box<[EpollEvent; BATCH]>,
}

impl Poller {
    /// A poll set of the two descriptors that it always watches for reading; it keeps copies of them.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new(signals: BorrowedFd<'_>, wake: BorrowedFd<'_>) -> io::Result<Poller> {
        Ok(Poller {
            signals: fd::dup(signals)?,
            wake: fd::dup(wake)?,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ready: Box::new([EpollEvent::empty(); BATCH]),
        })
    }

    /// Starts to watch a descriptor. [`Poller::remove`] it before it is closed: as long as another process has a copy,
    /// the kernel would go on reporting it.
    ///
    /// # Errors
    /// `EEXIST` if it is watched already; `EPERM` for a plain file; `ENOSPC` above fs.epoll.max_user_watches.
    pub fn add(&mut self, token: Token, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(interest.flags(), token.0))?)
    }

    /// Changes what to wait for, and the token.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn change(&mut self, token: Token, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(interest.flags(), token.0))?)
    }

    /// Watches for reading, told once when something arrives: then silent until [`Poller::rearm_edge_oneshot`].
    ///
    /// # Errors
    /// As [`Poller::add`].
    pub fn add_edge_oneshot(&mut self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(edge_oneshot(), token.0))?)
    }

    /// Arms again what [`Poller::add_edge_oneshot`] has told. What is there to read at that moment is told at once.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn rearm_edge_oneshot(&mut self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(edge_oneshot(), token.0))?)
    }

    /// Tells from now on each time that something arrives, once; what is there to read at this moment is told at once.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn change_to_edge(&mut self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags, token.0))?)
    }

    /// Watches for POLLPRI: cgroup.events and other files that announce their change. Told as `readable` (with `error`,
    /// as the kernel does) until the file is read again.
    ///
    /// # Errors
    /// As [`Poller::add`].
    pub fn add_priority(&mut self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLPRI, token.0))?)
    }

    /// Stops watching. Nothing of it is told any more, not even what was ready.
    ///
    /// # Errors
    /// `ENOENT` if it is not watched.
    pub fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Waits until something is ready or `deadline` has come, never less (`None`: no limit), and replaces `out` by what is
    /// ready: signals first, then the self-pipe. Empty at the deadline. Interruptions by signals are not noticed.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn wait(&mut self, deadline: Option<Monotime>, out: &mut Vec<(Token, Readiness)>) -> io::Result<()> {
        out.clear();
        loop {
            let mut fixed = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN),
            ];
            let (timeout, is_last) = until(deadline);
            let count = match ppoll(&mut fixed, timeout, None) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let [signals, wake, others] = fixed.map(|slot| slot.revents().unwrap_or(PollFlags::empty()));
            for (token, flags) in [(Token::SIGNALS, signals), (Token::WAKE, wake)] {
                if !flags.is_empty() {
                    out.push((token, of_poll(flags)));
                }
            }
            if !others.is_empty() {
                self.take(out)?;
            }
            // The epoll may have nothing to tell after all, if the reason went away in between.
            if !out.is_empty() || (count == 0 && is_last) {
                return Ok(());
            }
        }
    }

    /// Appends what the epoll has ready.
    fn take(&mut self, out: &mut Vec<(Token, Readiness)>) -> io::Result<()> {
        let count = match self.epoll.wait(&mut self.ready[..], EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        out.extend(
            self.ready.iter().take(count).map(|event| (Token(event.data()), of_epoll(event.events()))),
        );
        Ok(())
    }
}

/// Told once, at a change.
fn edge_oneshot() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLET | EpollFlags::EPOLLONESHOT
}

/// The longest single wait: seconds fit into a 32-bit `time_t` then.
const LONGEST_NS: u64 = 1_000_000_000_000_000;

/// How long to wait for `deadline`, and whether nothing is left to wait for after that.
fn until(deadline: Option<Monotime>) -> (Option<TimeSpec>, bool) {
    let Some(deadline) = deadline else {
        return (None, false);
    };
    let left = deadline.since(clock::now()).0;
    let part = left.min(LONGEST_NS);
    // Both numbers are far below the limits of their types.
    let timeout = TimeSpec::new((part / 1_000_000_000) as _, (part % 1_000_000_000) as _);
    (Some(timeout), left == 0)
}

fn of_poll(flags: PollFlags) -> Readiness {
    Readiness {
        readable: flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP),
        writable: false,
        hangup: flags.contains(PollFlags::POLLHUP),
        error: flags.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL),
    }
}

fn of_epoll(flags: EpollFlags) -> Readiness {
    Readiness {
        readable: flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLPRI),
        writable: flags.contains(EpollFlags::EPOLLOUT),
        hangup: flags.contains(EpollFlags::EPOLLHUP),
        error: flags.contains(EpollFlags::EPOLLERR),
    }
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
