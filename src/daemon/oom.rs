//! Whether a SIGKILL that was not ours was the kernel's, for memory; and the kills that nobody else tells of. Main thread
//! only.

use crate::daemon::core::Daemon;
use crate::daemon::token::Owner;
use crate::machine::event::{Beside, Event, Gen, Role};
use crate::sys::oom::{GroupKills, OomCount, machine_kills};
use crate::sys::{clock, process};

/// What has been counted, and what of it no death has been found for yet.
#[derive(Debug, Default)]
pub struct OomWatch {
    counter: OomCount,
    group: Seen,
    machine: Seen,
}

/// One counter.
#[derive(Debug, Default)]
struct Seen {
    /// As it was last.
    last: u64,
    /// Kills that are new, and have not been told of any process yet.
    unclaimed: u64,
}

impl Seen {
    fn look(&mut self, now: Option<u64>) {
        let now = now.unwrap_or(self.last);
        self.unclaimed += now.saturating_sub(self.last);
        self.last = now;
    }

    fn claim(&mut self) -> bool {
        let there = self.unclaimed > 0;
        self.unclaimed = self.unclaimed.saturating_sub(1);
        there
    }
}

impl OomWatch {
    /// Begins to count.
    pub fn begin() -> OomWatch {
        let mut watch = OomWatch { counter: OomCount::find(), ..OomWatch::default() };
        watch.look();
        watch.forget();
        watch
    }

    fn look(&mut self) {
        self.group.look(self.counter.kills());
        self.machine.look(machine_kills());
    }

    /// What was killed until now has nothing to do with what dies later.
    pub fn forget(&mut self) {
        (self.group.unclaimed, self.machine.unclaimed) = (0, 0);
    }

    /// A process was ended by a SIGKILL that nobody here has sent.
    pub fn killed(&mut self) -> Beside {
        self.look();
        let near = self.machine.claim();
        if self.group.claim() {
            Beside::OutOfMemory
        } else if near {
            Beside::MemoryShort
        } else {
            Beside::Nothing
        }
    }
}

impl Daemon {
    /// Is told of a generation's processes that the kernel kills for memory, where its control group counts them.
    pub fn watch_kills(&mut self, index: usize, number: Gen) {
        let unit = &self.units[index];
        let kills = unit.generations.get(&number).and_then(|shell| shell.kills.as_ref());
        if let Some(fd) = kills.map(GroupKills::fd)
            && let Err(error) = self.poller.add_priority(Owner::Kills(index, number.0).token(), fd)
        {
            log::warn!("{}: cannot watch what the kernel kills for memory: {error}", unit.name);
        }
    }

    /// A generation's counter has changed.
    pub fn kills_told(&mut self, index: usize, number: Gen) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let kills = unit.generations.get_mut(&number).and_then(|shell| shell.kills.as_mut());
        let count = kills.map_or(0, |kills| kills.take(clock::now()));
        if count > 0 {
            self.deliver(index, Event::OomKilled(number, count));
        }
    }

    /// A process has died for memory. If one of a new generation that is tried beside it is dying too, that one comes first:
    /// the larger it is the longer it takes to die, and nobody may take it for the one that is left.
    pub fn newcomers_die_first(&mut self, index: usize, died: Option<Gen>) {
        let unit = &self.units[index];
        let tried = |number: Gen| {
            Some(number) != died && unit.generations.get(&number).is_some_and(|shell| shell.goes_first)
        };
        let dying = unit.children.values().find_map(|child| {
            let number = child.generation.filter(|number| !child.gone && tried(*number))?;
            (matches!(child.role, Role::Main { .. }) && process::is_dying(child.pid)).then_some(number)
        });
        if let Some(number) = dying {
            self.deliver(index, Event::OomKilled(number, 1));
        }
    }

    /// Whether the kernel has ended a process of a generation, which was reaped just now, for memory. Its own group knows
    /// best.
    pub fn was_killed_for_memory(&mut self, index: usize, number: Option<Gen>) -> Beside {
        let generations = &mut self.units[index].generations;
        let own = number.and_then(|number| generations.get_mut(&number)?.kills.as_mut());
        let own = own.map(|kills| kills.explains(clock::now()));
        match (own, self.oom.killed()) {
            (Some(true), _) => Beside::OutOfMemory,
            (Some(false), Beside::OutOfMemory) => Beside::Nothing,
            (_, around) => around,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_explains_one_death_and_only_of_its_time() {
        let mut seen = Seen { last: 3, unclaimed: 0 };
        seen.look(Some(5));
        assert!(seen.claim() && seen.claim() && !seen.claim());
        seen.look(None);
        assert!(!seen.claim());
        seen.look(Some(6));
        assert!(seen.claim() && !seen.claim());
    }
}
