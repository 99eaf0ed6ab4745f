//! Signals: all are blocked before the first thread starts and arrive on a signalfd. There is no handler anywhere.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The signal mask as it was before [`block_all`].
#[derive(Debug, Clone, Copy)]
pub struct SavedMask(SigSet);

impl SavedMask {
    /// Puts the mask back, for the calling thread.
    ///
    /// # Errors
    /// None are known.
    pub fn restore(&self) -> io::Result<()> {
        Ok(self.0.thread_set_mask()?)
    }
}

/// What is never blocked: a fault must end the program with its own message, not freeze or vanish.
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGSYS,
];

/// Blocks every signal but those of program faults, in the calling thread and each that it starts later. So it is the
/// first thing that `main` does.
///
/// # Errors
/// None are known.
pub fn block_all() -> io::Result<SavedMask> {
    let mut all = SigSet::all();
    for fault in FAULTS {
        all.remove(fault);
    }
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before))?;
    Ok(SavedMask(before))
}

/// One signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// Its number.
    pub signal: i32,
    /// Who sent it, in our pid namespace; 0 is the kernel or somebody outside. Of SIGCHLD: the child.
    pub pid: i32,
    /// Of SIGCHLD: the exit code or signal. Otherwise 0.
    pub status: i32,
    /// Whether a process has sent it on purpose, not the kernel (a terminal, say).
    pub sent: bool,
}

/// The signals that the supervisor listens to, as a descriptor. Main thread only.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// A non-blocking signalfd(2) for every signal that can be caught but those of program faults, SIGPIPE (our own writes
    /// cause it) and SIGCONT: what means nothing to us can so be said to mean nothing. They must be blocked (see
    /// [`block_all`]). Whoever has started us may ignore SIGCHLD, and our children would vanish
    /// without a status: that is undone.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new() -> io::Result<Signals> {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { nix::sys::signal::signal(Signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl) }?;
        let set = listened();
        Ok(Signals(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next signal that has arrived, `None` if there is none. Never blocks.
    ///
    /// # Errors
    /// None are known.
    pub fn read(&self) -> io::Result<Option<SignalInfo>> {
        Ok(self.0.read_signal()?.map(|info| SignalInfo {
            signal: info.ssi_signo.cast_signed(),
            pid: info.ssi_pid.cast_signed(),
            status: info.ssi_status,
            sent: info.ssi_code <= 0,
        }))
    }

    /// What to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The set of [`Signals::new`].
fn listened() -> SigSet {
    let mut set = SigSet::all();
    for other in
        FAULTS.into_iter().chain([Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGPIPE, Signal::SIGCONT])
    {
        set.remove(other);
    }
    set
}

/// A signal's name as people write it: `SIGTERM`, `SIGRTMIN+3`; `signal 99` for a number without one.
pub fn name(signal: i32) -> String {
    if let Ok(known) = Signal::try_from(signal) {
        return known.as_str().to_owned();
    }
    let first = libc::SIGRTMIN();
    match signal - first {
        0 => "SIGRTMIN".to_owned(),
        above if above > 0 && signal <= libc::SIGRTMAX() => format!("SIGRTMIN+{above}"),
        _ => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{process, testing::isolated, testing::isolated_with_signals_blocked};
    use super::*;

    #[test]
    fn blocked_signals_arrive_on_the_descriptor_with_their_sender() {
        isolated("sys::signal::tests::blocked_signals_arrive_on_the_descriptor_with_their_sender", || {
            let _saved = block_all().unwrap();
            let signals = Signals::new().unwrap();
            assert_eq!(signals.read().unwrap(), None);
            for signal in
                [libc::SIGHUP, libc::SIGTERM, libc::SIGWINCH, libc::SIGRTMIN() + 3, libc::SIGRTMAX()]
            {
                // SAFETY: sends a blocked signal to the calling thread.
                unsafe { libc::raise(signal) };
                let info = signals.read().unwrap().unwrap();
                assert_eq!((info.signal, info.pid, info.sent), (signal, process::pid(), true));
            }
            assert_eq!(signals.read().unwrap(), None);
        });
    }

    #[test]
    fn a_dead_child_is_told_with_its_status() {
        // A thread that does not block it would be enough for the kernel to drop it.
        isolated_with_signals_blocked("sys::signal::tests::a_dead_child_is_told_with_its_status", || {
            let _saved = block_all().unwrap();
            let signals = Signals::new().unwrap();
            let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(7));
            let info = signals.read().unwrap().unwrap();
            let wanted = SignalInfo { signal: libc::SIGCHLD, pid: child.id() as i32, status: 7, sent: false };
            assert_eq!(info, wanted);
        });
    }

    #[test]
    fn children_are_not_lost_if_our_parent_ignores_them() {
        isolated("sys::signal::tests::children_are_not_lost_if_our_parent_ignores_them", || {
            // SAFETY: ignoring runs no code.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            let _saved = block_all().unwrap();
            let _signals = Signals::new().unwrap();
            let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(7));
        });
    }

    #[test]
    fn everything_but_faults_is_blocked_in_later_threads_too_and_can_be_restored() {
        let name =
            "sys::signal::tests::everything_but_faults_is_blocked_in_later_threads_too_and_can_be_restored";
        isolated(name, || {
            let before = SigSet::thread_get_mask().unwrap();
            let saved = block_all().unwrap();
            let there = std::thread::spawn(|| SigSet::thread_get_mask().unwrap()).join().unwrap();
            for signal in Signal::iterator() {
                let expected =
                    !FAULTS.contains(&signal) && !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP);
                assert_eq!(there.contains(signal), expected, "{signal}");
            }
            saved.restore().unwrap();
            assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        });
    }

    #[test]
    fn names_are_those_that_people_write() {
        for (signal, text) in [
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGRTMIN(), "SIGRTMIN"),
            (libc::SIGRTMIN() + 3, "SIGRTMIN+3"),
            (libc::SIGRTMAX(), "SIGRTMIN+30"),
            (0, "signal 0"),
            (99, "signal 99"),
            (-1, "signal -1"),
        ] {
            assert_eq!(name(signal), text);
        }
    }
}
