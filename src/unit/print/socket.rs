//! `[[Socket]]` as TOML.

use super::super::tables::label;
use super::super::value::{BIND_IPV6_ONLY, FLOWS_BY, SHARINGS, SOCKET_PROTOCOLS, print_address, word_of};
use super::super::{Listen, ListenKind, Socket, SocketOptions};
use super::entries::{Section, section};
use super::toml::{array, quote};

/// One `[[Socket]]`.
pub(super) fn socket(socket: &Socket) -> Section {
    let mut section = section(label::SOCKET);
    for listens in socket.listen.chunk_by(|a, b| a.kind == b.kind) {
        let addresses: Vec<String> = listens.iter().map(|listen| quote(&print_address(listen))).collect();
        let value = match addresses.as_slice() {
            [one] => one.clone(),
            several => array(several.iter().cloned()),
        };
        section.put(listens.first().map_or("", key), value);
    }
    section.text("FileDescriptorName", &socket.name);
    bind_options(&mut section, &socket.options);
    traffic_options(&mut section, &socket.options);
    path_options(&mut section, &socket.options);
    section.flag("Accept", socket.accept);
    section.number("MaxConnections", socket.max_connections);
    section.number("MaxConnectionsPerSource", socket.max_connections_per_source);
    section.flag("FlushPending", socket.flush_pending);
    section.time("TriggerLimitIntervalSec", socket.trigger_limit_interval);
    section.number("TriggerLimitBurst", socket.trigger_limit_burst);
    section.word("Sharing", word_of(SHARINGS, &socket.sharing));
    let flows = &socket.options.flows;
    section.word("FlowBy", word_of(FLOWS_BY, &flows.by));
    section.time("FlowTimeoutSec", flows.timeout);
    section.number("FlowsMax", flows.max);
    section
}

/// The key that names such an address.
fn key(listen: &Listen) -> &'static str {
    match listen.kind {
        ListenKind::Stream => "ListenStream",
        ListenKind::Datagram => "ListenDatagram",
        ListenKind::SequentialPacket => "ListenSequentialPacket",
        ListenKind::Fifo => "ListenFIFO",
        ListenKind::Netlink => "ListenNetlink",
    }
}

fn bind_options(section: &mut Section, options: &SocketOptions) {
    section.number("Backlog", options.backlog);
    section.word("BindIPv6Only", word_of(BIND_IPV6_ONLY, &options.bind_ipv6_only));
    section.flag("ReusePort", options.reuse_port);
    section.flag("FreeBind", options.free_bind);
    section.flag("Transparent", options.transparent);
    section.optional_text("BindToDevice", options.bind_to_device.as_deref());
    let protocol = options.protocol.map(|protocol| quote(word_of(SOCKET_PROTOCOLS, &protocol)));
    section.optional("SocketProtocol", protocol);
}

fn traffic_options(section: &mut Section, options: &SocketOptions) {
    let time = |span: crate::time::Span| quote(&span.to_string());
    section.flag("NoDelay", options.no_delay);
    section.time("DeferAcceptSec", options.defer_accept);
    section.flag("KeepAlive", options.keep_alive);
    section.optional("KeepAliveTimeSec", options.keep_alive_time.map(time));
    section.optional("KeepAliveIntervalSec", options.keep_alive_interval.map(time));
    section.optional_number("KeepAliveProbes", options.keep_alive_probes);
    section.optional_number("Priority", options.priority);
    section.optional_number("Mark", options.mark);
    section.optional_number("IPTOS", options.ip_tos);
    section.optional_number("IPTTL", options.ip_ttl);
    section.optional("ReceiveBuffer", options.receive_buffer.map(|size| size.to_string()));
    section.optional("SendBuffer", options.send_buffer.map(|size| size.to_string()));
    section.optional("PipeSize", options.pipe_size.map(|size| size.to_string()));
    section.optional_text("TCPCongestion", options.tcp_congestion.as_deref());
    section.flag("PassCredentials", options.pass_credentials);
}

fn path_options(section: &mut Section, options: &SocketOptions) {
    section.optional_text("SocketUser", options.socket_user.as_deref());
    section.optional_text("SocketGroup", options.socket_group.as_deref());
    section.mode("SocketMode", options.socket_mode);
    section.mode("DirectoryMode", options.directory_mode);
    section.texts("Symlinks", &options.symlinks);
    section.flag("RemoveOnStop", options.remove_on_stop);
}
