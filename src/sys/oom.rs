//! What the kernel's out-of-memory killer has done: numbers that only rise. See cgroups(7), proc_vmstat(5).
//!
//! Our own group is asked, which holds every service or encloses its group: the second version counts below it, too.

use super::delegation::SUPERVISOR;
use super::{cgroup, usage};
use crate::time::{Monotime, Span};
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
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

/// A process that the kernel has killed is gone this long after, at the latest.
const DIES_WITHIN: Span = Span::from_secs(10);

/// The kills of one control group that counts them, which tells of each.
#[derive(Debug)]
pub struct GroupKills {
    file: File,
    /// How many there were at the last look.
    seen: u64,
    /// Those that nobody has asked for yet.
    untold: u64,
    /// Those that no death was found for yet, and when the last one was seen.
    recent: (u64, Monotime),
}

impl GroupKills {
    /// Of a group's folder; what was killed before does not count. `None` without a memory controller.
    pub fn of(group: BorrowedFd<'_>) -> Option<GroupKills> {
        let file = usage::file(group, "memory.events")?;
        let mut kills = GroupKills { file, seen: 0, untold: 0, recent: (0, Monotime(0)) };
        kills.seen = kills.count()?;
        Some(kills)
    }

    /// As [`GroupKills::of`], with what another program had seen of them.
    pub fn restored(group: BorrowedFd<'_>, seen: u64) -> Option<GroupKills> {
        Some(GroupKills { seen, ..GroupKills::of(group)? })
    }

    /// What was seen so far: for [`GroupKills::restored`].
    pub fn seen(&self) -> u64 {
        self.seen.saturating_sub(self.untold)
    }

    /// What to poll for POLLPRI, until [`GroupKills::take`] is asked.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn count(&self) -> Option<u64> {
        let mut bytes = [0; 512];
        let count = self.file.read_at(&mut bytes, 0).ok()?;
        oom_kills(std::str::from_utf8(bytes.get(..count)?).ok()?)
    }

    fn look(&mut self, now: Monotime) {
        let count = self.count().unwrap_or(self.seen);
        let new = count.saturating_sub(self.seen);
        self.seen = count;
        self.untold += new;
        if now.since(self.recent.1) > DIES_WITHIN {
            self.recent.0 = 0;
        }
        if new > 0 {
            self.recent = (self.recent.0 + new, now);
        }
    }

    /// Whether a process of the group that has been reaped just now was one of them: each explains one death.
    pub fn explains(&mut self, now: Monotime) -> bool {
        self.look(now);
        let is_one = self.recent.0 > 0;
        self.recent.0 = self.recent.0.saturating_sub(1);
        self.untold = self.untold.saturating_sub(u64::from(is_one));
        is_one
    }

    /// How many there are that were neither taken nor explained before.
    pub fn take(&mut self, now: Monotime) -> u64 {
        self.look(now);
        std::mem::take(&mut self.untold)
    }
}

/// How many processes were killed for memory on this machine since it has started; `None` before Linux 4.13.
pub fn machine_kills() -> Option<u64> {
    count_in(Path::new("/proc/vmstat"))
}

fn count_in(file: &Path) -> Option<u64> {
    oom_kills(&fs::read_to_string(file).ok()?)
}

fn oom_kills(text: &str) -> Option<u64> {
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
    fn a_kill_explains_one_death_soon_after_and_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        let open = || File::open(folder.path()).unwrap();
        assert!(GroupKills::of(open().as_fd()).is_none());
        let write = |kills: u64| fs::write(&file, format!("oom 9\noom_kill {kills}\n")).unwrap();
        let at = |seconds| Monotime(0) + Span::from_secs(seconds);
        write(3);
        let mut kills = GroupKills::of(open().as_fd()).unwrap();
        assert!(!kills.explains(at(1)) && kills.take(at(1)) == 0, "what was before does not count");
        write(5);
        assert!(kills.explains(at(2)));
        assert_eq!((kills.take(at(2)), kills.take(at(2))), (1, 0));
        // Told already, and dead a moment later.
        assert!(kills.explains(at(3)) && !kills.explains(at(3)));
        write(6);
        assert_eq!(kills.take(at(4)), 1);
        // Somebody's kill -9 an hour later is not the kernel's.
        assert!(!kills.explains(at(3600)));
        write(8);
        let mut again = GroupKills::restored(open().as_fd(), kills.seen()).unwrap();
        assert_eq!(again.take(at(3601)), 2);
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
