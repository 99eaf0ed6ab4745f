//! The gate that a child waits at until it is written down.

use super::{Plan, SpawnError, no_descriptors};
use crate::sys::fd;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Who writes down that a child is there: what of it is to be found by somebody who has not started it. It waits at a gate
/// meanwhile, and ends at it if we do not come to open it: nothing is ever executed that was not written down.
#[derive(Clone, Copy)]
pub struct Register<'a>(pub &'a dyn Fn(i32, Option<BorrowedFd<'_>>));

impl fmt::Debug for Register<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Register")
    }
}

/// A pipe: the child goes on when it has read a byte from it, and ends when nobody is left to write one.
pub(super) struct Gate {
    read: OwnedFd,
    write: OwnedFd,
}

impl Gate {
    /// The gate, if the child is to be written down.
    ///
    /// # Errors
    /// There are no descriptors for it.
    pub(super) fn of(plan: &Plan<'_>) -> Result<Option<Gate>, SpawnError> {
        let made = plan.register.map(|_| fd::pipe().map(|(read, write)| Gate { read, write }));
        made.transpose().map_err(|error| no_descriptors(&error))
    }

    /// The end that the child reads, and the one that we write to.
    pub(super) fn numbers(&self) -> (RawFd, RawFd) {
        (self.read.as_raw_fd(), self.write.as_raw_fd())
    }
}

/// Lets a child pass.
pub(super) fn open(write: RawFd) {
    // SAFETY: one byte that is readable. There is room for it in an empty pipe, and our own copy of the other end is open:
    // nothing is told if the child has gone.
    unsafe { libc::write(write, [1_u8].as_ptr().cast(), 1) };
}

/// What the child does: waits until it is written down. If whoever was to do that is gone, nobody knows of it: this is its
/// end, and nothing was done.
pub(super) fn pass((read, write): (RawFd, RawFd)) {
    // Ours would keep it open.
    // SAFETY: takes a number, of this process's own table.
    unsafe { libc::close(write) };
    let mut byte = 0_u8;
    // No signal interrupts it: all are blocked. Our parent works meanwhile, so errno may be his.
    // SAFETY: `byte` is writable.
    if unsafe { libc::read(read, (&raw mut byte).cast(), 1) } != 1 {
        // SAFETY: ends this process without running anything of our parent's.
        unsafe { libc::_exit(127) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::{Started, clone, start, start_by};
    use crate::sys::testing::isolated;
    use crate::sys::{process, wait};
    use crate::time::Span;
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    const PATIENCE: [Span; 2] = [Span::from_secs(5), Span::ZERO];

    fn plan<'a>(output: BorrowedFd<'a>, null: BorrowedFd<'a>) -> Plan<'a> {
        let mut plan = Plan::new(c"/bin/echo".into(), [null, output, null]);
        plan.argv.push(c"ran".into());
        plan
    }

    #[test]
    fn a_child_does_nothing_before_it_is_written_down() {
        let null = fd::dev_null().unwrap();
        for way in clone::WAYS {
            for patience in PATIENCE {
                let (output, theirs) = fd::pipe().unwrap();
                let seen = RefCell::new(None);
                let look = |pid: i32, pidfd: Option<BorrowedFd<'_>>| {
                    let is_us = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap()
                        == std::env::current_exe().unwrap();
                    let session = process::stat(pid).unwrap().session;
                    assert!(!fd::readable(output.as_fd(), Span::from_millis(20)));
                    *seen.borrow_mut() = Some((pid, pidfd.is_some(), is_us, session == pid));
                };
                let mut plan = plan(theirs.as_fd(), null.as_fd());
                plan.register = Some(Register(&look));
                // Who is on its way says so: nobody who hears it may be gone.
                let started = start_by(&plan, &[way], patience).unwrap();
                let pid = match &started {
                    Started::Running(process) => process.pid,
                    Started::Slow(starting) => starting.pid(),
                };
                assert_eq!(*seen.borrow(), Some((pid, true, true, false)));
                drop(theirs);
                let mut text = String::new();
                File::from(output).read_to_string(&mut text).unwrap();
                assert_eq!(text, "ran\n");
                wait::reap(pid).unwrap();
            }
        }
    }

    /// The starter is killed while its child waits: run as a process of its own.
    const KILLED: &str = "sys::spawn::gate::tests::dies_with_its_child_at_the_gate";

    #[test]
    fn dies_with_its_child_at_the_gate() {
        let Some(patience) = std::env::var("AETERNA_TEST_GATE").ok().and_then(|at| at.parse::<usize>().ok())
        else {
            return;
        };
        let null = fd::dev_null().unwrap();
        let output = std::io::stdout();
        let die = |pid: i32, _: Option<BorrowedFd<'_>>| {
            // It is there, and waits.
            assert!(process::stat(pid).is_some());
            process::kill(process::pid(), libc::SIGKILL).unwrap();
        };
        let mut plan = plan(output.as_fd(), null.as_fd());
        plan.register = Some(Register(&die));
        let _ = start(&plan, PATIENCE[patience]);
        unreachable!("we are dead");
    }

    #[test]
    fn nothing_is_executed_if_whoever_starts_it_dies_before_it_is_written_down() {
        isolated(
            "sys::spawn::gate::tests::nothing_is_executed_if_whoever_starts_it_dies_before_it_is_written_down",
            || {
                process::become_subreaper().unwrap();
                for patience in 0..PATIENCE.len() {
                    let output = Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", KILLED, "--nocapture", "--test-threads=1"])
                        .env("AETERNA_TEST_GATE", patience.to_string())
                        .stdin(Stdio::null())
                        .output()
                        .unwrap();
                    // All who could write have ended.
                    let text = String::from_utf8_lossy(&output.stdout);
                    assert_eq!(
                        std::os::unix::process::ExitStatusExt::signal(&output.status),
                        Some(9),
                        "{text}"
                    );
                    assert!(text.contains("running 1 test") && !text.contains("ran\n"), "{text}");
                    // The child came to us.
                    let status = nix::sys::wait::wait().unwrap();
                    assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 127)), "{status:?}");
                }
            },
        );
    }
}
