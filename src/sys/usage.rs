//! What the kernel says of a group of processes: its control group's files, else their /proc entries.

use super::clock::{self, Effort};
use crate::proto::status::{Pressure, Usage};
use crate::time::Monotime;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs;
use std::io::Read;
use std::os::fd::BorrowedFd;

/// A control group's file is never longer than this, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// Of so many processes something is read whatever the time is.
const ALWAYS: usize = 16;

/// What `read` says of each process that is there; nothing if that takes longer than until `end`: a part of a sum is none.
fn of_each<T>(pids: &[i32], end: Effort, read: impl Fn(i32) -> Option<T>) -> Vec<T> {
    let mut all = Vec::new();
    for (at, pid) in pids.iter().enumerate() {
        if at >= ALWAYS && at.is_multiple_of(ALWAYS) && end.is_spent() {
            return Vec::new();
        }
        all.extend(read(*pid));
    }
    all
}

/// A group's figures from its control group's folder, and those of its processes where the group does not say, as far as they
/// can be had until `end`. Takes a few reads for each process, and no lock that a service could hold: any thread may ask.
pub fn of(group: Option<BorrowedFd<'_>>, pids: &[i32], end: Effort) -> Usage {
    let file = |name: &str| group.and_then(|group| read(group, name));
    let pressure = |name: &str| file(name).as_deref().and_then(stalled);
    let descriptors = of_each(pids, end, descriptors);
    Usage {
        descriptors: (!descriptors.is_empty()).then(|| descriptors.iter().sum()),
        memory_peak: number(file("memory.peak")),
        pressure: Pressure {
            cpu: pressure("cpu.pressure"),
            memory: pressure("memory.pressure"),
            io: pressure("io.pressure"),
        },
        ..brief(group, pids, end)
    }
}

/// Whether a group counts the memory of its processes.
pub fn counts_memory(group: Option<BorrowedFd<'_>>) -> bool {
    group.is_some_and(|group| read(group, "memory.current").is_some())
}

/// As [`of`], without what takes most of the time: processor, memory, tasks, kills.
pub fn brief(group: Option<BorrowedFd<'_>>, pids: &[i32], end: Effort) -> Usage {
    let file = |name: &str| group.and_then(|group| read(group, name));
    let cpu = file("cpu.stat").as_deref().and_then(|text| field(text, "usage_usec"));
    let (memory, tasks) = (memory_of_group(&file), number(file("pids.current")));
    let each: Vec<(u64, u64)> =
        if memory.is_some() && tasks.is_some() { Vec::new() } else { of_each(pids, end, memory_and_threads) };
    let sum = |of: fn(&(u64, u64)) -> u64| (!each.is_empty()).then(|| each.iter().map(of).sum());
    Usage {
        cpu_seconds: cpu.map(|usec| usec as f64 / 1e6).or_else(|| cpu_of(pids, end)),
        memory: memory.or_else(|| sum(|(memory, _)| *memory)),
        tasks: tasks.or_else(|| sum(|(_, threads)| *threads)),
        oom_kills: file("memory.events").as_deref().and_then(|text| field(text, "oom_kill")),
        ..Usage::default()
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

/// A file of a control group.
pub(super) fn file(group: BorrowedFd<'_>, name: &str) -> Option<fs::File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    nix::fcntl::openat(group, name, flags, Mode::empty()).ok().map(fs::File::from)
}

fn read(group: BorrowedFd<'_>, name: &str) -> Option<String> {
    let mut text = String::new();
    file(group, name)?.take(MAX_FILE).read_to_string(&mut text).ok()?;
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

/// In how many of a hundred of the last ten seconds somebody had to wait: `some avg10=1.25 …`, see PSI of the kernel.
fn stalled(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10=")?.parse().ok())
}

/// Memory of several processes, each page that they share counted once: takes a millisecond for each process, and many
/// for a large one, so it stops at `end` and counts the rest without that, which is never less.
pub fn exact_memory(pids: &[i32], end: Monotime) -> Option<u64> {
    let all: Vec<u64> = pids
        .iter()
        .filter_map(
            |pid| if clock::now() < end { exact(*pid).or_else(|| memory(*pid)) } else { memory(*pid) },
        )
        .collect();
    (!all.is_empty()).then(|| all.iter().sum())
}

fn exact(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kilobytes = field(&text, "Pss_Anon")? + field(&text, "Pss_Shmem")? + field(&text, "SwapPss")?;
    Some(kilobytes * 1024)
}

/// Anonymous and shared memory, bytes, and the number of threads.
fn memory_and_threads(pid: i32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = field(&status, "RssAnon")? + field(&status, "RssShmem").unwrap_or(0);
    Some((kilobytes * 1024, field(&status, "Threads")?))
}

fn memory(pid: i32) -> Option<u64> {
    memory_and_threads(pid).map(|(memory, _)| memory)
}

fn descriptors(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/fd");
    // The folder's size is their number since Linux 6.2; before it is 0, and they are counted.
    let told = fs::metadata(&path).ok()?.len();
    if told > 0 { Some(told) } else { Some(fs::read_dir(&path).ok()?.count() as u64) }
}

/// Processor time of those that live, and of children that they have reaped, seconds.
fn cpu_of(pids: &[i32], end: Effort) -> Option<f64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let one = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        // utime, stime, cutime, cstime: the 14th to the 17th field.
        let times: Vec<u64> =
            rest.split_whitespace().skip(11).take(4).filter_map(|time| time.parse().ok()).collect();
        (times.len() == 4).then(|| times.iter().sum::<u64>())
    };
    let all: Vec<u64> = of_each(pids, end, one);
    (!all.is_empty()).then(|| all.iter().sum::<u64>() as f64 / ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_figures_are_known_without_a_group() {
        let usage = of(None, &[super::super::process::pid()], Effort::whatever());
        assert!(usage.cpu_seconds.is_some_and(|seconds| seconds >= 0.0), "{usage:?}");
        assert!(usage.memory.is_some_and(|bytes| bytes > 10_000), "{usage:?}");
        assert!(usage.tasks.is_some_and(|tasks| tasks >= 1), "{usage:?}");
        assert!(usage.descriptors.is_some_and(|count| count >= 3), "{usage:?}");
    }

    #[test]
    fn pressure_is_the_share_of_time_in_which_somebody_waited() {
        let text = "some avg10=1.25 avg60=0.10 avg300=0.00 total=7\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=3\n";
        assert_eq!(stalled(text), Some(1.25));
        assert_eq!(stalled("full avg10=0.50\n"), None);
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn shared_pages_are_counted_once() {
        let own = super::super::process::pid();
        let far = clock::now() + crate::time::Span::from_secs(60);
        let (exact, cheap) = (exact_memory(&[own], far).unwrap(), memory(own).unwrap());
        assert!(exact > 0 && exact <= cheap + cheap / 4, "{exact} {cheap}");
        assert_eq!(exact_memory(&[i32::MAX], far), None);
        assert!(exact_memory(&[own], clock::now()).is_some());
    }

    #[test]
    fn what_cannot_be_known_is_absent() {
        let now = Effort::of(crate::time::Span::ZERO);
        assert_eq!(of(None, &[], now), Usage::default());
        assert_eq!(of(None, &[i32::MAX], now), Usage::default());
        // So many that there is no time for them.
        let many = vec![super::super::process::pid(); 2 * ALWAYS];
        assert_eq!(of(None, &many, now), Usage::default());
        assert!(of(None, &many, Effort::whatever()).memory.is_some());
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
