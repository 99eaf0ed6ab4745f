//! `[HealthCheck]`.

use super::super::read::{Table, Value, flag, integer, limited, list, positive_time, raw_text, text, time};
use super::super::value::{parse_address, parse_http_target, parse_status_ranges};
use super::super::{Address, Check, HealthCheck, HttpTarget, ListenKind};
use super::commands::command;
use crate::time::Span;

/// The keys that say what is checked: exactly one of them.
const KINDS: [&str; 3] = ["HttpGet", "TcpConnect", "Exec"];

/// Reads `[HealthCheck]`; `None` if it is not there or says nothing that can be checked.
pub(crate) fn read_health(table: &Table<'_>) -> Option<HealthCheck> {
    let http = table.take("HttpGet", http_target);
    let http = with_host(table, http).map(Check::HttpGet);
    let tcp = table.take("TcpConnect", connect_target).map(Check::TcpConnect);
    let exec = table.take("Exec", command).map(Check::Exec);
    let threshold = |v: &Value<'_>| integer(v, 1..=i64::from(u32::MAX));
    let interval = table.take("Interval", positive_time).unwrap_or(Span::from_secs(5));
    let timeout = table.take("Timeout", positive_time).unwrap_or(Span::from_secs(2));
    let initial_delay = table.take("InitialDelay", time).unwrap_or(Span::ZERO);
    let success_threshold = table.take("SuccessThreshold", threshold).unwrap_or(1);
    let failure_threshold = table.take("FailureThreshold", threshold).unwrap_or(3);
    let expect_status = table.take("ExpectStatus", statuses).unwrap_or_else(default_statuses);
    let always = table.take("Always", flag).unwrap_or(false);
    if table.is_there() {
        check_kinds(table);
    }
    let check = http.or(tcp).or(exec)?;
    Some(HealthCheck {
        check,
        interval,
        timeout,
        initial_delay,
        success_threshold,
        failure_threshold,
        expect_status,
        always,
    })
}

/// The default of `ExpectStatus`.
pub(crate) fn default_statuses() -> Vec<(u16, u16)> {
    vec![(200, 399)]
}

/// Exactly one kind of check, and `ExpectStatus` only where there is a status.
fn check_kinds(table: &Table<'_>) {
    let present: Vec<&str> = KINDS.into_iter().filter(|key| table.has(key)).collect();
    let reader = table.reader();
    match present.as_slice() {
        [] => reader.error(
            table.at(""),
            format!("{} checks nothing; it needs one of {}", table.label(), KINDS.join(", ")),
        ),
        [_] => {}
        several => {
            let mut in_order: Vec<&&str> = several.iter().collect();
            in_order.sort_by_key(|key| table.at(key));
            for key in &in_order[1..] {
                let first = in_order[0];
                reader.error(table.at(key), format!("{key} beside {first}: a health check is one of them"));
            }
        }
    }
    if present.as_slice() != ["HttpGet"] && table.has("ExpectStatus") && !present.is_empty() {
        reader.warn(table.at("ExpectStatus"), "ExpectStatus has no effect without HttpGet");
    }
}

/// The target with `HttpHost`.
pub(super) fn with_host(table: &Table<'_>, target: Option<HttpTarget>) -> Option<HttpTarget> {
    let named = table.take("HttpHost", http_host);
    if table.has("HttpHost") && !table.has("HttpGet") {
        table.reader().warn(table.at("HttpHost"), "HttpHost has no effect without HttpGet");
    }
    target.map(|target| HttpTarget { named, ..target })
}

/// What stands in a Host header.
fn http_host(value: &Value<'_>) -> Option<String> {
    let host = text(value)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || host.len() > 255 || !host.bytes().all(fits) {
        return value
            .is_not("the name of a host", "write shop.example or shop.example:8080, without http://");
    }
    Some(host)
}

fn http_target(value: &Value<'_>) -> Option<HttpTarget> {
    let url = raw_text(value)?;
    parse_http_target(url, &value.reader().specifiers).map_or_else(|why| value.fail(why), Some)
}

/// An address that one can connect to: a port, IP address and port, or a Unix path.
fn connect_target(value: &Value<'_>) -> Option<Address> {
    let text = match value.get().as_integer() {
        Some(port) if port.radix() == 10 => port.as_str(),
        _ => raw_text(value)?,
    };
    match parse_address(ListenKind::Stream, text, &value.reader().specifiers) {
        Ok(Address::Vsock { .. } | Address::Netlink { .. }) => {
            value.is_not("an address for a check", "write a port, 127.0.0.1:8080, or a Unix path")
        }
        Ok(address) if port_of(&address) == Some(0) => {
            value.is_not("a port to connect to", "ports go from 1 to 65535")
        }
        Ok(address) => Some(address),
        Err(why) => value.fail(why),
    }
}

fn port_of(address: &Address) -> Option<u16> {
    match address {
        Address::Port(port) => Some(*port),
        Address::Inet(socket) | Address::Scoped(socket, _) => Some(socket.port()),
        Address::Path(_) | Address::Abstract(_) | Address::Vsock { .. } | Address::Netlink { .. } => None,
    }
}

/// Ranges of HTTP statuses, at least one.
fn statuses(value: &Value<'_>) -> Option<Vec<(u16, u16)>> {
    let mut ranges = Vec::new();
    let items = list(value, |item| limited(item, |text| Ok(text.to_string())).map(|text| (*item, text)))?;
    let mut good = true;
    for (item, text) in items {
        if let Err(why) = parse_status_ranges(&text, &mut ranges) {
            item.fail::<()>(why);
            good = false;
        }
    }
    if good && ranges.is_empty() {
        return value.fail("ExpectStatus needs at least one HTTP status");
    }
    good.then_some(ranges)
}
