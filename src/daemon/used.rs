//! What generations use, as the kernel tells: for status, history and metrics. Main thread only.

use crate::daemon::core::Daemon;
use crate::daemon::supervised::{GenerationShell, Supervised};
use crate::machine::event::Gen;
use crate::proto::metrics::Total;
use crate::proto::status::{GenerationStatus, Usage, UsageOfBoth};
use crate::sys::clock::Effort;
use crate::sys::usage;
use serde::{Deserialize, Serialize};

/// What the generations of a unit that are gone have used, and what was counted when they went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// Processor time by their control groups, seconds.
    cpu_seconds: f64,
    /// Processes that were killed for memory, by their control groups.
    group_kills: u64,
    /// Processes of ours that were, as was seen at their ends.
    kills: u64,
    /// Both generations of a reload that was given up, when that was decided.
    tried: Option<UsageOfBoth>,
}

impl Used {
    /// A process was killed by the kernel for memory.
    pub fn killed(&mut self) {
        self.kills += 1;
    }

    /// A generation is about to be forgotten.
    pub fn gone(&mut self, shell: &GenerationShell) {
        let Some(group) = &shell.kit.cgroup else { return };
        let used = usage::brief(Some(group.dir_fd()), &[], Effort::glance());
        self.cpu_seconds += used.cpu_seconds.unwrap_or(0.0);
        self.group_kills += used.oom_kills.unwrap_or(0);
    }
}

/// What the kernel says of a generation, as far as that can be had until `end`. Asks its control group; its main processes
/// where there is none.
pub fn of(unit: &Supervised, generation: &GenerationStatus, end: Effort) -> Usage {
    let number = Gen(generation.number);
    let mut used = match unit.generations.get(&number).and_then(|shell| shell.kit.cgroup.as_ref()) {
        Some(group) => usage::of(Some(group.dir_fd()), &group.pids(), end),
        None => usage::of(None, &generation.pids, end),
    };
    used.accept_queue = unit.generations.get(&number).map(|shell| u64::from(unit.sockets.queued(shell.slot)));
    used
}

/// As [`of`], for metrics: without what takes time.
pub fn brief(unit: &Supervised, generation: &GenerationStatus, end: Effort) -> Usage {
    match unit.generations.get(&Gen(generation.number)).and_then(|shell| shell.kit.cgroup.as_ref()) {
        Some(group) => usage::brief(Some(group.dir_fd()), &group.pids(), end),
        None => usage::brief(None, &generation.pids, end),
    }
}

/// All of a unit's generations together.
pub fn total(unit: &Supervised) -> Total {
    let now = Effort::glance();
    let groups = unit.generations.values().map(|shell| shell.kit.cgroup.as_ref());
    let there: Option<Vec<Usage>> =
        groups.map(|group| group.map(|group| usage::brief(Some(group.dir_fd()), &[], now))).collect();
    let cpu = there.as_ref().and_then(|there| there.iter().map(|used| used.cpu_seconds).sum::<Option<f64>>());
    let serving = unit.machine.content().id;
    let kills: u64 = there.iter().flatten().filter_map(|used| used.oom_kills).sum();
    Total {
        cpu_seconds: cpu.map(|seconds| seconds + unit.used.cpu_seconds),
        oom_kills: unit.used.kills.max(unit.used.group_kills + kills),
        releases: u32::try_from(unit.machine.kept().filter(|kept| kept.content != serving).count())
            .unwrap_or(u32::MAX),
    }
}

impl Daemon {
    /// What both generations of a reload use, as long as the new one is there.
    fn usage_of_both(&self, index: usize, new: Gen, old: Option<Gen>) -> Option<UsageOfBoth> {
        let unit = &self.units[index];
        let us = self.shared.pid;
        let of = |number: Gen| {
            let shell = unit.generations.get(&number)?;
            let group = shell.kit.cgroup.as_ref().map(|group| group.dir_fd());
            Some(usage::of(group, &shell.members(us), Effort::glance()))
        };
        let mut both = UsageOfBoth { new: of(new)?, old: old.and_then(of) };
        if let Some(share) = unit.sockets.measured() {
            let to_old = share.connections.zip(share.to_new).map(|(all, new)| all.saturating_sub(new));
            both.new.connections = share.to_new;
            both.old.iter_mut().for_each(|old| old.connections = to_old);
        }
        Some(both)
    }

    /// A reload is being given up: the new generation is still there.
    pub fn keep_usage(&mut self, index: usize, new: Gen) {
        let old = self.units[index].promoted;
        let both = self.usage_of_both(index, new, old);
        self.units[index].used.tried = both;
    }

    /// What both generations of a reload that has ended have used.
    pub fn take_usage(&mut self, index: usize, new: Option<u32>, old: Option<u32>) -> Option<UsageOfBoth> {
        let kept = self.units[index].used.tried.take();
        kept.or_else(|| self.usage_of_both(index, Gen(new?), old.map(Gen)))
    }
}
