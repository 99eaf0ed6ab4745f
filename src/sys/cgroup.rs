//! One cgroup per generation, where the kernel lets us: it knows every process whatever it does, and ends all at once. Only
//! the second version is used, also where the first one has the controllers (a hybrid hierarchy): no controller is
//! enabled, so our own process stays where it is. Main thread only. See cgroups(7).
//!
//! Whose a group is cannot be told by a pid in its name: another supervisor may have the same one in a namespace of its
//! own. Each holds a lock on the folders of its groups, flock(2), which ends with it; what nobody holds is left over.

use super::delegation::{self, Controllers};
use super::dir::open_folder;
use super::fd::{self, Lock};
use super::{process, random};
use nix::unistd::{AccessFlags, access};
use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A place below our own cgroup where groups can be made.
#[derive(Debug)]
pub struct CgroupRoot {
    /// Where groups are made: our own group, or the one above that was delegated to us.
    own: PathBuf,
    /// How the names of our groups begin: "PREFIX.PID.TOKEN.".
    prefix: String,
    /// The controllers that its groups have, once somebody has wanted them.
    controllers: OnceCell<Result<Controllers, String>>,
}

/// The cgroup of one generation. Dropping it changes nothing: see [`Cgroup::remove`].
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    name: String,
    /// How many bytes of the name all groups of its supervisor have.
    prefix: usize,
    dir: OwnedFd,
    events: File,
    killed: Cell<bool>,
}

impl CgroupRoot {
    /// Finds out whether groups can be made here, by making one, and removes what earlier runs with the same prefix have
    /// left behind and nobody uses. `None` if not: no second version, read-only, another user's.
    pub fn probe(prefix: &str) -> Option<CgroupRoot> {
        let group = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let ours = folder_of(own_group(&group)?, &mounts, None)?;
        let own = delegation::place(&ours);
        remove_leftovers(&own, prefix);
        if ours != own {
            remove_leftovers(&ours, prefix);
        }
        // The token tells our groups from those of another one with our pid.
        let token = random::bits() as u32;
        let root = CgroupRoot::restored(own, format!("{prefix}.{}.{token:08x}.", process::pid()));
        let trial = root.make("probe").ok()?;
        let works = trial.takes_processes() && is_writable(&root.own.join("cgroup.procs"));
        trial.remove().ok()?;
        works.then_some(root)
    }

    /// Our own group, and how the names of ours begin: for [`CgroupRoot::restored`].
    pub fn parts(&self) -> (&Path, &str) {
        (&self.own, &self.prefix)
    }

    /// The place that [`CgroupRoot::parts`] tells of. Nothing is looked at.
    pub fn restored(own: PathBuf, prefix: String) -> CgroupRoot {
        CgroupRoot { own, prefix, controllers: OnceCell::new() }
    }

    /// What controllers groups here have. The first question arranges for it: it may move us, and what is beside us, into a
    /// group below.
    ///
    /// # Errors
    /// Why there are none: the rest of a sentence.
    pub fn controllers(&self) -> Result<Controllers, String> {
        self.controllers.get_or_init(|| delegation::enable(&self.own, process::is_pid1())).clone()
    }

    /// What [`CgroupRoot::controllers`] would come to. Changes nothing.
    ///
    /// # Errors
    /// The same.
    pub fn could_have(&self) -> Result<Controllers, String> {
        self.controllers.get().cloned().unwrap_or_else(|| delegation::possible(&self.own, process::is_pid1()))
    }

    /// Makes a group. `name` is a part of the folder's name, after our pid.
    ///
    /// # Errors
    /// Those of mkdir(2) and open(2); `EEXIST` if there is one with processes in it.
    pub fn make(&self, name: &str) -> io::Result<Cgroup> {
        let name = format!("{}{}", self.prefix, name.replace('/', "_"));
        // Another supervisor that looks for leftovers just now may take it for one before we hold it.
        for _ in 0..2 {
            if let Ok(group) = self.try_make(&name) {
                return Ok(group);
            }
        }
        self.try_make(&name)
    }

    fn try_make(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.own.join(name);
        if let Err(error) = fs::create_dir(&path) {
            if error.kind() != io::ErrorKind::AlreadyExists || fs::remove_dir(&path).is_err() {
                return Err(error);
            }
            fs::create_dir(&path)?;
        }
        Cgroup::open(path, name.to_owned())
    }

    /// A group that is there already, by its full [`Cgroup::name`]: made before an upgrade, or by a supervisor that was
    /// killed. `None` if it is not there.
    pub fn find(&self, name: &str) -> Option<Cgroup> {
        let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        if is_plain { Cgroup::open(self.own.join(name), name.to_owned()).ok() } else { None }
    }
}

impl Cgroup {
    fn open(path: PathBuf, name: String) -> io::Result<Cgroup> {
        let dir = OwnedFd::from(open_folder(&path)?);
        fd::try_lock(dir.as_fd(), Lock::Shared)?;
        let events = File::open(path.join("cgroup.events"))?;
        // "PREFIX.PID.TOKEN.": a find after an upgrade has only the name.
        let prefix = prefix_of(&name);
        let group = Cgroup { path, name, prefix, dir, events, killed: Cell::new(false) };
        // The first change is only told to who has read the file before. It may have been removed before we held it.
        group.events.read_at(&mut [0; 256], 0)?;
        Ok(group)
    }

    /// Whether a process can be in it: not if our own group is of threads, or has controllers to give away.
    fn takes_processes(&self) -> bool {
        let kind = fs::read_to_string(self.path.join("cgroup.type")).unwrap_or_default();
        kind.trim_end() == "domain" && is_writable(&self.path.join("cgroup.procs"))
    }

    /// A group that a program before this one had open, with its lock. Nothing is looked at.
    pub fn restored(path: PathBuf, name: String, dir: OwnedFd, events: OwnedFd, killed: bool) -> Cgroup {
        let prefix = prefix_of(&name);
        Cgroup { path, name, prefix, dir, events: events.into(), killed: Cell::new(killed) }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's name, for [`CgroupRoot::find`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets one of the group's limits.
    ///
    /// # Errors
    /// Those of open(2) and write(2): `ENOENT` or `EACCES` without the controller, `EINVAL`.
    pub fn limit(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.path.join(file);
        fs::OpenOptions::new().write(true).open(path).and_then(|mut open| open.write_all(value.as_bytes()))
    }

    /// The folder: for a process to be started in it.
    pub fn dir_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// What to poll for POLLPRI: told when the group gets its first process or has lost its last one, until
    /// [`Cgroup::populated`] is asked.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether nobody has removed it.
    pub fn is_there(&self) -> bool {
        self.events.read_at(&mut [0; 1], 0).is_ok()
    }

    /// Whether a process is in it or in a group below.
    pub fn populated(&self) -> bool {
        let mut bytes = [0; 256];
        let count = self.events.read_at(&mut bytes, 0).unwrap_or(0);
        let text = bytes.get(..count).unwrap_or_default();
        // A zombie counts no more, and a group that was removed has none.
        text.split(|byte| *byte == b'\n').any(|line| line == b"populated 1")
    }

    /// Whether a process is in it or in a group below. Asks about this one only.
    pub fn holds(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        own_group(&text).is_some_and(|group| self.is_above(group))
    }

    /// Whether a group, as /proc tells it, is this one or below. A process may make groups of any name below its own: it
    /// is the first one of ours that counts.
    fn is_above(&self, group: &str) -> bool {
        let ours = |name: &str| self.name.get(..self.prefix).is_some_and(|prefix| name.starts_with(prefix));
        group.split('/').find(|name| ours(name)) == Some(self.name.as_str())
    }

    /// The processes in it and in all groups below, sorted. A snapshot.
    pub fn pids(&self) -> Vec<i32> {
        let mut pids = BTreeSet::new();
        collect(&self.path, &mut pids);
        pids.into_iter().collect()
    }

    /// Sends SIGKILL to every process in it, also to those that are being forked, and in all groups below.
    ///
    /// # Errors
    /// Those of writing cgroup.kill, or of freezing on a kernel before 5.14.
    pub fn kill(&self) -> io::Result<()> {
        self.killed.set(true);
        match fs::write(self.path.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.freeze_and_kill(),
            // It was not made anew: the kernel's files cannot be created.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.freeze_and_kill(),
            result => result,
        }
    }

    /// Whether [`Cgroup::kill`] was used. Linux 6.14 and later kill whatever clone3(2) starts in such a group
    /// from outside of it, for ever after: who comes then has to join by itself.
    pub fn was_killed(&self) -> bool {
        self.killed.get()
    }

    /// What [`Cgroup::kill`] does without cgroup.kill: who is frozen cannot fork, and can be killed.
    fn freeze_and_kill(&self) -> io::Result<()> {
        let freeze = self.path.join("cgroup.freeze");
        fs::write(&freeze, "1")?;
        let mut killed = BTreeSet::new();
        loop {
            let fresh: Vec<i32> = self.pids().into_iter().filter(|pid| killed.insert(*pid)).collect();
            if fresh.is_empty() {
                break;
            }
            for pid in fresh {
                // It may have ended already.
                let _ = process::kill(pid, libc::SIGKILL);
            }
        }
        fs::write(&freeze, "0")
    }

    /// Removes the group and those below, which must be without processes. Nothing happens if it is gone.
    ///
    /// # Errors
    /// `EBUSY` if a process is in it.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

/// How long "PREFIX.PID.TOKEN." is in a name.
fn prefix_of(name: &str) -> usize {
    name.match_indices('.').nth(2).map_or(name.len(), |(at, _)| at + 1)
}

fn is_writable(path: &Path) -> bool {
    access(path, AccessFlags::W_OK).is_ok()
}

/// The folders in a folder.
fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

/// Adds the processes of a group and all below.
fn collect(path: &Path, pids: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that our pid namespace does not show.
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for below in folders(path) {
        collect(&below, pids);
    }
}

/// Removes a group and all below, the deepest first.
fn remove_tree(path: &Path) -> io::Result<()> {
    for below in folders(path) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes groups "PREFIX.PID.…" that no supervisor holds and nobody is in. Not others: an empty "aeterna.slice" beside us is
/// systemd's.
fn remove_leftovers(own: &Path, prefix: &str) {
    for path in folders(own) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let pid = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
        if pid.is_none_or(|(pid, _)| pid.parse::<u32>().is_err()) {
            continue;
        }
        let Ok(dir) = open_folder(&path) else { continue };
        if fd::try_lock(dir.as_fd(), Lock::Exclusive).is_ok() {
            // Whoever still is in it keeps it.
            let _ = remove_tree(&path);
        }
    }
}

/// Our group in the second version's hierarchy, of /proc/self/cgroup.
pub(super) fn own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Our groups that may count memory, of /proc/self/cgroup: the path, and whether it is in the second version's hierarchy.
pub(super) fn memory_groups(text: &str) -> impl Iterator<Item = (&str, bool)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_second = number == "0";
        (is_second || controllers.split(',').any(|name| name == "memory")).then_some((path, is_second))
    })
}

/// Where that group is in the file system, of /proc/self/mountinfo: in the second version's hierarchy, or in that of a
/// controller of the first. A mount that a later one hides shows nothing.
pub(super) fn folder_of(group: &str, mountinfo: &str, controller: Option<&str>) -> Option<PathBuf> {
    let mut lines = mountinfo.lines();
    while let Some(line) = lines.next() {
        let Some((point, folder)) = folder_in(group, line, controller) else { continue };
        if !lines.clone().filter_map(mount_point).any(|later| point.starts_with(later)) {
            return Some(folder);
        }
    }
    None
}

/// The mount point, and where the group is below it, if the line is about that hierarchy.
fn folder_in(group: &str, line: &str, controller: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut about = after.split(' ');
    let kind = about.next();
    let fits = match controller {
        None => kind == Some("cgroup2"),
        Some(name) => kind == Some("cgroup") && about.nth(1)?.split(',').any(|option| option == name),
    };
    if !fits {
        return None;
    }
    let (root, point) = (unescape(before.split(' ').nth(3)?), mount_point(line)?);
    // A container may see only a part of the hierarchy.
    let below = Path::new(group).strip_prefix(&root).ok()?;
    let folder = point.join(below).components().collect();
    Some((point, folder))
}

fn mount_point(line: &str) -> Option<PathBuf> {
    line.split(' ').nth(4).map(|field| PathBuf::from(unescape(field)))
}

/// Octal escapes of mountinfo: `\040` is a space.
fn unescape(field: &str) -> String {
    let mut pieces = field.split('\\');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(&piece[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(piece);
            }
        }
    }
    text
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
