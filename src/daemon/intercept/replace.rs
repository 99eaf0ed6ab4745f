//! A held socket in place of a program's own.
//!
//! A program may have made more of its socket than one descriptor before it binds it: copies, an entry in a poll set, a
//! copy in another process. What can be seen is led to the held socket. Where that cannot be, the program keeps its own
//! socket, which takes the held one's place among the slots; where neither can be, that is said.

use super::call::{Handler, Outcome};
use super::reading::Seen;
use super::{GO_ON, Level};
use crate::sys::clock::Effort;
use crate::sys::process::pid;
use crate::sys::registration::{self, References};
use crate::sys::seccomp::{self, Answer, FdFlags};
use crate::sys::{holder, socket};
use crate::unit::{Listen, ListenKind};
use std::collections::BTreeSet;
use std::os::fd::AsFd;

impl Handler<'_> {
    /// Puts the held socket in place of the caller's own.
    pub(super) fn give(&mut self, fd: i32, held: &Listen, seen: &Seen) -> Outcome {
        let process = seccomp::process_of(self.call.tid).unwrap_or(self.call.tid);
        let known = std::mem::take(&mut self.known);
        if let Some(own) =
            seen.own.as_ref().filter(|_| known.in_ring || self.is_elsewhere(process, seen.inode))
        {
            match self.unit.sockets.bind_own(held, self.slot(), own.as_fd()) {
                Ok(()) => {
                    self.remember_own(seen.inode, held);
                    return Outcome::answer(Answer::Done);
                }
                Err(why) => self.say_deaf(held, &why),
            }
        }
        match self.put_known(fd, held, seen, &known) {
            Ok(()) => {
                // A datagram socket never listens: it serves from here on.
                if held.kind == ListenKind::Datagram {
                    return Outcome::listens(held.clone());
                }
                Outcome { given: Some(held.clone()), ..Outcome::answer(Answer::Done) }
            }
            Err(why) => {
                let text = format!(
                    "cannot give generation {} its socket {}: {why}; its own bind goes on",
                    self.number.0,
                    self.unit.sockets.spelt(held)
                );
                self.say(Level::Error, &text);
                GO_ON
            }
        }
    }

    /// The same for a socket that was bound beside another one of its own generation.
    pub(super) fn put(&mut self, fd: i32, held: &Listen, seen: &Seen) -> Result<(), String> {
        let known = std::mem::take(&mut self.known);
        self.put_known(fd, held, seen, &known)
    }

    /// Every descriptor of the process that refers to its own socket gets the held one, and every poll set that has it.
    fn put_known(&mut self, fd: i32, held: &Listen, seen: &Seen, known: &References) -> Result<(), String> {
        let (slot, tid) = (self.slot(), self.call.tid);
        let flags = seccomp::fd_flags(tid, fd).unwrap_or_else(|_| FdFlags::default());
        let own = seen.own.as_ref().map(AsFd::as_fd);
        let socket = self.unit.sockets.adopt(held, slot, own, flags)?.try_clone_to_owned();
        let socket = socket.map_err(|error| socket::errno_text(&error))?;
        let replaced = self.listener.replace(self.call, fd, socket.as_fd(), flags);
        replaced.map_err(|error| socket::errno_text(&error))?;
        for number in known.numbers.iter().filter(|number| **number != fd) {
            let flags = seccomp::fd_flags(tid, *number).unwrap_or_else(|_| FdFlags::default());
            if let Err(error) = self.listener.replace(self.call, *number, socket.as_fd(), flags) {
                self.say_deaf(held, &format!("its copy {number}: {}", socket::errno_text(&error)));
            }
        }
        for registration in &known.registrations {
            if let Err(error) = registration::carry_over(tid, socket.as_fd(), registration) {
                let why = socket::errno_text(&error);
                self.say_deaf(held, &format!("it is in a poll set already, which cannot be told: {why}"));
            }
        }
        Ok(())
    }

    fn say_deaf(&mut self, held: &Listen, why: &str) {
        let text = format!(
            "generation {} has more than one way to the socket that it binds to {}, and not all of them lead to the one \
             that it is given ({why}): it may never see a connection; let it bind first, or give it its sockets as \
             LISTEN_FDS",
            self.number.0,
            self.unit.sockets.spelt(held)
        );
        self.say(Level::Warning, &text);
    }

    /// Whether another process of the unit has the caller's socket too, or may have, as there are too many to be looked at: what
    /// is done for the caller does not reach it.
    fn is_elsewhere(&self, process: i32, inode: u64) -> bool {
        let mut others =
            self.unit.generations.get(&self.number).map_or_else(Vec::new, |shell| shell.members(pid()));
        others.retain(|other| *other != process);
        holder::glance(&others, &BTreeSet::from([inode]), Effort::glance()).may_have(&[inode])
    }

    fn remember_own(&mut self, inode: u64, held: &Listen) {
        if let Some(shell) = self.unit.generations.get_mut(&self.number) {
            shell.adopted.own.retain(|_, address| address != held);
            shell.adopted.own.insert(inode, held.clone());
        }
    }

    /// The caller's own socket, which is bound beside the held one, listens: it is its slot's from now on.
    pub(super) fn join(&mut self, held: Listen, seen: Seen) -> Outcome {
        let Some(own) = seen.own.filter(|_| self.listener.is_valid(self.call)) else { return GO_ON };
        match self.unit.sockets.join(&held, self.slot(), own) {
            Ok(()) => Outcome::listens(held),
            Err(error) => {
                let (spelt, why) = (self.unit.sockets.spelt(&held), socket::errno_text(&error));
                self.say(Level::Error, &format!("cannot listen on {spelt}: {why}"));
                Outcome::answer(error.raw_os_error().map_or(Answer::Continue, Answer::Failed))
            }
        }
    }
}
