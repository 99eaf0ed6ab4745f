//! The sockets of `LISTEN_FDS` (sd_listen_fds(3)), by name or by place.

use crate::sys::stream;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};

/// Which socket is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// Its `FileDescriptorName`; the first one that is left of that name.
    Name(&'a str),
    /// Its place in the unit, from 0.
    Index(usize),
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(name: &'a str) -> Which<'a> {
        Which::Name(name)
    }
}

impl From<usize> for Which<'_> {
    fn from(index: usize) -> Self {
        Which::Index(index)
    }
}

/// What was inherited: sockets in the order of the unit, then stored descriptors. Each is given out once; what
/// is left is closed when this is dropped.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Names, and the descriptors that nobody has taken yet.
    sockets: Vec<(String, Option<OwnedFd>)>,
    managed: bool,
}

impl Listeners {
    /// Takes what this process has inherited. To be called once, before other descriptors are opened.
    ///
    /// # Errors
    /// `LISTEN_FDS` names descriptors that are not open.
    pub fn take() -> io::Result<Listeners> {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
        if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
            return Ok(Listeners { sockets: Vec::new(), managed: super::is_managed() });
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let mut sockets = Vec::new();
        for fd in 3..3 + number("LISTEN_FDS").unwrap_or(0) {
            sockets.push((names.next().unwrap_or_default(), Some(stream::inherited(fd)?)));
        }
        Ok(Listeners { sockets, managed: true })
    }

    /// The names, in order; `LISTEN_FDNAMES`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sockets.iter().map(|(name, _)| name.as_str())
    }

    /// A socket or stored descriptor, whatever it is; `None` if there is none (left).
    pub fn descriptor<'a>(&mut self, which: impl Into<Which<'a>>) -> Option<OwnedFd> {
        match which.into() {
            Which::Index(index) => self.sockets.get_mut(index).and_then(|(_, fd)| fd.take()),
            Which::Name(wanted) => {
                let fits = |(name, fd): &&mut (String, Option<OwnedFd>)| name == wanted && fd.is_some();
                self.sockets.iter_mut().find(fits).and_then(|(_, fd)| fd.take())
            }
        }
    }

    /// A TCP listener; without a supervisor one that is bound to `fallback` (`127.0.0.1:8080`).
    ///
    /// # Errors
    /// No such socket although there is a supervisor; `fallback` cannot be bound.
    pub fn tcp<'a>(&mut self, which: impl Into<Which<'a>>, fallback: &str) -> io::Result<TcpListener> {
        self.one(which.into())?.map_or_else(|| TcpListener::bind(fallback), |fd| Ok(fd.into()))
    }

    /// As [`Listeners::tcp`], for a Unix stream socket and a path.
    ///
    /// # Errors
    /// As [`Listeners::tcp`].
    pub fn unix<'a>(&mut self, which: impl Into<Which<'a>>, fallback: &str) -> io::Result<UnixListener> {
        self.one(which.into())?.map_or_else(|| UnixListener::bind(fallback), |fd| Ok(fd.into()))
    }

    /// As [`Listeners::tcp`], for UDP.
    ///
    /// # Errors
    /// As [`Listeners::tcp`].
    pub fn udp<'a>(&mut self, which: impl Into<Which<'a>>, fallback: &str) -> io::Result<UdpSocket> {
        self.one(which.into())?.map_or_else(|| UdpSocket::bind(fallback), |fd| Ok(fd.into()))
    }

    /// As [`Listeners::tcp`], for a Unix datagram socket and a path.
    ///
    /// # Errors
    /// As [`Listeners::tcp`].
    pub fn unix_datagram<'a>(
        &mut self,
        which: impl Into<Which<'a>>,
        fallback: &str,
    ) -> io::Result<UnixDatagram> {
        self.one(which.into())?.map_or_else(|| UnixDatagram::bind(fallback), |fd| Ok(fd.into()))
    }

    /// The descriptor; `None` if the service has to bind by itself.
    fn one(&mut self, which: Which<'_>) -> io::Result<Option<OwnedFd>> {
        let found = self.descriptor(which);
        if found.is_some() || !self.managed {
            return Ok(found);
        }
        let names: Vec<&str> = self.names().collect();
        let text = format!("no socket {which:?} is left in the unit; its sockets are {names:?}");
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Listeners {
        let socket = || Some(OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
        Listeners { sockets: vec![("http".into(), socket()), ("http".into(), socket())], managed: true }
    }

    #[test]
    fn sockets_are_found_by_name_and_by_place_and_given_out_once() {
        let mut listeners = two();
        let by_place = listeners.tcp(1, "not bound").unwrap().local_addr().unwrap();
        let by_name = listeners.tcp("http", "not bound").unwrap().local_addr().unwrap();
        assert_ne!(by_place, by_name);
        let error = listeners.tcp("http", "127.0.0.1:0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "a managed service never binds by itself");
    }

    #[test]
    fn without_a_supervisor_the_service_binds_by_itself() {
        let mut listeners = Listeners::default();
        assert!(listeners.tcp("http", "127.0.0.1:0").is_ok());
        assert!(listeners.udp(7, "127.0.0.1:0").is_ok());
    }
}
