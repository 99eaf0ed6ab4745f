//! Why a process that was killed does not end: a thread of it waits in the kernel for something that nobody can interrupt.
//! proc_pid_stat(5), proc_pid_wchan(5). A few short reads in /proc for each thread, none of which asks anybody else.

use super::process::{self, state_of};
use crate::proto::harmless::harmless;
use std::fs;

/// How many threads of a process are looked at.
const THREADS: usize = 256;

/// How many file systems are named.
const NAMED: usize = 3;

/// What such a thread waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wait {
    /// A file system that a program shows: its connections, and where they are mounted.
    Fuse(Vec<(u32, String)>),
    /// A server.
    Nfs,
    /// That its control group is thawed.
    Thaw,
    /// Something else, by the kernel's name of it.
    Other(String),
}

/// Whether a thread of a process hangs in the kernel, however dead the process looks.
pub(super) fn hangs(pid: i32) -> bool {
    hanging(pid).is_some()
}

/// What holds up a process that does not end, and what to do about it; `None` if nothing can be seen.
pub fn explain(pid: i32) -> Option<String> {
    let thread = hanging(pid)?;
    let place = fs::read_to_string(format!("/proc/{pid}/task/{thread}/wchan")).unwrap_or_default();
    let mounts = || fs::read_to_string(format!("/proc/{pid}/task/{thread}/mountinfo")).unwrap_or_default();
    Some(words(&wait_of(&place, mounts, waiting)))
}

/// The first thread in state D.
fn hanging(pid: i32) -> Option<i32> {
    process::threads(pid).ok()?.take(THREADS).find(|thread| {
        let line = fs::read(format!("/proc/{pid}/task/{thread}/stat")).unwrap_or_default();
        state_of(&line) == Some('D')
    })
}

/// How many requests to a connection have no answer; `None` where fusectl is not mounted.
fn waiting(connection: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/fs/fuse/connections/{connection}/waiting")).ok()?;
    text.trim().parse().ok()
}

fn wait_of(place: &str, mounts: impl Fn() -> String, waiting: impl Fn(u32) -> Option<u32>) -> Wait {
    let is_at = |words: &[&str]| words.iter().any(|word| place.contains(word));
    if is_at(&["request_wait_answer", "fuse"]) {
        let mounts = mounts();
        // Its own was mounted last, most likely.
        let all = mounts.lines().rev().filter_map(fuse_mount);
        // 0: nobody waits for that one.
        return Wait::Fuse(all.filter(|(number, _)| waiting(*number) != Some(0)).take(NAMED).collect());
    }
    if is_at(&["nfs", "rpc_wait"]) {
        Wait::Nfs
    } else if is_at(&["refrigerator", "freezer"]) {
        Wait::Thaw
    } else {
        Wait::Other(harmless(place, 64))
    }
}

/// The number of the connection and the place of a FUSE mount, of a line of mountinfo.
fn fuse_mount(line: &str) -> Option<(u32, String)> {
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?;
    if !(matches!(kind, "fuse" | "fuseblk" | "virtiofs") || kind.starts_with("fuse.")) {
        return None;
    }
    let mut fields = before.split(' ').skip(2);
    // A connection is known by the minor number of its device.
    let number = fields.next()?.split_once(':')?.1.parse().ok()?;
    Some((number, harmless(fields.nth(1)?, 128)))
}

fn words(wait: &Wait) -> String {
    match wait {
        Wait::Fuse(mounts) => {
            let which: Vec<String> = mounts.iter().map(|(number, at)| format!("{number} ({at})")).collect();
            let (which, example) = match mounts.first() {
                Some((number, _)) => (which.join(", "), number.to_string()),
                None => ("N".to_owned(), "N".to_owned()),
            };
            format!(
                "it waits for a file system that a program shows (FUSE) and that does not answer, perhaps its own: end that \
                 program, or cut connection {which}: mount -t fusectl none /sys/fs/fuse/connections; \
                 echo 1 >/sys/fs/fuse/connections/{example}/abort"
            )
        }
        Wait::Nfs => {
            "it waits for a server (NFS) that does not answer: bring that back, or umount -f".to_owned()
        }
        Wait::Thaw => "it is frozen with its control group: thaw that".to_owned(),
        Wait::Other(place) if place.is_empty() || place == "0" => "it hangs in the kernel".to_owned(),
        Wait::Other(place) => format!("it hangs in the kernel, in {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_process_up_is_told_with_what_ends_it() {
        let mounts = "22 1 0:21 / / rw shared:1 - ext4 /dev/root rw\n35 22 0:40 / /mnt/a rw - fuse.sshfs x rw\n\
                      36 22 0:52 / /mnt/b\\040c rw - fuse own rw\n";
        let wait = |place: &str| {
            wait_of(place, || mounts.to_owned(), |number| Some(if number == 40 { 0 } else { 2 }))
        };
        let fuse = wait("request_wait_answer");
        assert_eq!(fuse, Wait::Fuse(vec![(52, "/mnt/b\\040c".into())]), "nobody waits for 40");
        assert!(words(&fuse).contains("echo 1 >/sys/fs/fuse/connections/52/abort"), "{}", words(&fuse));
        let unknown = wait_of("fuse_get_req", || mounts.to_owned(), |_| None);
        assert_eq!(unknown, Wait::Fuse(vec![(52, "/mnt/b\\040c".into()), (40, "/mnt/a".into())]));
        assert!(words(&Wait::Fuse(Vec::new())).contains("connections/N/abort"));
        assert_eq!(wait("nfs_wait_bit_killable"), Wait::Nfs);
        assert_eq!(wait("__refrigerator"), Wait::Thaw);
        assert_eq!(words(&wait("io_schedule")), "it hangs in the kernel, in io_schedule");
        assert_eq!(words(&wait("0")), "it hangs in the kernel");
    }

    #[test]
    fn who_does_not_hang_is_not_said_to() {
        // Nobody has this pid.
        assert_eq!((explain(i32::MAX), hangs(i32::MAX)), (None, false));
        assert_eq!(state_of(b"7 (a) D 1) S 1 2"), Some('S'));
        assert_eq!(state_of(b""), None);
    }
}
