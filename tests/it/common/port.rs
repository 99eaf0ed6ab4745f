//! Ports for programs that have to be told one.

use std::sync::atomic::{AtomicU32, Ordering};

/// A port that nobody uses, below those that the kernel gives to clients: no connection that another test makes at the
/// same time can have it by chance. No other test of this process is given it, and hardly one of another process.
///
/// It is looked up and not tried out: a socket bound to it for a trial would live on for a moment in a process that
/// another test starts just then, between its fork and its exec, and be in the way of the program that is told the port.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let taken: Vec<u16> = ["tcp", "tcp6", "udp", "udp6"].into_iter().flat_map(local_ports).collect();
    for _ in 0..COUNT {
        let number = std::process::id().wrapping_mul(61).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + number % COUNT) as u16;
        if !taken.contains(&port) {
            return port;
        }
    }
    panic!("every port from {FIRST} on is taken")
}

/// A port that only root may bind, and that nobody uses. Looked up as in [`free_port`].
pub fn free_low_port() -> u16 {
    let taken: Vec<u16> = ["tcp", "tcp6"].into_iter().flat_map(local_ports).collect();
    (600..1000).find(|port| !taken.contains(port)).unwrap()
}

/// The local ports of a table of sockets; none where there is no such protocol.
fn local_ports(table: &str) -> Vec<u16> {
    let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    let ports = text.lines().skip(1).filter_map(|line| {
        let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    });
    ports.collect()
}
