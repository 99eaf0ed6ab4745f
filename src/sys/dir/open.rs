//! Opening files that a unit names: never waiting for another end, never with more rights than whoever could have led us
//! there.
//!
//! A path that nobody but us and root can bend is opened by us, as a unit's author expects it of `/var/log/app.log`. Any
//! other one is opened as the service's own user: whatever it leads to then, the user may use it anyway.

use super::walk::{self, Spot, is_proc, kind};
use crate::sys::borrowed::{self, Identity};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What a stream is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be read.
    Read,
    /// To be written at its end; made if it is missing.
    Append,
}

impl Access {
    fn flags(self) -> OFlag {
        match self {
            Access::Read => OFlag::O_RDONLY,
            Access::Append => OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND,
        }
    }
}

/// Never waits, never becomes our terminal.
const QUIET: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Opens a standard stream of a service that runs as `who` (`None`: as we do). Blocking for the service, but never here:
/// a FIFO is opened for both directions if the user may, so that neither end needs the other to be there. As
/// long as the file system likes: not on the main thread.
///
/// # Errors
/// Those of open(2), as the service's user would get them where the path is not ours alone.
pub fn open_stream(path: &Path, access: Access, who: Option<&Identity>) -> io::Result<OwnedFd> {
    on_behalf(path, who, move |place| {
        let fd = open_quietly(place, access.flags())?;
        if kind(&fstat(&fd)?) == SFlag::S_IFDIR {
            return Err(Errno::EISDIR.into());
        }
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
        Ok(fd)
    })
}

/// Reads a regular file of at most `most` bytes on behalf of a service that runs as `who` (`None`: as we do). As long as the
/// file system likes: not on the main thread.
///
/// # Errors
/// Those of open(2) and read(2); a sentence for what is no regular file or too large.
pub fn read_text(path: &Path, most: u64, who: Option<&Identity>) -> io::Result<Vec<u8>> {
    on_behalf(path, who, move |place| {
        let fd = place.open(OFlag::O_RDONLY)?;
        if kind(&fstat(&fd)?) != SFlag::S_IFREG {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::from(fd).take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it is larger than {} KiB", most / 1024)));
        }
        Ok(bytes)
    })
}

/// Opens a regular file that we read for ourselves, wherever links lead. Nothing is waited for, and nothing is begun: it is a
/// FIFO or a device perhaps by the time that it is opened.
///
/// # Errors
/// Those of open(2); a sentence for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let fd = nix::fcntl::open(path, OFlag::O_RDONLY | QUIET, Mode::empty())?;
    if kind(&fstat(&fd)?) != SFlag::S_IFREG {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(fd.into())
}

/// What is opened: a name in a folder that we have found, or whatever a path leads to.
enum Place {
    Spot(Spot),
    Path(PathBuf),
}

impl Place {
    fn open(&self, flags: OFlag) -> io::Result<OwnedFd> {
        let mode = Mode::from_bits_truncate(0o666);
        match self {
            // /proc/self/fd/2 and its kin are links that only the kernel can follow.
            Place::Spot(spot) if spot.is_safe && is_proc(&spot.folder) => {
                Ok(openat(&spot.folder, spot.name.as_os_str(), flags | QUIET, mode)?)
            }
            Place::Spot(spot) => {
                Ok(openat(&spot.folder, spot.name.as_os_str(), flags | QUIET | OFlag::O_NOFOLLOW, mode)?)
            }
            Place::Path(path) => Ok(nix::fcntl::open(path, flags | QUIET, mode)?),
        }
    }
}

fn open_quietly(place: &Place, flags: OFlag) -> io::Result<OwnedFd> {
    let both = (flags - OFlag::O_ACCMODE - OFlag::O_CREAT) | OFlag::O_RDWR;
    let opened = match place.open(flags) {
        // A FIFO that nobody reads.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => place.open(both)?,
        other => other?,
    };
    if kind(&fstat(&opened)?) == SFlag::S_IFIFO
        && let Ok(fifo) = place.open(both)
        && kind(&fstat(&fifo)?) == SFlag::S_IFIFO
    {
        return Ok(fifo);
    }
    Ok(opened)
}

/// Runs `work` with the rights that a path deserves.
fn on_behalf<T: Send + 'static>(
    path: &Path,
    who: Option<&Identity>,
    work: impl FnOnce(&Place) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let who = who.filter(|who| who.is_another());
    match (walk::spot(path), who) {
        (Ok(spot), None) => work(&Place::Spot(spot)),
        (Ok(spot), Some(_)) if spot.is_safe => work(&Place::Spot(spot)),
        (Err(error), None) => Err(error),
        (_, Some(who)) => {
            let path = path.to_path_buf();
            borrowed::run(who, move || work(&Place::Path(path)))?
        }
    }
}

/// Why a file that a unit names cannot be used: with who was refused, and why it was he who was asked.
pub fn explain(path: &Path, who: Option<&Identity>, error: &str) -> String {
    let shown = path.display();
    let asked = who.filter(|who| who.is_another());
    let why = walk::spot(path).map(|spot| spot.why).unwrap_or_default();
    match asked {
        Some(who) if !why.is_empty() => {
            format!(
                "{shown}: {error} (it is opened as uid {}, not as aeternad's user, because {why})",
                who.uid
            )
        }
        _ => format!("{shown}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    const STRANGER: u32 = 4_242;

    fn stranger() -> Identity {
        Identity { uid: STRANGER, gid: STRANGER, groups: vec![STRANGER] }
    }

    /// A folder of root that all may pass, with one of the stranger's in it; `None` if we are not root.
    fn his() -> Option<(tempfile::TempDir, PathBuf)> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can open files as somebody else");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let his = dir.path().join("his");
        fs::create_dir(&his).unwrap();
        chown(&his, Some(STRANGER), Some(STRANGER)).unwrap();
        Some((dir, his))
    }

    #[test]
    fn what_a_stranger_can_bend_is_opened_with_his_rights() {
        let Some((dir, his)) = his() else { return };
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        symlink(&secret, his.join("link")).unwrap();
        let who = Some(stranger());
        for access in [Access::Read, Access::Append] {
            let error = open_stream(&his.join("link"), access, who.as_ref()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(read_text(&his.join("link"), 100, who.as_ref()).is_err());
        let text = explain(&his.join("link"), who.as_ref(), "Permission denied");
        assert!(text.contains("opened as uid 4242") && text.contains("his belongs to uid 4242"), "{text}");
        // His own file, and one that only we could have named.
        open_stream(&his.join("log"), Access::Append, who.as_ref()).unwrap();
        assert_eq!(fs::metadata(his.join("log")).unwrap().uid(), STRANGER);
        open_stream(&secret, Access::Append, who.as_ref()).unwrap();
        assert_eq!(read_text(&secret, 100, who.as_ref()).unwrap(), b"secret");
        // Not even the thread that was lent is ours for longer.
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
    }

    #[test]
    fn a_link_that_moves_gets_nobody_further() {
        let Some((dir, his)) = his() else { return };
        let secret = dir.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let (who, stop) = (stranger(), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = fs::remove_file(his.join("log"));
                    let _ = symlink(&secret, his.join("log"));
                    let _ = fs::remove_file(his.join("log"));
                    let _ = fs::hard_link(&secret, his.join("log"));
                }
            });
            for _ in 0..300 {
                if let Ok(fd) = open_stream(&his.join("log"), Access::Append, Some(&who)) {
                    let _ = File::from(fd).write_all(b"evil");
                }
                if let Ok(text) = read_text(&his.join("log"), 100, Some(&who)) {
                    assert_ne!(text, b"secret");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    }

    #[test]
    fn nothing_waits_and_nothing_is_endless() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        // Nobody is at the other end.
        let reader = open_stream(&fifo, Access::Read, None).unwrap();
        let writer = open_stream(&fifo, Access::Append, None).unwrap();
        File::from(writer).write_all(b"x").unwrap();
        let mut byte = [0];
        File::from(reader).read_exact(&mut byte).unwrap();
        assert!(read_text(&fifo, 10, None).unwrap_err().to_string().contains("not a regular file"));
        assert!(read_text(Path::new("/dev/zero"), 10, None).is_err());
        assert!(open_stream(dir.path(), Access::Read, None).is_err());
        let large = dir.path().join("large");
        fs::write(&large, "12345678901").unwrap();
        assert!(read_text(&large, 10, None).unwrap_err().to_string().contains("larger than"));
        assert_eq!(read_text(&large, 11, None).unwrap().len(), 11);
        for device in ["/dev/null", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"] {
            open_stream(Path::new(device), Access::Append, None).unwrap();
        }
    }
}
