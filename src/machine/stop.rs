//! The stop sequence of one generation: `ExecStop`, `KillSignal`, `FinalKillSignal`, `ExecStopPost`, gone.

use super::event::{Action, Gen, Proc, Role, Target};
use super::model::{
    AfterKill, Clock, End, Phase, SIGCONT, SIGHUP, SIGKILL, StopPlan, StopStep, Word, last_patience,
};
use super::turn::{Follow, Turn};
use crate::time::Span;
use crate::unit::KillMode;

/// It is said that what was killed does not end when the final signal is sent for the third time: after 3 s.
const TELL_AFTER: Span = Span::from_secs(2);

impl Turn<'_> {
    pub(super) fn stop_timeout(&self, number: Gen) -> Clock {
        Clock::Each(self.unit_of(number).service.timeout_stop)
    }

    /// Begins to stop a generation, or hurries a stop that has begun.
    pub(super) fn begin_stop(&mut self, number: Gen, clock: Clock) {
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let exec_stop = generation.ready_at.is_some();
        if let Phase::Stopping { plan, step } = &mut generation.phase {
            plan.clock = plan.clock.sooner(now, clock);
            let limit = clock.deadline(now);
            if let StopStep::Signalled { deadline } | StopStep::Exec { deadline, .. } = step
                && let Some(limit) = limit
            {
                *deadline = Some(deadline.map_or(limit, |deadline| deadline.min(limit)));
            }
            return;
        }
        self.run_stop(number, StopPlan { clock, exec_stop });
    }

    /// The generation's mains are gone, or never came up: cleans up after it.
    pub(super) fn stop_lost(&mut self, number: Gen, exec_stop: bool) {
        // It may be gone already: a stop that leaves the rest alone ends with the main process.
        if self.s.generation(number).is_none_or(|g| matches!(g.phase, Phase::Stopping { .. })) {
            return;
        }
        if self.is_killed_whole(number) {
            return self.kill_early(number);
        }
        let clock = self.stop_timeout(number);
        self.run_stop(number, StopPlan { clock, exec_stop });
    }

    /// STOPPING=1: it goes by itself.
    pub(super) fn stops_by_itself(&mut self, number: Gen) {
        let clock = self.stop_timeout(number);
        let deadline = clock.deadline(self.now);
        let plan = StopPlan { clock, exec_stop: false };
        self.disarm(number);
        self.set_stop(number, StopStep::Signalled { deadline }, plan);
    }

    fn disarm(&mut self, number: Gen) {
        let Some(generation) = self.s.generation_mut(number) else { return };
        generation.health.stop();
        for worker in &mut generation.workers {
            worker.watchdog = None;
            worker.again = None;
            worker.up_by = None;
            worker.doomed = worker.doomed.take().filter(|doom| doom.word == Word::Watchdog);
            if let Some(doom) = worker.doomed.as_mut() {
                doom.kill_at = None;
            }
        }
    }

    pub(super) fn run_stop(&mut self, number: Gen, plan: StopPlan) {
        self.disarm(number);
        self.kill_health_check(number);
        if let Some(generation) = self.s.generation_mut(number) {
            generation.spared = false;
        }
        if plan.exec_stop {
            self.stop_command(number, 0, plan);
        } else {
            self.stop_signals(number, plan);
        }
        self.stop_progress(number);
    }

    fn set_stop(&mut self, number: Gen, step: StopStep, plan: StopPlan) {
        if let Some(generation) = self.s.generation_mut(number) {
            generation.phase = Phase::Stopping { step, plan };
        }
    }

    fn stop_command(&mut self, number: Gen, index: u32, plan: StopPlan) {
        let unit = self.unit_of(number);
        if unit.service.exec_stop.len() > index as usize {
            let proc = self.spawn_for(number, Role::Stop(index), Vec::new());
            let deadline = plan.clock.deadline(self.now);
            self.set_stop(number, StopStep::Exec { index, proc, deadline }, plan);
        } else {
            self.stop_signals(number, plan);
        }
    }

    pub(super) fn stop_command_ended(&mut self, number: Gen, ended: u32, of: Proc) {
        if let Some(Phase::Stopping { step: StopStep::Exec { index, proc, .. }, plan }) = self.phase(number)
            && index == ended
            && proc == of
        {
            self.stop_command(number, index + 1, plan);
        }
    }

    fn phase(&self, number: Gen) -> Option<Phase> {
        self.s.generation(number).map(|g| g.phase.clone())
    }

    /// The polite signal, to whom `KillMode` says.
    fn stop_signals(&mut self, number: Gen, plan: StopPlan) {
        let deadline = plan.clock.deadline(self.now);
        self.set_stop(number, StopStep::Signalled { deadline }, plan);
        let Some(generation) = self.s.generation(number) else { return };
        if generation.empty {
            return;
        }
        let lives = generation.lives();
        let unit = self.unit_of(number);
        match unit.service.kill_mode {
            KillMode::ControlGroup => self.send_stop(number, Target::Everyone(number)),
            KillMode::Mixed | KillMode::Process => {
                if lives {
                    self.send_stop(number, Target::Mains(number));
                }
                for control in self.controls(number) {
                    self.send_stop(number, Target::ProcTree(control));
                }
            }
        }
    }

    /// The control commands and checks of a generation that run.
    fn controls(&self, number: Gen) -> Vec<Proc> {
        let mains =
            self.s.generation(number).map(|g| g.workers.iter().filter_map(|w| w.proc).collect::<Vec<_>>());
        let mains = mains.unwrap_or_default();
        self.s.procs_of(number).map(|owned| owned.proc).filter(|proc| !mains.contains(proc)).collect()
    }

    fn send_stop(&mut self, number: Gen, to: Target) {
        let unit = self.unit_of(number);
        let service = &unit.service;
        self.push(Action::Signal { to, signal: service.kill_signal });
        if service.kill_signal != SIGKILL && service.kill_signal != SIGCONT {
            // A process that is stopped (SIGSTOP) would never see the signal before it.
            self.push(Action::Signal { to, signal: SIGCONT });
        }
        if service.send_sighup && service.kill_signal != SIGHUP {
            self.push(Action::Signal { to, signal: SIGHUP });
        }
    }

    /// The tree is empty.
    pub(super) fn emptied(&mut self, number: Gen) {
        let asked = self.s.procs_of(number).next().is_some();
        if self.s.procs_of(number).any(|owned| owned.pid.is_some()) {
            return;
        }
        let Some(generation) = self.s.generation_mut(number) else { return };
        // A process that was asked for and not answered yet may still come to nothing.
        generation.had_process = false;
        generation.empty = !asked;
        self.stop_progress(number);
    }

    /// Goes on with a stop as soon as what it waits for is there.
    pub(super) fn stop_progress(&mut self, number: Gen) {
        let Some(Phase::Stopping { step, plan }) = self.phase(number) else { return };
        let Some(generation) = self.s.generation(number) else { return };
        let (empty, lives) = (generation.empty, generation.lives());
        let mode = self.unit_of(number).service.kill_mode;
        let quiet = empty || (mode == KillMode::Process && !lives && self.controls(number).is_empty());
        match step {
            StopStep::Exec { .. } | StopStep::Post { .. } => {}
            StopStep::Signalled { .. } if quiet => self.stop_post(number, 0, plan),
            StopStep::Signalled { .. } => {
                if mode == KillMode::Mixed && !lives && self.controls(number).is_empty() {
                    self.kill(number, plan, AfterKill::StopPost);
                }
            }
            StopStep::Killed { then, .. } if quiet => match then {
                AfterKill::StopPost => self.stop_post(number, 0, plan),
                AfterKill::Gone => self.follow(Follow::CleanedUp(number)),
            },
            StopStep::Killed { .. } => {}
        }
    }

    /// The final signal; without `SendSIGKILL` what is left stays.
    fn kill(&mut self, number: Gen, plan: StopPlan, then: AfterKill) {
        let unit = self.unit_of(number);
        if !unit.service.send_sigkill {
            self.warn(format!(
                "processes of generation {} are left alone (SendSIGKILL=false) though they did not end",
                number.0
            ));
            match then {
                AfterKill::StopPost => self.stop_post(number, 0, plan),
                AfterKill::Gone => self.follow(Follow::CleanedUp(number)),
            }
            return;
        }
        self.kill_with(number, plan, then, unit.service.final_kill_signal);
    }

    fn kill_with(&mut self, number: Gen, plan: StopPlan, then: AfterKill, signal: i32) {
        self.set_killed(number, plan, then);
        self.send_final(number, signal);
    }

    fn set_killed(&mut self, number: Gen, plan: StopPlan, then: AfterKill) {
        let pause = Span::from_secs(1);
        let until = self.now.after(last_patience(&self.unit_of(number).service));
        self.set_stop(number, StopStep::Killed { again: self.now + pause, pause, until, then }, plan);
    }

    fn send_final(&mut self, number: Gen, signal: i32) {
        let mode = self.unit_of(number).service.kill_mode;
        match mode {
            KillMode::ControlGroup | KillMode::Mixed => {
                self.push(Action::Signal { to: Target::Everyone(number), signal });
            }
            KillMode::Process => {
                self.push(Action::Signal { to: Target::Mains(number), signal });
                for control in self.controls(number) {
                    self.push(Action::Signal { to: Target::ProcTree(control), signal });
                }
            }
        }
    }

    /// Whether everything of it was killed already, and at most cleaning up after it is left.
    pub(super) fn is_killed(&self, number: Gen) -> bool {
        self.s.generation(number).is_some_and(|g| match &g.phase {
            Phase::Stopping { step, .. } => {
                matches!(step, StopStep::Killed { .. } | StopStep::Post { .. })
            }
            Phase::Starting { .. } | Phase::Up | Phase::Quiescing { .. } => false,
        })
    }

    /// It has drained for long enough: SIGKILL, and `ExecStopPost` when it is gone.
    pub(super) fn kill_early(&mut self, number: Gen) {
        self.disarm(number);
        self.kill_health_check(number);
        let plan = StopPlan { clock: Clock::Until(Some(self.now)), exec_stop: false };
        self.kill_with(number, plan, AfterKill::StopPost, SIGKILL);
        self.stop_progress(number);
    }

    /// No more waiting: SIGKILL to everything of it, and no `ExecStopPost`.
    pub(super) fn kill_now(&mut self, number: Gen) {
        self.disarm(number);
        let plan = StopPlan { clock: Clock::Until(Some(self.now)), exec_stop: false };
        self.set_killed(number, plan, AfterKill::Gone);
        self.push(Action::Signal { to: Target::Everyone(number), signal: SIGKILL });
        self.stop_progress(number);
    }

    fn stop_post(&mut self, number: Gen, index: u32, plan: StopPlan) {
        let unit = self.unit_of(number);
        if unit.service.exec_stop_post.len() > index as usize {
            let end = self.s.generation(number).and_then(|g| {
                g.end.clone().or_else(|| g.workers.iter().rev().find_map(|worker| worker.end.clone()))
            });
            let stopped = || End { code: 0, ..End::given_up(Word::Success, String::new()) };
            // A stop that was asked for is a success, however the service took it.
            let asked = self.s.generation(number).is_some_and(|g| g.end.is_none());
            let end = end
                .map_or_else(stopped, |end| if asked { End { result: Word::Success, ..end } } else { end });
            let proc = self.spawn_for(number, Role::StopPost(index), end.environment());
            let deadline = self.now.after(unit.service.timeout_stop);
            self.set_stop(number, StopStep::Post { index, proc, deadline }, plan);
            return;
        }
        let leftovers = index > 0
            && self.s.generation(number).is_some_and(|g| !g.empty && !g.given_up)
            && unit.service.kill_mode != KillMode::Process
            && unit.service.send_sigkill;
        if leftovers {
            self.kill_with(number, plan, AfterKill::Gone, SIGKILL);
        } else {
            self.follow(Follow::CleanedUp(number));
        }
    }

    pub(super) fn stop_post_ended(&mut self, number: Gen, ended: u32, of: Proc) {
        if let Some(Phase::Stopping { step: StopStep::Post { index, proc, .. }, plan }) = self.phase(number)
            && index == ended
            && proc == of
        {
            self.stop_post(number, index + 1, plan);
        }
    }

    pub(super) fn tick_stop(&mut self, number: Gen) {
        let Some(Phase::Stopping { step, plan }) = self.phase(number) else { return };
        let Some(deadline) = step.deadline().filter(|deadline| *deadline <= self.now) else { return };
        if self.is_unseen(deadline) && self.once_more(number) {
            return self.stop_once_more(number, step, plan);
        }
        match step {
            StopStep::Exec { proc, .. } => {
                self.warn(format!("ExecStop of generation {} did not end in time and is killed", number.0));
                self.sweep(proc);
                let rest = StopPlan { exec_stop: false, ..plan };
                self.stop_signals(number, rest);
                self.stop_progress(number);
            }
            StopStep::Signalled { .. } => {
                let timed_out =
                    || End::given_up(Word::Timeout, "did not end in time after it was told to".into());
                if let Some(generation) = self.s.generation_mut(number) {
                    generation.end.get_or_insert_with(timed_out);
                }
                self.kill(number, plan, AfterKill::StopPost);
                self.stop_progress(number);
            }
            StopStep::Killed { until, then, .. } if until.is_some_and(|until| until <= self.now) => {
                self.give_up(number, plan, then);
            }
            StopStep::Killed { pause, until, then, .. } => {
                if pause == TELL_AFTER {
                    self.push(Action::Lingers(Target::Everyone(number)));
                }
                let pause = Span(pause.0.saturating_mul(2)).min(Span::from_secs(30));
                let again = self.now + pause;
                self.set_stop(number, StopStep::Killed { again, pause, until, then }, plan);
                // The configured signal has had its chance; nothing outlives this one.
                self.send_final(number, SIGKILL);
            }
            StopStep::Post { index, proc, .. } => {
                self.warn(format!(
                    "ExecStopPost of generation {} did not end in time and is killed",
                    number.0
                ));
                self.sweep(proc);
                self.set_stop(number, StopStep::Post { index, proc, deadline: None }, plan);
            }
        }
    }

    /// aeternad was not awake when the time was over, and perhaps nobody was: the same time again.
    fn stop_once_more(&mut self, number: Gen, step: StopStep, plan: StopPlan) {
        let unit = self.unit_of(number);
        let again = match plan.clock {
            Clock::Each(span) => span,
            Clock::Until(_) => unit.reload.drain_timeout,
        };
        let deadline = self.now.after(again);
        let plan = match plan.clock {
            Clock::Each(_) => plan,
            Clock::Until(_) => StopPlan { clock: Clock::Until(deadline), ..plan },
        };
        let step = match step {
            StopStep::Exec { index, proc, .. } => StopStep::Exec { index, proc, deadline },
            StopStep::Signalled { .. } => StopStep::Signalled { deadline },
            StopStep::Post { index, proc, .. } => StopStep::Post { index, proc, deadline },
            StopStep::Killed { pause, then, .. } => {
                let until = self.now.after(last_patience(&unit.service));
                StopStep::Killed { again: self.now + pause, pause, until, then }
            }
        };
        self.set_stop(number, step, plan);
    }

    /// Nothing that can be sent ends what is left: in the kernel for ever, frozen, or not ours to signal. It is said
    /// which processes these are, and nothing waits for them any more.
    fn give_up(&mut self, number: Gen, plan: StopPlan, then: AfterKill) {
        self.push(Action::GiveUp(Target::Everyone(number)));
        if let Some(generation) = self.s.generation_mut(number) {
            generation.given_up = true;
            let text = "could not be killed".into();
            generation.end.get_or_insert_with(|| End::given_up(Word::Timeout, text));
        }
        match then {
            AfterKill::StopPost => self.stop_post(number, 0, plan),
            AfterKill::Gone => self.follow(Follow::CleanedUp(number)),
        }
    }
}
