//! One signal, sent with the rights of another user: a supervisor without CAP_KILL that may become the service's user can
//! still end what it has started.
//!
//! The child has a copy of our memory and nothing of ours open: from the moment on that it is the service's user, that user
//! may stop it. It tells by a pipe, and is not waited for longer than a little.

use super::clone;
use crate::sys::{fd, wait};
use crate::time::{Patience, Span};
use std::ffi::c_void;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

/// What the child is to do, and where it tells what came of it.
struct Errand {
    uid: u32,
    target: i32,
    signal: i32,
    report: i32,
}

/// Room for the child's few calls, in 16-byte units: 16 KiB.
const STACK: usize = 1024;

/// How long all errands of a second may be waited for, and how long any.
static PATIENCE: Mutex<Patience> = Mutex::new(Patience::new(Span::from_millis(1), Span::from_millis(50)));

#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::SYS_setresuid;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::SYS_setresuid32 as SYS_setresuid;

/// Sends a signal to a process (above 1) or a process group (below -1) as this user. Main thread only; the SIGCHLD of the
/// process that does it may arrive later, and it may have to be reaped then.
///
/// # Errors
/// Those of pipe(2), clone(2), setresuid(2) and kill(2): `EPERM` without CAP_SETUID, or if the user may not either; `EINVAL`
/// for a target that would mean everybody. `TimedOut`: it may be sent yet.
pub fn kill_as(uid: u32, target: i32, signal: i32) -> io::Result<()> {
    if matches!(target, -1..=1) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let (report, theirs) = fd::pipe()?;
    let pid = {
        let mut errand = Errand { uid, target, signal, report: theirs.as_raw_fd() };
        let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK);
        // SAFETY: the elements may be uninitialised.
        unsafe { stack.set_len(STACK) };
        let top = stack.as_mut_ptr_range().end;
        // A process of its own, which the service's user may end without ending us.
        let before = clone::set_mask(u64::MAX);
        // SAFETY: `top` is the aligned end of a stack; the child runs on copies of it and of `errand`.
        let pid = unsafe { libc::clone(run, top.cast(), libc::SIGCHLD, (&raw mut errand).cast()) };
        let failure = io::Error::last_os_error();
        clone::set_mask(before);
        if pid < 0 {
            return Err(failure);
        }
        pid
    };
    drop(theirs);
    let locked = || PATIENCE.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = crate::sys::clock::now();
    let told = fd::readable(report.as_fd(), locked().now(begun));
    locked().spend(crate::sys::clock::now().since(begun));
    if !told {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the process that was to send it has not yet"));
    }
    let mut errno = [0; 4];
    let read = std::fs::File::from(report).read_exact(&mut errno);
    // It ends just now; else whoever reaps everybody does it.
    let _ = wait::reap_if_dead(pid);
    match (read, i32::from_ne_bytes(errno)) {
        (Ok(()), 0) => Ok(()),
        (Ok(()), errno) => Err(io::Error::from_raw_os_error(errno)),
        // It was ended by the user whose rights it had.
        (Err(_), _) => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

/// The child. System calls only.
extern "C" fn run(errand: *mut c_void) -> i32 {
    // SAFETY: `kill_as` passes an errand, of which this is a copy.
    let errand: &Errand = unsafe { &*errand.cast() };
    let report = errand.report.cast_unsigned();
    for (first, last) in [(0, report.wrapping_sub(1)), (report + 1, u32::MAX)] {
        // SAFETY: takes numbers only. Where it is not known the user can keep our descriptors open, and no more.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
    }
    // SAFETY: takes numbers only. Not through the C library, which would speak to our parent's threads.
    let mut done = unsafe { libc::syscall(SYS_setresuid, errand.uid, errand.uid, errand.uid) };
    if done == 0 {
        // SAFETY: takes numbers only.
        done = unsafe { libc::kill(errand.target, errand.signal) }.into();
    }
    let errno = if done < 0 { nix::errno::Errno::last_raw() } else { 0 };
    // SAFETY: a number of 4 bytes.
    unsafe { libc::write(errand.report, (&raw const errno).cast(), size_of::<i32>()) };
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

    #[test]
    fn an_errand_that_is_stopped_is_not_waited_for() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        const UID: u32 = 65_531;
        // Whoever is this user is stopped, as its owner can do: as fast as the kernel lets him.
        let text = "import os,sys\nos.setresuid(65531,65531,65531)\nsys.stdout.write('.')\nsys.stdout.flush()\n\
                    while True:\n try:\n  os.kill(-1, 19)\n except OSError:\n  pass\n";
        let mut stopper = Command::new("python3");
        let Ok(mut stopper) = stopper.args(["-c", text]).stdout(std::process::Stdio::piped()).spawn() else {
            return;
        };
        let mut one = [0];
        stopper.stdout.take().unwrap().read_exact(&mut one).unwrap();
        let mut target = Command::new("/bin/sleep").arg("1000").uid(UID).gid(UID).spawn().unwrap();
        let mut late = 0;
        let mut slowest = std::time::Duration::ZERO;
        for _ in 0..50 {
            let begun = std::time::Instant::now();
            let sent = kill_as(UID, target.id() as i32, 0);
            slowest = slowest.max(begun.elapsed());
            late += u32::from(sent.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut));
        }
        println!("{late} of 50 were stopped, the slowest took {slowest:?}");
        assert!(slowest < std::time::Duration::from_secs(5), "{slowest:?}");
        stopper.kill().unwrap();
        stopper.wait().unwrap();
        // Those that are stopped still.
        Command::new("/bin/sh").args(["-c", "kill -KILL -1"]).uid(UID).gid(UID).status().unwrap();
        target.wait().unwrap();
    }
}
