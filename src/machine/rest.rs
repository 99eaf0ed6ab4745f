//! What follows when a generation is gone: a restart, a back-off, LISTENING, STOPPED or FAILED.

use super::event::{Action, Announcement, Gen};
use super::model::{Course, End, Generation, JobPhase, Kind, Place, Rest, Stage, State, Then, Word};
use super::restart::{delay, wants_restart};
use super::table::{OldGone, row};
use super::turn::{Follow, Turn};
use crate::time::Span;
use crate::unit::StartOn;

/// How long somebody who writes a program is waited for, and how often it is tried.
const WRITER_TAKES: Span = Span::from_secs(5);
pub(super) const WRITER_PAUSE: Span = Span::from_millis(200);

impl Turn<'_> {
    /// Everything of a generation is gone.
    pub(super) fn cleaned_up(&mut self, number: Gen) {
        let place = self.s.place(number);
        let Some(at) = self.s.generations.iter().position(|g| g.number == number) else { return };
        let generation = self.s.generations.remove(at);
        self.s.procs.retain(|owned| owned.generation != Some(number));
        self.push(Action::Forget(number));
        match generation.kind {
            Kind::Instance { conn, delivered, .. } => {
                if !delivered {
                    self.push(Action::CloseConnection(conn));
                }
            }
            Kind::Rescue { left } => self.rescue_is_gone(generation.slot, generation.drained, left),
            Kind::Full => {
                let served = generation.ready_at.is_some() || generation.served;
                let left = served && generation.steered && !generation.drained;
                if left && generation.slot != self.s.steering.serving {
                    self.slot_is_dirty(generation.slot);
                }
                self.flush_pending(&generation);
            }
        }
        match place {
            Place::New => self.follow(Follow::NewGone),
            Place::Current => {
                self.s.current = None;
                let stopped = End::given_up(Word::Success, "has ended".into());
                let worker = || generation.workers.iter().rev().find_map(|worker| worker.end.clone());
                let end = generation.end.clone().or_else(worker).unwrap_or(stopped);
                self.current_is_gone(&end, generation.ready_at.map(|at| self.now.since(at)));
            }
            Place::Draining | Place::Rescue | Place::Instance => {}
        }
    }

    fn flush_pending(&mut self, generation: &Generation) {
        let unit = self.unit(generation.content);
        let others = self.s.generations.iter().any(|g| matches!(g.kind, Kind::Full));
        if !others && unit.sockets.iter().any(|socket| socket.flush_pending) {
            self.push(Action::FlushPending);
        }
    }

    fn current_is_gone(&mut self, end: &End, served: Option<Span>) {
        let max = self.unit(self.s.content).service.restart_max_delay;
        if served.is_some_and(|served| served >= max) {
            // It has been well for as long as it could have been kept waiting.
            self.s.attempt = 0;
        }
        if self.s.is_down() || matches!(self.s.job.as_ref().map(|job| job.phase), Some(JobPhase::Stopping(_)))
        {
            return;
        }
        let Some(reload) = self.s.reload.as_mut() else { return self.service_ended(end) };
        match (row(&reload.stage).old_gone, &reload.stage) {
            (OldGone::Ends, Stage::Restoring { why, .. }) => {
                let reason =
                    format!("{}; the previous content was started again, but {}", why.reason, end.text);
                let outcome = why.outcome;
                self.end_reload(outcome, reason);
                self.service_ended(end);
            }
            (OldGone::Launches, _) => self.old_is_gone(),
            (OldGone::Restores, stage) if stage.new_generation().is_none() => self.old_is_gone(),
            (OldGone::Ends | OldGone::Restores | OldGone::Waits, _) => reload.old_end = Some(end.clone()),
        }
    }

    /// The service has ended, and no reload decides what follows.
    pub(super) fn service_ended(&mut self, end: &End) {
        if self.waits_for_writer(end) {
            return;
        }
        let unit = self.unit(self.s.content);
        let service = &unit.service;
        self.s.result = Some(end.result.text().into());
        self.s.last_status = Some(end.exit_status());
        self.s.last_end.clone_from(&end.text);
        self.s.settled = true;
        let failed = if end.is_success() { Ok(()) } else { Err(format!("the service {}", end.text)) };
        self.job_done(failed);
        if std::mem::take(&mut self.s.idle_stop) {
            self.s.why = "it was idle".into();
            self.listen();
        } else if wants_restart(service, end) {
            let pause = delay(service, self.s.attempt);
            self.s.attempt += 1;
            self.back_off(pause, Then::Launch);
        } else if service.start_on == StartOn::Connection && !end.gone {
            if end.is_success() {
                self.listen();
            } else {
                // What it did not take still waits on the socket: without a pause that would start it again
                // at once, and again.
                let pause = delay(service, self.s.attempt).max(Span::from_millis(100));
                self.back_off(pause, Then::Listen);
            }
        } else {
            self.s.ended = Some(end.exit_status());
            self.s.rest = if end.is_success() { Rest::Stopped } else { Rest::Failed };
        }
    }

    /// Somebody copies a program to the place of the one that was to be started: it is tried again soon, and not counted
    /// as a start, for as long as a copy may take.
    fn waits_for_writer(&mut self, end: &End) -> bool {
        if !self.is_being_written(end) || self.s.job.is_some() {
            self.s.busy_since = None;
            return false;
        }
        self.s.starts.give_back();
        self.s.result = Some(end.result.text().into());
        self.s.last_end.clone_from(&end.text);
        self.back_off(WRITER_PAUSE, Then::Launch);
        true
    }

    /// Whether a program could not be executed because somebody writes it, and has not done so for long.
    pub(super) fn is_being_written(&mut self, end: &End) -> bool {
        let since = self.s.busy_since.take().filter(|_| end.busy).unwrap_or(self.now);
        if !end.busy || self.now.since(since) >= WRITER_TAKES {
            return false;
        }
        self.s.busy_since = Some(since);
        true
    }

    fn back_off(&mut self, pause: Span, then: Then) {
        match self.now.after(pause) {
            Some(until) => self.s.rest = Rest::Backoff { until, then },
            None => self.s.rest = Rest::Failed,
        }
    }

    /// Waits for traffic.
    pub(super) fn listen(&mut self) {
        self.s.rest = Rest::Listening;
    }

    pub(super) fn backoff_runs(s: &State) -> Option<(crate::time::Monotime, Then)> {
        match s.course() {
            Course::Resting(Rest::Backoff { until, then }) if s.job.is_none() => Some((until, then)),
            Course::Resting(_)
            | Course::Down { .. }
            | Course::Reloading(_)
            | Course::Starting
            | Course::Serving
            | Course::Ending => None,
        }
    }

    pub(super) fn tick_rest(&mut self) {
        match Turn::backoff_runs(self.s) {
            Some((until, Then::Listen)) if until <= self.now => self.listen(),
            Some((until, Then::Launch)) if until <= self.now => {
                let result = self.s.result.clone().unwrap_or_default();
                if self.start_current() {
                    self.s.restarts += 1;
                    self.announce(Announcement::Restarting { result });
                }
            }
            Some(_) | None => {}
        }
    }

    /// Launches what was promoted last, if the start limit allows it.
    pub(super) fn start_current(&mut self) -> bool {
        let unit = self.unit(self.s.content);
        let service = &unit.service;
        if !self.s.starts.take(self.now, service.start_limit_interval, service.start_limit_burst) {
            self.start_limit_hit(service.start_limit_burst, service.start_limit_interval);
            return false;
        }
        self.s.ended = None;
        let slot = self.free_slot();
        let number = self.launch(self.s.content, Kind::Full, slot);
        self.s.current = Some(number);
        self.begin_start(number);
        true
    }

    fn start_limit_hit(&mut self, burst: u32, interval: Span) {
        let last = &self.s.last_end;
        let before = if last.is_empty() { String::new() } else { format!("; the last one {last}") };
        let text = format!(
            "{} within {interval}, as often as StartLimitBurst allows (start-limit-hit){before}. \
             Find out why, then start it by hand",
            started(burst)
        );
        self.s.why.clone_from(&text);
        self.s.result = Some(Word::StartLimitHit.text().into());
        self.s.rest = Rest::Failed;
        self.s.settled = true;
        self.s.ended = self.s.last_status.or(Some(1));
        self.job_done(Err(text));
    }
}

/// `started 5 times`.
pub(super) fn started(burst: u32) -> String {
    if burst == 1 { "started once".into() } else { format!("started {burst} times") }
}
