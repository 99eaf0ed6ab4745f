//! The one transfer that a unit may have under way: from the decision to its end.

use super::{Endpoint, SrpEvent};
use crate::daemon::relay::{self, Canceller, Inlet, Job, Outlet, RelayOutcome, RelayResult};
use crate::machine::event::Gen;
use crate::proto::srp::{Message, Role};
use crate::time::{Monotime, Span};

use super::ConnId;

/// Which way state goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the old generation to the sink connection of the new one.
    Handover,
    /// From a new generation that is given up back to the old one's source connection: RESUME precedes it.
    GiveBack,
}

/// A transfer that the machine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Who gives.
    pub from: Gen,
    /// Who takes.
    pub to: Gen,
    /// Why.
    pub direction: Direction,
    /// When the acknowledgement must be there (`Timeout` from now); `None`: never.
    pub deadline: Option<Monotime>,
    /// `MaxBytes`.
    pub max_bytes: u64,
    /// The source is told by a signal to come: one that closes an older connection may come again.
    pub returns: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayEnd {
    /// Who gave.
    pub from: Gen,
    /// Who took.
    pub to: Gen,
    /// Why.
    pub direction: Direction,
    /// How it ended.
    pub result: RelayResult,
    /// STATE frames that went through.
    pub frames: u64,
    /// Bytes of state that went through.
    pub bytes: u64,
    /// Descriptors that went with them.
    pub descriptors: u64,
    /// How long the copying took.
    pub duration: Span,
}

/// The two connections, once both are there.
#[derive(Debug, Clone, Copy)]
struct Pair {
    source: ConnId,
    sink: ConnId,
}

#[derive(Debug)]
pub(super) struct Active {
    transfer: Transfer,
    /// `None` until REQUEST has been queued.
    pair: Option<Pair>,
    /// The relay has the sockets.
    running: bool,
    canceller: Option<Canceller>,
    cancelled: bool,
    /// RESUME has gone to the source while the relay still ran.
    resumed: bool,
    /// The relay was stopped because the source has a newer connection.
    swapped: bool,
    /// When it began.
    began: Monotime,
    /// It got its time again, which nobody had seen pass: once.
    spared: bool,
}

impl Active {
    fn new(transfer: Transfer, began: Monotime) -> Active {
        Active {
            transfer,
            pair: None,
            running: false,
            canceller: None,
            cancelled: false,
            resumed: false,
            swapped: false,
            began,
            spared: false,
        }
    }

    /// Gives it its time once more if that was over while aeternad was not awake; whether it has.
    fn once_more(&mut self, now: Monotime) -> bool {
        let Some(by) = self.deadline().filter(|by| !self.spared && now.since(*by) > relay::ASLEEP) else {
            return false;
        };
        self.spared = true;
        self.transfer.deadline = Some(now + by.since(self.began));
        true
    }

    /// The relay minds the deadline itself.
    pub(super) fn deadline(&self) -> Option<Monotime> {
        self.transfer.deadline.filter(|_| !self.running)
    }
}

impl Endpoint {
    /// Begins a transfer: REQUEST goes to the source as soon as it is there, [`Endpoint::take_ready`] has the
    /// relay's job once it has left. Ends with exactly one [`SrpEvent::RelayEnded`]. One that is still under
    /// way is cancelled first.
    pub fn begin(&mut self, transfer: Transfer, now: Monotime) {
        self.stop(now);
        if self.active.is_some() {
            self.queued = Some(transfer);
            return;
        }
        self.active = Some(Active::new(transfer, now));
        self.progress(now);
    }

    /// Gives the transfer up: its [`SrpEvent::RelayEnded`] comes now, or when the relay has stopped. RESUME has
    /// left before this returns, because a stop signal may follow; an acknowledgement that comes all the same is
    /// too late then.
    pub fn cancel(&mut self, now: Monotime) {
        if let Some(Active { running: true, transfer, pair: Some(pair), resumed, .. }) = &mut self.active
            && transfer.direction == Direction::Handover
            && let Some(source) = self.conns.get_mut(&pair.source)
        {
            *resumed |= source.resume();
        }
        self.stop(now);
    }

    /// The source has a newer connection: it is asked there, if the sink has seen nothing yet.
    fn swap(&mut self, now: Monotime) {
        let Some(active) = &mut self.active else { return };
        if active.running {
            active.cancelled = true;
            active.swapped = true;
            if let Some(canceller) = active.canceller.take() {
                canceller.quietly();
            }
        } else {
            active.pair = None;
            self.advance_transfer(now);
        }
    }

    /// As [`Endpoint::cancel`]; the source is told when the relay has stopped.
    fn stop(&mut self, now: Monotime) {
        if let Some(Transfer { from, to, direction, .. }) = self.queued.take() {
            self.told(from, to, direction, RelayResult::Cancelled);
        }
        let Some(active) = &mut self.active else { return };
        if active.running {
            active.cancelled = true;
            active.swapped = false;
            active.canceller = None;
        } else {
            self.abandon(RelayResult::Cancelled);
        }
        self.progress(now);
    }

    /// The relay's job, once both sockets are free for it. Take `job.source.stream` and `job.sink.stream` out of
    /// the poll set before it starts; then hand [`Endpoint::started`] what [`relay::start`] gives.
    pub fn take_ready(&mut self) -> Option<Job> {
        let active = self.active.as_mut().filter(|active| !active.running)?;
        let Pair { source, sink } = active.pair?;
        let flushed = |id: ConnId| self.conns.get(&id).is_some_and(super::Conn::is_flushed);
        if !flushed(source) || !flushed(sink) {
            return None;
        }
        active.running = true;
        let conn = self.conns.get_mut(&source)?;
        let inlet = Inlet {
            hello: conn.late_hello(),
            stream: conn.lend_source()?,
            decoder: std::mem::take(&mut conn.decoder),
            held: conn.held.take(),
            descriptors: std::mem::take(&mut conn.descriptors),
            acks: conn.debts.acks,
        };
        let conn = self.conns.get_mut(&sink)?;
        let outlet = Outlet {
            hello: conn.late_hello(),
            stream: conn.lend()?,
            decoder: std::mem::take(&mut conn.decoder),
        };
        Some(Job {
            source: inlet,
            sink: outlet,
            deadline: active.transfer.deadline,
            max_bytes: active.transfer.max_bytes,
            returns: active.transfer.returns,
            copying: relay::FASTEST,
        })
    }

    /// The relay runs; it is stopped by [`Endpoint::cancel`].
    pub fn started(&mut self, canceller: Canceller) {
        if let Some(active) = self.active.as_mut().filter(|active| active.running && !active.cancelled) {
            active.canceller = Some(canceller);
        }
    }

    /// The relay has ended: takes the sockets back, and sends RESUME after a handover that has failed.
    pub fn relay_ended(&mut self, outcome: RelayOutcome, now: Monotime) {
        let Some(active) = self.active.take_if(|active| active.running) else { return };
        let Some(Pair { source, sink }) = active.pair else { return };
        let late = active.resumed && outcome.result == RelayResult::Done;
        // The source was told that it keeps its state: the acknowledgement changes nothing any more.
        let result = if late { RelayResult::SinkTimedOut } else { outcome.result };
        let mut gone = false;
        if let Some(conn) = self.conns.get_mut(&source) {
            gone = conn.is_ending() && !conn.is_replaced();
            match outcome.source {
                Some(back) => {
                    conn.give_back(back.stream, back.decoder);
                    conn.debts.owes = !back.finished;
                    conn.debts.acks = if back.finished { 0 } else { back.acks } + u32::from(active.resumed);
                }
                None => conn.lost(),
            }
        }
        if let Some(conn) = self.conns.get_mut(&sink) {
            match outcome.sink {
                Some(back) => conn.give_back(back.stream, back.decoder),
                None => conn.lost(),
            }
        }
        let Transfer { from, to, direction, returns, .. } = active.transfer;
        let comes = active.swapped && self.has(from, Role::Source);
        let waits = returns && !gone && !active.cancelled;
        if outcome.untouched && (comes || waits) {
            let Active { transfer, began, spared, .. } = active;
            self.active = Some(Active { spared, ..Active::new(transfer, began) });
            self.drop_lost();
            return self.progress(now);
        }
        if outcome.untouched
            && let Some(conn) = self.conns.get_mut(&sink)
        {
            conn.push(&Message::Error(relay::complaint(&result)).to_bytes());
        }
        if direction == Direction::Handover
            && result != RelayResult::Done
            && let Some(conn) = self.conns.get_mut(&source)
        {
            conn.resume();
        }
        let end = RelayEnd {
            from,
            to,
            direction,
            result,
            frames: outcome.frames,
            bytes: outcome.bytes,
            descriptors: outcome.descriptors,
            duration: outcome.duration,
        };
        self.events.push_back(SrpEvent::RelayEnded(end));
        self.become_source(sink);
        // A socket that the relay has lost has no stream left to hang up.
        self.drop_lost();
        self.progress(now);
        if let Some(next) = self.queued.take() {
            self.begin(next, now);
        }
    }

    /// Removes connections that ended with the relay.
    fn drop_lost(&mut self) {
        let lost: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_ending() && conn.stream().is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            let Some(conn) = self.conns.remove(&id) else { continue };
            let generation = conn.peer.generation;
            match conn.missed() {
                Some(Role::Source) => self.events.push_back(SrpEvent::SourceGone { generation }),
                Some(Role::Sink) => self.events.push_back(SrpEvent::SinkGone { generation }),
                None => {}
            }
        }
    }

    /// A generation has ended: nobody waits for it to come with its state.
    pub(super) fn forget_source(&mut self, generation: Gen) {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.pair.is_none() && active.transfer.from == generation)
        {
            self.abandon(RelayResult::SourceFailed("it has ended".into()));
        }
    }

    /// The deadline of a transfer that waits for its source or for room.
    pub(super) fn expire_transfer(&mut self, now: Monotime) {
        if self.active.as_mut().is_some_and(|active| active.once_more(now)) {
            return;
        }
        if self.active.as_ref().and_then(Active::deadline).is_some_and(|by| by <= now) {
            self.abandon(RelayResult::SourceTimedOut);
        }
    }

    /// Moves a transfer on that the relay does not have yet, and stops one whose connection was replaced.
    pub(super) fn advance_transfer(&mut self, now: Monotime) {
        let Some(active) = &self.active else { return };
        if let Some(Pair { source, sink }) = active.pair {
            let usable = |id: ConnId| self.conns.get(&id).is_some_and(|c| !c.is_ending() && !c.is_replaced());
            let replaced = |id: ConnId| self.conns.get(&id).is_none_or(super::Conn::is_replaced);
            match (active.running, usable(source), usable(sink)) {
                (_, true, true) => {}
                (true, ..) if active.cancelled => {}
                // A source that has died may have said everything before: the relay reads that, or sees the end.
                (true, false, true) if !replaced(source) => {}
                (_, false, true) if replaced(source) && self.has(active.transfer.from, Role::Source) => {
                    self.swap(now);
                }
                (true, ..) => self.stop(now),
                (false, _, false) => self.abandon(RelayResult::SinkFailed("it closed its connection".into())),
                (false, false, true) => {
                    self.abandon(RelayResult::SourceFailed("it closed its connection".into()));
                }
            }
            return;
        }
        let Transfer { from, to, direction, .. } = active.transfer;
        let source = self.find(from, Role::Source);
        let sink = match direction {
            Direction::Handover => self.find(to, Role::Sink),
            Direction::GiveBack => self.find(to, Role::Source),
        };
        let Some(sink) = sink else {
            return self.abandon(RelayResult::SinkFailed("it has no connection".into()));
        };
        match source {
            Some(source) => self.request(Pair { source, sink }, direction),
            // Nobody waits for a generation that is about to end to come with its state.
            None if direction == Direction::GiveBack => {
                if let Some(conn) = self.conns.get_mut(&sink) {
                    conn.resume();
                }
                self.finish(RelayResult::SourceFailed("it has no connection".into()));
            }
            None => {}
        }
    }

    fn request(&mut self, pair: Pair, direction: Direction) {
        let Some(conn) = self.conns.get_mut(&pair.source) else { return };
        if conn.debts.owes {
            // What it still sends belongs to the transfer before this one; its FINISHED brings us here again.
            return;
        }
        conn.request();
        if direction == Direction::GiveBack
            && let Some(conn) = self.conns.get_mut(&pair.sink)
        {
            conn.resume_with_state();
        }
        if let Some(active) = &mut self.active {
            active.pair = Some(pair);
        }
    }

    /// Ends a transfer that has not reached the relay: both sides are told.
    fn abandon(&mut self, result: RelayResult) {
        let Some(active) = &self.active else { return };
        let Transfer { to, direction, .. } = active.transfer;
        let role = if direction == Direction::Handover { Role::Sink } else { Role::Source };
        let (source, sink) = match active.pair {
            Some(pair) => (Some(pair.source), Some(pair.sink)),
            None => (None, self.find(to, role)),
        };
        if let Some(conn) = sink.and_then(|id| self.conns.get_mut(&id)) {
            if direction == Direction::GiveBack {
                conn.resume_with_state();
            }
            conn.push(&Message::Error(relay::complaint(&result)).to_bytes());
        }
        if let Some(conn) = source.and_then(|id| self.conns.get_mut(&id)) {
            conn.debts.owes = true;
            conn.resume();
        }
        self.finish(result);
        if direction == Direction::Handover
            && let Some(id) = sink
        {
            self.become_source(id);
        }
    }

    fn finish(&mut self, result: RelayResult) {
        if let Some(Active { transfer: Transfer { from, to, direction, .. }, .. }) = self.active.take() {
            self.told(from, to, direction, result);
        }
    }

    /// The end of a transfer in which nothing was copied.
    fn told(&mut self, from: Gen, to: Gen, direction: Direction, result: RelayResult) {
        self.events.push_back(SrpEvent::RelayEnded(RelayEnd {
            from,
            to,
            direction,
            result,
            frames: 0,
            bytes: 0,
            descriptors: 0,
            duration: Span::ZERO,
        }));
    }
}
