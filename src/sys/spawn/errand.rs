//! One signal, sent with the rights of another user: a supervisor without CAP_KILL that may become the service's user can
//! still end what it has started.

use super::clone;
use crate::sys::wait;
use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;

/// What the child is to do, and what came of it.
struct Errand {
    uid: u32,
    target: i32,
    signal: i32,
    errno: i32,
}

/// Room for the child's two calls, in 16-byte units: 16 KiB.
const STACK: usize = 1024;

#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::SYS_setresuid;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::SYS_setresuid32 as SYS_setresuid;

/// Sends a signal to a process (above 1) or a process group (below -1) as this user. Main thread only; one SIGCHLD of the
/// process that does it may arrive later.
///
/// # Errors
/// Those of clone(2), setresuid(2) and kill(2): `EPERM` without CAP_SETUID, or if the user may not either; `EINVAL` for a
/// target that would mean everybody.
pub fn kill_as(uid: u32, target: i32, signal: i32) -> io::Result<()> {
    if matches!(target, -1..=1) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut errand = Errand { uid, target, signal, errno: 0 };
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK);
    // SAFETY: the elements may be uninitialised.
    unsafe { stack.set_len(STACK) };
    let top = stack.as_mut_ptr_range().end;
    let dumpable = nix::sys::prctl::get_dumpable().unwrap_or(false);
    // A process of its own, which the service's user may end without ending us. It shares our memory while we wait.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let before = clone::set_mask(u64::MAX);
    // SAFETY: `top` is the aligned end of a stack that only the child uses; `errand` outlives the call, and this thread is
    // suspended while the child uses both.
    let pid = unsafe { libc::clone(run, top.cast(), flags, (&raw mut errand).cast()) };
    let failure = io::Error::last_os_error();
    clone::set_mask(before);
    if pid < 0 {
        return Err(failure);
    }
    if dumpable {
        // The kernel keeps that with the memory: our own /proc entries were closed to our own user. See `Job`.
        let _ = nix::sys::prctl::set_dumpable(true);
    }
    // It has ended, or was ended by the user whose rights it had.
    wait::reap(pid)?;
    if errand.errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errand.errno)) }
}

/// The child. System calls only.
extern "C" fn run(errand: *mut c_void) -> i32 {
    // SAFETY: `kill_as` passes an errand that is ours alone until we end.
    let errand: &mut Errand = unsafe { &mut *errand.cast() };
    // Who is ended in between has not sent it.
    errand.errno = libc::EPERM;
    // SAFETY: takes numbers only. Not through the C library, which would speak to our parent's threads.
    let mut done = unsafe { libc::syscall(SYS_setresuid, errand.uid, errand.uid, errand.uid) };
    if done == 0 {
        // SAFETY: takes numbers only.
        done = unsafe { libc::kill(errand.target, errand.signal) }.into();
    }
    errand.errno = if done < 0 { nix::errno::Errno::last_raw() } else { 0 };
    // SAFETY: ends this process without running anything of our parent's.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    #[test]
    fn a_signal_is_sent_as_the_user_and_to_nobody_of_others() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let start = |uid: u32| {
            Command::new("/bin/sleep").arg("1000").uid(uid).gid(uid).process_group(0).spawn().unwrap()
        };
        for sign in [1, -1] {
            let mut other = start(65_533);
            let mut child = start(65_534);
            let (pid, stranger) = (child.id() as i32, other.id() as i32);
            let refused = kill_as(65_534, sign * stranger, libc::SIGTERM).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            kill_as(65_534, sign * pid, libc::SIGTERM).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
            other.kill().unwrap();
            other.wait().unwrap();
        }
        for everybody in [0, 1, -1] {
            assert_eq!(kill_as(0, everybody, 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
        assert!(nix::sys::prctl::get_dumpable().unwrap());
    }
}
