//! From a path to an open folder, without being led astray: path_resolution(7), done by hand where trust matters.
//!
//! What a stranger can move is every name in a folder that he may write, but for the names in a sticky one that are not
//! his. A link that no stranger can have placed is followed as ever (`/var/run`). A link of a stranger is followed only
//! to a folder of his own, where he needs nobody's help.

use crate::sys::user::effective_uid;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// How many links a path may have: as the kernel.
const LINKS_MAX: usize = 40;

/// How a folder on the way is opened: neither read nor written, only a place.
pub(super) const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where the last component of a path lies.
#[derive(Debug)]
pub struct Spot {
    /// The folder, open as a place (`O_PATH`).
    pub folder: OwnedFd,
    /// The name in it.
    pub name: OsString,
    /// Whether nobody but us and root could have led us here, and nobody else can change what the name stands for.
    pub is_safe: bool,
    /// Who else could, in words; empty if nobody.
    pub why: String,
}

/// What becomes of folders that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is an error.
    Fail,
    /// They are made with this mode, whatever the umask.
    Make(u32),
}

/// Finds the folder of a path's last component, which may be missing; a link there is followed if nobody but us and root
/// can have placed it.
///
/// # Errors
/// Those of open(2); `ELOOP` with a sentence for a stranger's link; `EINVAL` for a path without a last component.
pub fn spot(path: &Path) -> io::Result<Spot> {
    Walk::start(path)?.into_spot()
}

/// Opens the folder `path`, which may be missing if `missing` says so.
///
/// # Errors
/// Those of open(2) and mkdir(2); `ELOOP` with a sentence for a stranger's link.
pub(super) fn folder(path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    // The usual case in one call: without any link there is nothing to be led astray by.
    let how = OpenHow::new().flags(PLACE | OFlag::O_DIRECTORY).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    if path.is_absolute()
        && let Ok(fd) = openat2(nix::fcntl::AT_FDCWD, path, how)
    {
        return Ok(fd);
    }
    Walk::start(path)?.into_folder(missing)
}

/// A walk under way.
struct Walk {
    at: OwnedFd,
    stat: FileStat,
    rest: VecDeque<OsString>,
    links: usize,
    /// Who else could lead us astray: the first that was met.
    why: Option<String>,
    /// What was walked so far, for people.
    shown: PathBuf,
    /// Whose link we follow, if not ours, and how much of the path is left when we are where it leads to.
    led_by: Option<(u32, usize)>,
    us: u32,
    /// Who owns `/`: root, but in a user namespace that does not know the machine's.
    system: u32,
}

impl Walk {
    fn start(path: &Path) -> io::Result<Walk> {
        let from = if path.is_absolute() { Path::new("/") } else { Path::new(".") };
        let at = place(nix::fcntl::AT_FDCWD, from.as_os_str())?;
        let stat = fstat(&at)?;
        let us = effective_uid();
        let rest = components(path);
        let system = system_owner();
        Ok(Walk { at, stat, rest, links: 0, why: None, shown: from.to_path_buf(), led_by: None, us, system })
    }

    fn into_folder(mut self, missing: Missing) -> io::Result<OwnedFd> {
        loop {
            self.arrive()?;
            match self.rest.pop_front() {
                Some(name) => self.step(&name, missing)?,
                None => return Ok(self.at),
            }
        }
    }

    fn into_spot(mut self) -> io::Result<Spot> {
        loop {
            self.arrive()?;
            let Some(name) = self.rest.pop_front() else {
                return Err(Errno::EINVAL.into());
            };
            if !self.rest.is_empty() {
                self.step(&name, Missing::Fail)?;
                continue;
            }
            if name == ".." {
                return Err(Errno::EISDIR.into());
            }
            let found = place(&self.at, &name).and_then(|fd| Ok((fstat(&fd)?, fd)));
            let (stat, node) = match found {
                Ok((stat, node)) => (Some(stat), Some(node)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
                Err(error) => return Err(error),
            };
            let is_fixed = self.is_fixed(stat.as_ref());
            if let (Some(stat), Some(node)) = (&stat, &node)
                && kind(stat) == SFlag::S_IFLNK
                && !is_proc(&self.at)
                && is_fixed
                && self.is_ours(stat.st_uid)
            {
                self.follow(node)?;
                continue;
            }
            self.check_leader()?;
            if !is_fixed {
                self.blame_for(&name, stat.as_ref());
            }
            if let Some(stat) = stat.filter(|stat| !self.is_ours(stat.st_uid)) {
                self.blame(&name, stat.st_uid);
            }
            let why = self.why.unwrap_or_default();
            return Ok(Spot { folder: self.at, name, is_safe: why.is_empty(), why });
        }
    }

    /// Goes one component further.
    fn step(&mut self, name: &OsStr, missing: Missing) -> io::Result<()> {
        let next = match place(&self.at, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing != Missing::Fail => {
                let Missing::Make(mode) = missing else { return Err(error) };
                self.check_leader()?;
                super::folder::make_folder(&self.at, name, mode)?;
                place(&self.at, name)?
            }
            other => other?,
        };
        let stat = fstat(&next)?;
        let is_fixed = name == ".." || self.is_fixed(Some(&stat));
        match kind(&stat) {
            SFlag::S_IFDIR => {
                if !is_fixed {
                    self.blame_for(name, Some(&stat));
                }
                (self.at, self.stat) = (next, stat);
                self.shown.push(name);
                Ok(())
            }
            SFlag::S_IFLNK => {
                if !(is_fixed && self.is_ours(stat.st_uid)) {
                    self.blame(name, stat.st_uid);
                    self.check_leader()?;
                    let before = self.led_by.map_or(usize::MAX, |(_, left)| left);
                    self.led_by = Some((self.leader(&stat), before.min(self.rest.len())));
                }
                self.follow(&next)
            }
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    fn follow(&mut self, link: &OwnedFd) -> io::Result<()> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::ELOOP.into());
        }
        let target = PathBuf::from(readlinkat(link, "")?);
        if target.is_absolute() {
            self.at = place(nix::fcntl::AT_FDCWD, OsStr::new("/"))?;
            self.stat = fstat(&self.at)?;
            self.shown = "/".into();
        }
        for name in components(&target).into_iter().rev() {
            self.rest.push_front(name);
        }
        Ok(())
    }

    /// Who has placed a link that is not ours alone; nobody's number if it may be several.
    fn leader(&self, link: &FileStat) -> u32 {
        let strangers = [self.stat.st_uid, link.st_uid].map(|uid| (!self.is_ours(uid)).then_some(uid));
        match strangers {
            [Some(a), Some(b)] if a != b => u32::MAX,
            [a, b] => a.or(b).unwrap_or(u32::MAX),
        }
    }

    /// Where a stranger's link leads is looked at as soon as we are there.
    fn arrive(&mut self) -> io::Result<()> {
        if self.led_by.is_some_and(|(_, left)| self.rest.len() <= left) {
            self.check_leader()?;
            self.led_by = None;
        }
        Ok(())
    }

    /// Whoever has led us must have led us to what is his.
    fn check_leader(&self) -> io::Result<()> {
        match self.led_by {
            Some((uid, _)) if uid != self.stat.st_uid => Err(io::Error::other(format!(
                "a symbolic link on the way is not followed: {}, who does not own what it leads to",
                self.why.as_deref().unwrap_or_default()
            ))),
            _ => Ok(()),
        }
    }

    /// Remembers why an entry of the present folder can be changed by others.
    fn blame_for(&mut self, name: &OsStr, entry: Option<&FileStat>) {
        let is_sticky = self.stat.st_mode & Mode::S_ISVTX.bits() != 0;
        match entry {
            // Nobody else could change one of ours.
            Some(entry) if is_sticky && self.is_ours(self.stat.st_uid) => self.blame(name, entry.st_uid),
            _ => self.blame_folder(),
        }
    }

    /// Remembers that the present folder can be changed by others.
    fn blame_folder(&mut self) {
        let shown = self.shown.display();
        let owner = self.stat.st_uid;
        let why = if self.is_ours(owner) {
            format!("others may write to {shown} (mode {:04o})", self.stat.st_mode & 0o7777)
        } else {
            format!("{shown} belongs to uid {owner}")
        };
        self.why.get_or_insert(why);
    }

    /// Remembers that an entry of the present folder belongs to somebody else.
    fn blame(&mut self, name: &OsStr, owner: u32) {
        let shown = self.shown.join(name);
        self.why.get_or_insert_with(|| format!("{} belongs to uid {owner}", shown.display()));
    }

    fn is_ours(&self, uid: u32) -> bool {
        uid == 0 || uid == self.us || uid == self.system
    }

    /// Whether nobody but us and root can change what a name in the present folder stands for.
    fn is_fixed(&self, entry: Option<&FileStat>) -> bool {
        if !self.is_ours(self.stat.st_uid) {
            return false;
        }
        !others_write(&self.stat, self.us)
            || (self.stat.st_mode & Mode::S_ISVTX.bits() != 0
                && entry.is_some_and(|entry| self.is_ours(entry.st_uid)))
    }
}

/// Who owns `/`: root, but in a user namespace that does not know the machine's.
pub(super) fn system_owner() -> u32 {
    nix::sys::stat::stat("/").map_or(0, |stat| stat.st_uid)
}

/// Whether somebody else than the owner may write. A group that is the user's own (same number) has nobody else in it.
pub(super) fn others_write(stat: &FileStat, us: u32) -> bool {
    let is_own_group = us != 0 && stat.st_gid == us;
    let by_group = stat.st_mode & Mode::S_IWGRP.bits() != 0 && !is_own_group;
    by_group || stat.st_mode & Mode::S_IWOTH.bits() != 0
}

/// The type of a file.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

pub(super) fn is_proc(at: &OwnedFd) -> bool {
    fstatfs(at).is_ok_and(|found| found.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Opens one name as a place; a link as itself.
pub(super) fn place(at: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(at, name, PLACE, Mode::empty())?)
}

fn components(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

/// The device and inode number.
pub(super) fn inode(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// What a name in a folder is, a link as itself.
pub(super) fn stat_of(at: impl AsFd, name: &OsStr) -> io::Result<FileStat> {
    Ok(nix::sys::stat::fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

    const STRANGER: u32 = 4_242;

    fn make(path: &Path, owner: u32, mode: u32) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        chown(path, Some(owner), None).unwrap();
    }

    /// A folder of our own that nobody else may write to, whatever umask another test has set meanwhile.
    fn scratch() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        settle(dir.path());
        dir
    }

    /// The same for a folder and all below it.
    fn settle(folder: &Path) {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                settle(&entry.path());
            }
        }
    }

    fn is_root() -> bool {
        let is_root = effective_uid() == 0;
        if !is_root {
            println!("skipped: only root can make folders of somebody else");
        }
        is_root
    }

    fn leads_to(path: &Path) -> io::Result<u64> {
        Ok(fstat(&folder(path, Missing::Fail)?)?.st_ino)
    }

    #[test]
    fn our_own_links_are_followed_to_any_place() {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b/c")).unwrap();
        settle(dir.path());
        for (link, target) in [("rel", "a/../a/b"), ("chain", "rel/c/.."), ("self", "self")] {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("a/b"), at("abs")).unwrap();
        let wanted = fs::metadata(at("a/b")).unwrap().ino();
        for name in ["a/b", "rel", "chain", "abs", "a/./b/c/..", "abs/c/../"] {
            assert_eq!(leads_to(&at(name)).unwrap(), wanted, "{name}");
        }
        assert_eq!(leads_to(&at("self")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(leads_to(&at("a/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(at("file"), "").unwrap();
        for name in ["file", "file/x"] {
            assert_eq!(leads_to(&at(name)).unwrap_err().kind(), io::ErrorKind::NotADirectory, "{name}");
        }
    }

    #[test]
    fn a_strangers_link_leads_only_to_what_is_his() {
        if !is_root() {
            return;
        }
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        make(&at("his"), STRANGER, 0o755);
        make(&at("his/release"), STRANGER, 0o755);
        make(&at("ours"), 0, 0o755);
        make(&at("third"), 4_343, 0o755);
        for (link, target, goes) in [
            ("good", "release", true),
            ("etc", "/etc", false),
            ("ours", "../ours", false),
            ("third", "../third", false),
            ("up", "..", false),
        ] {
            symlink(target, at("his").join(link)).unwrap();
            lchown(at("his").join(link), Some(STRANGER), None).unwrap();
            let found = folder(&at("his").join(link), Missing::Make(0o755));
            assert_eq!(found.is_ok(), goes, "{link}: {found:?}");
        }
        // Root's own link in his folder may be one that he has turned round since: it is his.
        symlink("/etc", at("his/root")).unwrap();
        assert!(folder(&at("his/root"), Missing::Fail).is_err());
        assert!(folder(&at("his/good/new/deep"), Missing::Make(0o755)).is_ok(), "what we make in his is his");
        // What is made below a bad link is made nowhere.
        assert!(folder(&at("his/ours/new"), Missing::Make(0o755)).is_err());
        assert!(!at("ours/new").exists());
    }

    #[test]
    fn it_is_known_who_could_lead_us_astray() {
        if !is_root() {
            return;
        }
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        make(&at("ours"), 0, 0o755);
        make(&at("his"), STRANGER, 0o755);
        make(&at("his/ours"), 0, 0o755);
        make(&at("group"), 0, 0o775);
        make(&at("sticky"), 0, 0o1777);
        for file in ["ours/file", "his/ours/file", "group/file", "sticky/ours", "sticky/his", "ours/his"] {
            fs::write(at(file), "").unwrap();
            fs::set_permissions(at(file), Permissions::from_mode(0o644)).unwrap();
        }
        for file in ["sticky/his", "ours/his"] {
            chown(at(file), Some(STRANGER), None).unwrap();
        }
        symlink("/etc/hostname", at("ours/link")).unwrap();
        for (name, is_safe, why) in [
            ("ours/file", true, ""),
            ("ours/none", true, ""),
            ("ours/link", true, ""),
            ("sticky/ours", true, ""),
            ("sticky/his", false, "sticky/his belongs to uid 4242"),
            ("sticky/none", false, "others may write"),
            ("his/none", false, "his belongs to uid 4242"),
            ("his/ours/file", false, "his belongs to uid 4242"),
            ("ours/his", false, "ours/his belongs to uid 4242"),
            ("group/file", false, "group (mode 0775)"),
        ] {
            let found = spot(&at(name)).unwrap();
            assert_eq!((found.is_safe, found.why.contains(why)), (is_safe, true), "{name}: {}", found.why);
        }
    }

    #[test]
    fn names_of_any_length_and_what_is_none() {
        let dir = scratch();
        let long = dir.path().join("n".repeat(255));
        folder(&long, Missing::Make(0o750)).unwrap();
        assert_eq!(fs::metadata(&long).unwrap().mode() & 0o7777, 0o750);
        let too_long = dir.path().join("n".repeat(256));
        for missing in [Missing::Fail, Missing::Make(0o755)] {
            let error = folder(&too_long, missing).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
        }
        // Longer than a path may be for the kernel: step by step it is none.
        let deep = (0..40).fold(dir.path().to_path_buf(), |path, _| path.join("d".repeat(200)));
        folder(&deep, Missing::Make(0o755)).unwrap();
        assert_eq!(spot(&deep.join("x")).unwrap().name, "x");
        for nothing in ["/", "/..", ""] {
            assert!(spot(Path::new(nothing)).is_err(), "{nothing}");
        }
    }
}
