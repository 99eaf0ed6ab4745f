//! What the kernel says of a group of processes: its control group's files, else their /proc entries.

use crate::proto::status::Usage;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A control group's file is never longer than this, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// A group's figures from its control group's folder, and those of its processes where the group does not say. Takes
/// a few reads for each process, and no lock that a service could hold: any thread may ask.
pub fn of(group: Option<BorrowedFd<'_>>, pids: &[i32]) -> Usage {
    let file = |name: &str| group.and_then(|group| read(group, name));
    let stat = file("cpu.stat");
    let cpu = stat.as_deref().and_then(|text| field(text, "usage_usec")).map(|usec| usec as f64 / 1e6);
    let sum = |of: fn(i32) -> Option<u64>| {
        let all: Vec<u64> = pids.iter().filter_map(|pid| of(*pid)).collect();
        (!all.is_empty()).then(|| all.iter().sum())
    };
    Usage {
        cpu_seconds: cpu.or_else(|| cpu_of(pids)),
        memory: memory_of_group(&file).or_else(|| sum(memory)),
        tasks: number(file("pids.current")).or_else(|| sum(threads)),
        descriptors: sum(descriptors),
        oom_kills: file("memory.events").as_deref().and_then(|text| field(text, "oom_kill")),
        connections: None,
        accept_queue: None,
    }
}

/// What of a group's memory cannot be reclaimed.
fn memory_of_group(file: &impl Fn(&str) -> Option<String>) -> Option<u64> {
    let current = number(file("memory.current"))?;
    let stat = file("memory.stat")?;
    let cache = ["active_file", "inactive_file", "slab_reclaimable"];
    let cache: u64 = cache.iter().filter_map(|name| field(&stat, name)).sum();
    Some(current.saturating_sub(cache))
}

fn read(group: BorrowedFd<'_>, name: &str) -> Option<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file: OwnedFd = nix::fcntl::openat(group, name, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    fs::File::from(file).take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn number(text: Option<String>) -> Option<u64> {
    text?.trim().parse().ok()
}

/// `name value` on a line of its own.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']))?;
    line.split_whitespace().next()?.parse().ok()
}

fn status(pid: i32, name: &str) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, name)
}

/// Anonymous and shared memory, bytes.
fn memory(pid: i32) -> Option<u64> {
    let anonymous = status(pid, "RssAnon")?;
    Some((anonymous + status(pid, "RssShmem").unwrap_or(0)) * 1024)
}

fn threads(pid: i32) -> Option<u64> {
    status(pid, "Threads")
}

fn descriptors(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    // The folder's size is their number since Linux 6.2; before it is 0, and they are counted.
    let told = fs::metadata(&path).ok()?.len();
    if told > 0 { Some(told) } else { Some(fs::read_dir(&path).ok()?.count() as u64) }
}

/// Processor time of those that live, and of children that they have reaped, seconds.
fn cpu_of(pids: &[i32]) -> Option<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let one = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        // utime, stime, cutime, cstime: the 14th to the 17th field.
        let times: Vec<u64> =
            rest.split_whitespace().skip(11).take(4).filter_map(|time| time.parse().ok()).collect();
        (times.len() == 4).then(|| times.iter().sum::<u64>())
    };
    let all: Vec<u64> = pids.iter().filter_map(one).collect();
    (!all.is_empty()).then(|| all.iter().sum::<u64>() as f64 / ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_figures_are_known_without_a_group() {
        let usage = of(None, &[super::super::process::pid()]);
        assert!(usage.cpu_seconds.is_some_and(|seconds| seconds >= 0.0), "{usage:?}");
        assert!(usage.memory.is_some_and(|bytes| bytes > 10_000), "{usage:?}");
        assert!(usage.tasks.is_some_and(|tasks| tasks >= 1), "{usage:?}");
        assert!(usage.descriptors.is_some_and(|count| count >= 3), "{usage:?}");
    }

    #[test]
    fn what_cannot_be_known_is_absent() {
        assert_eq!(of(None, &[]), Usage::default());
        assert_eq!(of(None, &[i32::MAX]), Usage::default());
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(
            (field(text, "oom_kill"), field(text, "oom"), field(text, "kill")),
            (Some(2), Some(3), None)
        );
    }
}
