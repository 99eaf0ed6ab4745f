//! `[[Socket]]`: addresses and how traffic on them starts the service. The options are in `options.rs`.

use super::super::read::{Table, Value, choice, flag, integer, raw_text, text, time};
use super::super::value::{SHARINGS, parse_address};
use super::super::{Listen, ListenKind, Sharing, Socket};
use super::options::{option_defaults, read_options};
use super::set;
use crate::time::Span;
use std::sync::Arc;

/// The keys that name addresses.
const LISTEN_KEYS: [(&str, ListenKind); 5] = [
    ("ListenStream", ListenKind::Stream),
    ("ListenDatagram", ListenKind::Datagram),
    ("ListenSequentialPacket", ListenKind::SequentialPacket),
    ("ListenFIFO", ListenKind::Fifo),
    ("ListenNetlink", ListenKind::Netlink),
];

/// A socket table and where each of its addresses stands in the text.
pub(crate) struct PlacedSocket {
    pub(crate) socket: Socket,
    /// Byte offsets, one for each of `socket.listen`.
    pub(crate) places: Vec<usize>,
}

/// A `[[Socket]]` without addresses and with every default; `accept` because two defaults depend on it.
pub(crate) fn socket_defaults(unit_name: &str, accept: bool) -> Socket {
    Socket {
        listen: Vec::new(),
        // A unit's name may have a colon, LISTEN_FDNAMES is separated by them.
        name: if accept { "connection".into() } else { unit_name.replace(':', "_") },
        options: Arc::new(option_defaults()),
        sharing: Sharing::Auto,
        accept,
        max_connections: 64,
        max_connections_per_source: 0,
        flush_pending: false,
        trigger_limit_interval: Span::from_secs(2),
        trigger_limit_burst: if accept { 200 } else { 20 },
    }
}

/// Reads one `[[Socket]]`.
pub(crate) fn read_socket(table: &Table<'_>, unit_name: &str) -> PlacedSocket {
    let (listen, places) = read_addresses(table);
    let name = table.take("FileDescriptorName", descriptor_name);
    let mut options = option_defaults();
    read_options(table, &mut options);
    let accept = table.take("Accept", flag).unwrap_or(false);
    let mut socket = socket_defaults(unit_name, accept);
    socket.listen = listen;
    socket.options = Arc::new(options);
    set(&mut socket.name, name);
    set(&mut socket.max_connections, table.take("MaxConnections", |v| integer(v, 1..=i64::from(u32::MAX))));
    set(
        &mut socket.max_connections_per_source,
        table.take("MaxConnectionsPerSource", |v| integer(v, 0..=i64::from(u32::MAX))),
    );
    set(&mut socket.flush_pending, table.take("FlushPending", flag));
    set(&mut socket.trigger_limit_interval, table.take("TriggerLimitIntervalSec", time));
    set(
        &mut socket.trigger_limit_burst,
        table.take("TriggerLimitBurst", |v| integer(v, 0..=i64::from(u32::MAX))),
    );
    set(&mut socket.sharing, table.take("Sharing", |v| choice(v, "a Sharing", SHARINGS)));
    PlacedSocket { socket, places }
}

/// Every address with its place: keys in the order of the table, then addresses in the order of an array.
fn read_addresses(table: &Table<'_>) -> (Vec<Listen>, Vec<usize>) {
    let mut found: Vec<(usize, Listen)> = Vec::new();
    for (key, kind) in LISTEN_KEYS {
        table.take(key, |value| {
            let mut good = Some(());
            for item in value.items() {
                match listen(&item, kind) {
                    Some(listen) => found.push((item.at(), listen)),
                    None => good = None,
                }
            }
            good
        });
    }
    // A key's values all stand before the next key's: the order of the text is the order of the descriptors.
    found.sort_by_key(|(at, _)| *at);
    let misspelt = |key: &&str| key.to_ascii_lowercase().starts_with("listen");
    if found.is_empty() && !table.keys_in_order().iter().any(misspelt) {
        let keys = LISTEN_KEYS.map(|(key, _)| key).join(", ");
        table
            .reader()
            .error(table.at(""), format!("{} has no address; it needs one of {keys}", table.label()));
    }
    let (places, listen) = found.into_iter().unzip();
    (listen, places)
}

/// One address; a port may be a number.
fn listen(value: &Value<'_>, kind: ListenKind) -> Option<Listen> {
    let text = match value.get().as_integer() {
        Some(port) if port.radix() == 10 => port.as_str(),
        Some(port) => {
            // As a string it would be no address either.
            let number = i64::from_str_radix(port.as_str(), port.radix());
            let meant = number.map_or_else(|_| "8080".to_owned(), |number| number.to_string());
            return value.is_not("a port", &format!("write a decimal number, {meant}"));
        }
        None if value.get().as_float().is_some() => {
            return value.is_not("a port", "write a whole number, such as 8080");
        }
        None => raw_text(value)?,
    };
    match parse_address(kind, text, &value.reader().specifiers) {
        Ok(address) => Some(Listen { kind, address }),
        Err(why) => value.fail(why),
    }
}

/// A name for LISTEN_FDNAMES: sd_listen_fds(3) allows 255 printable ASCII characters without a colon.
fn descriptor_name(value: &Value<'_>) -> Option<String> {
    let name = text(value)?;
    if !is_descriptor_name(&name) {
        return value.is_not("a descriptor's name", DESCRIPTOR_NAME);
    }
    Some(name)
}

/// What a descriptor's name is, for people.
pub(crate) const DESCRIPTOR_NAME: &str = "up to 255 printable ASCII characters without \":\"";

/// Whether sd_listen_fds_with_names(3) can hand it on.
pub(crate) fn is_descriptor_name(name: &str) -> bool {
    name.len() <= 255 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b':')
}
