//! A reload from readiness to its end: soak, promotion, rollback, and what is told to whom.

use super::event::{Action, Announcement, CommandResult, Gen, Outcome, ReloadRecord, Req, UnitState};
use super::model::{End, GivenUp, HookRun, Kind, Look, Place, Reload, ReloadPhase, Rest, SIGKILL, Soak};
use super::turn::Turn;
use crate::proto::status::PhaseTime;
use crate::time::Span;
use crate::unit::Strategy;

/// How many generations may drain at the same time.
const MAX_DRAINING: usize = 8;

pub(super) fn strategy_name(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Canary => "canary",
        Strategy::Immediate => "immediate",
        Strategy::Replace => "replace",
        Strategy::Signal => "signal",
    }
}

impl Turn<'_> {
    /// The generation that the reload has launched is ready.
    pub(super) fn new_is_ready(&mut self, number: Gen) {
        if self.must_wait_for_state(number) {
            return;
        }
        let unit = self.unit_of(number);
        if let Some(pid) = self.s.generation(number).and_then(|g| g.first_pid())
            && let Some(reload) = self.s.reload.as_mut()
        {
            reload.new_pid = Some(pid);
        }
        let beside = self.s.serving().is_some();
        if !beside || unit.reload.strategy != Strategy::Canary || unit.reload.soak_time.is_zero() {
            self.promote(String::new());
            return;
        }
        let began = self.now;
        let until = began.after(unit.reload.soak_time);
        self.set_reload(ReloadPhase::Soaking(Soak { began, until, step: 0, next: None, weight: 0 }));
        self.soak_step(0);
    }

    /// Each step lasts its part of the soak from when it really began: an aeternad that comes late to one shortens
    /// none, and leaves none out.
    fn soak_step(&mut self, step: u32) {
        let Some(content) = self.s.reload.as_ref().and_then(|reload| reload.content) else { return };
        let unit = self.unit(content);
        let weights = &unit.reload.canary_weight;
        let Some(weight) = weights.get(step as usize).copied() else { return };
        let steps = u64::try_from(weights.len()).unwrap_or(1);
        let length = unit.reload.soak_time;
        let now = self.now;
        let part = |count: u64| {
            let part = (u128::from(length.0) * u128::from(count)).div_ceil(u128::from(steps));
            now.after(Span(u64::try_from(part).unwrap_or(u64::MAX)))
        };
        if let Some(reload) = self.s.reload.as_mut()
            && let ReloadPhase::Soaking(soak) = &mut reload.phase
        {
            soak.step = step;
            soak.weight = weight;
            if !length.is_infinite() {
                let left = steps.saturating_sub(u64::from(step));
                soak.until = part(left);
                soak.next = if left > 1 { part(1) } else { None };
            }
        }
        self.steer();
    }

    pub(super) fn tick_soak(&mut self) {
        let Some(ReloadPhase::Soaking(soak)) = self.s.reload.as_ref().map(|reload| &reload.phase) else {
            return;
        };
        if soak.next.is_some_and(|next| next <= self.now) {
            let step = soak.step + 1;
            self.soak_step(step);
        } else if soak.until.is_some_and(|until| until <= self.now) {
            self.promote(String::new());
        }
    }

    /// The new generation is the serving one from now on; the old one drains.
    pub(super) fn promote(&mut self, reason: String) {
        let Some(reload) = self.s.reload.as_ref() else { return };
        let (Some(new), Some(content)) = (reload.new, reload.content) else { return };
        let old = self.s.current.filter(|old| *old != new);
        let timeout = self.unit(content).reload.drain_timeout;
        self.s.current = Some(new);
        self.s.last_number = new.0;
        self.s.attempt = 0;
        self.s.why.clear();
        self.s.pending.clear();
        self.promote_content(content);
        self.push(Action::Promoted(new));
        // The switch comes before anything else is said to the old one.
        self.steer();
        self.commit_state();
        self.check_after_promotion(new);
        self.recheck_slots();
        self.end_reload(Outcome::Promoted, reason);
        if let Some(old) = old {
            self.drain(old, timeout);
        }
        self.limit_draining();
    }

    pub(super) fn recheck_slots(&mut self) {
        for dirty in &mut self.s.dirty {
            dirty.look = Look::Wanted;
        }
    }

    fn limit_draining(&mut self) {
        let draining = |turn: &Turn<'_>| -> Vec<Gen> {
            let all = turn.s.generations.iter().map(|g| g.number);
            all.filter(|number| turn.s.place(*number) == Place::Draining).collect()
        };
        let mut numbers = draining(self);
        while numbers.len() > MAX_DRAINING {
            let oldest = numbers.remove(0);
            if !self.is_killed(oldest) {
                self.warn(format!(
                    "generation {} is killed: more than {MAX_DRAINING} generations drain",
                    oldest.0
                ));
                self.kill_early(oldest);
            }
        }
    }

    /// The new generation has died, failed or was not ready in time.
    pub(super) fn new_is_lost(&mut self, number: Gen, end: &End) {
        let Some(reload) = self.s.reload.as_ref() else { return };
        let age = match (&reload.phase, self.s.generation(number)) {
            (ReloadPhase::Soaking(soak), _) => self.now.since(soak.began),
            (_, Some(generation)) => self.now.since(generation.launched),
            (_, None) => Span::ZERO,
        };
        let when = match reload.phase {
            ReloadPhase::Starting => "before it was ready",
            ReloadPhase::Soaking(_) => "while it soaked",
            ReloadPhase::RollingBack { .. } => {
                self.giver_is_lost();
                return self.stop_lost(number, false);
            }
            ReloadPhase::Loading(_)
            | ReloadPhase::Opening(_)
            | ReloadPhase::Binary { .. }
            | ReloadPhase::PreFlight { .. }
            | ReloadPhase::Command { .. }
            | ReloadPhase::AwaitReady { .. }
            | ReloadPhase::StoppingOld
            | ReloadPhase::Restoring { .. } => return,
        };
        let secs = age.as_secs_f64();
        let reason = if end.exit.is_some() || matches!(reload.phase, ReloadPhase::Soaking(_)) {
            format!("generation {} {} {when} (after {secs:.1}s)", number.0, end.text)
        } else {
            format!("generation {} {}", number.0, end.text)
        };
        self.roll_back(Outcome::RolledBack, reason);
    }

    /// Gives up the launched generation. The old one has noticed nothing.
    pub(super) fn roll_back(&mut self, outcome: Outcome, reason: String) {
        let Some(reload) = self.s.reload.as_mut() else { return };
        self.s.why.clone_from(&reason);
        reload.phase = ReloadPhase::RollingBack { why: GivenUp { outcome, reason } };
        let new = reload.new;
        self.steer();
        let gives_back = self.take_state_back();
        match new {
            Some(_) if gives_back => {}
            Some(new) => self.stop_given_up(new),
            None => self.old_is_gone(),
        }
    }

    /// The launched generation goes, after what waits on its slot.
    pub(super) fn stop_given_up(&mut self, new: Gen) {
        let timeout = self.unit_of(new).reload.drain_timeout;
        self.drain(new, timeout);
    }

    /// The launched generation is gone: the reload is over, unless the previous content must be started again.
    pub(super) fn new_is_gone(&mut self) {
        let Some(reload) = self.s.reload.as_mut() else { return };
        reload.new = None;
        let ReloadPhase::RollingBack { why } = &reload.phase else { return };
        let why = why.clone();
        if self.s.current.is_some() {
            self.end_reload(why.outcome, why.reason);
            return;
        }
        match (reload.old_end.take(), reload.old) {
            (Some(end), _) => {
                self.end_reload(why.outcome, why.reason);
                self.service_ended(&end);
            }
            (None, Some(_)) => self.restore(why),
            (None, None) => {
                self.s.why.clone_from(&why.reason);
                self.end_reload(why.outcome, why.reason);
                if self.s.rest == Rest::Stopped {
                    self.s.rest = Rest::Failed;
                }
            }
        }
    }

    /// `replace` has failed: what served before is started again.
    fn restore(&mut self, why: GivenUp) {
        let Some(reload) = self.s.reload.as_mut() else { return };
        reload.phase = ReloadPhase::Restoring { why };
        let content = reload.old_content;
        let slot = self.free_slot();
        let number = self.launch(content, Kind::Full, slot);
        self.s.current = Some(number);
        self.begin_start(number);
    }

    /// `replace`: the old generation is gone.
    pub(super) fn old_is_gone(&mut self) {
        let Some(reload) = self.s.reload.as_ref() else { return };
        if self.s.current.is_some() {
            return;
        }
        match (&reload.phase, reload.content) {
            (ReloadPhase::StoppingOld, Some(content)) => self.launch_new(content),
            (ReloadPhase::RollingBack { why }, _) if reload.new.is_none() => {
                let why = why.clone();
                self.restore(why);
            }
            (
                ReloadPhase::StoppingOld
                | ReloadPhase::RollingBack { .. }
                | ReloadPhase::Loading(_)
                | ReloadPhase::Opening(_)
                | ReloadPhase::Binary { .. }
                | ReloadPhase::PreFlight { .. }
                | ReloadPhase::Command { .. }
                | ReloadPhase::AwaitReady { .. }
                | ReloadPhase::Starting
                | ReloadPhase::Soaking(_)
                | ReloadPhase::Restoring { .. },
                _,
            ) => {}
        }
    }

    /// Nothing was launched, and nothing will be.
    pub(super) fn fail_reload(&mut self, reason: String) {
        self.end_reload(Outcome::Failed, reason);
    }

    /// The reload is over: the history, the log, who waits, and the hooks.
    pub(super) fn end_reload(&mut self, outcome: Outcome, reason: String) {
        self.keep_state();
        let Some(mut reload) = self.s.reload.take() else { return };
        // What went well needs no reason but that of whoever asked.
        let reason = if reason.is_empty() { reload.asked.clone() } else { reason };
        self.abandon_work(&reload);
        if reload.shown {
            let seconds = self.now.since(self.s.since).as_secs_f64();
            reload.phases.push(PhaseTime { phase: self.s.shown.name().to_lowercase(), seconds });
        }
        let unit = self.unit(reload.content.unwrap_or(self.s.content));
        let relayed = reload.relayed.as_ref().filter(|relayed| relayed.result.is_ok());
        let record = ReloadRecord {
            outcome,
            reason: reason.clone(),
            asked: reload.asked.clone(),
            old_generation: reload.old.map(|g| g.0),
            new_generation: reload.launched.map(|g| g.0),
            strategy: strategy_name(unit.reload.strategy).into(),
            started_at: 0.0,
            duration: self.now.since(reload.began).as_secs_f64(),
            phases: reload.phases.clone(),
            shares: Vec::new(),
            state_bytes: relayed.map_or(0, |relayed| relayed.bytes),
            state_frames: relayed.map_or(0, |relayed| relayed.frames),
            state_descriptors: relayed.map_or(0, |relayed| relayed.descriptors),
            state_seconds: relayed.map_or(0.0, |relayed| relayed.took.as_secs_f64()),
            last_lines: Vec::new(),
        };
        self.record(record);
        if let Some(req) = reload.req {
            let result = CommandResult::Reload { outcome, reason: reason.clone() };
            self.push(Action::Reply { req, result });
        }
        for req in std::mem::take(&mut reload.enders) {
            let result = CommandResult::Done(format!("the reload has ended: {}", outcome.name()));
            self.push(Action::Reply { req, result });
        }
        self.start_hooks(HookRun::after(&reload, self.s.content, outcome, &reason));
    }

    fn record(&mut self, record: ReloadRecord) {
        let (outcome, reason) = (record.outcome, record.reason.clone());
        self.announce(Announcement::Reloaded { outcome, reason });
        self.s.last_reload = Some((record.clone(), self.now));
        self.push(Action::Record(record));
    }

    /// What still runs for a reload that is over, and belongs to no generation.
    fn abandon_work(&mut self, reload: &Reload) {
        match &reload.phase {
            ReloadPhase::PreFlight { proc, .. } | ReloadPhase::Command { proc, .. } => {
                let proc = *proc;
                if self.s.procs.iter().any(|owned| owned.proc == proc) {
                    self.push(Action::Signal { to: super::event::Target::ProcTree(proc), signal: SIGKILL });
                }
            }
            ReloadPhase::Loading(_)
            | ReloadPhase::Opening(_)
            | ReloadPhase::Binary { .. }
            | ReloadPhase::AwaitReady { .. }
            | ReloadPhase::StoppingOld
            | ReloadPhase::Starting
            | ReloadPhase::Soaking(_)
            | ReloadPhase::RollingBack { .. }
            | ReloadPhase::Restoring { .. } => {}
        }
    }

    /// A reload that never began.
    pub(super) fn refuse_reload(&mut self, asked: String, outcome: Outcome, reason: String) {
        let unit = self.unit(self.s.content);
        let record = ReloadRecord {
            outcome,
            reason,
            asked,
            old_generation: self.s.current.map(|g| g.0),
            new_generation: None,
            strategy: strategy_name(unit.reload.strategy).into(),
            started_at: 0.0,
            duration: 0.0,
            phases: Vec::new(),
            shares: Vec::new(),
            state_bytes: 0,
            state_frames: 0,
            state_descriptors: 0,
            state_seconds: 0.0,
            last_lines: Vec::new(),
        };
        let (outcome, reason) = (record.outcome, record.reason.clone());
        self.announce(Announcement::Reloaded { outcome, reason });
        self.push(Action::Record(record));
    }

    /// Adds the state that has just ended to the reload that it belonged to.
    pub(super) fn note_phase(&mut self, from: UnitState, lasted: Span) {
        let Some(reload) = self.s.reload.as_mut() else { return };
        if reload.shown {
            let seconds = lasted.as_secs_f64();
            reload.phases.push(PhaseTime { phase: from.name().to_lowercase(), seconds });
        }
        reload.shown = true;
    }

    /// A command wants the reload ended; it is answered when that has happened.
    pub(super) fn ender(&mut self, req: Option<Req>) {
        if let (Some(reload), Some(req)) = (self.s.reload.as_mut(), req) {
            reload.enders.push(req);
        }
    }
}
