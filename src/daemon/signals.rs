//! Signals to the processes of a unit: to nobody else, whoever has their pids by now.

use crate::daemon::core::Daemon;
use crate::daemon::supervised::{Child, Supervised};
use crate::machine::event::{Gen, Role, Target};
use crate::sys::process;
use crate::sys::tree::{self, Main, TreeKey};
use std::os::fd::AsFd;

/// SIGKILL, by its number: a control group can do it in one step.
const SIGKILL: i32 = 9;

impl Daemon {
    /// [`crate::machine::event::Action::Signal`].
    pub fn signal(&mut self, index: usize, to: Target, signal: i32) {
        let unit = &self.units[index];
        match to {
            Target::Proc(proc) => {
                if let Some(child) = unit.children.get(&proc) {
                    send_to(child, signal);
                }
            }
            Target::ProcTree(proc) => {
                if let Some(child) = unit.children.get(&proc) {
                    // The mark of a generation is on its main processes too, which are not below this one.
                    let invocation = if child.generation.is_some() { "" } else { child.invocation.as_str() };
                    let mains = [Main { pid: child.pid, reaped: false }];
                    self.signal_tree(&TreeKey { mains: &mains, invocation }, signal);
                }
            }
            Target::Mains(number) => {
                for child in unit.children.values() {
                    if child.generation == Some(number)
                        && matches!(child.role, Role::Main { .. } | Role::Instance(_))
                    {
                        send_to(child, signal);
                    }
                }
            }
            Target::Everyone(number) => self.signal_everyone(unit, number, signal),
        }
    }

    fn signal_everyone(&self, unit: &Supervised, number: Gen, signal: i32) {
        let Some(shell) = unit.generations.get(&number) else { return };
        if signal == SIGKILL
            && let Some(group) = &shell.kit.cgroup
            && group.kill().is_ok()
        {
            return;
        }
        match &shell.kit.cgroup {
            Some(group) => {
                group.pids().into_iter().for_each(|pid| said(pid, signal, process::kill(pid, signal)))
            }
            None => {
                self.signal_tree(&shell.tree_key(), signal);
            }
        }
    }

    /// A pid of a tree may be another process' by the time that it is signalled: the start time tells.
    fn signal_tree(&self, key: &TreeKey<'_>, signal: i32) {
        for member in tree::members_of(key, self.shared.pid) {
            said(member.pid, signal, process::signal_exactly(member.pid, member.start_time, signal));
        }
    }

    /// Every process of a generation's tree.
    pub fn members(&self, unit: &Supervised, number: Gen) -> Vec<i32> {
        unit.generations.get(&number).map_or_else(Vec::new, |shell| shell.members(self.shared.pid))
    }

    /// Whether a process belongs to a generation. Asks about this one only: a service chooses how many there are, and
    /// how often it is asked.
    pub fn is_member(&self, unit: &Supervised, number: Gen, pid: i32) -> bool {
        let Some(shell) = unit.generations.get(&number) else { return false };
        match &shell.kit.cgroup {
            Some(group) => group.holds(pid),
            None => tree::is_member(&shell.tree_key(), pid, self.shared.pid),
        }
    }
}

/// Sends a signal to a process that was started, or has become a main one: it may not be ours to reap, so its pid may
/// be somebody else's.
fn send_to(child: &Child, signal: i32) {
    said(
        child.pid,
        signal,
        match &child.pidfd {
            Some(pidfd) => process::pidfd_signal(pidfd.as_fd(), signal),
            None => process::kill(child.pid, signal),
        },
    );
}

/// What came of a signal; a process that has gone meanwhile is no error.
fn said(pid: i32, signal: i32, result: std::io::Result<()>) {
    if let Err(error) = result
        && error.raw_os_error() != Some(NO_SUCH_PROCESS)
    {
        log::warn!("cannot send {} to process {pid}: {error}", crate::unit::signal_name(signal));
    }
}

/// ESRCH.
const NO_SUCH_PROCESS: i32 = 3;
