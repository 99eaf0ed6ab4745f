//! The sockets of one unit: opened once, held for as long as the unit is loaded, lent to its processes.
//!
//! A [`ListenSet`] has one endpoint per address. A shared endpoint is one socket that every generation gets. A
//! steered TCP endpoint is an SO_REUSEPORT group of permanent slots, of which each generation gets one: a slot's
//! socket is never closed while the address is held, because closing a member of a group loses connections even
//! if it never had any traffic. A steered Unix path has a socket per slot under a hidden name, and the visible
//! name is moved between them by rename(2) (getsockname(2) then shows the hidden name).
//!
//! Everything happens on the caller's thread and nothing waits. Nothing is logged: what people should know comes
//! back as sentences.
//!
//! Dropping a set closes the descriptors and leaves the names in the file system (another aeternad may serve
//! them already); [`ListenSet::close`] removes the names too.

mod accept;
mod adopt;
mod drain;
mod dropped;
mod endpoint;
#[cfg(test)]
mod exact_tests;
mod flowing;
mod moved;
mod names;
mod repair;
mod saved;
mod status;
mod steering;
#[cfg(test)]
mod tests;

pub use accept::PeerName;
pub use adopt::{Found, Wanted};
pub use dropped::is_wider;
pub use saved::{SavedSet, SavedWatcher};

use super::inherit::Inherited;
use crate::sys::inotify::Watcher;
use crate::sys::{socket, sockopt, unixpath};
use crate::unit::{Listen, Unit, same_endpoint, waiting_keys};
use drain::Drain;
use endpoint::{Endpoint, Ids};
use flowing::Tags;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use steering::Steered;

/// One socket of a set: never used for another one, also when the descriptor behind it is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketId(pub u32);

/// A socket for a process that is about to be started.
#[derive(Debug)]
pub struct Lent<'a> {
    /// The descriptor; close-on-exec here.
    pub fd: BorrowedFd<'a>,
    /// `FileDescriptorName`.
    pub name: &'a str,
    /// What the unit says.
    pub listen: &'a Listen,
}

/// A socket for the poll set.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// Its number.
    pub id: SocketId,
    /// Which slot it is of; `None` where generations share it.
    pub slot: Option<u32>,
    /// Its descriptor.
    pub fd: BorrowedFd<'a>,
}

/// The sockets of one unit.
#[derive(Debug, Default)]
pub struct ListenSet {
    endpoints: Vec<Endpoint>,
    ids: Ids,
    steered: Steered,
    drains: BTreeMap<u32, Drain>,
    tags: Tags,
    paths: Option<Watcher>,
}

impl ListenSet {
    /// Binds every address of a unit, or takes it over from `inherited`. Gives warnings beside the set; on an
    /// error nothing stays bound, and each address that failed has its sentence.
    pub fn open(unit: &Unit, inherited: &mut Inherited) -> Result<(ListenSet, Vec<String>), Vec<String>> {
        let mut set = ListenSet::default();
        let (mut warnings, mut errors) = (Vec::new(), Vec::new());
        // Every address has its choice before any name: a name must not take what another address means.
        let mut gifts: Vec<_> = unit.listens().map(|(_, listen)| inherited.claim(listen)).collect();
        for (gift, (socket, listen)) in gifts.iter_mut().zip(unit.listens()) {
            if gift.is_none() {
                match inherited.claim_by_name(&socket.name, listen) {
                    Ok(found) => *gift = found,
                    Err(error) => errors.push(error),
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for (gift, (socket, listen)) in gifts.into_iter().zip(unit.listens()) {
            let opened = match gift {
                Some(fd) => Ok(Endpoint::inherit(unit, socket, listen, fd, &mut set.ids)),
                None => Endpoint::open(unit, socket, listen, &mut set.ids),
            };
            match opened {
                Ok((endpoint, more)) => {
                    set.endpoints.push(endpoint);
                    warnings.extend(more);
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            set.watch_folders();
            return Ok((set, warnings));
        }
        set.close();
        Err(errors)
    }

    /// How many addresses are held.
    pub fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// Binds every address of `unit` that is not yet held, all or none, and sets on the others what can be
    /// changed while they are in use. Gives warnings; the error is a sentence for each address that failed.
    pub fn add(&mut self, unit: &Unit) -> Result<Vec<String>, String> {
        let plan = self.plan(unit);
        let (mut warnings, mut errors, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for ((socket, listen), found) in unit.listens().zip(&plan) {
            if found.is_some() {
                continue;
            }
            let opened = match self.beside(unit, socket, listen) {
                Some(owned) => Endpoint::open_beside(unit, socket, listen, owned, &mut self.ids),
                None => Endpoint::open(unit, socket, listen, &mut self.ids),
            };
            match opened {
                Ok((endpoint, more)) => {
                    new.push(endpoint);
                    warnings.extend(more);
                }
                Err(error) => errors.push(self.in_our_own_way(unit, listen).unwrap_or(error)),
            }
        }
        for index in plan.iter().flatten() {
            errors.extend(self.endpoints[*index].reveal().err());
        }
        let followed = self.follow_names(&mut errors);
        if !followed.is_empty() {
            self.watch_folders();
            warnings.extend(followed);
        }
        if !errors.is_empty() {
            new.iter().for_each(Endpoint::unlink);
            return Err(errors.join("\n"));
        }
        for ((socket, listen), found) in unit.listens().zip(plan) {
            if let Some(endpoint) = found.and_then(|index| self.endpoints.get_mut(index)) {
                warnings.extend(update(endpoint, unit, socket, listen));
            }
        }
        let grows = !new.is_empty();
        self.endpoints.extend(new);
        self.sort(unit);
        if grows {
            self.watch_folders();
        }
        Ok(warnings)
    }

    /// Puts the endpoints into the order of a unit, what it does not declare at the end.
    fn sort(&mut self, unit: &Unit) {
        let plan: Vec<usize> = self.plan(unit).into_iter().flatten().collect();
        let rank = |index: usize| plan.iter().position(|planned| *planned == index).unwrap_or(usize::MAX);
        let mut ranked: Vec<_> = self.endpoints.drain(..).enumerate().map(|(n, e)| (rank(n), e)).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        self.endpoints = ranked.into_iter().map(|(_, endpoint)| endpoint).collect();
    }

    /// Closes what none of `units` declares, and no program has bound by itself (`bound`); how many addresses. Their descriptors leave the poller with
    /// epoll_ctl(2) *before* this: a process that still holds the socket would keep them registered.
    pub fn keep(&mut self, units: &[&Unit], bound: &[Listen]) -> usize {
        for endpoint in self.endpoints.iter_mut().filter(|e| bound.contains(&e.listen.endpoint())) {
            // Declared no more, and still bound by the program: as if it had taught it to us.
            let declared = units.iter().flat_map(|unit| unit.listens());
            endpoint.learned |=
                !declared.map(|(_, listen)| listen).any(|l| same_endpoint(&endpoint.listen, l));
        }
        // What programs have taught us stays, unless nothing does.
        let learned = |endpoint: &Endpoint| endpoint.learned && !units.is_empty();
        let mut wanted: Vec<bool> = self.endpoints.iter().map(learned).collect();
        for unit in units {
            for index in self.plan(unit).into_iter().flatten() {
                wanted[index] = true;
            }
        }
        let before = self.endpoints.len();
        let mut wanted = wanted.into_iter();
        self.endpoints.retain(|endpoint| {
            let stays = wanted.next().unwrap_or(true);
            if !stays {
                endpoint.unlink();
            }
            stays
        });
        self.watch_folders();
        before - self.endpoints.len()
    }

    /// Closes every socket and removes every name that is ours.
    pub fn close(self) {
        // The names first: who comes now finds nobody rather than a queue that is about to be reset.
        self.endpoints.iter().for_each(Endpoint::unlink);
    }

    /// Whether any address of `unit` is really steered here.
    pub fn steered(&self, unit: &Unit) -> bool {
        // What programs will bind is taken for steered, until it is known not to be.
        (unit.service.intercept_bind && !unit.state.enabled && self.endpoints.is_empty())
            || self.endpoints.iter().any(|endpoint| endpoint.learned && endpoint.steered())
            || self.plan(unit).into_iter().flatten().any(|index| self.endpoints[index].steered())
    }

    /// The sockets for a process of `unit` on `slot`, in the order of the unit (descriptors 3, 4, 5…). Makes
    /// the slot if there is none yet. The error is a sentence.
    pub fn lend<'a>(&'a mut self, unit: &'a Unit, slot: u32) -> Result<Vec<Lent<'a>>, String> {
        let plan: Vec<usize> = self.plan(unit).into_iter().flatten().collect();
        if plan.len() != unit.listens().count() {
            return Err(format!("cannot give {} its sockets: not all of them are bound", unit.name));
        }
        self.drains.remove(&slot);
        for index in &plan {
            self.prepare(*index, slot as usize, unit.service.wants_non_blocking())?;
        }
        self.tell_tag(slot)?;
        let endpoints = &self.endpoints;
        let lend = |((socket, listen), index): ((&'a crate::unit::Socket, &'a Listen), usize)| {
            let lent = endpoints[index].socket_of(slot as usize)?;
            Some(Lent { fd: lent.fd.as_fd(), name: &socket.name, listen })
        };
        Ok(unit.listens().zip(plan).filter_map(lend).collect())
    }

    /// Says which slots living generations hold. What nobody holds gets the blocking mode that the unit asks
    /// for when it is lent next; what somebody holds is only ever made non-blocking, because clearing the
    /// flag would make the other holder wait in accept(2).
    pub fn in_use(&mut self, slots: &[u32]) {
        for endpoint in &mut self.endpoints {
            let steered = endpoint.steered();
            for (number, slot) in endpoint.slots.iter_mut().enumerate() {
                let held = if steered { slots.contains(&(number as u32)) } else { !slots.is_empty() };
                slot.fresh |= !held;
            }
        }
    }

    /// The index of the `[[Socket]]` table of `unit` that a socket belongs to.
    pub fn table_of(&self, unit: &Unit, id: SocketId) -> Option<usize> {
        let wanted = self.endpoints.iter().position(|e| e.slots.iter().any(|slot| slot.id == id))?;
        let tables =
            unit.sockets.iter().enumerate().flat_map(|(n, table)| table.listen.iter().map(move |_| n));
        self.plan(unit).into_iter().zip(tables).find(|(found, _)| *found == Some(wanted)).map(|(_, n)| n)
    }

    /// For each address of `unit` the endpoint that holds it. Two lines with port 0 are two addresses.
    fn plan(&self, unit: &Unit) -> Vec<Option<usize>> {
        let mut taken = vec![false; self.endpoints.len()];
        // They mostly stand in the unit's order: the one after the last is looked at first.
        let mut next = 0;
        unit.listens()
            .map(|(_, listen)| {
                let free =
                    |index: &usize| !taken[*index] && same_endpoint(&self.endpoints[*index].listen, listen);
                let mut near = (next..self.endpoints.len()).take(1);
                let found = near.find(&free).or_else(|| (0..self.endpoints.len()).find(&free))?;
                taken[found] = true;
                next = found + 1;
                Some(found)
            })
            .collect()
    }

    /// Makes an endpoint ready to be lent on a slot.
    fn prepare(&mut self, index: usize, slot: usize, non_blocking: bool) -> Result<(), String> {
        let endpoint = &mut self.endpoints[index];
        endpoint.reveal()?;
        if endpoint.steered() {
            while endpoint.slots.len() <= slot {
                endpoint.add_slot(&mut self.ids)?;
            }
            if endpoint.lent.is_empty() {
                endpoint.take_target(slot)?;
            }
            if !endpoint.lent.contains(&slot) {
                endpoint.lent.push(slot);
            }
            self.steered.apply(endpoint).map_err(|error| steering::refused(endpoint, &error))?;
        }
        let slot = if endpoint.steered() { slot } else { 0 };
        repair::revive(endpoint, slot, &self.steered)?;
        let lent = &mut endpoint.slots[slot];
        if lent.fresh || non_blocking {
            socket::set_nonblocking(lent.fd.as_fd(), non_blocking).map_err(|error| {
                format!("cannot set up {}: {}", endpoint.address, socket::errno_text(&error))
            })?;
        }
        (lent.fresh, lent.anew) = (false, false);
        Ok(())
    }
}

/// Sets on an endpoint what a newer content says; what has to wait, as sentences.
fn update(
    endpoint: &mut Endpoint,
    unit: &Unit,
    socket: &crate::unit::Socket,
    listen: &Listen,
) -> Vec<String> {
    let mut warnings = Vec::new();
    endpoint.name.clone_from(&socket.name);
    endpoint.listen = listen.clone();
    endpoint.learned = false;
    let changed = waiting_keys(&endpoint.options, &socket.options);
    for key in endpoint.waiting(unit, socket, listen) {
        // What was read before and waits since then is in the status.
        if key == "Sharing" || changed.contains(&key) {
            warnings.push(format!(
                "{key} of {} takes effect when the socket is made anew: with a restart of aeternad, or if a reload drops \
                 the address and another one adds it",
                endpoint.address
            ));
        }
    }
    if endpoint.options == socket.options {
        return warnings;
    }
    warnings.extend(endpoint.update_flows(&socket.options.flows));
    for slot in &endpoint.slots {
        warnings.extend(endpoint.set_options(slot.fd.as_fd(), &socket.options));
        if endpoint.options.backlog != socket.options.backlog && sockopt::listens(slot.fd.as_fd()) {
            // On a socket that listens it changes the backlog and nothing else.
            let _ = socket::listen(slot.fd.as_fd(), socket.options.backlog);
        }
    }
    warnings.extend(update_names(endpoint, &socket.options));
    endpoint.options = Arc::clone(&socket.options);
    warnings
}

/// Mode, owner and aliases of a name that changed.
fn update_names(endpoint: &Endpoint, options: &crate::unit::SocketOptions) -> Vec<String> {
    let Some(path) = &endpoint.path else { return Vec::new() };
    let mut warnings = Vec::new();
    let dropped: Vec<String> =
        endpoint.options.symlinks.iter().filter(|a| !options.symlinks.contains(a)).cloned().collect();
    unixpath::remove_aliases(&path.path, &dropped);
    warnings.extend(unixpath::make_aliases(&path.path, &options.symlinks, options.directory_mode));
    let names = endpoint.slots.iter().filter_map(|slot| slot.path.as_ref()).chain([path]);
    for name in names {
        if let Err(error) = crate::sys::fifo::set_access(name, options, &endpoint.options) {
            warnings.push(error.text);
        }
    }
    warnings
}
