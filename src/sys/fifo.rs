//! FIFOs: mkfifo(3), fifo(7), and the owner that `SocketUser` and `SocketGroup` name.

use super::socket::{Opened, SocketError, errno_text};
use super::unixpath::{self, BoundPath, Site};
use crate::unit::SocketOptions;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Makes or reuses the FIFO at `path` and opens it for reading and writing, so that it never reads end-of-file
/// when a writer goes. Its mode, owner and size are set also if it was there before.
pub fn open(path: &Path, options: &SocketOptions) -> Result<Opened, SocketError> {
    let address = path.display().to_string();
    let fail = |what: &str, error: &io::Error| SocketError {
        text: format!("cannot {what} the FIFO {address}: {}", errno_text(error)),
    };
    let (uid, gid) = owner(options, &address)?;
    let site =
        Site::make(path, options.directory_mode).map_err(|error| fail("make the folder of", &error))?;
    site.folder()
        .make_fifo(site.name(), options.socket_mode & 0o600)
        .map_err(|error| fail("make", &error))?;
    let fd = open_existing(&site).map_err(|error| fail("open", &error))?;
    if uid.is_some() || gid.is_some() {
        fchown(&fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw))
            .map_err(|error| fail("set the owner of", &error.into()))?;
    }
    fchmod(&fd, Mode::from_bits_truncate(options.socket_mode & 0o7777))
        .map_err(|error| fail("set the mode of", &error.into()))?;
    let mut warnings = Vec::new();
    if let Some(size) = options.pipe_size {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        if let Err(error) = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(size)) {
            warnings.push(fail("set PipeSize of", &error.into()).text);
        }
    }
    warnings.extend(unixpath::make_aliases(path, &options.symlinks, options.directory_mode));
    let bound = site.bound(fd.as_fd()).map_err(|error| fail("look at", &error))?;
    Ok(Opened { fd, address, at: None, path: Some(bound), owned: false, warnings })
}

fn open_existing(site: &Site) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let fd = openat(site.folder(), site.name(), flags, Mode::empty())?;
    let stat = fstat(&fd)?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return Err(io::Error::other("what is there is no FIFO; it is left alone"));
    }
    if stat.st_nlink > 1 && site.folder().is_open_to_others(super::user::effective_uid()) {
        return Err(io::Error::other("the FIFO there has other names, and others may write to its folder"));
    }
    Ok(fd)
}

/// The ids that `SocketUser` and `SocketGroup` mean; with a user alone also that user's own group.
pub fn owner(options: &SocketOptions, address: &str) -> Result<(Option<u32>, Option<u32>), SocketError> {
    let unknown = |key: &str, name: &str, why: String| SocketError {
        text: format!("cannot bind {address}: {key} = \"{name}\": {why}"),
    };
    let mut found = (None, None);
    if let Some(name) = &options.socket_user {
        if let Ok(uid) = name.parse::<u32>() {
            found.0 = Some(uid);
        } else {
            let user = nix::unistd::User::from_name(name)
                .map_err(|error| unknown("SocketUser", name, error.desc().to_owned()))?
                .ok_or_else(|| unknown("SocketUser", name, "no such user".to_owned()))?;
            found = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        }
    }
    if let Some(name) = &options.socket_group {
        found.1 = match name.parse::<u32>() {
            Ok(gid) => Some(gid),
            Err(_) => {
                let group = nix::unistd::Group::from_name(name)
                    .map_err(|error| unknown("SocketGroup", name, error.desc().to_owned()))?
                    .ok_or_else(|| unknown("SocketGroup", name, "no such group".to_owned()))?;
                Some(group.gid.as_raw())
            }
        };
    }
    Ok(found)
}

/// Sets the mode and owner of a name again, as the options say now and no longer as they did (`was`); of nothing but our own
/// inode. The error is a sentence.
pub fn set_access(name: &BoundPath, options: &SocketOptions, was: &SocketOptions) -> Result<(), SocketError> {
    let address = name.path.display().to_string();
    if !name.is_ours() {
        return Ok(());
    }
    let mut owner = owner(options, &address)?;
    if was.socket_user.is_some() {
        owner.0.get_or_insert(nix::unistd::geteuid().as_raw());
    }
    if was.socket_user.is_some() || was.socket_group.is_some() {
        owner.1.get_or_insert(nix::unistd::getegid().as_raw());
    }
    name.set_access(owner, options.socket_mode).map_err(|error| SocketError {
        text: format!("cannot set the mode or owner of {address}: {}", errno_text(&error)),
    })
}
