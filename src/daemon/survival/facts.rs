//! What is there of what was written: each process is looked for and proved.

use super::holder::Held;
use super::journal::Entry;
use crate::daemon::event_loop::exit_of;
use crate::daemon::saved::Key;
use crate::daemon::supervised::{Child, Supervised};
use crate::machine::event::{Gen, Proc, Role};
use crate::machine::recovered::{Found, Life, Somebody, There, Written, judge};
use crate::sys::cgroup::Cgroup;
use crate::sys::tree::Main;
use crate::sys::{pidfd, process, tree};
use crate::time::Span;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// How long a dead process's parent may take to reap it.
const REAPED: Span = Span::from_millis(200);

/// Finds out what has become of each process of a unit. Those that live have a pidfd of ours from then on, where there can
/// be one.
pub fn look(unit: &mut Supervised, fds: &BTreeMap<Key, Held>) -> BTreeMap<Proc, Found> {
    let Supervised { name, children, generations, .. } = unit;
    let mut found = BTreeMap::new();
    let tells_apart = pidfds_tell_apart();
    for (proc, child) in children {
        let shell = child.generation.and_then(|number| generations.get(&number));
        let group = shell.and_then(|shell| shell.kit.cgroup.as_ref());
        let was = fds.iter().find(|(key, _)| key.to_string() == format!("{name}/process.{}", proc.0));
        // The inode of its pidfd.
        let inode = was.map(|(_, held)| held.file.1).filter(|_| tells_apart);
        let written = Written { start_time: child.started, inode };
        let there = there(child, group);
        found.insert(*proc, judge(written, there));
    }
    found
}

/// Whether the inode of a pidfd is one process's only. Ours is of the same kind.
fn pidfds_tell_apart() -> bool {
    process::pidfd_open(process::pid()).is_ok_and(|own| pidfd::inode(own.as_fd()).is_some())
}

/// A process that was started and is not in what was written of its unit: one of its processes from then on, if it lives and
/// is the one that was named.
pub fn find_entered(
    unit: &mut Supervised,
    entry: &Entry,
    role: Role,
    generation: Option<Gen>,
) -> Option<i32> {
    let Entry { proc, pid, inode, start_time, .. } = *entry;
    let shell = generation.and_then(|number| unit.generations.get_mut(&number));
    let mut child = Child {
        pid,
        role,
        generation,
        invocation: entry.invocation.clone(),
        pidfd: None,
        started: None,
        watched: true,
        gone: false,
        killed: false,
        said: None,
    };
    let group = shell.as_ref().and_then(|shell| shell.kit.cgroup.as_ref());
    let there = there(&mut child, group);
    match judge(Written { start_time, inode }, there) {
        Found::Alive => {}
        Found::Ended(_) => return None,
        Found::Stranger(why) => {
            log::warn!(
                "{}: process {pid} is not the one that was started last: {why}; it is left alone",
                unit.name
            );
            return None;
        }
    }
    child.started = process::start_time(pid);
    if let Some(shell) = shell {
        shell.alive += 1;
        shell.watch_empty = false;
        shell.started.push(Main { pid, reaped: false, start_time: child.started });
    }
    unit.children.insert(proc, child);
    Some(pid)
}

fn there(child: &mut Child, group: Option<&Cgroup>) -> There {
    if let Some(held) = &child.pidfd {
        if !pidfd::is_over(held.as_fd()) {
            return There::Held(Life::Lives);
        }
        return There::Held(Life::Over(pidfd::status(held.as_fd(), REAPED).map(exit_of)));
    }
    // Opened first: what is read after that, while he still lives, is his.
    let Ok(opened) = process::pidfd_open(child.pid) else {
        return match process::start_time(child.pid) {
            None => There::Nobody,
            // An old kernel: as good as can be known.
            start_time => There::Somebody(about(child, group, start_time, None)),
        };
    };
    let somebody = about(child, group, process::start_time(child.pid), pidfd::inode(opened.as_fd()));
    if pidfd::is_over(opened.as_fd()) {
        return There::Nobody;
    }
    child.pidfd = Some(opened);
    There::Somebody(somebody)
}

fn about(child: &Child, group: Option<&Cgroup>, start_time: Option<u64>, inode: Option<u64>) -> Somebody {
    Somebody {
        start_time,
        inode,
        in_group: group.map(|group| group.holds(child.pid)),
        marked: tree::mark_in_time(child.pid, &child.invocation),
    }
}
