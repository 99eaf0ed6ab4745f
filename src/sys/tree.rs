//! Which processes belong to a generation, where no cgroup says it. Main thread only.

use super::aside;
use super::process::{self, Stat, stat};
use super::wait;
use super::{near, procfs};
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A process that we have started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Main {
    /// Its pid. It leads a session of this number.
    pub pid: i32,
    /// Whether it was reaped: whoever has its pid now is somebody else.
    pub reaped: bool,
    /// When it was started, in clock ticks, where its pid may be given to somebody else before we hear of its end: it is not
    /// our child.
    pub start_time: Option<u64>,
}

impl Main {
    /// Whether this process is it.
    fn is(&self, pid: i32, look: impl FnOnce(i32) -> Option<Stat>) -> bool {
        let same = |start| look(pid).is_some_and(|stat| stat.start_time == start);
        self.pid == pid && !self.reaped && self.start_time.is_none_or(same)
    }
}

/// A process of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its pid.
    pub pid: i32,
    /// When it was started, in clock ticks: with the pid it is one process for ever.
    pub start_time: u64,
}

/// What marks the processes of a generation.
#[derive(Debug, Clone, Copy)]
pub struct TreeKey<'a> {
    /// The processes that we have started for it, dead ones too: their sessions may live on.
    pub mains: &'a [Main],
    /// The value of `INVOCATION_ID` in their environment; it marks what has left its parent and its session. Empty: there
    /// is no such mark.
    pub invocation: &'a str,
    /// Whether orphans among them need not have come to us: somebody before us has started them.
    pub strayed: bool,
}

/// The processes of a generation, sorted: those that we have started, their descendants, all of their sessions, and what
/// has come to us as an orphan with their `INVOCATION_ID`, with its descendants. Never `us`; zombies are included. Reads the
/// whole of /proc: a snapshot, so ask again until it is empty. Nobody where /proc says nothing about us: see
/// [`procfs::shows_us`].
pub fn tree(key: &TreeKey<'_>, us: i32) -> Vec<i32> {
    members_of(key, us).iter().map(|member| member.pid).collect()
}

/// [`tree`], with what tells each of them from whoever gets its pid later.
pub fn members_of(key: &TreeKey<'_>, us: i32) -> Vec<Member> {
    Snapshot::take().members(key, us)
}

/// All processes at one moment, for who asks about several trees.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<i32, Stat>);

impl Snapshot {
    /// Reads the whole of /proc. Nobody where it says nothing about us.
    pub fn take() -> Snapshot {
        if !procfs::shows_us() {
            return Snapshot(BTreeMap::new());
        }
        Snapshot(process::all().into_iter().flatten().filter_map(|pid| Some((pid, stat(pid)?))).collect())
    }

    /// [`members_of`], as it was then.
    pub fn members(&self, key: &TreeKey<'_>, us: i32) -> Vec<Member> {
        let strays = if key.strayed { in_time(self.0.keys().copied(), key.invocation) } else { Vec::new() };
        let marked = |pid| if key.strayed { strays.contains(&pid) } else { is_marked(pid, key.invocation) };
        let pids = members(&self.0, key, us, marked);
        let member = |pid| Some(Member { pid, start_time: self.0.get(&pid)?.start_time });
        pids.into_iter().filter_map(member).collect()
    }
}

/// [`tree`] on a snapshot.
fn members(all: &BTreeMap<i32, Stat>, key: &TreeKey<'_>, us: i32, marked: impl Fn(i32) -> bool) -> Vec<i32> {
    let look = |pid: i32| all.get(&pid).copied();
    let is_main = |pid: i32| key.mains.iter().any(|main| main.is(pid, look));
    // The kernel gives a number to nobody as long as it is a session's: a process that has it although ours was reaped
    // says that our session has ended, and that this one is another.
    let leads = |session: &i32| key.mains.iter().any(|main| main.pid == *session && !main.is(*session, look));
    let others: BTreeSet<i32> = all.keys().copied().filter(leads).collect();
    let of_session = |stat: &Stat| {
        let ours = key.mains.iter().any(|main| main.pid == stat.session);
        stat.session > 0 && ours && (is_main(stat.session) || !others.contains(&stat.session))
    };
    let mut found: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, stat)| {
            is_main(**pid) || of_session(stat) || ((key.strayed || stat.parent == us) && marked(**pid))
        })
        .map(|(pid, _)| *pid)
        .collect();
    found.remove(&us);
    // Pids wrap around, so a child may have a smaller one than its parent: repeat until nobody is added.
    loop {
        let before = found.len();
        let children: Vec<i32> =
            all.iter().filter(|(_, stat)| found.contains(&stat.parent)).map(|(pid, _)| *pid).collect();
        found.extend(children.into_iter().filter(|pid| *pid != us));
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

/// How many parents are asked for, up from a process: nobody's tree is that deep.
const DEEPEST: usize = 64;

/// Whether a process is one of [`tree`]. Looks at it and its parents only, whatever else runs on the machine.
pub fn is_member(key: &TreeKey<'_>, pid: i32, us: i32) -> bool {
    let marked = |pid: i32| match key.strayed {
        true => !in_time(std::iter::once(pid), key.invocation).is_empty(),
        false => is_marked(pid, key.invocation),
    };
    is_below(key, pid, us, stat, marked)
}

/// [`is_member`], as `look` sees processes.
fn is_below(
    key: &TreeKey<'_>,
    pid: i32,
    us: i32,
    look: impl Fn(i32) -> Option<Stat>,
    marked: impl Fn(i32) -> bool,
) -> bool {
    let is_main = |pid: i32| key.mains.iter().any(|main| main.is(pid, &look));
    // As in a snapshot: who has the number of a session whose leader was reaped leads another one.
    let is_session = |session: i32| {
        let ours = session > 0 && key.mains.iter().any(|main| main.pid == session);
        ours && (is_main(session) || look(session).is_none())
    };
    let mut at = pid;
    for _ in 0..DEEPEST {
        if at == us {
            return false;
        }
        let Some(stat) = look(at) else { return false };
        if is_main(at) || is_session(stat.session) {
            return true;
        }
        if stat.parent == us {
            return marked(at);
        }
        if key.strayed && marked(at) {
            return true;
        }
        at = stat.parent;
    }
    false
}

/// Our own children, zombies too. Main thread only.
pub fn own_children() -> Vec<i32> {
    // Mostly there are none, and to look at every process takes longer than the rest of a start.
    if wait::has_children() { children_of(process::pid()) } else { Vec::new() }
}

fn children_of(parent: i32) -> Vec<i32> {
    if !procfs::shows_us() {
        return Vec::new();
    }
    listed_children(parent).unwrap_or_else(|| scanned_children(parent))
}

/// As the kernel lists them, where it was built to (proc_pid_children(5)): no look at everybody else.
fn listed_children(parent: i32) -> Option<Vec<i32>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread has ended, or no such file is made here.
            Err(_) if thread.path().exists() => return None,
            Err(_) => {}
        }
    }
    found.sort_unstable();
    Some(found)
}

fn scanned_children(parent: i32) -> Vec<i32> {
    let all = process::all().into_iter().flatten();
    all.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent)).collect()
}

/// Whether a process was started with this `INVOCATION_ID`. Not if we may not look, nor if that cannot be read at once: its
/// environment is memory of the process, and a file system that it has made may show that, or not.
fn is_marked(pid: i32, invocation: &str) -> bool {
    if invocation.is_empty() {
        return false;
    }
    let invocation = invocation.to_owned();
    near::asked(move || mark_of(pid, &invocation)).flatten() == Some(true)
}

/// Whether a process was started with this `INVOCATION_ID`; `None` if we may not look, or it has written over that.
fn mark_of(pid: i32, invocation: &str) -> Option<bool> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok().filter(|text| !text.is_empty())?;
    let value =
        |entry: &[u8]| entry.strip_prefix(b"INVOCATION_ID=").map(|value| value == invocation.as_bytes());
    let found = environment.split(|byte| *byte == 0).find_map(value);
    found.filter(|_| !invocation.is_empty())
}

/// Whether a process was started with this `INVOCATION_ID`; `None` if we may not look, if it has written over that, or if it
/// is not known in time.
pub fn mark_in_time(pid: i32, invocation: &str) -> Option<bool> {
    let invocation = invocation.to_owned();
    aside::within(ANSWER, move || mark_of(pid, &invocation))?
}

/// How long strangers' environments are read: they are in their own memory, which may be a file of theirs that never answers.
const ANSWER: Span = Span::from_millis(200);

/// Those of these processes that were started with this `INVOCATION_ID`, as far as that is known in time. Who is not our child
/// may be anybody.
fn in_time(pids: impl Iterator<Item = i32>, invocation: &str) -> Vec<i32> {
    let (found, answers) = std::sync::mpsc::channel();
    let (pids, invocation): (Vec<i32>, String) = (pids.collect(), invocation.to_owned());
    aside::within(ANSWER, move || {
        let marked = pids.into_iter().filter(|pid| mark_of(*pid, &invocation) == Some(true));
        // Nobody may wait any more.
        for pid in marked {
            let _ = found.send(pid);
        }
    });
    answers.try_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::{process, testing::isolated, wait};
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    fn world(rows: &[(i32, i32, i32)]) -> BTreeMap<i32, Stat> {
        rows.iter()
            .map(|(pid, parent, session)| (*pid, Stat { parent: *parent, session: *session, start_time: 0 }))
            .collect()
    }

    #[test]
    fn descent_session_and_mark_are_followed() {
        let all = world(&[
            (1, 0, 1),
            (10, 1, 10),  // us
            (20, 10, 20), // main
            (21, 20, 20), // its child
            (15, 21, 15), // a grandchild in a session of its own, with a smaller pid
            (30, 10, 20), // an orphan in main's session
            (40, 10, 40), // an orphan that left it, marked
            (41, 40, 41), // its child
            (50, 10, 50), // another service
            (51, 50, 50),
            (60, 1, 60), // a stranger, marked: not an orphan of ours
            (70, 0, 0),  // a kernel thread
        ]);
        let key = TreeKey { mains: &[lives(20)], invocation: "x", strayed: false };
        assert_eq!(members(&all, &key, 10, |pid| pid == 40 || pid == 60), [15, 20, 21, 30, 40, 41]);
        let none = TreeKey { mains: &[], invocation: "x", strayed: false };
        assert!(members(&all, &none, 10, |_| false).is_empty());
        // Asked for one by one it is the same.
        let is_below =
            |pid: i32| is_below(&key, pid, 10, |pid| all.get(&pid).copied(), |pid| pid == 40 || pid == 60);
        let found: Vec<i32> = (0..100).filter(|pid| is_below(*pid)).collect();
        assert_eq!(found, [15, 20, 21, 30, 40, 41]);
    }

    #[test]
    fn one_process_costs_its_parents_and_no_more_of_them_than_a_tree_has() {
        // A chain as long as a service likes, that ends at nobody of ours.
        let asked = std::cell::Cell::new(0);
        let look = |pid: i32| {
            asked.set(asked.get() + 1);
            Some(Stat { parent: pid + 1, session: 0, start_time: 0 })
        };
        assert!(!is_below(
            &TreeKey { mains: &[lives(5)], invocation: "x", strayed: false },
            100,
            10,
            look,
            |_| true
        ));
        assert_eq!(asked.get(), DEEPEST);
    }

    #[test]
    fn children_are_the_same_listed_or_looked_for() {
        isolated("sys::tree::tests::children_are_the_same_listed_or_looked_for", || {
            let spawn = || Command::new("/bin/sh").args(["-c", "read line"]).stdin(Stdio::piped()).spawn();
            let mut children: Vec<_> = (0..3).map(|_| spawn().unwrap()).collect();
            let mut expected: Vec<i32> = children.iter().map(|child| child.id() as i32).collect();
            expected.sort_unstable();
            assert_eq!(scanned_children(process::pid()), expected);
            assert!(listed_children(process::pid()).is_none_or(|listed| listed == expected));
            for child in &mut children {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        });
    }

    #[test]
    fn we_are_never_a_member() {
        let all = world(&[(10, 20, 20), (20, 1, 20), (21, 20, 20)]);
        assert_eq!(
            members(&all, &TreeKey { mains: &[lives(20)], invocation: "", strayed: false }, 10, |_| true),
            [20, 21]
        );
    }

    fn lives(pid: i32) -> Main {
        Main { pid, reaped: false, start_time: None }
    }

    #[test]
    fn whoever_has_the_pid_of_a_reaped_process_is_no_member_and_its_session_is_another() {
        let gone = Main { pid: 20, reaped: true, start_time: None };
        let key = TreeKey { mains: &[gone, lives(30)], invocation: "", strayed: false };
        let session_lives = world(&[(10, 1, 10), (21, 10, 20), (30, 10, 30)]);
        assert_eq!(members(&session_lives, &key, 10, |_| false), [21, 30]);
        let taken = world(&[(10, 1, 10), (20, 1, 20), (21, 20, 20), (30, 10, 30)]);
        assert_eq!(members(&taken, &key, 10, |_| false), [30]);
    }

    /// A main process that leaves behind a grandchild in a session of its own, whose parent has ended.
    const ESCAPE: &str = "exec 9<&0; (setsid sh -c 'echo $$; exec >&-; read line' <&9 &); read line";

    #[test]
    fn who_has_left_parent_and_session_is_found_by_the_mark() {
        isolated("sys::tree::tests::who_has_left_parent_and_session_is_found_by_the_mark", || {
            process::become_subreaper().unwrap();
            let start = |invocation: &str| {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", ESCAPE]).env("INVOCATION_ID", invocation);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
                let mut main = command.spawn().unwrap();
                let mut line = String::new();
                BufReader::new(main.stdout.take().unwrap()).read_line(&mut line).unwrap();
                let escaped: i32 = line.trim().parse().unwrap();
                (main.stdin.take(), main, escaped)
            };
            let (_input, mut main, escaped) = start("0123abcd");
            let (_other_input, mut other, _) = start("4567");
            let pid = main.id() as i32;
            // Its parent in between is a zombie until the main process has seen its end.
            while process::parent_of(escaped) != Some(process::pid()) || !children_of(pid).is_empty() {
                std::thread::yield_now();
            }
            assert_ne!(stat(escaped).unwrap().session, pid);
            let key = TreeKey { mains: &[lives(pid)], invocation: "0123abcd", strayed: false };
            let mut expected = vec![pid, escaped];
            expected.sort_unstable();
            assert_eq!(tree(&key, process::pid()), expected);
            // The main process is gone, the other one is not.
            main.kill().unwrap();
            main.wait().unwrap();
            let key = TreeKey { mains: &[], invocation: "0123abcd", strayed: false };
            assert_eq!(tree(&key, process::pid()), [escaped]);
            process::kill(escaped, libc::SIGKILL).unwrap();
            wait::reap(escaped).unwrap();
            assert!(tree(&key, process::pid()).is_empty());
            other.kill().unwrap();
            other.wait().unwrap();
        });
    }
}
