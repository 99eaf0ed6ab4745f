//! One trapped call: what it wants, and what it gets.
//!
//! Everything that is read of the caller may be another process's by then: each look ends with
//! [`Listener::is_valid`] before anything is done that the look has decided.

use super::address::{self, Name};
use super::{BOUND_MAX, GO_ON, Level};
use crate::daemon::sockets::{Found, Wanted};
use crate::daemon::supervised::Supervised;
use crate::machine::event::Gen;
use crate::proto::harmless::{LONGEST, harmless};
use crate::sys::aside::Foreign;
use crate::sys::seccomp::{self, Answer, Call, Listener, What};
use crate::sys::unixpath::{BoundPath, Site};
use crate::sys::{socket, sockopt};
use crate::unit::{Address, Listen, ListenKind, Unit};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest sockaddr, bytes.
const SOCKADDR_MAX: u32 = 128;

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

/// A socket of the caller, as far as we can see it.
pub(super) struct Seen {
    pub(super) own: Option<Foreign>,
    pub(super) kind: ListenKind,
    pub(super) v6_only: Option<bool>,
    pub(super) inode: u64,
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

pub(super) struct Handler<'a> {
    pub(super) unit: &'a mut Supervised,
    pub(super) listener: &'a Listener,
    pub(super) number: Gen,
    pub(super) call: &'a Call,
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

    /// Looks at the caller's descriptor; `None` if it is no socket that could be held.
    pub(super) fn see(&mut self, fd: i32) -> Option<Seen> {
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
        let site = match &name {
            Name::Path(path) => match address::resolve(tid, None, path) {
                Some(spot) if spot.is_ours => Some(spot.site),
                Some(_) => return self.tell_elsewhere(path),
                None => return GO_ON,
            },
            Name::Ip(_) | Name::Abstract(_) => None,
            Name::Other => return GO_ON,
        };
        let Some(address) = address::address(&name, site.as_ref().map(|site| site.path.as_path())) else {
            return GO_ON;
        };
        let Some(seen) = self.see(fd) else { return GO_ON };
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
            let idle = self.unit.sockets.is_learned(address) && !super::anybody_has(self.unit, address);
            if !idle || !self.unit.sockets.forget(address) {
                return found;
            }
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
        site.of_socket(own.as_fd()).map(Some).map_err(|error| socket::errno_text(&error))
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

    fn listen(&mut self, fd: i32) -> Outcome {
        let Some(inode) = inode_of(self.call.tid, fd) else { return GO_ON };
        if let Some(held) = self.unit.sockets.address_of(inode) {
            return self.listen_held(held);
        }
        if let Some(held) =
            self.unit.generations.get_mut(&self.number).and_then(|s| s.adopted.own.remove(&inode))
        {
            return self.join(fd, inode, held);
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
            self.unit.sockets.name_learned(&address, name);
        }
        Outcome::listens(address)
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

    /// A name that is held stays, and the caller believes that it is gone.
    fn unlink(&mut self, folder: i32, name: u64) -> Outcome {
        const AT_FDCWD: i32 = -100;
        let tid = self.call.tid;
        let Ok(text) = seccomp::string(tid, name) else { return GO_ON };
        let path = PathBuf::from(std::ffi::OsString::from_vec(text));
        let from = (folder != AT_FDCWD).then_some(folder);
        let Some(spot) = address::resolve(tid, from, &path) else { return GO_ON };
        let held = spot.site.identity().and_then(|inode| self.unit.sockets.address_at(inode));
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
