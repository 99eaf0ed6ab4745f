//! Who the kernel's out-of-memory killer takes first: oom_score_adj, see proc_pid_oom_score_adj(5).

use std::fs;
use std::io;

/// The value of a process that is to go before all others.
pub const FIRST: i32 = 1000;

/// Our own value; `None` without /proc.
pub fn own() -> Option<i32> {
    read("self").ok()
}

/// Our own value as a child is to inherit it, until this is dropped.
#[derive(Debug)]
pub struct Lent {
    own: Option<i32>,
}

impl Lent {
    /// `None`: a child has to set it itself, and to say why it cannot. More than we have needs no privilege, and ours comes
    /// back only with one.
    pub fn of(wanted: Option<i32>) -> Option<Lent> {
        let Some(wanted) = wanted else { return Some(Lent { own: None }) };
        let own = own()?;
        if own == wanted {
            return Some(Lent { own: None });
        }
        let may = own < wanted && wanted <= FIRST && has_resource();
        (may && write("self", wanted).is_ok()).then_some(Lent { own: Some(own) })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // We had the right to raise it a moment ago.
        let _ = self.own.map(|own| write("self", own));
    }
}

/// Makes a process that has executed the first to go.
///
/// # Errors
/// It is gone; EACCES: it cannot be dumped, so that it belongs to root here, and we are not.
pub fn go_first(pid: i32) -> io::Result<()> {
    // The kernel takes what somebody with this capability writes for the least that the process may have from then on.
    without_resource(|| write(&pid.to_string(), FIRST))
}

/// CAP_SYS_RESOURCE.
const RESOURCE: u32 = 1 << 24;

/// What capget(2) and capset(2) read and write, version 3: of the effective, permitted and inheritable ones the low 32 bits,
/// then the high ones.
#[repr(C)]
#[derive(Clone, Copy)]
struct Capabilities {
    header: [u32; 2],
    data: [u32; 6],
}

fn capabilities() -> Option<Capabilities> {
    let mut have = Capabilities { header: [0x2008_0522, 0], data: [0; 6] };
    let (header, data) = (&raw mut have.header, &raw mut have.data);
    // SAFETY: the kernel reads and writes a header of two numbers and writes data of six.
    let done = unsafe { libc::syscall(libc::SYS_capget, header, data) };
    (done == 0).then_some(have)
}

fn has_resource() -> bool {
    capabilities().is_some_and(|have| have.data[0] & RESOURCE != 0)
}

/// Does something while this thread has no CAP_SYS_RESOURCE.
fn without_resource<T>(act: impl FnOnce() -> T) -> T {
    let have = capabilities().filter(|have| have.data[0] & RESOURCE != 0);
    let set = |all: &Capabilities| {
        let (header, data) = (&raw const all.header, &raw const all.data);
        // SAFETY: the kernel reads a header of two numbers and data of six.
        unsafe { libc::syscall(libc::SYS_capset, header, data) }
    };
    if let Some(have) = &have {
        let mut less = *have;
        less.data[0] &= !RESOURCE;
        set(&less);
    }
    let done = act();
    // It still is permitted: that cannot be refused.
    have.as_ref().map(set);
    done
}

fn write(whose: &str, value: i32) -> io::Result<()> {
    fs::write(format!("/proc/{whose}/oom_score_adj"), value.to_string())
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
        match write(&pid.to_string(), value) {
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
