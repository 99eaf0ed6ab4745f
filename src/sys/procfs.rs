//! Whether /proc is there: without it the processes of a service cannot be found, only those that we have started.

use super::process;
use std::ffi::CStr;
use std::fs;
use std::io;

/// What /proc is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// It shows our own processes.
    Ours,
    /// It shows another pid namespace: its numbers mean other processes than ours.
    Foreign,
    /// Nothing is mounted there.
    Missing,
}

/// Whether /proc shows the processes that our numbers mean.
pub fn shows_us() -> bool {
    look() == Proc::Ours
}

/// What /proc is. One readlink(2).
pub fn look() -> Proc {
    match fs::read_link("/proc/self") {
        Ok(name) if name.to_str() == Some(&process::pid().to_string()) => Proc::Ours,
        Ok(_) => Proc::Foreign,
        // It does not show us at all, or there is only the folder.
        Err(_) if fs::symlink_metadata("/proc/version").is_ok() => Proc::Foreign,
        Err(_) => Proc::Missing,
    }
}

/// Mounts it. Only an init may: elsewhere it is for whoever made the mount namespace.
///
/// # Errors
/// Those of mount(2): `EPERM` without CAP_SYS_ADMIN, `ENOENT` without the folder.
pub fn mount() -> io::Result<()> {
    const NAME: &CStr = c"proc";
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: terminated strings; the file system takes no data.
    let done =
        unsafe { libc::mount(NAME.as_ptr(), c"/proc".as_ptr(), NAME.as_ptr(), flags, std::ptr::null()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_seen() {
        assert_eq!(look(), Proc::Ours);
        assert!(shows_us());
    }
}
