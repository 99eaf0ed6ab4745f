//! Looking at the machine: the unit's state, its next deadline, and the snapshot for people.

use super::event::{Gen, Summary, UnitState};
use super::model::{Contents, Course, Generation, HookRun, Phase, Place, Reload, Rest, State, Watch};
use super::table::{Why, row};
use super::turn::Turn;
use super::verdicts;
use crate::proto::status::{CheckStatus, GenerationStatus, HandoverStatus, LastReload, UnitStatus};
use crate::time::{Monotime, Span};
use crate::unit::StartOn;

impl State {
    /// The unit's state, which follows from everything else and is kept nowhere.
    pub(super) fn state(&self) -> UnitState {
        match self.course() {
            Course::Down { done: true } => UnitState::Stopped,
            Course::Down { done: false } | Course::Ending => UnitState::Stopping,
            Course::Reloading(reload) => row(&reload.stage).shown,
            Course::Starting => UnitState::Starting,
            Course::Serving if self.generations.iter().any(|g| self.place(g.number) == Place::Draining) => {
                UnitState::Draining
            }
            Course::Serving => UnitState::Running,
            Course::Resting(Rest::Pending) => UnitState::Pending,
            Course::Resting(Rest::Listening) => UnitState::Listening,
            Course::Resting(Rest::Backoff { .. }) => UnitState::Backoff,
            Course::Resting(_) if !self.generations.is_empty() => UnitState::Stopping,
            Course::Resting(Rest::Stopped) => UnitState::Stopped,
            Course::Resting(Rest::Failed) => UnitState::Failed,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Monotime> {
        let generations = self.generations.iter().filter_map(Generation::next_deadline);
        let reload = self.reload.as_ref().and_then(|reload| reload.stage.next_deadline());
        let rest = Turn::backoff_runs(self).map(|(until, _)| until);
        let watch = match self.watch {
            Watch::Paused(until) => Some(until),
            Watch::Off | Watch::Armed => None,
        };
        let idle = self.idle.and_then(|idle| idle.next);
        let hooks = self.hooks.front().and_then(HookRun::next_deadline);
        let handover = self.reload.as_ref().and_then(|reload| reload.stage.handover()?.next_deadline());
        let judging = self.reload.as_ref().and_then(|reload| reload.judging.as_ref()?.next_deadline());
        let others = [handover, judging, reload, rest, watch, idle, hooks];
        let killed = self.procs.iter().filter_map(|owned| owned.until);
        generations.chain(killed).chain(others.into_iter().flatten()).min()
    }

    pub(super) fn summary(&self, start_on: StartOn) -> Summary {
        let alive = !self.generations.is_empty() || !self.procs.is_empty();
        Summary {
            state: self.shown,
            alive,
            settled: self.settled,
            ended: self.ended.filter(|_| !alive && self.reload.is_none()),
            boot: start_on == StartOn::Boot,
            reloading: self.reload.is_some(),
        }
    }

    pub(super) fn status(&self, contents: &Contents, now: Monotime) -> UnitStatus {
        let unit = &contents.get(self.content).unit;
        let restart_in = Turn::backoff_runs(self).map(|(until, _)| until.since(now).as_secs_f64());
        let main_pids =
            self.current.and_then(|g| self.generation(g)).map(Generation::pids).unwrap_or_default();
        UnitStatus {
            name: unit.name.clone(),
            description: unit.description.clone(),
            file: String::new(),
            state: self.shown,
            reloading: self.reload.is_some(),
            why: self.why_now(now),
            since: now.since(self.since).as_secs_f64(),
            generation: self.current.map_or(self.last_number, |g| g.0),
            main_pids,
            generations: self.generations.iter().map(|g| self.generation_status(contents, g, now)).collect(),
            sockets: Vec::new(),
            last_reload: self.last_reload.as_ref().map(|(record, ended)| LastReload {
                outcome: record.outcome,
                reason: record.reason.clone(),
                ago: now.since(*ended).as_secs_f64(),
                duration: record.duration,
                phases: record.phases.clone(),
            }),
            last_handover: self.last_handover.as_ref().map(|(relayed, at)| HandoverStatus {
                status: if relayed.result.is_ok() { "success" } else { "failed" }.into(),
                // The shell makes a date of it: here it is how long ago.
                timestamp: now.since(*at).as_secs_f64(),
                size_bytes: relayed.bytes,
                frames: relayed.frames,
                descriptors: relayed.descriptors,
                duration: relayed.took.as_secs_f64(),
            }),
            soak_ends_in: self.soak_ends().map(|until| until.since(now).as_secs_f64()),
            restarts: self.restarts,
            restart_in,
            stored_descriptors: 0,
            pending: self.pending.clone(),
            notes: Vec::new(),
            analysis: self.analysis_status(contents),
            releases: Vec::new(),
            last_lines: Vec::new(),
        }
    }

    /// When the soak that is under way ends by itself.
    fn soak_ends(&self) -> Option<Monotime> {
        self.reload.as_ref()?.stage.soak()?.until
    }

    /// The checks of the soak that is under way.
    fn analysis_status(&self, contents: &Contents) -> Vec<CheckStatus> {
        let soaking = |reload: &&Reload| reload.stage.soak().is_some();
        self.reload
            .as_ref()
            .filter(soaking)
            .map_or_else(Vec::new, |reload| verdicts::statuses(reload, contents))
    }

    /// Why the unit is in its state. What was said before a reload is not about the reload.
    pub(super) fn why_now(&self, now: Monotime) -> String {
        let Some(reload) = self.reload.as_ref().filter(|_| self.down.is_none()) else {
            return self.why.clone();
        };
        match row(&reload.stage).why {
            Why::Given => self.why.clone(),
            Why::Soak => match self.soak_ends() {
                Some(until) => format!("the soak ends in {}", whole_seconds(until.since(now))),
                None => "the soak lasts until it is promoted or rolled back".into(),
            },
            Why::Nothing => String::new(),
        }
    }

    fn generation_status(&self, contents: &Contents, g: &Generation, now: Monotime) -> GenerationStatus {
        GenerationStatus {
            number: g.number.0,
            phase: self.phase_word(g).into(),
            pids: g.pids(),
            weight: Turn::weight_of(self, g.number),
            share: None,
            age: now.since(g.launched).as_secs_f64(),
            ready: g.ready_at.is_some(),
            status_text: g.status_text.clone(),
            connections: None,
            flows: None,
            kill_in: g.kill_at().map(|at| at.since(now).as_secs_f64()),
            content: format!("{:016x}", contents.get(g.content).hash),
            program_is_newer: None,
            usage: crate::proto::status::Usage::default(),
        }
    }

    fn phase_word(&self, g: &Generation) -> &'static str {
        match self.place(g.number) {
            Place::Instance => "instance",
            Place::Rescue => "rescue",
            Place::Draining if self.is_down() => "stopping",
            Place::Draining => "draining",
            Place::New => self.reload.as_ref().map_or("starting", |reload| row(&reload.stage).new_is),
            Place::Current => match g.phase {
                Phase::Starting { .. } => "starting",
                Phase::Up => "serving",
                Phase::Quiescing { .. } | Phase::Stopping { .. } => "stopping",
            },
        }
    }
}

impl Turn<'_> {
    /// A deadline may have passed.
    pub(super) fn tick(&mut self) {
        let of_a_generation: [fn(&mut Self, Gen); 5] =
            [Self::tick_start, Self::tick_health, Self::tick_workers, Self::tick_quiesce, Self::tick_stop];
        for number in self.numbers() {
            for rule in of_a_generation {
                rule(self, number);
                self.follow_up();
            }
        }
        let of_the_unit: [fn(&mut Self); 6] = [
            Self::tick_reload,
            Self::tick_handover,
            Self::tick_rest,
            Self::tick_idle,
            Self::tick_hooks,
            Self::tick_procs,
        ];
        for rule in of_the_unit {
            rule(self);
            self.follow_up();
        }
    }
}

/// In whole seconds from a second on: nobody counts the rest.
fn whole_seconds(span: Span) -> Span {
    const SECOND: u64 = 1_000_000_000;
    match span.0 {
        0..SECOND => Span(span.0.div_ceil(1_000_000) * 1_000_000),
        u64::MAX => span,
        more => Span(more.saturating_add(SECOND / 2) / SECOND * SECOND),
    }
}
