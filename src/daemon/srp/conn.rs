//! One connection: what its frames mean while no transfer has it.

use super::{Change, ConnId, FRAME_TIME, Peer};
use crate::daemon::relay::Held;
use crate::machine::event::Gen;
use crate::proto::harmless::{LONGEST, harmless};
use crate::proto::srp::{Decoder, Hello, MAX_DESCRIPTORS, Message, Piece, Role};
use crate::sys::aside::{self, Foreign};
use crate::sys::stream::{self, Moved};
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Bytes that are read at a time, and how often in one go: a peer that never stops sending holds nobody up.
const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 4;

/// A peer that has so much to read and does not is given up, bytes.
const MAX_OUTPUT: usize = 64 * 1024;

/// What the poll loop is to wait for on a socket. Neither: for its hang-up only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Until it is readable.
    pub read: bool,
    /// Until it is writable.
    pub write: bool,
}

/// What a connection has noticed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It has this role now.
    Role(Role),
    /// An acknowledgement that was waited for.
    Acknowledged,
    /// For people.
    Trouble(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    Open,
    /// It is sent what is queued, then it is over.
    Closing,
    Over,
}

/// Where a source stands with what it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Debts {
    /// REQUEST was sent, and neither RESUME nor COMMIT since.
    pub(super) requested: bool,
    /// A transfer was given up: what still comes of it is thrown away.
    pub(super) discarding: bool,
    /// The FINISHED of that transfer has not come.
    pub(super) owes: bool,
    /// Acknowledgements of a FINISHED behind RESUME that have not come.
    pub(super) acks: u32,
}

#[derive(Debug)]
pub(super) struct Conn {
    /// `None` while the relay has it.
    pub(super) stream: Option<UnixStream>,
    /// A copy of it meanwhile, for a word that cannot wait.
    pub(super) lent: Option<UnixStream>,
    pub(super) peer: Peer,
    pub(super) role: Option<Role>,
    /// What it was in its HELLO.
    pub(super) greeted: Option<Role>,
    /// It was told more than HELLO: its role stays.
    pub(super) used: bool,
    /// A sink that was told that there is nothing.
    pub(super) cold: bool,
    pub(super) replaced: bool,
    pub(super) phase: Phase,
    pub(super) decoder: Decoder,
    pub(super) held: Option<Held>,
    pub(super) descriptors: Vec<Foreign>,
    pub(super) debts: Debts,
    pub(super) hung_up: bool,
    pub(super) output: Vec<u8>,
    /// When its role is implied.
    pub(super) silent_by: Option<Monotime>,
    /// When the frame that has begun must be whole, or the ERROR read.
    pub(super) whole_by: Option<Monotime>,
    pub(super) registered: Option<Wants>,
}

impl Drop for Conn {
    /// What waits in it may be descriptors that last.
    fn drop(&mut self) {
        for stream in [self.stream.take(), self.lent.take()].into_iter().flatten() {
            aside::close(OwnedFd::from(stream));
        }
    }
}

impl Conn {
    pub(super) fn new(stream: UnixStream, peer: Peer, implied_at: Monotime) -> Conn {
        Conn {
            stream: Some(stream),
            lent: None,
            peer,
            role: None,
            greeted: None,
            used: false,
            cold: false,
            replaced: false,
            phase: Phase::Open,
            decoder: Decoder::new(),
            held: None,
            descriptors: Vec::new(),
            debts: Debts::default(),
            hung_up: false,
            output: Vec::new(),
            silent_by: Some(implied_at),
            whole_by: None,
            registered: None,
        }
    }

    pub(super) fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    pub(super) fn into_stream(mut self) -> Option<UnixStream> {
        self.stream.take()
    }

    /// Whether it is this generation's connection in this role.
    pub(super) fn is(&self, generation: Gen, role: Role) -> bool {
        let lives = self.phase == Phase::Open && !self.replaced;
        lives && self.peer.generation == generation && self.role == Some(role)
    }

    /// Reads until there is no more, or something that only a transfer may take.
    pub(super) fn read(&mut self, now: Monotime) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.held.is_some() {
            // Nothing was asked for but the hang-up. What it has sent before that is still there.
            self.hung_up = true;
            return notes;
        }
        if self.phase == Phase::Closing {
            // Its hang-up: writing tells whether anybody is left to read.
            self.flush();
        }
        let mut buffer = vec![0; CHUNK];
        for _ in 0..CHUNKS {
            let Some(stream) = self.stream.as_ref().filter(|_| self.phase == Phase::Open) else { break };
            if self.held.is_some() {
                break;
            }
            let room = self.decoder.wanted().min(CHUNK);
            match stream::receive(stream.as_fd(), &mut buffer[..room], &mut self.descriptors) {
                Ok(Moved::Bytes(count)) => {
                    self.digest(&buffer[..count], &mut notes);
                    if self.phase == Phase::Open && self.descriptors.len() > MAX_DESCRIPTORS {
                        // However slowly its frame comes: they are not collected without end.
                        self.descriptors.clear();
                        let why = "more descriptors than a frame can carry".into();
                        self.accuse("too_many_descriptors", why, &mut notes);
                    }
                }
                Ok(Moved::NotYet) => break,
                Ok(Moved::Ended) => self.phase = Phase::Over,
                Err(error) => {
                    notes.push(Note::Trouble(format!("cannot read from it: {error}")));
                    self.phase = Phase::Over;
                }
            }
        }
        self.mind_time(now);
        notes
    }

    /// A frame that has begun must end, an ERROR be read; waiting for a frame costs nothing.
    fn mind_time(&mut self, now: Monotime) {
        let begun = !self.decoder.is_between_frames() && self.decoder.state_left() == 0;
        if self.phase == Phase::Closing || begun {
            self.whole_by.get_or_insert(now + FRAME_TIME);
        } else {
            self.whole_by = None;
        }
    }

    fn digest(&mut self, mut input: &[u8], notes: &mut Vec<Note>) {
        while self.phase == Phase::Open {
            match self.decoder.next(&mut input) {
                Ok(Some(piece)) => {
                    let done = self.piece(&piece, notes);
                    if let Err((code, why)) = done {
                        self.accuse(code, why, notes);
                    }
                }
                Ok(None) => break,
                Err(error) => self.accuse(error.code(), error.to_string(), notes),
            }
            if self.held.is_some() {
                break;
            }
        }
    }

    /// One piece of what a peer says: `Err` is what is wrong with it.
    fn piece(&mut self, piece: &Piece<'_>, notes: &mut Vec<Note>) -> Result<(), (&'static str, String)> {
        if let Piece::Message(Message::Hello(hello)) = piece {
            return self.hello(hello, notes);
        }
        let role = match self.role {
            Some(role) => role,
            None => self.take_role(self.peer.implied, notes),
        };
        if self.debts.discarding {
            self.descriptors.clear();
        }
        match (piece, role) {
            (Piece::Body(_) | Piece::End, _) => Ok(()),
            (Piece::State(_), Role::Source) if self.debts.discarding => Ok(()),
            (Piece::State(header), Role::Source) => {
                self.held = Some(Held::State(*header));
                Ok(())
            }
            (Piece::Message(_), _) if !self.descriptors.is_empty() => {
                Err(("stray_descriptors", "descriptors belong to STATE_FD frames".into()))
            }
            (Piece::Message(Message::Finished(totals)), Role::Source) => {
                if self.debts.owes {
                    self.debts.owes = false;
                } else if self.debts.acks > 0 {
                    self.debts.acks -= 1;
                    notes.push(Note::Acknowledged);
                } else if !self.debts.discarding {
                    self.held = Some(Held::Finished(*totals));
                }
                Ok(())
            }
            (Piece::Message(Message::Finished(None)), Role::Sink) if self.cold => {
                notes.push(Note::Acknowledged);
                Ok(())
            }
            (Piece::Message(Message::Error(complaint)), _) => {
                notes.push(Note::Trouble(complaint.shown()));
                Ok(())
            }
            (Piece::State(header), Role::Sink) => Err(("unexpected", format!("{} from a sink", header.kind))),
            (Piece::Message(message), _) => {
                Err(("unexpected", format!("{} was not expected here", message.kind())))
            }
        }
    }

    fn hello(&mut self, hello: &Hello, notes: &mut Vec<Note>) -> Result<(), (&'static str, String)> {
        let said = match hello {
            Hello::Source => Role::Source,
            Hello::Sink => Role::Sink,
            Hello::Coordinator { .. } => {
                return Err(("unexpected", "only aeternad is the coordinator".into()));
            }
        };
        if !self.descriptors.is_empty() {
            return Err(("stray_descriptors", "descriptors belong to STATE_FD frames".into()));
        }
        if self.greeted == Some(said) {
            return Err(("unexpected", "HELLO twice".into()));
        }
        if self.role.is_some_and(|role| role != said) && (self.greeted.is_some() || self.used) {
            return Err(("unexpected", "HELLO with another role".into()));
        }
        self.greeted = Some(said);
        let answer = self.hello_bytes();
        self.push(&answer);
        if self.role != Some(said) {
            self.take_role(said, notes);
        }
        Ok(())
    }

    /// The answer to this peer's HELLO.
    pub(super) fn hello_bytes(&self) -> Vec<u8> {
        let Peer { generation: Gen(generation), predecessor, .. } = self.peer;
        Message::Hello(Hello::Coordinator { generation, predecessor }).to_bytes()
    }

    /// What the relay answers a HELLO with that comes late: nothing, if there was one.
    pub(super) fn late_hello(&self) -> Vec<u8> {
        if self.greeted.is_some() { Vec::new() } else { self.hello_bytes() }
    }

    fn take_role(&mut self, role: Role, notes: &mut Vec<Note>) -> Role {
        self.role = Some(role);
        self.silent_by = None;
        notes.push(Note::Role(role));
        role
    }

    pub(super) fn become_source(&mut self) {
        self.role = Some(Role::Source);
        self.cold = false;
    }

    pub(super) fn deadline(&self) -> Option<Monotime> {
        let times = [self.silent_by, self.whole_by];
        times.into_iter().flatten().min().filter(|_| self.stream.is_some())
    }

    pub(super) fn on_deadline(&mut self, now: Monotime) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.silent_by.is_some_and(|by| by <= now) {
            // We may be the one that was slow: what it has said meanwhile counts.
            notes = self.read(now);
        }
        if self.silent_by.take_if(|by| *by <= now).is_some() && self.decoder.is_between_frames() {
            self.take_role(self.peer.implied, &mut notes);
        }
        if self.whole_by.take_if(|by| *by <= now).is_some() {
            if self.phase == Phase::Open {
                self.accuse("timeout", format!("a frame did not end within {FRAME_TIME}"), &mut notes);
                self.mind_time(now);
            } else {
                self.phase = Phase::Over;
            }
        }
        notes
    }

    /// Says what is wrong, and ends the connection when that has been read.
    fn accuse(&mut self, code: &str, why: String, notes: &mut Vec<Note>) {
        self.push(&Message::error(code, why.clone()).to_bytes());
        // What it has sent may stand in the reason.
        notes.push(Note::Trouble(format!("it broke the protocol: {}", harmless(&why, LONGEST))));
        self.close();
    }

    /// Ends it once everything has been written.
    fn close(&mut self) {
        if self.phase == Phase::Open {
            self.phase = if self.output.is_empty() { Phase::Over } else { Phase::Closing };
        }
    }

    /// A newer connection has its role; nobody misses it. It is told: else it would connect again, and the two would
    /// replace each other for ever.
    pub(super) fn replace(&mut self) {
        self.replaced = true;
        if self.stream.is_some() {
            self.say_replaced();
        }
        self.phase = Phase::Over;
    }

    fn say_replaced(&mut self) {
        let why = "a newer connection of this generation has its place";
        self.push(&Message::error("replaced", why).to_bytes());
    }

    pub(super) fn is_replaced(&self) -> bool {
        self.replaced
    }

    /// Ends it at once. One that the relay has ends when it comes back.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Over;
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over && self.stream.is_some()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.phase != Phase::Open
    }

    /// The role that its generation has lost with it.
    pub(super) fn missed(&self) -> Option<Role> {
        self.role.filter(|_| !self.replaced)
    }

    /// Queues a frame and writes what the socket takes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Open {
            return;
        }
        self.output.extend_from_slice(bytes);
        self.flush();
        if self.output.len() > MAX_OUTPUT {
            self.phase = Phase::Over;
        }
    }

    pub(super) fn flush(&mut self) {
        let Some(stream) = self.stream.as_ref().or(self.lent.as_ref()) else { return };
        while !self.output.is_empty() && self.phase != Phase::Over {
            match stream::send(stream.as_fd(), &self.output, &[]) {
                Ok(Moved::Bytes(count)) => drop(self.output.drain(..count)),
                Ok(Moved::NotYet) => return,
                // Nobody reads any more; what it has sent may still be wanted.
                Ok(Moved::Ended) | Err(_) => self.output.clear(),
            }
        }
        if self.phase == Phase::Closing {
            self.phase = Phase::Over;
        }
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// FINISHED without any state. Returns whether it is a sink that will say when it has read that: one that
    /// never said HELLO may as well be a source that has come early.
    pub(super) fn answer_cold(&mut self) -> bool {
        self.used = true;
        self.cold = self.greeted.is_some();
        self.debts.acks += u32::from(!self.cold);
        self.push(&Message::Finished(None).to_bytes());
        self.cold
    }

    pub(super) fn request(&mut self) {
        self.used = true;
        self.debts.requested = true;
        self.debts.discarding = false;
        self.push(&Message::Request.to_bytes());
    }

    pub(super) fn commit(&mut self) -> bool {
        if !std::mem::take(&mut self.debts.requested) {
            return false;
        }
        self.push(&Message::Commit.to_bytes());
        self.is_flushed() && self.phase == Phase::Open
    }

    /// RESUME, with something to come: the caller sees to that.
    pub(super) fn resume_with_state(&mut self) -> bool {
        if !std::mem::take(&mut self.debts.requested) {
            return false;
        }
        self.push(&Message::Resume.to_bytes());
        true
    }

    /// RESUME, and that nothing is given back. Returns whether it had to be said.
    pub(super) fn resume(&mut self) -> bool {
        let told = self.resume_with_state();
        if told {
            self.debts.discarding = true;
            self.debts.acks += 1;
            self.push(&Message::Finished(None).to_bytes());
        }
        told
    }

    /// Lends the socket to the relay.
    pub(super) fn lend(&mut self) -> Option<UnixStream> {
        self.registered = None;
        self.used = true;
        (self.silent_by, self.whole_by) = (None, None);
        self.stream.take()
    }

    /// As [`Conn::lend`], of the one who gives: RESUME may have to leave before the relay has ended.
    pub(super) fn lend_source(&mut self) -> Option<UnixStream> {
        let stream = self.lend()?;
        // Without a descriptor for it, RESUME leaves when the relay has ended.
        self.lent = stream.try_clone().ok();
        Some(stream)
    }

    /// The relay has handed it back.
    pub(super) fn give_back(&mut self, stream: UnixStream, decoder: Decoder) {
        self.stream = Some(stream);
        self.lent = None;
        self.decoder = decoder;
        self.hung_up = false;
        if self.replaced {
            // It was over already, and there was no way to say why.
            self.phase = Phase::Open;
            self.say_replaced();
            self.phase = Phase::Over;
        }
    }

    /// The relay's peer is gone.
    pub(super) fn lost(&mut self) {
        self.lent = None;
        self.phase = Phase::Over;
    }

    fn wants(&self) -> Option<Wants> {
        if self.stream.is_none() || self.hung_up {
            return None;
        }
        let open = self.phase == Phase::Open;
        Some(Wants { read: open && self.held.is_none(), write: !self.output.is_empty() })
    }

    /// What it wants, if that is not what the poll set waits for.
    pub(super) fn take_change(&mut self, id: ConnId) -> Option<Change> {
        let wants = self.wants();
        let before = std::mem::replace(&mut self.registered, wants);
        match (before, wants) {
            (None, Some(wants)) => Some(Change::Add(id, wants)),
            (Some(before), Some(wants)) if before != wants => Some(Change::Modify(id, wants)),
            (Some(_), None) => Some(Change::Remove(id)),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}
