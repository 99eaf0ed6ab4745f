//! `MAINPID=`: another process of a generation is the main one from now on.
//!
//! It need not be our child. Then its end is seen on a pidfd, and how it ended is what only its parent knows.

use crate::daemon::core::Daemon;
use crate::daemon::event_loop::exit_of;
use crate::daemon::token::Owner;
use crate::machine::event::{Exit, Proc};
use crate::sys::poll::Interest;
use crate::sys::{pidfd, process};
use crate::time::Span;
use std::os::fd::AsFd;

/// How long the parent of a process that is not our child may take to reap it: only then its status is known.
const REAPED: Span = Span::from_millis(20);

impl Daemon {
    /// Another process takes the place of a main one.
    pub fn adopt_main(&mut self, index: usize, proc: Proc, pid: i32) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let Some(child) = unit.children.get_mut(&proc) else { return };
        self.pids.remove(&child.pid);
        self.pids.insert(pid, (index, proc));
        child.pid = pid;
        if let Some(before) = child.pidfd.take().filter(|_| child.watched) {
            let _ = self.poller.remove(before.as_fd());
        }
        child.watched = false;
        let watched = process::pidfd_open(pid).and_then(|pidfd| {
            self.poller.add(Owner::Adopted(index, proc.0).token(), pidfd.as_fd(), Interest::READ)?;
            Ok(pidfd)
        });
        match watched {
            Ok(pidfd) => (child.pidfd, child.watched) = (Some(pidfd), true),
            Err(error) if process::start_time(pid).is_some() => {
                log::warn!("{}: cannot watch its main process {pid}: {error}", unit.name);
            }
            // It was too quick for us.
            Err(_) => self.adopted_ended(index, proc),
        }
    }

    /// Watches a process that somebody before us has started, or one that is not our child.
    pub fn watch_adopted(&mut self, index: usize, proc: Proc) {
        let Some(child) = self.units.get(index).and_then(|unit| unit.children.get(&proc)) else { return };
        let Some(pidfd) = &child.pidfd else { return };
        let token = Owner::Adopted(index, proc.0).token();
        if let Err(error) = self.poller.add(token, pidfd.as_fd(), Interest::READ) {
            log::error!("{}: cannot watch process {}: {error}", self.units[index].name, child.pid);
        }
    }

    /// A process that became the main one has ended.
    pub fn adopted_ended(&mut self, index: usize, proc: Proc) {
        // Ours to reap: then this says how it ended.
        self.reap();
        let Some(child) = self.units.get(index).and_then(|unit| unit.children.get(&proc)) else { return };
        let pid = child.pid;
        let exit = child.pidfd.as_ref().and_then(|pidfd| pidfd::status(pidfd.as_fd(), REAPED)).map(exit_of);
        // One that we have not started may have left its pid to one that we have.
        if self.pids.get(&pid) == Some(&(index, proc)) {
            self.pids.remove(&pid);
        }
        self.process_gone(index, proc, pid, exit.unwrap_or(Exit::Unknown));
    }
}
