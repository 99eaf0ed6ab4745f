//! bind(2) to an address that is not held.

use super::call::{Handler, Outcome};
use super::reading::Seen;
use super::{GO_ON, Level, glance};
use crate::daemon::sockets::{Found, Wanted, is_wider};
use crate::sys::aside::Foreign;
use crate::sys::seccomp::{self, Answer};
use crate::sys::{limits, socket};
use crate::unit::{Address, Listen, ListenKind};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// How many addresses a unit can teach us: a program that binds a new one for each request must not fill our table.
pub(super) const LEARNED_MAX: usize = 1024;

impl Handler<'_> {
    /// bind(2) to an IP address that nobody knows.
    pub(super) fn bind_new(&mut self, fd: i32, at: SocketAddr, wanted: Wanted, seen: Seen) -> Outcome {
        let datagram = wanted.listen.kind == ListenKind::Datagram;
        if self.is_full() {
            return GO_ON;
        }
        if datagram {
            self.note_client(&wanted.listen);
        }
        let is_clients = datagram && self.is_clients(&wanted.listen);
        if datagram
            && !is_clients
            && let Some(held) = self.hold_datagram(&wanted)
        {
            return self.give(fd, &held, &seen);
        }
        if self.is_in_another("net") {
            // The other slots would be made in our own network, where nobody has asked for them.
            let text = format!(
                "generation {} binds {} in a network namespace of its own: it binds by itself there, only \
                 declared addresses are adopted",
                self.number.0,
                socket::spell(&wanted.listen.address)
            );
            self.say(Level::Warning, &text);
            return Outcome { alone: true, ..GO_ON };
        }
        let low = at.port() < limits::first_free_port();
        let Some(own) = seen.own.as_ref().filter(|_| !low || self.may_bind_low()) else {
            if low {
                self.remember(seen.inode, wanted);
                return GO_ON;
            }
            return self.bind_blind(fd, at, &wanted, &seen);
        };
        if !self.listener.is_valid(self.call) {
            return GO_ON;
        }
        if let Err(error) = socket::bind(own.as_fd(), at) {
            let why = socket::explain_bind(at, wanted.listen.kind, &error);
            let number = self.number.0;
            let text = if is_clients {
                format!(
                    "{why}; generation {number} is told so: two generations ask from one port of their own, and one would \
                     read the other's answers. Let the program ask from port 0, or use Strategy = \"replace\""
                )
            } else {
                format!("{why}; generation {number} is told so, aeternad does not hold this address")
            };
            self.say(Level::Error, &text);
            return Outcome::answer(error.raw_os_error().map_or(Answer::Continue, Answer::Failed));
        }
        if !datagram {
            self.remember(seen.inode, wanted);
            return Outcome::answer(Answer::Done);
        }
        // Not held yet: it may be a client's, which is gone as soon as it has its answer. Ours is gone before that.
        drop(seen.own.and_then(Foreign::into_owned));
        let address = wanted.listen.endpoint();
        if let Some(shell) = self.unit.generations.get_mut(&self.number) {
            shell.adopted.remember_datagram(seen.inode, wanted);
        }
        Outcome::listens(address)
    }

    /// Whether programs of this unit bind such an address for a question each time.
    pub(super) fn is_clients(&self, listen: &Listen) -> bool {
        self.unit.filters.clients.contains(listen)
    }

    /// A generation that has closed a datagram socket, and binds the same address again, is a client there.
    fn note_client(&mut self, listen: &Listen) {
        const KNOWN_MAX: usize = 64;
        let Some(shell) = self.unit.generations.get(&self.number) else { return };
        let earlier = shell.adopted.datagrams.iter().filter(|(_, known)| known.listen == *listen);
        let inodes: BTreeSet<u64> = earlier.map(|(inode, _)| *inode).collect();
        let seen = glance(std::iter::once(shell.as_ref()), &inodes);
        let again = inodes.iter().any(|inode| !seen.may_have(&[*inode]));
        let clients = &mut self.unit.filters.clients;
        if again && clients.len() < KNOWN_MAX && !clients.contains(listen) {
            clients.push(listen.clone());
        }
    }

    /// Whether no more can be held of this unit; said once.
    fn is_full(&mut self) -> bool {
        let is_full = self.unit.sockets.learned() >= LEARNED_MAX;
        if is_full {
            let text = format!(
                "it binds more than {LEARNED_MAX} addresses that the unit does not declare: the others are not held, \
                 and a reload does not keep them; declare those that matter"
            );
            self.say(Level::Warning, &text);
        }
        is_full
    }

    /// A datagram socket of this address that a process of the unit has, and that nobody holds yet: held from now on.
    fn hold_datagram(&mut self, wanted: &Wanted) -> Option<Listen> {
        super::hold_datagrams(self.unit, |known| known.listen == wanted.listen);
        match self.unit.sockets.find(wanted) {
            Found::Held(held) => Some(held),
            Found::Overlaps(_) | Found::Nothing => None,
        }
    }

    /// bind(2) to an IP address that overlaps one that we hold. Beside a steered one it can be, as long as it takes
    /// nothing from it before its generation serves: the wildcard gets what nothing else gets.
    pub(super) fn bind_over(&mut self, other: &Listen, wanted: Wanted, seen: &Seen) -> Outcome {
        let beside = self.unit.sockets.can_be_beside(other);
        let asked = match &wanted.listen.address {
            Address::Inet(at) if wanted.listen.kind == ListenKind::Stream => Some(*at),
            _ => None,
        };
        if let (Some((held, owned)), Some(at), Some(own)) = (beside, asked, seen.own.as_ref())
            && is_wider(at, held)
            && !self.is_in_another("net")
            && !self.is_full()
            && self.listener.is_valid(self.call)
            && socket::bind_beside(own.as_fd(), at, owned).is_ok()
        {
            self.remember(seen.inode, wanted);
            return Outcome::answer(Answer::Done);
        }
        self.complain_overlap(&wanted, other);
        if let Some(shell) = self.unit.generations.get_mut(&self.number) {
            shell.adopted.refused = true;
        }
        GO_ON
    }

    /// Without the caller's own socket: ours, with the defaults.
    fn bind_blind(&mut self, fd: i32, at: SocketAddr, wanted: &Wanted, seen: &Seen) -> Outcome {
        let content = self.content();
        let mut guess = wanted.clone();
        if at.is_ipv6() {
            // Whoever has IPv4 already wants IPv6 only here; with the dual stack it would not fit.
            let v4 = Wanted {
                listen: Listen {
                    kind: wanted.listen.kind,
                    address: crate::unit::Address::Inet((std::net::Ipv4Addr::UNSPECIFIED, at.port()).into()),
                },
                v6_only: None,
            };
            guess.v6_only = Some(matches!(self.unit.sockets.find(&v4), Found::Held(_)));
        }
        match self.unit.sockets.learn_blind(&content, &guess) {
            Ok(()) => self.give(fd, &guess.listen.endpoint(), seen),
            Err(why) => {
                self.say(Level::Error, &format!("{why}; generation {} binds by itself", self.number.0));
                GO_ON
            }
        }
    }

    /// Whether the caller itself could bind a port below 1024.
    fn may_bind_low(&self) -> bool {
        !self.is_in_another("user") && seccomp::may_bind_low_ports(self.call.tid).unwrap_or(false)
    }

    /// Whether the caller has another namespace of this kind than we have, or one that nobody can see.
    fn is_in_another(&self, kind: &str) -> bool {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
        let ours = of("self");
        ours.is_none() || ours != of(&self.call.tid.to_string())
    }

    pub(super) fn learn(&mut self, wanted: &Wanted, own: Foreign) -> Option<()> {
        let (content, slot) = (self.content(), self.slot());
        let spelt = socket::spell(&wanted.listen.address);
        if self.is_full() {
            return None;
        }
        if limits::is_scarce(own.as_fd()) {
            self.say(
                Level::Warning,
                "its addresses are not held any more: aeternad has hardly any descriptors left",
            );
            return None;
        }
        match self.unit.sockets.learn(&content, wanted, slot, own) {
            Ok(warning) => {
                if let Some(text) = warning {
                    self.say(Level::Warning, &text);
                }
                Some(())
            }
            Err(why) => {
                self.say(Level::Error, &format!("cannot hold {spelt}: {why}"));
                None
            }
        }
    }

    fn complain_overlap(&mut self, wanted: &Wanted, other: &Listen) {
        let other = self.unit.sockets.spelt(other);
        let mine = socket::spell(&wanted.listen.address);
        let both = match wanted.v6_only {
            Some(false) => " (IPv6 and IPv4)",
            Some(true) => " (IPv6 only)",
            None => "",
        };
        let text = format!(
            "generation {} binds {mine}{both}, which overlaps {other} that aeternad holds without being the same: \
             its bind will fail with EADDRINUSE. Let it bind {other}, or declare {mine} in the unit instead \
             (BindIPv6Only says whether IPv4 is meant too) and run \"aeternactl stop --close\" and \"start\"",
            self.number.0
        );
        self.say(Level::Error, &text);
    }
}
