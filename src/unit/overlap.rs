//! Addresses of which the kernel lets only one be bound, though they are written differently: `8080` takes every
//! address of the machine, so nothing is left for `127.0.0.1:8080`.

use super::{Address, BindIpv6Only, Listen, ListenKind, Socket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether two IP sockets cannot both be bound. The same address twice is one of the reasons.
pub(super) fn overlap(one: (&Socket, &Listen), other: (&Socket, &Listen)) -> bool {
    let ((a_socket, a), (b_socket, b)) = (one, other);
    let (Some(a_at), Some(b_at)) = (place(a), place(b)) else { return false };
    let apart = match (&a_socket.options.bind_to_device, &b_socket.options.bind_to_device) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    };
    let shared = a_socket.options.reuse_port && b_socket.options.reuse_port;
    let scopes_differ = matches!((&a.address, &b.address),
        (Address::Scoped(_, one), Address::Scoped(_, other)) if one != other);
    a.kind == b.kind
        && a_at.port() == b_at.port()
        && !(apart || shared || scopes_differ)
        && covers_some(a_at.ip(), only_v6(a_socket), b_at.ip(), only_v6(b_socket))
}

/// Whether the daemon's HTTP, which listens at `http`, and a socket cannot both be bound.
pub(super) fn overlaps_http(http: &str, socket: &Socket, listen: &Listen) -> bool {
    if listen.kind != ListenKind::Stream {
        return false;
    }
    match &listen.address {
        Address::Path(path) => return http == path,
        Address::Abstract(name) => return http.strip_prefix('@') == Some(name),
        _ => {}
    }
    let http = match http.parse::<u16>() {
        Ok(port) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => http.replace("localhost:", "127.0.0.1:").parse().ok(),
    };
    let (Some(http), Some(at)) = (http, place(listen)) else { return false };
    http.port() == at.port()
        && socket.options.bind_to_device.is_none()
        && covers_some(http.ip(), false, at.ip(), only_v6(socket))
}

fn only_v6(socket: &Socket) -> bool {
    socket.options.bind_ipv6_only == BindIpv6Only::Ipv6Only
}

/// The IP address that is bound, unless the kernel chooses the port.
fn place(listen: &Listen) -> Option<SocketAddr> {
    let at = match &listen.address {
        Address::Port(port) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)),
        Address::Inet(at) | Address::Scoped(at, _) => *at,
        Address::Path(_) | Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => {
            return None;
        }
    };
    let is_ip = matches!(listen.kind, ListenKind::Stream | ListenKind::Datagram);
    (is_ip && at.port() != 0).then_some(at)
}

/// Whether an address belongs to both: a wildcard has all of its family, IPv6's those of IPv4 too unless it is told not
/// to.
fn covers_some(a: IpAddr, a_only_v6: bool, b: IpAddr, b_only_v6: bool) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    let all = |wide: IpAddr, only_v6: bool, other: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv4() == other.is_ipv4() || (wide.is_ipv6() && !only_v6))
    };
    a == b || all(a, a_only_v6, b) || all(b, b_only_v6, a)
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Unit, parse};
    use super::*;

    fn unit(keys: &str) -> Unit {
        let context =
            Context { stem: "a".into(), file: String::new(), runtime_dir: "/run".into(), pid1: false };
        parse(&format!("[Service]\nExecStart = '/bin/a'\n[Socket]\n{keys}"), &context).unwrap().unit
    }

    #[test]
    fn a_wildcard_leaves_nothing_beside_it() {
        let listen = |address: &str| format!("ListenStream = '{address}'\n");
        let ipv6_only = listen("8080") + "BindIPv6Only = 'ipv6-only'";
        for (one, other, expected) in [
            (listen("8080"), listen("0.0.0.0:8080"), true),
            (listen("8080"), listen("127.0.0.1:8080"), true),
            (listen("8080"), listen("[::1]:8080"), true),
            (listen("8080"), listen("[::]:8080"), true),
            (listen("[::ffff:127.0.0.1]:8080"), listen("127.0.0.1:8080"), true),
            (listen("0.0.0.0:8080"), listen("127.0.0.1:8080"), true),
            (listen("0.0.0.0:8080"), listen("[::1]:8080"), false),
            (listen("127.0.0.1:8080"), listen("127.0.0.2:8080"), false),
            (listen("8080"), listen("0.0.0.0:8081"), false),
            (listen("0"), listen("0.0.0.0:0"), false),
            (listen("8080"), "ListenDatagram = '0.0.0.0:8080'".into(), false),
            (ipv6_only.clone(), listen("0.0.0.0:8080"), false),
            (ipv6_only, listen("[::1]:8080"), true),
            (listen("[fe80::1]:80%eth0"), listen("[fe80::1]:80%eth1"), false),
            (listen("8080") + "BindToDevice = 'a'", listen("0.0.0.0:8080") + "BindToDevice = 'b'", false),
            (listen("8080") + "BindToDevice = 'a'", listen("0.0.0.0:8080"), true),
        ] {
            let (a, b) = (unit(&one), unit(&other));
            let (a, b) = (a.listens().next().unwrap(), b.listens().next().unwrap());
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn the_daemons_own_address_is_nobody_elses() {
        for (http, address, expected) in [
            ("8080", "8080", true),
            ("127.0.0.1:8080", "8080", true),
            ("localhost:8080", "127.0.0.1:8080", true),
            ("[::1]:8080", "0.0.0.0:8080", false),
            ("9091", "8080", false),
            ("/run/a.sock", "/run/a.sock", true),
            ("@a", "@a", true),
        ] {
            let unit = unit(&format!("ListenStream = '{address}'"));
            let (socket, listen) = unit.listens().next().unwrap();
            assert_eq!(overlaps_http(http, socket, listen), expected, "{http} {address}");
        }
    }
}
