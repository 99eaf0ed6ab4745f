//! What is done in an open folder, and to what was found in it.

use super::walk::{self, Missing, inode, kind, place, stat_of};
use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat, renameat,
};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, mkfifoat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

/// An open folder: it stays the same one wherever its path leads later.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
}

/// What stands at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A socket.
    Socket,
    /// A FIFO.
    Fifo,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A file or a device.
    Other,
}

impl Kind {
    /// For people.
    pub fn noun(self) -> &'static str {
        match self {
            Kind::Socket => "a socket",
            Kind::Fifo => "a FIFO",
            Kind::Folder => "a folder",
            Kind::Link => "a link",
            Kind::Other => "a file or a device",
        }
    }
}

/// What an init of a container often lacks: the words of the kernel do not name it.
fn lacks(error: Errno, capability: &str) -> io::Error {
    match error {
        Errno::EPERM => {
            let why = format!("{} (this takes {capability})", error.desc());
            io::Error::new(io::ErrorKind::PermissionDenied, why)
        }
        other => other.into(),
    }
}

/// An inode that was opened without being used: what is done through it is done to this one.
#[derive(Debug)]
pub struct Node {
    fd: OwnedFd,
    stat: FileStat,
}

/// Makes a folder with exactly this mode; one that is there is left as it is.
///
/// Our umask belongs to all our threads, and stays: what it has taken from a new folder is given to it afterwards, if what
/// stands there is one of ours and empty, and so nothing that somebody has put in its place to have it opened.
pub(super) fn make_folder(at: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let wanted = mode & 0o7777;
    match mkdirat(&at, name, Mode::from_bits_truncate(wanted)) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let folder = Folder { fd: place(&at, name)? };
    let made = fstat(&folder.fd)?;
    let is_whole = made.st_mode & 0o7777 & wanted == wanted;
    if is_whole || kind(&made) != SFlag::S_IFDIR || made.st_uid != super::super::user::effective_uid() {
        return Ok(());
    }
    // Who may not look into it finds nothing in it either.
    let is_empty = folder.names(1).map_or(true, |names| names.iter().all(|name| name == "." || name == ".."));
    if is_empty { folder.set_mode(wanted) } else { Ok(()) }
}

impl Folder {
    /// Opens a folder. Links of strangers are not followed.
    ///
    /// # Errors
    /// Those of open(2); a sentence for a stranger's link.
    pub fn open(path: &Path) -> io::Result<Folder> {
        Ok(Folder { fd: walk::folder(path, Missing::Fail)? })
    }

    /// The same; what is missing of it is made with exactly `mode`.
    ///
    /// # Errors
    /// Those of open(2) and mkdir(2).
    pub fn make(path: &Path, mode: u32) -> io::Result<Folder> {
        Ok(Folder { fd: walk::folder(path, Missing::Make(mode))? })
    }

    /// The folder of a path, which is opened, and the name in it.
    ///
    /// # Errors
    /// As [`Folder::open`]; `EINVAL` for a path without a last component.
    pub fn of(path: &Path) -> io::Result<(Folder, OsString)> {
        let (folder, name) = split(path)?;
        Ok((Folder::open(folder)?, name.to_owned()))
    }

    /// Opens the folder `path` as somebody sees it whose root or working folder is `base`, a path of /proc: links are
    /// followed as he would follow them. Where it leads says nothing about whether he may.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_from(base: &Path, path: &Path) -> io::Result<Folder> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let from = open(base, flags, Mode::empty())?;
        let relative = path.strip_prefix("/").unwrap_or(path);
        if relative.as_os_str().is_empty() {
            return Ok(Folder { fd: from });
        }
        let is_root = path.is_absolute();
        let resolve = if is_root { ResolveFlag::RESOLVE_IN_ROOT } else { ResolveFlag::empty() };
        match openat2(&from, relative, OpenHow::new().flags(flags).resolve(resolve)) {
            // Before Linux 5.6.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                Ok(Folder { fd: openat(&from, relative, flags, Mode::empty())? })
            }
            other => Ok(Folder { fd: other? }),
        }
    }

    /// Its path, links resolved, as /proc tells it: `None` without /proc. In another mount namespace it means nothing.
    pub fn path(&self) -> Option<PathBuf> {
        readlinkat(AT_FDCWD, &through_proc(self.fd.as_fd())).ok().map(PathBuf::from)
    }

    /// A folder that is open already.
    pub fn from_fd(fd: OwnedFd) -> Folder {
        Folder { fd }
    }

    /// A folder in this one; a link is none.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn child(&self, name: &OsStr) -> io::Result<Folder> {
        let fd = place(&self.fd, name)?;
        if kind(&fstat(&fd)?) != SFlag::S_IFDIR {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(Folder { fd })
    }

    /// A folder in this one, made with exactly `mode` if it is missing.
    ///
    /// # Errors
    /// Those of mkdir(2) and open(2).
    pub fn make_child(&self, name: &OsStr, mode: u32) -> io::Result<Folder> {
        make_folder(&self.fd, name, mode)?;
        self.child(name)
    }

    /// Its device and inode number.
    pub fn identity(&self) -> Option<(u64, u64)> {
        fstat(&self.fd).ok().map(|stat| inode(&stat))
    }

    /// Whether it is still in the file system.
    pub fn is_linked(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_nlink > 0)
    }

    /// Its owner.
    pub fn owner(&self) -> Option<u32> {
        fstat(&self.fd).ok().map(|stat| stat.st_uid)
    }

    /// Whether somebody who is neither root nor the user `us` may put something else at a name in it.
    pub fn is_open_to_others(&self, us: u32) -> bool {
        fstat(&self.fd).is_ok_and(|stat| {
            ![us, 0, walk::system_owner()].contains(&stat.st_uid) || walk::others_write(&stat, us)
        })
    }

    /// Gives it away.
    ///
    /// # Errors
    /// Those of chown(2).
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fchownat(&self.fd, "", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(|error| lacks(error, "CAP_CHOWN"))
    }

    /// Sets its permissions.
    ///
    /// # Errors
    /// Those of chmod(2).
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        // As seen from inside: this works without /proc too.
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(&self.fd, ".", mode, FchmodatFlags::FollowSymlink)
            .map_err(|error| lacks(error, "CAP_FOWNER"))
    }

    /// Its permissions.
    pub fn mode(&self) -> u32 {
        fstat(&self.fd).map_or(0, |stat| stat.st_mode & 0o7777)
    }

    /// Opens what stands at a name, a link as itself; `None` if there is nothing.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn node(&self, name: &OsStr) -> io::Result<Option<Node>> {
        match place(&self.fd, name) {
            Ok(fd) => Ok(Some(Node::new(fd)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The device and inode number behind a name; `None` if there is nothing.
    pub fn inode_at(&self, name: &OsStr) -> Option<(u64, u64)> {
        stat_of(&self.fd, name).ok().map(|stat| inode(&stat))
    }

    /// The names of an inode in this folder, of the first some ten thousand entries. None without /proc.
    pub fn names_of(&self, inode: (u64, u64)) -> Vec<OsString> {
        const ENTRIES_MAX: usize = 65_536;
        let entries = std::fs::read_dir(self.path_of(OsStr::new(".")));
        let entries = entries.into_iter().flatten().take(ENTRIES_MAX).flatten();
        let same = entries.filter(|entry| entry.ino() == inode.1).map(|entry| entry.file_name());
        same.filter(|name| self.inode_at(name) == Some(inode)).collect()
    }

    /// Removes a name, not a folder's.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes the name of an empty folder.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub fn remove_folder(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Removes a name if it stands for this inode; whether it did.
    pub fn remove_if(&self, name: &OsStr, inode: (u64, u64)) -> bool {
        self.inode_at(name) == Some(inode) && self.remove(name).is_ok()
    }

    /// Makes `name` one more name of an inode.
    ///
    /// # Errors
    /// Those of link(2).
    pub fn link(&self, node: &Node, name: &OsStr) -> io::Result<()> {
        let through = through_proc(node.fd.as_fd());
        match linkat(AT_FDCWD, &through, &self.fd, name, AtFlags::AT_SYMLINK_FOLLOW) {
            // Without /proc; that way needs CAP_DAC_READ_SEARCH.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                Ok(linkat(&node.fd, "", &self.fd, name, AtFlags::AT_EMPTY_PATH)?)
            }
            other => Ok(other?),
        }
    }

    /// Gives what stands at `from` the name `to`, replacing what was there.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of symlink(2).
    pub fn symlink(&self, target: &Path, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, &self.fd, name)?)
    }

    /// Where the link at a name points to; `None` if there is no link.
    pub fn link_target(&self, name: &OsStr) -> Option<PathBuf> {
        readlinkat(&self.fd, name).ok().map(PathBuf::from)
    }

    /// Makes a FIFO with exactly this mode; what is there is left as it is.
    ///
    /// # Errors
    /// Those of mkfifo(3).
    ///
    /// Our umask counts.
    pub fn make_fifo(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        match mkfifoat(&self.fd, name, mode) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A name in this folder as a path that leads here whatever happens to the folder's own: for calls that take no
    /// descriptor. Only for as long as this is open.
    pub fn path_of(&self, name: &OsStr) -> PathBuf {
        through_proc(self.fd.as_fd()).join(name)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Node {
    /// An inode that is open as a place (`O_PATH`).
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn new(fd: OwnedFd) -> io::Result<Node> {
        let stat = fstat(&fd)?;
        Ok(Node { fd, stat })
    }

    /// Its device and inode number.
    pub fn inode(&self) -> (u64, u64) {
        inode(&self.stat)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match kind(&self.stat) {
            SFlag::S_IFSOCK => Kind::Socket,
            SFlag::S_IFIFO => Kind::Fifo,
            SFlag::S_IFDIR => Kind::Folder,
            SFlag::S_IFLNK => Kind::Link,
            _ => Kind::Other,
        }
    }

    /// Its owner.
    pub fn owner(&self) -> u32 {
        self.stat.st_uid
    }

    /// Its permissions, when it was opened.
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// How many names it has now.
    pub fn names(&self) -> u64 {
        // Its width differs between machines.
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        fstat(&self.fd).map_or(0, |stat| stat.st_nlink as u64)
    }

    /// Gives it away.
    ///
    /// # Errors
    /// Those of chown(2).
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        fchownat(&self.fd, "", uid, gid, AtFlags::AT_EMPTY_PATH).map_err(|error| lacks(error, "CAP_CHOWN"))
    }

    /// Sets its permissions. Not a link's, which has none.
    ///
    /// # Errors
    /// Those of chmod(2); `ENOENT` without /proc before Linux 6.6.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        const SYS_FCHMODAT2: libc::c_long = 452;
        let fd = self.fd.as_raw_fd();
        // SAFETY: an empty string and numbers.
        let done =
            unsafe { libc::syscall(SYS_FCHMODAT2, fd, c"".as_ptr(), mode & 0o7777, libc::AT_EMPTY_PATH) };
        if done == 0 {
            return Ok(());
        }
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        // fchmod(2) takes no such descriptor; this way leads to the very inode, whatever its names are.
        let through = through_proc(self.fd.as_fd());
        fchmodat(AT_FDCWD, &through, mode, FchmodatFlags::FollowSymlink)
            .map_err(|error| lacks(error, "CAP_FOWNER"))
    }

    /// A path that leads to this inode, for as long as it is open.
    pub fn path(&self) -> PathBuf {
        through_proc(self.fd.as_fd())
    }
}

fn through_proc(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A path's folder and last component.
pub(super) fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let folder = path.parent().ok_or_else(invalid)?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    Ok((folder, path.file_name().ok_or_else(invalid)?))
}
