//! What the kernel's out-of-memory killer has done: numbers that only rise. See cgroups(7), proc_vmstat(5).
//!
//! Our own group is asked, which holds every service or encloses its group: the second version counts below it, too.

use super::cgroup;
use super::delegation::SUPERVISOR;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kills of our own control group are counted.
#[derive(Debug, Clone, Default)]
pub struct OomCount {
    file: Option<PathBuf>,
}

impl OomCount {
    /// Looks for the counter; without a memory controller here there is none.
    pub fn find() -> OomCount {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let file = counters(&groups, &mounts).into_iter().find(|file| count_in(file).is_some());
        OomCount { file }
    }

    /// How many processes of our group were killed for memory, as long as it exists; `None` if nobody counts that.
    pub fn kills(&self) -> Option<u64> {
        count_in(self.file.as_deref()?)
    }
}

/// How many processes were killed for memory on this machine since it has started; `None` before Linux 4.13.
pub fn machine_kills() -> Option<u64> {
    count_in(Path::new("/proc/vmstat"))
}

fn count_in(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The files that may have it, the first version's too.
fn counters(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (path, is_second) in cgroup::memory_groups(groups) {
        if is_second {
            // Where generations have groups beside our own, the one above counts for all.
            let own = cgroup::folder_of(path, mounts, None);
            let above = own.as_deref().filter(|own| own.ends_with(SUPERVISOR));
            let above = above.and_then(Path::parent).map(Path::to_path_buf);
            found.extend(above.into_iter().chain(own).map(|folder| folder.join("memory.events")));
        } else {
            let folder = cgroup::folder_of(path, mounts, Some("memory"));
            found.extend(folder.map(|folder| folder.join("memory.oom_control")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_counters_are_found() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 24 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let groups = "5:cpu:/x\n4:memory:/docker/a\n0::/b\n";
        assert_eq!(
            counters(groups, mounts),
            [
                Path::new("/sys/fs/cgroup/memory/docker/a/memory.oom_control"),
                Path::new("/sys/fs/cgroup/unified/b/memory.events")
            ]
        );
        assert!(counters("", mounts).is_empty());
    }

    #[test]
    fn numbers_are_read_and_other_lines_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        fs::write(&file, "low 0\noom 3\noom_kill 2\noom_group_kill 1\n").unwrap();
        assert_eq!(count_in(&file), Some(2));
        fs::write(&file, "oom_kill_disable 0\nunder_oom 0\n").unwrap();
        assert_eq!(count_in(&file), None);
    }
}
