//! What a unit's declared addresses have become: looked up among the sockets that are really bound.

use crate::daemon::sockets::ListenSet;
use crate::sys::socket;
use crate::unit::{Address, Listen, ListenKind, Unit};
use std::net::SocketAddr;

/// An address as other starters write it: a bare port for a wildcard, `127.0.0.1:80`, a path.
pub fn starter_address(listen: &Listen, bound: Option<SocketAddr>) -> String {
    match (&listen.address, bound) {
        (Address::Port(_), Some(real)) => real.port().to_string(),
        (_, Some(real)) => real.to_string(),
        (address, None) => socket::spell(address),
    }
}

/// The first steered stream address of a unit, with its real port: where [`crate::machine::event::ProbeKind::Accepts`] knocks.
/// Of what programs bind by themselves, the first that the generation listens on.
pub fn probe_address(sockets: &ListenSet, unit: &Unit, listening: &[Listen]) -> Option<Address> {
    let declared = unit.listens().zip(sockets.bound_addresses(unit)).find_map(|((_, listen), bound)| {
        if listen.kind != ListenKind::Stream || !sockets.is_steered(&listen.endpoint()) {
            return None;
        }
        match (&listen.address, bound) {
            (_, Some(real)) => Some(Address::Inet(loopback(real))),
            (address @ Address::Path(_), None) => Some(address.clone()),
            (_, None) => None,
        }
    });
    declared.or_else(|| sockets.learned_stream(listening).map(|real| Address::Inet(loopback(real))))
}

/// Where a probe goes instead, if a narrower address of another generation takes what it was to connect to.
pub fn detour(sockets: &ListenSet, to: &Address, slot: u32) -> Option<Address> {
    let meant = match to {
        Address::Inet(at) => *at,
        Address::Port(port) => (std::net::Ipv4Addr::LOCALHOST, *port).into(),
        _ => return None,
    };
    sockets.detour(meant, slot).map(Address::Inet)
}

/// A wildcard is reached over its loopback.
fn loopback(address: SocketAddr) -> SocketAddr {
    let mut reached = address;
    if address.ip().is_unspecified() {
        reached.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    reached
}
