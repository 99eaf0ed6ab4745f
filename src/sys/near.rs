//! Files whose file system is this machine's own: looking at them asks nobody who may not answer. A file of a server (NFS) or
//! of a program (FUSE) can keep whoever looks at it for as long as that likes; here it is recognised without being asked.
//!
//! Main thread and others. A name that the kernel has not looked up before is looked up on another thread, and not waited
//! for longer than a little.

use super::{aside, clock};
use crate::time::{Patience, Span};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// How long a name is waited for.
static PATIENCE: Mutex<Patience> = Mutex::new(Patience::new(Span::from_millis(20), Span::from_secs(1)));

/// Only what the kernel has in its cache of names: openat2(2).
const RESOLVE_CACHED: u64 = 0x20;

/// Through no link: openat2(2).
const RESOLVE_NO_SYMLINKS: u64 = 0x04;

/// What openat2(2) reads.
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens a name for nothing (O_PATH), relative to `folder` (`None`: to our own), if its file is near.
///
/// # Errors
/// Those of open(2); `Unsupported` for a file that is somebody else's to show: see [`is_far`].
pub fn open(folder: Option<BorrowedFd<'_>>, path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let raw = folder.map_or(libc::AT_FDCWD, |folder| folder.as_raw_fd());
    let fd = match open_now(raw, &name, RESOLVE_CACHED) {
        // Not in the cache; or a kernel before 5.12, or a container that forbids the call.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAGAIN | libc::ENOSYS | libc::EINVAL | libc::EPERM)
            ) =>
        {
            let folder = folder.map(|folder| folder.try_clone_to_owned()).transpose()?;
            asked(move || {
                let raw = folder.as_ref().map_or(libc::AT_FDCWD, AsRawFd::as_raw_fd);
                open_slowly(raw, &name)
            })
            .ok_or_else(far)??
        }
        opened => opened?,
    };
    if is_near(&fd) { Ok(fd) } else { Err(far()) }
}

/// Opens an absolute path for nothing, as [`open`] does, if no link is on the way and the kernel has all of it in its cache of
/// names; else `None`: nothing is known then. Whether its file is near is left to who knows the file.
pub fn open_straight(path: &Path) -> Option<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    open_now(libc::AT_FDCWD, &name, RESOLVE_CACHED | RESOLVE_NO_SYMLINKS).ok()
}

/// Whether this is the error of [`open`] for a file of a server or of a program.
pub fn is_far(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
}

/// Asks something of a file system that may not answer, on another thread; `None` if it has not in time.
pub fn asked<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let begun = clock::now();
    let locked = || PATIENCE.lock().unwrap_or_else(PoisonError::into_inner);
    let patience = locked().now(begun);
    let answer = aside::within(patience, ask);
    locked().spend(clock::now().since(begun));
    answer
}

fn far() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "its file system is a server's or a program's")
}

fn open_now(folder: i32, name: &CString, resolve: u64) -> io::Result<OwnedFd> {
    let how = How { flags: (libc::O_PATH | libc::O_CLOEXEC) as u64, mode: 0, resolve };
    // SAFETY: a terminated string, and a structure of the size that is given.
    let raw =
        unsafe { libc::syscall(libc::SYS_openat2, folder, name.as_ptr(), &raw const how, size_of::<How>()) };
    owned(raw)
}

fn open_slowly(folder: i32, name: &CString) -> io::Result<OwnedFd> {
    // SAFETY: a terminated string.
    owned(unsafe { libc::openat(folder, name.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }.into())
}

fn owned(raw: i64) -> io::Result<OwnedFd> {
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as i32) })
}

/// Whether the file system of an open file is this machine's own. Nobody is asked: /proc says where it is mounted.
fn is_near(fd: &OwnedFd) -> bool {
    // Mounts and their kinds, the last that were seen.
    static SEEN: Mutex<Vec<(u64, u64, bool)>> = Mutex::new(Vec::new());
    const MOST: usize = 64;
    let Some((mount, device)) = place_of(fd) else { return true };
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., near)) = seen.iter().find(|(m, d, _)| (*m, *d) == (mount, device)) {
        return *near;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let near = kind_of(&mounts, mount).is_none_or(|kind| !shown_by_others(kind));
    if seen.len() >= MOST {
        seen.clear();
    }
    seen.push((mount, device, near));
    near
}

/// The number of its mount, and its device, as the kernel has them; `None` before Linux 5.8.
fn place_of(fd: &OwnedFd) -> Option<(u64, u64)> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string, and room for the structure that the kernel writes.
    let done =
        unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_MNT_ID, &raw mut found) };
    let told = done == 0 && found.stx_mask & libc::STATX_MNT_ID != 0;
    told.then(|| (found.stx_mnt_id, u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor)))
}

/// The kind of file system of a mount, in the words of mountinfo: see proc_pid_mountinfo(5).
fn kind_of(mounts: &str, mount: u64) -> Option<&str> {
    let is_it = |line: &&str| line.split(' ').next().and_then(|number| number.parse().ok()) == Some(mount);
    let line = mounts.lines().find(is_it)?;
    line.split_once(" - ")?.1.split(' ').next()
}

/// Kinds whose files somebody else shows, who may not answer.
fn shown_by_others(kind: &str) -> bool {
    const FAR: [&str; 14] = [
        "fuse", "fuseblk", "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "afs", "autofs", "lustre", "coda",
        "orangefs", "beegfs",
    ];
    FAR.contains(&kind) || kind.starts_with("fuse.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_machine_are_near() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        for path in [folder.path().join("file"), folder.path().into(), "/".into(), "/proc/self/status".into()]
        {
            for _ in 0..2 {
                open(None, &path).unwrap();
            }
        }
        let missing = open(None, &folder.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let within = open(None, folder.path()).unwrap();
        open(Some(std::os::fd::AsFd::as_fd(&within)), Path::new("file")).unwrap();
    }

    #[test]
    fn kinds_are_read_from_the_table_of_mounts() {
        let table =
            "22 1 0:21 / / rw shared:1 - ext4 /dev/root rw\n35 22 0:40 / /mnt/a rw - fuse.sshfs x rw\n";
        assert_eq!(kind_of(table, 22), Some("ext4"));
        assert_eq!(kind_of(table, 35), Some("fuse.sshfs"));
        assert_eq!(kind_of(table, 3), None);
        assert!(shown_by_others("fuse.sshfs") && shown_by_others("nfs4") && !shown_by_others("overlay"));
    }
}
