//! Whether a SIGKILL that was not ours was the kernel's, for memory. Main thread only.

use crate::machine::event::Beside;
use crate::sys::oom::{OomCount, machine_kills};

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
