//! Tests of cgroups. Those that need real ones say so and end where there are none.

use super::super::poll::{Poller, Token};
use super::super::spawn::{Plan, spawn};
use super::super::{clock, fd, wait, wake};
use super::*;
use crate::time::Span;
use std::io::Read;

#[test]
fn our_own_group_is_found_in_every_kind_of_hierarchy() {
    let hybrid = "9:name=systemd:/\n4:memory:/x\n0::/\n";
    let pure = "0::/system.slice/aeterna.service\n";
    assert_eq!(own_group(hybrid), Some("/"));
    assert_eq!(own_group(pure), Some("/system.slice/aeterna.service"));
    assert_eq!(own_group("4:memory:/x\n"), None);
}

#[test]
fn the_folder_of_a_group_follows_the_mount() {
    let line = |root: &str, point: &str, kind: &str| {
        format!(
            "25 30 0:22 / /sys rw - sysfs sysfs rw\n35 25 0:30 {root} {point} rw,nosuid shared:9 - {kind} cgroup2 rw\n"
        )
    };
    for (group, root, point, folder) in [
        ("/", "/", "/sys/fs/cgroup", Some("/sys/fs/cgroup")),
        ("/a/b", "/", "/sys/fs/cgroup/unified", Some("/sys/fs/cgroup/unified/a/b")),
        ("/docker/1/x", "/docker/1", "/sys/fs/cgroup", Some("/sys/fs/cgroup/x")),
        ("/docker/1", "/docker/1", "/with\\040space", Some("/with space")),
        ("/elsewhere", "/docker/1", "/sys/fs/cgroup", None),
        ("/", "/..", "/sys/fs/cgroup", None),
    ] {
        let found = folder_of(group, &line(root, point, "cgroup2"), None);
        assert_eq!(found.as_deref(), folder.map(Path::new), "{group} {root}");
    }
    assert_eq!(folder_of("/", &line("/", "/sys/fs/cgroup", "cgroup"), None), None);
    // A later mount hides what lies below it, and nothing else.
    let one = |root: &str, point: &str, kind: &str| {
        let both = line(root, point, kind);
        both.lines().last().unwrap().to_owned()
    };
    let tmpfs = |point: &str| format!("44 25 0:40 / {point} rw - tmpfs none rw\n");
    let below = line("/", "/sys/fs/cgroup/unified", "cgroup2");
    for (later, shown) in [
        (tmpfs("/sys/fs/cgroup"), None),
        (tmpfs("/sys/fs/cgroup") + &one("/", "/sys/fs/cgroup", "cgroup2"), Some("/sys/fs/cgroup")),
        (tmpfs("/sys/fs/cgroup2"), Some("/sys/fs/cgroup/unified")),
        (one("/", "/host", "cgroup2"), Some("/sys/fs/cgroup/unified")),
    ] {
        let found = folder_of("/", &format!("{below}{later}"), None);
        assert_eq!(found.as_deref(), shown.map(Path::new), "{later}");
    }
}

#[test]
fn escapes_are_octal() {
    assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
    assert_eq!(unescape("odd\\9"), "odd\\9");
}

/// A place for groups, or `None` with a message.
fn root(prefix: &str) -> Option<CgroupRoot> {
    let root = CgroupRoot::probe(prefix);
    if root.is_none() {
        println!("skipped: no cgroup can be made here");
    }
    root
}

/// Starts a shell in the group that leaves three more processes behind in sessions of their own; returns it when they run.
fn populate(group: &Cgroup) -> i32 {
    let text = "exec 9<&0; for i in 1 2 3; do setsid sh -c 'echo up; exec >&-; read line' <&9 & done; exec >&-; wait";
    let (rx, tx) = fd::pipe().unwrap();
    let (input, writer) = fd::pipe().unwrap();
    let null = fd::dev_null().unwrap();
    // They have the writer of their own input, so reads wait until they are killed.
    let mut plan = Plan::new(c"/bin/sh".into(), [input.as_fd(), tx.as_fd(), null.as_fd()]);
    plan.argv = vec![c"sh".into(), c"-c".into(), std::ffi::CString::new(text).unwrap()];
    plan.fds = vec![writer.as_fd()];
    plan.cgroup = Some(group.dir_fd());
    let process = spawn(&plan).unwrap();
    drop(tx);
    let mut lines = String::new();
    File::from(rx).read_to_string(&mut lines).unwrap();
    assert_eq!(lines, "up\n".repeat(3));
    process.pid
}

#[test]
fn a_group_is_told_empty_when_all_are_killed() {
    let Some(root) = root("aeterna-test-kill") else { return };
    for kill in [Cgroup::kill, Cgroup::freeze_and_kill] {
        let group = root.make("web-1").unwrap();
        assert!(!group.populated());
        let (signals, wakeups) = (wake::self_pipe().unwrap().1, wake::self_pipe().unwrap());
        let mut poller = Poller::new(wakeups.1.fd(), wakeups.1.fd()).unwrap();
        drop(signals);
        poller.add_priority(Token(1), group.events_fd()).unwrap();
        let mut out = Vec::new();
        poller.wait(Some(clock::now()), &mut out).unwrap();
        assert_eq!(out, [], "nothing has changed yet");

        let main = populate(&group);
        let pids = group.pids();
        assert!(pids.contains(&main) && pids.len() == 4, "{pids:?}");
        assert_eq!(group.remove().unwrap_err().raw_os_error(), Some(libc::EBUSY));
        poller.wait(Some(clock::now() + Span::from_secs(20)), &mut out).unwrap();
        assert!(out.len() == 1 && out[0].0 == Token(1) && out[0].1.readable, "{out:?}");
        assert!(group.populated());

        kill(&group).unwrap();
        // The zombie of the main process counts as long as it is a thread group leader only in pids, not here.
        while group.populated() {
            poller.wait(Some(clock::now() + Span::from_secs(20)), &mut out).unwrap();
            assert!(!out.is_empty(), "not told that the group is empty");
        }
        wait::reap(main).unwrap();
        assert!(group.pids().is_empty());
        group.remove().unwrap();
        group.remove().unwrap();
        assert!(!group.populated());
    }
}

#[test]
fn processes_in_groups_below_are_seen_and_killed() {
    let Some(root) = root("aeterna-test-below") else { return };
    let group = root.make("web-1").unwrap();
    let main = populate(&group);
    let below = group.path.join("inner/most");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("cgroup.procs"), main.to_string()).unwrap();
    assert_eq!(group.pids().len(), 4);
    assert!(group.pids().contains(&main));
    group.kill().unwrap();
    wait::reap(main).unwrap();
    while group.populated() {
        std::thread::yield_now();
    }
    group.remove().unwrap();
    assert!(!group.path.exists());
}

#[test]
fn what_nobody_uses_is_removed_and_what_is_used_is_found_again() {
    let prefix = "aeterna-test-leftover";
    let Some(root) = root(prefix) else { return };
    let left = root.own.join(format!("{prefix}.1.left"));
    fs::create_dir_all(left.join("inner")).unwrap();
    let foreign = root.own.join(format!("{prefix}.slice.d"));
    fs::create_dir_all(&foreign).unwrap();
    // As of a supervisor with the same pid in another namespace, before its first process.
    let held = root.make("other").unwrap();
    let used = root.make("web-1").unwrap();
    let main = populate(&used);

    let again = CgroupRoot::probe(prefix).unwrap();
    assert!(!left.exists(), "of a supervisor that is gone");
    assert!(held.is_there(), "of a supervisor that is running");
    assert!(foreign.exists(), "no name of ours");
    fs::remove_dir(&foreign).unwrap();
    let path = held.path.clone();
    drop(held);
    // A child of another test may have a copy of the folder's descriptor for as long as it has not yet executed.
    while path.exists() {
        CgroupRoot::probe(prefix).unwrap();
    }
    let found = again.find(used.name()).unwrap();
    assert!(found.populated() && found.pids().contains(&main));
    let beside = again.make("web-1").unwrap();
    assert_ne!(beside.name(), used.name(), "two with one pid have groups of their own");
    beside.remove().unwrap();
    assert_eq!(root.make("web-1").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    for name in ["", "..", "a/b", ".", "aeterna-none"] {
        assert!(again.find(name).is_none(), "{name}");
    }
    found.kill().unwrap();
    wait::reap(main).unwrap();
    while found.populated() {
        std::thread::yield_now();
    }
    // Empty, but there: it is made anew.
    let new = root.make("web-1").unwrap();
    assert!(!new.populated());
    new.remove().unwrap();
}

#[test]
fn a_name_cannot_leave_the_folder() {
    let Some(root) = root("aeterna-test-name") else { return };
    let group = root.make("../../x").unwrap();
    assert_eq!(group.path.parent(), Some(root.own.as_path()));
    group.remove().unwrap();
}

#[test]
fn a_process_is_in_a_group_by_what_the_kernel_says_of_it_alone() {
    let Some(root) = root("aeterna-test-holds") else { return };
    let (group, other) = (root.make("one").unwrap(), root.make("two").unwrap());
    for (path, expected) in [
        (format!("/a/{}", group.name()), true),
        (format!("/{}/below/it", group.name()), true),
        // A process that may make groups of its own can give them any name.
        (format!("/{}/{}", other.name(), group.name()), false),
        (format!("/a/{}x", group.name()), false),
        ("/".to_owned(), false),
        (format!("/elsewhere/{}", other.name()), false),
    ] {
        assert_eq!(group.is_above(&path), expected, "{path}");
    }
    assert!(!group.holds(super::super::process::pid()));
    let pid = populate(&group);
    assert!(group.holds(pid) && !other.holds(pid));
    group.kill().unwrap();
    wait::reap(pid).unwrap();
    while group.populated() {
        std::thread::yield_now();
    }
    group.remove().unwrap();
    other.remove().unwrap();
}
