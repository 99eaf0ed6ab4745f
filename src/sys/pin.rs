//! What a name meant when it was looked at: a file or a folder held by a descriptor that opens nothing (O_PATH), and
//! where it was. Only files of this machine's own file systems are held ([`near`]): what a server or a program shows could
//! keep whoever looks at it. Any thread.
//!
//! A held descriptor keeps a file that was replaced by rename, or removed, for as long as it is held: its space on the
//! disk too, and umount(8) says "target is busy".

use super::near;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Which file, and what it was like. Renaming, unlinking and chmod change none of this; writing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// Its bytes; 0 for a folder, whose entries come and go.
    pub size: u64,
    /// When it was written last, seconds and nanoseconds since 1970; 0 for a folder.
    pub mtime: (i64, i64),
}

/// [`Identity`], and when anything about the file changed: seconds and nanoseconds. Nobody can set that one back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which file.
    pub identity: Identity,
    /// The last change.
    pub ctime: (i64, i64),
}

/// How long ago a file must have been changed for its stamp to tell, seconds: FAT's clock is the coarsest.
const SETTLED: f64 = 3.0;

/// What the first bytes of a file say about how it is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A native program: can be executed by its descriptor.
    Elf,
    /// `#!`: its interpreter opens it by its name.
    Script,
    /// Something else, or nobody may read it.
    Unknown,
    /// A folder.
    Folder,
}

/// What a pin's name leads to now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Look {
    /// To the same as then.
    Same,
    /// To another.
    Replaced,
    /// To nothing.
    Removed,
    /// The file itself was written to since, at this time (seconds since 1970): what it was is nowhere any more.
    Overwritten(f64),
}

/// A name and what it meant.
#[derive(Debug)]
pub struct Pin {
    fd: OwnedFd,
    name: PathBuf,
    real: Option<PathBuf>,
    was: Identity,
    kind: Kind,
    /// The sum that was read of it, and what it was like then.
    sum: Mutex<Option<(Stamp, [u8; 32])>>,
}

impl Identity {
    fn of(about: &FileStat) -> Identity {
        let folder = is(about, SFlag::S_IFDIR);
        #[expect(clippy::unnecessary_cast, reason = "its width depends on the architecture")]
        Identity {
            dev: about.st_dev as u64,
            ino: about.st_ino as u64,
            size: if folder { 0 } else { about.st_size as u64 },
            mtime: if folder { (0, 0) } else { (about.st_mtime as i64, about.st_mtime_nsec as i64) },
        }
    }

    /// Whether both are the same file, whatever was written to it.
    pub fn same_file(&self, other: &Identity) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// What a name leads to now.
///
/// # Errors
/// Those of stat(2), and of [`near::open`].
pub fn identity(path: &Path) -> io::Result<Identity> {
    Ok(Identity::of(&fstat(near::open(None, path)?)?))
}

impl Pin {
    /// What [`Pin::restored`] makes it of.
    pub fn parts(&self) -> (BorrowedFd<'_>, &Path, Option<&Path>, Identity, Kind) {
        (self.fd.as_fd(), &self.name, self.real.as_deref(), self.was, self.kind)
    }

    /// One that a program before this one has held.
    pub fn restored(fd: OwnedFd, name: PathBuf, real: Option<PathBuf>, was: Identity, kind: Kind) -> Pin {
        Pin { fd, name, real, was, kind, sum: Mutex::new(None) }
    }

    /// A program: the folder in `path` is resolved, the last component is not, because programs go by their names
    /// (busybox, a Python environment). `path` is absolute.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` if it is there and cannot be executed (a folder, no x bit); those of [`near::open`].
    pub fn program(path: &Path) -> io::Result<Pin> {
        let (Some(parent), Some(last)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::PermissionDenied.into());
        };
        let folder = near::open(None, parent).map_err(missing)?;
        let fd = near::open(Some(folder.as_fd()), Path::new(last)).map_err(missing)?;
        let about = fstat(&fd)?;
        if !is(&about, SFlag::S_IFREG) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let held = format!("/proc/self/fd/{}", fd.as_raw_fd());
        match faccessat(AT_FDCWD, held.as_str(), AccessFlags::X_OK, AtFlags::AT_EACCESS) {
            // Without /proc.
            Err(Errno::ENOENT) => faccessat(&folder, last, AccessFlags::X_OK, AtFlags::AT_EACCESS)?,
            allowed => allowed?,
        }
        let name = resolved(folder.as_fd(), parent)?.join(last);
        let link =
            fstatat(&folder, last, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|at| is(&at, SFlag::S_IFLNK));
        let real = if link { resolved(fd.as_fd(), path).ok() } else { None };
        let kind = kind(fd.as_fd());
        Ok(Pin { fd, name, real, was: Identity::of(&about), kind, sum: Mutex::new(None) })
    }

    /// A folder, or a file that is not executed: resolved to the end.
    ///
    /// # Errors
    /// `InvalidInput` for what is neither; those of [`near::open`].
    pub fn place(path: &Path) -> io::Result<Pin> {
        let fd = near::open(None, path)?;
        let about = fstat(&fd)?;
        let kind = match (is(&about, SFlag::S_IFDIR), is(&about, SFlag::S_IFREG)) {
            (true, _) => Kind::Folder,
            (_, true) => Kind::Unknown,
            _ => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "it is neither a folder nor a file"));
            }
        };
        let name = resolved(fd.as_fd(), path)?;
        Ok(Pin { fd, name, real: None, was: Identity::of(&about), kind, sum: Mutex::new(None) })
    }

    /// Its descriptor: for execveat(2), not for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its name: the real folder, and of a program the last component as it was given.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Where a program's name led to, if that was a link.
    pub fn real(&self) -> Option<&Path> {
        self.real.as_deref()
    }

    /// Which file, as it was then.
    pub fn was(&self) -> Identity {
        self.was
    }

    /// How it is executed.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is like now, wherever its name leads.
    ///
    /// # Errors
    /// Those of fstat(2): `ESTALE` if a server has lost it.
    pub fn stamp(&self) -> io::Result<Stamp> {
        let about = fstat(&self.fd)?;
        Ok(Stamp {
            identity: Identity::of(&about),
            ctime: (about.st_ctime as i64, about.st_ctime_nsec as i64),
        })
    }

    /// It was read through, and has this SHA-256 sum; `stamp` is from before that. `now` is the time, seconds since 1970.
    pub fn has_sum(&self, sum: [u8; 32], stamp: Stamp, now: f64) {
        // A file that was changed a moment ago may be changed again within the same tick of its file system's clock, unseen.
        let is_settled = stamp.ctime.0 as f64 + SETTLED < now;
        *self.sum.lock().unwrap_or_else(PoisonError::into_inner) = is_settled.then_some((stamp, sum));
    }

    /// Whether it is known to have this sum still: it was read, and nothing about it has changed since.
    pub fn is_known_by(&self, sum: &[u8; 32], stamp: &Stamp) -> bool {
        let known = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|(was, known)| was == stamp && known == sum)
    }

    /// Whether `path` is its name, without any link, and leads to it still, as it was: what most loads find, and for less than
    /// half of what [`Pin::program`] does. `false` says nothing.
    pub fn is_still_at(&self, path: &Path) -> bool {
        let straight = || near::open_straight(path);
        if self.real.is_some() || path.as_os_str() != self.name.as_os_str() {
            return false;
        }
        let Some(fd) = straight() else { return false };
        let same = fstat(&fd).is_ok_and(|about| Identity::of(&about) == self.was);
        same && (self.kind == Kind::Folder
            || faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok())
    }

    /// Whether both are the same file under the same name.
    pub fn is_as(&self, other: &Pin) -> bool {
        (&self.name, &self.real, self.was) == (&other.name, &other.real, other.was)
    }

    /// What its name leads to now.
    pub fn look(&self) -> Look {
        let Ok(about) = fstat(&self.fd) else { return Look::Removed };
        let now = Identity::of(&about);
        if now != self.was {
            return Look::Overwritten(now.mtime.0 as f64 + now.mtime.1 as f64 / 1e9);
        }
        match identity(&self.name) {
            Ok(there) if there.same_file(&self.was) => Look::Same,
            Ok(_) => Look::Replaced,
            Err(_) => Look::Removed,
        }
    }

    /// Whether it can still be run: by its name, by what that led to, or by its descriptor. A script only by a name.
    pub fn runs(&self) -> bool {
        match self.look() {
            Look::Same => true,
            Look::Overwritten(_) => false,
            Look::Replaced | Look::Removed => self.is_real_still() || self.by_descriptor(),
        }
    }

    /// Whether a process may be made of it without any name of it.
    pub fn by_descriptor(&self) -> bool {
        matches!(self.kind, Kind::Elf | Kind::Unknown)
    }

    fn is_real_still(&self) -> bool {
        let there = self.real.as_deref().map(identity);
        matches!(there, Some(Ok(there)) if there.same_file(&self.was))
    }

    /// The bytes on the disk that only we hold: of a file that has no name any more.
    pub fn held_bytes(&self) -> u64 {
        match fstat(&self.fd) {
            Ok(about) if about.st_nlink == 0 && self.kind != Kind::Folder => about.st_blocks as u64 * 512,
            _ => 0,
        }
    }

    /// Opens it for reading, whatever its name leads to now.
    ///
    /// # Errors
    /// Those of open(2). Without /proc only while the name still leads to it.
    pub fn read(&self) -> io::Result<std::fs::File> {
        let held = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        match open(Path::new(&held), flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                let fd = open(self.name.as_path(), flags, Mode::empty())?;
                let same = Identity::of(&fstat(&fd)?).same_file(&self.was);
                if same { Ok(fd.into()) } else { Err(ErrorKind::NotFound.into()) }
            }
            opened => Ok(opened?.into()),
        }
    }
}

/// A file in the place of a folder is as good as none.
fn missing(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::NotADirectory { ErrorKind::NotFound.into() } else { error }
}

fn is(about: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT == kind
}

/// The real path of an open file; where /proc does not tell, of what `path` leads to.
fn resolved(fd: BorrowedFd<'_>, path: &Path) -> io::Result<PathBuf> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    match link {
        Ok(real) if real.is_absolute() && !real.as_os_str().as_bytes().ends_with(b" (deleted)") => Ok(real),
        _ => std::fs::canonicalize(path),
    }
}

fn kind(held: BorrowedFd<'_>) -> Kind {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut first = [0_u8; 4];
    let name = format!("/proc/self/fd/{}", held.as_raw_fd());
    let Ok(fd) = open(name.as_str(), flags, Mode::empty()) else { return Kind::Unknown };
    match std::fs::File::from(fd).read(&mut first) {
        Ok(4) if first == *b"\x7fELF" => Kind::Elf,
        Ok(2..) if first.starts_with(b"#!") => Kind::Script,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn program(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_folder_is_resolved_and_a_last_name_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        program(&root.join("rels/1/app-1"), "#!/bin/sh\n");
        symlink("app-1", root.join("rels/1/app")).unwrap();
        symlink("rels/1", root.join("current")).unwrap();
        let pin = Pin::program(&root.join("current/app")).unwrap();
        assert_eq!(pin.name(), root.join("rels/1/app"));
        assert_eq!(pin.real(), Some(root.join("rels/1/app-1").as_path()));
        assert_eq!((pin.kind(), pin.look()), (Kind::Script, Look::Same));
        let place = Pin::place(&root.join("current")).unwrap();
        assert_eq!((place.name(), place.kind()), (root.join("rels/1").as_path(), Kind::Folder));
    }

    #[test]
    fn what_became_of_a_name_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        let pinned = |text: &str| {
            program(&app, text);
            Pin::program(&app).unwrap()
        };
        let pin = pinned("\x7fELF1");
        assert_eq!((pin.kind(), pin.look(), pin.runs(), pin.held_bytes()), (Kind::Elf, Look::Same, true, 0));
        fs::set_permissions(&app, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(pin.look(), Look::Same);
        program(&dir.path().join("app.new"), "\x7fELF2");
        fs::rename(dir.path().join("app.new"), &app).unwrap();
        assert_eq!((pin.look(), pin.runs()), (Look::Replaced, true));
        assert!(pin.held_bytes() > 0);
        let mut held = String::new();
        pin.read().unwrap().read_to_string(&mut held).unwrap();
        assert_eq!(held, "\x7fELF1");
        fs::remove_file(&app).unwrap();
        assert_eq!((pin.look(), pin.runs()), (Look::Removed, true));
        let script = pinned("#!/bin/sh");
        fs::remove_file(&app).unwrap();
        assert_eq!((script.look(), script.runs()), (Look::Removed, false));
        let pin = pinned("\x7fELF1");
        program(&app, "\x7fELF12");
        assert!(matches!(pin.look(), Look::Overwritten(at) if at > 1e9));
        assert!(!pin.runs());
    }

    #[test]
    fn a_script_behind_a_link_that_moved_still_has_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        program(&at("run-1"), "#!/bin/sh");
        program(&at("run-2"), "#!/bin/sh");
        symlink("run-1", at("run")).unwrap();
        let pin = Pin::program(&at("run")).unwrap();
        symlink("run-2", at("next")).unwrap();
        fs::rename(at("next"), at("run")).unwrap();
        assert_eq!((pin.look(), pin.runs()), (Look::Replaced, true));
        fs::remove_file(at("run-1")).unwrap();
        assert!(!pin.runs());
    }

    #[test]
    fn a_removed_folder_is_seen_though_another_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let release = dir.path().join("1");
        fs::create_dir(&release).unwrap();
        let pin = Pin::place(&release).unwrap();
        fs::write(release.join("more"), "").unwrap();
        assert_eq!(pin.look(), Look::Same);
        fs::rename(&release, dir.path().join("2")).unwrap();
        assert_eq!(pin.look(), Look::Removed);
        fs::create_dir(&release).unwrap();
        assert_eq!(pin.look(), Look::Replaced);
    }

    #[test]
    fn what_cannot_be_executed_is_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("data"), "").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        for (name, kind) in [
            ("data", ErrorKind::PermissionDenied),
            ("folder", ErrorKind::PermissionDenied),
            ("missing", ErrorKind::NotFound),
            ("dangling", ErrorKind::NotFound),
            ("data/x", ErrorKind::NotFound),
        ] {
            assert_eq!(Pin::program(&at(name)).unwrap_err().kind(), kind, "{name}");
        }
        assert_eq!(Pin::program(Path::new("/")).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(Pin::place(Path::new("/dev/null")).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
