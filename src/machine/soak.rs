//! A reload from readiness to its end: soak, promotion, rollback, and what is told to whom.

use super::event::{Action, Announcement, CommandResult, Exit, Gen, Outcome, ReloadRecord, Req, UnitState};
use super::model::{End, GivenUp, HookRun, Kind, Listens, Look, Place, Reload, Rest, Soak, Stage, Step};
use super::table::{NewDies, row};
use super::turn::{Follow, Turn};
use crate::proto::status::PhaseTime;
use crate::time::{Span, UNSEEN};
use crate::unit::Strategy;

/// How often is looked, while a soak of this length lasts, whether anybody is awake to see it; `None` for one without end.
fn pulse(soak: Span) -> Option<Span> {
    let part = Span(soak.0 / 8).max(Span::from_secs(1)).min(Span::from_secs(10));
    if soak.is_infinite() { None } else { Some(part) }
}

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
        let soak = Soak { began, until, step: 0, next: None, pulse: None, weight: 0 };
        if let Some(Stage::Beside { step, .. }) = self.s.reload.as_mut().map(|reload| &mut reload.stage) {
            *step = Step::Soaking(soak);
        }
        self.soak_step(0);
        self.begin_analysis();
    }

    /// Each step lasts its part of the soak from when it really began: an aeternad that comes late to one shortens
    /// none, and leaves none out.
    fn soak_step(&mut self, step: u32) {
        let Some(content) = self.s.reload.as_ref().and_then(|reload| reload.stage.content()) else { return };
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
            && let Stage::Beside { step: Step::Soaking(soak), .. } = &mut reload.stage
        {
            soak.step = step;
            soak.pulse = pulse(length).and_then(|every| now.after(every));
            soak.weight = weight;
            if !length.is_infinite() {
                let left = steps.saturating_sub(u64::from(step));
                soak.until = part(left);
                soak.next = if left > 1 { part(1) } else { None };
            }
        }
        self.steer();
    }

    /// Looks now and then while a soak lasts: time in which nobody was awake has tried nothing.
    fn soak_pulse(&mut self) {
        let now = self.now;
        let Some(content) = self.s.reload.as_ref().and_then(|reload| reload.stage.content()) else { return };
        let Some(every) = pulse(self.unit(content).reload.soak_time) else { return };
        let Some(Stage::Beside { step: Step::Soaking(soak), .. }) =
            self.s.reload.as_mut().map(|reload| &mut reload.stage)
        else {
            return;
        };
        let Some(due) = soak.pulse.filter(|due| *due <= now) else { return };
        soak.pulse = now.after(every);
        let late = now.since(due);
        if late <= UNSEEN {
            return;
        }
        let gap = Span(late.0.saturating_add(every.0));
        for end in [&mut soak.until, &mut soak.next].into_iter().flatten() {
            *end = *end + gap;
        }
        self.warn(format!(
            "aeternad itself was not awake for {:.1}s: the soak lasts that much longer",
            gap.as_secs_f64()
        ));
    }

    pub(super) fn tick_soak(&mut self) {
        self.soak_pulse();
        let Some(soak) = self.s.reload.as_ref().and_then(|reload| reload.stage.soak()) else { return };
        if soak.next.is_some_and(|next| next <= self.now) {
            let step = soak.step + 1;
            self.soak_step(step);
        } else if soak.until.is_some_and(|until| until <= self.now) {
            self.soak_is_over();
        } else {
            return self.tick_analysis();
        }
        self.tick_analysis();
    }

    /// The new generation is the serving one from now on; the old one drains.
    pub(super) fn promote(&mut self, reason: String) {
        self.end_analysis();
        let Some(Stage::Beside { content, new, .. }) = self.s.reload.as_ref().map(|reload| &reload.stage)
        else {
            return;
        };
        let (new, content) = (new.generation, *content);
        let old = self.s.current.filter(|old| *old != new);
        let timeout = self.unit(content).reload.drain_timeout;
        self.s.current = Some(new);
        self.s.last_number = new.0;
        self.s.attempt = 0;
        self.s.why.clear();
        self.s.pending.clear();
        self.promote_content(content);
        self.s.kept.ran(content, new);
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
        self.follow(Follow::OneMoreDrains);
    }

    pub(super) fn recheck_slots(&mut self) {
        for dirty in &mut self.s.dirty {
            dirty.look = Look::Wanted;
        }
    }

    pub(super) fn limit_draining(&mut self) {
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
        let soak = reload.stage.soak();
        let when = match row(&reload.stage).new_dies {
            NewDies::RollsBack(when) => when,
            NewDies::IsGone => {
                self.giver_is_lost();
                return self.stop_lost(number, false);
            }
            NewDies::Nobody => return,
        };
        let launched = self.s.generation(number).map(|g| g.launched);
        let since = soak.map(|soak| soak.began).or(launched).unwrap_or(self.now);
        let secs = self.now.since(since).as_secs_f64();
        let reason = if end.exit.is_some() || soak.is_some() {
            let hint = self.why_not_beside(number, end);
            format!("generation {} {} {when} (after {secs:.1}s){hint}", number.0, end.text)
        } else {
            format!("generation {} {}", number.0, end.text)
        };
        self.roll_back(Outcome::RolledBack, reason);
    }

    /// A program that ends by itself before it binds anything has perhaps found the one that serves: nobody would know.
    fn why_not_beside(&self, number: Gen, end: &End) -> String {
        let bound_nothing =
            self.s.generation(number).is_some_and(|g| g.is_starting() && g.listens == Listens::Nowhere);
        let by_itself = matches!(end.exit, Some(Exit::Code(_)));
        match self.s.serving().filter(|_| self.unit_of(number).service.intercept_bind) {
            Some(old) if bound_nothing && by_itself => format!(
                "; it had bound nothing yet: if it refuses to run beside generation {} (its own socket answers, a pid file, \
                 a lock), switch that off, or use Strategy = \"replace\" without InterceptBind",
                old.number.0
            ),
            Some(_) | None => String::new(),
        }
    }

    /// Gives up the launched generation. The old one has noticed nothing.
    pub(super) fn roll_back(&mut self, outcome: Outcome, reason: String) {
        self.end_analysis();
        let Some(reload) = self.s.reload.as_mut() else { return };
        self.s.why.clone_from(&reason);
        let Some(content) = reload.stage.content() else { return };
        let new = reload.stage.newcomer().copied();
        reload.stage = Stage::GivingUp { content, new, why: GivenUp { outcome, reason } };
        let new = new.map(|new| new.generation);
        if let Some(generation) = reload.launched.filter(|_| outcome == Outcome::RolledBack) {
            let why = self.s.why.clone();
            self.push(Action::GaveUp { generation, why });
        }
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
        let Stage::GivingUp { new, why, .. } = &mut reload.stage else { return };
        *new = None;
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
        let Some(content) = reload.stage.content() else { return };
        reload.stage = Stage::Restoring { content, why };
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
        match &reload.stage {
            Stage::StoppingOld { content } => self.launch_new(*content),
            Stage::GivingUp { new: None, why, .. } => {
                let why = why.clone();
                self.restore(why);
            }
            Stage::GivingUp { .. }
            | Stage::Before(_)
            | Stage::Told { .. }
            | Stage::Beside { .. }
            | Stage::Restoring { .. } => {}
        }
    }

    /// Nothing was launched, and nothing will be.
    pub(super) fn fail_reload(&mut self, reason: String) {
        self.end_reload(Outcome::Failed, reason);
    }

    /// The reload is over: the history, the log, who waits, and the hooks.
    pub(super) fn end_reload(&mut self, outcome: Outcome, reason: String) {
        self.keep_state();
        self.end_analysis();
        let checks = self.check_statuses();
        let Some(mut reload) = self.s.reload.take() else { return };
        // What went well needs no reason but that of whoever asked.
        let reason = if reason.is_empty() { reload.asked.clone() } else { reason };
        self.abandon_work(&reload);
        if reload.shown {
            let seconds = self.now.since(self.s.since).as_secs_f64();
            reload.phases.push(PhaseTime { phase: self.s.shown.name().to_lowercase(), seconds });
        }
        let unit = self.unit(reload.stage.content().unwrap_or(self.s.content));
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
            checks,
            usage: None,
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
        for req in std::mem::take(&mut reload.waiters) {
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
        if let Some(proc) = reload.stage.process()
            && self.s.procs.iter().any(|owned| owned.proc == proc)
        {
            self.sweep(proc);
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
            checks: Vec::new(),
            usage: None,
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
    pub(super) fn waits_for_end(&mut self, req: Option<Req>) {
        if let (Some(reload), Some(req)) = (self.s.reload.as_mut(), req) {
            reload.waiters.push(req);
        }
    }
}
