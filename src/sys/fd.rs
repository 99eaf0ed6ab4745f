//! Descriptors: pipes, copies, the limit on their number. Everything made here is close-on-exec. Any thread.

use super::limits;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Gives the file behind a descriptor to somebody.
///
/// # Errors
/// `EPERM` without CAP_CHOWN.
pub fn give_to(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    Ok(nix::unistd::fchown(fd, Some(uid.into()), Some(gid.into()))?)
}

/// Whether a read, write or accept waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// It waits until it can be done.
    Yes,
    /// It fails with `EAGAIN` instead.
    No,
}

/// A pipe, both ends blocking: (read end, write end). See pipe(2).
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Sets or clears `O_NONBLOCK`. It belongs to the open file description: everybody who shares it sees the change.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_blocking(fd: BorrowedFd<'_>, blocking: Blocking) -> io::Result<()> {
    let before = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let mut after = before;
    after.set(OFlag::O_NONBLOCK, blocking == Blocking::No);
    if after != before {
        fcntl(fd, FcntlArg::F_SETFL(after))?;
    }
    Ok(())
}

/// Whether `O_NONBLOCK` is set on the open file description.
///
/// # Errors
/// Those of fcntl(2).
pub fn blocking(fd: BorrowedFd<'_>) -> io::Result<Blocking> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    Ok(if flags.contains(OFlag::O_NONBLOCK) { Blocking::No } else { Blocking::Yes })
}

/// A copy of a descriptor, numbered 3 or more.
///
/// # Errors
/// `EMFILE`.
pub fn dup(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made `raw` for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Which file a descriptor is of: device and inode. For sockets, pipes and, from Linux 6.9 on, pidfds that is one number for
/// ever; anonymous inodes (inotify, seccomp) all have the same.
///
/// # Errors
/// Those of fstat(2).
pub fn identity(number: RawFd) -> io::Result<(u64, u64)> {
    // SAFETY: fstat(2) of a number that is not open is an error, nothing worse.
    let found = nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(number) })?;
    Ok((found.st_dev, found.st_ino))
}

/// Whether two descriptors are copies of one another: the same open file description. Where the kernel does not tell
/// (kcmp(2) is refused in some containers, F_DUPFD_QUERY is of Linux 6.10), the same file opened in the same way.
pub fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    const KCMP_FILE: i32 = 0;
    const F_DUPFD_QUERY: i32 = 1027;
    let (us, a_raw, b_raw) = (std::process::id(), a.as_raw_fd(), b.as_raw_fd());
    // SAFETY: takes numbers only.
    let compared = unsafe { libc::syscall(libc::SYS_kcmp, us, us, KCMP_FILE, a_raw, b_raw) };
    if compared >= 0 {
        return compared == 0;
    }
    // SAFETY: takes numbers only.
    let asked = unsafe { libc::fcntl(a_raw, F_DUPFD_QUERY, b_raw) };
    if asked >= 0 {
        return asked == 1;
    }
    let file = |fd: BorrowedFd<'_>| {
        let found = nix::sys::stat::fstat(fd).ok()?;
        // Anonymous inodes (memfds are none) all look alike.
        let nature = (found.st_mode & 0o170_000 != 0).then_some((found.st_dev, found.st_ino))?;
        Some((nature, fcntl(fd, FcntlArg::F_GETFL).ok()?))
    };
    file(a).is_some() && file(a) == file(b)
}

/// Whether poll(2) of it is answered by the kernel itself: sockets, pipes, the kernel's own objects and character devices.
/// A file of a file system in user space (FUSE) would be asked there, and may never answer.
pub fn polls_at_once(fd: BorrowedFd<'_>) -> bool {
    if super::sockopt::get_int(fd, libc::SOL_SOCKET, libc::SO_TYPE).is_ok() {
        return true;
    }
    // Without a word to the file system: what it has said before is good enough for the type.
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string, and room for the structure that the kernel writes.
    let done = unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_TYPE, &raw mut found) };
    let kind = u32::from(found.stx_mode) & libc::S_IFMT;
    // Anonymous inodes (eventfd, pidfd, timerfd) have no type.
    done == 0 && matches!(kind, libc::S_IFIFO | libc::S_IFCHR | 0)
}

/// Another way into a pipe or a terminal, non-blocking and numbered 3 or more, whose other ways stay as they are; `None` if
/// it is neither, or somebody else's.
pub fn reopen_pipe(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let pipe = kind(fd)? == libc::S_IFIFO;
    (pipe || is_terminal(fd)).then(|| reopen(fd, libc::O_NONBLOCK | libc::O_NOCTTY))?
}

/// Another way into a regular file or a pipe for somebody else, who writes at its end only and changes nothing about ours;
/// `None` if it is neither, or somebody else's. Blocking.
pub fn reopen_to_append(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let writes = fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY);
    let fits = writes && matches!(kind(fd)?, libc::S_IFREG | libc::S_IFIFO);
    fits.then(|| reopen(fd, libc::O_APPEND))?
}

/// Lets everything that is written to a regular file go to its end, whoever else writes to it. Anything else is left alone.
pub fn append_only(fd: BorrowedFd<'_>) {
    if kind(fd) == Some(libc::S_IFREG)
        && let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL)
    {
        // There is nothing else to do if it cannot be.
        let _ = fcntl(fd, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_APPEND));
    }
}

/// Whether it is a terminal: isatty(3).
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    use std::io::IsTerminal;
    fd.is_terminal()
}

/// The kind of file, as in `st_mode`.
fn kind(fd: BorrowedFd<'_>) -> Option<libc::mode_t> {
    nix::sys::stat::fstat(fd).ok().map(|found| found.st_mode & libc::S_IFMT)
}

fn reopen(fd: BorrowedFd<'_>, flags: i32) -> Option<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let opened = File::options().write(true).custom_flags(flags).open(path).ok()?;
    let opened: OwnedFd = opened.into();
    if opened.as_raw_fd() < 3 { dup(opened.as_fd()).ok() } else { Some(opened) }
}

/// Writes what can be written at once to a socket, whatever mode it is in; anything else is written to by write(2).
///
/// # Errors
/// Those of sendmsg(2) and write(2): EAGAIN if there is no room.
pub fn write_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable for its length.
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    match usize::try_from(sent) {
        Ok(count) => Ok(count),
        Err(_) if nix::errno::Errno::last_raw() == libc::ENOTSOCK => Ok(nix::unistd::write(fd, bytes)?),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Waits until something can be written, or will never be (the reader has gone); whether it came to that in time.
pub fn writable(fd: BorrowedFd<'_>, within: crate::time::Span) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let milliseconds = u16::try_from(within.0 / 1_000_000).unwrap_or(u16::MAX);
    let mut polled = [PollFd::new(fd, PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::from(milliseconds)).is_ok_and(|ready| ready > 0)
}

/// Waits until something can be read, or never will be; whether it came to that in time.
pub fn readable(fd: BorrowedFd<'_>, within: crate::time::Span) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let time = if within.is_infinite() {
        PollTimeout::NONE
    } else {
        PollTimeout::from(u16::try_from(within.0.div_ceil(1_000_000)).unwrap_or(u16::MAX))
    };
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut polled, time).is_ok_and(|ready| ready > 0)
}

/// /dev/null, open for reading and writing.
///
/// # Errors
/// Those of open(2).
pub fn dev_null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// With others who share it.
    Shared,
    /// Alone.
    Exclusive,
}

/// Takes a lock that lives as long as the open file and its copies; never waits. See flock(2).
///
/// # Errors
/// `EWOULDBLOCK` if somebody holds it in a way that excludes this.
pub fn try_lock(fd: BorrowedFd<'_>, lock: Lock) -> io::Result<()> {
    let how = match lock {
        Lock::Shared => libc::LOCK_SH,
        Lock::Exclusive => libc::LOCK_EX,
    };
    // SAFETY: takes numbers only.
    let done = unsafe { libc::flock(fd.as_raw_fd(), how | libc::LOCK_NB) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a lock alone, as soon as nobody else holds it. See flock(2).
///
/// # Errors
/// Those of flock(2).
pub fn wait_for_lock(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers only.
    let done = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many descriptors this process has open now.
///
/// # Errors
/// Those of reading /proc/self/fd.
pub fn open_fds() -> io::Result<usize> {
    // One of the entries is the descriptor that reads the folder.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

/// Raises the soft limit on open descriptors to the hard one; tells what (soft, hard) were before.
///
/// A child needs the original back: programs that use select(2) break above 1024.
///
/// # Errors
/// Those of prlimit(2).
pub fn raise_nofile() -> io::Result<(u64, u64)> {
    let (soft, hard) = limits::limit(NOFILE)?;
    if soft < hard {
        limits::set_limit(NOFILE, hard, hard)?;
    }
    Ok((soft, hard))
}

/// The kernel's number of the limit on open descriptors.
const NOFILE: i32 = libc::RLIMIT_NOFILE as i32;

/// Opens /dev/null for each of 0, 1 and 2 that is not open, so that no later descriptor becomes "standard output".
///
/// # Errors
/// Those of open(2); `EBUSY` if another thread opens descriptors at the same time.
pub fn secure_std_fds() -> io::Result<()> {
    for fd in 0..3 {
        if is_open(fd) {
            continue;
        }
        // SAFETY: the path is a terminated string; the call touches no other memory.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // The lowest free number is given, and all below are open. It stays open for ever: nobody owns it.
        if opened != fd {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
    }
    Ok(())
}

/// Whether the number is an open descriptor of this process.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer; a number that is not open is an error, nothing worse.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Sets close-on-exec on every open descriptor numbered `first` or more, so that what our own parent left open by
/// mistake reaches no service. To be called at start-up, after the inherited sockets have been taken.
///
/// # Errors
/// Those of reading /proc/self/fd, on a kernel older than 5.11.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let from = libc::c_uint::try_from(first).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: close_range(2) with this flag only marks descriptors; it takes no pointer.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            from,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    };
    if done == 0 { Ok(()) } else { mark_each_from(first) }
}

/// What [`close_on_exec_from`] does without close_range(2).
fn mark_each_from(first: RawFd) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        if let Some(fd) = number.filter(|fd| *fd >= first) {
            // SAFETY: only a flag of a number that was open a moment ago; if it is not any more, it is EBADF.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Sets or clears close-on-exec of one descriptor: cleared only for what an upgrade hands to its successor.
///
/// # Errors
/// Those of fcntl(2).
pub fn set_close_on_exec(fd: BorrowedFd<'_>, closes: CloseOnExec) -> io::Result<()> {
    let flags = match closes {
        CloseOnExec::Yes => FdFlag::FD_CLOEXEC,
        CloseOnExec::No => FdFlag::empty(),
    };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Whether execve(2) closes a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOnExec {
    /// It is closed.
    Yes,
    /// It stays open in the new program.
    No,
}

/// A copy of the descriptor with this number, numbered 3 or more. The number itself stays what it is.
///
/// # Errors
/// `EBADF`, `EMFILE`.
pub fn copy_of(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let raw = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made `raw` for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Closes the descriptor with this number, 3 or more, which a program before this one has left to us.
pub fn close_number(number: RawFd) {
    if number >= 3 && is_open(number) {
        // SAFETY: it is open, and by the protocol of the caller (an upgrade) ours alone.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Takes over a descriptor that our own parent left open for us, and makes it close-on-exec.
///
/// # Errors
/// `EBADF` if it is not open; `EINVAL` below 3, because nobody owns the standard streams.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 3 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if !is_open(fd) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is open, and by the protocol of the caller (LISTEN_FDS, an upgrade) it is ours alone.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let borrowed = std::os::fd::AsFd::as_fd(&owned);
    set_close_on_exec(borrowed, CloseOnExec::Yes)?;
    debug_assert_eq!(owned.as_raw_fd(), fd);
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::super::testing::isolated;
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, IntoRawFd};

    fn is_cloexec(fd: BorrowedFd<'_>) -> bool {
        FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap()).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn everything_made_here_is_close_on_exec() {
        let (rx, tx) = pipe().unwrap();
        let null = dev_null().unwrap();
        let copy = dup(tx.as_fd()).unwrap();
        for fd in [&rx, &tx, &null, &copy] {
            assert!(is_cloexec(fd.as_fd()));
            assert!(fd.as_raw_fd() >= 3);
        }
    }

    #[test]
    fn a_copy_reaches_the_same_pipe() {
        let (rx, tx) = pipe().unwrap();
        let copy = dup(tx.as_fd()).unwrap();
        drop(tx);
        File::from(copy).write_all(b"hello").unwrap();
        let mut text = String::new();
        File::from(rx).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_pipe_can_be_made_not_to_wait_and_to_wait_again() {
        let (rx, _tx) = pipe().unwrap();
        assert_eq!(blocking(rx.as_fd()).unwrap(), Blocking::Yes);
        set_blocking(rx.as_fd(), Blocking::No).unwrap();
        assert_eq!(blocking(rx.as_fd()).unwrap(), Blocking::No);
        let file = File::from(rx);
        assert_eq!((&file).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        set_blocking(file.as_fd(), Blocking::Yes).unwrap();
        assert_eq!(blocking(file.as_fd()).unwrap(), Blocking::Yes);
    }

    #[test]
    fn open_descriptors_are_counted() {
        isolated("sys::fd::tests::open_descriptors_are_counted", || {
            let before = open_fds().unwrap();
            let pipe = pipe().unwrap();
            assert_eq!(open_fds().unwrap(), before + 2);
            drop(pipe);
            assert_eq!(open_fds().unwrap(), before);
        });
    }

    #[test]
    fn the_limit_on_descriptors_is_raised_and_the_original_told() {
        isolated("sys::fd::tests::the_limit_on_descriptors_is_raised_and_the_original_told", || {
            let (_, hard) = limits::limit(NOFILE).unwrap();
            limits::set_limit(NOFILE, 100, hard).unwrap();
            assert_eq!(raise_nofile().unwrap(), (100, hard));
            assert_eq!(limits::limit(NOFILE).unwrap(), (hard, hard));
            assert_eq!(raise_nofile().unwrap(), (hard, hard));
        });
    }

    #[test]
    fn closed_standard_streams_become_dev_null() {
        isolated("sys::fd::tests::closed_standard_streams_become_dev_null", || {
            // SAFETY: this process has nothing on its standard input that anybody would miss.
            unsafe { libc::close(0) };
            assert!(!is_open(0));
            secure_std_fds().unwrap();
            assert_eq!(std::fs::read_link("/proc/self/fd/0").unwrap().to_str(), Some("/dev/null"));
            assert!(is_open(1) && is_open(2));
        });
    }

    #[test]
    fn descriptors_left_open_by_mistake_are_marked() {
        isolated("sys::fd::tests::descriptors_left_open_by_mistake_are_marked", || {
            for mark in [close_on_exec_from, mark_each_from] {
                let (low, high) = pipe().unwrap();
                set_close_on_exec(low.as_fd(), CloseOnExec::No).unwrap();
                set_close_on_exec(high.as_fd(), CloseOnExec::No).unwrap();
                mark(high.as_raw_fd()).unwrap();
                assert!(is_cloexec(high.as_fd()));
                assert!(!is_cloexec(low.as_fd()));
            }
        });
    }

    #[test]
    fn an_inherited_descriptor_is_taken_over_once_it_is_open() {
        isolated("sys::fd::tests::an_inherited_descriptor_is_taken_over_once_it_is_open", || {
            let (rx, tx) = pipe().unwrap();
            set_close_on_exec(rx.as_fd(), CloseOnExec::No).unwrap();
            let taken = inherited(rx.into_raw_fd()).unwrap();
            assert!(is_cloexec(taken.as_fd()));
            drop(tx);
            assert_eq!(inherited(1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(inherited(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
        });
    }
}
