//! Who has died. Main thread only: two reapers would steal each other's exit statuses.

use std::io;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    /// By itself, with this exit code, 0 to 255.
    Exited(i32),
    /// By a signal.
    Signaled {
        /// The signal's number, real-time ones too.
        signal: i32,
        /// Whether it left a core file.
        core: bool,
    },
}

/// A child that has died, looked at and not yet reaped: (pid, how). `None` if there is none, or no child at all.
///
/// Its pid, process group and /proc entry stay until [`reap`]: what has to be signalled or read can be before that.
/// SIGCHLD coalesces: call until `None`. Never blocks. See waitid(2).
///
/// # Errors
/// None are known; the kernel's are passed on.
pub fn next_dead() -> io::Result<Option<(i32, WaitStatus)>> {
    // nix refuses the status of a child that died of a real-time signal: the call would fail for ever.
    // SAFETY: siginfo_t is plain memory for which all zeros is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: the kernel writes one siginfo_t to `info`.
        let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) };
        if done == 0 {
            break;
        }
        match nothing_or_again()? {
            Next::Again => {}
            Next::Nothing => return Ok(None),
        }
    }
    // SAFETY: waitid fills in the fields of SIGCHLD, or leaves the zeros.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let how = match info.si_code {
        libc::CLD_KILLED => WaitStatus::Signaled { signal: status, core: false },
        libc::CLD_DUMPED => WaitStatus::Signaled { signal: status, core: true },
        _ => WaitStatus::Exited(status),
    };
    Ok(Some((pid, how)))
}

/// Whether we have a child, alive or dead. One system call.
pub fn has_children() -> bool {
    // Those too that tell us nothing by SIGCHLD at their end.
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    loop {
        // SAFETY: nothing is written where there is no siginfo_t.
        let done = unsafe { libc::waitid(libc::P_ALL, 0, std::ptr::null_mut(), flags) };
        match done {
            0 => return true,
            _ => match nothing_or_again() {
                Ok(Next::Again) => {}
                Ok(Next::Nothing) => return false,
                // Whoever asks must look for them in another way.
                Err(_) => return true,
            },
        }
    }
}

/// Reaps a child that is dead: its pid is free afterwards. Blocks if it is not dead. See waitpid(2).
///
/// # Errors
/// `ECHILD` if it is not a child of ours, or reaped already.
pub fn reap(pid: i32) -> io::Result<()> {
    if pid < 1 {
        return Err(io::Error::from_raw_os_error(libc::ECHILD));
    }
    loop {
        // SAFETY: a null status is allowed.
        let reaped = unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        if reaped == pid {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Reaps a child if it is dead already. Never blocks.
///
/// # Errors
/// As [`reap`].
pub fn reap_if_dead(pid: i32) -> io::Result<bool> {
    if pid < 1 {
        return Err(io::Error::from_raw_os_error(libc::ECHILD));
    }
    // SAFETY: a null status is allowed.
    let reaped = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    if reaped < 0 { Err(io::Error::last_os_error()) } else { Ok(reaped == pid) }
}

/// Waits for the end of a child, until then at most, and reaps it; how it ended. `None` if it has not, or is no child.
pub fn status_within(pid: i32, until: crate::time::Monotime) -> Option<WaitStatus> {
    use super::stream::{Watch, wait};
    let pidfd = super::process::pidfd_open(pid).ok()?;
    let [ready] = wait([Watch::read(&pidfd)], Some(until)).ok()?;
    if !ready.read {
        return None;
    }
    let mut status = 0;
    // SAFETY: the kernel writes one int to `status`.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    (reaped == pid).then(|| decode(status))
}

/// Reaps any dead child at once: (pid, how). `None` if there is none. One system call, nothing allocated: the fast way
/// when no child can be one of a service. Never blocks. See waitpid(2).
///
/// # Errors
/// None are known; the kernel's are passed on.
pub fn reap_any() -> io::Result<Option<(i32, WaitStatus)>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one int to `status`.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid > 0 {
            return Ok(Some((pid, decode(status))));
        }
        if pid == 0 {
            return Ok(None);
        }
        match nothing_or_again()? {
            Next::Again => {}
            Next::Nothing => return Ok(None),
        }
    }
}

/// What a failed wait means.
enum Next {
    Again,
    Nothing,
}

/// Sorts the error of the wait that has just failed.
fn nothing_or_again() -> io::Result<Next> {
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(Next::Again),
        Some(libc::ECHILD) => Ok(Next::Nothing),
        _ => Err(error),
    }
}

/// The status word of waitpid(2), of a process that is dead.
fn decode(status: i32) -> WaitStatus {
    if libc::WIFSIGNALED(status) {
        WaitStatus::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
    } else {
        WaitStatus::Exited(libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{process, testing::isolated};
    use super::*;
    use std::process::{Child, Command};

    fn shell(text: &str) -> Child {
        Command::new("/bin/sh").args(["-c", text]).spawn().unwrap()
    }

    /// Waits until somebody has died, by the kernel's own blocking wait that takes nothing.
    fn wait_until_one_is_dead() {
        // SAFETY: siginfo_t may be all zeros, and waitid fills it in.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let done = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        assert_eq!(done, 0);
    }

    #[test]
    fn the_dead_are_seen_before_they_are_reaped() {
        isolated("sys::wait::tests::the_dead_are_seen_before_they_are_reaped", || {
            assert_eq!(next_dead().unwrap(), None);
            assert_eq!(reap_any().unwrap(), None);
            assert!(!has_children());
            for (text, how) in [
                ("exit 0", WaitStatus::Exited(0)),
                ("exit 255", WaitStatus::Exited(255)),
                ("kill -TERM $$", WaitStatus::Signaled { signal: libc::SIGTERM, core: false }),
                ("kill -37 $$", WaitStatus::Signaled { signal: 37, core: false }),
            ] {
                let pid = shell(text).id() as i32;
                wait_until_one_is_dead();
                assert_eq!(next_dead().unwrap(), Some((pid, how)), "{text}");
                assert_eq!(next_dead().unwrap(), Some((pid, how)), "looking takes nothing");
                assert!(has_children(), "a dead one is one");
                assert!(process::name_of(pid).is_some(), "a zombie still has its entry");
                reap(pid).unwrap();
                assert_eq!(reap(pid).unwrap_err().raw_os_error(), Some(libc::ECHILD));
                assert_eq!(next_dead().unwrap(), None);

                let pid = shell(text).id() as i32;
                wait_until_one_is_dead();
                assert_eq!(reap_any().unwrap(), Some((pid, how)), "{text}");
            }
        });
    }

    #[test]
    fn the_living_are_not_reported() {
        isolated("sys::wait::tests::the_living_are_not_reported", || {
            let mut child = Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
            assert_eq!(next_dead().unwrap(), None);
            assert_eq!(reap_any().unwrap(), None);
            assert!(has_children());
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!has_children());
        });
    }

    #[test]
    fn orphans_come_to_a_subreaper_and_are_all_reaped() {
        isolated("sys::wait::tests::orphans_come_to_a_subreaper_and_are_all_reaped", || {
            process::become_subreaper().unwrap();
            // The shell leaves 200 children behind: they run until the pipe that they read is closed.
            let (rx, tx) = super::super::fd::pipe().unwrap();
            let text = "exec 9<&0; i=0; while [ $i -lt 200 ]; do read line <&9 & i=$((i+1)); done";
            let mut parent = Command::new("/bin/sh")
                .args(["-c", text])
                .stdin(std::process::Stdio::from(rx))
                .spawn()
                .unwrap();
            assert!(parent.wait().unwrap().success());
            drop(tx);
            let mut count = 0;
            while count < 200 {
                wait_until_one_is_dead();
                while let Some((pid, _)) = reap_any().unwrap() {
                    assert!(pid > 1);
                    count += 1;
                }
            }
            assert_eq!(count, 200);
            assert_eq!(reap_any().unwrap(), None);
        });
    }
}
