//! Processes: who we are, who another one is, signals to it. Only the main thread signals, and only what is not reaped.

use super::{hung, procfs};
use nix::sys::signal::Signal;
use std::ffi::c_long;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::str::SplitAsciiWhitespace;

/// Our own pid, in our own pid namespace.
pub fn pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Whether we are a pid namespace's init: then every orphan comes to us, and signals without an effect are ignored.
pub fn is_pid1() -> bool {
    pid() == 1
}

/// Makes us the one that orphans among our descendants come to. It survives execve(2). See prctl(2).
///
/// # Errors
/// None are known.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Sends a signal to one process. 0 only asks whether it is there.
///
/// # Errors
/// `ESRCH`, `EPERM`; `EINVAL` for a pid below 1, which would mean many processes.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    if pid < 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // nix knows no real-time signals here.
    // SAFETY: takes numbers only.
    done(unsafe { libc::kill(pid, signal) }.into())
}

/// Sends a signal to every process of a group. Safe only as long as its leader is not reaped.
///
/// # Errors
/// `ESRCH`, `EPERM` (of all of them); `EINVAL` for a group below 2, which would mean everybody.
pub fn kill_group(group: i32, signal: i32) -> io::Result<()> {
    if group < 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: takes numbers only.
    done(unsafe { libc::kill(-group, signal) }.into())
}

/// A descriptor of a process: readable when it has ended, and never another one's. See pidfd_open(2).
///
/// # Errors
/// `ESRCH`; `ENOSYS` before Linux 5.3.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    pidfd(pid, 0)
}

/// The same of one thread.
///
/// # Errors
/// `ESRCH`; `EINVAL` before Linux 6.9; `ENOSYS` before Linux 5.3.
pub(super) fn pidfd_of_thread(tid: i32) -> io::Result<OwnedFd> {
    const PIDFD_THREAD: i32 = libc::O_EXCL;
    pidfd(tid, PIDFD_THREAD)
}

fn pidfd(pid: i32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    done(fd)?;
    // SAFETY: the kernel has just made it, close-on-exec, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to the process of a pidfd. See pidfd_send_signal(2).
///
/// # Errors
/// `ESRCH` if it has been reaped; `EPERM`.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed: the kernel fills one in.
    done(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) })
}

/// Sends a signal to the process that had this pid and start time a moment ago, and to nobody else.
///
/// # Errors
/// `ESRCH` if it is gone, whoever has its pid now; `EPERM`. Without pidfds: those of [`kill`].
pub fn signal_exactly(pid: i32, start_time: u64, signal: i32) -> io::Result<()> {
    let pidfd = match pidfd_open(pid) {
        Ok(pidfd) => pidfd,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(error),
        // An old kernel, no descriptor left: it is still most likely the one that was seen.
        Err(_) => return kill(pid, signal),
    };
    if self::start_time(pid) != Some(start_time) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    pidfd_signal(pidfd.as_fd(), signal)
}

fn done(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What /proc/PID/stat says about a process, see proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: i32,
    pub(super) session: i32,
    /// Clock ticks since the machine has started.
    pub(super) start_time: u64,
}

/// Reads [`Stat`]; `None` if the process is gone.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &[u8]) -> Option<Stat> {
    let mut fields = fields_of(line)?;
    let _state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let _group = fields.next()?;
    let session = fields.next()?.parse().ok()?;
    let start_time = fields.nth(15)?.parse().ok()?;
    Some(Stat { parent, session, start_time })
}

/// What comes after the name in a line of `stat`, from the state on. The name in parentheses may contain anything, also
/// parentheses, spaces and bytes that are no text.
fn fields_of(line: &[u8]) -> Option<SplitAsciiWhitespace<'_>> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    Some(std::str::from_utf8(line.get(end + 1..)?).ok()?.split_ascii_whitespace())
}

/// The state in a line of `stat`.
pub(super) fn state_of(line: &[u8]) -> Option<char> {
    fields_of(line)?.next()?.chars().next()
}

/// Every process that we see.
///
/// # Errors
/// There is no /proc.
pub(super) fn all() -> io::Result<impl Iterator<Item = i32>> {
    Ok(numbers(fs::read_dir("/proc/")?))
}

/// The threads of a process, its own number among them.
///
/// # Errors
/// It is gone.
pub(super) fn threads(pid: i32) -> io::Result<impl Iterator<Item = i32>> {
    Ok(numbers(fs::read_dir(format!("/proc/{pid}/task"))?))
}

fn numbers(folder: fs::ReadDir) -> impl Iterator<Item = i32> {
    folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// PF_EXITING of the kernel: a process on its way to be a zombie. Nothing brings it back.
const EXITING: u32 = 0x4;

/// Whether a process has ended and was not reaped yet, or is about to end: it exits, or has got SIGKILL.
pub fn is_dying(pid: i32) -> bool {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    ends(&read("stat")) || killed(&String::from_utf8_lossy(&read("status")))
}

fn ends(stat: &[u8]) -> bool {
    let Some(mut fields) = fields_of(stat) else { return false };
    let is_zombie = matches!(fields.next(), Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u32>().ok()).unwrap_or(0);
    is_zombie || flags & EXITING != 0
}

/// Of its `status`: whether a SIGKILL waits for it.
fn killed(status: &str) -> bool {
    let pending =
        status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    let bit = 1_u64 << (libc::SIGKILL - 1);
    pending.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & bit != 0)
}

/// When a process was started, in clock ticks since the machine has started: with the pid it names one process for ever.
/// `None` if it is gone.
pub fn start_time(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// The parent of a process; `None` if it is gone.
pub fn parent_of(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.parent)
}

/// The real user id of a process; `None` if it is gone, or cannot be seen.
pub fn user_of(pid: i32) -> Option<u32> {
    let status = procfs::shows_us().then(|| fs::read_to_string(format!("/proc/{pid}/status")).ok())??;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_ascii_whitespace().next()?.parse().ok()
}

/// A process for people who look for it: `process 4711 (postgres, state D)`; only its number where nothing can be seen.
pub fn portrait(pid: i32) -> String {
    if !procfs::shows_us() {
        return format!("process {pid}");
    }
    let state = fs::read(format!("/proc/{pid}/stat")).ok().and_then(|line| state_of(&line));
    // The first thread may be over long before the others.
    let state = state.map(|state| if state == 'Z' && hung::hangs(pid) { 'D' } else { state });
    match (name_of(pid), state) {
        (Some(name), Some(state)) => format!("process {pid} ({name}, state {state})"),
        _ => format!("process {pid}"),
    }
}

/// A process's name, at most 15 bytes; `None` if it is gone.
pub fn name_of(pid: i32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

/// Whether a process does something with a signal: it has a handler, or blocks it for a signalfd(2) or sigwait(3). A
/// reload signal to a process that does not would end it, or is ignored. `None` if the process is gone, or cannot be seen.
pub fn signal_handled(pid: i32, signal: i32) -> Option<bool> {
    if !procfs::shows_us() {
        return None;
    }
    handled(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, signal)
}

fn handled(status: &str, signal: i32) -> Option<bool> {
    let bit = 1_u64.checked_shl(u32::try_from(signal - 1).ok()?)?;
    let mask_of = |key: &str| {
        let text = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(text.trim(), 16).ok()
    };
    let heard = mask_of("SigCgt:")? | (mask_of("SigBlk:")? & !mask_of("SigIgn:")?);
    Some(heard & bit != 0)
}

/// Whether a signal number exists in kill(2).
pub fn is_signal(signal: i32) -> bool {
    Signal::try_from(signal).is_ok() || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::super::testing::isolated;
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command, Stdio};

    /// A shell that has run `text` and then waits for the end of its input.
    fn shell(text: &str) -> Child {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("{text}\necho ready; read line; exit 3")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    #[test]
    fn who_ends_is_told_from_who_lives() {
        assert!(!is_dying(pid()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let number = child.id().cast_signed();
        assert!(!is_dying(number));
        child.kill().unwrap();
        // It has got SIGKILL, exits, or is a zombie: one of them from now on.
        assert!(is_dying(number));
        child.wait().unwrap();
        assert!(!is_dying(number), "nobody is there any more");
        assert!(ends(b"7 (a) b) R 1 7 7 0 -1 4194308 1 2"), "PF_EXITING");
        assert!(!ends(b"7 (a) b) R 1 7 7 0 -1 4194304 1 2") && !ends(b""));
        assert!(ends(b"7 (a) Z 1 7 7 0 -1 4194304"));
        assert!(killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000200\n"));
    }

    #[test]
    fn stat_survives_any_process_name() {
        let rest = "S 11 22 33 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        let expected = Stat { parent: 11, session: 33, start_time: 4711 };
        for name in ["sh", "a b", "x) R 1 1 1", "((", "\u{fffd}"] {
            assert_eq!(parse_stat(format!("7 ({name}) {rest}").as_bytes()), Some(expected), "{name}");
        }
        assert_eq!(parse_stat(b"7 (sh) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn we_know_ourselves_and_our_child() {
        let mut child = shell("");
        let pid = child.id() as i32;
        assert_eq!(parent_of(pid), Some(super::pid()));
        assert_eq!(name_of(pid).as_deref(), Some("sh"));
        assert!(start_time(pid).unwrap() >= start_time(super::pid()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((parent_of(pid), name_of(pid), start_time(pid)), (None, None, None));
    }

    #[test]
    fn signals_reach_one_process_a_group_and_a_pidfd() {
        for send in [
            |pid| kill(pid, libc::SIGTERM),
            |pid| kill_group(pid, libc::SIGTERM),
            |pid| pidfd_signal(pidfd_open(pid)?.as_fd(), libc::SIGTERM),
        ] {
            let mut child = shell("");
            let pid = child.id() as i32;
            kill(pid, 0).unwrap();
            send(pid).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
            assert_eq!(kill(pid, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        }
        let mut child = shell("");
        kill(child.id() as i32, 40).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(40));
    }

    #[test]
    fn a_number_that_means_many_processes_is_refused() {
        for pid in [0, -1, i32::MIN] {
            assert_eq!(kill(pid, libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert_eq!(kill_group(pid, libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
        assert_eq!(kill_group(1, libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_pid_with_another_start_time_is_somebody_else() {
        let mut child = shell("");
        let pid = child.id() as i32;
        let start = start_time(pid).unwrap();
        let other = signal_exactly(pid, start + 1, libc::SIGKILL);
        assert_eq!(other.unwrap_err().raw_os_error(), Some(libc::ESRCH));
        signal_exactly(pid, start, libc::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(signal_exactly(pid, start, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_pidfd_is_readable_when_its_process_has_ended_and_never_hits_another() {
        let mut child = shell("");
        let pidfd = pidfd_open(child.id() as i32).unwrap();
        let mut slots = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut slots, PollTimeout::ZERO).unwrap(), 0);
        drop(child.stdin.take());
        assert_eq!(poll(&mut slots, 20_000_u16).unwrap(), 1);
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert_eq!(pidfd_signal(pidfd.as_fd(), 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn orphans_come_to_a_subreaper() {
        isolated("sys::process::tests::orphans_come_to_a_subreaper", || {
            become_subreaper().unwrap();
            let mut middle = Command::new("/bin/sh")
                .args(["-c", "exec 9<&0; read line <&9 & echo $!"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let stdin = middle.stdin.take();
            let mut line = String::new();
            BufReader::new(middle.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(middle.wait().unwrap().success());
            let orphan = line.trim().parse().unwrap();
            assert_eq!(parent_of(orphan), Some(pid()));
            drop(stdin);
            super::super::wait::reap(orphan).unwrap();
        });
    }

    #[test]
    fn caught_and_blocked_signals_are_handled_and_ignored_ones_are_not() {
        let status =
            "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000000002\nSigCgt:\t8000000000000000\n";
        for (signal, expected) in [(1, true), (2, false), (3, false), (64, true)] {
            assert_eq!(handled(status, signal), Some(expected), "{signal}");
        }
        assert_eq!((handled(status, 0), handled(status, 65), handled("", 1)), (None, None, None));
        // Not SIGHUP: under nohup(1) it is ignored from the start, and a shell cannot catch it then.
        let mut child = shell("trap : ALRM; trap '' USR1");
        let pid = child.id() as i32;
        assert_eq!(signal_handled(pid, libc::SIGALRM), Some(true));
        assert_eq!(signal_handled(pid, libc::SIGUSR1), Some(false));
        assert_eq!(signal_handled(pid, libc::SIGUSR2), Some(false));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(signal_handled(pid, libc::SIGALRM), None);
    }

    #[test]
    fn signal_numbers_are_checked() {
        assert!(is_signal(1) && is_signal(31) && is_signal(libc::SIGRTMIN()) && is_signal(64));
        assert!(!is_signal(0) && !is_signal(32) && !is_signal(65) && !is_signal(-1));
    }
}
