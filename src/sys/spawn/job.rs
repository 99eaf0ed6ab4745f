//! What the child needs, laid out in memory before it exists.

use super::{Credentials, Plan, SpawnError};
use crate::sys::capability;
use nix::unistd::{getgroups, getresgid, getresuid};
use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;

/// A prepared start. The child works on it through a raw pointer while this process waits, or on a copy of it.
pub(super) struct Job<'a> {
    /// What it was made from.
    pub(super) plan: &'a Plan<'a>,
    /// The arguments as execve(2) wants them: pointers into `plan`, a null at the end.
    pub(super) argv: Vec<*const c_char>,
    /// The environment likewise; also pointers into `stamps`.
    pub(super) env: Vec<*const c_char>,
    /// The variables that hold the child's pid.
    pub(super) stamps: Vec<Stamp>,
    /// The program's descriptor. The child may move it.
    pub(super) program: Option<RawFd>,
    /// The descriptors to place: the n-th becomes n. The child moves them and notes here where they are.
    pub(super) sources: Vec<RawFd>,
    /// The identity, less what is so already.
    pub(super) identity: Identity,
    /// The processors as sched_setaffinity(2) wants them.
    pub(super) processors: Vec<libc::c_ulong>,
    /// The text for /proc/self/oom_score_adj.
    pub(super) oom_score: Option<CString>,
    /// That file, opened to go first. The child may move it.
    pub(super) badness: Option<RawFd>,
    /// The signals to set to their default, bit N-1 for signal N.
    pub(super) dispositions: u64,
    /// Whether the child has to join the cgroup by itself.
    pub(super) joins_cgroup: bool,
    /// Where the child sends the descriptor of its filter, if it is to have one. It may move it.
    pub(super) channel: Option<RawFd>,
    /// Why it has no filter.
    pub(super) refused: Option<i32>,
    /// Where a child with memory of its own says what became of it, if it has that. It may move it.
    pub(super) report: Option<RawFd>,
    /// The gate that it waits at, if it is written down first: the end that it reads, and the one that we write to.
    pub(super) gate: Option<(RawFd, RawFd)>,
    /// What capset(2) gets to drop our inheritable capabilities, and with them the ambient ones; `None` if there are none.
    pub(super) capabilities: Option<capability::Sets>,
    /// The limits that the child could not have as high as asked for, bit N for resource N.
    pub(super) lowered: u32,
    /// What the child leaves behind when it fails.
    pub(super) failure: Option<SpawnError>,
    /// What the child reads into.
    pub(super) buffer: Vec<u8>,
    /// Whether this process may be dumped and traced, and the child may change that.
    was_dumpable: bool,
}

/// A `NAME=` with room for digits.
pub(super) struct Stamp {
    bytes: Vec<u8>,
    name: usize,
}

/// What has to be changed to become somebody.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) groups: Option<Vec<u32>>,
    pub(super) gid: Option<u32>,
    pub(super) uid: Option<u32>,
}

/// How much of a file is read at once, bytes.
const BUFFER: usize = 128 * 1024;

/// The digits of a pid and the final null.
const ROOM: usize = 11;

impl Stamp {
    fn new(name: &[u8]) -> Stamp {
        let mut bytes = name.to_vec();
        bytes.resize(name.len() + ROOM, 0);
        Stamp { bytes, name: name.len() }
    }

    /// Writes the number behind the name. Allocates nothing and cannot panic: the child calls it.
    pub(super) fn write(&mut self, number: u32) {
        let mut digits = [0_u8; ROOM];
        let mut rest = number;
        let mut count = 0;
        for digit in &mut digits {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        for (to, digit) in self.bytes.iter_mut().skip(self.name).zip(digits.iter().take(count).rev()) {
            *to = *digit;
        }
    }
}

impl<'a> Job<'a> {
    pub(super) fn new(plan: &'a Plan<'a>) -> Job<'a> {
        let names =
            [(plan.stamp_listen_pid, b"LISTEN_PID=".as_slice()), (plan.stamp_watchdog_pid, b"WATCHDOG_PID=")];
        let wanted = names.iter().filter(|(wanted, _)| *wanted).map(|(_, name)| *name);
        let stamps: Vec<Stamp> = wanted.clone().map(Stamp::new).collect();
        let kept =
            plan.env.iter().filter(|entry| !wanted.clone().any(|name| entry.as_bytes().starts_with(name)));
        let env = kept
            .map(|entry| entry.as_ptr())
            .chain(stamps.iter().map(|stamp| stamp.bytes.as_ptr().cast()))
            .chain([std::ptr::null()])
            .collect();
        let identity = Identity::new(plan.credentials.as_ref());
        Job {
            argv: plan.argv.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect(),
            env,
            program: plan.pinned.as_ref().map(|pinned| pinned.fd.as_raw_fd()),
            stamps,
            sources: plan.stdio.iter().chain(&plan.fds).map(|fd| fd.as_raw_fd()).collect(),
            processors: processor_mask(&plan.cpu_affinity),
            oom_score: plan.oom_score_adjust.and_then(|score| CString::new(score.to_string()).ok()),
            badness: None,
            dispositions: EVERY_SIGNAL,
            joins_cgroup: false,
            channel: None,
            refused: None,
            report: None,
            gate: None,
            capabilities: capability::Sets::ours().and_then(capability::Sets::without_inheritable),
            lowered: 0,
            failure: None,
            buffer: if plan.checked.as_ref().is_some_and(|checked| checked.file.is_some()) {
                vec![0; BUFFER]
            } else {
                Vec::new()
            },
            was_dumpable: identity.changes_user() && nix::sys::prctl::get_dumpable().unwrap_or(false),
            identity,
            plan,
        }
    }

    /// Makes this process dumpable again. The kernel keeps that with the memory, which the child shared: when it became
    /// somebody else, our own /proc entries were closed to our own user.
    /// Not while another child that should have ended is still on our memory (`alone` is false then).
    pub(super) fn restore_dumpable(&self, alone: bool) {
        if self.was_dumpable && alone {
            make_dumpable();
        }
    }

    /// Whether this process could be dumped before.
    pub(super) fn was_dumpable(&self) -> bool {
        self.was_dumpable
    }
}

/// Lets this process be dumped, traced and looked at by its own user.
pub(super) fn make_dumpable() {
    // There is nothing else to do if it cannot be.
    let _ = nix::sys::prctl::set_dumpable(true);
}

/// How many signals there are.
pub(super) const SIGNALS: i32 = 64;

/// All whose disposition can be set.
pub(super) const EVERY_SIGNAL: u64 = !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));

/// The signals that this process ignores. Asked once, at the first start: 64 questions cost a tenth of a start, and whoever
/// blocks all signals has no reason to change a disposition later.
pub(super) fn ignored_signals() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    *IGNORED.get_or_init(|| {
        (1..=SIGNALS).filter(|signal| is_ignored(*signal)).map(|signal| 1 << (signal - 1)).sum()
    })
}

/// Whether this process ignores a signal; asked past the C library, which hides two.
fn is_ignored(signal: i32) -> bool {
    let none: *const usize = std::ptr::null();
    // The kernel's `struct sigaction`, 8 words at most, the handler first.
    let mut action = [0_usize; 8];
    // SAFETY: the kernel writes one of its sigaction structures, which is not longer than `action`.
    let done =
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, none, &raw mut action, size_of::<u64>()) };
    done == 0 && action[0] == libc::SIG_IGN
}

impl Identity {
    /// What to change; nothing that is so already, because an unprivileged supervisor may not even ask for that.
    fn new(wanted: Option<&Credentials>) -> Identity {
        let Some(wanted) = wanted else {
            return Identity { groups: None, gid: None, uid: None };
        };
        let is_gid = getresgid()
            .is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == wanted.gid));
        let is_uid = getresuid()
            .is_ok_and(|ids| [ids.real, ids.effective, ids.saved].iter().all(|id| id.as_raw() == wanted.uid));
        let ours = getgroups().map(|groups| groups.iter().map(|id| id.as_raw()).collect::<Vec<_>>());
        let has_groups = ours.is_ok_and(|ours| same_groups(&ours, &wanted.groups, wanted.gid));
        Identity {
            groups: (!has_groups).then(|| wanted.groups.clone()),
            gid: (!is_gid).then_some(wanted.gid),
            uid: (!is_uid).then_some(wanted.uid),
        }
    }

    fn changes_user(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }
}

/// Whether two lists of supplementary groups grant the same; the main group is granted anyway.
fn same_groups(ours: &[u32], wanted: &[u32], gid: u32) -> bool {
    let sorted = |groups: &[u32]| {
        let mut groups: Vec<u32> = groups.iter().copied().filter(|group| *group != gid).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    };
    sorted(ours) == sorted(wanted)
}

/// The bit mask of processor numbers; empty for none.
fn processor_mask(numbers: &[u32]) -> Vec<libc::c_ulong> {
    let mut mask = Vec::new();
    for number in numbers {
        let index = (number / libc::c_ulong::BITS) as usize;
        if mask.len() <= index {
            mask.resize(index + 1, 0);
        }
        mask[index] |= 1 << (number % libc::c_ulong::BITS);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_written_behind_the_name() {
        for (number, text) in
            [(0, "0"), (7, "7"), (10, "10"), (4_194_304, "4194304"), (u32::MAX, "4294967295")]
        {
            let mut stamp = Stamp::new(b"LISTEN_PID=");
            stamp.write(number);
            let written = std::ffi::CStr::from_bytes_until_nul(&stamp.bytes).unwrap();
            assert_eq!(written.to_str().unwrap(), format!("LISTEN_PID={text}"));
        }
    }

    #[test]
    fn processors_are_bits() {
        assert!(processor_mask(&[]).is_empty());
        assert_eq!(processor_mask(&[0, 2]), [0b101]);
        let wide = processor_mask(&[libc::c_ulong::BITS]);
        assert_eq!(wide, [0, 1]);
    }

    #[test]
    fn only_what_differs_is_changed() {
        let ids = (getresuid().unwrap().real.as_raw(), getresgid().unwrap().real.as_raw());
        let groups: Vec<u32> = getgroups().unwrap().iter().map(|id| id.as_raw()).collect();
        let same = Credentials { uid: ids.0, gid: ids.1, groups: groups.clone() };
        assert_eq!(Identity::new(Some(&same)), Identity { groups: None, gid: None, uid: None });
        let mut more = groups;
        more.push(4_242);
        let other = Credentials { uid: ids.0 + 1, gid: ids.1 + 1, groups: more.clone() };
        let changed = Identity { groups: Some(more), gid: Some(ids.1 + 1), uid: Some(ids.0 + 1) };
        assert_eq!(Identity::new(Some(&other)), changed);
        assert_eq!(Identity::new(None), Identity { groups: None, gid: None, uid: None });
    }

    #[test]
    fn the_main_group_makes_no_difference_between_lists() {
        assert!(same_groups(&[5, 6], &[6, 5, 5], 1));
        assert!(same_groups(&[1, 5], &[5], 1));
        assert!(!same_groups(&[0, 5], &[5], 1));
        assert!(!same_groups(&[], &[5], 1));
    }
}
