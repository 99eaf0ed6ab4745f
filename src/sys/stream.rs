//! Connected Unix stream sockets: bytes with descriptors (`SCM_RIGHTS` of unix(7)), splice(2), waiting with a
//! deadline. Nothing here blocks but [`wait`]. Any thread.

use super::clock;
use crate::time::Monotime;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, IoSlice};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that a supervisor has left open for this process (sd_listen_fds(3)), and makes it
/// close-on-exec. Each number may be taken once.
///
/// # Errors
/// `EBADF` if it is not open; `EINVAL` below 3, because nobody owns the standard streams.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    if fd < 3 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: F_GETFD takes no pointer; a number that is not open is an error, nothing worse.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the protocol of LISTEN_FDS it is ours and nobody else's in this process.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// What one attempt to read or write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes; at least one.
    Bytes(usize),
    /// The other side has closed: nothing will ever come, or can ever go.
    Ended,
    /// Not now: wait until the socket is ready.
    NotYet,
}

/// The most descriptors that the kernel carries with one message (`SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 253;

/// Words of a control buffer for one `SCM_RIGHTS` message of [`MAX_DESCRIPTORS`], with room to spare.
const CONTROL_WORDS: usize = 160;

/// Reads once. Descriptors that come with these bytes are appended to `descriptors`, close-on-exec.
///
/// As the kernel never glues what follows to a message with descriptors, and descriptors come with the first
/// byte of their message, whoever reads up to the end of a frame gets the next one's descriptors later.
///
/// # Errors
/// Those of recvmsg(2); `EMFILE` if descriptors were lost because this process can have no more.
pub fn receive<D: From<OwnedFd>>(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    descriptors: &mut Vec<D>,
) -> io::Result<Moved> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: msghdr is plain data: all zeroes is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message describes `buf` and `control`, which live through the call and are ours to write.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let moved = moved(count)?;
    take_descriptors(&message, descriptors);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(moved)
}

/// Takes ownership of what an `SCM_RIGHTS` message has brought.
fn take_descriptors<D: From<OwnedFd>>(message: &libc::msghdr, descriptors: &mut Vec<D>) {
    // SAFETY: the kernel has filled the header and the control buffer that it points to.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give a whole header within the buffer, or null.
        let header = unsafe { *next };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data follow their header in the same buffer.
            let data: *const RawFd = unsafe { libc::CMSG_DATA(next) }.cast();
            for index in 0..(header.cmsg_len as usize - empty) / size_of::<RawFd>() {
                // SAFETY: `cmsg_len` says how many numbers the kernel has written there.
                let place = unsafe { data.add(index) };
                // SAFETY: within the buffer, as above; it need not be aligned.
                let number = unsafe { place.read_unaligned() };
                // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
                let fd = unsafe { OwnedFd::from_raw_fd(number) };
                descriptors.push(fd.into());
            }
        }
        // SAFETY: `next` came from this message.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}

/// Writes once. The descriptors travel with the first byte; they have gone if any byte has.
///
/// # Errors
/// Those of sendmsg(2): `ETOOMANYREFS` if too many descriptors are under way. A peer that is gone is
/// [`Moved::Ended`], never a signal.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<Moved> {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    match sendmsg::<UnixAddr>(fd.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
        Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(Moved::NotYet),
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Ok(Moved::Ended),
        Err(error) => Err(error.into()),
    }
}

/// Moves up to `most` bytes between a pipe and a non-blocking socket without copying them through this
/// process (splice(2)). Descriptors that travel with them are lost.
///
/// # Errors
/// Those of splice(2).
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<Moved> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let none = std::ptr::null_mut();
    // SAFETY: both are open descriptors; no offsets are given, so nothing of ours is written to.
    let count = unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, most, flags) };
    moved(count)
}

fn moved(count: isize) -> io::Result<Moved> {
    if let Ok(count) = usize::try_from(count) {
        return Ok(if count == 0 { Moved::Ended } else { Moved::Bytes(count) });
    }
    match Errno::last() {
        Errno::EAGAIN | Errno::EINTR => Ok(Moved::NotYet),
        Errno::ECONNRESET | Errno::EPIPE => Ok(Moved::Ended),
        error => Err(error.into()),
    }
}

/// Asks for a pipe that holds `size` bytes; one that the kernel refuses stays as it is.
pub fn resize_pipe(pipe: BorrowedFd<'_>, size: usize) {
    let size = i32::try_from(size).unwrap_or(i32::MAX);
    // Without privileges a user's pipes are limited together: a smaller one works too.
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(size));
}

/// One descriptor to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'a> {
    fd: BorrowedFd<'a>,
    flags: PollFlags,
}

impl<'a> Watch<'a> {
    /// Until it can be read, or its other side is gone.
    pub fn read(fd: &'a impl AsFd) -> Watch<'a> {
        Watch { fd: fd.as_fd(), flags: PollFlags::POLLIN }
    }

    /// Until it can be written, or its other side is gone.
    pub fn write(fd: &'a impl AsFd) -> Watch<'a> {
        Watch { fd: fd.as_fd(), flags: PollFlags::POLLOUT }
    }

    /// Until its other side is gone.
    pub fn gone(fd: &'a impl AsFd) -> Watch<'a> {
        Watch { fd: fd.as_fd(), flags: PollFlags::empty() }
    }

    /// Until it can be read or written, or its other side is gone.
    pub fn read_write(fd: &'a impl AsFd) -> Watch<'a> {
        Watch { fd: fd.as_fd(), flags: PollFlags::POLLIN | PollFlags::POLLOUT }
    }
}

/// What a descriptor is ready for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// Reading will not say [`Moved::NotYet`].
    pub read: bool,
    /// Neither will writing.
    pub write: bool,
}

/// Waits until one of these is ready or the deadline has passed: then all are unready. Blocks.
///
/// # Errors
/// Those of poll(2).
pub fn wait<const N: usize>(watches: [Watch<'_>; N], deadline: Option<Monotime>) -> io::Result<[Ready; N]> {
    let mut set = watches.map(|watch| PollFd::new(watch.fd, watch.flags));
    loop {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                // Rounded up: a deadline is never early.
                let left = deadline.since(clock::now()).0.div_ceil(1_000_000);
                PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut set, timeout) {
            Ok(0) if deadline.is_some_and(|by| by > clock::now()) => {}
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    Ok(set.map(|fd| {
        let seen = fd.revents().unwrap_or(PollFlags::empty());
        Ready {
            read: seen.intersects(PollFlags::POLLIN | gone),
            write: seen.intersects(PollFlags::POLLOUT | gone),
        }
    }))
}

const _: () = assert!(
    CONTROL_WORDS * size_of::<u64>() >= MAX_DESCRIPTORS * size_of::<RawFd>() + size_of::<libc::cmsghdr>()
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn files(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap())).collect()
    }

    #[test]
    fn descriptors_come_with_the_first_byte_of_their_message_and_never_with_an_earlier_one() {
        let (a, b) = UnixStream::pair().unwrap();
        let sent = files(MAX_DESCRIPTORS);
        let borrowed: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
        assert_eq!(send(a.as_fd(), b"first", &[]).unwrap(), Moved::Bytes(5));
        assert_eq!(send(a.as_fd(), b"second", &borrowed).unwrap(), Moved::Bytes(6));
        let (mut buf, mut got): ([u8; 5], Vec<OwnedFd>) = ([0; 5], Vec::new());
        assert_eq!(receive(b.as_fd(), &mut buf, &mut got).unwrap(), Moved::Bytes(5));
        assert!(got.is_empty());
        assert_eq!(receive(b.as_fd(), &mut buf[..1], &mut got).unwrap(), Moved::Bytes(1));
        assert_eq!((got.len(), buf[0]), (MAX_DESCRIPTORS, b's'));
        assert_eq!(receive(b.as_fd(), &mut buf, &mut got).unwrap(), Moved::Bytes(5));
        assert_eq!(got.len(), MAX_DESCRIPTORS);
        assert_eq!(receive(b.as_fd(), &mut buf, &mut got).unwrap(), Moved::NotYet);
        let flags = nix::fcntl::fcntl(&got[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        drop(a);
        // A child of another test may have a copy for as long as it has not yet executed.
        wait([Watch::read(&b)], None).unwrap();
        assert_eq!(receive(b.as_fd(), &mut buf, &mut got).unwrap(), Moved::Ended);
        assert_eq!(send(b.as_fd(), b"x", &[]).unwrap(), Moved::Ended);
    }

    #[test]
    fn bytes_are_spliced_through_a_pipe() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (c, mut d) = UnixStream::pair().unwrap();
        let (rx, tx) = io::pipe().unwrap();
        resize_pipe(tx.as_fd(), 1 << 20);
        b.set_nonblocking(true).unwrap();
        assert_eq!(splice(b.as_fd(), tx.as_fd(), 10).unwrap(), Moved::NotYet);
        a.write_all(b"hello").unwrap();
        assert_eq!(splice(b.as_fd(), tx.as_fd(), 4).unwrap(), Moved::Bytes(4));
        assert_eq!(splice(rx.as_fd(), c.as_fd(), 4).unwrap(), Moved::Bytes(4));
        let mut buf = [0; 4];
        d.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hell");
    }

    #[test]
    fn waiting_ends_with_a_byte_an_end_or_the_deadline() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let soon = clock::now() + Span::from_millis(2);
        assert_eq!(wait([Watch::read(&b)], Some(soon)).unwrap(), [Ready::default()]);
        assert!(clock::now() >= soon);
        assert_eq!(wait([Watch::read_write(&b)], None).unwrap(), [Ready { read: false, write: true }]);
        a.write_all(b"x").unwrap();
        assert!(wait([Watch::read(&b)], None).unwrap()[0].read);
        let soon = clock::now() + Span::from_millis(2);
        assert_eq!(wait([Watch::gone(&b)], Some(soon)).unwrap(), [Ready::default()]);
        drop(a);
        assert!(wait([Watch::read(&b)], None).unwrap()[0].read);
        assert!(wait([Watch::gone(&b)], None).unwrap()[0].read);
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert!(wait([Watch::gone(&writer)], None).unwrap()[0].write);
    }
}
