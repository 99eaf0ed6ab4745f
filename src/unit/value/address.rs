//! Addresses as systemd.socket(5) spells them.

use super::super::{Address, Listen, ListenKind};
use super::specifier::{Specifiers, escape};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest name in the abstract namespace: sun_path less the NUL byte that marks it.
const LONGEST_ABSTRACT: usize = 107;

/// The names that systemd.socket(5) knows for `ListenNetlink`, with the NETLINK_ numbers of linux/netlink.h.
const NETLINK_FAMILIES: &[(&str, i32)] = &[
    ("route", 0),
    ("firewall", 3),
    ("inet-diag", 4),
    ("nflog", 5),
    ("xfrm", 6),
    ("selinux", 7),
    ("iscsi", 8),
    ("audit", 9),
    ("fib-lookup", 10),
    ("connector", 11),
    ("netfilter", 12),
    ("ip6-fw", 13),
    ("dnrtmsg", 14),
    ("kobject-uevent", 15),
    ("generic", 16),
    ("scsitransport", 18),
    ("ecryptfs", 19),
    ("rdma", 20),
];

/// The address that `text` (not yet expanded) is for a `Listen…` key of `kind`.
pub(crate) fn parse_address(
    kind: ListenKind,
    text: &str,
    specifiers: &Specifiers,
) -> Result<Address, String> {
    let address = if kind == ListenKind::Netlink {
        netlink(&specifiers.expand(text)?)?
    } else if let Some((rest, interface)) = scope(text) {
        scoped(rest, interface)?
    } else if let Some(right) = misplaced_scope(text) {
        return Err(format!("the interface comes last: write \"{right}\""));
    } else {
        general(&specifiers.expand(text)?)?
    };
    fits(kind, &address, text)?;
    Ok(address)
}

/// Splits `[fe80::1]:80%eth0` at the percent sign. It is no specifier there, nor has it to be doubled.
fn scope(text: &str) -> Option<(&str, &str)> {
    let (before, interface) = text.split_once('%')?;
    let (_, port) = before.strip_prefix('[')?.split_once("]:")?;
    let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| (before, interface.strip_prefix('%').unwrap_or(interface)))
}

/// `[fe80::1%eth0]:80`, as others write it: how it is written here.
fn misplaced_scope(text: &str) -> Option<String> {
    let (inside, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (ip, interface) = inside.split_once('%')?;
    Some(format!("[{ip}]:{port}%{}", interface.strip_prefix('%').unwrap_or(interface)))
}

fn scoped(address: &str, interface: &str) -> Result<Address, String> {
    // IFNAMSIZ is 16 with the final NUL.
    let is_name = (1..=15).contains(&interface.len())
        && interface.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
    if !is_name {
        return Err(format!("\"{interface}\" is not the name of a network interface"));
    }
    match general(address)? {
        Address::Inet(socket) => Ok(Address::Scoped(socket, interface.to_string())),
        _ => Err(format!("\"{address}\" cannot have an interface; only an IPv6 address can")),
    }
}

/// Every form but `ListenNetlink`'s.
fn general(text: &str) -> Result<Address, String> {
    if text.starts_with('/') {
        return path(text).map(Address::Path);
    }
    if let Some(name) = text.strip_prefix('@') {
        return match name.len() {
            0 => Err("an abstract address needs a name after the \"@\"".into()),
            1..=LONGEST_ABSTRACT => Ok(Address::Abstract(name.to_string())),
            _ => Err(format!("an abstract name has at most {LONGEST_ABSTRACT} bytes")),
        };
    }
    if let Some(rest) = text.strip_prefix("vsock:") {
        return vsock(rest);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return port(text).map(Address::Port);
    }
    inet(text).map(Address::Inet)
}

/// An absolute path without what would give one file two names.
fn path(text: &str) -> Result<String, String> {
    if text.split('/').any(|part| part == "..") {
        return Err(format!("\"{text}\" has a \"..\" in it; write the path that is meant"));
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.is_empty() || text.ends_with('/') {
        return Err(format!("\"{text}\" is a folder; the socket needs a name in it"));
    }
    Ok(format!("/{}", parts.join("/")))
}

fn vsock(text: &str) -> Result<Address, String> {
    let wrong =
        || format!("\"vsock:{text}\" is not an address; write vsock:CID:PORT, or vsock::PORT for any CID");
    let (cid, port) = text.split_once(':').ok_or_else(wrong)?;
    let number = |digits: &str| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u32>().ok().filter(|_| plain)
    };
    let cid = if cid.is_empty() { None } else { Some(number(cid).ok_or_else(wrong)?) };
    // VMADDR_CID_ANY has two spellings; one value.
    let cid = cid.filter(|cid| *cid != u32::MAX);
    Ok(Address::Vsock { cid, port: number(port).ok_or_else(wrong)? })
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("port {text} is out of range; ports go from 0 to 65535"))
}

/// `1.2.3.4:80` or `[::1]:80`.
fn inet(text: &str) -> Result<SocketAddr, String> {
    let Some((host, digits)) = text.rsplit_once(':') else {
        return Err(no_port(text));
    };
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("\"{text}\": an IPv6 address has brackets and a port, as in [::1]:80"));
    }
    if let Some(rest) = text.split_once("://").map(|(_, rest)| rest) {
        return Err(format!("\"{text}\" is a URL; write the address alone: {}", rest.trim_end_matches('/')));
    }
    if let Some(hint) = other_spelling(text) {
        return Err(format!("\"{text}\" is not an address: {hint}"));
    }
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("\"{digits}\" in \"{text}\" is not a port; ports go from 0 to 65535"));
    }
    let port = port(digits)?;
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inside.parse::<Ipv6Addr>() {
            Ok(ip) => Ok(SocketAddr::new(IpAddr::V6(ip), port)),
            Err(_) => Err(format!("\"{inside}\" is not an IPv6 address")),
        };
    }
    match host.parse::<Ipv4Addr>() {
        Ok(ip) => Ok(SocketAddr::new(IpAddr::V4(ip), port)),
        Err(_) if host.is_empty() || host == "*" => {
            Err(format!("\"{text}\" has no address; write {port} for every interface, or 127.0.0.1:{port}"))
        }
        Err(_) if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            Err(format!("\"{host}\" is not an IPv4 address"))
        }
        Err(_) => Err(format!(
            "\"{host}\" is a host name; addresses are numeric, such as 127.0.0.1:{port} or [::1]:{port}"
        )),
    }
}

/// What to write instead of what other programs understand.
fn other_spelling(text: &str) -> Option<&'static str> {
    if text.starts_with('[') && text.ends_with(']') {
        return Some("a port is missing, as in [::1]:80");
    }
    let (scheme, _) = text.split_once(':')?;
    match scheme {
        "unix" => Some("write the path alone"),
        "udp" => Some("write the address alone, with ListenDatagram"),
        "tcp" => Some("write the address alone"),
        "fd" => Some("an inherited descriptor is found by its address or its FileDescriptorName"),
        _ => None,
    }
}

/// What to say about a text without any colon.
fn no_port(text: &str) -> String {
    if text.parse::<Ipv4Addr>().is_ok() {
        return format!("\"{text}\" has no port; write {text}:80");
    }
    if text.contains('/') {
        return format!("\"{text}\" is a relative path; a socket's path starts with /");
    }
    format!(
        "\"{text}\" is not an address; write 8080, 127.0.0.1:8080, [::1]:8080, /path, @name or vsock:CID:PORT"
    )
}

fn netlink(text: &str) -> Result<Address, String> {
    let mut words = text.split_ascii_whitespace();
    let (family, group) = (words.next().unwrap_or_default(), words.next());
    let known = NETLINK_FAMILIES.iter().find(|(name, _)| *name == family).map(|(_, number)| *number);
    let numeric = family.parse().ok().filter(|number| (0..32).contains(number));
    let Some(protocol) = known.or(numeric) else {
        let names: Vec<&str> = NETLINK_FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(match super::super::read::nearest(family, names.iter().copied()) {
            Some(name) => format!("\"{family}\" is not a netlink family; did you mean \"{name}\"?"),
            None => format!("\"{family}\" is not a netlink family; use {}", names.join(", ")),
        });
    };
    let group = match group.map(str::parse) {
        None => 0,
        Some(Ok(group)) => group,
        Some(Err(_)) => return Err(format!("the group in \"{text}\" is not a number")),
    };
    if words.next().is_some() {
        return Err(format!("\"{text}\" is more than a family and a group"));
    }
    Ok(Address::Netlink { family: family.to_string(), protocol, group })
}

/// Whether a socket of `kind` can have such an address.
fn fits(kind: ListenKind, address: &Address, text: &str) -> Result<(), String> {
    match (kind, address) {
        (ListenKind::Fifo, Address::Path(_)) => Ok(()),
        (ListenKind::Fifo, _) => Err(format!("\"{text}\" is not an absolute path; a FIFO needs one")),
        (ListenKind::SequentialPacket, Address::Port(_) | Address::Inet(_) | Address::Scoped(..)) => {
            Err(format!(
                "\"{text}\" is an IP address; ListenSequentialPacket takes /path, @name or vsock:CID:PORT"
            ))
        }
        _ => Ok(()),
    }
}

/// The address as [`parse_address`] reads it back, percent signs doubled.
pub(crate) fn print_address(listen: &Listen) -> String {
    escape(&listen.address.to_string())
}

impl fmt::Display for Address {
    /// As systemd.socket(5) spells it: `8080`, `[::1]:80`, `/path`, `@name`, `vsock:2:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Port(port) => write!(f, "{port}"),
            Address::Inet(socket) => write!(f, "{socket}"),
            Address::Scoped(socket, interface) => write!(f, "{socket}%{interface}"),
            Address::Path(path) => f.write_str(path),
            Address::Abstract(name) => write!(f, "@{name}"),
            Address::Vsock { cid: None, port } => write!(f, "vsock::{port}"),
            Address::Vsock { cid: Some(cid), port } => write!(f, "vsock:{cid}:{port}"),
            Address::Netlink { family, group: 0, .. } => f.write_str(family),
            Address::Netlink { family, group, .. } => write!(f, "{family} {group}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(kind: ListenKind, text: &str) -> Result<Address, String> {
        parse_address(kind, text, &Specifiers { name: "app".into(), runtime_dir: "/run/a".into() })
    }

    #[test]
    fn every_form_is_read_and_printed() {
        use ListenKind::{Datagram, Fifo, Netlink, SequentialPacket, Stream};
        for (kind, text, expected) in [
            (Stream, "8080", Address::Port(8080)),
            (Stream, "0", Address::Port(0)),
            (Stream, "127.0.0.1:80", Address::Inet("127.0.0.1:80".parse().unwrap())),
            (Datagram, "[::1]:80", Address::Inet("[::1]:80".parse().unwrap())),
            (Stream, "[fe80::1]:80%eth0", Address::Scoped("[fe80::1]:80".parse().unwrap(), "eth0".into())),
            (Stream, "[fe80::1]:80%%n1", Address::Scoped("[fe80::1]:80".parse().unwrap(), "n1".into())),
            (Stream, "%t//x/./%n.sock", Address::Path("/run/a/x/app.sock".into())),
            (SequentialPacket, "@100%%", Address::Abstract("100%".into())),
            (Stream, "vsock:2:1234", Address::Vsock { cid: Some(2), port: 1234 }),
            (Stream, "vsock::1234", Address::Vsock { cid: None, port: 1234 }),
            (Fifo, "/run/fifo", Address::Path("/run/fifo".into())),
            (
                Netlink,
                "kobject-uevent 1",
                Address::Netlink { family: "kobject-uevent".into(), protocol: 15, group: 1 },
            ),
            (Netlink, "16", Address::Netlink { family: "16".into(), protocol: 16, group: 0 }),
        ] {
            let address = parsed(kind, text).unwrap();
            assert_eq!(address, expected, "{text}");
            let printed = print_address(&Listen { kind, address });
            assert_eq!(parsed(kind, &printed).unwrap(), expected, "{printed}");
        }
    }

    #[test]
    fn what_is_no_address_gets_a_hint() {
        for (text, part) in [
            ("", "not an address"),
            ("65536", "out of range"),
            ("127.0.0.1:99999", "out of range"),
            ("127.0.0.1", "write 127.0.0.1:80"),
            ("127.0.0.1:", "not a port"),
            ("127.0.0.1:http", "not a port"),
            ("1.2.3.400:80", "not an IPv4"),
            ("::1", "[::1]:80"),
            ("[::1]", "port is missing"),
            ("unix:/run/x", "path alone"),
            ("udp:53", "ListenDatagram"),
            ("::1:80", "brackets"),
            ("[::g]:80", "not an IPv6"),
            ("localhost:80", "host name"),
            (":80", "write 80 for every interface"),
            ("*:80", "write 80 for every interface"),
            ("tcp://127.0.0.1:80/", "is a URL"),
            ("run/app.sock", "starts with /"),
            ("/run/", "a folder"),
            ("/", "a folder"),
            ("/run/../x", "\"..\""),
            ("@", "name after"),
            ("vsock:1", "vsock:CID:PORT"),
            ("vsock:a:1", "vsock:CID:PORT"),
            ("[fe80::1%eth0]:53", "write \"[fe80::1]:53%eth0\""),
            ("[fe80::1]:80%", "not the name of a network interface"),
            ("-1", "not an address"),
        ] {
            let why = parsed(ListenKind::Stream, text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        assert!(parsed(ListenKind::Fifo, "8080").unwrap_err().contains("absolute path"));
        assert!(parsed(ListenKind::SequentialPacket, "8080").unwrap_err().contains("IP address"));
        assert!(parsed(ListenKind::Netlink, "rout").unwrap_err().contains("did you mean \"route\""));
        assert!(parsed(ListenKind::Netlink, "route x").unwrap_err().contains("not a number"));
        assert!(parsed(ListenKind::Netlink, "route 1 2").unwrap_err().contains("more than"));
    }
}
