//! The listening socket.

use super::Stream;
use crate::proto::http::guard::Reach;
use crate::sys::socket::{errno_text, listen};
use crate::sys::stream::{self, Watch};
use crate::sys::unixpath::{self, BoundPath};
use crate::sys::wake::{self, Waker, Wakeups};
use std::io;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where aeternad listens for HTTP. Shared by the accept thread and whoever ends it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    address: String,
    /// A path that we made: removed at the end, if it is still ours.
    path: Option<BoundPath>,
    closed: AtomicBool,
    paused: AtomicBool,
    /// Ends the wait for a connection.
    waker: Waker,
    wakeups: Wakeups,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds `IP:PORT`, `NAME:PORT`, `PORT` (every address of this machine), `/path`, `@abstract`.
    pub(super) fn bind(address: &str) -> Result<Listener, String> {
        let said = |error: &dyn std::fmt::Display| format!("cannot listen for HTTP on {address}: {error}");
        let why = |error: &io::Error| said(&errno_text(error));
        let (socket, path) = if address.starts_with('/') {
            // Whoever may connect may read; changing something takes more (see proto::http::guard).
            let (socket, path) = unixpath::listen(Path::new(address), 0o660).map_err(|error| why(&error))?;
            (Socket::Unix(socket.into()), Some(path))
        } else if let Some(name) = address.strip_prefix('@') {
            let name = SocketAddr::from_abstract_name(name).map_err(|error| why(&error))?;
            (Socket::Unix(UnixListener::bind_addr(&name).map_err(|error| why(&error))?), None)
        } else if let Ok(port) = address.parse::<u16>() {
            // Without IPv6 in the kernel there is only the other wildcard.
            let socket = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
            (Socket::Tcp(socket.map_err(|error| why(&error))?), None)
        } else {
            if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                return Err(said(&"it is none of IP:PORT, PORT, /path, @abstract"));
            }
            (Socket::Tcp(TcpListener::bind(address).map_err(|error| why(&error))?), None)
        };
        let address = match &socket {
            Socket::Tcp(socket) => {
                // The standard library's queue is short: a crowd would make others wait for a second SYN.
                listen(socket.as_fd(), u32::MAX).map_err(|error| why(&error))?;
                socket.local_addr().map_err(|error| why(&error))?.to_string()
            }
            Socket::Unix(_) => address.to_owned(),
        };
        Listener::new(socket, address, path).map_err(|error| why(&error))
    }

    fn new(socket: Socket, address: String, path: Option<BoundPath>) -> io::Result<Listener> {
        // The wait is for the wake-up too, and whoever has come may have gone before it is accepted.
        match &socket {
            Socket::Tcp(socket) => socket.set_nonblocking(true)?,
            Socket::Unix(socket) => socket.set_nonblocking(true)?,
        }
        let (waker, wakeups) = wake::self_pipe()?;
        let (closed, paused) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Listener { socket, address, path, closed, paused, waker, wakeups })
    }

    /// The descriptor, whether it is TCP, and a path of ours.
    pub(super) fn parts(&self) -> (BorrowedFd<'_>, bool, Option<&BoundPath>) {
        match &self.socket {
            Socket::Tcp(socket) => (socket.as_fd(), true, self.path.as_ref()),
            Socket::Unix(socket) => (socket.as_fd(), false, self.path.as_ref()),
        }
    }

    /// One that another program had.
    ///
    /// # Errors
    /// There is no room for a pipe.
    pub(super) fn restored(
        fd: OwnedFd,
        is_tcp: bool,
        address: String,
        path: Option<BoundPath>,
    ) -> io::Result<Listener> {
        let (waker, wakeups) = wake::self_pipe()?;
        let socket = if is_tcp { Socket::Tcp(fd.into()) } else { Socket::Unix(fd.into()) };
        let (closed, paused) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Listener { socket, address, path, closed, paused, waker, wakeups })
    }

    /// Nothing is accepted for now; who waits in [`Listener::accept`] comes back with an error.
    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Accepts again.
    pub(super) fn resume(&self) {
        self.paused.store(false, Ordering::Release);
        self.wakeups.drain();
    }

    /// Whether [`Listener::pause`] was called.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// With the real port.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Who can reach it.
    pub(super) fn reach(&self) -> Reach {
        match &self.socket {
            Socket::Unix(_) => Reach::Unix,
            Socket::Tcp(socket) => match socket.local_addr().map(|address| address.ip().to_canonical()) {
                Ok(IpAddr::V4(ip)) if ip.is_loopback() => Reach::Loopback,
                Ok(IpAddr::V6(ip)) if ip.is_loopback() => Reach::Loopback,
                Ok(_) | Err(_) => Reach::Network,
            },
        }
    }

    /// The next connection, and who it is. Blocks, but for [`Listener::pause`].
    pub(super) fn accept(&self) -> io::Result<Stream> {
        loop {
            let (socket, ..) = self.parts();
            let wakeups = self.wakeups.fd();
            stream::wait([Watch::read(&socket), Watch::read(&wakeups)], None)?;
            if self.is_paused() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match self.accept_now() {
                // A Unix listener that was shut down is ready for ever, and says that there is nobody.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.is_closed() => {}
                done => return done,
            }
        }
    }

    fn accept_now(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Socket::Unix(socket) => Ok(Stream::Unix(socket.accept()?.0)),
        }
    }

    /// Whether [`Listener::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Accepts nothing more: a waiting `accept` fails (shutdown(2) on a listening socket does that on Linux).
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let copy = match &self.socket {
            Socket::Tcp(socket) => socket.try_clone().map(OwnedFd::from),
            Socket::Unix(socket) => socket.try_clone().map(OwnedFd::from),
        };
        let done = copy.and_then(|fd| TcpStream::from(fd).shutdown(Shutdown::Both));
        if let Err(error) = done {
            log::warn!("http: cannot stop listening on {}: {error}", self.address);
        }
        if let Some(own) = &self.path {
            // Nobody can use it any more; whoever cannot remove it leaves it to the next start.
            own.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_reach_follows_from_the_address() {
        for (address, reach) in [
            ("127.0.0.1:0", Reach::Loopback),
            ("localhost:0", Reach::Loopback),
            ("0.0.0.0:0", Reach::Network),
            ("@aeterna-test-reach", Reach::Unix),
        ] {
            let listener = Listener::bind(address).unwrap();
            assert_eq!(listener.reach(), reach, "{address}");
            assert!(!listener.address().ends_with(":0"));
        }
    }

    #[test]
    fn what_is_no_address_is_said_to_be_none() {
        for address in ["", "x", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "/nowhere/at/all"] {
            let error = Listener::bind(address).unwrap_err();
            assert!(error.starts_with(&format!("cannot listen for HTTP on {address}: ")), "{error}");
        }
    }

    #[test]
    fn a_stale_path_is_taken_over_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.sock");
        drop(UnixListener::bind(&path).unwrap());
        // A child of another test may have a copy for as long as it has not yet executed.
        while UnixStream::connect(&path).is_ok() {}
        let listener = Listener::bind(path.to_str().unwrap()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(Listener::bind(path.to_str().unwrap()).is_err());
        let long = format!("{}/{}", dir.path().display(), "x".repeat(150));
        Listener::bind(&long).unwrap().close();
        listener.close();
        assert!(!path.exists());
        // The one that looked whether anybody listens is in the queue still.
        assert!(listener.accept().is_ok());
        assert!(listener.accept().is_err());

        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(path.to_str().unwrap()).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn the_path_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.sock");
        let listener = Listener::bind(path.to_str().unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        listener.close();
        assert!(path.exists());
        drop(other);
    }
}
