//! What an aeternad can do with control groups, as far as that is to be seen without making any: of the one that has a
//! runtime dir, else as if it ran here. See cgroups(7).

use super::delegation::{self, Controllers};
use super::{cgroup, claim, process, user};
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Whose control group was looked at: that of an aeternad that runs, or `None` for our own.
    pub pid: Option<i32>,
    /// The controllers that groups of generations can have; or why there are none: the rest of a sentence.
    pub could: Result<Controllers, String>,
}

impl Outlook {
    /// Of the aeternad that has this runtime dir, if there is one that we may believe; else of ourselves.
    pub fn of(runtime_dir: &Path) -> Outlook {
        let own = user::effective_uid();
        let folder = std::path::absolute(runtime_dir).ok();
        let holder = folder.and_then(|folder| claim::holder(&folder));
        let believed = |uid: u32| uid == 0 || uid == own || own == 0;
        let holder = holder.filter(|who| believed(who.uid) && who.pid > 0);
        let pid = holder.map(|who| who.pid).filter(|pid| *pid != process::pid());
        Outlook { pid, could: could_have(pid) }
    }

    /// Which controllers are missing, or why all are; and from where that was seen.
    ///
    /// # Errors
    /// The reason, and from where it was seen.
    pub fn missing(&self) -> Result<Vec<&'static str>, String> {
        self.could.clone().map(Controllers::missing).map_err(|why| format!("{why}, {}", self.seen_from()))
    }

    /// Whose view that is.
    pub fn seen_from(&self) -> String {
        match self.pid {
            Some(pid) => format!("as aeternad (pid {pid}) runs"),
            None => "as seen from here; where aeternad is started it may differ".into(),
        }
    }
}

/// What controllers groups of `pid`, or of ourselves, could have.
fn could_have(pid: Option<i32>) -> Result<Controllers, String> {
    let whose = pid.map_or("self".to_owned(), |pid| pid.to_string());
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let is_pid1 = pid.map_or_else(process::is_pid1, |pid| pid == 1);
    let uid = fs::metadata(format!("/proc/{whose}")).map_or(0, |about| about.uid());
    // What somebody else may write to, we cannot find out.
    let ours = uid == user::effective_uid();
    seen(&read(format!("/proc/{whose}/cgroup")), &read("/proc/self/mountinfo".into()), is_pid1, ours)
}

fn seen(groups: &str, mounts: &str, pid1: bool, ours: bool) -> Result<Controllers, String> {
    if groups.is_empty() {
        return Err("the control group is not known without /proc".into());
    }
    let Some(group) = cgroup::own_group(groups) else {
        return Err("there is no second version of control groups here (kernel: cgroup_no_v1=all)".into());
    };
    let Some(folder) = cgroup::folder_of(group, mounts, None) else {
        return Err(
            "the control group cannot be seen here: none of the second version is mounted where it is".into(),
        );
    };
    let place = delegation::place(&folder);
    let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
    if ours && !(writable(&place) && writable(&place.join("cgroup.procs"))) {
        return Err(format!(
            "no control groups can be made in {}: it is read-only, or somebody else's (in a container: a writable \
             /sys/fs/cgroup of its own; systemd: Delegate=yes)",
            place.display()
        ));
    }
    delegation::possible(&place, pid1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(root: &Path) -> String {
        format!("30 24 0:26 / {} rw - cgroup2 cgroup2 rw\n", root.display())
    }

    /// A folder that looks like a group.
    fn group(path: &Path, processes: &str, kind: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("cgroup.procs"), processes).unwrap();
        fs::write(path.join("cgroup.type"), format!("{kind}\n")).unwrap();
        fs::write(path.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(path.join("cgroup.subtree_control"), "").unwrap();
    }

    #[test]
    fn every_place_that_has_no_limits_says_why() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounted(root.path());
        group(root.path(), "", "domain");
        let none = seen("4:memory:/x\n1:name=systemd:/\n", &mounts, false, true).unwrap_err();
        assert!(none.contains("no second version"), "{none}");
        assert!(seen("", &mounts, false, true).unwrap_err().contains("without /proc"));
        let elsewhere = seen("0::/a\n", "", false, true).unwrap_err();
        assert!(elsewhere.contains("cannot be seen"), "{elsewhere}");
        // A service of systemd without Delegate=yes.
        let own = root.path().join("a");
        group(&own, "7\n", "domain");
        let plain = seen("0::/a\n", &mounts, false, true).unwrap_err();
        assert!(plain.contains("not delegated"), "{plain}");
        // Threads cannot have a memory of their own.
        group(&own, "7\n", "threaded");
        let threaded = seen("0::/a\n", &mounts, false, true).unwrap_err();
        assert!(threaded.contains("threaded"), "{threaded}");
        // Hybrid: the first version has the controllers.
        group(&own, "7\n", "domain");
        fs::write(own.join("cgroup.controllers"), "hugetlb\n").unwrap();
        let hybrid = seen("4:memory:/x\n0::/a\n", &mounts, false, true).unwrap_err();
        assert!(hybrid.contains("first version of control groups has them"), "{hybrid}");
        // It was removed under us, or nobody may write to it.
        fs::remove_dir_all(&own).unwrap();
        let gone = seen("0::/a\n", &mounts, false, true).unwrap_err();
        assert!(gone.contains("read-only, or somebody else's"), "{gone}");
    }

    #[test]
    fn a_container_and_a_delegated_group_have_all() {
        let all = Controllers { memory: true, pids: true, cpu: true };
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "1\n7\n", "domain");
        assert_eq!(seen("0::/\n", &mounted(root.path()), true, true), Ok(all));
        // Arranged already: we are beside the generations.
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        group(&root.path().join("supervisor"), "1\n", "domain");
        assert_eq!(seen("0::/supervisor\n", &mounted(root.path()), true, true), Ok(all));
    }
}
