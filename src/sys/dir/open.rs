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
    /// To be written from its beginning; made if it is missing.
    Write,
    /// To be written at its end; made if it is missing.
    Append,
}

impl Access {
    fn flags(self) -> OFlag {
        match self {
            Access::Read => OFlag::O_RDONLY,
            Access::Write => OFlag::O_WRONLY | OFlag::O_CREAT,
            Access::Append => OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND,
        }
    }
}

/// Never waits, never becomes our terminal.
const QUIET: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Opens a standard stream of a service that runs as `who` (`None`: as we do). Blocking for the service, but never here:
/// a FIFO is opened for both directions if the user may, so that neither end needs the other to be there.
///
/// # Errors
/// Those of open(2), as the service's user would get them where the path is not ours alone; `TimedOut` for a file
/// system that does not answer.
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

/// Reads a regular file of at most `most` bytes on behalf of a service that runs as `who` (`None`: as we do).
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
