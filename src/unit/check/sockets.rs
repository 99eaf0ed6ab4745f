//! Rules of `[[Socket]]`.

use super::super::file::Tables;
use super::super::overlap::{overlap, overlaps_http};
use super::super::read::Table;
use super::super::tables::socket_defaults;
use super::super::value::print_address;
use super::super::{Address, Listen, ListenKind, Sharing, Socket, Unit};
use super::{error, sound, warn};
use std::collections::HashMap;

/// Applies the rules. `places`: where each address of each socket stands.
pub(super) fn check(unit: &Unit, tables: &Tables<'_>, places: &[Vec<usize>]) {
    for ((socket, table), places) in unit.sockets.iter().zip(&tables.sockets).zip(places) {
        accept(socket, table, places);
        steered(socket, table, places);
        flows(unit, socket, tables, table);
        symlinks(socket, table);
        effects(socket, table);
    }
    agreement(unit, tables);
    repeated(unit, tables, places);
    overlapping(unit, tables, places);
}

/// Each connection gets an instance: there must be connections, and nothing is shared out by generation.
fn accept(socket: &Socket, table: &Table<'_>, places: &[usize]) {
    if !socket.accept {
        return;
    }
    for (listen, place) in socket.listen.iter().zip(places) {
        if !has_connections(listen) {
            let address = print_address(listen);
            let message =
                format!("\"{address}\" beside Accept = true: there are no connections on such a socket");
            table.reader().error(*place, message);
        }
    }
    if socket.sharing == Sharing::Steered {
        error(
            &[(table, "Sharing"), (table, "Accept")],
            "Sharing = \"steered\" beside Accept = true: aeternad itself accepts, so there is nothing to steer",
        );
    }
}

/// A generation's memory moves at once, and its flows would stay.
fn flows(unit: &Unit, socket: &Socket, tables: &Tables<'_>, table: &Table<'_>) {
    let steered = socket.sharing == Sharing::Steered && socket.listen.iter().any(Listen::is_unicast_udp);
    if steered && unit.state.enabled {
        error(
            &[(table, "Sharing"), (&tables.state, "Enabled")],
            "Sharing = \"steered\" on a UDP address beside [State]: the memory moves to the new generation at once, and \
             flows would stay with the old one",
        );
    }
    if steered && unit.reload.drain_timeout < socket.options.flows.timeout {
        warn(
            &[(table, "FlowTimeoutSec"), (&tables.reload, "DrainTimeout")],
            format!(
                "FlowTimeoutSec ({}) is longer than DrainTimeout ({}): an old generation that had any flow ends at \
                 DrainTimeout, before it can be known to be idle",
                socket.options.flows.timeout, unit.reload.drain_timeout
            ),
        );
    }
}

/// `steered` works for TCP, for UDP, and for the paths of connected Unix sockets.
fn steered(socket: &Socket, table: &Table<'_>, places: &[usize]) {
    if socket.sharing != Sharing::Steered || socket.accept {
        return;
    }
    for (listen, place) in socket.listen.iter().zip(places) {
        let possible = match listen.address {
            Address::Port(_) | Address::Inet(_) | Address::Scoped(..) => {
                let tcp = listen.kind == ListenKind::Stream && socket.options.protocol.is_none();
                tcp || listen.is_unicast_udp()
            }
            Address::Path(_) => has_connections(listen),
            Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => false,
        };
        if !possible && sound(&[(table, "Sharing")]) {
            let address = print_address(listen);
            let message = format!(
                "\"{address}\" cannot be steered: only TCP addresses, UDP addresses of one machine, and the paths of \
                 stream and sequential-packet sockets can; put it in a [[Socket]] of its own"
            );
            table.reader().error(*place, message);
        }
    }
}

fn has_connections(listen: &Listen) -> bool {
    matches!(listen.kind, ListenKind::Stream | ListenKind::SequentialPacket)
}

/// Aliases need one path that they are aliases of.
fn symlinks(socket: &Socket, table: &Table<'_>) {
    let paths = socket.listen.iter().filter(|listen| matches!(listen.address, Address::Path(_))).count();
    if !socket.options.symlinks.is_empty() && paths != 1 {
        error(
            &[(table, "Symlinks"), (table, "ListenStream"), (table, "ListenDatagram"), (table, "ListenFIFO")],
            format!("Symlinks needs exactly one path in its [[Socket]], here are {paths}"),
        );
    }
}

/// All sockets of a unit agree on `Accept`.
fn agreement(unit: &Unit, tables: &Tables<'_>) {
    let Some(first) = unit.sockets.first() else {
        return;
    };
    for (socket, table) in unit.sockets.iter().zip(&tables.sockets) {
        if socket.accept != first.accept {
            error(
                &[(table, "Accept")],
                format!(
                    "Accept is {} here and {} in the first [[Socket]]; a unit has one of them",
                    socket.accept, first.accept
                ),
            );
        }
    }
}

/// No address twice in a unit.
fn repeated(unit: &Unit, tables: &Tables<'_>, places: &[Vec<usize>]) {
    let mut seen: HashMap<(Option<ListenKind>, Address), &Listen> = HashMap::new();
    for ((_, listen), place) in unit.listens().zip(places.iter().flatten()) {
        if listen.any_port() {
            continue;
        }
        let Listen { kind, address } = listen.endpoint();
        // A path is one file, whatever kind of socket it is.
        let kind = if matches!(address, Address::Path(_)) { None } else { Some(kind) };
        let Some(earlier) = seen.insert((kind, address), listen) else {
            continue;
        };
        let (first, second) = (print_address(earlier), print_address(listen));
        let message = if first == second {
            format!("\"{second}\" is there twice; a unit has an address once")
        } else {
            format!("\"{second}\" is the same address as \"{first}\" before; a unit has an address once")
        };
        tables.unit.reader().error(*place, message);
    }
}

/// No two addresses of which only one can be bound, and none that aeternad is to have for itself.
fn overlapping(unit: &Unit, tables: &Tables<'_>, places: &[Vec<usize>]) {
    let mut earlier: Vec<(&Socket, &Listen)> = Vec::new();
    for ((socket, listen), place) in unit.listens().zip(places.iter().flatten()) {
        let second = print_address(listen);
        let same = |known: &&(&Socket, &Listen)| known.1.endpoint() == listen.endpoint();
        if earlier.iter().any(|known| same(&known)) {
            continue;
        }
        if let Some((_, first)) = earlier.iter().find(|known| overlap(**known, (socket, listen))) {
            let first = print_address(first);
            let message = format!(
                "\"{second}\" and \"{first}\" before cannot both be bound: one has what the other wants; leave one out{}",
                if first.contains('.') == second.contains('.') {
                    ""
                } else {
                    ", or set BindIPv6Only = \"ipv6-only\" beside the IPv6 one"
                }
            );
            tables.unit.reader().error(*place, message);
        }
        earlier.push((socket, listen));
        if let Some(http) = unit.daemon.http.as_ref().filter(|http| overlaps_http(http, socket, listen)) {
            error(
                &[(&tables.daemon, "Http")],
                format!(
                    "\"{http}\" is the unit's own address \"{second}\": aeternad needs another for its HTTP"
                ),
            );
        }
    }
}

/// Warns about options that the sockets of the table do not have. A default has no effect anywhere, and is no
/// reason for a warning.
fn effects(socket: &Socket, table: &Table<'_>) {
    let defaults = socket_defaults("", socket.accept);
    let (set, unset) = (&socket.options, &defaults.options);
    let any = |has: fn(&Listen) -> bool| socket.listen.iter().any(has);
    let tcp = any(|listen| is_ip(listen) && listen.kind == ListenKind::Stream);
    let ip = any(is_ip);
    let path = any(|listen| matches!(listen.address, Address::Path(_)));
    let unix =
        any(|l| l.kind != ListenKind::Fifo && matches!(l.address, Address::Path(_) | Address::Abstract(_)));
    let fifo = any(|listen| listen.kind == ListenKind::Fifo);
    let queue = any(has_connections);
    let flows = socket.sharing == Sharing::Steered && any(Listen::is_unicast_udp);
    let rows: [(&'static str, bool, bool, &str); 29] = [
        ("FlowBy", set.flows.by != unset.flows.by, flows, NOT_FLOWS),
        ("FlowTimeoutSec", set.flows.timeout != unset.flows.timeout, flows, NOT_FLOWS),
        ("FlowsMax", set.flows.max != unset.flows.max, flows, NOT_FLOWS),
        ("Backlog", set.backlog != unset.backlog, queue, "sockets without connections"),
        ("BindIPv6Only", set.bind_ipv6_only != unset.bind_ipv6_only, ip, NOT_IP),
        ("ReusePort", set.reuse_port, ip, NOT_IP),
        ("FreeBind", set.free_bind, ip, NOT_IP),
        ("Transparent", set.transparent, ip, NOT_IP),
        ("BindToDevice", set.bind_to_device.is_some(), ip, NOT_IP),
        (
            "SocketProtocol",
            set.protocol.is_some(),
            tcp,
            "sockets that are not ListenStream with an IP address",
        ),
        ("IPTOS", set.ip_tos.is_some(), ip, NOT_IP),
        ("IPTTL", set.ip_ttl.is_some(), ip, NOT_IP),
        ("NoDelay", set.no_delay, tcp, NOT_TCP),
        ("DeferAcceptSec", set.defer_accept != unset.defer_accept, tcp, NOT_TCP),
        ("KeepAlive", set.keep_alive, tcp, NOT_TCP),
        ("KeepAliveTimeSec", set.keep_alive_time.is_some(), tcp, NOT_TCP),
        ("KeepAliveIntervalSec", set.keep_alive_interval.is_some(), tcp, NOT_TCP),
        ("KeepAliveProbes", set.keep_alive_probes.is_some(), tcp, NOT_TCP),
        ("TCPCongestion", set.tcp_congestion.is_some(), tcp, NOT_TCP),
        ("PassCredentials", set.pass_credentials, unix, "sockets that are not Unix sockets"),
        ("PipeSize", set.pipe_size.is_some(), fifo, "what is no FIFO"),
        ("SocketUser", set.socket_user.is_some(), path, NO_PATH),
        ("SocketGroup", set.socket_group.is_some(), path, NO_PATH),
        ("SocketMode", set.socket_mode != unset.socket_mode, path, NO_PATH),
        ("DirectoryMode", set.directory_mode != unset.directory_mode, path, NO_PATH),
        ("RemoveOnStop", set.remove_on_stop, path, NO_PATH),
        ("MaxConnections", socket.max_connections != defaults.max_connections, socket.accept, NOT_ACCEPT),
        ("MaxConnectionsPerSource", socket.max_connections_per_source != 0, socket.accept, NOT_ACCEPT),
        ("FlushPending", socket.flush_pending, !socket.accept, "sockets with Accept = true"),
    ];
    // Without one good address nothing is known about the sockets.
    let rows = rows.into_iter().filter(|_| !socket.listen.is_empty());
    for (key, _, _, what) in rows.filter(|(_, is_set, works, _)| *is_set && !works) {
        warn(&[(table, key), (table, "Accept")], format!("{key} has no effect on {what}"));
    }
}

const NOT_IP: &str = "sockets without an IP address";
const NOT_TCP: &str = "sockets that are not TCP";
const NOT_FLOWS: &str = "sockets other than UDP with Sharing = \"steered\"";
const NO_PATH: &str = "sockets without a path";
const NOT_ACCEPT: &str = "sockets without Accept = true";

fn is_ip(listen: &Listen) -> bool {
    matches!(listen.address, Address::Port(_) | Address::Inet(_) | Address::Scoped(..))
}
