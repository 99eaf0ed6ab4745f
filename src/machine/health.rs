//! Health checks of a generation: before it is ready, while it soaks, and always where that is asked for.

use super::event::{Announcement, Gen, ProbeKind, ProbeResult, Proc, Question, Role, Ticket};
use super::model::{Asked, End, HealthStep, Phase, Place, StartStep, Word};
use super::turn::{Follow, Turn};
use crate::time::Span;
use crate::unit::{Check, HealthCheck, ServiceType};

/// How often a check is repeated at the most, whatever `Interval` says.
const AT_MOST_EVERY: Span = Span::from_millis(10);
/// A probe that another generation answered is repeated after 1, 2, 4 … ms, up to this.
const AGAIN_AT_MOST: Span = Span::from_millis(50);
/// How long after it has accepted one connection a generation that knows nothing of us is asked for another: by then its
/// loop has come round, and one that waits on another socket than the one that it was given has nothing to tell it.
const SECOND_LOOK: Span = Span::from_millis(100);
/// Before readiness a check is repeated at least this often.
const BEFORE_READY: Span = Span::from_secs(1);

impl Turn<'_> {
    fn set_health(&mut self, number: Gen, step: HealthStep) {
        if let Some(generation) = self.s.generation_mut(number) {
            generation.health.step = step;
        }
    }

    /// Begins to check a generation that is otherwise ready. False if nothing is to be checked.
    pub(super) fn begin_health(&mut self, number: Gen) -> bool {
        let unit = self.unit_of(number);
        if let Some(check) = &unit.health {
            if check.initial_delay.is_zero() {
                self.probe(number);
            } else {
                self.set_health(number, HealthStep::Waiting(self.now + check.initial_delay));
            }
            return true;
        }
        let silent = matches!(unit.service.service_type, ServiceType::Simple | ServiceType::Exec);
        if silent && self.s.place(number) == Place::New && self.steered_stream_name(number).is_some() {
            self.probe(number);
            return true;
        }
        false
    }

    fn probe(&mut self, number: Gen) {
        let unit = self.unit_of(number);
        match unit.health.as_ref().map(|health| (&health.check, health.timeout)) {
            Some((Check::Exec(_), timeout)) => {
                let proc = self.spawn_for(number, Role::Health, Vec::new());
                let deadline = self.now.after(timeout);
                self.set_health(number, HealthStep::Running { proc, deadline });
            }
            Some((Check::HttpGet(_) | Check::TcpConnect(_), _)) => self.send_probe(number, ProbeKind::Health),
            None => self.send_probe(number, ProbeKind::Accepts),
        }
    }

    fn send_probe(&mut self, number: Gen, kind: ProbeKind) {
        let ticket = self.ask(Question::Probe { generation: number, kind });
        let now = self.now;
        if let Some(generation) = self.s.generation_mut(number) {
            generation.health.step = HealthStep::Probing(Asked { ticket, what: kind });
            generation.health.since = now;
        }
    }

    pub(super) fn probed(&mut self, ticket: Ticket, number: Gen, result: ProbeResult) {
        let Some(health) = self.s.generation(number).map(|g| &g.health) else { return };
        if !matches!(health.step, HealthStep::Probing(asked) if asked.ticket == ticket) {
            return;
        }
        let timeout = self.unit_of(number).health.as_ref().map_or(BEFORE_READY, |health| health.timeout);
        let end = health.since.after(timeout);
        let unseen = end.is_some_and(|end| self.is_unseen(end));
        let says_nothing = unseen && matches!(result, ProbeResult::Fail(_) | ProbeResult::TimedOut);
        let why = || "aeternad itself was not awake meanwhile".into();
        self.health_result(number, if says_nothing { ProbeResult::NotMade(why()) } else { result });
    }

    pub(super) fn health_ended(&mut self, number: Gen, proc: Proc, end: &End) {
        let Some(step) = self.s.generation(number).map(|g| g.health.step) else { return };
        match step {
            HealthStep::Running { proc: running, .. } if running == proc => {
                let result = if end.is_success() {
                    ProbeResult::Pass
                } else if end.result == Word::Exhausted {
                    ProbeResult::NotMade(format!("the health check {}", end.text))
                } else {
                    ProbeResult::Fail(format!("the health check {}", end.text))
                };
                self.health_result(number, result);
            }
            HealthStep::Overdue(running) if running == proc => {
                self.health_result(number, ProbeResult::TimedOut)
            }
            HealthStep::Running { .. }
            | HealthStep::Overdue(_)
            | HealthStep::Off
            | HealthStep::Waiting(_)
            | HealthStep::Probing(_) => {}
        }
    }

    /// A generation that is stopped is not checked any more.
    pub(super) fn kill_health_check(&mut self, number: Gen) {
        let proc = self.s.generation(number).and_then(|g| g.health.process());
        if let Some(proc) = proc {
            self.set_health(number, HealthStep::Off);
            self.sweep(proc);
        }
    }

    fn health_result(&mut self, number: Gen, result: ProbeResult) {
        let (word, detail) = match &result {
            ProbeResult::Pass => ("pass", String::new()),
            ProbeResult::Fail(why) => ("fail", why.clone()),
            ProbeResult::TimedOut => ("timeout", "no answer within Timeout".into()),
            ProbeResult::Unattributed => {
                ("unattributed", "it passed, but who answered cannot be seen from here".into())
            }
            ProbeResult::NeverReached => ("never_reached", "another generation answered".into()),
            ProbeResult::NotMade(why) => ("not_made", why.clone()),
        };
        self.announce(Announcement::Health { generation: number, result: word, detail: detail.clone() });
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        generation.health.step = HealthStep::Off;
        // A miss says nothing of the generation: what it answered itself before is what people must read.
        if result != ProbeResult::NeverReached || generation.health.last.is_empty() {
            generation.health.last = detail;
        }
        let checking = matches!(generation.phase, Phase::Starting { step: StartStep::Checking, .. });
        let up = matches!(generation.phase, Phase::Up);
        let passed = match result {
            ProbeResult::Pass | ProbeResult::Unattributed => true,
            ProbeResult::Fail(_) | ProbeResult::TimedOut => false,
            ProbeResult::NeverReached if checking || up => {
                let pause = Span::from_millis(1 << generation.health.misses.min(6)).min(AGAIN_AT_MOST);
                generation.health.misses += 1;
                generation.health.step = HealthStep::Waiting(now + pause);
                return;
            }
            ProbeResult::NotMade(_) if checking || up => {
                let interval = interval(self.unit_of(number).health.as_ref());
                self.set_health(number, HealthStep::Waiting(now + interval.min(BEFORE_READY)));
                return;
            }
            ProbeResult::NeverReached | ProbeResult::NotMade(_) => return,
        };
        generation.health.misses = 0;
        if checking {
            self.checked_before_ready(number, passed);
        } else if up {
            self.checked_after_ready(number, passed);
        }
    }

    fn checked_before_ready(&mut self, number: Gen, passed: bool) {
        let unit = self.unit_of(number);
        let adopted = unit.health.is_none() && unit.service.intercept_bind;
        let threshold =
            unit.health.as_ref().map_or(if adopted { 2 } else { 1 }, |health| health.success_threshold);
        let interval = if adopted { SECOND_LOOK } else { interval(unit.health.as_ref()) };
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let health = &mut generation.health;
        if !passed {
            health.passes = 0;
            health.step = HealthStep::Waiting(now + interval.min(BEFORE_READY));
            return;
        }
        health.passes += 1;
        health.accepted = true;
        if health.passes < threshold {
            health.step = HealthStep::Waiting(now + interval);
            return;
        }
        self.become_ready(number);
        self.keep_checking(number);
    }

    /// Whether a ready generation is checked: while it soaks, and with `Always`.
    fn keep_checking(&mut self, number: Gen) {
        let unit = self.unit_of(number);
        let Some(health) = &unit.health else { return };
        let wanted = match self.s.place(number) {
            Place::New => true,
            Place::Current => health.always,
            Place::Draining | Place::Rescue | Place::Instance => false,
        };
        let up = self.s.generation(number).is_some_and(|g| matches!(g.phase, Phase::Up));
        if wanted && up {
            self.set_health(number, HealthStep::Waiting(self.now + interval(Some(health))));
        }
    }

    /// The soak is over: only `Always` goes on.
    pub(super) fn check_after_promotion(&mut self, number: Gen) {
        let always = self.unit_of(number).health.as_ref().is_some_and(|health| health.always);
        let Some(generation) = self.s.generation_mut(number) else { return };
        generation.health.fails = 0;
        if !always {
            generation.health.stop();
            self.kill_health_check(number);
        }
    }

    fn checked_after_ready(&mut self, number: Gen, passed: bool) {
        let unit = self.unit_of(number);
        let Some(check) = &unit.health else { return };
        let place = self.s.place(number);
        // While a reload is under way the old generation is left alone.
        let counts = place == Place::New || self.s.reload.is_none();
        let Some(generation) = self.s.generation_mut(number) else { return };
        generation.health.fails = if passed || !counts { 0 } else { generation.health.fails + 1 };
        if generation.health.fails < check.failure_threshold {
            self.keep_checking(number);
            return;
        }
        let text =
            format!("failed {} health checks in a row: {}", check.failure_threshold, generation.health.last);
        self.follow(Follow::MainsDead(number, End::given_up(Word::Health, text)));
    }

    /// What a start that ran out of time waited for.
    pub(super) fn why_not_healthy(&self, number: Gen) -> String {
        let last = self.s.generation(number).map(|g| g.health.last.clone()).unwrap_or_default();
        if self.unit_of(number).health.is_none()
            && let Some(name) = self.steered_stream_name(number)
        {
            if self.s.generation(number).is_some_and(|g| g.health.accepted) {
                return format!(
                    "it accepted a connection on {name} once and then no other: it waits on another socket than that one"
                );
            }
            return format!("it never accepted a connection on {name}");
        }
        if last.is_empty() {
            return "its health check has not passed".into();
        }
        format!("its health check has not passed: {last}")
    }

    pub(super) fn tick_health(&mut self, number: Gen) {
        let Some(generation) = self.s.generation(number) else { return };
        let checked =
            matches!(generation.phase, Phase::Up | Phase::Starting { step: StartStep::Checking, .. });
        match generation.health.step {
            HealthStep::Waiting(at) if at <= self.now && checked => self.probe(number),
            HealthStep::Waiting(at) if at <= self.now => self.set_health(number, HealthStep::Off),
            HealthStep::Running { proc, deadline: Some(deadline) } if deadline <= self.now => {
                if self.is_unseen(deadline)
                    && let Some(check) = &self.unit_of(number).health
                {
                    let deadline = self.now.after(check.timeout);
                    return self.set_health(number, HealthStep::Running { proc, deadline });
                }
                self.set_health(number, HealthStep::Overdue(proc));
                self.sweep(proc);
            }
            HealthStep::Waiting(_)
            | HealthStep::Running { .. }
            | HealthStep::Off
            | HealthStep::Probing(_)
            | HealthStep::Overdue(_) => {}
        }
    }
}

fn interval(health: Option<&HealthCheck>) -> Span {
    health.map_or(BEFORE_READY, |health| health.interval).max(AT_MOST_EVERY)
}
