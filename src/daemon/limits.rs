//! `MemoryMax` and the others: what is written to the control group of a generation before its first process.

use crate::daemon::shared::Shared;
use crate::sys::cgroup::Cgroup;
use crate::sys::delegation::Controllers;
use crate::sys::memory;
use crate::sys::oom::GroupKills;
use crate::unit::{Amount, GroupLimits, OomPolicy};

/// The period of `CPUQuota`, microseconds.
const PERIOD: u64 = 100_000;

/// What limits a generation does not have though its unit says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unenforced {
    /// Which, and why: a sentence; nothing if it has all.
    pub why: Option<String>,
    /// `MemoryMax` in bytes, if that is one of them.
    pub memory_max: Option<u64>,
}

/// The files of a group, what is written to each, and the key that wants it.
fn files(limits: &GroupLimits) -> Vec<(&'static str, &'static str, String)> {
    let number = |amount: Amount, all: Option<u64>| {
        amount.number(all.unwrap_or(u64::MAX)).map_or("max".to_owned(), |number| number.to_string())
    };
    let memory = |amount| number(amount, memory::of_the_machine());
    let quota = |share: u32| format!("{} {PERIOD}", (u64::from(share) * PERIOD / 10_000).max(1_000));
    [
        ("MemoryMax", "memory.max", limits.memory_max.map(memory)),
        ("MemoryHigh", "memory.high", limits.memory_high.map(memory)),
        ("MemorySwapMax", "memory.swap.max", limits.memory_swap_max.map(memory)),
        ("TasksMax", "pids.max", limits.tasks_max.map(|amount| number(amount, memory::most_tasks()))),
        ("CPUWeight", "cpu.weight", limits.cpu_weight.map(|weight| weight.to_string())),
        ("CPUQuota", "cpu.max", limits.cpu_quota.map(quota)),
        ("OOMPolicy", "memory.oom.group", (limits.oom_policy == OomPolicy::Kill).then(|| "1".to_owned())),
    ]
    .into_iter()
    .filter_map(|(key, file, value)| Some((key, file, value?)))
    .collect()
}

/// Gives a generation's group its limits.
pub fn apply(limits: &GroupLimits, group: Option<&Cgroup>, shared: &Shared) -> Unenforced {
    let files = files(limits);
    let counts = limits.oom_policy == OomPolicy::Stop;
    if files.is_empty() && !counts {
        return Unenforced::default();
    }
    let arranged = match &shared.cgroups {
        None => Err("no control groups can be made here".to_owned()),
        Some(root) => root.controllers(),
    };
    let mut missing = Vec::new();
    let mut why = arranged.as_ref().err().cloned().unwrap_or_default();
    for (key, file, value) in files {
        let set = match group.filter(|_| arranged.is_ok()) {
            Some(group) => group.limit(file, &value).map_err(|error| error.to_string()),
            None => Err("no control group could be made".to_owned()),
        };
        if let Err(error) = set {
            missing.push(key);
            if why.is_empty() {
                why = format!("{file}: {error}");
            }
        }
    }
    if counts && group.is_none_or(|group| GroupKills::of(group.dir_fd()).is_none()) {
        missing.push("OOMPolicy");
        if why.is_empty() {
            why = "the control group does not count what the kernel kills for memory".into();
        }
    }
    if missing.is_empty() {
        return Unenforced::default();
    }
    let memory_max = limits.memory_max.filter(|_| missing.contains(&"MemoryMax"));
    let memory_max = memory_max.and_then(|amount| amount.number(memory::of_the_machine()?));
    let watched = if memory_max.is_some() { "; MemoryMax is watched until promotion" } else { "" };
    let mains =
        if missing.contains(&"OOMPolicy") { "; OOMPolicy goes by the main processes alone" } else { "" };
    let why = Some(format!("not enforced: {}: {why}{watched}{mains}", missing.join(", ")));
    Unenforced { why, memory_max }
}

/// Which limits a launch would not have, in one sentence; nothing if it would have all. Changes nothing.
pub fn preview(limits: &GroupLimits, shared: &Shared) -> Option<String> {
    if limits.keys().is_empty() {
        return None;
    }
    let could = match &shared.cgroups {
        None => Err("no control groups can be made here".to_owned()),
        Some(root) => root.could_have().map(Controllers::missing),
    };
    let (keys, why) = limits.unmet(could.as_deref().map_err(String::as_str))?;
    Some(format!("not enforced here: {}: {why}", keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_file() {
        let limits = GroupLimits {
            memory_max: Some(Amount::Of(1 << 30)),
            memory_high: Some(Amount::Infinity),
            memory_swap_max: Some(Amount::Of(0)),
            tasks_max: Some(Amount::Of(512)),
            cpu_weight: Some(50),
            cpu_quota: Some(15_000),
            oom_policy: OomPolicy::Kill,
        };
        let written: Vec<String> =
            files(&limits).into_iter().map(|(_, file, value)| format!("{file}={value}")).collect();
        assert_eq!(
            written,
            [
                "memory.max=1073741824",
                "memory.high=max",
                "memory.swap.max=0",
                "pids.max=512",
                "cpu.weight=50",
                "cpu.max=150000 100000",
                "memory.oom.group=1"
            ]
        );
        assert_eq!(limits.keys().len(), written.len());
        assert!(files(&GroupLimits::default()).is_empty());
        let half = GroupLimits { memory_max: Some(Amount::Share(5_000)), ..GroupLimits::default() };
        let half: u64 = files(&half)[0].2.parse().unwrap();
        assert_eq!(half, memory::of_the_machine().unwrap() / 2);
    }
}
