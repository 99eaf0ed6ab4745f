//! One trapped call: what it wants, and what it gets.
//!
//! Everything that is read of the caller may be another process's by then: each look ends with
//! [`Listener::is_valid`] before anything is done that the look has decided.

use super::address::{self, Name};
use super::{GO_ON, Level};
use crate::daemon::sockets::{Found, Wanted};
use crate::daemon::supervised::Supervised;
use crate::machine::event::Gen;
use crate::sys::aside::Foreign;
use crate::sys::seccomp::{self, Answer, Call, FdFlags, Listener, What};
use crate::sys::{limits, socket, sockopt};
use crate::unit::{Listen, ListenKind, Unit};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The longest sockaddr, bytes.
const SOCKADDR_MAX: u32 = 128;

/// How many addresses a unit can teach us: a program that binds a new one for each request must not fill our table.
const LEARNED_MAX: usize = 64;

/// How many bound sockets of a generation are remembered until they listen.
const BOUND_MAX: usize = 1024;

/// What comes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What the caller gets.
    pub(super) answer: Answer,
    /// What its generation listens on since then.
    pub(super) listens: Option<Listen>,
    /// What it got, which listens already: the program may never call listen(2).
    pub(super) given: Option<Listen>,
    /// It listens where we cannot follow: that is all that will ever be known of it.
    pub(super) alone: bool,
}

impl Outcome {
    fn answer(answer: Answer) -> Outcome {
        Outcome { answer, listens: None, given: None, alone: false }
    }

    fn listens(address: Listen) -> Outcome {
        Outcome { listens: Some(address), ..Outcome::answer(Answer::Done) }
    }
}

/// A socket of the caller, as far as we can see it.
struct Seen {
    own: Option<Foreign>,
    kind: ListenKind,
    v6_only: Option<bool>,
    inode: u64,
}

/// Decides about a call, and does what comes before its answer.
pub(super) fn handle(unit: &mut Supervised, listener: &Listener, number: Gen, call: &Call) -> Outcome {
    if !unit.generations.contains_key(&number) {
        return GO_ON;
    }
    let mut at = Handler { unit, listener, number, call };
    match call.what {
        What::Bind { fd, address, length } => at.bind(fd, address, length),
        What::Listen { fd, .. } => at.listen(fd),
        What::Unlink { folder, name } => at.unlink(folder, name),
        What::Other => GO_ON,
    }
}

struct Handler<'a> {
    unit: &'a mut Supervised,
    listener: &'a Listener,
    number: Gen,
    call: &'a Call,
}

impl Handler<'_> {
    fn say(&mut self, level: Level, text: &str) {
        let name = self.unit.name.clone();
        self.unit.filters.say(&name, level, text);
    }

    fn slot(&self) -> u32 {
        self.unit.generations.get(&self.number).map_or(0, |shell| shell.slot)
    }

    /// The unit as it was when the caller's generation was launched.
    fn content(&self) -> Arc<Unit> {
        let content =
            self.unit.generations.get(&self.number).and_then(|shell| self.unit.content(shell.content?));
        Arc::clone(&content.unwrap_or(&self.unit.current).unit)
    }

    /// Looks at the caller's descriptor; `None` if it is no socket that could be held.
    fn see(&mut self, fd: i32) -> Option<Seen> {
        let tid = self.call.tid;
        let inode = inode_of(tid, fd)?;
        let own = seccomp::process_of(tid).and_then(|process| seccomp::copy_fd(process, fd));
        match own {
            Ok(own) => {
                let nature = sockopt::nature(own.as_fd()).ok().flatten()?;
                Some(Seen { own: Some(own), kind: nature.kind, v6_only: nature.v6_only, inode })
            }
            Err(error) => {
                let why = socket::errno_text(&error);
                self.say(
                    Level::Warning,
                    &format!(
                        "its sockets cannot be copied (pidfd_getfd: {why}): they are bound with default options; \
                         CAP_SYS_PTRACE for aeternad or declared sockets cure that"
                    ),
                );
                let kind = address::kind_of(&seccomp::protocol_name(tid, fd).ok()?)?;
                Some(Seen { own: None, kind, v6_only: None, inode })
            }
        }
    }

    fn bind(&mut self, fd: i32, address: u64, length: u32) -> Outcome {
        let tid = self.call.tid;
        let bytes = match seccomp::memory(tid, address, length.min(SOCKADDR_MAX) as usize) {
            Ok(bytes) => bytes,
            Err(error) => {
                let why = socket::errno_text(&error);
                let text = format!(
                    "what it binds cannot be read ({why}), it binds by itself: run aeternad as root, or the service as aeternad's user"
                );
                self.say(Level::Error, &text);
                return GO_ON;
            }
        };
        let name = address::parse(&bytes);
        let places = match &name {
            Name::Path(path) => match address::resolve(tid, None, path) {
                Some(places) => Some(places),
                None => return GO_ON,
            },
            Name::Ip(_) | Name::Abstract(_) => None,
            Name::Other => return GO_ON,
        };
        let Some(address) = address::address(&name, places.as_ref().map(|(path, _)| path.clone())) else {
            return GO_ON;
        };
        let Some(seen) = self.see(fd) else { return GO_ON };
        if !self.listener.is_valid(self.call) {
            return GO_ON;
        }
        let wanted = Wanted { listen: Listen { kind: seen.kind, address }, v6_only: seen.v6_only };
        match self.unit.sockets.find(&wanted) {
            Found::Held(held) => self.give(fd, &held, &seen),
            Found::Overlaps(other) => {
                self.complain_overlap(&wanted, &other);
                GO_ON
            }
            Found::Nothing => match name {
                Name::Ip(at) => self.bind_new(fd, at, wanted, seen),
                Name::Path(_) | Name::Abstract(_) => {
                    self.remember(seen.inode, wanted);
                    GO_ON
                }
                Name::Other => GO_ON,
            },
        }
    }

    fn complain_overlap(&mut self, wanted: &Wanted, other: &str) {
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

    fn remember(&mut self, inode: u64, wanted: Wanted) {
        if let Some(shell) = self.unit.generations.get_mut(&self.number) {
            let bound = &mut shell.adopted.bound;
            if bound.len() >= BOUND_MAX {
                bound.clear();
            }
            bound.insert(inode, wanted);
        }
    }

    /// Puts the held socket in place of the caller's own.
    fn give(&mut self, fd: i32, held: &Listen, seen: &Seen) -> Outcome {
        match self.put(fd, held, seen) {
            Ok(()) => {
                // A datagram socket never listens: it serves from here on.
                if held.kind == ListenKind::Datagram {
                    return Outcome::listens(held.clone());
                }
                Outcome { given: Some(held.clone()), ..Outcome::answer(Answer::Done) }
            }
            Err(why) => {
                let text = format!(
                    "cannot give generation {} its socket {}: {why}; its own bind goes on",
                    self.number.0,
                    self.unit.sockets.spelt(held)
                );
                self.say(Level::Error, &text);
                GO_ON
            }
        }
    }

    fn put(&mut self, fd: i32, held: &Listen, seen: &Seen) -> Result<(), String> {
        let slot = self.slot();
        let flags = seccomp::fd_flags(self.call.tid, fd).unwrap_or_else(|_| FdFlags::default());
        let own = seen.own.as_ref().map(AsFd::as_fd);
        let socket = self.unit.sockets.adopt(held, slot, own, flags)?;
        let replaced = self.listener.replace(self.call, fd, socket, flags);
        replaced.map_err(|error| socket::errno_text(&error))
    }

    /// bind(2) to an IP address that nobody knows.
    fn bind_new(&mut self, fd: i32, at: SocketAddr, wanted: Wanted, seen: Seen) -> Outcome {
        let datagram = wanted.listen.kind == ListenKind::Datagram;
        if (datagram && at.port() >= limits::first_local_port()) || self.is_full() {
            // A client that picks its port, or a program that never stops: nothing to hold.
            return GO_ON;
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
            self.say(
                Level::Error,
                &format!(
                    "{why}; generation {} is told so, aeternad does not hold this address",
                    self.number.0
                ),
            );
            return Outcome::answer(error.raw_os_error().map_or(Answer::Continue, Answer::Failed));
        }
        if !datagram {
            self.remember(seen.inode, wanted);
            return Outcome::answer(Answer::Done);
        }
        let address = wanted.listen.endpoint();
        let learned = seen.own.and_then(|own| self.learn(&wanted, own));
        learned.map_or_else(|| Outcome::answer(Answer::Done), |()| Outcome::listens(address))
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

    fn learn(&mut self, wanted: &Wanted, own: Foreign) -> Option<()> {
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

    fn listen(&mut self, fd: i32) -> Outcome {
        let Some(inode) = inode_of(self.call.tid, fd) else { return GO_ON };
        if let Some(held) = self.unit.sockets.address_of(inode) {
            return self.listen_held(held);
        }
        let bound = self.unit.generations.get_mut(&self.number);
        let Some(wanted) = bound.and_then(|shell| shell.adopted.bound.remove(&inode)) else { return GO_ON };
        let Some(seen) = self.see(fd).filter(|seen| seen.inode == inode) else { return GO_ON };
        if !self.listener.is_valid(self.call) {
            return GO_ON;
        }
        match self.unit.sockets.find(&wanted) {
            // Two sockets for one address, bound before the first of them listened: one queue serves both.
            Found::Held(held) => match self.put(fd, &held, &seen) {
                Ok(()) => self.listen_held(held),
                Err(_) => GO_ON,
            },
            Found::Overlaps(_) => GO_ON,
            Found::Nothing => {
                let address = wanted.listen.endpoint();
                match seen.own.and_then(|own| self.learn(&wanted, own)) {
                    Some(()) => Outcome::listens(address),
                    None => GO_ON,
                }
            }
        }
    }

    fn listen_held(&mut self, held: Listen) -> Outcome {
        match self.unit.sockets.listen_again(&held, self.slot()) {
            Ok(()) => Outcome::listens(held),
            Err(error) => {
                let text = format!(
                    "cannot listen on {}: {}",
                    self.unit.sockets.spelt(&held),
                    socket::errno_text(&error)
                );
                self.say(Level::Error, &text);
                GO_ON
            }
        }
    }

    /// A name that is held stays, and the caller believes that it is gone.
    fn unlink(&mut self, folder: i32, name: u64) -> Outcome {
        const AT_FDCWD: i32 = -100;
        let tid = self.call.tid;
        let Ok(text) = seccomp::string(tid, name) else { return GO_ON };
        let path = PathBuf::from(std::ffi::OsString::from_vec(text));
        let from = (folder != AT_FDCWD).then_some(folder);
        let Some((_, inside)) = address::resolve(tid, from, &path) else { return GO_ON };
        let held =
            crate::sys::unixpath::identity(&inside).and_then(|inode| self.unit.sockets.address_at(inode));
        if held.is_some() && self.listener.is_valid(self.call) {
            return Outcome::answer(Answer::Done);
        }
        GO_ON
    }
}

/// The inode number of a thread's socket; `None` if the descriptor is none.
fn inode_of(tid: i32, fd: i32) -> Option<u64> {
    let target = std::fs::read_link(format!("/proc/{tid}/fd/{fd}")).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
