//! From the bytes of a sockaddr to the address that a unit would declare.

use crate::sys::dir::Folder;
use crate::sys::unixpath::Site;
use crate::unit::{Address, ListenKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What a sockaddr names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// An IP address with a port.
    Ip(SocketAddr),
    /// A path, as the program wrote it.
    Path(PathBuf),
    /// An abstract name.
    Abstract(String),
    /// Nothing that could be held: a port or name of the kernel's choice, another family.
    Other,
}

/// Reads a sockaddr of `bind(2)`: native byte order for the family, the network's for ports.
pub fn parse(bytes: &[u8]) -> Name {
    let Some(family) = bytes.get(..2).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes) else {
        return Name::Other;
    };
    let name = match family {
        AF_INET => ipv4(bytes),
        AF_INET6 => ipv6(bytes),
        AF_UNIX => unix(bytes.get(2..).unwrap_or_default()),
        _ => None,
    };
    match name {
        Some(Name::Ip(at)) if at.port() == 0 => Name::Other,
        Some(name) => name,
        None => Name::Other,
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))
}

fn ipv4(bytes: &[u8]) -> Option<Name> {
    let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    Some(Name::Ip(SocketAddr::from((Ipv4Addr::from(ip), port(bytes)?))))
}

fn ipv6(bytes: &[u8]) -> Option<Name> {
    let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
    let scope = bytes.get(24..28).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Some(Name::Ip(SocketAddrV6::new(Ipv6Addr::from(ip), port(bytes)?, 0, scope).into()))
}

fn unix(name: &[u8]) -> Option<Name> {
    match name.first()? {
        0 => {
            let name = std::str::from_utf8(name.get(1..)?).ok()?;
            (!name.is_empty()).then(|| Name::Abstract(name.to_owned()))
        }
        _ => {
            let path = name.split(|byte| *byte == 0).next()?;
            Some(Name::Path(PathBuf::from(std::str::from_utf8(path).ok()?)))
        }
    }
}

/// Where a path of a thread is: as it sees it, from its own root and its own folder.
#[derive(Debug)]
pub(super) struct Spot {
    /// The folder, open, and the name in it.
    pub(super) site: Site,
    /// Whether the same path leads there from our own root: not from a container's or another mount namespace's.
    pub(super) is_ours: bool,
}

/// Finds the folder of a path in the eyes of a thread. The path of what is found is the one that leads there for us, its
/// links resolved: another spelling is the same name.
pub(super) fn resolve(tid: i32, folder: Option<i32>, path: &Path) -> Option<Spot> {
    let name = path.file_name()?.to_owned();
    let base = match folder {
        _ if path.is_absolute() => format!("/proc/{tid}/root"),
        None => format!("/proc/{tid}/cwd"),
        Some(fd) => format!("/proc/{tid}/fd/{fd}"),
    };
    let folder = Folder::open_from(Path::new(&base), path.parent()?).ok()?;
    let shown = folder.path()?;
    let is_ours = Folder::open(&shown).is_ok_and(|ours| ours.identity() == folder.identity());
    let path = shown.join(&name);
    Some(Spot { site: Site::in_folder(Arc::new(folder), path), is_ours })
}

/// The kind and family of a socket from `system.sockprotoname`.
pub(super) fn kind_of(protocol: &str) -> Option<ListenKind> {
    match protocol {
        "TCP" | "TCPv6" | "MPTCP" | "MPTCPv6" | "UNIX-STREAM" => Some(ListenKind::Stream),
        "UDP" | "UDPv6" => Some(ListenKind::Datagram),
        _ => None,
    }
}

/// The address as a unit would declare it.
pub fn address(name: &Name, path: Option<&Path>) -> Option<Address> {
    match name {
        Name::Ip(at) => Some(Address::Inet(*at)),
        Name::Path(_) => Some(Address::Path(path?.to_str()?.to_owned())),
        Name::Abstract(name) => Some(Address::Abstract(name.clone())),
        Name::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockaddr(family: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = family.to_ne_bytes().to_vec();
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let v4 = sockaddr(AF_INET, &[0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&v4), Name::Ip("127.0.0.1:8080".parse().unwrap()));
        let mut rest = vec![0, 80, 0, 0, 0, 0];
        rest.extend(Ipv6Addr::LOCALHOST.octets());
        rest.extend(7_u32.to_ne_bytes());
        let Name::Ip(SocketAddr::V6(v6)) = parse(&sockaddr(AF_INET6, &rest)) else { panic!() };
        assert_eq!((*v6.ip(), v6.port(), v6.scope_id()), (Ipv6Addr::LOCALHOST, 80, 7));
        assert_eq!(parse(&sockaddr(AF_UNIX, b"/run/x\0junk")), Name::Path("/run/x".into()));
        assert_eq!(parse(&sockaddr(AF_UNIX, b"\0abc")), Name::Abstract("abc".into()));
    }

    #[test]
    fn what_cannot_be_held_is_left_alone() {
        let any_port = sockaddr(AF_INET, &[0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        for bytes in [
            any_port,
            sockaddr(AF_UNIX, b""),
            sockaddr(16, &[0; 10]),
            vec![],
            vec![2],
            sockaddr(AF_INET, &[1]),
        ] {
            assert_eq!(parse(&bytes), Name::Other, "{bytes:?}");
        }
    }
}
