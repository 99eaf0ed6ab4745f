//! Who is at the other end of a Unix socket: `SO_PEERCRED` of unix(7).

use nix::sys::socket::{getsockopt, sockopt};
use std::io;
use std::os::fd::BorrowedFd;

/// A process as the kernel vouches for it. Numbers are those of our own namespaces; `pid` is 0 for a process
/// that our pid namespace does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id.
    pub pid: i32,
    /// Effective user id at connect(2), or as the sender gave it.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Who connected this AF_UNIX stream or seqpacket socket. `ENOTCONN`-like errors if nobody did.
pub fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<Peer> {
    let found = getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok(Peer { pid: found.pid(), uid: found.uid(), gid: found.gid() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_pair_is_our_own() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer_credentials(a.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id().cast_signed());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn a_file_has_no_peer() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(peer_credentials(file.as_fd()).is_err());
    }
}
