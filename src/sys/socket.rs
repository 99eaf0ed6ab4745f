//! Opening the endpoint that a [`Listen`] names: socket(2), bind(2), listen(2), and FIFOs.
//!
//! Every descriptor is close-on-exec. Nothing waits, except for name look-ups of `SocketUser`. Errors are whole
//! sentences: "cannot bind 127.0.0.1:80: Permission denied (ports below 1024 need root or
//! CAP_NET_BIND_SERVICE)".

pub use super::held::{
    Remote, accept, describe, discard, hung_up, remote, set_nonblocking, take_over, unix_name,
};
use super::holder;
use super::sockopt::{self, Family};
use super::unixpath::{self, Birth, BoundPath, Occupant, Site};
use crate::proto::harmless::{LONGEST, harmless};
use crate::unit::{Address, Listen, ListenKind, SocketOptions, SocketProtocol};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockType, SockaddrLike, SockaddrStorage, UnixAddr, VsockAddr, getsockname,
};
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The owner of steered sockets when aeternad is root: an id in a range that no account, container or dynamic
/// user has, so that no other process, not even root's, can join their SO_REUSEPORT group.
pub const SLOT_UID: u32 = 0x7AE7_2024;

/// Why an endpoint could not be opened, as a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketError {
    /// The sentence.
    pub text: String,
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SocketError {}

/// The words of an error without the number that std adds.
pub fn errno_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// What the endpoint will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One socket for all generations.
    Alone,
    /// The first slot of a steered TCP address: bound without SO_REUSEPORT, so that a taken address is noticed,
    /// which is set before listen(2).
    FirstSlot,
    /// The first slot of one that gets what narrower addresses of ours do not: with SO_REUSEPORT from the beginning.
    Beside {
        /// Whether theirs belong to [`SLOT_UID`].
        owned: bool,
    },
    /// Another slot of a steered TCP address.
    NextSlot {
        /// The first slot's address with its real port.
        at: SocketAddr,
        /// Whether the first slot belongs to [`SLOT_UID`]: all members of a group must have one owner.
        owned: bool,
    },
}

/// An endpoint that is bound, and listens if its kind can.
#[derive(Debug)]
pub struct Opened {
    /// The descriptor. Blocking, except a FIFO's.
    pub fd: OwnedFd,
    /// The address with its real port, for people.
    pub address: String,
    /// The address of an IP socket with its real port.
    pub at: Option<SocketAddr>,
    /// The name in the file system, if it has one that we made.
    pub path: Option<BoundPath>,
    /// Whether it belongs to [`SLOT_UID`].
    pub owned: bool,
    /// What could not be set, as sentences.
    pub warnings: Vec<String>,
}

/// Prints an address as the unit file spells it.
pub fn spell(address: &Address) -> String {
    match address {
        Address::Port(port) => port.to_string(),
        Address::Inet(at) => at.to_string(),
        Address::Scoped(at, interface) => format!("{at}%{interface}"),
        // A program that binds by itself chooses them.
        Address::Path(path) => harmless(path, LONGEST),
        Address::Abstract(name) => format!("@{}", harmless(name, LONGEST)),
        Address::Vsock { cid, port } => match cid {
            Some(cid) => format!("vsock:{cid}:{port}"),
            None => format!("vsock::{port}"),
        },
        Address::Netlink { family, group: 0, .. } => family.clone(),
        Address::Netlink { family, group, .. } => format!("{family} {group}"),
    }
}

fn fail(what: &str, address: &str, error: &io::Error, hint: &str) -> SocketError {
    let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
    SocketError { text: format!("cannot {what} {address}: {}{hint}", errno_text(error)) }
}

/// Opens what `listen` names, with every option set when it has to be. On an error nothing is left behind.
pub fn open(listen: &Listen, options: &SocketOptions, place: Place) -> Result<Opened, SocketError> {
    match (&listen.address, listen.kind) {
        (Address::Path(path), ListenKind::Fifo) => super::fifo::open(Path::new(path), options),
        (Address::Path(path), kind) => open_path(Path::new(path), kind, options),
        (Address::Abstract(name), kind) => {
            let address = spell(&listen.address);
            let to = UnixAddr::new_abstract(name.as_bytes())
                .map_err(|error| fail("bind", &address, &error.into(), "a name has at most 107 bytes"))?;
            open_plain(&address, Family::Unix, kind, options, &to)
        }
        (Address::Vsock { cid, port }, kind) => {
            let to = VsockAddr::new(cid.unwrap_or(libc::VMADDR_CID_ANY), *port);
            open_plain(&spell(&listen.address), Family::Vsock, kind, options, &to)
        }
        (Address::Netlink { protocol, group, .. }, _) => open_netlink(listen, *protocol, *group, options),
        (Address::Port(port), kind) => open_port(*port, kind, options, place),
        (Address::Inet(at), kind) => open_ip(*at, &spell(&listen.address), kind, options, place),
        (Address::Scoped(at, interface), kind) => {
            let address = spell(&listen.address);
            let scoped = scope(*at, interface)
                .map_err(|error| fail("bind", &address, &error, &format!("no interface {interface} here")))?;
            open_ip(scoped, &address, kind, options, place)
        }
    }
}

fn scope(at: SocketAddr, interface: &str) -> io::Result<SocketAddr> {
    let index = match interface.parse() {
        Ok(number) => number,
        Err(_) => nix::net::if_::if_nametoindex(interface)?,
    };
    Ok(match at {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), index).into(),
        SocketAddr::V4(_) => at,
    })
}

/// A bare port: the IPv6 wildcard, or IPv4's where the kernel has no IPv6.
fn open_port(
    port: u16,
    kind: ListenKind,
    options: &SocketOptions,
    place: Place,
) -> Result<Opened, SocketError> {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    // The other slots go where the first one went.
    let at = match place {
        Place::NextSlot { at, .. } => at,
        Place::Alone | Place::FirstSlot | Place::Beside { .. } if has_ipv6() => v6,
        Place::Alone | Place::FirstSlot | Place::Beside { .. } => v4,
    };
    open_ip(at, &at.to_string(), kind, options, place)
}

/// Whether IPv6 sockets can be bound here.
fn has_ipv6() -> bool {
    let Ok(fd) = new_socket(Family::Inet6, SockType::Datagram, 0) else { return false };
    let any = SockaddrStorage::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    nix::sys::socket::bind(fd.as_raw_fd(), &any).is_ok()
}

fn new_socket(family: Family, kind: SockType, protocol: c_int) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::Inet => AddressFamily::Inet,
        Family::Inet6 => AddressFamily::Inet6,
        Family::Unix => AddressFamily::Unix,
        Family::Vsock => AddressFamily::Vsock,
        Family::Netlink => AddressFamily::Netlink,
    } as c_int;
    // SAFETY: socket(2) takes three numbers and touches no memory of ours.
    let raw = unsafe { libc::socket(domain, kind as c_int | libc::SOCK_CLOEXEC, protocol) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn protocol_number(protocol: Option<SocketProtocol>) -> c_int {
    match protocol {
        None => 0,
        Some(SocketProtocol::Mptcp) => libc::IPPROTO_MPTCP,
        Some(SocketProtocol::Sctp) => libc::IPPROTO_SCTP,
    }
}

fn sock_type(kind: ListenKind) -> SockType {
    match kind {
        ListenKind::Stream => SockType::Stream,
        ListenKind::SequentialPacket => SockType::SeqPacket,
        ListenKind::Datagram | ListenKind::Fifo => SockType::Datagram,
        ListenKind::Netlink => SockType::Raw,
    }
}

/// listen(2) with a backlog of any size (the kernel caps it). Again on a listening socket: changes its backlog.
pub fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: listen(2) takes two numbers and touches no memory of ours.
    let r = unsafe { libc::listen(fd.as_raw_fd(), backlog) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn can_listen(kind: ListenKind) -> bool {
    matches!(kind, ListenKind::Stream | ListenKind::SequentialPacket)
}

/// Options for a socket that is not yet bound: what could not be set and does not matter.
fn prepare(
    fd: BorrowedFd<'_>,
    address: &str,
    family: Family,
    kind: ListenKind,
    options: &SocketOptions,
) -> Result<Vec<String>, SocketError> {
    let fatal = sockopt::apply(fd, &sockopt::before_bind(options, family, kind));
    if let Some((key, error)) = fatal.first() {
        let hint =
            if error.raw_os_error() == Some(libc::EPERM) { "needs CAP_NET_ADMIN or CAP_NET_RAW" } else { "" };
        return Err(fail(&format!("set {key} on"), address, error, hint));
    }
    Ok(set_or_say(fd, address, &sockopt::at_birth(options, family, kind)))
}

/// Sets every option that can be set at any time; what failed, as sentences.
pub fn adjust(
    fd: BorrowedFd<'_>,
    address: &str,
    family: Family,
    kind: ListenKind,
    options: &SocketOptions,
) -> Vec<String> {
    set_or_say(fd, address, &sockopt::any_time(options, family, kind))
}

fn set_or_say(fd: BorrowedFd<'_>, address: &str, settings: &[sockopt::Setting]) -> Vec<String> {
    let failed = sockopt::apply(fd, settings);
    failed.iter().map(|(key, error)| fail(&format!("set {key} on"), address, error, "").text).collect()
}

fn open_ip(
    at: SocketAddr,
    address: &str,
    kind: ListenKind,
    options: &SocketOptions,
    place: Place,
) -> Result<Opened, SocketError> {
    let at = match place {
        Place::NextSlot { at, .. } => at,
        Place::Alone | Place::FirstSlot | Place::Beside { .. } => at,
    };
    let family = if at.is_ipv6() { Family::Inet6 } else { Family::Inet };
    let protocol = options.protocol.filter(|_| kind == ListenKind::Stream);
    let make = || {
        new_socket(family, sock_type(kind), protocol_number(protocol)).map_err(|error| {
            let hint = protocol.map_or("", |protocol| match protocol {
                SocketProtocol::Mptcp => "this kernel has no MPTCP, or net.mptcp.enabled is 0",
                SocketProtocol::Sctp => "this kernel has no SCTP: modprobe sctp",
            });
            fail("make a socket for", address, &error, hint)
        })
    };
    let fd = make()?;
    let warnings = prepare(fd.as_fd(), address, family, kind, options)?;
    let owned = claim_owner(fd.as_fd(), place);
    if matches!(place, Place::NextSlot { .. } | Place::Beside { .. })
        || (place == Place::Alone && options.reuse_port)
    {
        sockopt::set_reuse_port(fd.as_fd()).map_err(|error| fail("set ReusePort on", address, &error, ""))?;
    }
    let bind = |fd: &OwnedFd, at: SocketAddr| {
        let bound = nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(at));
        bound.map_err(|error| bind_error(at, address, kind, error))
    };
    if at.port() == 0 && kind == ListenKind::Stream {
        // A port that the kernel chose is given up at shutdown(2), one that was asked for is kept: let another
        // socket find a free one, and ask for it while that one still keeps others away.
        let finder = make()?;
        prepare(finder.as_fd(), address, family, kind, options)?;
        bind(&finder, at)?;
        let found = local(finder.as_fd()).map_err(|error| fail("bind", address, &error, ""))?;
        bind(&fd, found)?;
    } else {
        bind(&fd, at)?;
    }
    if place == Place::FirstSlot {
        sockopt::set_reuse_port(fd.as_fd()).map_err(|error| fail("set ReusePort on", address, &error, ""))?;
    }
    if can_listen(kind) {
        listen(fd.as_fd(), options.backlog).map_err(|error| {
            bind_error(at, address, kind, Errno::from_raw(error.raw_os_error().unwrap_or_default()))
        })?;
    }
    let at = local(fd.as_fd()).map_err(|error| fail("bind", address, &error, ""))?;
    let scope = address.split_once('%').map_or(String::new(), |(_, scope)| format!("%{scope}"));
    let shown = if scope.is_empty() { at } else { without_scope(at) };
    Ok(Opened { fd, address: format!("{shown}{scope}"), at: Some(at), path: None, owned, warnings })
}

/// The same address without the number of its interface, which is shown by its name.
fn without_scope(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
        SocketAddr::V4(_) => at,
    }
}

/// Gives a slot to [`SLOT_UID`] before bind(2), if we may; whether it has that owner.
fn claim_owner(fd: BorrowedFd<'_>, place: Place) -> bool {
    let wanted = match place {
        Place::Alone => false,
        Place::FirstSlot => nix::unistd::geteuid().is_root(),
        Place::NextSlot { owned, .. } | Place::Beside { owned } => owned,
    };
    // Refused in a user namespace that does not map the id: strangers of our own uid are then found by
    // sock_diag instead of being kept out.
    wanted && nix::unistd::fchown(fd, Some(SLOT_UID.into()), None).is_ok()
}

/// Gives a program's own socket to [`SLOT_UID`], if we may, as the other slots of its address; whether it has
/// that owner.
pub fn claim(fd: BorrowedFd<'_>) -> bool {
    claim_owner(fd, Place::FirstSlot)
}

/// bind(2) of a program's own socket to an IP address beside sockets of ours that overlap it: both have SO_REUSEPORT, and
/// one owner.
///
/// # Errors
/// Those of fchown(2), setsockopt(2) and bind(2).
pub fn bind_beside(fd: BorrowedFd<'_>, at: SocketAddr, owned: bool) -> io::Result<()> {
    if owned {
        nix::unistd::fchown(fd, Some(SLOT_UID.into()), None)?;
    }
    sockopt::set_reuse_port(fd)?;
    bind(fd, at)
}

/// The inode number of a socket: what /proc shows as `socket:[N]`.
///
/// # Errors
/// Those of fstat(2).
pub fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(fd)?.st_ino)
}

/// `IPV6_V6ONLY`; `None` if it is no IPv6 socket.
pub fn v6_only(fd: BorrowedFd<'_>) -> Option<bool> {
    let is_v6 =
        sockopt::get_int(fd, libc::SOL_SOCKET, libc::SO_DOMAIN).is_ok_and(|domain| domain == libc::AF_INET6);
    is_v6.then(|| sockopt::get_int(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).is_ok_and(|on| on != 0))
}

/// bind(2) of somebody's socket to an IP address.
///
/// # Errors
/// Those of bind(2).
pub fn bind(fd: BorrowedFd<'_>, at: SocketAddr) -> io::Result<()> {
    Ok(nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?)
}

/// The sentence for an IP address that cannot be bound, with who holds it and what to do.
pub fn explain_bind(at: SocketAddr, kind: ListenKind, error: &io::Error) -> String {
    bind_error(at, &at.to_string(), kind, Errno::from_raw(error.raw_os_error().unwrap_or_default())).text
}

/// Why an IP address cannot be bound, and what to do.
fn bind_error(at: SocketAddr, address: &str, kind: ListenKind, error: Errno) -> SocketError {
    let hint = match error {
        Errno::EACCES if at.port() < 1024 => "ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned(),
        Errno::EADDRINUSE => {
            holder::of_port(at, kind).map(|who| format!("held by {who}")).unwrap_or_default()
        }
        Errno::EADDRNOTAVAIL => {
            "no interface has this address; FreeBind = true binds it all the same".to_owned()
        }
        _ => String::new(),
    };
    fail("bind", address, &error.into(), &hint)
}

/// The address that an IP socket is bound to.
pub fn local(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    to_std(&name).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// An IP address in std's form.
pub fn to_std(name: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = name.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    let v6 = name.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

/// An endpoint without a name in the file system.
fn open_plain(
    address: &str,
    family: Family,
    kind: ListenKind,
    options: &SocketOptions,
    to: &dyn SockaddrLike,
) -> Result<Opened, SocketError> {
    let fd = new_socket(family, sock_type(kind), 0)
        .map_err(|error| fail("make a socket for", address, &error, ""))?;
    let warnings = prepare(fd.as_fd(), address, family, kind, options)?;
    nix::sys::socket::bind(fd.as_raw_fd(), to).map_err(|error| {
        let holder = if error == Errno::EADDRINUSE { holder::of_unix(address) } else { None };
        let hint = holder.map(|who| format!("held by {who}")).unwrap_or_default();
        fail("bind", address, &error.into(), &hint)
    })?;
    if can_listen(kind) {
        listen(fd.as_fd(), options.backlog).map_err(|error| fail("listen on", address, &error, ""))?;
    }
    Ok(Opened { fd, address: address.to_owned(), at: None, path: None, owned: false, warnings })
}

fn open_netlink(
    listen: &Listen,
    protocol: i32,
    group: u32,
    options: &SocketOptions,
) -> Result<Opened, SocketError> {
    let address = spell(&listen.address);
    let fd = new_socket(Family::Netlink, SockType::Raw, protocol)
        .map_err(|error| fail("make a netlink socket for", &address, &error, ""))?;
    let warnings = prepare(fd.as_fd(), &address, Family::Netlink, listen.kind, options)?;
    nix::sys::socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, group)).map_err(|error| {
        let hint =
            if error == Errno::EPERM { "multicast groups of this family need CAP_NET_ADMIN" } else { "" };
        fail("bind netlink", &address, &error.into(), hint)
    })?;
    Ok(Opened { fd, address, at: None, path: None, owned: false, warnings })
}

/// A Unix socket with a name in the file system.
fn open_path(path: &Path, kind: ListenKind, options: &SocketOptions) -> Result<Opened, SocketError> {
    let address = path.display().to_string();
    let cannot = |error: &io::Error| fail("bind", &address, error, "");
    let owner = super::fifo::owner(options, &address)?;
    let site = Site::make(path, options.directory_mode)
        .map_err(|error| fail("make the folder of", &address, &error, ""))?;
    make_way(&site, &address)?;
    let fd = new_socket(Family::Unix, sock_type(kind), 0).map_err(|error| cannot(&error))?;
    let mut warnings = prepare(fd.as_fd(), &address, Family::Unix, kind, options)?;
    let birth = Birth { mode: options.socket_mode, owner, at_once: !can_listen(kind) };
    let bound = unixpath::bind(fd.as_fd(), &site, birth).map_err(|error| cannot(&error))?;
    if can_listen(kind)
        && let Err(error) = listen(fd.as_fd(), options.backlog)
    {
        bound.remove();
        return Err(fail("listen on", &address, &error, ""));
    }
    warnings.extend(unixpath::make_aliases(path, &options.symlinks, options.directory_mode));
    Ok(Opened { fd, address, at: None, path: Some(bound), owned: false, warnings })
}

/// Removes a stale socket from its place; refuses if anything else is there.
pub fn make_way(site: &Site, address: &str) -> Result<(), SocketError> {
    let taken = io::Error::from_raw_os_error(libc::EADDRINUSE);
    match unixpath::occupant(site).map_err(|error| fail("bind", address, &error, ""))? {
        Occupant::Nobody => Ok(()),
        Occupant::Stale(inode) => {
            // Whatever is still there then, bind(2) says.
            site.folder().remove_if(site.name(), inode);
            Ok(())
        }
        Occupant::Live => {
            let hint = holder::of_unix(address).map(|who| format!("held by {who}"));
            Err(fail("bind", address, &taken, &hint.unwrap_or_else(|| "somebody serves it".to_owned())))
        }
        Occupant::NotASocket => {
            let hint = "what is there is no socket, and is left alone: remove it, or use another path";
            Err(fail("bind", address, &taken, hint))
        }
    }
}

/// A TCP socket for a probe, bound to an address of this machine that `to` can be reached from, and that
/// address with its port. Non-blocking: connect it with [`dial`]. A wildcard is probed through loopback.
pub fn probe_socket(to: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let to = reachable(to);
    let family = if to.is_ipv6() { Family::Inet6 } else { Family::Inet };
    let fd = new_socket(family, SockType::Stream, 0)?;
    set_nonblocking(fd.as_fd(), true)?;
    let mut from = to;
    from.set_port(0);
    nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    let from = local(fd.as_fd())?;
    Ok((fd, from))
}

/// Where to connect to reach a listener of this machine that is bound to `at`.
pub fn reachable(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => at,
    }
}

/// Begins to connect a non-blocking socket: writable when done, `SO_ERROR` then says how it went.
pub fn dial(fd: BorrowedFd<'_>, to: SocketAddr) -> io::Result<()> {
    match nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(reachable(to))) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
