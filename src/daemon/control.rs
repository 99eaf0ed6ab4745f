//! The server side of the control socket (contract section 9): who is connected, what they ask, what they get.
//!
//! Owns the accepted sockets, all non-blocking; knows neither the poll loop nor the clock. Main thread only.
//! A client is answered in the order in which it asks, one request at a time; one that does not read loses
//! events (and is told how many), never its answers, and never holds the daemon up.
//!
//! A turn of the loop: `accept`, `on_readable`, `on_writable` as the sockets become ready; `next_request`
//! until there is none, each answered (then or later) by `send`; `on_deadline` when [`Clients::deadline`] has
//! passed; last [`Clients::take_ended`] and [`Clients::take_changes`] for the poll set.

mod client;
mod saved;

pub use saved::SavedClients;

use crate::proto::control::{Line, LogLines, Refusal, RefusalCode, Request, to_line};
use crate::proto::status::{EventLine, LogLine};
use crate::time::{Monotime, Span};
use client::Client;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::ops::Bound;
use std::os::unix::net::UnixStream;

/// The most clients at a time.
pub const MAX_CLIENTS: usize = 64;

/// How long a request may take to arrive, from its first byte to its newline.
pub const REQUEST_TIME: Span = Span::from_secs(10);

/// Events are dropped for a client that has more than this to read, bytes.
pub const MAX_QUEUE: usize = 256 * 1024;

/// How many events are kept for those who ask later.
pub const MAX_PAST: usize = 512;

/// A connected client. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientId(pub u64);

/// What the poll loop is to wait for on a client's socket. Neither: for its hang-up only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Until it is readable.
    pub read: bool,
    /// Until it is writable.
    pub write: bool,
}

/// Why a connection was not accepted. The peer has been told.
#[derive(Debug)]
pub enum Rejected {
    /// There are [`MAX_CLIENTS`] already.
    TooMany,
    /// The peer is neither root nor the daemon's own user.
    NotAllowed {
        /// The peer's uid.
        uid: u32,
    },
    /// The socket cannot be made non-blocking.
    Io(io::Error),
}

/// Everybody who is connected.
#[derive(Debug)]
pub struct Clients {
    own_uid: u32,
    clients: BTreeMap<ClientId, Client>,
    last: u64,
    /// Whose request was handed out last.
    heard: ClientId,
    /// The last events.
    past: VecDeque<EventLine>,
}

impl Clients {
    /// Nobody yet; `own_uid` and root may connect.
    pub fn new(own_uid: u32) -> Clients {
        Clients { own_uid, clients: BTreeMap::new(), last: 0, heard: ClientId(0), past: VecDeque::new() }
    }

    /// Takes a connection over. `uid` is the peer's, from SO_PEERCRED. The loop then waits until it is readable.
    ///
    /// # Errors
    /// [`Rejected`]; the connection is closed.
    pub fn accept(&mut self, mut stream: UnixStream, uid: u32) -> Result<ClientId, Rejected> {
        stream.set_nonblocking(true).map_err(Rejected::Io)?;
        if self.clients.len() >= MAX_CLIENTS
            && let Some(silent) = self.clients.iter().find(|(_, c)| c.is_silent()).map(|(id, _)| *id)
        {
            // Whoever connects and says nothing has no right to keep the others out.
            self.close(silent);
        }
        let (why, text) = if uid != 0 && uid != self.own_uid {
            let text = format!("only root and uid {} may talk to this aeternad, not uid {uid}", self.own_uid);
            (Rejected::NotAllowed { uid }, text)
        } else if self.clients.len() >= MAX_CLIENTS {
            (Rejected::TooMany, format!("aeternad already has {MAX_CLIENTS} clients; try again later"))
        } else {
            self.last += 1;
            self.clients.insert(ClientId(self.last), Client::new(stream));
            return Ok(ClientId(self.last));
        };
        let refusal = to_line(&Line::Error(Refusal::new(RefusalCode::Failed, text)));
        // A new socket has room for one line; whoever is gone already needs none.
        let _ = stream.write_all(&refusal);
        Err(why)
    }

    /// The socket of a client, for the poll set; `None` if it is gone.
    pub fn stream(&self, id: ClientId) -> Option<&UnixStream> {
        self.clients.get(&id).map(Client::stream)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Reads what a client has sent. Never blocks; reads at most one request's length.
    pub fn on_readable(&mut self, id: ClientId, now: Monotime) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.read(now);
        }
    }

    /// A client's socket has hung up: it must be out of the poll set now. What it has sent is still carried out.
    pub fn on_hangup(&mut self, id: ClientId, now: Monotime) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.read(now);
            client.gone();
        }
    }

    /// Writes what a client can take. Never blocks.
    pub fn on_writable(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.flush();
        }
    }

    /// The next request that is to be carried out, answered by [`Clients::send`] with a [`Line::Result`] or a
    /// [`Line::Error`], then or later (never, for [`Request::Events`]). The next one of the same client comes
    /// only after that. What is no request is answered here.
    pub fn next_request(&mut self, now: Monotime) -> Option<(ClientId, Request)> {
        // In turn: who asks without end does not keep the others from being heard.
        let after = (Bound::Excluded(self.heard), Bound::Unbounded);
        let next = |(id, client): (&ClientId, &mut Client)| Some((*id, client.next_request(now)?));
        let found = self.clients.range_mut(after).find_map(next);
        let found = found.or_else(|| self.clients.range_mut(..=self.heard).find_map(next));
        if let Some((id, _)) = &found {
            self.heard = *id;
        }
        found
    }

    /// Sends a line; a client that is gone gets nothing. A [`Line::Event`] may be dropped; a result or an error is
    /// not, and ends the request and its subscriptions.
    pub fn send(&mut self, id: ClientId, line: &Line) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match line {
            Line::Event(event) => client.push_event(event.time, &to_line(line)),
            // Asked for, and no more than is kept.
            Line::Lines(_) => client.push_asked(&to_line(line)),
            Line::Result(_) | Line::Error(_) => client.push_answer(&to_line(line)),
        }
    }

    /// From now on the client gets the events of `unit`, or all of them. Adds to what it gets already; ends
    /// with the answer to its request.
    pub fn subscribe(&mut self, id: ClientId, unit: Option<&str>) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.subscribe(unit);
        }
    }

    /// From now on the client gets the lines of a unit's output, of one generation or of all.
    pub fn subscribe_lines(&mut self, id: ClientId, unit: &str, generation: Option<u32>) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.subscribe_lines(unit, generation);
        }
    }

    /// Whether anybody wants the lines of a unit's output.
    pub fn wants_lines(&self, unit: &str) -> bool {
        self.clients.values().any(|client| client.follows(unit).is_some())
    }

    /// Sends lines of a unit's output to everybody who wants them; `missing` came before them and is not kept.
    pub fn broadcast_lines(&mut self, unit: &str, lines: &[LogLine], missing: u64) {
        for client in self.clients.values_mut() {
            let Some(generation) = client.follows(unit) else { continue };
            let wanted = |line: &&LogLine| generation.is_none() || line.generation == generation;
            let lines: Vec<LogLine> = lines.iter().filter(wanted).cloned().collect();
            if !lines.is_empty() || missing > 0 {
                client.push_lines(LogLines { unit: unit.to_owned(), lines, missing });
            }
        }
    }

    /// Sends the events of the past: the last `count` of them, from `since` on.
    pub fn send_past(&mut self, id: ClientId, unit: Option<&str>, count: usize, since: Option<f64>) {
        let wanted = |event: &&EventLine| {
            unit.is_none_or(|unit| unit == event.unit) && since.is_none_or(|since| event.time >= since)
        };
        let mut past: Vec<&EventLine> = self.past.iter().rev().filter(wanted).take(count).collect();
        past.reverse();
        let Some(client) = self.clients.get_mut(&id) else { return };
        for event in past {
            client.push_asked(&to_line(&Line::Event(event.clone())));
        }
    }

    /// Remembers an event for those who ask later, and sends it to everybody who has subscribed to its unit.
    pub fn broadcast(&mut self, event: &EventLine) {
        if self.past.len() >= MAX_PAST {
            self.past.pop_front();
        }
        self.past.push_back(event.clone());
        let mut line = None;
        for client in self.clients.values_mut().filter(|client| client.hears(&event.unit)) {
            let line = line.get_or_insert_with(|| to_line(&Line::Event(event.clone())));
            client.push_event(event.time, line);
        }
    }

    /// When [`Clients::on_deadline`] is wanted; `None` for never.
    pub fn deadline(&self) -> Option<Monotime> {
        self.clients.values().filter_map(Client::deadline).min()
    }

    /// Gives up on those whose time has passed. Early is a no-op.
    pub fn on_deadline(&mut self, now: Monotime) {
        for client in self.clients.values_mut().filter(|c| c.deadline().is_some_and(|by| by <= now)) {
            client.give_up();
        }
    }

    /// Whether the loop is to wait until the client can be written to.
    pub fn wants_write(&self, id: ClientId) -> bool {
        self.clients.get(&id).is_some_and(|client| client.wants().write)
    }

    /// What the poll set must change: each client whose wants are not what they were at the last call (at
    /// [`Clients::accept`]: to read).
    pub fn take_changes(&mut self) -> Vec<(ClientId, Wants)> {
        let changed = |(id, client): (&ClientId, &mut Client)| client.take_change().map(|wants| (*id, wants));
        self.clients.iter_mut().filter_map(changed).collect()
    }

    /// How many requests could not be understood since this was asked last. Before [`Clients::take_ended`], which
    /// forgets who sent them.
    pub fn take_refused(&mut self) -> u64 {
        self.clients.values_mut().map(Client::take_refused).sum()
    }

    /// Those that are over: gone, or told all there was to tell. Closed when the socket is dropped, after it
    /// was taken out of the poll set. What they asked for goes on; answers to it go nowhere.
    pub fn take_ended(&mut self) -> Vec<(ClientId, UnixStream)> {
        let ended: Vec<ClientId> =
            self.clients.iter().filter(|(_, c)| c.is_over()).map(|(id, _)| *id).collect();
        ended.into_iter().filter_map(|id| self.close(id).map(|stream| (id, stream))).collect()
    }

    /// Forgets a client (its socket hung up): whatever it has not read is lost.
    pub fn close(&mut self, id: ClientId) -> Option<UnixStream> {
        self.clients.remove(&id).map(Client::into_stream)
    }
}

#[cfg(test)]
mod tests;
