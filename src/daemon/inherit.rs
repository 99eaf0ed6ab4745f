//! Sockets that the process which started aeternad left us: `LISTEN_FDS` of sd_listen_fds(3).

use crate::sys::socket;
use crate::unit::{Address, Listen, same_endpoint};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// The first descriptor of sd_listen_fds(3).
const FIRST: i32 = 3;

/// What we were given and nobody has claimed yet.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Gift>,
}

#[derive(Debug)]
struct Gift {
    fd: OwnedFd,
    name: String,
    listen: Option<Listen>,
}

impl Inherited {
    /// Nothing.
    pub fn none() -> Inherited {
        Inherited::default()
    }

    /// Takes over what the environment announces, if it is meant for this process. Call it once, at the start,
    /// before anything else opens a descriptor. Errors are sentences: a number that is none, a descriptor that
    /// is not open.
    pub fn take() -> Result<Inherited, String> {
        let get = |name: &str| std::env::var(name).ok();
        Inherited::read(get, std::process::id(), socket::take_over)
    }

    fn read(
        get: impl Fn(&str) -> Option<String>,
        pid: u32,
        mut take_over: impl FnMut(i32) -> std::io::Result<OwnedFd>,
    ) -> Result<Inherited, String> {
        let Some(count) = get("LISTEN_FDS") else { return Ok(Inherited::none()) };
        if get("LISTEN_PID").and_then(|text| text.parse().ok()) != Some(pid) {
            return Ok(Inherited::none());
        }
        let count: u16 = count
            .parse()
            .map_err(|_| format!("cannot take over the parent's sockets: LISTEN_FDS={count} is no number"))?;
        let names = get("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut sockets = Vec::new();
        for number in FIRST..FIRST + i32::from(count) {
            let fd = take_over(number).map_err(|error| {
                let why = socket::errno_text(&error);
                format!("cannot take over descriptor {number} of LISTEN_FDS={count}: {why}")
            })?;
            let listen = socket::describe(fd.as_fd()).ok();
            sockets.push(Gift { fd, name: names.next().unwrap_or_default().to_owned(), listen });
        }
        Ok(Inherited { sockets })
    }

    /// These sockets with these names.
    #[cfg(test)]
    pub(super) fn of_tests(given: Vec<(OwnedFd, &str)>) -> Inherited {
        let gift = |(fd, name): (OwnedFd, &str)| Gift {
            listen: socket::describe(fd.as_fd()).ok(),
            name: name.to_owned(),
            fd,
        };
        Inherited { sockets: given.into_iter().map(gift).collect() }
    }

    /// The socket of this type and address, if we were given it.
    pub fn claim(&mut self, listen: &Listen) -> Option<OwnedFd> {
        let found = self
            .sockets
            .iter()
            .position(|gift| gift.listen.as_ref().is_some_and(|l| same_endpoint(l, listen)))?;
        Some(self.sockets.remove(found).fd)
    }

    /// The first unclaimed socket of this name. Its address must be one that `listen` leaves open (port 0, a
    /// bare port where the parent chose IPv4 only); another address is an error, a sentence.
    pub fn claim_by_name(&mut self, name: &str, listen: &Listen) -> Result<Option<OwnedFd>, String> {
        let Some(found) = self.sockets.iter().position(|gift| gift.name == name) else { return Ok(None) };
        let gift = &self.sockets[found];
        if gift.listen.as_ref().is_some_and(|given| fits(given, listen)) {
            return Ok(Some(self.sockets.remove(found).fd));
        }
        let given = gift.listen.as_ref().map_or("not a socket".to_owned(), |l| socket::spell(&l.address));
        Err(format!(
            "cannot take over the inherited socket \"{name}\": it is {given}, the unit says {}",
            socket::spell(&listen.address)
        ))
    }

    /// Closes what nobody has claimed; a sentence for each.
    pub fn close(self) -> Vec<String> {
        let describe = |gift: &Gift| match &gift.listen {
            Some(listen) => socket::spell(&listen.address),
            None => "something that is no socket".to_owned(),
        };
        self.sockets
            .iter()
            .map(|gift| {
                let name = if gift.name.is_empty() { String::new() } else { format!(" \"{}\"", gift.name) };
                format!("closed the inherited socket{name} ({}): no unit declares it", describe(gift))
            })
            .collect()
    }
}

/// Whether a given socket is what `wanted` leaves open.
fn fits(given: &Listen, wanted: &Listen) -> bool {
    if given.kind != wanted.kind {
        return false;
    }
    match (&given.address, &wanted.address) {
        (Address::Inet(given), Address::Port(port)) => {
            given.ip().is_unspecified() && (*port == 0 || given.port() == *port)
        }
        (Address::Inet(given), Address::Inet(wanted)) => given.ip() == wanted.ip() && wanted.port() == 0,
        (Address::Inet(SocketAddr::V6(given)), Address::Scoped(SocketAddr::V6(wanted), _)) => {
            given.ip() == wanted.ip() && (wanted.port() == 0 || given.port() == wanted.port())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::ListenKind;
    use std::net::TcpListener;

    fn stream(address: &str) -> Listen {
        Listen { kind: ListenKind::Stream, address: Address::Inet(address.parse().unwrap()) }
    }

    fn given(pairs: &[(&str, &str)], fds: Vec<OwnedFd>) -> Result<Inherited, String> {
        let get =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let mut fds = fds.into_iter();
        Inherited::read(get, 42, move |_| fds.next().ok_or_else(|| std::io::Error::from_raw_os_error(9)))
    }

    fn two(names: &str) -> (Inherited, Listen, Listen) {
        let sockets = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
        let [a, b] = sockets.each_ref().map(|s| stream(&s.local_addr().unwrap().to_string()));
        let env = [("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), ("LISTEN_FDNAMES", names)];
        (given(&env, sockets.into_iter().map(OwnedFd::from).collect()).unwrap(), a, b)
    }

    #[test]
    fn addresses_come_first_and_the_rest_is_reported() {
        let (mut inherited, _, b) = two("x:y");
        assert!(inherited.claim(&b).is_some());
        assert!(inherited.claim(&b).is_none(), "claimed once");
        let mut other_kind = b.clone();
        other_kind.kind = ListenKind::Datagram;
        assert!(inherited.claim(&other_kind).is_none());
        let warnings = inherited.close();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("\"x\""), "{warnings:?}");
    }

    #[test]
    fn a_name_with_another_address_is_an_error() {
        let (mut inherited, _, _) = two("http:admin");
        let error = inherited.claim_by_name("http", &stream("127.0.0.1:1")).unwrap_err();
        assert!(error.contains("the unit says 127.0.0.1:1"), "{error}");
        assert!(inherited.claim_by_name("http", &stream("127.0.0.1:0")).unwrap().is_some());
        assert!(inherited.claim_by_name("other", &stream("127.0.0.1:0")).unwrap().is_none());
    }

    #[test]
    fn what_is_not_for_us_is_left_alone() {
        for env in [
            &[("LISTEN_FDS", "1"), ("LISTEN_PID", "41")][..],
            &[("LISTEN_FDS", "1")],
            &[("LISTEN_PID", "42")],
        ] {
            assert!(given(env, vec![]).unwrap().sockets.is_empty(), "{env:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let error = given(&[("LISTEN_FDS", "many"), ("LISTEN_PID", "42")], vec![]).unwrap_err();
        assert!(error.contains("LISTEN_FDS=many"), "{error}");
        let error = given(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "42")], vec![]).unwrap_err();
        assert!(error.contains("descriptor 3"), "{error}");
    }
}
