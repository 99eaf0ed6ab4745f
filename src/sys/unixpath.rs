//! Names of AF_UNIX sockets in the file system: unix(7), "Pathname socket ownership and permissions".
//!
//! The folder of a name is opened once and kept ([`super::dir`]). What is done to a name is done there, and only to an inode
//! that was looked at: that it is a socket, and the very one that we hold. A name is removed only if it is ours or proved
//! stale: a socket that refuses connections.

use super::dir::{Folder, Kind, Node};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, fchmod};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The longest `sun_path` without its final NUL byte, in bytes.
pub const SUN_PATH_MAX: usize = 107;

/// Numbers temporary names.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name and the inode that it stood for when we made it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Record", into = "Record")]
pub struct BoundPath {
    /// The name as people know it, absolute.
    pub path: PathBuf,
    /// Device and inode number.
    pub inode: (u64, u64),
    folder: Arc<Folder>,
    name: OsString,
}

/// What is written down of a name.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    path: PathBuf,
    inode: (u64, u64),
}

impl From<BoundPath> for Record {
    fn from(bound: BoundPath) -> Record {
        Record { path: bound.path, inode: bound.inode }
    }
}

impl TryFrom<Record> for BoundPath {
    type Error = io::Error;

    /// Whether the name is still ours is looked at whenever it matters. Where its folder cannot be opened any more it is
    /// a name that nothing has.
    fn try_from(record: Record) -> io::Result<BoundPath> {
        let Record { path, inode } = record;
        let (folder, name) = match Folder::of(&path) {
            Ok(found) => found,
            Err(_) => (Folder::open(Path::new("/"))?, OsString::new()),
        };
        Ok(BoundPath { path, inode, folder: Arc::new(folder), name })
    }
}

/// Device and inode number behind a name; `None` if there is nothing or nobody may look.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    let (folder, name) = Folder::of(path).ok()?;
    folder.inode_at(&name)
}

impl BoundPath {
    /// What `path` stands for now.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn of(path: &Path) -> io::Result<BoundPath> {
        let (folder, name) = Folder::of(path)?;
        let inode = folder.inode_at(&name).ok_or(io::ErrorKind::NotFound)?;
        Ok(BoundPath { path: path.to_path_buf(), inode, folder: Arc::new(folder), name })
    }

    /// Whether the name still stands for our inode.
    pub fn is_ours(&self) -> bool {
        self.folder.inode_at(&self.name) == Some(self.inode)
    }

    /// Whether our inode has more names than this one.
    pub fn has_other_names(&self) -> bool {
        self.node().is_ok_and(|node| node.names() > 1)
    }

    /// Removes the name if it is still ours; whether it was.
    pub fn remove(&self) -> bool {
        self.folder.remove_if(&self.name, self.inode)
    }

    /// Our inode, if the name still stands for it.
    fn node(&self) -> io::Result<Node> {
        let node = self.folder.node(&self.name)?;
        node.filter(|node| node.inode() == self.inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes a second name in the same folder.
    ///
    /// # Errors
    /// Those of link(2); `NotFound` if the name is not ours any more.
    pub fn link(&self, name: &OsStr) -> io::Result<BoundPath> {
        self.folder.link(&self.node()?, name)?;
        Ok(self.beside(name))
    }

    /// Makes `other`, in whatever folder, a name of our inode.
    ///
    /// # Errors
    /// Those of link(2); `NotFound` if the name is not ours any more.
    pub fn link_at(&self, other: &BoundPath) -> io::Result<()> {
        other.folder.link(&self.node()?, &other.name)
    }

    /// Makes `other` a name of our inode, atomically replacing what it stood for.
    ///
    /// # Errors
    /// Those of link(2) and rename(2); `NotFound` if the name is not ours any more.
    pub fn replace(&self, other: &Site) -> io::Result<BoundPath> {
        let bound = BoundPath {
            path: other.path.clone(),
            inode: self.inode,
            folder: Arc::clone(&other.folder),
            name: other.name.clone(),
        };
        // rename(2) between two names of one inode does nothing and would leave the temporary one behind.
        if !bound.is_ours() {
            let temporary = temporary_name("link");
            other.folder.link(&self.node()?, &temporary)?;
            other.folder.rename(&temporary, &other.name).inspect_err(|_| {
                let _ = other.folder.remove(&temporary);
            })?;
        }
        Ok(bound)
    }

    /// Another name of our inode in the same folder, if there is one.
    pub fn other_name(&self) -> Option<BoundPath> {
        self.folder.names_of(self.inode).into_iter().find(|name| *name != self.name).map(|n| self.beside(&n))
    }

    /// Gives our inode another name of the same folder instead of this one, replacing what stood there.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn rename(&self, name: &OsStr) -> io::Result<BoundPath> {
        self.folder.rename(&self.name, name)?;
        Ok(self.beside(name))
    }

    fn beside(&self, name: &OsStr) -> BoundPath {
        BoundPath {
            path: self.path.with_file_name(name),
            inode: self.inode,
            folder: Arc::clone(&self.folder),
            name: name.to_owned(),
        }
    }

    /// The name's place.
    pub fn place(&self) -> Site {
        Site { path: self.path.clone(), folder: Arc::clone(&self.folder), name: self.name.clone() }
    }

    /// Sets owner and mode of our inode; nothing if the name is not ours any more.
    ///
    /// # Errors
    /// Those of chown(2) and chmod(2).
    pub fn set_access(&self, owner: (Option<u32>, Option<u32>), mode: u32) -> io::Result<()> {
        let Ok(node) = self.node() else { return Ok(()) };
        if node.mode() != mode & 0o7777 {
            node.set_mode(mode)?;
        }
        if owner != (None, None) {
            node.set_owner(owner.0, owner.1)?;
        }
        Ok(())
    }
}

/// Where a name is or will be.
#[derive(Debug, Clone)]
pub struct Site {
    /// As people know it, absolute.
    pub path: PathBuf,
    folder: Arc<Folder>,
    name: OsString,
}

impl Site {
    /// Opens the folder of a path.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn of(path: &Path) -> io::Result<Site> {
        let (folder, name) = Folder::of(path)?;
        Ok(Site { path: path.to_path_buf(), folder: Arc::new(folder), name })
    }

    /// A name in a folder that is open already: the last component of a path that leads there.
    pub fn in_folder(folder: Arc<Folder>, path: PathBuf) -> Site {
        let name = path.file_name().unwrap_or_default().to_owned();
        Site { path, folder, name }
    }

    /// The same; the folders that are missing are made with exactly `mode`.
    ///
    /// # Errors
    /// Those of open(2) and mkdir(2).
    pub fn make(path: &Path, mode: u32) -> io::Result<Site> {
        let folder = Arc::new(Folder::make(path.parent().unwrap_or(Path::new("/")), mode)?);
        let name = path.file_name().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?.to_owned();
        Ok(Site { path: path.to_path_buf(), folder, name })
    }

    /// The same folder, under the last component of a path that leads there.
    pub fn named(&self, path: &Path) -> Site {
        let name = path.file_name().unwrap_or_default().to_owned();
        Site { path: path.to_path_buf(), folder: Arc::clone(&self.folder), name }
    }

    /// Another name in the same folder.
    pub fn beside(&self, name: OsString) -> Site {
        Site { path: self.path.with_file_name(&name), folder: Arc::clone(&self.folder), name }
    }

    /// The folder.
    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// The name in it.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// What `file` stands for here, if it does.
    ///
    /// # Errors
    /// Those of fstat(2); `NotFound` if the name is another one's.
    pub fn bound(&self, file: BorrowedFd<'_>) -> io::Result<BoundPath> {
        let stat = nix::sys::stat::fstat(file)?;
        let bound = BoundPath {
            path: self.path.clone(),
            inode: (stat.st_dev, stat.st_ino),
            folder: Arc::clone(&self.folder),
            name: self.name.clone(),
        };
        if bound.is_ours() { Ok(bound) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Device and inode number behind it.
    pub fn identity(&self) -> Option<(u64, u64)> {
        self.folder.inode_at(&self.name)
    }

    /// The name, if it is that of a socket that somebody else has bound here.
    ///
    /// # Errors
    /// A sentence: the name is gone, or stands for something else.
    pub fn of_socket(&self, socket: BorrowedFd<'_>) -> io::Result<BoundPath> {
        let node = self.folder.node(&self.name)?.ok_or(io::ErrorKind::NotFound)?;
        if !is_name_of(&node, socket) {
            return Err(io::Error::other("the name stands for something else than the socket"));
        }
        Ok(BoundPath {
            path: self.path.clone(),
            inode: node.inode(),
            folder: Arc::clone(&self.folder),
            name: self.name.clone(),
        })
    }
}

impl Site {
    /// Another name in this folder that the socket has which was bound here: it was renamed since.
    pub fn moved_to(&self, socket: BorrowedFd<'_>) -> Option<BoundPath> {
        let (device, _) = self.folder.identity()?;
        let inode = match node_of(socket) {
            Ok(node) => node.inode(),
            Err(_) => (device, super::sockdiag::unix_vfs_inode(socket).ok()??.into()),
        };
        let name = self.folder.names_of(inode).into_iter().next()?;
        self.beside(name).of_socket(socket).ok()
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

/// What stands at a name that is wanted for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nobody,
    /// A socket that refuses connections: its owner is gone. Device and inode number.
    Stale((u64, u64)),
    /// A socket that somebody serves (or that nobody lets us ask).
    Live,
    /// A file, a folder, a symbolic link…
    NotASocket,
}

/// Looks who is at a place, by connecting to the very socket without waiting.
///
/// # Errors
/// Those of open(2) and socket(2).
pub fn occupant(place: &Site) -> io::Result<Occupant> {
    let Some(node) = place.folder.node(&place.name)? else { return Ok(Occupant::Nobody) };
    if node.kind() != Kind::Socket {
        return Ok(Occupant::NotASocket);
    }
    let address = UnixAddr::new(&node.path())?;
    for kind in [SockType::Stream, SockType::Datagram, SockType::SeqPacket] {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let probe = socket(AddressFamily::Unix, kind, flags, None)?;
        match connect(probe.as_raw_fd(), &address) {
            Err(nix::errno::Errno::ECONNREFUSED) => return Ok(Occupant::Stale(node.inode())),
            // Another type of socket lives there: only its own type tells whether somebody serves it.
            Err(nix::errno::Errno::EPROTOTYPE) => {}
            Ok(()) | Err(_) => return Ok(Occupant::Live),
        }
    }
    Ok(Occupant::Live)
}

/// Removes what is stale at a place; what is there otherwise stays.
///
/// # Errors
/// Those of [`occupant`].
pub fn remove_stale(place: &Site) -> io::Result<()> {
    if let Occupant::Stale(inode) = occupant(place)? {
        place.folder.remove_if(&place.name, inode);
    }
    Ok(())
}

/// Binds `fd` to a place, which must be free, with the mode right from birth and the owner right before the
/// caller's listen(2). Any length of path. Errors: those of bind(2), chown(2); a sentence if somebody has moved the
/// folder or the name meanwhile.
pub fn bind(fd: BorrowedFd<'_>, place: &Site, birth: Birth) -> io::Result<BoundPath> {
    let has_owner = birth.owner != (None, None);
    // Nobody but root gets more than that from it, and the owner's part stays: to change it afterwards takes CAP_FOWNER.
    let first_mode = if birth.at_once && has_owner { birth.mode & 0o700 } else { birth.mode };
    match bind_short(fd, place, first_mode) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENAMETOOLONG) => {
            bind_and_link(fd, place, first_mode)?;
        }
        other => other?,
    }
    let node = match place.folder.node(&place.name)?.filter(|node| is_name_of(node, fd)) {
        Some(node) => node,
        None => {
            remove_stray(fd);
            return Err(io::Error::other("somebody has changed its folder or its name meanwhile"));
        }
    };
    let bound = BoundPath {
        path: place.path.clone(),
        inode: node.inode(),
        folder: Arc::clone(&place.folder),
        name: place.name.clone(),
    };
    let finish = || -> io::Result<()> {
        // While it is ours.
        if first_mode == birth.mode && node.mode() != birth.mode & 0o7777 {
            node.set_mode(birth.mode)?;
        }
        if has_owner {
            node.set_owner(birth.owner.0, birth.owner.1)?;
        }
        if first_mode != birth.mode {
            node.set_mode(birth.mode)?;
        }
        Ok(())
    };
    finish().inspect_err(|_| {
        bound.remove();
    })?;
    Ok(bound)
}

/// Whether a name stands for this very socket.
fn is_name_of(node: &Node, socket: BorrowedFd<'_>) -> bool {
    if node.kind() != Kind::Socket {
        return false;
    }
    if let Ok(own) = node_of(socket) {
        return own.inode() == node.inode();
    }
    match super::sockdiag::unix_vfs_inode(socket) {
        Ok(Some(inode)) => inode == node.inode().1 as u32,
        Ok(None) => false,
        // A kernel that tells neither: then it must at least be one that nobody has lent another name.
        Err(_) => node.names() == 1,
    }
}

/// The inode in the file system that a socket was bound to, whatever its names are now: `SIOCUNIXFILE`.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN; `ENOENT` if it is not bound to a path.
pub fn node_of(socket: BorrowedFd<'_>) -> io::Result<Node> {
    const SIOCUNIXFILE: u64 = 0x89e0;
    // SAFETY: this request takes no argument and returns a number.
    let raw = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE as _, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    Node::new(fd)
}

/// Removes the name of a socket that was not made where it should be, wherever that is.
fn remove_stray(socket: BorrowedFd<'_>) {
    let find = || -> io::Result<()> {
        let node = node_of(socket)?;
        let at = nix::fcntl::readlink(&node.path())?;
        let (folder, name) = Folder::of(Path::new(&at))?;
        folder.remove_if(&name, node.inode());
        Ok(())
    };
    // Where it cannot be found it stays: a socket that nobody serves.
    let _ = find();
}

/// A listening stream socket at `path`, blocking, with the mode right from birth. A stale name is taken over. Errors:
/// those of bind(2), EADDRINUSE for a name that somebody uses among them.
pub fn listen(path: &Path, mode: u32) -> io::Result<(OwnedFd, BoundPath)> {
    let place = Site::of(path)?;
    remove_stale(&place)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let bound = bind(fd.as_fd(), &place, Birth { mode, owner: (None, None), at_once: false })?;
    super::socket::listen(fd.as_fd(), u32::MAX).inspect_err(|_| {
        bound.remove();
    })?;
    Ok((fd, bound))
}

/// bind(2) under the path itself, which getsockname(2) then shows; through the open folder where that is too long.
fn bind_short(fd: BorrowedFd<'_>, place: &Site, mode: u32) -> io::Result<()> {
    let through = place.folder.path_of(&place.name);
    let fits = |path: &Path| path.as_os_str().len() <= SUN_PATH_MAX;
    let path = [&place.path, &through].into_iter().find(|path| fits(path));
    let address = UnixAddr::new(path.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENAMETOOLONG))?)?;
    let mode = Mode::from_bits_truncate(mode & 0o7777);
    // The new inode gets the socket's own mode, less what our umask takes: whoever has made sure of it gives that back.
    fchmod(fd, mode)?;
    Ok(nix::sys::socket::bind(fd.as_raw_fd(), &address)?)
}

/// For a last component that fits no sockaddr: bound under a short name, then linked to the long one.
fn bind_and_link(fd: BorrowedFd<'_>, place: &Site, mode: u32) -> io::Result<()> {
    let temporary = place.beside(temporary_name("bind"));
    bind_short(fd, &temporary, mode)?;
    let node = temporary.folder.node(&temporary.name)?.filter(|node| is_name_of(node, fd));
    let linked = match &node {
        Some(node) => place.folder.link(node, &place.name),
        None => Err(io::Error::other("somebody has changed its name meanwhile")),
    };
    if let Some(node) = node {
        temporary.folder.remove_if(&temporary.name, node.inode());
    }
    linked
}

/// What fresh hidden names begin with.
pub const TEMPORARY: &str = ".aeterna-";

/// A fresh hidden name.
fn temporary_name(tag: &str) -> OsString {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{TEMPORARY}{tag}-{}-{number}", std::process::id()).into()
}

/// A fresh hidden name in the folder of a place.
pub fn sibling(place: &Site, tag: &str) -> Site {
    place.beside(temporary_name(tag))
}

/// The hidden name beside another one that keeps or holds a socket: `.NAME.aeterna` and `tag`.
pub fn hidden(name: &OsStr, tag: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".aeterna");
    hidden.push(tag);
    hidden
}

/// Makes each alias a symbolic link to `target`; what went wrong, as sentences. A link that already points
/// there is left; anything else at that name is left too and reported.
pub fn make_aliases(target: &Path, aliases: &[String], directory_mode: u32) -> Vec<String> {
    let mut warnings = Vec::new();
    for alias in aliases {
        let make = || -> io::Result<()> {
            let place = Site::make(Path::new(alias), directory_mode)?;
            if place.folder.link_target(&place.name).is_some_and(|to| to == target) {
                return Ok(());
            }
            place.folder.symlink(target, &place.name)
        };
        if let Err(error) = make() {
            let why = crate::sys::socket::errno_text(&error);
            warnings.push(format!("cannot make the symbolic link {alias} to {}: {why}", target.display()));
        }
    }
    warnings
}

/// Removes each alias that is a symbolic link to `target`.
pub fn remove_aliases(target: &Path, aliases: &[String]) {
    for alias in aliases {
        let Ok(place) = Site::of(Path::new(alias)) else { continue };
        if place.folder.link_target(&place.name).is_some_and(|to| to == target) {
            let _ = place.folder.remove(&place.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn stream() -> OwnedFd {
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap()
    }

    fn at_once(path: &Path) -> Occupant {
        occupant(&Site::of(path).unwrap()).unwrap()
    }

    fn is_stale(path: &Path) -> bool {
        matches!(at_once(path), Occupant::Stale(_))
    }

    const PLAIN: Birth = Birth { mode: 0o666, owner: (None, None), at_once: false };

    #[test]
    fn the_mode_is_right_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666, 0o777] {
            let path = dir.path().join(format!("{mode:o}"));
            let fd = stream();
            let bound = bind(fd.as_fd(), &Site::of(&path).unwrap(), Birth { mode, ..PLAIN }).unwrap();
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
            bind(
                fd.as_fd(),
                &Site::of(&path).unwrap(),
                Birth { mode: 0o620, owner: (Some(12), Some(34)), at_once },
            )
            .unwrap();
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
            let fd = stream();
            bind(fd.as_fd(), &Site::make(&path, 0o755).unwrap(), PLAIN).unwrap();
            assert!(path.metadata().unwrap().file_type().is_socket());
        }
        let path = deep.join("s");
        assert!(is_stale(&path));
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 2, "no temporary name stays");
    }

    #[test]
    fn stale_live_and_foreign_names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(at_once(&at("none")), Occupant::Nobody);
        let listener = UnixListener::bind(at("l")).unwrap();
        let datagram = UnixDatagram::bind(at("d")).unwrap();
        assert_eq!(at_once(&at("l")), Occupant::Live);
        assert_eq!(at_once(&at("d")), Occupant::Live);
        drop((listener, datagram));
        // A child of another test may have copies for as long as it has not yet executed.
        while ["l", "d"].iter().any(|name| at_once(&at(name)) == Occupant::Live) {}
        assert!(is_stale(&at("l")));
        assert!(is_stale(&at("d")));
        std::os::unix::fs::symlink(at("l"), at("link")).unwrap();
        fs::write(at("file"), "x").unwrap();
        assert_eq!(at_once(&at("link")), Occupant::NotASocket);
        assert_eq!(at_once(&at("file")), Occupant::NotASocket);
    }

    #[test]
    fn only_our_own_inode_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fd = stream();
        let bound = bind(fd.as_fd(), &Site::of(&path).unwrap(), PLAIN).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert!(!bound.remove());
        assert!(path.exists());
    }

    /// Runs `bind` again and again while somebody who may write to `dir` puts other things in its place.
    fn race(dir: &Path, name: &str, target: &Path, bind: impl Fn() -> bool) {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (link, wanted) = (dir.join("link"), dir.join(name));
        let hard = dir.join("hard");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = fs::remove_file(&link);
                    let _ = std::os::unix::fs::symlink(target, &link);
                    let _ = renameat2(AT_FDCWD, &link, AT_FDCWD, &wanted, RenameFlags::RENAME_EXCHANGE);
                    let _ = fs::remove_file(&wanted);
                    let _ = fs::hard_link(target, &hard);
                    let _ = renameat2(AT_FDCWD, &hard, AT_FDCWD, &wanted, RenameFlags::RENAME_EXCHANGE);
                    let _ = (fs::remove_file(&wanted), fs::remove_file(&hard));
                }
            });
            let bound = (0..20_000).filter(|_| bind()).count();
            stop.store(true, Ordering::Relaxed);
            println!("{bound} times bound");
        });
    }

    #[test]
    fn nobody_makes_us_change_or_remove_another_file() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root can give a file away");
        }
        let dir = tempfile::tempdir().unwrap();
        let (app, target) = (dir.path().join("app"), dir.path().join("secret"));
        fs::create_dir(&app).unwrap();
        fs::write(&target, "secret").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        set(&target, 0o600);
        let path = app.join("s");
        for at_once in [true, false] {
            race(&app, "s", &target, || {
                let fd = stream();
                let birth = Birth { mode: 0o666, owner: (Some(4_242), Some(4_242)), at_once };
                let Ok(site) = Site::of(&path) else { return false };
                let Ok(bound) = bind(fd.as_fd(), &site, birth) else { return false };
                // What `keep`, a repair and a stop do.
                let second = bound.link(&hidden(OsStr::new("s"), ""));
                let _ = bound.set_access((Some(4_242), None), 0o666);
                let _ = bound.replace(&site);
                if let Ok(second) = second {
                    let _ = second.link_at(&bound);
                    second.remove();
                }
                bound.remove();
                true
            });
            let found = fs::metadata(&target).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
            assert_eq!(fs::read_to_string(&target).unwrap(), "secret");
        }
    }

    #[test]
    fn a_folder_that_is_switched_meanwhile_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("app/run")).unwrap();
        fs::create_dir(at("roots")).unwrap();
        let path = at("app/run/s");
        let site = Site::of(&path).unwrap();
        fs::rename(at("app/run"), at("app/old")).unwrap();
        std::os::unix::fs::symlink(at("roots"), at("app/run")).unwrap();
        let fd = stream();
        let error = bind(fd.as_fd(), &site, PLAIN).unwrap_err();
        assert!(error.to_string().contains("changed its folder"), "{error}");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(fs::read_dir(at("roots")).unwrap().count(), 0, "it is taken away again");
        }
        assert_eq!(fs::read_dir(at("app/old")).unwrap().count(), 0);
    }

    #[test]
    fn a_name_is_learned_only_if_it_is_the_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let [ours, other] = ["ours", "other"].map(|name| UnixListener::bind(at(name)).unwrap());
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("ours"), at("link")).unwrap();
        let learn = |socket: BorrowedFd<'_>, name: &str| Site::of(&at(name)).unwrap().of_socket(socket);
        assert!(learn(ours.as_fd(), "ours").is_ok_and(|found| found.is_ours()));
        fs::hard_link(at("ours"), at("second")).unwrap();
        assert!(learn(ours.as_fd(), "second").is_ok());
        for name in ["other", "file", "link", "none"] {
            assert!(learn(ours.as_fd(), name).is_err(), "{name}");
        }
        assert!(learn(other.as_fd(), "ours").is_err());
        assert!(learn(stream().as_fd(), "ours").is_err(), "bound to nothing");
    }

    #[test]
    fn publishing_switches_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let a = UnixListener::bind(at("a")).unwrap();
        let b = UnixListener::bind(at("b")).unwrap();
        for (name, listener) in [("a", &a), ("b", &b), ("b", &b), ("a", &a)] {
            BoundPath::of(&at(name)).unwrap().replace(&Site::of(&at("s")).unwrap()).unwrap();
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
