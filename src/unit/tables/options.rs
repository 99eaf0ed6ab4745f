//! `[[Socket]]`: what is set on the socket itself.

use super::super::read::{Table, Value, bytes, choice, flag, integer, list, mode, positive_time, text, time};
use super::super::value::{BIND_IPV6_ONLY, FLOWS_BY, IP_TOS, SOCKET_PROTOCOLS};
use super::super::{BindIpv6Only, FlowOptions, SocketOptions};
use super::process::user_or_group;
use super::{set, set_some};
use crate::time::Span;

/// The options of a socket whose table says nothing.
pub(crate) fn option_defaults() -> SocketOptions {
    SocketOptions {
        backlog: u32::MAX,
        bind_ipv6_only: BindIpv6Only::Default,
        reuse_port: false,
        free_bind: false,
        transparent: false,
        bind_to_device: None,
        no_delay: false,
        defer_accept: Span::ZERO,
        keep_alive: false,
        keep_alive_time: None,
        keep_alive_interval: None,
        keep_alive_probes: None,
        priority: None,
        mark: None,
        ip_tos: None,
        ip_ttl: None,
        receive_buffer: None,
        send_buffer: None,
        pipe_size: None,
        tcp_congestion: None,
        protocol: None,
        pass_credentials: false,
        socket_user: None,
        socket_group: None,
        socket_mode: 0o666,
        directory_mode: 0o755,
        symlinks: Vec::new(),
        remove_on_stop: false,
        flows: FlowOptions::default(),
    }
}

/// Reads the option keys of a `[[Socket]]`.
pub(crate) fn read_options(table: &Table<'_>, options: &mut SocketOptions) {
    read_bind_options(table, options);
    read_traffic_options(table, options);
    read_path_options(table, options);
    read_flow_options(table, &mut options.flows);
}

fn read_flow_options(table: &Table<'_>, flows: &mut FlowOptions) {
    set(&mut flows.by, table.take("FlowBy", |v| choice(v, "a FlowBy", FLOWS_BY)));
    set(&mut flows.timeout, table.take("FlowTimeoutSec", flow_timeout));
    set(&mut flows.max, table.take("FlowsMax", |v| integer(v, 1024..=1_048_576)));
}

fn read_bind_options(table: &Table<'_>, options: &mut SocketOptions) {
    set(&mut options.backlog, table.take("Backlog", |v| integer(v, 0..=i64::from(u32::MAX))));
    set(
        &mut options.bind_ipv6_only,
        table.take("BindIPv6Only", |v| choice(v, "a BindIPv6Only", BIND_IPV6_ONLY)),
    );
    set(&mut options.reuse_port, table.take("ReusePort", flag));
    set(&mut options.free_bind, table.take("FreeBind", flag));
    set(&mut options.transparent, table.take("Transparent", flag));
    set_some(&mut options.bind_to_device, table.take("BindToDevice", device));
    set_some(
        &mut options.protocol,
        table.take("SocketProtocol", |v| choice(v, "a SocketProtocol", SOCKET_PROTOCOLS)),
    );
}

fn read_traffic_options(table: &Table<'_>, options: &mut SocketOptions) {
    set(&mut options.no_delay, table.take("NoDelay", flag));
    set(&mut options.defer_accept, table.take("DeferAcceptSec", finite_time));
    set(&mut options.keep_alive, table.take("KeepAlive", flag));
    set_some(&mut options.keep_alive_time, table.take("KeepAliveTimeSec", keep_alive_time));
    set_some(&mut options.keep_alive_interval, table.take("KeepAliveIntervalSec", keep_alive_time));
    // MAX_TCP_KEEPCNT
    set_some(&mut options.keep_alive_probes, table.take("KeepAliveProbes", |v| integer(v, 1..=127)));
    set_some(&mut options.priority, table.take("Priority", |v| integer(v, 0..=i64::from(i32::MAX))));
    set_some(&mut options.mark, table.take("Mark", |v| integer(v, 0..=i64::from(u32::MAX))));
    set_some(&mut options.ip_tos, table.take("IPTOS", ip_tos));
    set_some(&mut options.ip_ttl, table.take("IPTTL", |v| integer(v, 1..=255)));
    set_some(&mut options.receive_buffer, table.take("ReceiveBuffer", bytes));
    set_some(&mut options.send_buffer, table.take("SendBuffer", bytes));
    set_some(&mut options.pipe_size, table.take("PipeSize", bytes));
    set_some(&mut options.tcp_congestion, table.take("TCPCongestion", congestion));
    set(&mut options.pass_credentials, table.take("PassCredentials", flag));
}

fn read_path_options(table: &Table<'_>, options: &mut SocketOptions) {
    set_some(&mut options.socket_user, table.take("SocketUser", user_or_group));
    set_some(&mut options.socket_group, table.take("SocketGroup", user_or_group));
    set(&mut options.socket_mode, table.take("SocketMode", mode));
    set(&mut options.directory_mode, table.take("DirectoryMode", mode));
    set(&mut options.symlinks, table.take("Symlinks", |v| list(v, absolute_path)));
    set(&mut options.remove_on_stop, table.take("RemoveOnStop", flag));
}

/// An absolute path, with specifiers.
pub(crate) fn absolute_path(value: &Value<'_>) -> Option<String> {
    let path = text(value)?;
    if !path.starts_with('/') {
        return value.is_not("an absolute path", "it starts with /");
    }
    Some(path)
}

/// The name of a network interface (IFNAMSIZ: 15 characters).
fn device(value: &Value<'_>) -> Option<String> {
    let name = text(value)?;
    let valid = name.len() <= 15 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !valid {
        return value.is_not("the name of a network interface", "up to 15 characters such as eth0");
    }
    Some(name)
}

/// The name of a congestion control algorithm (TCP_CA_NAME_MAX: 15 characters).
fn congestion(value: &Value<'_>) -> Option<String> {
    let name = text(value)?;
    if name.len() > 15 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return value.is_not("a congestion control algorithm", "up to 15 characters such as cubic or bbr");
    }
    Some(name)
}

/// A time that the kernel takes as seconds in an int.
fn finite_time(value: &Value<'_>) -> Option<Span> {
    time(value).and_then(|span| in_seconds(value, span))
}

/// As [`finite_time`], from 1 to 32767 seconds (MAX_TCP_KEEPIDLE).
fn keep_alive_time(value: &Value<'_>) -> Option<Span> {
    let span = positive_time(value)?;
    if span > Span::from_secs(32767) {
        return value.fail("the kernel takes at most 32767 seconds here");
    }
    Some(span)
}

/// From a second to an hour.
fn flow_timeout(value: &Value<'_>) -> Option<Span> {
    let span = positive_time(value)?;
    if span < Span::from_secs(1) || span > Span::from_secs(3600) {
        return value.fail("it is from 1s to 1h");
    }
    Some(span)
}

fn in_seconds(value: &Value<'_>, span: Span) -> Option<Span> {
    if span > Span::from_secs(i32::MAX.unsigned_abs().into()) {
        return value.fail("the kernel takes at most 2147483647 seconds here");
    }
    Some(span)
}

/// A number, or a name of RFC 1349.
fn ip_tos(value: &Value<'_>) -> Option<u8> {
    if value.get().is_str() { choice(value, "an IPTOS", IP_TOS) } else { integer(value, 0..=255) }
}
