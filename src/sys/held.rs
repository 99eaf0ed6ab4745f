//! What a socket that is there tells, and what is done with it: accept4(2), getpeername(2), poll(2), fcntl(2).
//!
//! Nothing here waits. Any thread may call it.

use super::message;
use super::socket::to_std;
use super::sockopt;
use crate::unit::{Address, Listen, ListenKind};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, SockaddrStorage, UnixAddr, getsockname};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Accepts one connection if one waits: never blocks for long, whatever mode the listener is in. The connection
/// is close-on-exec and blocking. `None` if nothing waits or it went away again.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
    if poll(&mut polled, PollTimeout::ZERO)? == 0 {
        return Ok(None);
    }
    match nix::sys::socket::accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        Ok(raw) => Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) })),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED | Errno::EPROTO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the open file description non-blocking (or blocking), for all of its holders.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let before = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let mut after = before;
    after.set(OFlag::O_NONBLOCK, on);
    if after != before {
        fcntl(fd, FcntlArg::F_SETFL(after))?;
    }
    Ok(())
}

/// Whether both directions of the socket were shut down by one of its holders: poll(2) says POLLHUP.
pub fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::empty())];
    let found = poll(&mut polled, PollTimeout::ZERO);
    found.is_ok_and(|n| n > 0)
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// The name that an AF_UNIX socket was bound to, as sock_diag(7) shows it: a path, or a NUL byte and a name.
/// `None` for other families and for nameless sockets.
pub fn unix_name(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let name: UnixAddr = getsockname(fd.as_raw_fd()).ok()?;
    if let Some(path) = name.path() {
        return Some(path.as_os_str().as_encoded_bytes().to_vec());
    }
    name.as_abstract().map(|name| [&[0], name].concat())
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// TCP; an IPv4 client of an IPv6 socket as IPv4.
    Inet(SocketAddr),
    /// AF_UNIX: its name if it was bound, a path or `@name`.
    Unix(Option<String>),
    /// AF_VSOCK.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
}

/// Who is at the other end of a connection.
pub fn remote(fd: BorrowedFd<'_>) -> io::Result<Remote> {
    let name: SockaddrStorage = nix::sys::socket::getpeername(fd.as_raw_fd())?;
    if let Some(at) = to_std(&name) {
        return Ok(Remote::Inet(SocketAddr::new(at.ip().to_canonical(), at.port())));
    }
    if let Some(vsock) = name.as_vsock_addr() {
        return Ok(Remote::Vsock { cid: vsock.cid(), port: vsock.port() });
    }
    let unix = name.as_unix_addr();
    let path = unix.and_then(UnixAddr::path).map(|path| path.display().to_string());
    let abstract_name = unix.and_then(UnixAddr::as_abstract);
    Ok(Remote::Unix(path.or_else(|| abstract_name.map(|n| format!("@{}", String::from_utf8_lossy(n))))))
}

/// Reads and throws away every message that waits on a datagram socket, a FIFO or a netlink socket, at most
/// `most` of them; how many.
pub fn discard(fd: BorrowedFd<'_>, most: usize) -> usize {
    let mut buffer = [0; 4096];
    for count in 0..most {
        let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
        if !poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0) {
            return count;
        }
        // A datagram that is longer is cut, and gone all the same. Its descriptors are closed where that may last.
        let taken = match message::recv(fd, &mut buffer, message::FDS_MAX) {
            Ok(received) => received.bytes > 0,
            Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {
                nix::unistd::read(fd, &mut buffer).is_ok_and(|bytes| bytes > 0)
            }
            Err(_) => false,
        };
        if !taken {
            return count;
        }
    }
    most
}

/// What a descriptor that somebody gave us is, in the words of a unit file. Errors: what no `Listen…` key names.
pub fn describe(fd: BorrowedFd<'_>) -> io::Result<Listen> {
    use std::os::unix::fs::FileTypeExt;
    let unknown = || io::Error::other("neither a socket nor a FIFO");
    let Ok(kind) = sockopt::get_int(fd, libc::SOL_SOCKET, libc::SO_TYPE) else {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if !std::fs::metadata(&link)?.file_type().is_fifo() {
            return Err(unknown());
        }
        let path = std::fs::read_link(&link)?;
        return Ok(Listen { kind: ListenKind::Fifo, address: Address::Path(path.display().to_string()) });
    };
    let kind = match kind {
        libc::SOCK_STREAM => ListenKind::Stream,
        libc::SOCK_DGRAM => ListenKind::Datagram,
        libc::SOCK_SEQPACKET => ListenKind::SequentialPacket,
        _ => return Err(unknown()),
    };
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    if let Some(at) = to_std(&name) {
        return Ok(Listen { kind, address: Address::Inet(at) });
    }
    if let Some(vsock) = name.as_vsock_addr() {
        let cid = Some(vsock.cid()).filter(|cid| *cid != libc::VMADDR_CID_ANY);
        return Ok(Listen { kind, address: Address::Vsock { cid, port: vsock.port() } });
    }
    let unix: UnixAddr = getsockname(fd.as_raw_fd())?;
    let address = match (unix.path(), unix.as_abstract()) {
        (Some(path), _) => Address::Path(path.display().to_string()),
        (None, Some(name)) => Address::Abstract(String::from_utf8_lossy(name).into_owned()),
        (None, None) => return Err(io::Error::other("a socket without an address")),
    };
    Ok(Listen { kind, address })
}

/// Takes over a descriptor that the parent process left us, by its number, and makes it close-on-exec.
///
/// Call it at most once for a number, before anything else uses it. Errors: EBADF if it is not open.
pub fn take_over(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_SETFD takes numbers only and fails for one that is not open.
    let r = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the caller's promise nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
