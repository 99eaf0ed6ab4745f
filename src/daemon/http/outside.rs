//! What the HTTP threads need of the world beside their sockets; tests bring their own.

use super::Stream;
use crate::proto::http::guard::Holders;
use crate::sys::wake::Waker;
use crate::sys::{clock, holder, peer, process, sockdiag};
use crate::time::Monotime;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The main loop, the clock, and who is at the other end of a connection.
#[derive(Clone)]
pub struct Outside {
    /// Makes the main loop look at its calls. Never blocks.
    pub wake: Arc<dyn Fn() + Send + Sync>,
    /// The monotonic clock.
    pub now: fn() -> Monotime,
    /// What the number of the first event comes after.
    pub first_event: u64,
    /// The user of this machine at the other end; `None` if nobody knows. `Err` says why, for people.
    pub peer_uid: fn(&Stream) -> Result<Option<u32>, String>,
    /// Every process that holds the socket at the other end of a TCP connection; may take long. `Err` says why nobody
    /// knows, for people.
    pub holders: fn(&Stream) -> Result<Holders, String>,
    /// aeternad's own pid.
    pub own_pid: i32,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outside")
    }
}

impl Outside {
    /// The real one: `waker` wakes the main loop.
    pub fn new(waker: Waker) -> Outside {
        // Microseconds: more than all events of an aeternad that was started before.
        let first_event = (clock::unix_time() * 1e6) as u64;
        Outside {
            wake: Arc::new(move || waker.wake()),
            now: clock::now,
            first_event,
            peer_uid,
            holders,
            own_pid: process::pid(),
        }
    }
}

/// Who is at the other end: SO_PEERCRED of a Unix socket; for TCP the kernel's list of sockets (sock_diag(7)),
/// which knows the peer only if it is a process of this machine.
fn peer_uid(stream: &Stream) -> Result<Option<u32>, String> {
    let found = match stream {
        Stream::Unix(stream) => peer::peer_credentials(stream.as_fd()).map(|peer| Some(peer.uid)),
        Stream::Tcp(stream) => stream
            .local_addr()
            .and_then(|local| Ok((local, stream.peer_addr()?)))
            .and_then(|(local, remote)| sockdiag::peer_uid(local, remote)),
    };
    found.map_err(|error| error.to_string())
}

/// Who holds the other end, on this machine.
fn holders(stream: &Stream) -> Result<Holders, String> {
    let Stream::Tcp(stream) = stream else { return Ok(Holders::default()) };
    let inode = stream
        .local_addr()
        .and_then(|local| Ok((local, stream.peer_addr()?)))
        .and_then(|(local, remote)| sockdiag::connection(remote, local))
        .map_err(|error| error.to_string())?;
    match inode {
        Some((_, inode)) if inode != 0 => holder::all_of_inode(inode).map_err(|error| error.to_string()),
        // It is elsewhere, or closed already.
        Some(_) | None => Ok(Holders::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::user;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_client_of_this_machine_is_known_by_its_user() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let host = if address.starts_with('[') { "::1" } else { "127.0.0.1" };
            let client = TcpStream::connect((host, port)).unwrap();
            let (stream, _) = listener.accept().unwrap();
            let stream = Stream::Tcp(stream);
            assert_eq!(peer_uid(&stream), Ok(Some(user::effective_uid())), "{address}");
            let own = |stream: &Stream| {
                holders(stream).unwrap().found.iter().any(|holder| holder.pid == process::pid())
            };
            assert!(own(&stream), "{address}");
            drop(client);
            // A child of another test may have a copy for as long as it has not yet executed.
            while own(&stream) {}
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer_uid(&Stream::Unix(ours)), Ok(Some(user::effective_uid())));
    }
}
