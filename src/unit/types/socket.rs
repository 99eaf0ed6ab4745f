//! `[[Socket]]`: addresses and their options.

use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A `[[Socket]]` table: addresses that share one set of options.
#[derive(Debug, Clone, PartialEq)]
pub struct Socket {
    /// The addresses: keys in the order of the table, then addresses in the order of an array.
    pub listen: Vec<Listen>,
    /// `FileDescriptorName`: 1 to 255 printable ASCII characters without `:`. Default: the unit's name
    /// (`connection` with `Accept`).
    pub name: String,
    /// Everything that is set on the socket itself; each of its addresses' sockets refers to it.
    pub options: Arc<SocketOptions>,
    /// `Sharing`.
    pub sharing: Sharing,
    /// `Accept`.
    pub accept: bool,
    /// `MaxConnections`, at least 1; with `Accept` only.
    pub max_connections: u32,
    /// `MaxConnectionsPerSource`, 0 is off; with `Accept` only.
    pub max_connections_per_source: u32,
    /// `FlushPending`: throw away what is queued when the service has ended.
    pub flush_pending: bool,
    /// `TriggerLimitIntervalSec`, zero is off.
    pub trigger_limit_interval: Span,
    /// `TriggerLimitBurst`, 0 is off.
    pub trigger_limit_burst: u32,
}

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Which `Listen…` key named it.
    pub kind: ListenKind,
    /// Where.
    pub address: Address,
}

/// Which `Listen…` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ListenKind {
    /// `ListenStream`: SOCK_STREAM.
    Stream,
    /// `ListenDatagram`: SOCK_DGRAM.
    Datagram,
    /// `ListenSequentialPacket`: SOCK_SEQPACKET, AF_UNIX (or vsock) only.
    SequentialPacket,
    /// `ListenFIFO`.
    Fifo,
    /// `ListenNetlink`.
    Netlink,
}

/// An address as systemd.socket(5) spells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// A bare port: the IPv6 wildcard, dual stack per `BindIPv6Only`; the IPv4 wildcard where there is no IPv6.
    Port(u16),
    /// `1.2.3.4:80`, `[::1]:80`.
    Inet(SocketAddr),
    /// `[fe80::1]:80%eth0`: the interface's name is resolved when the socket is bound.
    Scoped(SocketAddr, String),
    /// An absolute path: AF_UNIX, or the FIFO's. May be longer than 107 bytes.
    Path(String),
    /// `@name` in the abstract namespace, without the `@`.
    Abstract(String),
    /// `vsock:CID:PORT`; no CID means any.
    Vsock {
        /// The context id, `None` for VMADDR_CID_ANY.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
    /// `FAMILY [GROUP]` of `ListenNetlink`: the family's number and name, the multicast group bits.
    Netlink {
        /// The family's name as written, e.g. `kobject-uevent`.
        family: String,
        /// Its protocol number.
        protocol: i32,
        /// The multicast group mask, 0 for none.
        group: u32,
    },
}

/// `BindIPv6Only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindIpv6Only {
    /// As net.ipv6.bindv6only says.
    Default,
    /// IPv4 too.
    Both,
    /// IPv6 only.
    Ipv6Only,
}

/// Options that are set on a socket before bind or listen. `None` leaves what the kernel has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketOptions {
    /// `Backlog`, default 4294967295 (the kernel caps it at net.core.somaxconn).
    pub backlog: u32,
    /// `BindIPv6Only`.
    pub bind_ipv6_only: BindIpv6Only,
    /// `ReusePort`.
    pub reuse_port: bool,
    /// `FreeBind`.
    pub free_bind: bool,
    /// `Transparent`.
    pub transparent: bool,
    /// `BindToDevice`.
    pub bind_to_device: Option<String>,
    /// `NoDelay`.
    pub no_delay: bool,
    /// `DeferAcceptSec`, rounded up to seconds by the kernel; zero is off.
    pub defer_accept: Span,
    /// `KeepAlive`.
    pub keep_alive: bool,
    /// `KeepAliveTimeSec`.
    pub keep_alive_time: Option<Span>,
    /// `KeepAliveIntervalSec`.
    pub keep_alive_interval: Option<Span>,
    /// `KeepAliveProbes`.
    pub keep_alive_probes: Option<u32>,
    /// `Priority`.
    pub priority: Option<i32>,
    /// `Mark`.
    pub mark: Option<u32>,
    /// `IPTOS`, 0 to 255.
    pub ip_tos: Option<u8>,
    /// `IPTTL`, 1 to 255.
    pub ip_ttl: Option<u8>,
    /// `ReceiveBuffer`, bytes.
    pub receive_buffer: Option<u64>,
    /// `SendBuffer`, bytes.
    pub send_buffer: Option<u64>,
    /// `PipeSize`, bytes; FIFO only.
    pub pipe_size: Option<u64>,
    /// `SocketProtocol`; without it TCP or UDP.
    #[serde(default)]
    pub protocol: Option<SocketProtocol>,
    /// `TCPCongestion`.
    pub tcp_congestion: Option<String>,
    /// `PassCredentials`.
    pub pass_credentials: bool,
    /// `SocketUser`: owner of a Unix path or FIFO.
    pub socket_user: Option<String>,
    /// `SocketGroup`.
    pub socket_group: Option<String>,
    /// `SocketMode`, default 0666.
    pub socket_mode: u32,
    /// `DirectoryMode`, default 0755: of parent folders that are made.
    pub directory_mode: u32,
    /// `Symlinks`: aliases of the one path.
    pub symlinks: Vec<String>,
    /// `RemoveOnStop`: remove the path (and aliases) when the socket is closed.
    pub remove_on_stop: bool,
    /// `FlowBy` and its like.
    #[serde(default)]
    pub flows: FlowOptions,
}

/// `SocketProtocol`: what a stream is carried by, instead of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketProtocol {
    /// TCP over several paths; clients that know nothing of it are served as with TCP.
    Mptcp,
    /// SCTP.
    Sctp,
}

/// How the flows of a steered datagram address are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowOptions {
    /// `FlowBy`.
    pub by: FlowBy,
    /// `FlowTimeoutSec`, 1 s to 1 h: a flow that was silent for so long is a new one.
    pub timeout: Span,
    /// `FlowsMax`, 1024 to 1048576: how many are remembered.
    pub max: u32,
}

impl Default for FlowOptions {
    fn default() -> FlowOptions {
        FlowOptions { by: FlowBy::Address, timeout: Span::from_secs(30), max: 65_536 }
    }
}

/// `FlowBy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowBy {
    /// The remote address and port.
    Address,
    /// Before that the first byte of a QUIC connection ID, which the program makes `AETERNA_FLOW_TAG`.
    Tag,
}

/// `Sharing` (contract section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Steered for TCP, shared for everything else.
    Auto,
    /// A slot (TCP, UDP) or a socket (Unix path) per generation.
    Steered,
    /// One open file description that every generation accepts from.
    Shared,
}

impl Listen {
    /// The one spelling of an endpoint that all its spellings have in common: a key for sets and maps. Two addresses
    /// have the same if and only if [`same_endpoint`] says so.
    pub fn endpoint(&self) -> Listen {
        let address = wildcard(&self.address).map_or_else(|| self.address.clone(), Address::Port);
        Listen { kind: self.kind, address }
    }

    /// Whether it is an IP address.
    pub fn is_ip(&self) -> bool {
        matches!(self.address, Address::Port(_) | Address::Inet(_) | Address::Scoped(..))
    }

    /// Whether it is a UDP address whose datagrams reach one socket and not all: no multicast or broadcast address.
    pub fn is_unicast_udp(&self) -> bool {
        let reaches_all = |at: &SocketAddr| match at.ip().to_canonical() {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_multicast(),
        };
        self.kind == ListenKind::Datagram
            && match &self.address {
                Address::Port(_) => true,
                Address::Inet(at) | Address::Scoped(at, _) => !reaches_all(at),
                Address::Path(_) | Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => {
                    false
                }
            }
    }

    /// Whether the port is left to the kernel: another one for every line that says so.
    pub fn any_port(&self) -> bool {
        match &self.address {
            Address::Port(port) => *port == 0,
            Address::Inet(address) | Address::Scoped(address, _) => address.port() == 0,
            Address::Path(_) | Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => {
                false
            }
        }
    }
}

/// Whether two addresses mean the same endpoint for one kind: what "keeps a socket at a reload" and what
/// "two units with one address" compare.
pub fn same_endpoint(a: &Listen, b: &Listen) -> bool {
    a == b
        || (a.kind == b.kind
            && wildcard(&a.address).is_some()
            && wildcard(&a.address) == wildcard(&b.address))
}

/// The port, if the address is the IPv6 wildcard in either spelling (`8080`, `[::]:8080`); never port 0.
fn wildcard(address: &Address) -> Option<u16> {
    match address {
        Address::Port(port) if *port != 0 => Some(*port),
        Address::Inet(SocketAddr::V6(v6)) if IpAddr::V6(*v6.ip()).is_unspecified() && v6.port() != 0 => {
            Some(v6.port())
        }
        Address::Port(_)
        | Address::Inet(_)
        | Address::Scoped(..)
        | Address::Path(_)
        | Address::Abstract(_)
        | Address::Vsock { .. }
        | Address::Netlink { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_agree_with_their_comparison() {
        let texts = ["[::]:80", "[::]:0", "0.0.0.0:80", "[::1]:80"];
        let inet = texts.map(|text| text.parse().map(Address::Inet).unwrap());
        let addresses =
            inet.into_iter().chain([80, 81, 0].map(Address::Port)).chain([Address::Path("/80".into())]);
        let listens: Vec<Listen> = addresses
            .flat_map(|address| {
                [ListenKind::Stream, ListenKind::Datagram]
                    .map(|kind| Listen { kind, address: address.clone() })
            })
            .collect();
        for a in &listens {
            for b in &listens {
                assert_eq!(same_endpoint(a, b), a.endpoint() == b.endpoint(), "{a:?} {b:?}");
            }
        }
        assert_eq!(listens[0].endpoint().address, Address::Port(80));
    }
}
