//! The memory limits above us, and how much of each is used: of every control group that we are in, of either version,
//! and of the machine. See cgroups(7), proc_meminfo(5).

use super::cgroup;
use std::fs;
use std::path::{Path, PathBuf};

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Whose, as the rest of a sentence: "this machine", "the control group /app".
    pub of: String,
    /// What there is, bytes.
    pub limit: u64,
    /// What of it is used and cannot be reclaimed, bytes.
    pub used: u64,
}

/// Where the limits are.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    folder: PathBuf,
    name: String,
    is_second: bool,
}

impl Limits {
    /// Looks for the groups that we are in. Those above what a container shows nobody sees.
    pub fn find() -> Limits {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Limits { groups: above(&groups, &mounts) }
    }

    /// What is used of each now; those without a limit are left out.
    pub fn levels(&self) -> Vec<Level> {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
        let most = machine.as_ref().map_or(u64::MAX, |level| level.limit);
        // More than the machine has limits nothing; the first version has a number for "none".
        let groups = self.groups.iter().filter_map(of_group).filter(|level| level.limit < most);
        groups.chain(machine.clone()).collect()
    }

    /// How many processes were killed for memory in the nearest group that counts its memory: those of generations too, as
    /// long as they have no count of their own. `None` if nobody counts that.
    pub fn kills(&self) -> Option<u64> {
        self.groups.iter().find_map(|group| {
            let names: &[&str] = if group.is_second {
                &["memory.events.local", "memory.events"]
            } else {
                &["memory.oom_control"]
            };
            names
                .iter()
                .find_map(|name| field(&fs::read_to_string(group.folder.join(name)).ok()?, "oom_kill"))
        })
    }

    /// The limit of the nearest group that has one, and whether all in it are killed together when it is used up.
    pub fn nearest(&self) -> Option<(Level, bool)> {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
        let most = machine.map_or(u64::MAX, |level| level.limit);
        let mut all = self.groups.iter().filter_map(|group| Some((group, of_group(group)?)));
        let (group, level) = all.find(|(_, level)| level.limit < most)?;
        let together = fs::read_to_string(group.folder.join("memory.oom.group"));
        Some((level, together.is_ok_and(|text| text.trim() == "1")))
    }
}

/// What memory the machine has, bytes; `None` without /proc.
pub fn of_the_machine() -> Option<u64> {
    Some(field(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")? * 1024)
}

/// How many tasks the machine can have; `None` without /proc.
pub fn most_tasks() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let pids = number("/proc/sys/kernel/pid_max")?;
    Some(number("/proc/sys/kernel/threads-max").map_or(pids, |threads| threads.min(pids)))
}

/// Our own groups of both versions that may have limits, and those above.
fn above(groups: &str, mounts: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for (path, is_second) in cgroup::memory_groups(groups) {
        let controller = if is_second { None } else { Some("memory") };
        let Some(folder) = cgroup::folder_of(path, mounts, controller) else { continue };
        let levels = folder.ancestors().zip(Path::new(path).ancestors());
        let levels = levels.take_while(|(folder, _)| folder.join("cgroup.procs").exists());
        let levels: Vec<Group> = levels
            .map(|(folder, name)| Group {
                folder: folder.to_owned(),
                name: name.to_string_lossy().into_owned(),
                is_second,
            })
            .collect();
        let has = |file: &str| levels.iter().any(|level| level.folder.join(file).exists());
        if has(if is_second { "memory.max" } else { "memory.limit_in_bytes" }) {
            found.extend(levels);
        }
    }
    found
}

fn of_group(group: &Group) -> Option<Level> {
    let read = |name: &str| fs::read_to_string(group.folder.join(name)).ok();
    let (limit, current, prefix) = if group.is_second {
        (read("memory.max")?, read("memory.current")?, "")
    } else {
        (read("memory.limit_in_bytes")?, read("memory.usage_in_bytes")?, "total_")
    };
    // "max": no limit.
    let (limit, current) = (limit.trim().parse().ok()?, current.trim().parse::<u64>().ok()?);
    let stat = read("memory.stat").unwrap_or_default();
    let reclaimable = ["active_file", "inactive_file", "slab_reclaimable"];
    let reclaimable: u64 =
        reclaimable.iter().filter_map(|name| field(&stat, &format!("{prefix}{name}"))).sum();
    Some(Level {
        of: format!("the control group {}", group.name),
        limit,
        used: current.saturating_sub(reclaimable),
    })
}

/// Memory and swap of the machine.
fn of_machine(text: &str) -> Option<Level> {
    let bytes = |name: &str| Some(field(text, &format!("{name}:"))? * 1024);
    let limit = bytes("MemTotal")? + bytes("SwapTotal").unwrap_or(0);
    let left = bytes("MemAvailable")? + bytes("SwapFree").unwrap_or(0);
    Some(Level { of: "this machine".into(), limit, used: limit.saturating_sub(left) })
}

/// `name value`, on a line of its own.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reclaimed_is_not_used_up() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let group = |is_second| Group { folder: folder.path().to_owned(), name: "/app".into(), is_second };
        write("memory.max", "1000\n");
        write("memory.current", "900\n");
        write("memory.stat", "anon 500\nactive_file 100\ninactive_file 50\nslab_reclaimable 50\nslab 60\n");
        let level = of_group(&group(true)).unwrap();
        assert_eq!((level.limit, level.used, level.of.as_str()), (1000, 700, "the control group /app"));
        write("memory.max", "max\n");
        assert_eq!(of_group(&group(true)), None);
        write("memory.limit_in_bytes", "1000\n");
        write("memory.usage_in_bytes", "950\n");
        write("memory.stat", "active_file 9\ntotal_active_file 100\ntotal_inactive_file 50\n");
        assert_eq!(of_group(&group(false)).unwrap().used, 800);
    }

    #[test]
    fn a_machine_has_its_swap_too() {
        let text = "MemTotal:       1000 kB\nMemFree:   1 kB\nMemAvailable:   100 kB\nSwapTotal:  1000 kB\nSwapFree: 900 kB\n";
        let level = of_machine(text).unwrap();
        assert_eq!((level.limit, level.used), (2000 * 1024, 1000 * 1024));
        assert_eq!(of_machine("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn every_group_up_to_what_is_mounted_is_asked() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a/b");
        fs::create_dir_all(&own).unwrap();
        for folder in [root.path(), &root.path().join("a"), &own] {
            fs::write(folder.join("cgroup.procs"), "").unwrap();
        }
        fs::write(own.join("memory.max"), "1\n").unwrap();
        let mounts = format!("30 24 0:26 / {} rw - cgroup2 cgroup2 rw\n", root.path().display());
        let found: Vec<String> = above("0::/a/b\n", &mounts).into_iter().map(|group| group.name).collect();
        assert_eq!(found, ["/a/b", "/a", "/"]);
        assert!(above("0::/\n", &mounts).is_empty());
    }

    #[test]
    fn this_machine_has_memory() {
        let levels = Limits::find().levels();
        assert!(levels.last().is_some_and(|level| level.limit > level.used && level.used > 0), "{levels:?}");
    }
}
