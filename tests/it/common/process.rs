//! Processes, as /proc shows them.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// A living process.
#[derive(Debug, Clone)]
pub struct Seen {
    pub pid: i32,
    pub parent: i32,
    /// `R`, `S`, `D`, `T`…; zombies are not listed.
    pub state: char,
    pub command: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (parent {}, {}) {}", self.pid, self.parent, self.state, self.command)
    }
}

/// Sends a signal; a process that is gone is no error.
pub fn kill(pid: i32, signal: Signal) {
    assert!(pid > 1, "not a process of a test: {pid}");
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
}

/// The exit status as a shell tells it: 128+N for signal N.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Whether the process is there, be it as a zombie.
pub fn exists(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether the process is dead, or cannot help dying: one that was killed ends when it gets the processor next, and
/// one that has left its control group may not be a zombie yet.
pub fn is_over(pid: i32) -> bool {
    const PF_EXITING: u64 = 4;
    const PENDING_SIGKILL: u64 = 1 << (Signal::SIGKILL as i32 - 1);
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let Some((_, after_name)) = stat.rsplit_once(')') else { return true };
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let flags: u64 = fields.get(6).and_then(|flags| flags.parse().ok()).unwrap_or(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let is_killed = status.lines().filter_map(|line| line.split_once(':')).any(|(key, value)| {
        matches!(key, "SigPnd" | "ShdPnd")
            && u64::from_str_radix(value.trim(), 16).is_ok_and(|pending| pending & PENDING_SIGKILL != 0)
    });
    matches!(fields.first(), Some(&("Z" | "X"))) || flags & PF_EXITING != 0 || is_killed
}

/// State and parent of a process.
pub fn state(pid: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    Some((after_name.next()?.chars().next()?, after_name.next()?.parse().ok()?))
}

/// The number after `key:` in /proc/PID/status (kB where the kernel says so).
pub fn status_number(pid: i32, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.split(':').next() == Some(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0)
}

/// Children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    all().filter(|p| state(*p).is_some_and(|(_, parent)| parent == pid)).collect()
}

/// Living processes other than this one whose environment has the line `variable` or whose environment or
/// command line names `folder`.
pub fn of(variable: &str, folder: &str) -> Vec<Seen> {
    let me = std::process::id() as i32;
    all().filter(|pid| *pid != me).filter_map(|pid| seen(pid, variable, folder)).collect()
}

fn all() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn seen(pid: i32, variable: &str, folder: &str) -> Option<Seen> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut lines = environment.split(|byte| *byte == 0);
    let contains = |text: &[u8]| text.windows(folder.len()).any(|window| window == folder.as_bytes());
    if !lines.any(|line| line == variable.as_bytes()) && !contains(&environment) && !contains(&command) {
        return None;
    }
    let (state, parent) = state(pid)?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    (state != 'Z').then_some(Seen { pid, parent, state, command })
}
