//! The daemon's side of a unit's SRP socket (contract section 7): who is connected, as what, and what they are
//! told. The relay of a transfer has the two sockets while it runs and hands them back.
//!
//! Owns the accepted sockets, all non-blocking; knows neither the poll loop nor the clock, and decides nothing
//! about the reload: facts come out as [`SrpEvent`]s, what is to be done goes in. Main thread only.
//!
//! A turn of the loop: `accept`, `on_readable`, `on_writable` as sockets become ready; `on_deadline` when
//! [`Endpoint::deadline`] has passed; what the machine asks for; then [`Endpoint::take_ready`],
//! [`Endpoint::next_event`] until there is none, [`Endpoint::take_ended`] and [`Endpoint::take_changes`].

mod conn;
mod saved;
mod transfer;

use crate::machine::event::Gen;
use crate::proto::srp::{Message, Role};
use crate::sys::stream;
use crate::time::{Monotime, Span};
use conn::{Conn, Note};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use transfer::Active;

pub use conn::Wants;
pub use saved::SavedSrp;
pub use transfer::{Direction, RelayEnd, Transfer};

/// How long a peer may stay silent before it has the role that its generation implies.
pub const SILENCE: Span = Span::from_millis(100);

/// How long a frame that is not state may take to arrive, and an ERROR to be read.
pub const FRAME_TIME: Span = Span::from_secs(10);

/// The most connections of a unit at a time.
pub const MAX_CONNECTIONS: usize = 32;

/// A connection. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnId(pub u64);

/// Who has connected, as SO_PEERCRED and the machine say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Its generation.
    pub generation: Gen,
    /// What it is if it does not say: a generation that has not been ready yet is a sink, else a source.
    pub implied: Role,
    /// Whether an earlier generation lives that has state for it.
    pub predecessor: bool,
}

/// What has happened on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SrpEvent {
    /// A generation has a source connection (again, if a newer one has replaced it).
    SourceConnected {
        /// Whose.
        generation: Gen,
    },
    /// A generation asks for state. Answered with [`Endpoint::cold`] or [`Endpoint::begin`].
    SinkConnected {
        /// Whose.
        generation: Gen,
    },
    /// The source connection is gone.
    SourceGone {
        /// Whose.
        generation: Gen,
    },
    /// The sink connection is gone.
    SinkGone {
        /// Whose.
        generation: Gen,
    },
    /// A sink has acknowledged that there is no state, or a source what followed RESUME.
    Acknowledged {
        /// Whose.
        generation: Gen,
    },
    /// A peer broke the protocol (its connection ends) or reported an error.
    ProtocolError {
        /// Whose.
        generation: Gen,
        /// For people.
        text: String,
    },
    /// A transfer is over, however it ended. RESUME has been sent if it was a handover that failed.
    RelayEnded(RelayEnd),
}

/// What the poll set must change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is not in the poll set yet (it is new, or the relay has handed it back).
    Add(ConnId, Wants),
    /// It waits for something else.
    Modify(ConnId, Wants),
    /// Its peer has hung up and what it has sent is still wanted: nothing more will happen on it.
    Remove(ConnId),
}

/// The connections of one unit.
#[derive(Debug, Default)]
pub struct Endpoint {
    conns: BTreeMap<ConnId, Conn>,
    last: u64,
    events: VecDeque<SrpEvent>,
    ended: Vec<(ConnId, UnixStream)>,
    active: Option<Active>,
    /// Begins when the relay that runs has stopped.
    queued: Option<Transfer>,
}

impl Endpoint {
    /// Nobody yet.
    pub fn new() -> Endpoint {
        Endpoint::default()
    }

    /// Takes a connection over; [`Endpoint::take_changes`] then asks for it to be polled.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking; [`io::ErrorKind::QuotaExceeded`] above [`MAX_CONNECTIONS`] (the
    /// peer has been told). It is closed.
    pub fn accept(&mut self, stream: UnixStream, peer: Peer, now: Monotime) -> io::Result<ConnId> {
        stream.set_nonblocking(true)?;
        if self.conns.len() >= MAX_CONNECTIONS {
            Endpoint::refuse(&stream, "too_many", "this unit has too many SRP connections");
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.last += 1;
        let id = ConnId(self.last);
        self.conns.insert(id, Conn::new(stream, peer, now + SILENCE));
        Ok(id)
    }

    /// Says ERROR to somebody who is not let in. What does not fit into the socket is not said.
    pub fn refuse(stream: &UnixStream, code: &str, why: &str) {
        let _ = stream::send(stream.as_fd(), &Message::error(code, why).to_bytes(), &[]);
    }

    /// The socket of a connection, for the poll set; `None` if it is gone or with the relay.
    pub fn stream(&self, id: ConnId) -> Option<&UnixStream> {
        self.conns.get(&id).and_then(Conn::stream)
    }

    /// Whether this generation has a connection in this role.
    pub fn has(&self, generation: Gen, role: Role) -> bool {
        self.find(generation, role).is_some()
    }

    /// Whether a transfer is under way, waiting for its source included.
    pub fn is_transferring(&self) -> bool {
        self.active.is_some()
    }

    /// Reads what a peer has sent. Never blocks; takes no state that nobody has asked for.
    pub fn on_readable(&mut self, id: ConnId, now: Monotime) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let notes = conn.read(now);
        self.take(id, notes, now);
        self.progress(now);
    }

    /// Writes what a peer can take. Never blocks.
    pub fn on_writable(&mut self, id: ConnId, now: Monotime) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.flush();
        }
        self.progress(now);
    }

    /// When [`Endpoint::on_deadline`] is wanted; `None` for never.
    pub fn deadline(&self) -> Option<Monotime> {
        let waiting = self.active.as_ref().and_then(Active::deadline);
        self.conns.values().filter_map(Conn::deadline).chain(waiting).min()
    }

    /// Roles that are now implied, peers and transfers that are given up. Early is a no-op.
    pub fn on_deadline(&mut self, now: Monotime) {
        let due: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.deadline().is_some_and(|by| by <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let notes = self.conns.get_mut(&id).map(|conn| conn.on_deadline(now)).unwrap_or_default();
            self.take(id, notes, now);
        }
        self.expire_transfer(now);
        self.progress(now);
    }

    /// The next thing that has happened.
    pub fn next_event(&mut self) -> Option<SrpEvent> {
        self.events.pop_front()
    }

    /// Answers a sink that has no predecessor: FINISHED, at once. After its ACK it is the generation's source.
    pub fn cold(&mut self, generation: Gen) {
        if let Some(id) = self.find(generation, Role::Sink)
            && let Some(conn) = self.conns.get_mut(&id)
            && !conn.answer_cold()
        {
            self.become_source(id);
        }
    }

    /// Tells a source that its state is the newer generation's for good, if it had been asked for it and was
    /// not told otherwise. Returns whether the frame has left: then the stop signal may follow.
    pub fn commit(&mut self, generation: Gen) -> bool {
        let source = self.find(generation, Role::Source);
        source.and_then(|id| self.conns.get_mut(&id)).is_some_and(Conn::commit)
    }

    /// Tells a source that the handover was given up and that nothing is given back, if it had been asked for
    /// its state and was not told yet. (With something to give back: [`Endpoint::begin`].)
    pub fn resume(&mut self, generation: Gen) {
        if let Some(id) = self.find(generation, Role::Source)
            && let Some(conn) = self.conns.get_mut(&id)
        {
            conn.resume();
        }
    }

    /// Forgets a generation that has ended: its connections close, a transfer that needs it ends.
    pub fn forget(&mut self, generation: Gen, now: Monotime) {
        for conn in self.conns.values_mut().filter(|conn| conn.peer.generation == generation) {
            conn.end();
        }
        self.progress(now);
        self.forget_source(generation);
        self.progress(now);
    }

    /// What the poll set must change. Call it last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.conns.iter_mut().filter_map(|(id, conn)| conn.take_change(*id)).collect()
    }

    /// Connections that are over. Closed when the socket is dropped, after it was taken out of the poll set.
    pub fn take_ended(&mut self) -> Vec<(ConnId, UnixStream)> {
        std::mem::take(&mut self.ended)
    }

    /// Every connection: nothing of the unit is left. Take them out of the poll set before they are closed.
    pub fn take_all(&mut self) -> Vec<UnixStream> {
        let open = std::mem::take(&mut self.conns).into_values().filter_map(Conn::into_stream);
        open.chain(self.take_ended().into_iter().map(|(_, stream)| stream)).collect()
    }

    /// The newest connection of a generation in a role.
    fn find(&self, generation: Gen, role: Role) -> Option<ConnId> {
        let fits = |conn: &Conn| conn.is(generation, role);
        self.conns.iter().rev().find(|(_, conn)| fits(conn)).map(|(id, _)| *id)
    }

    /// Turns what a connection has noticed into events.
    fn take(&mut self, id: ConnId, notes: Vec<Note>, now: Monotime) {
        let Some(generation) = self.conns.get(&id).map(|conn| conn.peer.generation) else { return };
        for note in notes {
            match note {
                Note::Role(role) if self.is_outdated(id, generation, role) => {
                    // It took longer to say who it is than one that has come after it.
                    if let Some(conn) = self.conns.get_mut(&id) {
                        conn.replace();
                    }
                    break;
                }
                Note::Role(role) => {
                    self.replace_others(id, generation, role);
                    self.events.push_back(match role {
                        Role::Source => SrpEvent::SourceConnected { generation },
                        Role::Sink => SrpEvent::SinkConnected { generation },
                    });
                }
                Note::Acknowledged => {
                    self.events.push_back(SrpEvent::Acknowledged { generation });
                    self.become_source(id);
                }
                Note::Trouble(text) => {
                    self.events.push_back(SrpEvent::ProtocolError { generation, text });
                }
            }
        }
        self.progress(now);
    }

    /// Whether one that has connected later has this role already. How old a connection is does not depend on when it
    /// says something.
    fn is_outdated(&self, id: ConnId, generation: Gen, role: Role) -> bool {
        self.conns.range(id..).skip(1).any(|(_, conn)| conn.is(generation, role))
    }

    /// A generation has one connection a role: the newer one stays.
    fn replace_others(&mut self, newest: ConnId, generation: Gen, role: Role) {
        for (id, conn) in &mut self.conns {
            if *id != newest && conn.is(generation, role) {
                conn.replace();
            }
        }
    }

    /// A sink that has what it came for is the source from then on, if its generation has no other.
    fn become_source(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        let generation = conn.peer.generation;
        if !conn.is(generation, Role::Sink) {
            return;
        }
        let other = self.has(generation, Role::Source);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if other {
            conn.replace();
        } else {
            conn.become_source();
            self.events.push_back(SrpEvent::SourceConnected { generation });
        }
    }

    /// Takes connections that are over out, and moves the transfer on.
    fn progress(&mut self, now: Monotime) {
        let over: Vec<ConnId> = self.conns.iter().filter(|(_, c)| c.is_over()).map(|(id, _)| *id).collect();
        for id in over {
            let Some(conn) = self.conns.remove(&id) else { continue };
            let generation = conn.peer.generation;
            match conn.missed() {
                Some(Role::Source) => self.events.push_back(SrpEvent::SourceGone { generation }),
                Some(Role::Sink) => self.events.push_back(SrpEvent::SinkGone { generation }),
                None => {}
            }
            if let Some(stream) = conn.into_stream() {
                self.ended.push((id, stream));
            }
        }
        self.advance_transfer(now);
    }
}

#[cfg(test)]
mod tests;
