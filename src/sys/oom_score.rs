//! Who the kernel's out-of-memory killer takes first: oom_score_adj, see proc_pid_oom_score_adj(5).

use std::fs;
use std::io;

/// The value of a process that is to go before all others.
pub const FIRST: i32 = 1000;

/// Our own value; `None` without /proc.
pub fn own() -> Option<i32> {
    read("self").ok()
}

fn read(whose: &str) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/{whose}/oom_score_adj"))?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Gives `value` to those of the processes that have [`FIRST`]: who has changed his own keeps it. Returns how many had
/// it. Those that are gone do not count.
///
/// # Errors
/// EACCES: a process that cannot be dumped belongs to root here, and we are not.
pub fn put_back(pids: &[i32], value: i32) -> io::Result<usize> {
    let mut count = 0;
    let mut refused = None;
    for pid in pids {
        if read(&pid.to_string()).ok() != Some(FIRST) {
            continue;
        }
        match fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
            Ok(()) => count += 1,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {}
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(count), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_goes_first_is_put_back_and_others_are_left_alone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        let before = own().unwrap();
        assert_eq!(put_back(&[pid], before).unwrap(), 0);
        let set = |value: i32| fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()).unwrap();
        set(FIRST);
        assert_eq!(put_back(&[pid, i32::MAX], before).unwrap(), 1);
        assert_eq!(read(&pid.to_string()).unwrap(), before);
        set(FIRST - 1);
        assert_eq!(put_back(&[pid], before).unwrap(), 0);
        assert_eq!(read(&pid.to_string()).unwrap(), FIRST - 1);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
