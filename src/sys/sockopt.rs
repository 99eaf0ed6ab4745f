//! Socket options: setsockopt(2), getsockopt(2), and the table of what a unit's options mean.
//!
//! See socket(7), ip(7), ipv6(7), tcp(7), unix(7). Nothing here blocks; any thread may call it.

use crate::unit::{ListenKind, SocketOptions, SocketProtocol};
use nix::libc;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `IPV6_TRANSPARENT`, which not every C library names.
const IPV6_TRANSPARENT: c_int = 75;
/// `IPV6_FREEBIND`.
const IPV6_FREEBIND: c_int = 78;

/// Sets an option from its bytes in memory order.
pub fn set_bytes(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: `value` is readable for `length` bytes and the kernel only reads it.
    let r = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option that is an int.
pub fn set_int(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set_bytes(fd, level, name, &value.to_ne_bytes())
}

/// Reads an option into `out`; how many bytes the kernel wrote.
pub fn get_bytes(fd: BorrowedFd<'_>, level: c_int, name: c_int, out: &mut [u8]) -> io::Result<usize> {
    let mut length = out.len() as libc::socklen_t;
    // SAFETY: `out` is writable for `length` bytes, which is what the kernel is told.
    let r = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, out.as_mut_ptr().cast(), &mut length) };
    if r == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option that is an int.
pub fn get_int(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut bytes = [0; size_of::<c_int>()];
    get_bytes(fd, level, name, &mut bytes)?;
    Ok(c_int::from_ne_bytes(bytes))
}

/// Bytes that wait to be read on a datagram socket, with what the kernel needs for each (`SO_MEMINFO`): 0 if nothing does.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.12.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const SO_MEMINFO: c_int = 55;
    let mut bytes = [0; 9 * size_of::<u32>()];
    get_bytes(fd, libc::SOL_SOCKET, SO_MEMINFO, &mut bytes)?;
    let [a, b, c, d, ..] = bytes;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Takes back `SO_LINGER` with a time, which makes the last close(2) wait for the peer; with none it resets the connection,
/// and waits for nobody. Anything but a socket is left alone.
pub fn forget_linger(fd: BorrowedFd<'_>) {
    let mut pair = [0; 2 * size_of::<c_int>()];
    let lingers =
        get_bytes(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut pair).is_ok_and(|count| count == pair.len());
    if lingers && pair.chunks_exact(size_of::<c_int>()).all(|number| number.iter().any(|byte| *byte != 0)) {
        // There is nothing else to do if it cannot be.
        let _ = set_bytes(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[0; 2 * size_of::<c_int>()]);
    }
}

/// Sets `SO_LINGER`, in seconds.
#[cfg(test)]
pub fn set_linger(fd: BorrowedFd<'_>, seconds: c_int) {
    let pair = [1_i32.to_ne_bytes(), seconds.to_ne_bytes()].concat();
    set_bytes(fd, libc::SOL_SOCKET, libc::SO_LINGER, &pair).unwrap();
}

/// Sets `SO_REUSEPORT`.
pub fn set_reuse_port(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
}

/// An interface that nothing arrives on: there is none with that number.
pub const NOWHERE: c_int = c_int::MAX;

/// The number of the interface that a socket is bound to, 0 for any (`SO_BINDTOIFINDEX`).
pub fn interface(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    get_int(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX)
}

/// Binds a socket to an interface. A listener keeps its queue and its half-open connections, and gets new ones from
/// there only. `EPERM`: it was bound to another one, and we lack CAP_NET_RAW.
pub fn set_interface(fd: BorrowedFd<'_>, index: c_int) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, index)
}

/// Whether the socket listens (`SO_ACCEPTCONN`): false after a holder's shutdown(2).
pub fn listens(fd: BorrowedFd<'_>) -> bool {
    get_int(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|on| on != 0)
}

/// The socket's own number in the kernel (`SO_COOKIE`), as sock_diag(7) reports it.
pub fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = [0; 8];
    get_bytes(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// What a program may set on a listener and expects to find on it, or on what it accepts.
const COPIED: [(c_int, c_int); 22] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_PASSCRED),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
];

/// Gives `to` the options that somebody has set on `from`: those that differ from a new socket's. What an
/// older kernel or our rights do not allow is left out.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let Ok(pristine) = alike(from) else { return };
    for (level, name) in COPIED {
        let read = |fd: BorrowedFd<'_>| {
            let mut bytes = [0; 8];
            get_bytes(fd, level, name, &mut bytes).ok().map(|length| bytes.get(..length).map(<[u8]>::to_vec))
        };
        let wanted = read(from);
        if wanted == read(pristine.as_fd()) || wanted == read(to) {
            continue;
        }
        if let Some(Some(mut value)) = wanted {
            let doubled = level == libc::SOL_SOCKET && (name == libc::SO_RCVBUF || name == libc::SO_SNDBUF);
            if doubled && let Ok(bytes) = <[u8; 4]>::try_from(value.as_slice()) {
                // The kernel reports twice what was asked for.
                value = (c_int::from_ne_bytes(bytes) / 2).to_ne_bytes().to_vec();
            }
            let _ = set_bytes(to, level, name, &value);
        }
    }
}

/// A new socket of the same family, type and protocol.
fn alike(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let family = get_int(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let kind = get_int(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let protocol = get_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    // SAFETY: socket(2) takes three numbers.
    let raw = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What a program's own socket is, before it is bound or after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nature {
    /// `SO_TYPE`, for the kinds that can be adopted: TCP (and MPTCP), UDP, AF_UNIX.
    pub kind: ListenKind,
    /// `IPV6_V6ONLY`; `None` if it is no IPv6 socket.
    pub v6_only: Option<bool>,
    /// Whether its protocol is the plain one of its kind: MPTCP is not.
    pub plain: bool,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// `IP_FREEBIND`.
    pub free_bind: bool,
    /// `IP_TRANSPARENT`.
    pub transparent: bool,
}

/// Looks at a socket; `None` for a kind that is not adopted.
///
/// # Errors
/// Those of getsockopt(2): `ENOTSOCK`.
pub fn nature(fd: BorrowedFd<'_>) -> io::Result<Option<Nature>> {
    let family = get_int(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    let protocol = get_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let kind = match get_int(fd, libc::SOL_SOCKET, libc::SO_TYPE)? {
        libc::SOCK_STREAM => ListenKind::Stream,
        libc::SOCK_DGRAM => ListenKind::Datagram,
        libc::SOCK_SEQPACKET => ListenKind::SequentialPacket,
        _ => return Ok(None),
    };
    let inet = family == libc::AF_INET || family == libc::AF_INET6;
    let adopted = match (inet, kind, protocol) {
        (true, ListenKind::Stream, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) => true,
        (true, ListenKind::Datagram, libc::IPPROTO_UDP) => true,
        (true, _, _) => false,
        (false, _, _) => family == libc::AF_UNIX,
    };
    if !adopted {
        return Ok(None);
    }
    let on = |level, name| get_int(fd, level, name).is_ok_and(|value| value != 0);
    let v6_only = (family == libc::AF_INET6).then(|| on(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY));
    let mut name = [0; libc::IFNAMSIZ];
    let length = get_bytes(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name).unwrap_or(0);
    let device = String::from_utf8_lossy(name.get(..length).unwrap_or_default());
    let device = device.trim_end_matches('\0');
    Ok(Some(Nature {
        kind,
        v6_only,
        plain: protocol != libc::IPPROTO_MPTCP,
        device: (inet && !device.is_empty()).then(|| device.to_owned()),
        free_bind: inet && on(libc::IPPROTO_IP, libc::IP_FREEBIND),
        transparent: inet && on(libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    }))
}

/// What a set of options is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    Inet,
    /// AF_INET6.
    Inet6,
    /// AF_UNIX.
    Unix,
    /// AF_VSOCK.
    Vsock,
    /// AF_NETLINK.
    Netlink,
}

impl Family {
    fn is_ip(self) -> bool {
        matches!(self, Family::Inet | Family::Inet6)
    }
}

/// One option and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The unit's key, for messages.
    pub key: &'static str,
    /// `SOL_SOCKET`, `IPPROTO_TCP`…
    pub level: c_int,
    /// The option.
    pub name: c_int,
    /// Its value in memory order.
    pub value: Vec<u8>,
}

fn int(key: &'static str, level: c_int, name: c_int, value: c_int) -> Setting {
    Setting { key, level, name, value: value.to_ne_bytes().to_vec() }
}

/// A count of bytes or seconds as the kernel's int, at most its maximum.
fn clamp(value: u64) -> c_int {
    c_int::try_from(value).unwrap_or(c_int::MAX)
}

/// Whole seconds, rounded up.
fn seconds(span: crate::time::Span) -> c_int {
    clamp(span.0.div_ceil(1_000_000_000))
}

/// What must be set before bind(2) and decides whether it succeeds: a failure is fatal.
pub fn before_bind(options: &SocketOptions, family: Family, kind: ListenKind) -> Vec<Setting> {
    let mut out = Vec::new();
    if family.is_ip() && kind == ListenKind::Stream {
        // Without it an address would stay taken for a minute after each stop. For datagrams it would
        // mean the opposite: that a taken address goes unnoticed.
        out.push(int("SO_REUSEADDR", libc::SOL_SOCKET, libc::SO_REUSEADDR, 1));
    }
    if family == Family::Inet6 {
        match options.bind_ipv6_only {
            crate::unit::BindIpv6Only::Default => {}
            crate::unit::BindIpv6Only::Both => {
                out.push(int("BindIPv6Only", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0));
            }
            crate::unit::BindIpv6Only::Ipv6Only => {
                out.push(int("BindIPv6Only", libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1));
            }
        }
    }
    if !family.is_ip() {
        return out;
    }
    if let Some(device) = &options.bind_to_device {
        out.push(Setting {
            key: "BindToDevice",
            level: libc::SOL_SOCKET,
            name: libc::SO_BINDTODEVICE,
            value: device.as_bytes().to_vec(),
        });
    }
    let v6 = family == Family::Inet6;
    if options.free_bind {
        out.push(int("FreeBind", libc::SOL_IP, libc::IP_FREEBIND, 1));
        if v6 {
            out.push(int("FreeBind", libc::SOL_IPV6, IPV6_FREEBIND, 1));
        }
    }
    if options.transparent {
        out.push(int("Transparent", libc::SOL_IP, libc::IP_TRANSPARENT, 1));
        if v6 {
            out.push(int("Transparent", libc::SOL_IPV6, IPV6_TRANSPARENT, 1));
        }
    }
    out
}

/// What can be set at any time, also on a socket that listens: a failure is a warning, as with systemd.
///
/// Buffer sizes come twice: the plain form, which the kernel cuts at net.core.rmem_max, and then the forced one, which
/// needs CAP_NET_ADMIN.
pub fn any_time(options: &SocketOptions, family: Family, kind: ListenKind) -> Vec<Setting> {
    let mut out = Vec::new();
    if family.is_ip() && kind == ListenKind::Stream && options.protocol != Some(SocketProtocol::Sctp) {
        tcp(options, &mut out);
    }
    if family.is_ip() {
        ip(options, family, &mut out);
    }
    let socket = libc::SOL_SOCKET;
    if let Some(priority) = options.priority {
        out.push(int("Priority", socket, libc::SO_PRIORITY, priority));
    }
    if let Some(mark) = options.mark {
        out.push(int("Mark", socket, libc::SO_MARK, mark.cast_signed()));
    }
    if let Some(bytes) = options.receive_buffer {
        out.push(int("ReceiveBuffer", socket, libc::SO_RCVBUF, clamp(bytes)));
        out.push(int("ReceiveBuffer", socket, libc::SO_RCVBUFFORCE, clamp(bytes)));
    }
    if let Some(bytes) = options.send_buffer {
        out.push(int("SendBuffer", socket, libc::SO_SNDBUF, clamp(bytes)));
        out.push(int("SendBuffer", socket, libc::SO_SNDBUFFORCE, clamp(bytes)));
    }
    if matches!(family, Family::Unix | Family::Netlink) && options.pass_credentials {
        out.push(int("PassCredentials", socket, libc::SO_PASSCRED, 1));
    }
    out
}

/// As [`any_time`], less what a new socket has anyway: with a thousand addresses each call counts.
pub fn at_birth(options: &SocketOptions, family: Family, kind: ListenKind) -> Vec<Setting> {
    let mut out = any_time(options, family, kind);
    let off_by_default = ["NoDelay", "KeepAlive", "DeferAcceptSec"];
    out.retain(|s| !off_by_default.contains(&s.key) || s.value.iter().any(|byte| *byte != 0));
    out
}

fn tcp(options: &SocketOptions, out: &mut Vec<Setting>) {
    let tcp = libc::IPPROTO_TCP;
    out.push(int("NoDelay", tcp, libc::TCP_NODELAY, options.no_delay.into()));
    out.push(int("KeepAlive", libc::SOL_SOCKET, libc::SO_KEEPALIVE, options.keep_alive.into()));
    out.push(int("DeferAcceptSec", tcp, libc::TCP_DEFER_ACCEPT, seconds(options.defer_accept)));
    if let Some(time) = options.keep_alive_time {
        out.push(int("KeepAliveTimeSec", tcp, libc::TCP_KEEPIDLE, seconds(time)));
    }
    if let Some(time) = options.keep_alive_interval {
        out.push(int("KeepAliveIntervalSec", tcp, libc::TCP_KEEPINTVL, seconds(time)));
    }
    if let Some(count) = options.keep_alive_probes {
        out.push(int("KeepAliveProbes", tcp, libc::TCP_KEEPCNT, clamp(count.into())));
    }
    if let Some(name) = &options.tcp_congestion {
        let value = name.as_bytes().to_vec();
        out.push(Setting { key: "TCPCongestion", level: tcp, name: libc::TCP_CONGESTION, value });
    }
}

fn ip(options: &SocketOptions, family: Family, out: &mut Vec<Setting>) {
    let v6 = family == Family::Inet6;
    if let Some(tos) = options.ip_tos {
        out.push(int("IPTOS", libc::SOL_IP, libc::IP_TOS, tos.into()));
        if v6 {
            out.push(int("IPTOS", libc::SOL_IPV6, libc::IPV6_TCLASS, tos.into()));
        }
    }
    if let Some(ttl) = options.ip_ttl {
        out.push(int("IPTTL", libc::SOL_IP, libc::IP_TTL, ttl.into()));
        if v6 {
            out.push(int("IPTTL", libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS, ttl.into()));
        }
    }
}

/// Sets each of `settings`: the keys that failed and why, each key once.
pub fn apply(fd: BorrowedFd<'_>, settings: &[Setting]) -> Vec<(&'static str, io::Error)> {
    let mut failed: Vec<(&'static str, io::Error)> = Vec::new();
    for setting in settings {
        let forced = setting.level == libc::SOL_SOCKET
            && [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE].contains(&setting.name);
        match set_bytes(fd, setting.level, setting.name, &setting.value) {
            Err(error) if !forced && !failed.iter().any(|(key, _)| *key == setting.key) => {
                failed.push((setting.key, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    failed
}
