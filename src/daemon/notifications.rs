//! The service's side of sd_notify(3): messages on a generation's own socket, and the descriptors with them.

use crate::daemon::core::Daemon;
use crate::daemon::fdstore::{self, Taken};
use crate::daemon::supervised::{NotifySocket, Supervised};
use crate::daemon::token::Owner;
use crate::machine::event::{Event, Gen, Notification, Role, Sender};
use crate::proto::notify;
use crate::sys::aside::Foreign;
use crate::sys::message::{self, Received};
use crate::sys::peer::Peer;
use crate::sys::poll::Interest;
use crate::sys::{clock, fd, limits, process};
use crate::time::Span;
use crate::unit::NotifyAccess;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

/// The largest message that is read, bytes.
const MAX_MESSAGE: usize = 16 * 1024;

/// The kernel's own limit of descriptors in one message (SCM_MAX_FD).
const MAX_FDS: usize = 253;

/// How many messages are read in one turn, and for how long: a flood must not keep the loop from the other units.
const MAX_TURN: usize = 64;
const TURN_TIME: Span = Span::from_millis(5);

/// The next message on any of its sockets, and on which; it stays there.
fn peek(socket: &NotifySocket, buffer: &mut [u8]) -> io::Result<(usize, Received)> {
    for (at, fd) in socket.fds().enumerate() {
        match message::peek(fd, buffer, MAX_FDS) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return other.map(|received| (at, received)),
        }
    }
    Err(ErrorKind::WouldBlock.into())
}

/// For how long a message counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// It is said again, or is no loss.
    Now,
    /// It is said once.
    ForGood,
}

impl Counts {
    fn of(message: &Notification) -> Counts {
        let said_again = Notification {
            status: message.status.clone(),
            watchdog: message.watchdog,
            monotonic_usec: message.monotonic_usec,
            ..Notification::default()
        };
        if *message == said_again { Counts::Now } else { Counts::ForGood }
    }
}

impl Daemon {
    /// Reads what waits on a generation's notify socket.
    pub fn read_notifications(&mut self, index: usize, number: Gen) {
        let mut buffer = vec![0_u8; MAX_MESSAGE];
        let end = clock::now() + TURN_TIME;
        for count in 0..MAX_TURN {
            if count > 0 && clock::now() > end {
                return;
            }
            let Some(unit) = self.units.get(index) else { return };
            let Some(socket) = unit.generations.get(&number).and_then(|shell| shell.kit.notify.as_ref())
            else {
                return;
            };
            // What we die at is still there for the next one.
            match peek(socket, &mut buffer) {
                Ok((at, received)) => {
                    let counts = self.notified(index, number, received, &buffer);
                    if counts == Counts::ForGood {
                        self.write_soon(index);
                    }
                    self.take_notification(index, number, at);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("{}: cannot read a notify message: {error}", unit.name);
                    return;
                }
            }
        }
    }

    /// A message has been dealt with: out of the queue.
    fn take_notification(&mut self, index: usize, number: Gen, at: usize) {
        let unit = self.units.get(index);
        let shell = unit.and_then(|unit| unit.generations.get(&number));
        let socket = shell.and_then(|shell| shell.kit.notify.as_ref());
        if let Some(fd) = socket.and_then(|socket| socket.fds().nth(at)) {
            // It was there a moment ago, and nobody else reads.
            let _ = message::recv(fd, &mut [], MAX_FDS);
        }
    }

    fn notified(&mut self, index: usize, number: Gen, received: Received, buffer: &[u8]) -> Counts {
        self.settle_starts(index);
        if received.truncated || received.control_truncated {
            let text = format!("generation {} sent a notify message that is too large", number.0);
            return self.refused(index, &text);
        }
        let Some(text) = buffer.get(..received.bytes) else { return Counts::Now };
        let mut message = match notify::parse(text) {
            Ok(message) => message,
            Err(why) => {
                let text = format!("generation {} sent a notify message that is no use: {why}", number.0);
                return self.refused(index, &text);
            }
        };
        let unit = &self.units[index];
        let from = self.sender(unit, number, received.credentials);
        if from == Sender::Stranger {
            let who = received.credentials.map_or(String::new(), |peer| {
                let name = process::name_of(peer.pid).map_or(String::new(), |name| format!(" ({name})"));
                format!(" {}{name}", peer.pid)
            });
            let text = format!("a notify message from process{who}, which is not generation {}'s", number.0);
            return self.refused(index, &text);
        }
        if let Some(pid) = message.main_pid
            && !self.may_be_main(index, number, pid)
        {
            message.main_pid = None;
        }
        self.store_descriptors(index, number, from, &message, received.fds);
        let counts = Counts::of(&message);
        self.deliver(index, Event::Notified { generation: number, from, message });
        counts
    }

    /// Whether `MAINPID=` names a process that can become the main one. One that is that already need not.
    fn may_be_main(&mut self, index: usize, number: Gen, pid: i32) -> bool {
        let unit = &self.units[index];
        if let Some(known) = unit.children.values().find(|child| child.pid == pid) {
            let main = matches!(known.role, Role::Main { .. } | Role::Instance(_));
            if !(main && known.generation == Some(number)) {
                self.refused(
                    index,
                    &format!("MAINPID={pid} is not a main process of generation {}", number.0),
                );
            }
            return false;
        }
        let member = self.is_member(unit, number, pid);
        if !member {
            self.refused(index, &format!("MAINPID={pid} is no process of generation {}", number.0));
        }
        member
    }

    /// A message, or a part of it, does not count.
    fn refused(&mut self, index: usize, text: &str) -> Counts {
        let unit = &mut self.units[index];
        unit.complaints.warn(&unit.name, &format!("{text}; ignored"));
        self.web.metrics.on_notify_error();
        Counts::Now
    }

    /// Who sent a message, by the credentials that the kernel attached.
    fn sender(&self, unit: &Supervised, number: Gen, peer: Option<Peer>) -> Sender {
        let Some(peer) = peer else { return Sender::Stranger };
        if let Some((proc, child)) = unit.children.iter().find(|(_, child)| child.pid == peer.pid) {
            if child.generation != Some(number) {
                return Sender::Stranger;
            }
            return match child.role {
                Role::Main { worker, .. } => Sender::Main(worker),
                Role::Instance(_) => Sender::Main(0),
                _ => Sender::Started(*proc),
            };
        }
        if self.is_member(unit, number, peer.pid) {
            return Sender::Member(peer.pid);
        }
        // Gone already (`systemd-notify` in a script): the socket is 0600, so its user is what we can still see.
        let owner = unit
            .generations
            .get(&number)
            .and_then(|shell| shell.owner)
            .map_or(crate::sys::user::effective_uid(), |who| who.0);
        let gone = process::start_time(peer.pid).is_none();
        if gone && (peer.uid == owner || peer.uid == 0) { Sender::Member(peer.pid) } else { Sender::Stranger }
    }

    /// FDSTORE=1 and FDSTOREREMOVE=1. Descriptors that nobody asked to store are closed here, as is BARRIER's.
    fn store_descriptors(
        &mut self,
        index: usize,
        number: Gen,
        from: Sender,
        message: &Notification,
        fds: Vec<Foreign>,
    ) {
        let unit = &mut self.units[index];
        let Some(service) = unit
            .generations
            .get(&number)
            .and_then(|shell| shell.content)
            .and_then(|id| unit.contents.iter().find(|content| content.id == id))
            .map(|content| std::sync::Arc::clone(&content.unit))
        else {
            return;
        };
        if !may_notify(service.service.notify_access, from) {
            self.web.metrics.on_notify_error();
            return;
        }
        let name = message.fd_name.clone().unwrap_or_else(|| "stored".into());
        if message.fd_store_remove {
            if !unit.store.remove(number, &name, service.service.fd_store_max) {
                let text = format!("generation {} removes more names from its store than fit in", number.0);
                unit.complaints.warn(&unit.name, &format!("{text}; ignored"));
            }
            self.watch_stored(index);
        } else if message.fd_store && !fds.is_empty() {
            let max = service.service.fd_store_max;
            // [State] Descriptor needs no room in the store; without it, the state is a descriptor like another.
            let may = name != fdstore::STATE || service.state.descriptor || max > 0;
            let scarce = fds.iter().any(|fd| limits::is_scarce(fd.as_fd()));
            let taken = if scarce {
                let text = "its descriptors are not stored: aeternad has hardly any left";
                return unit.complaints.warn(&unit.name, text);
            } else if may {
                unit.store.store(number, &name, fds, message.fd_poll, max)
            } else {
                Taken::Refused(fds.len())
            };
            match taken {
                Taken::All => {}
                Taken::Refused(count) => unit.complaints.warn(
                    &unit.name,
                    &format!(
                        "{count} descriptors called \"{name}\" were not stored: FileDescriptorStoreMax is {max}"
                    ),
                ),
                Taken::Ignored => log::debug!(
                    "{}: descriptors called \"{name}\" were not stored: generation {} drains",
                    unit.name,
                    number.0
                ),
            }
            self.watch_stored(index);
        }
    }

    /// Brings the poll set up to date with the store: a hang-up takes a descriptor out of it. One that has left it
    /// leaves the poll set before it is closed, as the service's copy would keep it ringing.
    pub fn watch_stored(&mut self, index: usize) {
        for stored in self.units[index].store.take_dropped() {
            let _ = self.poller.remove(stored.fd.as_fd());
        }
        for stored in self.units[index].store.take_unwatched() {
            // A file or memfd can't be polled: nothing to watch. One of a file system in user space is asked by nobody.
            if !fd::polls_at_once(stored.fd.as_fd()) {
                continue;
            }
            let _ = self.poller.add(
                Owner::Stored(index, stored.id).token(),
                stored.fd.as_fd(),
                Interest::HANGUP_ONLY,
            );
        }
    }
}

/// Whether `NotifyAccess` lets a sender speak for the generation.
pub fn may_notify(access: NotifyAccess, from: Sender) -> bool {
    match (access, from) {
        (NotifyAccess::None, _) | (_, Sender::Stranger) => false,
        (_, Sender::Main(_)) => true,
        (NotifyAccess::Exec | NotifyAccess::All, Sender::Started(_)) => true,
        (NotifyAccess::All, Sender::Member(_)) => true,
        (NotifyAccess::Main, _) | (NotifyAccess::Exec, Sender::Member(_)) => false,
    }
}
