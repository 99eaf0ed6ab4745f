//! Removing a tree that somebody else has made and may still be at work in: unlinkat(2), getdents64(2).
//!
//! Not by recursion and not by paths: a bounded number of open folders, whatever the depth. What lies deeper is moved to
//! the top first. No link is followed and no mount point is entered.

use super::folder::Folder;
use super::walk::{PLACE, kind};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

/// How many folders are open at a time.
const DEPTH: usize = 16;

/// Bytes of names that are read at a time.
const BATCH: usize = 8192;

/// How much may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// How many names.
    pub names: u64,
    /// For how long.
    pub time: Duration,
}

impl Limit {
    /// For the main thread, which has others to serve.
    pub const SHORT: Limit = Limit { names: 1000, time: Duration::from_millis(20) };
    /// For a thread of its own: as much as there can be, but not for ever, as somebody may go on making more.
    pub const LONG: Limit = Limit { names: 100_000_000, time: Duration::from_secs(600) };
}

/// Removes what stands at `name` in `folder`, a folder with everything in it. Nothing there is no error. Any thread.
///
/// # Errors
/// Those of unlink(2) and open(2): what is left stays. `QuotaExceeded` beyond `limit`; the next call goes on.
pub fn remove_tree(folder: &Folder, name: &OsStr, limit: Limit) -> io::Result<()> {
    let mut left = Budget { left: limit.names, until: Instant::now() + limit.time, moved: 0 };
    loop {
        left.spend()?;
        if remove_one(folder.as_fd(), name)? == Found::Gone {
            return Ok(());
        }
        let Some(top) = enter(folder.as_fd(), name)? else { continue };
        left.empty(top)?;
        match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // Somebody has put something in again, or has put something else there.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Gone,
    Folder,
}

/// Removes what is no folder.
fn remove_one(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Found> {
    match unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(Found::Gone),
        Err(Errno::EISDIR) => Ok(Found::Folder),
        // What POSIX wants for a folder; on Linux also a file that is immutable.
        Err(Errno::EPERM) if is_folder(at, name) => Ok(Found::Folder),
        Err(error) => Err(error.into()),
    }
}

fn is_folder(at: BorrowedFd<'_>, name: &OsStr) -> bool {
    super::walk::stat_of(at, name).is_ok_and(|stat| kind(&stat) == SFlag::S_IFDIR)
}

/// Opens a folder for reading; `None` if there is none any more.
fn enter(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags =
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let how =
        OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    let opened = match openat2(at, name, how) {
        Err(Errno::ENOSYS | Errno::EPERM) => enter_as_of_old(at, name, flags),
        other => other,
    };
    match opened {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(Errno::EXDEV) => Err(io::Error::other("something is mounted in it")),
        Err(error) => Err(error.into()),
    }
}

/// Before Linux 5.6: another device is a mount point.
fn enter_as_of_old(at: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let fd = openat(at, name, flags, Mode::empty())?;
    if fstat(&fd)?.st_dev == fstat(at)?.st_dev { Ok(fd) } else { Err(Errno::EXDEV) }
}

/// A folder that is being emptied.
struct Level {
    fd: OwnedFd,
    /// Its name in the level above.
    name: OsString,
    /// Names that were read and not yet looked at.
    waiting: VecDeque<OsString>,
}

struct Budget {
    left: u64,
    until: Instant,
    moved: u64,
}

impl Budget {
    fn spend(&mut self) -> io::Result<()> {
        let over = || io::Error::new(io::ErrorKind::QuotaExceeded, "there is too much in it; the rest stays");
        self.left = self.left.checked_sub(1).ok_or_else(over)?;
        if Instant::now() < self.until { Ok(()) } else { Err(over()) }
    }

    /// Empties the folder `top`, as far as nobody adds to it meanwhile.
    fn empty(&mut self, top: OwnedFd) -> io::Result<()> {
        let mut levels = vec![Level { fd: top, name: OsString::new(), waiting: VecDeque::new() }];
        while let Some(mut level) = levels.pop() {
            if level.waiting.is_empty() {
                level.waiting = names(level.fd.as_fd())?;
            }
            let Some(name) = level.waiting.pop_front() else {
                if let Some(above) = levels.last() {
                    self.finish(above.fd.as_fd(), &level.name)?;
                }
                continue;
            };
            self.spend()?;
            let mut below = None;
            if remove_one(level.fd.as_fd(), &name)? == Found::Folder {
                if levels.len() + 1 < DEPTH {
                    below = enter(level.fd.as_fd(), &name)?;
                } else if let Some(top) = levels.first() {
                    self.lift(level.fd.as_fd(), &name, top.fd.as_fd())?;
                }
            }
            levels.push(level);
            if let Some(fd) = below {
                levels.push(Level { fd, name, waiting: VecDeque::new() });
            }
        }
        Ok(())
    }

    /// Removes a folder that was emptied. If somebody has filled it again, the level above comes back to it.
    fn finish(&mut self, above: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        match unlinkat(above, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a folder to the top, where it is come to again.
    fn lift(&mut self, from: BorrowedFd<'_>, name: &OsStr, top: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            self.moved += 1;
            let new = OsString::from(format!(".aeterna-gone-{}-{}", std::process::id(), self.moved));
            match renameat(from, name, top, new.as_os_str()) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => self.spend()?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The next names of a folder; none at its end. What was skipped because it came meanwhile is found by the next try.
fn names(folder: BorrowedFd<'_>) -> io::Result<VecDeque<OsString>> {
    let mut found = VecDeque::new();
    // Twice: what was removed may have moved others to where was read already.
    for attempt in 0..2 {
        loop {
            let mut buffer = [0_u8; BATCH];
            // SAFETY: the kernel writes at most as many bytes as there is room.
            let count = unsafe {
                libc::syscall(libc::SYS_getdents64, folder.as_raw_fd(), buffer.as_mut_ptr(), BATCH)
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            entries(buffer.get(..count).unwrap_or_default(), &mut found);
            if !found.is_empty() {
                return Ok(found);
            }
            if count == 0 {
                break;
            }
        }
        if attempt == 0 {
            nix::unistd::lseek(folder, 0, nix::unistd::Whence::SeekSet)?;
        }
    }
    Ok(found)
}

/// Reads `struct linux_dirent64`: inode and offset of 8 bytes each, length of 2, type of 1, the name and a NUL.
pub(super) fn entries(mut bytes: &[u8], found: &mut VecDeque<OsString>) {
    while let Some(length) = bytes.get(16..18).and_then(|two| two.try_into().ok()).map(u16::from_ne_bytes) {
        let Some(entry) = bytes.get(..usize::from(length)).filter(|entry| entry.len() > 19) else { return };
        let name = entry.get(19..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if !matches!(name, b"" | b"." | b"..") {
            found.push_back(OsString::from_vec(name.to_vec()));
        }
        bytes = bytes.get(usize::from(length)..).unwrap_or_default();
    }
}

impl Folder {
    /// The names in it, at most `most`, in no order.
    ///
    /// # Errors
    /// Those of open(2) and getdents64(2).
    pub fn names(&self, most: usize) -> io::Result<Vec<OsString>> {
        let flags = (PLACE - OFlag::O_PATH) | OFlag::O_DIRECTORY;
        let fd = openat(self, ".", flags, Mode::empty())?;
        let mut all = Vec::new();
        while all.len() < most {
            let mut buffer = [0_u8; BATCH];
            let mut found = VecDeque::new();
            // SAFETY: the kernel writes at most as many bytes as there is room.
            let count =
                unsafe { libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buffer.as_mut_ptr(), BATCH) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            if count == 0 {
                break;
            }
            entries(buffer.get(..count).unwrap_or_default(), &mut found);
            all.extend(found);
        }
        all.truncate(most);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn at(path: &Path) -> (Folder, OsString) {
        Folder::of(path).unwrap()
    }

    fn remove(path: &Path) -> io::Result<()> {
        let (folder, name) = at(path);
        remove_tree(&folder, &name, Limit::LONG)
    }

    #[test]
    fn a_tree_goes_and_what_its_links_mean_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("kept"), "x").unwrap();
        fs::write(tree.join("a/file"), "x").unwrap();
        fs::hard_link(other.join("kept"), tree.join("a/b/hard")).unwrap();
        nix::unistd::mkfifo(&tree.join("a/fifo"), Mode::S_IRWXU).unwrap();
        drop(std::os::unix::net::UnixListener::bind(tree.join("a/socket")).unwrap());
        for link in ["tree/link", "tree/a/b/link"] {
            std::os::unix::fs::symlink(&other, dir.path().join(link)).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", tree.join("a/dangling")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(other.join("kept")).unwrap(), "x");
        // A link as the thing itself, a file, nothing.
        std::os::unix::fs::symlink(&other, &tree).unwrap();
        remove(&tree).unwrap();
        fs::write(&tree, "").unwrap();
        remove(&tree).unwrap();
        remove(&tree).unwrap();
        assert!(other.join("kept").exists() && fs::symlink_metadata(&tree).is_err());
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        // In memory where there is such a place: a disk needs minutes for that many folders.
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let (mut folder, mut made) = (Folder::open(&tree).unwrap(), 0);
        // Wide at some places, deeper than any path or stack.
        while made < 40_000 {
            let name = OsString::from("n".repeat(if made % 100 == 0 { 255 } else { 1 }));
            let next = folder.make_child(&name, 0o755).unwrap();
            if made % 1000 == 0 {
                folder.make_fifo(OsStr::new("f"), 0o600).unwrap();
                folder.make_child(OsStr::new("empty"), 0o700).unwrap();
            }
            folder = next;
            made += 1;
        }
        drop(folder);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn the_work_is_bounded_and_the_next_call_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for name in 0..100 {
            fs::create_dir_all(tree.join(format!("{name}/x"))).unwrap();
        }
        let (folder, name) = at(&tree);
        for few in [Limit { names: 50, ..Limit::LONG }, Limit { time: Duration::ZERO, ..Limit::LONG }] {
            let error = remove_tree(&folder, &name, few).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
            assert!(tree.exists());
        }
        remove_tree(&folder, &name, Limit { names: 1000, ..Limit::LONG }).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn what_is_mounted_in_it_is_left_alone() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root can mount");
        }
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        fs::create_dir_all(tree.join("mount")).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("kept"), "x").unwrap();
        // A bind mount of the same file system: the device says nothing.
        let mount =
            std::process::Command::new("mount").arg("--bind").arg(&other).arg(tree.join("mount")).status();
        if !mount.is_ok_and(|status| status.success()) {
            return println!("skipped: nothing can be mounted here");
        }
        let error = remove(&tree).unwrap_err();
        assert!(std::process::Command::new("umount").arg(tree.join("mount")).status().unwrap().success());
        assert!(error.to_string().contains("mounted"), "{error}");
        assert!(other.join("kept").exists());
    }
}
