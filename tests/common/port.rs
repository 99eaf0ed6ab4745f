//! Ports for programs that have to be told one.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

/// A port that nobody uses, below those that the kernel gives to clients: no connection that another test makes at the
/// same time can have it by chance. No other test of this process is given it, and hardly one of another process.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = std::process::id().wrapping_mul(61).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + number % COUNT) as u16;
        let v4 = (Ipv4Addr::UNSPECIFIED, port);
        // Where there is no IPv6, nobody can have it there.
        let v6 = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let taken = v6.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
        if !taken && TcpListener::bind(v4).is_ok() && UdpSocket::bind(v4).is_ok() {
            return port;
        }
    }
    panic!("every port from {FIRST} on is taken")
}
