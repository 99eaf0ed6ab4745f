//! Where the groups of generations can have limits: controllers of the second version, given to their parent by us. Only
//! where the group is ours to arrange: delegated by systemd, or the root of a container. See cgroups(7), "Delegation".

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What our own process is in, below what is delegated to us. systemd's `DelegateSubgroup` and we agree on it.
pub const SUPERVISOR: &str = "supervisor";

/// The controllers that limits need.
const WANTED: [&str; 3] = ["memory", "pids", "cpu"];

/// Processes that fork while they are moved are moved again, so often.
const PASSES: u32 = 64;

/// Which controllers a group's children have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controllers {
    /// `memory.max` and its kin.
    pub memory: bool,
    /// `pids.max`.
    pub pids: bool,
    /// `cpu.max`, `cpu.weight`.
    pub cpu: bool,
}

impl Controllers {
    fn of(text: &str) -> Controllers {
        let has = |name: &str| text.split_whitespace().any(|word| word == name);
        Controllers { memory: has("memory"), pids: has("pids"), cpu: has("cpu") }
    }

    /// The missing ones, by their names; empty if there are all.
    pub fn missing(self) -> Vec<&'static str> {
        let there = [self.memory, self.pids, self.cpu];
        WANTED.iter().zip(there).filter(|(_, there)| !there).map(|(name, _)| *name).collect()
    }
}

/// The place for groups: our own group, or its parent if we are in the part of it that is for us.
pub(super) fn place(own: &Path) -> PathBuf {
    let parent = own.parent().filter(|_| own.file_name().is_some_and(|name| name == SUPERVISOR));
    match parent {
        Some(parent) if is_delegated(parent) && processes(parent).is_ok_and(|all| all.is_empty()) => {
            parent.to_owned()
        }
        _ => own.to_owned(),
    }
}

/// Whether a group is ours to arrange.
fn is_delegated(group: &Path) -> bool {
    marked(group) || is_root(group)
}

/// systemd marks what it delegates.
fn marked(group: &Path) -> bool {
    [c"user.delegate", c"trusted.delegate"]
        .iter()
        .any(|name| attribute(group, name).is_some_and(|value| value == b'1'))
}

/// The first byte of an extended attribute of a folder.
fn attribute(group: &Path, name: &CStr) -> Option<u8> {
    let path = CString::new(group.as_os_str().as_bytes()).ok()?;
    let mut byte = [0_u8; 16];
    // SAFETY: two terminated strings, and a buffer of the length that is given.
    let count = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), byte.as_mut_ptr().cast(), byte.len()) };
    (count > 0).then_some(byte[0])
}

/// Whether there is no group above that we can see: a container's. The machine's own root has no `cgroup.type`.
fn is_root(group: &Path) -> bool {
    !group.parent().is_some_and(|parent| parent.join("cgroup.procs").exists())
}

fn is_machine(group: &Path) -> bool {
    is_root(group) && !group.join("cgroup.type").exists()
}

fn processes(group: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Gives the children of `place` what controllers there are. Moves whatever is directly in it aside first, where that is a
/// container's root: a group with processes of its own gives its children none.
///
/// # Errors
/// Why there are none, and what to do: the rest of a sentence.
pub(super) fn enable(place: &Path, pid1: bool) -> Result<Controllers, String> {
    let there = possible(place, pid1)?;
    let given =
        || Controllers::of(&fs::read_to_string(place.join("cgroup.subtree_control")).unwrap_or_default());
    if given() == there {
        return Ok(there);
    }
    if is_root(place) && !is_machine(place) {
        move_aside(place)?;
    }
    let mut refused = None;
    for name in WANTED.iter().filter(|name| there.missing().iter().all(|missing| missing != *name)) {
        if let Err(error) = fs::write(place.join("cgroup.subtree_control"), format!("+{name}")) {
            refused = Some(format!("the kernel does not let us give the controller {name}: {error}"));
        }
    }
    match refused {
        Some(why) if given() == Controllers::default() => Err(why),
        _ => Ok(given()),
    }
}

/// What controllers the children of `place` can have. Changes nothing.
///
/// # Errors
/// As [`enable`].
pub(super) fn possible(place: &Path, pid1: bool) -> Result<Controllers, String> {
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap_or_default();
    let kind = read("cgroup.type");
    if kind.contains("threaded") || kind.contains("invalid") {
        return Err(format!(
            "the control group is for threads of one process (cgroup.type is \"{}\"): start aeternad in another one",
            kind.trim_end()
        ));
    }
    let given = Controllers::of(&read("cgroup.subtree_control"));
    let there = Controllers::of(&read("cgroup.controllers"));
    if !there.memory && !there.pids && !there.cpu {
        return Err("the control group has no controllers: the first version of control groups has them, or whoever is \
                    above keeps them (systemd: Delegate=yes; kernel: cgroup_no_v1=all)"
            .into());
    }
    if given == there {
        return Ok(given);
    }
    if is_machine(place) {
        if !pid1 {
            return Err("the control group is the machine's root, and somebody else's (run aeternad in a group that is \
                        delegated to it)"
                .into());
        }
        return Ok(there);
    }
    if is_root(place) {
        return Ok(there);
    }
    if !marked(place) {
        return Err(
            "the control group is not delegated (systemd: Delegate=yes and DelegateSubgroup=supervisor)"
                .into(),
        );
    }
    if !processes(place).is_ok_and(|all| all.is_empty()) {
        return Err(
            "aeternad is in the delegated control group itself (systemd 254: DelegateSubgroup=supervisor)"
                .into(),
        );
    }
    Ok(there)
}

/// Moves every process that is directly in a group, ours included, into the part of it that is for us.
fn move_aside(group: &Path) -> Result<(), String> {
    let to = group.join(SUPERVISOR);
    if let Err(error) = fs::create_dir(&to)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(format!("a group cannot be made: {error}"));
    }
    for _ in 0..PASSES {
        let all = processes(group).map_err(|error| format!("the control group cannot be read: {error}"))?;
        // 0 is a process of another pid namespace.
        let ours: Vec<&String> = all.iter().filter(|pid| *pid != "0").collect();
        if ours.is_empty() {
            return Ok(());
        }
        for pid in ours {
            // It may have ended meanwhile.
            if let Err(error) = fs::write(to.join("cgroup.procs"), pid)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                return Err(format!("process {pid} cannot be moved to {SUPERVISOR}: {error}"));
            }
        }
    }
    Err("its processes fork faster than they can be moved".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a group.
    fn group(path: &Path, processes: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("cgroup.procs"), processes).unwrap();
        fs::write(path.join("cgroup.type"), "domain\n").unwrap();
        fs::write(path.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(path.join("cgroup.subtree_control"), "").unwrap();
    }

    #[test]
    fn groups_are_made_beside_us_where_the_part_that_we_are_in_is_for_us() {
        let root = tempfile::tempdir().unwrap();
        let (parent, own) = (root.path().join("a"), root.path().join("a/supervisor"));
        group(&parent, "");
        group(&own, "7\n");
        // The root of what we see.
        assert_eq!(place(&own), parent);
        // Somebody is in it.
        group(&parent, "8\n");
        assert_eq!(place(&own), own);
        // It is somebody else's.
        group(&parent, "");
        group(root.path(), "");
        assert_eq!(place(&own), own);
        let other = root.path().join("a/other");
        group(&other, "");
        assert_eq!(place(&other), other);
    }

    #[test]
    fn what_is_not_delegated_is_left_alone_and_told() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a");
        group(root.path(), "");
        group(&own, "7\n");
        let why = enable(&own, false).unwrap_err();
        assert!(why.contains("not delegated") && why.contains("DelegateSubgroup"), "{why}");
        assert_eq!(fs::read_to_string(own.join("cgroup.subtree_control")).unwrap(), "");
        fs::write(own.join("cgroup.controllers"), "hugetlb\n").unwrap();
        let why = enable(&own, false).unwrap_err();
        assert!(why.contains("no controllers"), "{why}");
        fs::remove_file(root.path().join("cgroup.type")).unwrap();
        let why = enable(root.path(), false).unwrap_err();
        assert!(why.contains("the machine's root"), "{why}");
    }

    #[test]
    fn what_is_given_already_is_enough() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "");
        fs::write(root.path().join("cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        assert_eq!(enable(root.path(), false).unwrap(), Controllers { memory: true, pids: true, cpu: true });
    }
}
