//! Messages with descriptors and credentials over AF_UNIX: sendmsg(2), recvmsg(2), cmsg(3), unix(7).
//!
//! Control messages are read and written as the bytes that the kernel lays out, so that a message that was cut
//! off loses descriptors but leaks none.

use super::aside::Foreign;
use super::dir::Kind;
use super::peer::{Peer, peer_credentials};
use super::unixpath::{self, Birth, BoundPath, Site};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The most descriptors that one message can carry.
pub const FDS_MAX: usize = 253;

/// A control message's header: its length as the kernel's size_t, level, type.
const HEADER: usize = size_of::<usize>() + 8;

fn aligned(length: usize) -> usize {
    length.next_multiple_of(size_of::<usize>())
}

/// A message that was received.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it filled. 0 on a stream: the other end is closed.
    pub bytes: usize,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<Foreign>,
    /// Who sent it, where SO_PASSCRED is set.
    pub credentials: Option<Peer>,
    /// The datagram was longer than the buffer.
    pub truncated: bool,
    /// Descriptors were lost: more than `max_fds`, or our limit of open ones is reached.
    pub control_truncated: bool,
}

/// Two connected stream sockets, close-on-exec.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair =
        nix::sys::socket::socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    Ok(pair)
}

/// Receives one message (on a stream: what one recvmsg gives), never waits. Errors: EAGAIN if there is none.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8], max_fds: usize) -> io::Result<Received> {
    receive(fd, buffer, max_fds, 0)
}

/// As [`recv`], and leaves the message in the queue: its descriptors are copies.
pub fn peek(fd: BorrowedFd<'_>, buffer: &mut [u8], max_fds: usize) -> io::Result<Received> {
    receive(fd, buffer, max_fds, libc::MSG_PEEK)
}

fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], max_fds: usize, more: c_int) -> io::Result<Received> {
    let fds_space = aligned(HEADER + 4 * max_fds.min(FDS_MAX));
    let mut control = vec![0u64; (fds_space + aligned(HEADER + 12)) / 8 + 1];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is a plain C struct: all zero bytes are a valid, empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = (8 * control.len()) as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | more;
    let bytes = loop {
        // SAFETY: every pointer in `message` is to memory of at least the stated size that lives until the end.
        let r = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(r) {
            Ok(bytes) => break bytes,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    let filled = control.iter().flat_map(|word| word.to_ne_bytes()).take(message.msg_controllen as _);
    let mut received = Received {
        bytes,
        fds: Vec::new(),
        credentials: None,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        control_truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    };
    received.read_control(&filled.collect::<Vec<u8>>());
    Ok(received)
}

impl Received {
    fn read_control(&mut self, mut rest: &[u8]) {
        while let (Some(length), Some(level), Some(kind)) =
            (word(rest), int(rest, size_of::<usize>()), int(rest, size_of::<usize>() + 4))
        {
            let data = rest.get(HEADER..length.min(rest.len())).unwrap_or_default();
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for raw in data.chunks_exact(4).filter_map(|bytes| int(bytes, 0)) {
                        // SAFETY: the kernel has just put this descriptor into our table for us alone.
                        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
                        self.fds.push(fd.into());
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    if let (Some(pid), Some(uid), Some(gid)) = (int(data, 0), int(data, 4), int(data, 8)) {
                        self.credentials =
                            Some(Peer { pid, uid: uid.cast_unsigned(), gid: gid.cast_unsigned() });
                    }
                }
                _ => {}
            }
            if length < HEADER {
                return;
            }
            rest = rest.get(aligned(length)..).unwrap_or_default();
        }
    }
}

fn word(bytes: &[u8]) -> Option<usize> {
    Some(usize::from_ne_bytes(bytes.get(..size_of::<usize>())?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<c_int> {
    Some(c_int::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Sends bytes with descriptors on the first of them; how many bytes went. Never raises SIGPIPE; waits only if
/// the socket is in blocking mode. Errors: EINVAL for more than [`FDS_MAX`], EPIPE, EAGAIN, ETOOMANYREFS.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > FDS_MAX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let length = HEADER + 4 * fds.len();
    let mut control = Vec::with_capacity(aligned(length));
    control.extend(length.to_ne_bytes());
    control.extend(libc::SOL_SOCKET.to_ne_bytes());
    control.extend(libc::SCM_RIGHTS.to_ne_bytes());
    control.extend(fds.iter().flat_map(|fd| fd.as_raw_fd().to_ne_bytes()));
    control.resize(aligned(length), 0);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is a plain C struct: all zero bytes are a valid, empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
    }
    // SAFETY: every pointer in `message` is to memory of the stated size that is only read and lives until the end.
    let r = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(r).map_err(|_| io::Error::last_os_error())
}

fn bound(path: &Path, kind: SockType, owner: Option<(u32, u32)>, listen: bool) -> io::Result<Named> {
    let site = Site::of(path)?;
    let there = site.folder().node(site.name())?.map(|found| found.kind());
    if let Some(other) = there.filter(|kind| *kind != Kind::Socket) {
        let why =
            format!("{} has this name, and is left alone: remove it, or use another path", other.noun());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, kind, flags, None)?;
    if kind == SockType::Datagram {
        setsockopt(&fd, sockopt::PassCred, &true)?;
    }
    // Made under another name: nobody sees it before it is as it should be.
    let temporary = unixpath::sibling(&site, "sock");
    let (uid, gid) = owner.unzip();
    let birth = Birth { mode: 0o600, owner: (uid, gid), at_once: true };
    let made = unixpath::bind(fd.as_fd(), &temporary, birth)?;
    let show = || -> io::Result<BoundPath> {
        if listen {
            super::socket::listen(fd.as_fd(), u32::MAX)?;
        }
        made.rename(site.name())
    };
    let name = show().inspect_err(|_| {
        made.remove();
    })?;
    Ok((fd, name))
}

/// A socket and its name.
pub type Named = (OwnedFd, BoundPath);

/// A datagram socket for sd_notify(3) messages at `path`: mode 0600, its owner set before the name is there,
/// non-blocking, with the sender's credentials. Replaces a socket of that name. Any length of path.
pub fn notify_socket(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Named> {
    bound(path, SockType::Datagram, owner, false)
}

/// A listening stream socket at `path`: mode 0600, ours, non-blocking. Replaces a socket of that name: only the
/// holder of the folder's lock may call it.
pub fn listen_private(path: &Path) -> io::Result<Named> {
    bound(path, SockType::Stream, None, true)
}

/// As [`listen_private`], for a service's own user: its owner is set before the name is there.
pub fn listen_owned(path: &Path, owner: (u32, u32)) -> io::Result<Named> {
    bound(path, SockType::Stream, Some(owner), true)
}

/// As [`listen_private`], of messages that keep their bounds (SOCK_SEQPACKET).
pub fn listen_packets(path: &Path) -> io::Result<Named> {
    bound(path, SockType::SeqPacket, None, true)
}

/// Two connected sockets of messages that keep their bounds, close-on-exec, non-blocking.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Connects to what [`listen_packets`] has made, in a folder that is ours alone: non-blocking from then on.
///
/// # Errors
/// `ENOENT`; `ECONNREFUSED` if nobody is there any more.
pub fn connect_packets(path: &Path) -> io::Result<OwnedFd> {
    let site = Site::of(path)?;
    let node = site.folder().node(site.name())?.ok_or(io::ErrorKind::NotFound)?;
    let address = nix::sys::socket::UnixAddr::new(&node.path())?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    nix::sys::socket::connect(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// Who has begun to listen on the stream socket of this name, in a folder that is ours alone; others may have copies of it
/// when he is gone. His pid is 0 if that cannot be found out; `None`: nobody has it any more.
pub fn listener_of(path: &Path) -> Option<Peer> {
    let connect = || -> io::Result<Peer> {
        let site = Site::of(path)?;
        let node = site.folder().node(site.name())?.ok_or(io::ErrorKind::NotFound)?;
        let address = nix::sys::socket::UnixAddr::new(&node.path())?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        nix::sys::socket::connect(fd.as_raw_fd(), &address)?;
        peer_credentials(fd.as_fd())
    };
    match connect() {
        Ok(peer) => Some(peer),
        // Its queue is full: somebody is there.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Peer { pid: 0, uid: 0, gid: 0 }),
        Err(_) => None,
    }
}

/// Accepts a connection on a non-blocking listener: close-on-exec, non-blocking. `None` if none waits.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use nix::errno::Errno;
    match nix::sys::socket::accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        Ok(raw) => Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) })),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn is_wait(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock
    }

    #[test]
    fn descriptors_travel_with_their_bytes() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        for count in [0, 1, 5, FDS_MAX] {
            let fds = vec![file.as_fd(); count];
            assert_eq!(send(a.as_fd(), b"hello", &fds).unwrap(), 5);
            let mut buffer = [0; 16];
            let got = recv(b.as_fd(), &mut buffer, FDS_MAX).unwrap();
            assert_eq!((got.bytes, got.fds.len(), got.control_truncated), (5, count, false));
            if let Some(fd) = got.fds.into_iter().last() {
                let mut copy = File::from(fd.as_fd().try_clone_to_owned().unwrap());
                copy.rewind().unwrap();
                let mut text = String::new();
                copy.read_to_string(&mut text).unwrap();
                assert_eq!(text, "inside");
            }
        }
        assert!(send(a.as_fd(), b"x", &vec![file.as_fd(); FDS_MAX + 1]).is_err());
        assert!(is_wait(&recv(b.as_fd(), &mut [0; 1], 0).unwrap_err()));
        drop(a);
        // A child of another test may have a copy for as long as it has not yet executed.
        let mut end = [nix::poll::PollFd::new(b.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut end, nix::poll::PollTimeout::NONE).unwrap();
        assert_eq!(recv(b.as_fd(), &mut [0; 1], 0).unwrap().bytes, 0);
    }

    #[test]
    fn what_does_not_fit_is_told_and_not_leaked() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        send(a.as_fd(), b"long message", &[null.as_fd(); 20]).unwrap();
        let mut buffer = [0; 4];
        let got = recv(b.as_fd(), &mut buffer, 1).unwrap();
        assert!(got.truncated && got.control_truncated);
        assert!(got.fds.len() < 20);
        assert_eq!(got.bytes, 4);
    }

    #[test]
    fn a_notify_socket_knows_its_senders() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["n".to_owned(), "long".repeat(40)] {
            let path = dir.path().join(&name);
            for _again in 0..2 {
                let (fd, _name) = notify_socket(&path, None).unwrap();
                assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
                let client = UnixDatagram::unbound().unwrap();
                let short = dir.path().join("short");
                fs::hard_link(&path, &short).unwrap();
                client.connect(&short).unwrap();
                client.send(b"READY=1").unwrap();
                let mut buffer = [0; 100];
                let got = recv(fd.as_fd(), &mut buffer, 4).unwrap();
                assert_eq!(&buffer[..got.bytes], b"READY=1");
                assert_eq!(got.credentials.unwrap().pid, std::process::id().cast_signed());
                fs::remove_file(&short).unwrap();
            }
        }
        fs::write(dir.path().join("file"), "x").unwrap();
        assert!(notify_socket(&dir.path().join("file"), None).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary name stays");
    }

    #[test]
    fn a_notify_socket_can_be_somebody_elses() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root can give a file away");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        let _fd = notify_socket(&path, Some((12, 34))).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12, 34, 0o600));
    }

    #[test]
    fn a_private_listener_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let (fd, _name) = listen_private(&path).unwrap();
        assert!(accept(fd.as_fd()).unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        let server = accept(fd.as_fd()).unwrap().unwrap();
        assert!(is_wait(&recv(server.as_fd(), &mut [0; 1], 0).unwrap_err()));
        assert_eq!(
            super::super::peer::peer_credentials(server.as_fd()).unwrap().pid,
            std::process::id().cast_signed()
        );
    }
}
