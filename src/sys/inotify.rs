//! Files and folders that somebody changes: inotify(7).
//!
//! A file is watched through its folder, so that one that is replaced by rename(2), the way editors and
//! deployments do it, is seen, and so is each folder and link on the way to it; a symbolic link is watched itself and
//! where it points to. A folder is watched with
//! everything below it, up to [`FOLDERS_MAX`] folders. What does not exist yet is waited for.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// How many folders one watcher looks into; what is deeper or beyond is not seen.
pub const FOLDERS_MAX: usize = 4096;

/// How many entries are looked at when folders are searched for: a folder of others has as many as they like.
const ENTRIES_MAX: usize = 65_536;

/// How often one call reads from the kernel, 4 KiB each.
const READS: usize = 32;

/// Something was made, written, renamed or removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What; a wanted path itself where the kernel only says that it lost count.
    pub path: PathBuf,
    /// How far it has come.
    pub progress: Progress,
}

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// Whole, as far as is known.
    Done,
    /// Made, renamed or closed, and written to after that: somebody is still at it.
    Begun,
    /// Written to, and nothing else: it may be a log that is open all the time.
    Written,
}

/// Watches a set of paths. One thread at a time.
#[derive(Debug)]
pub struct Watcher {
    inotify: Inotify,
    wanted: Vec<PathBuf>,
    folders: HashMap<WatchDescriptor, Folder>,
    writes: AddWatchFlags,
    /// Whether every name on the way to a path is watched, and not only the last one.
    ways: bool,
    /// The kernel had no room for all that happened.
    lost_count: bool,
}

/// What one call of [`Watcher::read`] has found.
#[derive(Default)]
struct News {
    changed: BTreeMap<PathBuf, Progress>,
    /// Folders that have come, in folders that are watched as a whole.
    folders: BTreeSet<PathBuf>,
    /// Something else may stand behind a wanted path.
    moved: bool,
}

#[derive(Debug, Default)]
struct Folder {
    path: PathBuf,
    /// Entries that matter by themselves.
    names: BTreeSet<OsString>,
    /// Whether every entry matters.
    whole: bool,
}

/// `IN_MASK_ADD`: more events for a folder that is watched already, in place of others.
const MASK_ADD: AddWatchFlags = AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD);

impl Watcher {
    /// Watches nothing yet. Errors: EMFILE, where the user has too many inotify instances.
    pub fn new() -> io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let (wanted, folders) = (Vec::new(), HashMap::new());
        Ok(Watcher {
            inotify,
            wanted,
            folders,
            writes: AddWatchFlags::empty(),
            ways: true,
            lost_count: false,
        })
    }

    /// As [`Watcher::new`], of names in their folders: what others do in the folders above wakes nobody.
    pub fn of_names() -> io::Result<Watcher> {
        Ok(Watcher { ways: false, ..Watcher::new()? })
    }

    /// Whether every name on the way to a path is watched.
    pub fn watches_ways(&self) -> bool {
        self.ways
    }

    /// Also tells what is still being written ([`Progress`]), in folders that are added after this.
    pub fn follow_writes(&mut self) {
        self.writes = AddWatchFlags::IN_MODIFY;
    }

    /// Watches an absolute path too. Errors: ENOSPC where the user has too many watches; a path that is not
    /// there is none.
    pub fn add(&mut self, path: &Path) -> io::Result<()> {
        if !self.wanted.iter().any(|known| known == path) {
            self.wanted.push(path.to_path_buf());
        }
        self.watch(path)
    }

    /// What was asked for.
    pub fn wanted(&self) -> &[PathBuf] {
        &self.wanted
    }

    /// Whether [`Watcher::follow_writes`] was asked for.
    pub fn follows_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// A watcher whose descriptor a program before this one has had. What has happened is in its queue still; where that was
    /// it knows after [`Watcher::resume`].
    pub fn restored(fd: OwnedFd, wanted: Vec<PathBuf>, follows_writes: bool, ways: bool) -> Watcher {
        // SAFETY: the descriptor is ours, and nobody else has it from now on.
        let inotify = unsafe { Inotify::from_raw_fd(fd.into_raw_fd()) };
        let writes = if follows_writes { AddWatchFlags::IN_MODIFY } else { AddWatchFlags::empty() };
        Watcher { inotify, wanted, folders: HashMap::new(), writes, ways, lost_count: false }
    }

    /// A descriptor for [`Watcher::restored`] where the one before was lost.
    ///
    /// # Errors
    /// As [`Watcher::new`].
    pub fn fresh() -> io::Result<OwnedFd> {
        Ok(OwnedFd::from(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?))
    }

    /// Learns again which folder is which: the kernel gives the same number for one that is watched already.
    pub fn resume(&mut self) {
        self.watch_again();
    }

    /// Readable when something happened.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// What happened since the last time, each path once; never waits. What editors drop beside the files
    /// that they write is left out. After some thousand events the rest is left for the next call.
    pub fn read(&mut self) -> io::Result<Vec<Change>> {
        let mut news = News::default();
        for _ in 0..READS {
            let events = match self.inotify.read_events() {
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in events {
                self.take(&event, &mut news);
            }
        }
        if news.moved {
            self.watch_again();
        } else {
            for folder in news.folders {
                // Too many watches, or it went again: what is watched already stays watched.
                let _ = self.watch_tree(&folder);
            }
        }
        Ok(news.changed.into_iter().map(|(path, progress)| Change { path, progress }).collect())
    }

    fn take(&mut self, event: &InotifyEvent, news: &mut News) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            news.changed.extend(self.wanted.iter().map(|path| (path.clone(), Progress::Done)));
            self.lost_count = true;
            return;
        }
        let Some(folder) = self.folders.get(&event.wd) else { return };
        if event.mask.intersects(structural()) {
            match &event.name {
                // Other inodes may stand behind a wanted path.
                Some(name) if folder.names.contains(name) => news.moved = true,
                None if !folder.names.is_empty() => news.moved = true,
                Some(name) if folder.whole && event.mask.contains(AddWatchFlags::IN_ISDIR) => {
                    let came = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
                    if event.mask.intersects(came) {
                        news.folders.insert(folder.path.join(name));
                    }
                }
                Some(_) | None => {}
            }
        }
        if let Some(path) = folder.concerns(event.name.as_deref()) {
            let progress = match news.changed.get(&path) {
                _ if event.mask != AddWatchFlags::IN_MODIFY => Progress::Done,
                None | Some(Progress::Written) => Progress::Written,
                Some(Progress::Done | Progress::Begun) => Progress::Begun,
            };
            news.changed.insert(path, progress);
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.folders.remove(&event.wd);
        }
    }

    /// Looks again what is there, if the kernel has lost count since the last time: not at once, as whoever writes fast
    /// enough makes it do so all the time.
    pub fn catch_up(&mut self) {
        if std::mem::take(&mut self.lost_count) {
            self.watch_again();
        }
    }

    /// Looks again what is there: a folder may have come, or another one of the same name.
    fn watch_again(&mut self) {
        for folder in self.folders.values_mut() {
            folder.names.clear();
            folder.whole = false;
        }
        for path in self.wanted.clone() {
            // Too many watches, or a folder that went again: the others are watched.
            let _ = self.watch(&path);
        }
        // What no path leads to any more, a release that was replaced, may be changed and removed.
        let unused = |folder: &Folder| folder.names.is_empty() && !folder.whole;
        for (number, _) in self.folders.extract_if(|_, folder| unused(folder)) {
            // It may be gone itself.
            let _ = self.inotify.rm_watch(number);
        }
    }

    fn watch(&mut self, path: &Path) -> io::Result<()> {
        self.watch_entry(path)?;
        if self.ways {
            self.watch_way(path)?;
        }
        let Ok(real) = fs::canonicalize(path) else { return Ok(()) };
        if real != path {
            self.watch_entry(&real)?;
        }
        if real.is_dir() { self.watch_tree(&real) } else { Ok(()) }
    }

    /// Watches every name on the way to a path: a link that is moved to another target, a folder that another one takes
    /// the place of.
    fn watch_way(&mut self, path: &Path) -> io::Result<()> {
        const LINKS_MAX: usize = 40;
        let parts = |path: &Path| {
            let mut parts: Vec<OsString> =
                path.components().map(|part| part.as_os_str().to_owned()).collect();
            parts.reverse();
            parts
        };
        let (mut here, mut todo, mut links) = (PathBuf::new(), parts(path), 0);
        while let Some(part) = todo.pop() {
            if part == "/" || part == ".." || part == "." {
                match part.to_str() {
                    Some("/") => here = PathBuf::from("/"),
                    Some("..") => _ = here.pop(),
                    _ => {}
                }
                continue;
            }
            let entry = here.join(&part);
            // What is missing is waited for by its name in the last folder that is there.
            let Ok(found) = fs::symlink_metadata(&entry) else { return Ok(()) };
            if todo.is_empty() && !found.is_symlink() {
                return Ok(());
            }
            match self.watch_folder_for(&here, structural()) {
                Ok(folder) => _ = folder.names.insert(part),
                // A folder that others may only pass through is not theirs to watch.
                Err(error) if error.raw_os_error() == Some(nix::libc::EACCES) => {}
                Err(error) => return Err(error),
            }
            here = entry;
            if found.is_symlink() {
                links += 1;
                let Some(target) = fs::read_link(&here).ok().filter(|_| links <= LINKS_MAX) else {
                    return Ok(());
                };
                here.pop();
                todo.extend(parts(&target));
            }
        }
        Ok(())
    }

    /// Watches for one name in its folder, or for the first folder on the way to it that is missing.
    fn watch_entry(&mut self, path: &Path) -> io::Result<()> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        match self.watch_folder(folder) {
            Ok(found) => {
                found.names.insert(name.to_owned());
                Ok(())
            }
            Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ENOTDIR)) => {
                self.watch_entry(folder)
            }
            Err(error) => Err(error),
        }
    }

    fn watch_tree(&mut self, top: &Path) -> io::Result<()> {
        let mut todo = vec![top.to_path_buf()];
        let mut left = ENTRIES_MAX;
        while let Some(folder) = todo.pop() {
            if self.folders.len() >= FOLDERS_MAX {
                return Ok(());
            }
            match self.watch_folder(&folder) {
                Ok(found) => found.whole = true,
                // It went while we looked.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => continue,
                Err(error) => return Err(error),
            }
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                left = left.saturating_sub(1);
                if left == 0 || todo.len() >= FOLDERS_MAX {
                    break;
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(entry.path());
                }
            }
        }
        Ok(())
    }

    fn watch_folder(&mut self, path: &Path) -> io::Result<&mut Folder> {
        self.watch_folder_for(path, structural() | AddWatchFlags::IN_CLOSE_WRITE | self.writes)
    }

    fn watch_folder_for(&mut self, path: &Path, events: AddWatchFlags) -> io::Result<&mut Folder> {
        // The kernel gives the same number for a folder that is watched already, and tells what both want.
        let flags = events | AddWatchFlags::IN_ONLYDIR | MASK_ADD;
        let number = self.inotify.add_watch(path, flags)?;
        let folder = self.folders.entry(number).or_default();
        folder.path = path.to_path_buf();
        Ok(folder)
    }
}

/// Events after which other inodes may stand behind the names.
fn structural() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

impl Folder {
    /// The path that an event about one of our entries (or the folder itself) is about, if it matters.
    fn concerns(&self, name: Option<&OsStr>) -> Option<PathBuf> {
        let Some(name) = name else { return self.whole.then(|| self.path.clone()) };
        if self.names.contains(name) || (self.whole && !is_dropping(name)) {
            return Some(self.path.join(name));
        }
        None
    }
}

/// Whether a name is what an editor leaves beside a file: backups, swap files, locks, vim's probe.
pub fn is_dropping(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let swap = name.starts_with(b".") && {
        let tail = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        tail.len() == 3 && tail.starts_with(b"sw")
    };
    name == b"4913"
        || swap
        || name.ends_with(b"~")
        || name.starts_with(b".#")
        || (name.len() > 1 && name.starts_with(b"#") && name.ends_with(b"#"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::isolated;
    use super::*;

    // Alone in a process: that a file is closed is told when its last descriptor goes, and a child of another test would have
    // a copy for as long as it has not yet executed.
    fn paths(watcher: &mut Watcher) -> Vec<PathBuf> {
        watcher.read().unwrap().into_iter().map(|change| change.path).collect()
    }

    fn setup() -> (tempfile::TempDir, PathBuf, Watcher) {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        (dir, real, Watcher::new().unwrap())
    }

    #[test]
    fn a_file_is_seen_when_written_and_when_replaced() {
        isolated("sys::inotify::tests::a_file_is_seen_when_written_and_when_replaced", || {
            let (_dir, at, mut watcher) = setup();
            let file = at.join("f");
            fs::write(&file, "1").unwrap();
            watcher.add(&file).unwrap();
            assert!(paths(&mut watcher).is_empty());
            fs::write(&file, "2").unwrap();
            assert_eq!(paths(&mut watcher), std::slice::from_ref(&file));
            fs::write(at.join("other"), "x").unwrap();
            assert!(paths(&mut watcher).is_empty());
            for _ in 0..2 {
                fs::write(at.join("new"), "3").unwrap();
                fs::rename(at.join("new"), &file).unwrap();
                assert_eq!(paths(&mut watcher), std::slice::from_ref(&file));
            }
        });
    }

    #[test]
    fn a_link_on_the_way_that_moves_is_seen_and_what_it_leads_to_after_that() {
        isolated(
            "sys::inotify::tests::a_link_on_the_way_that_moves_is_seen_and_what_it_leads_to_after_that",
            || {
                let (_dir, at, mut watcher) = setup();
                for release in ["r1", "r2", "r3"] {
                    fs::create_dir_all(at.join(release).join("bin")).unwrap();
                    fs::write(at.join(release).join("bin/app"), "1").unwrap();
                }
                std::os::unix::fs::symlink("r1", at.join("current")).unwrap();
                watcher.add(&at.join("current/bin/app")).unwrap();
                for release in ["r2", "r3"] {
                    std::os::unix::fs::symlink(release, at.join("next")).unwrap();
                    fs::rename(at.join("next"), at.join("current")).unwrap();
                    assert_eq!(paths(&mut watcher), [at.join("current")]);
                    fs::write(at.join(release).join("bin/app"), "2").unwrap();
                    let seen = paths(&mut watcher);
                    assert!(seen.contains(&at.join(release).join("bin/app")), "{release}: {seen:?}");
                }
                // A folder on the way, in place of the one before.
                fs::rename(at.join("r3"), at.join("old")).unwrap();
                fs::rename(at.join("r1"), at.join("r3")).unwrap();
                assert_eq!(paths(&mut watcher), [at.join("r3")]);
                fs::write(at.join("other"), "x").unwrap();
                assert!(paths(&mut watcher).is_empty());
            },
        );
    }

    #[test]
    fn a_folder_is_seen_with_what_comes_below() {
        isolated("sys::inotify::tests::a_folder_is_seen_with_what_comes_below", || {
            let (_dir, at, mut watcher) = setup();
            fs::create_dir(at.join("d")).unwrap();
            watcher.add(&at.join("d")).unwrap();
            fs::create_dir(at.join("d/sub")).unwrap();
            assert_eq!(paths(&mut watcher), [at.join("d/sub")]);
            fs::write(at.join("d/sub/f"), "x").unwrap();
            assert_eq!(paths(&mut watcher), [at.join("d/sub/f")]);
            fs::write(at.join("d/sub/.f.swp"), "x").unwrap();
            fs::write(at.join("d/sub/f~"), "x").unwrap();
            assert!(paths(&mut watcher).is_empty());
            fs::remove_dir_all(at.join("d")).unwrap();
            assert!(paths(&mut watcher).contains(&at.join("d")));
            fs::create_dir(at.join("d")).unwrap();
            paths(&mut watcher);
            fs::write(at.join("d/again"), "x").unwrap();
            assert_eq!(paths(&mut watcher), [at.join("d/again")]);
        });
    }

    #[test]
    fn only_what_has_come_is_searched_and_one_call_takes_so_many_events() {
        isolated(
            "sys::inotify::tests::only_what_has_come_is_searched_and_one_call_takes_so_many_events",
            || {
                let (_dir, at, mut watcher) = setup();
                fs::create_dir_all(at.join("w/old")).unwrap();
                watcher.add(&at.join("w")).unwrap();
                // A folder that the watcher does not know of shows who searches everything again.
                watcher.folders.retain(|_, folder| !folder.path.ends_with("old"));
                let known =
                    |watcher: &Watcher, name: &str| watcher.folders.values().any(|f| f.path.ends_with(name));
                fs::create_dir_all(at.join("w/new")).unwrap();
                fs::write(at.join("w/file"), "x").unwrap();
                fs::remove_file(at.join("w/file")).unwrap();
                watcher.read().unwrap();
                assert!(known(&watcher, "new") && !known(&watcher, "old"));
                // The wanted folder itself is another one.
                fs::rename(at.join("w"), at.join("gone")).unwrap();
                fs::create_dir_all(at.join("w/old")).unwrap();
                watcher.read().unwrap();
                assert!(known(&watcher, "old"));
                paths(&mut watcher);
                for number in 0..5000 {
                    fs::write(at.join(format!("w/{number:0200}")), "").unwrap();
                }
                let first = watcher.read().unwrap().len();
                assert!((1..4000).contains(&first), "{first}");
                let mut all = first;
                loop {
                    let more = watcher.read().unwrap().len();
                    if more == 0 {
                        break;
                    }
                    all += more;
                }
                assert!(all >= 5000 || watcher.lost_count, "{all}");
            },
        );
    }

    #[test]
    fn what_is_being_written_is_told_apart() {
        isolated("sys::inotify::tests::what_is_being_written_is_told_apart", || {
            use std::io::Write;
            let (_dir, at, _) = setup();
            let mut watcher = Watcher::new().unwrap();
            watcher.follow_writes();
            watcher.add(&at).unwrap();
            let mut progress =
                || watcher.read().unwrap().into_iter().map(|change| change.progress).collect::<Vec<_>>();
            let mut file = fs::File::create(at.join("f")).unwrap();
            assert_eq!(progress(), [Progress::Done]);
            file.write_all(b"1").unwrap();
            assert_eq!(progress(), [Progress::Written]);
            let mut other = fs::File::create(at.join("g")).unwrap();
            other.write_all(b"1").unwrap();
            assert_eq!(progress(), [Progress::Begun]);
            drop((file, other));
            assert_eq!(progress(), [Progress::Done, Progress::Done]);
        });
    }

    #[test]
    fn a_link_is_seen_when_it_is_switched() {
        isolated("sys::inotify::tests::a_link_is_seen_when_it_is_switched", || {
            let (_dir, at, mut watcher) = setup();
            for release in ["r1", "r2"] {
                fs::create_dir(at.join(release)).unwrap();
            }
            let current = at.join("current");
            std::os::unix::fs::symlink("r1", &current).unwrap();
            watcher.add(&current).unwrap();
            std::os::unix::fs::symlink("r2", at.join("next")).unwrap();
            fs::rename(at.join("next"), &current).unwrap();
            assert_eq!(paths(&mut watcher), [current]);
            fs::write(at.join("r2/f"), "x").unwrap();
            assert_eq!(paths(&mut watcher), [at.join("r2/f")]);
        });
    }

    #[test]
    fn what_is_not_there_is_waited_for() {
        isolated("sys::inotify::tests::what_is_not_there_is_waited_for", || {
            let (_dir, at, mut watcher) = setup();
            let file = at.join("a/b/f");
            watcher.add(&file).unwrap();
            fs::create_dir_all(at.join("a/b")).unwrap();
            watcher.read().unwrap();
            fs::write(&file, "x").unwrap();
            assert!(paths(&mut watcher).contains(&file));
        });
    }

    #[test]
    fn droppings_are_known() {
        for name in ["f~", ".f.swp", ".f.swx", "4913", "#f#", ".#f"] {
            assert!(is_dropping(OsStr::new(name)), "{name}");
        }
        for name in ["f", ".env", "f.swp.conf", "49130", "#", ".config"] {
            assert!(!is_dropping(OsStr::new(name)), "{name}");
        }
    }
}
