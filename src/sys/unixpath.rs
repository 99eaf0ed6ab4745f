//! Names of AF_UNIX sockets and FIFOs in the file system: unix(7), "Pathname socket ownership and permissions".
//!
//! A name is removed only if it is ours (device and inode are remembered) or proved stale: a socket that refuses
//! connections. The last component is never followed if it is a symbolic link.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, fchmod, umask};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// The longest `sun_path` without its final NUL byte, in bytes.
pub const SUN_PATH_MAX: usize = 107;

/// The process has one umask: two threads that change and restore it must not interleave.
static UMASK: Mutex<()> = Mutex::new(());

/// Numbers temporary names.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Which inode a name stood for when we made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundPath {
    /// The name, absolute.
    pub path: PathBuf,
    /// Device and inode number.
    pub inode: (u64, u64),
}

/// Device and inode number behind a name; `None` if there is nothing or nobody may look.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

impl BoundPath {
    /// What `path` stands for now.
    pub fn of(path: &Path) -> io::Result<BoundPath> {
        let found = fs::symlink_metadata(path)?;
        Ok(BoundPath { path: path.to_path_buf(), inode: (found.dev(), found.ino()) })
    }

    /// Whether the name still stands for our inode.
    pub fn is_ours(&self) -> bool {
        identity(&self.path) == Some(self.inode)
    }

    /// Whether our inode has more names than this one.
    pub fn has_other_names(&self) -> bool {
        self.is_ours() && fs::symlink_metadata(&self.path).is_ok_and(|found| found.nlink() > 1)
    }

    /// Removes the name if it is still ours; whether it was.
    pub fn remove(&self) -> bool {
        self.is_ours() && fs::remove_file(&self.path).is_ok()
    }
}

/// How a name comes into the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Birth {
    /// Permission bits, whatever the umask.
    pub mode: u32,
    /// Owner and group; `None` leaves what the kernel gives.
    pub owner: (Option<u32>, Option<u32>),
    /// Whether the first message or connection can arrive before listen(2) (a datagram socket): then nobody
    /// may use the name until its owner is right.
    pub at_once: bool,
}

/// A sockaddr for `path`, and the open folder that a long one is named through (keep it while the address is
/// used). Errors: ENAMETOOLONG if even the last component is too long, and those of open(2).
pub fn address(path: &Path) -> io::Result<(UnixAddr, Option<OwnedFd>)> {
    if path.as_os_str().len() <= SUN_PATH_MAX {
        return Ok((UnixAddr::new(path)?, None));
    }
    let (folder, name) = split(path)?;
    through(open_folder(folder)?, name)
}

fn through(folder: OwnedFd, name: &OsStr) -> io::Result<(UnixAddr, Option<OwnedFd>)> {
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    if short.as_os_str().len() > SUN_PATH_MAX {
        return Err(io::Error::from_raw_os_error(nix::libc::ENAMETOOLONG));
    }
    Ok((UnixAddr::new(&short)?, Some(folder)))
}

fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let invalid = || io::Error::from_raw_os_error(nix::libc::EINVAL);
    Ok((path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?))
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY | nix::libc::O_CLOEXEC;
    Ok(File::options().read(true).custom_flags(flags).open(folder)?.into())
}

/// Makes the missing folders above `path`, each with exactly `mode`.
pub fn make_parents(path: &Path, mode: u32) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    if folder.is_dir() {
        return Ok(());
    }
    make_parents(folder, mode)?;
    match DirBuilder::new().mode(mode).create(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What stands at a name that is wanted for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nobody,
    /// A socket that refuses connections: its owner is gone.
    Stale,
    /// A socket that somebody serves (or that nobody lets us ask).
    Live,
    /// A file, a folder, a symbolic link…
    NotASocket,
}

/// Looks who is at `path`, by connecting to it without waiting.
pub fn occupant(path: &Path) -> io::Result<Occupant> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Ok(Occupant::NotASocket),
        Ok(_) => {}
    }
    let (address, _folder) = address(path)?;
    for kind in [SockType::Stream, SockType::Datagram, SockType::SeqPacket] {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let probe = socket(AddressFamily::Unix, kind, flags, None)?;
        match connect(probe.as_raw_fd(), &address) {
            Err(nix::errno::Errno::ECONNREFUSED) => return Ok(Occupant::Stale),
            // Another type of socket lives there: only its own type tells whether somebody serves it.
            Err(nix::errno::Errno::EPROTOTYPE) => {}
            Ok(()) | Err(_) => return Ok(Occupant::Live),
        }
    }
    Ok(Occupant::Live)
}

/// Binds `fd` to `path`, which must be free, with the mode right from birth and the owner right before the
/// caller's listen(2). Any length of path. Errors: those of bind(2), chown(2).
pub fn bind(fd: BorrowedFd<'_>, path: &Path, birth: Birth) -> io::Result<BoundPath> {
    let has_owner = birth.owner != (None, None);
    let first_mode = if birth.at_once && has_owner { 0 } else { birth.mode };
    match bind_short(fd, path, first_mode) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENAMETOOLONG) => {
            bind_and_link(fd, path, first_mode)?;
        }
        other => other?,
    }
    let bound = BoundPath::of(path)?;
    let finish = || -> io::Result<()> {
        if has_owner {
            lchown(path, birth.owner.0, birth.owner.1)?;
        }
        if first_mode != birth.mode {
            fs::set_permissions(path, Permissions::from_mode(birth.mode))?;
        }
        Ok(())
    };
    finish().inspect_err(|_| {
        bound.remove();
    })?;
    Ok(bound)
}

/// A listening stream socket at `path`, blocking, with the mode right from birth. A stale name is taken over. Errors:
/// those of bind(2), EADDRINUSE for a name that somebody uses among them.
pub fn listen(path: &Path, mode: u32) -> io::Result<(OwnedFd, BoundPath)> {
    if occupant(path)? == Occupant::Stale {
        fs::remove_file(path)?;
    }
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = bind(fd.as_fd(), path, Birth { mode, owner: (None, None), at_once: false })?;
    super::socket::listen(fd.as_fd(), u32::MAX).inspect_err(|_| {
        bound.remove();
    })?;
    Ok((fd, bound))
}

fn bind_short(fd: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<()> {
    let (address, _folder) = address(path)?;
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    // The new inode gets the socket's own mode, less the umask.
    fchmod(fd, mode)?;
    let guard = UMASK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = umask(!mode & Mode::from_bits_truncate(0o777));
    let result = nix::sys::socket::bind(fd.as_raw_fd(), &address);
    umask(before);
    drop(guard);
    Ok(result?)
}

/// For a last component that fits no sockaddr: bound under a short name, then linked to the long one.
fn bind_and_link(fd: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<()> {
    let temporary = sibling(path, "bind")?;
    bind_short(fd, &temporary, mode)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked
}

/// A fresh hidden name in the folder of `path`.
pub fn sibling(path: &Path, tag: &str) -> io::Result<PathBuf> {
    let (folder, _) = split(path)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ok(folder.join(format!(".aeterna-{tag}-{}-{number}", std::process::id())))
}

/// The hidden name beside `path` that keeps or holds a socket: `.NAME.aeterna` and `tag`.
pub fn hidden(path: &Path, tag: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".aeterna");
    name.push(tag);
    path.with_file_name(name)
}

/// Makes `to` a second name of the inode `from`, atomically replacing what `to` stood for.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    if identity(from).is_some() && identity(from) == identity(to) {
        // rename(2) between two names of one inode does nothing and would leave the temporary one behind.
        return Ok(());
    }
    let temporary = sibling(to, "link")?;
    fs::hard_link(from, &temporary)?;
    fs::rename(&temporary, to).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Makes each alias a symbolic link to `target`; what went wrong, as sentences. A link that already points
/// there is left; anything else at that name is left too and reported.
pub fn make_aliases(target: &Path, aliases: &[String], directory_mode: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    for alias in aliases {
        let path = Path::new(alias);
        if fs::read_link(path).is_ok_and(|to| to == target) {
            continue;
        }
        let made = make_parents(path, directory_mode).and_then(|()| std::os::unix::fs::symlink(target, path));
        if let Err(error) = made {
            let why = crate::sys::socket::errno_text(&error);
            warnings.push(format!("cannot make the symbolic link {alias} to {}: {why}", target.display()));
        }
    }
    warnings
}

/// Removes each alias that is a symbolic link to `target`.
pub fn remove_aliases(target: &Path, aliases: &[String]) {
    for alias in aliases {
        if fs::read_link(alias).is_ok_and(|to| to == target) {
            let _ = fs::remove_file(alias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn stream() -> OwnedFd {
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap()
    }

    const PLAIN: Birth = Birth { mode: 0o666, owner: (None, None), at_once: false };

    #[test]
    fn the_mode_is_right_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666, 0o777] {
            let path = dir.path().join(format!("{mode:o}"));
            let fd = stream();
            let bound = bind(fd.as_fd(), &path, Birth { mode, ..PLAIN }).unwrap();
            assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, mode);
            assert!(bound.is_ours());
        }
    }

    #[test]
    fn an_owner_is_set() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root can give a file away");
        }
        let dir = tempfile::tempdir().unwrap();
        for at_once in [false, true] {
            let path = dir.path().join(format!("s{at_once}"));
            let fd = stream();
            bind(fd.as_fd(), &path, Birth { mode: 0o620, owner: (Some(12), Some(34)), at_once }).unwrap();
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12, 34, 0o620));
        }
    }

    #[test]
    fn long_paths_work() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        for name in ["s".to_owned(), "n".repeat(200)] {
            let path = deep.join(name);
            make_parents(&path, 0o755).unwrap();
            let fd = stream();
            bind(fd.as_fd(), &path, PLAIN).unwrap();
            assert!(path.metadata().unwrap().file_type().is_socket());
        }
        let path = deep.join("s");
        assert_eq!(occupant(&path).unwrap(), Occupant::Stale);
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 2, "no temporary name stays");
    }

    #[test]
    fn stale_live_and_foreign_names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(occupant(&at("none")).unwrap(), Occupant::Nobody);
        let listener = UnixListener::bind(at("l")).unwrap();
        let datagram = UnixDatagram::bind(at("d")).unwrap();
        assert_eq!(occupant(&at("l")).unwrap(), Occupant::Live);
        assert_eq!(occupant(&at("d")).unwrap(), Occupant::Live);
        drop((listener, datagram));
        // A child of another test may have copies for as long as it has not yet executed.
        while ["l", "d"].iter().any(|name| occupant(&at(name)).unwrap() == Occupant::Live) {}
        assert_eq!(occupant(&at("l")).unwrap(), Occupant::Stale);
        assert_eq!(occupant(&at("d")).unwrap(), Occupant::Stale);
        std::os::unix::fs::symlink(at("l"), at("link")).unwrap();
        fs::write(at("file"), "x").unwrap();
        assert_eq!(occupant(&at("link")).unwrap(), Occupant::NotASocket);
        assert_eq!(occupant(&at("file")).unwrap(), Occupant::NotASocket);
    }

    #[test]
    fn only_our_own_inode_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fd = stream();
        let bound = bind(fd.as_fd(), &path, PLAIN).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert!(!bound.remove());
        assert!(path.exists());
    }

    #[test]
    fn publishing_switches_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let a = UnixListener::bind(at("a")).unwrap();
        let b = UnixListener::bind(at("b")).unwrap();
        for (name, listener) in [("a", &a), ("b", &b), ("b", &b), ("a", &a)] {
            publish(&at(name), &at("s")).unwrap();
            let _client = UnixStream::connect(at("s")).unwrap();
            listener.accept().unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn aliases_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("s");
        let taken = dir.path().join("taken");
        fs::write(&taken, "x").unwrap();
        let alias = dir.path().join("sub/alias");
        let names = [alias.display().to_string(), taken.display().to_string()];
        let warnings = make_aliases(&target, &names, 0o755);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(fs::read_link(&alias).unwrap(), target);
        remove_aliases(&target, &names);
        assert!(fs::symlink_metadata(&alias).is_err());
        assert!(taken.exists());
    }
}
