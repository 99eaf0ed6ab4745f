//! Doing something in the file system as somebody else: setfsuid(2), on a thread of its own that ends with it.
//!
//! The kernel keeps credentials for each thread; only the C library makes them the process's. The rest of us stays who we
//! are, and a file system that does not answer holds up that thread alone.

use super::spawn::Credentials;
use super::user::{effective_gid, effective_uid};
use nix::sys::prctl;
use std::io;
use std::sync::mpsc;
use std::thread;

/// Who is to be.
pub type Identity = Credentials;

/// The stack of a thread, bytes.
const STACK: usize = 256 * 1024;

impl Credentials {
    /// Whether it is another user or group than ours.
    pub(super) fn is_another(&self) -> bool {
        (self.uid, self.gid) != (effective_uid(), effective_gid())
    }
}

#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setfsgid, SYS_setfsuid, SYS_setgroups};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{
    SYS_setfsgid32 as SYS_setfsgid, SYS_setfsuid32 as SYS_setfsuid, SYS_setgroups32 as SYS_setgroups,
};

/// Runs `work` as `who`, as far as files go, and waits for it, however long the file system takes: not for the main thread.
///
/// # Errors
/// `PermissionDenied` if we may not become that; no thread.
pub fn run<T: Send + 'static>(who: &Identity, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let who = who.clone();
    let (send, receive) = mpsc::channel();
    // The kernel keeps with the memory whether we may be dumped: our own entries in /proc would be closed to us.
    let was_dumpable = prctl::get_dumpable().unwrap_or(false);
    thread::Builder::new().name("borrowed".into()).stack_size(STACK).spawn(move || {
        let became = become_somebody(&who);
        if was_dumpable {
            let _ = prctl::set_dumpable(true);
        }
        // Somebody waits for it.
        let _ = send.send(became.map(|()| work()));
    })?;
    receive.recv().map_err(io::Error::other)?
}

/// The calling thread's identity for files, until it ends.
fn become_somebody(who: &Identity) -> io::Result<()> {
    let refused = || io::Error::from_raw_os_error(libc::EPERM);
    // SAFETY: the kernel reads `len` 32-bit numbers; past the C library, which would change every thread.
    let done = unsafe { libc::syscall(SYS_setgroups, who.groups.len(), who.groups.as_ptr()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    for (call, id) in [(SYS_setfsgid, who.gid), (SYS_setfsuid, who.uid)] {
        // SAFETY: takes numbers only.
        unsafe { libc::syscall(call, id) };
        // It fails in silence; a number that is nobody's only asks.
        // SAFETY: takes numbers only.
        let now = unsafe { libc::syscall(call, u32::MAX) };
        if now as u32 != id {
            return Err(refused());
        }
    }
    Ok(())
}
