//! A unit's SRP socket at work (contract section 7): connections, the relay's thread, and what the machine wants.
//!
//! Who is connected and what they are told is `srp.rs`; what it means for a reload is the machine's.

mod saved;

pub use saved::SavedStateSocket;

use crate::daemon::core::{Daemon, News, Report};
use crate::daemon::event_loop::ACCEPT_PAUSE;
use crate::daemon::launch::describe;
use crate::daemon::relay::{self, RelayResult};
use crate::daemon::srp::{
    Change, ConnId, Direction, Endpoint, Peer, RelayEnd, SrpEvent, Transfer as Going, Wants,
};
use crate::daemon::supervised::Supervised;
use crate::daemon::token::Owner;
use crate::machine::event::{Event, Failure, Fault, Gen, Relayed, Transfer};
use crate::proto::srp::Role;
use crate::sys::aside::Foreign;
use crate::sys::poll::{Interest, Readiness, Token};
use crate::sys::unixpath::{self, BoundPath};
use crate::sys::{aside, clock, limits, message, peer, user};
use crate::time::Monotime;
use crate::unit::Unit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// How many connections are taken in one turn: a flood must not keep the loop from the other units.
const MAX_TURN: usize = 16;

/// A unit's SRP socket.
#[derive(Debug)]
pub struct StateSocket {
    fd: Foreign,
    /// When it accepts again, after there was no descriptor for a connection.
    pub again: Option<Monotime>,
    name: BoundPath,
    /// What the service is given: short enough for an address.
    pub shown: String,
    owner: Option<(u32, u32)>,
    wanted: Option<String>,
    /// Whether its name goes with it: not before an upgrade is over.
    is_ours: bool,
}

impl StateSocket {
    fn is_there(&self) -> bool {
        unixpath::identity(&self.name.path) == Some(self.name.inode)
    }
}

impl Drop for StateSocket {
    fn drop(&mut self) {
        if self.is_ours {
            self.name.remove();
        }
    }
}

/// The place of a connection in the poll set. Numbers are never used again, and nobody connects four billion times.
fn token(index: usize, id: ConnId) -> Token {
    Owner::StateConnection(index, id.0 as u32).token()
}

fn interest(wants: Wants) -> Interest {
    Interest { read: wants.read, write: wants.write }
}

impl Daemon {
    /// Makes the SRP socket that a launch needs, if it is not there as this content wants it.
    ///
    /// # Errors
    /// Which path, and why.
    pub fn need_state_socket(
        &mut self,
        index: usize,
        content: &Unit,
        owner: Option<(u32, u32)>,
    ) -> Result<(), String> {
        if !content.state.enabled {
            return Ok(());
        }
        let wanted = content.state.socket_path.clone();
        let have = self.units[index].state_socket.as_ref();
        if have.is_some_and(|have| have.wanted == wanted && have.owner == owner && have.is_there()) {
            return Ok(());
        }
        self.make_state_socket(index, wanted, owner)
    }

    /// Makes it again if somebody has removed its name.
    ///
    /// # Errors
    /// Which path, and why.
    pub fn renew_state(&mut self, index: usize, made: &mut Vec<String>) -> Result<(), String> {
        let Some(socket) = self.units[index].state_socket.as_ref().filter(|socket| !socket.is_there()) else {
            return Ok(());
        };
        let (wanted, owner) = (socket.wanted.clone(), socket.owner);
        // Who has come through the old name is heard.
        self.accept_state(index);
        self.make_state_socket(index, wanted, owner)?;
        made.push(format!("the state socket of {}", self.units[index].name));
        Ok(())
    }

    fn make_state_socket(
        &mut self,
        index: usize,
        wanted: Option<String>,
        owner: Option<(u32, u32)>,
    ) -> Result<(), String> {
        let unit = &mut self.units[index];
        if let Some(old) = unit.state_socket.take() {
            let _ = self.poller.remove(old.fd.as_fd());
        }
        let (path, shown) = match &wanted {
            Some(path) => (PathBuf::from(path), path.clone()),
            None => self.shared.socket_path(&unit.name, index, "srp"),
        };
        let say = |error: &std::io::Error| {
            format!("cannot make the state socket {}: {}", path.display(), describe(error))
        };
        let who = owner.unwrap_or((user::effective_uid(), user::effective_gid()));
        let (fd, name) = message::listen_owned(&path, who).map_err(|error| say(&error))?;
        let fd = Foreign::from(fd);
        self.poller
            .add(Owner::StateSocket(index).token(), fd.as_fd(), Interest::READ)
            .map_err(|error| say(&error))?;
        self.units[index].state_socket =
            Some(StateSocket { fd, again: None, name, shown, owner, wanted, is_ours: true });
        Ok(())
    }

    /// The unit's SRP socket and its connections are closed: nothing of the unit is left.
    pub fn drop_state_socket(&mut self, index: usize) {
        let unit = &mut self.units[index];
        if let Some(old) = unit.state_socket.take() {
            let _ = self.poller.remove(old.fd.as_fd());
        }
        for stream in unit.endpoint.take_all() {
            let _ = self.poller.remove(stream.as_fd());
            aside::close(stream.into());
        }
    }

    /// Somebody connects.
    pub fn accept_state(&mut self, index: usize) {
        for _ in 0..MAX_TURN {
            let Some(socket) = &self.units[index].state_socket else { return };
            match message::accept(socket.fd.as_fd()) {
                Ok(Some(stream)) => self.greet_state(index, stream.into()),
                Ok(None) => break,
                Err(error) => {
                    self.pause_state(index, &error);
                    break;
                }
            }
        }
        self.pump_state(index);
    }

    /// The connection waits in its queue meanwhile, and would ring at once.
    fn pause_state(&mut self, index: usize, error: &std::io::Error) {
        let unit = &mut self.units[index];
        log::warn!(
            "{}: cannot accept on its state socket: {error}; the next try is in {ACCEPT_PAUSE}",
            unit.name
        );
        if let Some(socket) = &mut unit.state_socket {
            socket.again = clock::now().after(ACCEPT_PAUSE);
            let token = Owner::StateSocket(index).token();
            let _ = self.poller.change(token, socket.fd.as_fd(), Interest::HANGUP_ONLY);
        }
    }

    /// The pause is over.
    pub fn resume_state(&mut self, index: usize) {
        if let Some(socket) = &mut self.units[index].state_socket {
            socket.again = None;
            let _ = self.poller.change(Owner::StateSocket(index).token(), socket.fd.as_fd(), Interest::READ);
        }
    }

    fn greet_state(&mut self, index: usize, stream: UnixStream) {
        let unit = &self.units[index];
        let generation =
            peer::peer_credentials(stream.as_fd()).ok().and_then(|who| self.generation_of(unit, who.pid));
        let Some(generation) = generation else {
            let unit = &mut self.units[index];
            let text = "a process that is not the unit's wanted its state; refused";
            unit.state_complaints.warn(&unit.name, text);
            Endpoint::refuse(&stream, "not_a_member", "this socket is for the processes of its unit");
            aside::close(stream.into());
            return;
        };
        let serving = unit.promoted.filter(|serving| unit.generations.contains_key(serving));
        let has_state = |number: Gen| unit.rules_of(number).is_some_and(|rules| rules.enabled);
        let who = Peer {
            generation,
            implied: if unit.promoted.is_none_or(|serving| generation > serving) {
                Role::Sink
            } else {
                Role::Source
            },
            predecessor: serving.is_some_and(|serving| serving < generation && has_state(serving)),
        };
        let unit = &mut self.units[index];
        if limits::is_scarce(stream.as_fd()) {
            Endpoint::refuse(&stream, "too_many", "aeternad has hardly any descriptors left");
            let text = "a connection about its state is refused: aeternad has hardly any descriptors left";
            return unit.state_complaints.warn(&unit.name, text);
        }
        if let Err(error) = unit.endpoint.accept(stream, who, clock::now()) {
            let text = format!("generation {} cannot talk about its state: {error}", generation.0);
            unit.state_complaints.warn(&unit.name, &text);
        }
    }

    /// Whose process a pid is: one that we started, or one of a tree.
    fn generation_of(&self, unit: &Supervised, pid: i32) -> Option<Gen> {
        let started =
            unit.children.values().find(|child| child.pid == pid).and_then(|child| child.generation);
        started.or_else(|| unit.generations.keys().copied().find(|number| self.is_member(unit, *number, pid)))
    }

    /// A connection can be read or written.
    pub fn state_ready(&mut self, index: usize, id: u32, readiness: Readiness) {
        let id = ConnId(u64::from(id));
        let now = clock::now();
        let Some(unit) = self.units.get_mut(index) else { return };
        if readiness.readable || readiness.hangup || readiness.error {
            unit.endpoint.on_readable(id, now);
        }
        if readiness.writable {
            unit.endpoint.on_writable(id, now);
        }
        self.pump_state(index);
    }

    /// A deadline of the endpoint has passed.
    pub fn state_deadline(&mut self, index: usize) {
        self.units[index].endpoint.on_deadline(clock::now());
        self.pump_state(index);
    }

    /// The relay has ended.
    pub fn state_relayed(&mut self, index: usize, outcome: relay::RelayOutcome) {
        if let Some((said, seen)) = outcome.differs() {
            let name = &self.units[index].name;
            log::warn!(
                "{name}: the source counts {said} of state, {seen} went through; aeterna-srp(7) says what counts"
            );
        }
        self.units[index].endpoint.relay_ended(outcome, clock::now());
        self.pump_state(index);
    }

    /// [`crate::machine::event::Action::Relay`].
    pub fn relay_state(&mut self, index: usize, transfer: Transfer) {
        let direction = if transfer.back { Direction::GiveBack } else { Direction::Handover };
        let going = Going {
            from: transfer.from,
            to: transfer.to,
            direction,
            deadline: transfer.until,
            max_bytes: transfer.max_bytes,
            returns: self.units[index].rules_of(transfer.from).is_some_and(|rules| rules.signal.is_some()),
        };
        self.units[index].endpoint.begin(going, clock::now());
        self.pump_state(index);
    }

    /// COMMIT must have left before the stop signal does.
    pub fn commit_state(&mut self, index: usize, generation: Gen) {
        let unit = &mut self.units[index];
        if !unit.endpoint.commit(generation) {
            log::warn!(
                "{}: generation {} could not be told that its state was taken over; it may write it when it stops",
                unit.name,
                generation.0
            );
        }
        self.pump_state(index);
    }

    /// Carries out what the endpoint has to say, and brings the poll set up to date with it.
    pub fn pump_state(&mut self, index: usize) {
        self.settle_starts(index);
        self.start_relay(index);
        while let Some(event) = self.units[index].endpoint.next_event() {
            self.state_event(index, event);
        }
        for (_, stream) in self.units[index].endpoint.take_ended() {
            let _ = self.poller.remove(stream.as_fd());
            aside::close(stream.into());
        }
        for change in self.units[index].endpoint.take_changes() {
            let unit = &self.units[index];
            let (id, wants) = match change {
                Change::Add(id, wants) | Change::Modify(id, wants) => (id, Some(wants)),
                Change::Remove(id) => (id, None),
            };
            let Some(stream) = unit.endpoint.stream(id) else { continue };
            let done = match (change, wants) {
                (Change::Add(..), Some(wants)) => {
                    self.poller.add(token(index, id), stream.as_fd(), interest(wants))
                }
                (_, Some(wants)) => self.poller.change(token(index, id), stream.as_fd(), interest(wants)),
                (_, None) => self.poller.remove(stream.as_fd()),
            };
            if let Err(error) = done {
                log::warn!("{}: cannot watch a state connection: {error}", unit.name);
            }
        }
        self.settle();
    }

    /// Hands both sockets to the relay's thread, as soon as both are free for it.
    fn start_relay(&mut self, index: usize) {
        let Some(job) = self.units[index].endpoint.take_ready() else { return };
        let _ = self.poller.remove(job.source.stream.as_fd());
        let _ = self.poller.remove(job.sink.stream.as_fd());
        let (reports, waker) = (self.reports.clone(), self.waker.clone());
        let started = relay::start(job, move |outcome| {
            // The daemon is ending if nobody listens.
            let _ = reports.send(Report { unit: index, news: News::Relayed(Box::new(outcome)) });
            waker.wake();
        });
        if let Some(canceller) = started {
            self.units[index].endpoint.started(canceller);
        }
    }

    fn state_event(&mut self, index: usize, event: SrpEvent) {
        log::debug!("{}: state: {event:?}", self.units[index].name);
        match event {
            SrpEvent::SinkConnected { generation } => {
                self.queue.push_back((index, Event::SinkConnected(generation)))
            }
            SrpEvent::RelayEnded(end) => self.queue.push_back((index, Event::RelayEnded(relayed(end)))),
            SrpEvent::ProtocolError { generation, text } => {
                let unit = &mut self.units[index];
                let text = format!("generation {} breaks the state protocol: {text}", generation.0);
                unit.state_complaints.warn(&unit.name, &text);
            }
            SrpEvent::SourceConnected { .. }
            | SrpEvent::SourceGone { .. }
            | SrpEvent::SinkGone { .. }
            | SrpEvent::Acknowledged { .. } => {}
        }
    }
}

/// The end of a transfer in the machine's words.
fn relayed(end: RelayEnd) -> Relayed {
    let why = end.result.why();
    let fault = match end.result {
        RelayResult::Done | RelayResult::SourceFailed(_) | RelayResult::SourceTimedOut => Fault::Source,
        RelayResult::SinkFailed(_) => Fault::Sink,
        RelayResult::SinkTimedOut => Fault::SinkSilent,
        RelayResult::Cancelled => Fault::Cancelled,
    };
    Relayed {
        from: end.from,
        to: end.to,
        result: if why.is_empty() { Ok(()) } else { Err(Failure { fault, why }) },
        bytes: end.bytes,
        frames: end.frames,
        descriptors: end.descriptors,
        took: end.duration,
    }
}
