//! A connection to a service from the outside, and who accepted it.

use crate::sys::procfs::{self, Proc};
use crate::sys::tree::{self, TreeKey};
use crate::sys::{clock, holder, sockdiag};
use crate::time::{Monotime, Span};
use crate::unit::Address;
use nix::errno::Errno;
use nix::sys::socket::{
    self as nsock, AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, sockopt,
};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A socket that is about to be connected. Its source port is known already, so that a steered socket can be
/// told whose it is before the first packet leaves.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    target: Target,
    local: Option<SocketAddr>,
    /// Nothing more will be sent, and the other end knows.
    ended: Cell<bool>,
}

#[derive(Debug)]
enum Target {
    Inet(SocketAddr),
    Unix(SockaddrStorage),
}

/// A connected stream of either family.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix path.
    Unix(UnixStream),
}

impl Stream {
    /// From now on a read blocks for this long at most.
    ///
    /// # Errors
    /// `TimedOut` if that is no time at all.
    pub fn wait_no_longer(&self, left: Span) -> io::Result<()> {
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let limit = Some(std::time::Duration::from_nanos(left.0.min(MAX_WAIT)));
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(limit),
            Stream::Unix(stream) => stream.set_read_timeout(limit),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an error says that this process or the machine has too little of something: descriptors, memory.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Who has accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// A process of the tree that was asked about: its pid.
    Member(i32),
    /// A process that is not of it.
    Other,
    /// Somebody, who has closed it already.
    Gone,
    /// Nobody, for as long as was waited.
    Nobody,
    /// It cannot be told here.
    Unknown,
}

impl Connection {
    /// Makes the socket and binds its source address.
    ///
    /// # Errors
    /// An address that a stream cannot connect to, or what the kernel says.
    pub fn prepare(to: &Address) -> io::Result<Connection> {
        let (target, family) = match to {
            Address::Port(port) => inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), *port)),
            Address::Inet(address) | Address::Scoped(address, _) => inet(reachable(*address)),
            Address::Path(path) => {
                (Target::Unix(unix(nsock::UnixAddr::new(path.as_str())?)), AddressFamily::Unix)
            }
            Address::Abstract(name) => {
                (Target::Unix(unix(nsock::UnixAddr::new_abstract(name.as_bytes())?)), AddressFamily::Unix)
            }
            Address::Vsock { .. } | Address::Netlink { .. } => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "a health check cannot connect to this kind of address",
                ));
            }
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = nsock::socket(family, SockType::Stream, flags, None)?;
        let mut local = None;
        if let Target::Inet(address) = &target {
            let source = if address.ip().is_loopback() { address.ip() } else { unspecified(address.ip()) };
            nsock::bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
            local = super::socket::local(socket.as_fd()).ok();
        }
        Ok(Connection { socket, target, local, ended: Cell::new(false) })
    }

    /// The source address, for TCP: what a steered socket recognises the probe by.
    pub fn source(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Where it goes, for TCP.
    pub fn remote(&self) -> Option<SocketAddr> {
        match self.target {
            Target::Inet(remote) => Some(remote),
            Target::Unix(_) => None,
        }
    }

    /// The inode of the accepted end, which is the same connection seen from the other side; 0 until it is accepted.
    fn accepted(&self) -> io::Result<u64> {
        match (&self.target, self.local) {
            (Target::Inet(remote), Some(local)) => {
                Ok(sockdiag::connection(*remote, local)?.map_or(0, |(_, inode)| inode))
            }
            (Target::Inet(_), None) => Err(io::ErrorKind::PermissionDenied.into()),
            (Target::Unix(_), _) => sockdiag::unix_peer(self.socket.as_fd()),
        }
    }

    /// Says that nothing will be sent, if that is what the other end waits for: a listener with `TCP_DEFER_ACCEPT` shows
    /// nobody a connection that is silent, but one that is at its end.
    fn end_silence(&self) {
        if let (Target::Inet(remote), Some(local)) = (&self.target, self.local)
            && sockdiag::is_deferred(*remote, local)
        {
            // What fails here is noticed by whoever waits to be accepted.
            self.ended.set(nsock::shutdown(self.socket.as_raw_fd(), nsock::Shutdown::Write).is_ok());
        }
    }

    /// Whether the other end has answered our end with a byte or its own: it is in no list any more then.
    fn was_answered(&self) -> bool {
        let flags = nsock::MsgFlags::MSG_PEEK | nsock::MsgFlags::MSG_DONTWAIT;
        self.ended.get() && nsock::recv(self.socket.as_raw_fd(), &mut [0], flags).is_ok()
    }

    /// Whether somebody has accepted it and closed it already.
    fn was_closed(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        match (&self.target, self.local) {
            (Target::Inet(remote), Some(local)) => {
                self.was_answered() || sockdiag::was_closed(*remote, local)
            }
            (Target::Inet(_), None) => false,
            (Target::Unix(_), _) => {
                let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
                let hung_up = |fd: &PollFd<'_>| fd.revents().is_some_and(|e| e.contains(PollFlags::POLLHUP));
                poll(&mut fds, PollTimeout::ZERO).is_ok() && fds.iter().any(hung_up)
            }
        }
    }

    /// Connects. Blocks for `timeout` at most; reads and writes on the stream do so too.
    ///
    /// # Errors
    /// As connect(2); `TimedOut`.
    pub fn connect(&mut self, timeout: Span) -> io::Result<Stream> {
        let end = clock::now() + timeout;
        let storage = match &self.target {
            Target::Inet(address) => SockaddrStorage::from(*address),
            Target::Unix(storage) => *storage,
        };
        loop {
            match nsock::connect(self.socket.as_raw_fd(), &storage) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EINPROGRESS) => {
                    wait_writable(&self.socket, end)?;
                    match nsock::getsockopt(&self.socket, sockopt::SocketError)? {
                        0 => break,
                        code => return Err(io::Error::from_raw_os_error(code)),
                    }
                }
                // A full queue of a Unix socket: nobody accepts fast enough.
                Err(Errno::EAGAIN) => pause(end, Span::from_millis(1))?,
                Err(error) => return Err(error.into()),
            }
        }
        self.local = super::socket::local(self.socket.as_fd()).ok();
        let copy = self.socket.try_clone()?;
        let limit = Some(std::time::Duration::from_nanos(timeout.0.min(MAX_WAIT)));
        if let Target::Unix(_) = self.target {
            let stream = UnixStream::from(copy);
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(limit)?;
            stream.set_write_timeout(limit)?;
            return Ok(Stream::Unix(stream));
        }
        let stream = TcpStream::from(copy);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(limit)?;
        stream.set_write_timeout(limit)?;
        // The one byte that is held back must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }
}

/// One day in nanoseconds: what "no limit" means for a socket's timeout.
const MAX_WAIT: u64 = 86_400_000_000_000;

fn inet(address: SocketAddr) -> (Target, AddressFamily) {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    (Target::Inet(address), family)
}

fn unix(address: nsock::UnixAddr) -> SockaddrStorage {
    // SAFETY: `as_ptr` and `len` describe a valid sockaddr_un for as long as `address` lives, which is this call.
    let storage = unsafe { SockaddrStorage::from_raw(address.as_ptr().cast(), Some(address.len())) };
    storage.unwrap_or_else(|| SockaddrStorage::from(SocketAddr::from(([0, 0, 0, 0], 0))))
}

/// The wildcard cannot be connected to: its loopback can. An IPv4 address is one, however it is written.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        // With its scope.
        IpAddr::V6(_) => return address,
        ip @ IpAddr::V4(_) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn wait_writable(socket: &OwnedFd, end: Monotime) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        let left = end.since(clock::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let milliseconds = i32::try_from(left.0.div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits a moment on the probe's own thread: the kernel tells nobody when a connection is accepted.
fn pause(end: Monotime, step: Span) -> io::Result<()> {
    let left = end.since(clock::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    std::thread::sleep(std::time::Duration::from_nanos(step.0.min(left.0)));
    Ok(())
}

/// Waits until somebody has accepted the connection, and says whether it is a process of `tree`. `us` is
/// aeternad's pid; processes that are `known` to be of the tree are looked at first. A connection on which nothing is sent is `silent`. Re-checks after 1, 2, 4 … 50 ms. Blocks for `timeout` at most.
///
/// # Errors
/// What the kernel says when it is asked about sockets.
pub fn answerer(
    connection: &Connection,
    tree: &TreeKey<'_>,
    (us, known): (i32, &[i32]),
    silent: bool,
    timeout: Span,
) -> io::Result<Answerer> {
    let end = clock::now() + timeout;
    let mut step = Span::from_millis(1);
    loop {
        match connection.accepted() {
            Ok(inode) if inode != 0 => {
                let found = owner_of(inode, tree, us, known);
                let gone = found == Answerer::Other && connection.was_closed();
                return Ok(if gone { Answerer::Gone } else { found });
            }
            Ok(_) if connection.was_closed() => return Ok(Answerer::Gone),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Answerer::Unknown),
            // No unix_diag in this kernel.
            Err(_) if matches!(connection.target, Target::Unix(_)) => return Ok(Answerer::Unknown),
            Err(error) => return Err(error),
        }
        if silent {
            connection.end_silence();
        }
        if pause(end, step).is_err() {
            return Ok(Answerer::Nobody);
        }
        step = Span((step.0 * 2).min(50_000_000));
    }
}

/// Whether a process of the tree holds the socket.
fn owner_of(inode: u64, tree: &TreeKey<'_>, us: i32, known: &[i32]) -> Answerer {
    // That spares a look at every process of the machine.
    if let Some(pid) = known.iter().find(|pid| holder::sockets_of(**pid).contains(&inode)) {
        return Answerer::Member(*pid);
    }
    // Without a /proc of ours nobody is seen: that is not to see somebody else.
    let mut hidden = procfs::look() != Proc::Ours;
    for pid in tree::tree(tree, us) {
        if holder::sockets_of(pid).contains(&inode) {
            return Answerer::Member(pid);
        }
        hidden |= std::fs::read_dir(format!("/proc/{pid}/fd"))
            .is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    }
    if hidden { Answerer::Unknown } else { Answerer::Other }
}
