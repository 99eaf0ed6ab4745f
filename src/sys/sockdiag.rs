//! What the kernel knows about sockets: sock_diag(7), tcp(7) `TCP_INFO`, and /proc/net where that is refused.
//!
//! Every question is answered by the kernel at once; a dump reads at most one port's sockets (TCP) or every Unix
//! socket of the network namespace. Any thread may ask.

use super::holder;
use super::sockopt;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A TCP socket as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpRow {
    /// Our end; an IPv4 client of an IPv6 socket shows as `::ffff:…`.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The kernel's state number, see [`state`].
    pub state: u8,
    /// Retransmissions so far: for a half-open connection, of its SYN-ACK.
    pub retransmits: u8,
    /// The socket's number, as `SO_COOKIE`.
    pub cookie: u64,
    /// Its owner.
    pub uid: u32,
    /// Its inode, 0 while no process has it (it waits to be accepted).
    pub inode: u32,
}

/// States of a TCP socket.
pub mod state {
    /// Both ends agree.
    pub const ESTABLISHED: u8 = 1;
    /// Half open: a SYN was answered.
    pub const SYN_RECV: u8 = 3;
    /// We have closed.
    pub const FIN_WAIT1: u8 = 4;
    /// We have closed, and the other end knows.
    pub const FIN_WAIT2: u8 = 5;
    /// Both have closed, and the kernel waits for stragglers.
    pub const TIME_WAIT: u8 = 6;
    /// The other end has closed, then we have.
    pub const LAST_ACK: u8 = 9;
    /// Both have closed at the same time.
    pub const CLOSING: u8 = 11;
    /// The other end has closed.
    pub const CLOSE_WAIT: u8 = 8;
    /// A listener.
    pub const LISTEN: u8 = 10;
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_VFS: u32 = 2;
const UDIAG_SHOW_PEER: u32 = 4;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Sends one request and gives each answer's payload to `each`, until the kernel has said all.
fn ask(payload: &[u8], dump: bool, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let flags = if dump { NLM_F_REQUEST | NLM_F_DUMP } else { NLM_F_REQUEST };
    let mut request = Vec::with_capacity(16 + payload.len());
    request.extend((16 + payload.len() as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(payload);
    send(fd.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            // The kernel answers within send(2) and within each recv(2): nothing there means nothing comes.
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        if messages(&buffer[..length], &mut each)? || !dump {
            return Ok(());
        }
    }
}

/// What one datagram of the kernel's says: for tests of what any bytes do to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its messages as rows of TCP.
    pub rows: Vec<TcpRow>,
    /// Its messages as lengths and names of Unix sockets.
    pub unix: Vec<(Option<u32>, Option<Vec<u8>>)>,
}

/// Reads a datagram as [`tcp_rows`] and [`unix_queue`] do.
pub fn read_answer(datagram: &[u8]) -> Answer {
    let mut answer = Answer::default();
    // An error in it is an answer too.
    let _ = messages(datagram, &mut |body| {
        answer.rows.extend(tcp_row(body));
        let length = attribute(body, UNIX_DIAG_RQLEN).and_then(|value| u32_at(value, 0));
        answer.unix.push((length, attribute(body, UNIX_DIAG_NAME).map(<[u8]>::to_vec)));
    });
    answer
}

/// Splits a datagram into messages; whether the last one was there.
fn messages(mut rest: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = length as usize;
        let Some(body) = rest.get(16..length) else { break };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = u32_at(body, 0).unwrap_or(0).cast_signed();
                return if errno == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(-errno)) };
            }
            SOCK_DIAG_BY_FAMILY => each(body),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&v4.octets());
            out
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct inet_diag_req_v2`.
fn tcp_request(family: i32, states: u32, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let mut out = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    out.extend(states.to_ne_bytes());
    out.extend(local.port().to_be_bytes());
    out.extend(remote.port().to_be_bytes());
    out.extend(address_bytes(local.ip()));
    out.extend(address_bytes(remote.ip()));
    out.extend(0u32.to_ne_bytes());
    // No cookie: any socket with these addresses.
    out.extend([0xff; 8]);
    out
}

/// `struct inet_diag_msg`.
fn tcp_row(bytes: &[u8]) -> Option<TcpRow> {
    let address = |at: usize, port: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(bytes.get(port..port + 2)?.try_into().ok()?);
        let ip: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(match i32::from(*bytes.first()?) {
            libc::AF_INET => SocketAddr::from((Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]), port)),
            _ => SocketAddr::from((Ipv6Addr::from(ip), port)),
        })
    };
    Some(TcpRow {
        local: address(8, 4)?,
        remote: address(24, 6)?,
        state: *bytes.get(1)?,
        retransmits: *bytes.get(3)?,
        cookie: u64::from(u32_at(bytes, 44)?) | u64::from(u32_at(bytes, 48)?) << 32,
        uid: u32_at(bytes, 64)?,
        inode: u32_at(bytes, 68)?,
    })
}

/// Which of the kernel's two lists of TCP sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, and IPv4 clients of IPv6 sockets.
    V6,
}

/// Every TCP socket with this local port in one of `states`, IPv4 and IPv6.
pub fn tcp_rows(port: u16, states: &[u8]) -> io::Result<Vec<TcpRow>> {
    let mut rows = tcp_rows_of(Family::V4, port, states)?;
    rows.extend(tcp_rows_of(Family::V6, port, states)?);
    Ok(rows)
}

/// [`tcp_rows`] of one family. The kernel walks its whole table: some 0.3 ms on a machine with 8 GB.
pub fn tcp_rows_of(family: Family, port: u16, states: &[u8]) -> io::Result<Vec<TcpRow>> {
    let mask = states.iter().fold(0, |mask, state| mask | 1 << state);
    let (number, any) = match family {
        Family::V4 => (libc::AF_INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Family::V6 => (libc::AF_INET6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let mut rows = Vec::new();
    let request = tcp_request(number, mask, SocketAddr::new(any, port), SocketAddr::new(any, 0));
    ask(&request, true, |body| rows.extend(tcp_row(body).filter(|row| row.local.port() == port)))?;
    Ok(rows)
}

/// The socket of a connection at its `local` end, on this machine: its owner and its inode (0 while it waits to
/// be accepted). `None` if there is no such connection.
pub fn connection(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<(u32, u64)>> {
    match exact(local, remote) {
        Ok(row) => Ok(Some((row.uid, row.inode.into()))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(_) => from_proc(local, remote),
    }
}

/// Whether the `local` end of a connection of this machine was accepted and closed already: one that waits to be
/// accepted is established, or not yet.
pub fn was_closed(local: SocketAddr, remote: SocketAddr) -> bool {
    const CLOSED: [u8; 5] =
        [state::FIN_WAIT1, state::FIN_WAIT2, state::TIME_WAIT, state::LAST_ACK, state::CLOSING];
    exact(local, remote).is_ok_and(|row| row.inode == 0 && CLOSED.contains(&row.state))
}

/// Whether the `local` end of a connection of this machine, which is connected at its other end, is half open here: its
/// listener waits for the first byte, or has no room.
pub fn is_deferred(local: SocketAddr, remote: SocketAddr) -> bool {
    // Only the list tells of it: looked up by its addresses it is not there yet.
    let is_it = |row: &TcpRow| {
        let there = row.remote;
        there.port() == remote.port() && there.ip().to_canonical() == remote.ip().to_canonical()
    };
    [Family::V4, Family::V6].into_iter().any(|family| {
        let rows = tcp_rows_of(family, local.port(), &[state::SYN_RECV]);
        rows.is_ok_and(|rows| rows.iter().any(is_it))
    })
}

fn exact(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpRow> {
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (local, remote) = (canonical(local), canonical(remote));
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut found = None;
    ask(&tcp_request(family, u32::MAX, local, remote), false, |body| found = found.or(tcp_row(body)))?;
    // With no such connection the look-up finds the listener.
    found.filter(|row| row.state != state::LISTEN).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

fn from_proc(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<(u32, u64)>> {
    let same =
        |a: SocketAddr, b: SocketAddr| a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = match std::fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let mut rows = text.lines().skip(1).filter_map(holder::row);
        if let Some(row) = rows.find(|row| same(row.local, local) && same(row.remote, remote)) {
            return Ok(Some((row.uid, row.inode)));
        }
    }
    Ok(None)
}

/// The effective user of the process at the other end of a TCP connection of this machine, `local` being our
/// end. `None` if the other end is elsewhere or gone.
pub fn peer_uid(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    Ok(connection(remote, local)?.filter(|(_, inode)| *inode != 0).map(|(uid, _)| uid))
}

/// A listener's accept queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Connections that wait.
    pub length: u32,
    /// How many can.
    pub limit: u32,
}

/// The accept queue of a TCP listener; `None` if it does not listen (any more).
pub fn tcp_queue(listener: BorrowedFd<'_>) -> io::Result<Option<Queue>> {
    let mut info = [0; 32];
    sockopt::get_bytes(listener, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    if info[0] != state::LISTEN {
        return Ok(None);
    }
    let at = |at| u32_at(&info, at).unwrap_or(0);
    Ok(Some(Queue { length: at(24), limit: at(28) }))
}

/// The accept queue of a Unix listener. Errors: ENOENT and others where the kernel has no unix_diag.
pub fn unix_queue(listener: BorrowedFd<'_>) -> io::Result<Option<Queue>> {
    let inode = nix::sys::stat::fstat(listener)?.st_ino as u32;
    let mut found = None;
    ask(&unix_request(u32::MAX, inode, UDIAG_SHOW_RQLEN), false, |body| {
        if body.get(2) == Some(&state::LISTEN)
            && let Some(lengths) = attribute(body, UNIX_DIAG_RQLEN)
            && let (Some(length), Some(limit)) = (u32_at(lengths, 0), u32_at(lengths, 4))
        {
            found = Some(Queue { length, limit });
        }
    })?;
    Ok(found)
}

/// Connections that were made to a Unix name (a path, or the name in the abstract namespace after a NUL byte)
/// and accepted: the inodes of their server ends.
pub fn unix_connections(name: &[u8]) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    ask(&unix_request(1 << state::ESTABLISHED, 0, UDIAG_SHOW_NAME), true, |body| {
        let is_ours = attribute(body, UNIX_DIAG_NAME)
            .is_some_and(|found| found == name || found.strip_suffix(&[0]) == Some(name));
        if is_ours {
            found.extend(u32_at(body, 4));
        }
    })?;
    Ok(found)
}

/// The inode of the socket at the other end of a connected Unix socket; 0 while that waits to be accepted, and when it
/// is closed. Errors: ENOENT and others where the kernel has no unix_diag.
pub fn unix_peer(connected: BorrowedFd<'_>) -> io::Result<u64> {
    let inode = nix::sys::stat::fstat(connected)?.st_ino as u32;
    let mut peer = None;
    ask(&unix_request(u32::MAX, inode, UDIAG_SHOW_PEER), false, |body| {
        peer = Some(attribute(body, UNIX_DIAG_PEER).and_then(|value| u32_at(value, 0)).unwrap_or(0));
    })?;
    peer.map(u64::from).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// The inode number, its lower half, of what a Unix socket was bound to in the file system; `None` if it is not bound to
/// a path. Errors: ENOENT and others where the kernel has no unix_diag.
pub fn unix_vfs_inode(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let inode = nix::sys::stat::fstat(socket)?.st_ino as u32;
    let mut found = None;
    ask(&unix_request(u32::MAX, inode, UDIAG_SHOW_VFS), false, |body| {
        found = attribute(body, UNIX_DIAG_VFS).and_then(|value| u32_at(value, 0));
    })?;
    Ok(found)
}

/// `struct unix_diag_req`.
fn unix_request(states: u32, inode: u32, show: u32) -> Vec<u8> {
    let mut out = vec![libc::AF_UNIX as u8, 0, 0, 0];
    out.extend(states.to_ne_bytes());
    out.extend(inode.to_ne_bytes());
    out.extend(show.to_ne_bytes());
    out.extend([0xff; 8]);
    out
}

/// An attribute of a unix_diag answer, without the padding.
fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = body.get(16..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn connections_are_found_by_their_addresses() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let at = listener.local_addr().unwrap();
            let client = TcpStream::connect(at).unwrap();
            let from = client.local_addr().unwrap();
            assert_eq!(connection(at, from).unwrap().unwrap().1, 0, "not accepted yet");
            let (server, _) = listener.accept().unwrap();
            let inode = nix::sys::stat::fstat(&server).unwrap().st_ino;
            assert_eq!(connection(at, from).unwrap().unwrap().1, inode);
            assert_eq!(from_proc(at, from).unwrap().unwrap().1, inode);
            let me = nix::unistd::geteuid().as_raw();
            assert_eq!(peer_uid(at, from).unwrap(), Some(me));
            assert!(holder::sockets_of(std::process::id().cast_signed()).contains(&inode));
            let nobody = SocketAddr::new(from.ip(), 1);
            assert_eq!(connection(at, nobody).unwrap(), None);
        }
    }

    #[test]
    fn an_ipv4_client_of_a_dual_stack_socket_is_found() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // The kernel may finish a handshake later than connect(2).
        let _server = listener.accept().unwrap();
        let at: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        assert!(connection(at, client.local_addr().unwrap()).unwrap().is_some());
        let rows = tcp_rows(port, &[state::ESTABLISHED]).unwrap();
        assert_eq!(rows.iter().filter(|row| row.local.port() == port).count(), 1, "{rows:?}");
    }

    #[test]
    fn queues_have_a_length_and_a_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(at).unwrap()).collect();
        let queue = loop {
            // The kernel may finish a handshake later than connect(2).
            let queue = tcp_queue(listener.as_fd()).unwrap().unwrap();
            if queue.length >= 3 {
                break queue;
            }
        };
        assert_eq!(queue.length, 3);
        assert!(queue.limit >= 128);
        assert_eq!(tcp_queue(clients[0].as_fd()).unwrap(), None);
        let mut rows = tcp_rows(at.port(), &[state::LISTEN]).unwrap();
        // Another test may have the same port of another address.
        rows.retain(|row| row.local == at);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].cookie, sockopt::cookie(listener.as_fd()).unwrap());
    }

    #[test]
    fn unix_queues_and_connections_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let queue = match unix_queue(listener.as_fd()) {
            Ok(queue) => queue.unwrap(),
            Err(error) => return println!("skipped: no unix_diag here: {error}"),
        };
        assert_eq!(queue.length, 0);
        let clients = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        let (server, _) = listener.accept().unwrap();
        assert_eq!(unix_queue(listener.as_fd()).unwrap().unwrap().length, 1);
        let found = unix_connections(path.as_os_str().as_encoded_bytes()).unwrap();
        let inode = nix::sys::stat::fstat(&server).unwrap().st_ino as u32;
        assert!(found.contains(&inode), "{found:?} {inode}");
        let peers = clients.each_ref().map(|client| unix_peer(client.as_fd()).unwrap());
        assert_eq!(peers, [inode.into(), 0], "one waits");
        drop(server);
        // A child of another test may have a copy for as long as it has not yet executed.
        while unix_peer(clients[0].as_fd()).unwrap() != 0 {
            std::thread::yield_now();
        }
    }
}
