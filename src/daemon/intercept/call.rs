//! One trapped call: what it wants, and what it gets.
//!
//! Everything that is read of the caller may be another process's by then: each look ends with
//! [`Listener::is_valid`] before anything is done that the look has decided.

use super::address::{self, Name};
use super::reading::{Read, Seen};
use super::{BOUND_MAX, Filter, GO_ON, Level};
use crate::daemon::sockets::{Found, Wanted};
use crate::daemon::supervised::Supervised;
use crate::machine::event::Gen;
use crate::proto::harmless::{LONGEST, harmless};
use crate::sys::procfs;
use crate::sys::registration::References;
use crate::sys::seccomp::{Answer, Call, Listener, What};
use crate::sys::socket;
use crate::sys::unixpath::{BoundPath, Site};
use crate::unit::{Address, Listen, ListenKind, Unit};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// How many folders of names are held open for sockets that do not listen yet.
const SITES_MAX: usize = 32;

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
    pub(super) fn answer(answer: Answer) -> Outcome {
        Outcome { answer, listens: None, given: None, alone: false }
    }

    pub(super) fn listens(address: Listen) -> Outcome {
        Outcome { listens: Some(address), ..Outcome::answer(Answer::Done) }
    }
}

/// Decides about a call, and does what comes before its answer.
pub(super) fn handle(
    unit: &mut Supervised,
    filter: &Filter,
    call: &Call,
    mut read: Read,
    free: &mut dyn FnMut(&Supervised),
) -> Outcome {
    let (listener, number) = (&filter.listener, filter.generation);
    if !unit.generations.contains_key(&number) {
        return GO_ON;
    }
    let mut at = Handler { unit, listener, number, call, known: std::mem::take(&mut read.known), free };
    if let Some(error) = &read.not_copied {
        at.tell_not_copied(error);
    }
    match call.what {
        What::Bind { fd, .. } => at.bind(fd, read),
        What::Listen { fd, .. } => read.seen.map_or(GO_ON, |seen| at.listen(fd, seen)),
        What::Unlink { .. } => at.unlink(read.target),
        What::Steer { .. } => read.seen.map_or(GO_ON, |seen| at.steer(seen.inode)),
        What::Other => GO_ON,
    }
}

pub(super) struct Handler<'a> {
    pub(super) unit: &'a mut Supervised,
    pub(super) listener: &'a Listener,
    pub(super) number: Gen,
    pub(super) call: &'a Call,
    /// What else of the caller's process refers to its socket.
    pub(super) known: References,
    /// Waits until what was let go of the unit's sockets is closed by whoever holds copies: its address is free.
    free: &'a mut dyn FnMut(&Supervised),
}

impl Handler<'_> {
    pub(super) fn say(&mut self, level: Level, text: &str) {
        let name = self.unit.name.clone();
        self.unit.filters.say(&name, level, text);
    }

    pub(super) fn slot(&self) -> u32 {
        self.unit.generations.get(&self.number).map_or(0, |shell| shell.slot)
    }

    /// The unit as it was when the caller's generation was launched.
    pub(super) fn content(&self) -> Arc<Unit> {
        let content =
            self.unit.generations.get(&self.number).and_then(|shell| self.unit.content(shell.content?));
        Arc::clone(&content.unwrap_or(&self.unit.current).unit)
    }

    fn tell_not_copied(&mut self, error: &std::io::Error) {
        let why = socket::errno_text(error);
        let text = format!(
            "its sockets cannot be copied (pidfd_getfd: {why}): they are bound with default options; \
             CAP_SYS_PTRACE for aeternad or declared sockets cure that"
        );
        self.say(Level::Warning, &text);
    }

    fn bind(&mut self, fd: i32, read: Read) -> Outcome {
        let name = match read.name {
            Ok(name) => name,
            Err(error) => {
                let why = socket::errno_text(&error);
                let cure = if procfs::shows_us() {
                    "run aeternad as root, or the service as aeternad's user"
                } else {
                    "/proc does not show it; mount it (mount -t proc proc /proc)"
                };
                let text = format!("what it binds cannot be read ({why}), it binds by itself: {cure}");
                self.say(Level::Error, &text);
                return GO_ON;
            }
        };
        let site = match (&name, read.spot) {
            (Name::Path(_), Some(spot)) if spot.is_ours => Some(spot.site),
            (Name::Path(path), Some(_)) => return self.tell_elsewhere(path),
            (Name::Path(_), None) | (Name::Other, _) => return GO_ON,
            (Name::Ip(_) | Name::Abstract(_), _) => None,
        };
        let Some(address) = address::address(&name, site.as_ref().map(|site| site.path.as_path())) else {
            return GO_ON;
        };
        let Some(seen) = read.seen else { return GO_ON };
        if !self.listener.is_valid(self.call) {
            return GO_ON;
        }
        let wanted = Wanted { listen: Listen { kind: seen.kind, address }, v6_only: seen.v6_only };
        match self.find(&wanted) {
            Found::Held(held) => self.give(fd, &held, &seen),
            Found::Overlaps(other) => self.bind_over(&other, wanted, &seen),
            Found::Nothing => match name {
                Name::Ip(at) => self.bind_new(fd, at, wanted, seen),
                Name::Path(_) | Name::Abstract(_) => {
                    self.remember(seen.inode, wanted);
                    self.remember_site(seen.inode, site);
                    GO_ON
                }
                Name::Other => GO_ON,
            },
        }
    }

    /// Looks for an address among those that are held. One that only a program has bound, and that nobody has any more,
    /// was a trial, or a client's: it is let go, with what has arrived there.
    fn find(&mut self, wanted: &Wanted) -> Found {
        loop {
            let found = self.unit.sockets.find(wanted);
            let address = match &found {
                Found::Held(held) if held.kind == ListenKind::Datagram => held,
                Found::Overlaps(other) => other,
                Found::Held(_) | Found::Nothing => return found,
            };
            let is_idle = || self.is_clients(address) || !super::anybody_has(self.unit, address);
            let idle = self.unit.sockets.is_learned(address) && is_idle();
            if !idle || !self.unit.sockets.forget(address) {
                return found;
            }
            (self.free)(self.unit);
        }
    }

    /// A path that leads somewhere else from our own root.
    fn tell_elsewhere(&mut self, path: &Path) -> Outcome {
        let text = format!(
            "generation {} binds {} below a root or in a mount namespace of its own: it binds by itself there, \
             aeternad cannot hold it; declare the socket in the unit instead",
            self.number.0,
            harmless(&path.to_string_lossy(), LONGEST)
        );
        self.say(Level::Warning, &text);
        Outcome { alone: true, ..GO_ON }
    }

    /// The folder in which a name is about to be made: where the name leads later is another matter.
    fn remember_site(&mut self, inode: u64, site: Option<Site>) {
        if let (Some(shell), Some(site)) = (self.unit.generations.get_mut(&self.number), site) {
            let sites = &mut shell.adopted.sites;
            if sites.len() >= SITES_MAX {
                sites.clear();
            }
            sites.insert(inode, site);
        }
    }

    /// The name of a socket that is about to listen, if it is one in the file system and really this socket's. The error
    /// is a reason.
    fn name_of(&mut self, inode: u64, seen: &Seen, wanted: &Wanted) -> Result<Option<BoundPath>, String> {
        if !matches!(wanted.listen.address, Address::Path(_)) {
            return Ok(None);
        }
        let shell = self.unit.generations.get_mut(&self.number);
        let site = shell.and_then(|shell| shell.adopted.sites.remove(&inode));
        let site = site.ok_or("it has bound too many others since")?;
        let own = seen.own.as_ref().ok_or("its socket cannot be copied")?;
        let found = site.of_socket(own.as_fd()).or_else(|error| site.moved_to(own.as_fd()).ok_or(error));
        found.map(Some).map_err(|error| socket::errno_text(&error))
    }

    pub(super) fn remember(&mut self, inode: u64, wanted: Wanted) {
        if let Some(shell) = self.unit.generations.get_mut(&self.number) {
            let bound = &mut shell.adopted.bound;
            if bound.len() >= BOUND_MAX {
                bound.clear();
            }
            bound.insert(inode, wanted);
        }
    }

    fn listen(&mut self, fd: i32, seen: Seen) -> Outcome {
        let inode = seen.inode;
        if let Some(held) = self.unit.sockets.address_of(inode) {
            return self.listen_held(held);
        }
        if let Some(held) =
            self.unit.generations.get_mut(&self.number).and_then(|s| s.adopted.own.remove(&inode))
        {
            return self.join(held, seen);
        }
        let bound = self.unit.generations.get_mut(&self.number);
        let Some(wanted) = bound.and_then(|shell| shell.adopted.bound.remove(&inode)) else { return GO_ON };
        if !self.listener.is_valid(self.call) {
            return GO_ON;
        }
        match self.unit.sockets.find(&wanted) {
            // Two sockets for one address, bound before the first of them listened: one queue serves both.
            Found::Held(held) => match self.put(fd, &held, &seen) {
                Ok(()) => self.listen_held(held),
                Err(_) => GO_ON,
            },
            // Bound beside what it overlaps.
            Found::Overlaps(_) | Found::Nothing => self.listen_new(inode, &wanted, seen),
        }
    }

    fn listen_new(&mut self, inode: u64, wanted: &Wanted, seen: Seen) -> Outcome {
        let address = wanted.listen.endpoint();
        let name = match self.name_of(inode, &seen, wanted) {
            Ok(name) => name,
            Err(why) => {
                let spelt = socket::spell(&address.address);
                let text = format!(
                    "cannot hold {spelt}, on which generation {} listens: {why}; it listens by itself",
                    self.number.0
                );
                self.say(Level::Warning, &text);
                return Outcome { alone: true, ..GO_ON };
            }
        };
        if seen.own.and_then(|own| self.learn(wanted, own)).is_none() {
            return GO_ON;
        }
        if let Some(name) = name {
            let path = name.path.clone();
            if self.unit.sockets.name_learned(&address, name) {
                self.tell_gap(&path);
            }
        }
        Outcome::listens(address)
    }

    /// A path that a newer socket has before it listens: the gap is the program's own.
    fn tell_gap(&mut self, path: &Path) {
        let shown = harmless(&path.to_string_lossy(), LONGEST);
        let text = format!(
            "its program gives {shown} to each new socket before that listens: who connects in between is refused, at \
             each reload. Declare the path in the unit and give the program the socket (HAProxy: \"bind fd@3\")"
        );
        self.say(Level::Warning, &text);
    }

    pub(super) fn listen_held(&mut self, held: Listen) -> Outcome {
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

    /// A program steers between its own sockets of an address. All of them are one socket here, and the group's members are
    /// the generations: its program would send connections to those that wait for the next one.
    fn steer(&mut self, inode: u64) -> Outcome {
        let shell = self.unit.generations.get(&self.number);
        let own = || shell.and_then(|shell| shell.adopted.own.get(&inode).cloned());
        let Some(held) = self.unit.sockets.address_of(inode).or_else(own) else { return GO_ON };
        if !self.listener.is_valid(self.call) {
            return GO_ON;
        }
        let text = format!(
            "generation {} steers connections of {} between its own sockets (SO_ATTACH_REUSEPORT): that is left out, they \
             are one socket under InterceptBind, and aeternad steers between generations",
            self.number.0,
            self.unit.sockets.spelt(&held)
        );
        self.say(Level::Info, &text);
        Outcome::answer(Answer::Done)
    }

    /// A name that is held stays, and the caller believes that it is gone.
    fn unlink(&mut self, target: Option<(u64, u64)>) -> Outcome {
        let held = target.and_then(|inode| self.unit.sockets.address_at(inode));
        if held.is_some() && self.listener.is_valid(self.call) {
            return Outcome::answer(Answer::Done);
        }
        GO_ON
    }
}
