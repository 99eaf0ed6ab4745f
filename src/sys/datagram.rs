//! Sending one datagram to a Unix socket by its address: sd_notify(3) upward.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::io;
use std::os::fd::AsRawFd;

/// Sends `bytes` to `/path` or `@abstract`. Never blocks. Any thread.
///
/// # Errors
/// Those of sendto(2); `WouldBlock` if the receiver's queue is full.
pub fn send_to(address: &str, bytes: &[u8]) -> io::Result<()> {
    let to = match address.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(address)?,
    };
    let fd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(fd.as_raw_fd(), bytes, &to, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrives_at_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let receiver = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        send_to(path.to_str().unwrap(), b"READY=1").unwrap();
        let mut buffer = [0; 64];
        let count = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"READY=1");
        assert!(send_to("/nowhere/at/all", b"x").is_err());
    }
}
