//! Who has the sockets that programs have taught us, and what was bound without our seeing it.

use super::{Adopted, BOUND_MAX, FIRST_LOOK, Level};
use crate::daemon::core::Daemon;
use crate::daemon::sockets::{Found, Wanted};
use crate::daemon::supervised::{GenerationShell, Supervised};
use crate::machine::event::{Event, Gen, Missing};
use crate::sys::aside::Foreign;
use crate::sys::process::pid;
use crate::sys::{clock, holder, registration, seccomp};
use crate::time::Span;
use crate::unit::{Address, Listen};
use std::sync::Arc;

/// Whether a process of a generation has one of these sockets, or may have: one that nobody may look at.
pub(super) fn has_any(shell: &GenerationShell, inodes: &[u64]) -> bool {
    shell.members(pid()).into_iter().any(|member| holder::has_socket(member, inodes).unwrap_or(true))
}

/// Whether any process of a unit has a socket of this address.
pub(super) fn anybody_has(unit: &Supervised, address: &Listen) -> bool {
    let inodes = unit.sockets.inodes_of(address);
    unit.generations.values().any(|shell| has_any(shell, &inodes))
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
        let (members, slot, content) = (shell.members(pid()), shell.slot, shell.content);
        let content = content.and_then(|id| unit.content(id)).unwrap_or(&unit.current);
        let content = Arc::clone(&content.unit);
        for (inode, wanted) in known {
            let held = matches!(unit.sockets.find(&wanted), Found::Held(_));
            if let Some(own) = copy(&members, inode).filter(|_| !held) {
                // An address that cannot be held is the program's alone, as before.
                let _ = unit.sockets.learn(&content, &wanted, slot, own);
            }
        }
    }
}

/// The socket with this inode number, of the first of these processes that has it.
fn copy(processes: &[i32], inode: u64) -> Option<Foreign> {
    processes.iter().find_map(|process| {
        let number = *registration::of(*process, inode).ok()?.numbers.first()?;
        seccomp::copy_fd(*process, number).ok()
    })
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
        let Some(address) = holder::listening(&shell.members(pid())) else { return };
        let text = format!(
            "generation {} listens on {address}, and aeternad did not see it bind: a 32-bit program, or one that binds by \
             io_uring. It is not held, and the next generation cannot be given it: let it take its sockets as LISTEN_FDS, \
             or use Strategy = \"replace\"",
            number.0
        );
        let name = unit.name.clone();
        unit.filters.say(&name, Level::Warning, &text);
        self.queue.push_back((index, Event::Listened { generation: number, missing: Missing::Nothing }));
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
        let stray: Vec<Listen> = unit
            .sockets
            .learned_addresses()
            .into_iter()
            .filter(|address| !unit.filters.expected.contains(address) && !anybody_has(unit, address))
            .collect();
        if stray.is_empty() {
            return;
        }
        self.unwatch_sockets(index);
        for address in stray {
            self.units[index].sockets.forget(&address);
        }
        self.rewatch_sockets(index);
    }
}
