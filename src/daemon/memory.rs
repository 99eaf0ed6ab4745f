//! A new generation that is tried beside a serving one may not take the machine with it: the kernel kills it first, and what
//! it has of the memory is looked at once a second until it is promoted. Nobody looks at other times.

use crate::daemon::core::{Daemon, News, Report};
use crate::machine::event::{Announcement, Event, Gen, MemoryLevel, MemorySeen};
use crate::proto::amount::Bytes;
use crate::sys::cgroup::Cgroup;
use crate::sys::clock::Effort;
use crate::sys::memory::{Level, Limits};
use crate::sys::tree::{self, Main, TreeKey};
use crate::sys::{clock, fd, oom_score, usage};
use crate::time::{Monotime, Span};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

/// How often is looked.
const EVERY: Span = Span::from_secs(1);
/// How often, where less than this part of a limit is left.
const TIGHT_EVERY: Span = Span::from_millis(100);
/// A fifth.
const TIGHT: u64 = 5;
/// The stack of the thread that looks, bytes.
const STACK: usize = 256 * 1024;
/// How often processes are looked for that were forked while the others were put back.
const PASSES: u32 = 16;

/// When a new generation is looked at first: not while whoever waits for its first answer waits for us.
const SOON: Span = Span::from_millis(50);

/// The looks at new generations.
#[derive(Debug, Default)]
pub struct MemoryWatch {
    limits: OnceCell<Limits>,
    next: Option<Monotime>,
    /// A thread looks.
    busy: bool,
    /// What was killed for memory in our own group before a new generation was there.
    before: BTreeMap<(usize, Gen), u64>,
    /// Those of which it is not known yet whether they could have as much as the one that serves.
    unsaid: BTreeSet<(usize, Gen)>,
}

/// A generation that is looked at.
struct Newcomer {
    unit: usize,
    generation: Gen,
    started: Vec<Main>,
    strayed: bool,
    invocation: String,
    group: Option<OwnedFd>,
    /// All its processes, where its control group has told.
    members: Option<Vec<i32>>,
    before: u64,
    /// `MemoryMax`, if nobody else looks after it.
    most: Option<u64>,
}

impl MemoryWatch {
    /// Looks soon, in case there are new generations already, and finds out where the limits are then: a start does not
    /// wait for that.
    pub fn begin() -> MemoryWatch {
        MemoryWatch { next: Some(clock::now()), ..MemoryWatch::default() }
    }

    fn limits(&self) -> &Limits {
        self.limits.get_or_init(Limits::find)
    }

    /// When is looked next.
    pub fn deadline(&self) -> Option<Monotime> {
        self.next.filter(|_| !self.busy)
    }

    /// A generation has just been launched beside one that serves.
    pub fn watch(&mut self, unit: usize, generation: Gen) {
        self.next = clock::now().after(SOON);
        self.unsaid.insert((unit, generation));
        self.before.insert((unit, generation), self.limits().kills().unwrap_or(0));
    }

    /// What was killed in our own group before each of them; one that nobody has announced begins now.
    fn begin_for(&mut self, newcomers: &mut [Newcomer]) {
        let now = self.limits().kills().unwrap_or(0);
        let before = std::mem::take(&mut self.before);
        for one in newcomers {
            let key = (one.unit, one.generation);
            one.before = before.get(&key).copied().unwrap_or(now);
            self.before.insert(key, one.before);
        }
    }
}

/// The badness that a service's processes have when they serve, of its `OOMScoreAdjust`; `None` leaves what they inherit. Our own protection is not
/// theirs: whoever supervises should outlive what he supervises.
pub fn badness(asked: Option<i32>, own: Option<i32>, pid1: bool) -> Option<i32> {
    asked.or_else(|| own.filter(|own| *own < 0 && !pid1).map(|_| 0))
}

impl Daemon {
    /// Says so if a generation that was launched beside one that serves could not have as much memory as that one.
    fn warn_of_memory(&mut self, index: usize, generation: Gen) {
        let unit = &self.units[index];
        let Some(serving) = unit.promoted.and_then(|number| unit.generations.get(&number)) else { return };
        let group = serving.kit.cgroup.as_ref().map(|group| group.dir_fd());
        let Some(has) = usage::brief(group, &serving.members(self.shared.pid), Effort::glance()).memory
        else {
            return;
        };
        let levels = self.memory.limits().levels();
        let tight = levels.iter().find(|level| level.limit.saturating_sub(level.used) < has);
        if let Some(level) = tight {
            let text = format!(
                "generation {} is launched where {} of the {} of {} are left, and the one that serves has {}",
                generation.0,
                Bytes(level.limit.saturating_sub(level.used)),
                Bytes(level.limit),
                level.of,
                Bytes(has)
            );
            self.announce(index, Announcement::Warning { text });
        }
    }

    /// Looks at every new generation, on a thread.
    pub fn look_at_newcomers(&mut self) {
        let mut newcomers: Vec<Newcomer> = self
            .units
            .iter()
            .enumerate()
            .flat_map(|(unit, supervised)| supervised.generations.iter().map(move |one| (unit, one)))
            .filter(|(_, (_, shell))| shell.goes_first)
            .map(|(unit, (generation, shell))| Newcomer {
                unit,
                generation: *generation,
                started: shell.started.clone(),
                strayed: shell.strayed,
                invocation: shell.invocation.clone(),
                group: shell.kit.cgroup.as_ref().and_then(|group| fd::dup(group.dir_fd()).ok()),
                members: shell.kit.cgroup.as_ref().map(Cgroup::pids),
                before: 0,
                most: shell.unenforced.memory_max,
            })
            .collect();
        self.memory.next = if newcomers.is_empty() { None } else { clock::now().after(EVERY) };
        for (unit, generation) in std::mem::take(&mut self.memory.unsaid) {
            if newcomers.iter().any(|one| (one.unit, one.generation) == (unit, generation)) {
                self.warn_of_memory(unit, generation);
            }
        }
        let limits = self.memory.limits().clone();
        if newcomers.is_empty() {
            return;
        }
        self.memory.begin_for(&mut newcomers);
        let us = self.shared.pid;
        let (reports, waker) = (self.reports.clone(), self.waker.clone());
        let look = move || {
            let (levels, near) = (limits.levels(), limits.kills());
            let seen = newcomers.iter().map(|one| (one.unit, look(one, us, &levels, near)));
            // The daemon is ending if nobody listens.
            let _ = reports.send(Report { unit: 0, news: News::Memory(seen.collect()) });
            waker.wake();
        };
        self.memory.busy = true;
        if let Err(error) = std::thread::Builder::new().name("memory".into()).stack_size(STACK).spawn(look) {
            self.memory.busy = false;
            log::warn!("cannot look at the memory of new generations: no thread can be started: {error}");
        }
    }

    /// The thread has looked. Where little is left, it looks again soon: what leaks fast is there within a second.
    pub fn newcomers_seen(&mut self, seen: Vec<(usize, Event)>) {
        self.memory.busy = false;
        let is_tight = |event: &Event| match event {
            Event::Memory(_, seen) => seen.levels.iter().any(|level| {
                let left = level.limit.saturating_sub(level.used);
                left < level.limit / TIGHT
            }),
            _ => false,
        };
        if seen.iter().any(|(_, event)| is_tight(event)) {
            let soon = clock::now().after(TIGHT_EVERY);
            self.memory.next = self.memory.next.min(soon).or(soon);
        }
        for (unit, event) in seen {
            self.deliver(unit, event);
        }
    }

    /// A generation has been promoted: the kernel kills its processes as it does others. Those that have changed their
    /// badness themselves keep it.
    pub fn put_back_badness(&mut self, index: usize, generation: Gen) {
        let unit = &mut self.units[index];
        let content = unit.generations.get(&generation).and_then(|shell| unit.content(shell.content?));
        let service = content.map_or(&unit.current.unit.service, |content| &content.unit.service);
        let own = self.shared.badness;
        let Some(value) = badness(service.oom_score_adjust, own, self.shared.pid1).or(own) else { return };
        let Some(shell) = unit.generations.get_mut(&generation) else { return };
        shell.goes_first = false;
        if value == oom_score::FIRST {
            return;
        }
        // Who forks meanwhile has it from his parent.
        for _ in 0..PASSES {
            match oom_score::put_back(&shell.members(self.shared.pid), value) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    log::warn!(
                        "{}: generation {} stays the first that the kernel kills for memory: {error} (a process that \
                         cannot be dumped, and aeternad is not root)",
                        unit.name,
                        generation.0
                    );
                    break;
                }
            }
        }
    }
}

/// One generation, on the thread. `near`: kills in our own group, which are its own where it has no count: it goes first.
fn look(one: &Newcomer, us: i32, levels: &[Level], near: Option<u64>) -> Event {
    let key = TreeKey { mains: &one.started, invocation: &one.invocation, strayed: one.strayed };
    let group = one.group.as_ref().map(AsFd::as_fd);
    let pids = one.members.clone().unwrap_or_else(|| tree::tree(&key, us));
    let mut usage = usage::brief(group, &pids, Effort::of(EVERY));
    if one.most.is_some_and(|most| usage.memory > Some(most)) && !usage::counts_memory(group) {
        // What forked processes share was counted for each of them.
        usage.memory = usage::exact_memory(&pids, clock::now() + EVERY);
    }
    let levels =
        levels.iter().map(|level| MemoryLevel { of: level.of.clone(), limit: level.limit, used: level.used });
    let seen = MemorySeen {
        has: usage.memory,
        kills: usage.oom_kills.or(near.map(|kills| kills.saturating_sub(one.before))).unwrap_or(0),
        most: one.most,
        levels: levels.collect(),
    };
    Event::Memory(one.generation, Box::new(seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_protection_is_not_the_services() {
        for (own, pid1, expected) in [
            (Some(-900), false, Some(0)),
            (Some(-900), true, None),
            (Some(0), false, None),
            (Some(200), false, None),
            (None, false, None),
        ] {
            assert_eq!(badness(None, own, pid1), expected, "{own:?} {pid1}");
        }
        assert_eq!(badness(Some(-5), Some(-900), false), Some(-5));
    }
}
