//! What of a socket's options cannot be changed while the socket is there: it keeps what it was made with.

use super::SocketOptions;

/// A key; whether a socket that was made with the first options keeps its value when the second ones are read; and what
/// copies that.
type Row = (&'static str, fn(&SocketOptions, &SocketOptions) -> bool, fn(&mut SocketOptions, &SocketOptions));

macro_rules! row {
    ($key:literal, $field:ident, $stays:expr) => {
        ($key, |born, read| $stays(&born.$field, &read.$field), |to, born| to.$field.clone_from(&born.$field))
    };
}

/// Bound once and for all.
fn differs<T: PartialEq>(born: &T, read: &T) -> bool {
    born != read
}

/// Can be set at any time, and not be taken back: what the kernel had before is not known.
fn unset<T>(born: &Option<T>, read: &Option<T>) -> bool {
    born.is_some() && read.is_none()
}

const fn switched_off(born: &bool, read: &bool) -> bool {
    *born && !*read
}

const ROWS: [Row; 18] = [
    row!("SocketProtocol", protocol, differs),
    row!("BindIPv6Only", bind_ipv6_only, differs),
    row!("ReusePort", reuse_port, differs),
    row!("FreeBind", free_bind, differs),
    row!("Transparent", transparent, differs),
    row!("BindToDevice", bind_to_device, differs),
    row!("PipeSize", pipe_size, unset),
    row!("PassCredentials", pass_credentials, switched_off),
    row!("KeepAliveTimeSec", keep_alive_time, unset),
    row!("KeepAliveIntervalSec", keep_alive_interval, unset),
    row!("KeepAliveProbes", keep_alive_probes, unset),
    row!("Priority", priority, unset),
    row!("Mark", mark, unset),
    row!("IPTOS", ip_tos, unset),
    row!("IPTTL", ip_ttl, unset),
    row!("ReceiveBuffer", receive_buffer, unset),
    row!("SendBuffer", send_buffer, unset),
    row!("TCPCongestion", tcp_congestion, unset),
];

/// The keys of which a socket that was made with `born` keeps the value when `read` is read.
pub fn waiting_keys(born: &SocketOptions, read: &SocketOptions) -> Vec<&'static str> {
    ROWS.iter().filter_map(|(key, stays, _)| stays(born, read).then_some(*key)).collect()
}

/// What a socket that was made with `born` has when `read` was read.
pub fn in_effect(born: &SocketOptions, read: &SocketOptions) -> SocketOptions {
    let mut have = read.clone();
    for (_, stays, keep) in &ROWS {
        if stays(born, read) {
            keep(&mut have, born);
        }
    }
    have
}

#[cfg(test)]
mod tests {
    use super::super::{Context, parse};
    use super::*;

    fn options(keys: &str) -> SocketOptions {
        let context =
            Context { stem: "a".into(), file: String::new(), runtime_dir: "/run".into(), pid1: false };
        let text = format!("[Service]\nExecStart = '/bin/a'\n[Socket]\nListenStream = 80\n{keys}");
        (*parse(&text, &context).unwrap().unit.sockets[0].options).clone()
    }

    #[test]
    fn a_socket_keeps_what_it_was_made_with() {
        let born = options("IPTTL = 7\nIPTOS = 1\nReceiveBuffer = 4096\nFreeBind = true\nBacklog = 5");
        let read = options("IPTOS = 2\nReceiveBuffer = 8192\nNoDelay = true");
        assert_eq!(waiting_keys(&born, &read), ["FreeBind", "IPTTL"]);
        let have = in_effect(&born, &read);
        assert_eq!((have.ip_ttl, have.ip_tos, have.free_bind), (Some(7), Some(2), true));
        assert_eq!((have.receive_buffer, have.no_delay), (Some(8192), true));
        assert!(waiting_keys(&born, &born).is_empty());
        // What it has already is waited for no more.
        assert!(waiting_keys(&born, &have).is_empty());
    }
}
