//! Who has the sockets that programs have taught us, and what was bound without our seeing it.

use super::fresh::LEARNED_MAX;
use super::{Adopted, BOUND_MAX, FIRST_LOOK, Level};
use crate::daemon::core::{Daemon, News, Report};
use crate::daemon::sockets::{Found, Wanted};
use crate::daemon::supervised::{GenerationShell, Supervised};
use crate::machine::event::{Event, Gen, Missing};
use crate::sys::aside::Foreign;
use crate::sys::clock::Effort;
use crate::sys::holder::Glance;
use crate::sys::process::pid;
use crate::sys::{clock, holder, later, limits, seccomp, socket};
use crate::time::Span;
use crate::unit::{Address, Listen};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

/// How many processes of a generation are looked at for what it listens on without our having seen it.
const LOOKED_AT: usize = 64;

/// Which of these sockets processes of some generations have, as far as there is time to look.
pub(super) fn glance<'a>(
    shells: impl Iterator<Item = &'a GenerationShell>,
    wanted: &BTreeSet<u64>,
) -> Glance {
    if wanted.is_empty() {
        return Glance::default();
    }
    let members: Vec<i32> = shells.flat_map(|shell| shell.members(pid())).collect();
    holder::glance(&members, wanted, Effort::glance())
}

/// Whether any process of a unit has a socket of this address, or may have.
pub(super) fn anybody_has(unit: &Supervised, address: &Listen) -> bool {
    let inodes = unit.sockets.inodes_of(address);
    let wanted = inodes.iter().copied().collect();
    glance(unit.generations.values().map(Box::as_ref), &wanted).may_have(&inodes)
}

/// Holds the datagram sockets that processes of a unit have, of those that are `wanted`, and forgets the others of them.
pub(super) fn hold_datagrams(unit: &mut Supervised, wanted: impl Fn(&Wanted) -> bool) {
    let numbers: Vec<Gen> = unit.generations.keys().copied().collect();
    for number in numbers {
        let Some(shell) = unit.generations.get_mut(&number) else { continue };
        let known: Vec<_> = shell.adopted.datagrams.extract_if(|_, known| wanted(known)).collect();
        if known.is_empty() {
            continue;
        }
        // One look for all of them, however many there are.
        let seen = glance(std::iter::once(&**shell), &known.iter().map(|(inode, _)| *inode).collect());
        let (slot, content) = (shell.slot, shell.content);
        let content = content.and_then(|id| unit.content(id)).unwrap_or(&unit.current);
        let content = Arc::clone(&content.unit);
        let end = Effort::of(HOLDING);
        for (inode, wanted) in known {
            if end.is_spent() || unit.sockets.learned() >= LEARNED_MAX {
                break;
            }
            let held = matches!(unit.sockets.find(&wanted), Found::Held(_));
            let has = seen.at(inode).filter(|_| !held);
            if let Some(own) = has.and_then(|(process, number)| copy(process, number, inode)) {
                // An address that cannot be held is the program's alone, as before.
                let _ = unit.sockets.learn(&content, &wanted, slot, own);
            }
        }
    }
}

/// How long holding the datagram sockets of a generation may take: what is not held until then stays the program's own.
const HOLDING: Span = Span::from_millis(50);

/// A process's socket, if its descriptor still is the one with this inode number, and a copy of it is none of the last that
/// we can have.
fn copy(process: i32, number: i32, inode: u64) -> Option<Foreign> {
    let own = seccomp::copy_fd(process, number).ok()?;
    let is_it = socket::inode(own.as_fd()).is_ok_and(|found| found == inode);
    (is_it && !limits::is_scarce(own.as_fd())).then_some(own)
}

impl Adopted {
    /// What the generation listens on, as far as we have seen, in that order.
    pub fn listening(&self) -> &[Listen] {
        &self.listening
    }

    pub(super) fn remember_datagram(&mut self, inode: u64, wanted: Wanted) {
        // The same address again: what had it before is closed, or shares it.
        self.datagrams.retain(|_, known| known.listen != wanted.listen);
        if self.datagrams.len() < BOUND_MAX {
            self.datagrams.insert(inode, wanted);
        }
    }
}

impl Supervised {
    /// Looks twice whether a generation listens on what we have not seen: soon, and before its time to start is over.
    pub(super) fn look_later(&mut self, number: Gen) {
        if self.filters.looks.iter().any(|(_, known)| *known == number) {
            return;
        }
        let content = self.generations.get(&number).and_then(|shell| self.content(shell.content?));
        let limit = content.unwrap_or(&self.current).unit.service.timeout_start;
        let now = clock::now();
        let last = if limit.is_infinite() { FIRST_LOOK } else { Span(limit.0 / 10 * 9) };
        self.filters.looks.extend([(now + FIRST_LOOK.min(last), number), (now + last, number)]);
    }
}

impl Daemon {
    /// A generation that has not listened on anything, as far as we have seen: does it?
    pub(super) fn look_for_unseen(&mut self, index: usize, number: Gen) {
        let unit = &mut self.units[index];
        let Some(shell) = unit.generations.get(&number) else { return };
        let waits = unit.filters.given.iter().any(|(_, generation, _)| *generation == number);
        if waits || !shell.adopted.listening.is_empty() {
            return;
        }
        let members: Vec<i32> = shell.members(pid()).into_iter().take(LOOKED_AT).collect();
        let (reports, waker) = (self.reports.clone(), self.waker.clone());
        let tell = move |address: Option<String>| {
            // The daemon is ending if nobody listens.
            let _ = reports.send(Report { unit: index, news: News::Unseen(number, address) });
            waker.wake();
        };
        // Tables of connections may be long, and there is one for each process. Where it cannot be asked, nobody is told.
        let _ = later::ask(Span::ZERO, move || holder::listening(&members), tell);
    }

    /// What a generation listens on that has not listened on anything as far as we have seen, if it does.
    pub fn unseen(&mut self, index: usize, number: Gen, address: Option<String>) {
        let unit = &mut self.units[index];
        let known = unit.generations.get(&number).is_none_or(|shell| !shell.adopted.listening.is_empty());
        let Some(address) = address.filter(|_| !known) else { return };
        let text = format!(
            "generation {} listens on {address}, and aeternad did not see it bind: a 32-bit program, or one that binds by \
             io_uring. It is not held, and the next generation cannot be given it: let it take its sockets as LISTEN_FDS, \
             or use Strategy = \"replace\"",
            number.0
        );
        let name = unit.name.clone();
        unit.filters.say(&name, Level::Warning, &text);
        self.deliver(index, Event::Listened { generation: number, missing: Missing::Nothing });
    }

    /// A newer generation is about to go, or has gone: what it has renamed over a path of the promoted one is undone.
    pub fn give_names_back(&mut self, index: usize) {
        let unit = &mut self.units[index];
        for text in unit.sockets.give_names_back(&unit.filters.expected) {
            log::info!("{}: {text}", unit.name);
        }
    }

    /// A program has ended by itself before it bound anything, and no other generation lives. Perhaps it has found somebody at
    /// its own path, which only we hold: the next one shall not.
    pub fn release_paths(&mut self, index: usize, number: Gen) {
        let unit = &self.units[index];
        let alone = unit.generations.iter().all(|(other, shell)| *other == number || shell.alive == 0);
        let nothing = |shell: &GenerationShell| {
            let Adopted { bound, own, listening, .. } = &shell.adopted;
            bound.is_empty() && own.is_empty() && listening.is_empty()
        };
        if !alone || !unit.generations.get(&number).is_some_and(|shell| nothing(shell)) {
            return;
        }
        let is_path = |address: &Listen| matches!(address.address, Address::Path(_));
        let paths: Vec<Listen> = unit.sockets.learned_addresses().into_iter().filter(is_path).collect();
        if paths.is_empty() {
            return;
        }
        self.unwatch_sockets(index);
        for address in paths {
            let unit = &mut self.units[index];
            let spelt = unit.sockets.spelt(&address);
            if unit.sockets.forget(&address) {
                log::warn!(
                    "{}: generation {} has ended before it bound anything: {spelt} is not held any more, in case it has \
                     taken that for another one that runs",
                    unit.name,
                    number.0
                );
            }
        }
        self.rewatch_sockets(index);
    }

    /// A generation is gone: what it alone has bound, for a trial or before it failed, is let go. What the promoted one
    /// listens on stays, also while nobody is there.
    pub fn release_unheld(&mut self, index: usize) {
        let unit = &self.units[index];
        if unit.filters.promoted.is_none() {
            return;
        }
        self.give_names_back(index);
        let unit = &self.units[index];
        let unexpected = |address: &Listen| !unit.filters.expected.contains(address);
        let learned = unit.sockets.learned_addresses().into_iter().filter(unexpected);
        let learned: Vec<(Listen, Vec<u64>)> =
            learned.map(|address| (address.clone(), unit.sockets.inodes_of(&address))).collect();
        let inodes = learned.iter().flat_map(|(_, inodes)| inodes).copied().collect();
        let seen = glance(unit.generations.values().map(Box::as_ref), &inodes);
        let stray: Vec<Listen> = learned
            .into_iter()
            .filter(|(_, inodes)| !seen.may_have(inodes))
            .map(|(address, _)| address)
            .collect();
        if stray.is_empty() {
            return;
        }
        self.unwatch_sockets(index);
        for address in stray {
            self.units[index].sockets.forget(&address);
        }
        self.rewatch_sockets(index);
        self.free_soon(index);
    }
}
