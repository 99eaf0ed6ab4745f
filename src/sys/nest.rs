//! Whether folders are still where they were with all that is in them: inotify(7) on them and on the folders above, and the
//! table of mounts, which tells when another file system comes over them, proc_pid_mountinfo(5).

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// How often one call reads from the kernel, 4 KiB each.
const READS: usize = 32;

/// Watches a few folders. One thread at a time.
#[derive(Debug)]
pub struct Nest {
    inotify: Inotify,
    mounts: Option<File>,
    watched: Vec<WatchDescriptor>,
}

impl Nest {
    /// Watches nothing but mounts yet, and without /proc not even those.
    ///
    /// # Errors
    /// `EMFILE`, where the user has too many inotify instances.
    pub fn new() -> io::Result<Nest> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Nest { inotify, mounts: File::open("/proc/self/mountinfo").ok(), watched: Vec::new() })
    }

    /// Watches these folders, absolute, and nothing else. One that is not there is waited for.
    ///
    /// # Errors
    /// `ENOSPC`, where the user has too many watches. As much as possible is watched all the same.
    pub fn aim(&mut self, folders: &[PathBuf]) -> io::Result<()> {
        let mut wanted = BTreeMap::new();
        let mut want = |path: &Path, events: AddWatchFlags| {
            *wanted.entry(path.to_path_buf()).or_insert(AddWatchFlags::empty()) |= events;
        };
        let moved = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        let lost = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVED_TO;
        // What stands in its way may go, too.
        let come = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ATTRIB | lost | moved;
        for folder in folders {
            want(folder, lost | moved);
            let there = folder.ancestors().find(|path| path.is_dir());
            if let Some(last) = there.filter(|last| last != folder) {
                want(last, come);
            }
            for above in folder.ancestors().skip(1) {
                want(above, moved);
            }
            // Where it really is, if there are links on the way.
            if let Ok(real) = fs::canonicalize(folder) {
                real.ancestors().skip(1).for_each(|above| want(above, moved));
            }
        }
        let (mut now, mut result) = (Vec::new(), Ok(()));
        for (path, events) in wanted {
            let add = AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD) | AddWatchFlags::IN_ONLYDIR;
            match self.inotify.add_watch(&path, events | add) {
                Ok(number) => now.push(number),
                // It is not there, or others may only pass through it.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => {}
                Err(error) => result = Err(error.into()),
            }
        }
        for old in self.watched.drain(..).filter(|old| !now.contains(old)) {
            // Its folder may be gone, and the watch with it.
            let _ = self.inotify.rm_watch(old);
        }
        self.watched = now;
        result
    }

    /// What becomes readable when something has happened, and what tells by priority.
    pub fn fds(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.inotify.as_fd(), self.mounts.as_ref().map(AsFd::as_fd))
    }

    /// Whether anything has happened in the folders since the last time. Never waits.
    pub fn has_news(&self) -> bool {
        let mut news = false;
        for _ in 0..READS {
            let Ok(events) = self.inotify.read_events() else { break };
            // That a watch has ended is no news by itself: it may be we who have ended it.
            news |= events.iter().any(|event| event.mask != AddWatchFlags::IN_IGNORED);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news_after(nest: &Nest, what: impl FnOnce()) -> bool {
        assert!(!nest.has_news());
        what();
        nest.has_news()
    }

    #[test]
    fn what_is_taken_away_is_seen_and_what_is_made_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let above = dir.path().join("above");
        let folder = above.join("run");
        fs::create_dir_all(&folder).unwrap();
        let mut nest = Nest::new().unwrap();
        nest.aim(std::slice::from_ref(&folder)).unwrap();
        let file = folder.join("file");
        assert!(!news_after(&nest, || fs::write(&file, "").unwrap()));
        assert!(!news_after(&nest, || fs::write(above.join("other"), "").unwrap()));
        assert!(news_after(&nest, || fs::remove_file(&file).unwrap()));
        assert!(news_after(&nest, || {
            fs::write(above.join("new"), "").unwrap();
            fs::rename(above.join("new"), &file).unwrap();
        }));
        assert!(news_after(&nest, || fs::rename(&folder, above.join("old")).unwrap()));
        nest.aim(std::slice::from_ref(&folder)).unwrap();
        assert!(!nest.has_news(), "that a watch was ended is no news");
        assert!(news_after(&nest, || fs::create_dir(&folder).unwrap()), "it is waited for");
        nest.aim(std::slice::from_ref(&folder)).unwrap();
        assert!(news_after(&nest, || fs::rename(&above, dir.path().join("away")).unwrap()));
        nest.aim(std::slice::from_ref(&folder)).unwrap();
        nest.has_news();
        assert!(news_after(&nest, || fs::create_dir(&above).unwrap()));
        nest.aim(std::slice::from_ref(&folder)).unwrap();
        nest.has_news();
        assert!(news_after(&nest, || fs::create_dir(&folder).unwrap()));
    }
}
