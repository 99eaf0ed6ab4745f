//! Processes that have not got to their program in time: held up by a folder or a program whose file system does not answer,
//! or stopped by the service's user. The loop goes on; they tell by a pipe what has become of them, and if they never do
//! they are ended.
//!
//! Every start is waited for a little, which is where it ends nearly always. How long is a matter of a budget: whoever makes
//! starts late again and again, in one unit or in many, does not get more of the main thread's time by that.

use crate::daemon::ahead::Awaited;
use crate::daemon::checked::Demand;
use crate::daemon::core::Daemon;
use crate::daemon::launch;
use crate::daemon::token::Owner;
use crate::machine::event::{Event, Gen, Proc, SpawnFailure};
use crate::sys::poll::Interest;
use crate::sys::spawn::{Plan, Process, SpawnError, Started, Starting};
use crate::sys::{clock, process};
use crate::time::{Monotime, Patience, Span};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

/// How long any start may be waited for, if its unit has not been late lately, and how much longer.
const ALWAYS: Span = Span::from_millis(3);
const BUDGET: Span = Span::from_millis(30);

/// How long the starts of a unit that was late are not waited for.
const MEMORY: Span = Span::from_secs(60);

/// How long a process may take to get to its program where `TimeoutStartSec` says nothing.
const LIMIT: Span = Span::from_secs(90);

/// How long one that was ended for that may take to be gone.
const GRACE: Span = Span::from_secs(5);

/// SIGKILL.
const SIGKILL: i32 = 9;

/// A process on its way to its program.
#[derive(Debug)]
pub struct Slow {
    unit: usize,
    proc: Proc,
    generation: Option<Gen>,
    starting: Starting,
    /// What it is to become, for the words of a failure.
    plan: Plan<'static>,
    /// What its program has to have in it.
    demand: Option<Arc<Demand>>,
    /// Whether its generation was waiting to be empty when it was started.
    watched_empty: bool,
    since: Monotime,
    deadline: Monotime,
    ended: bool,
}

/// All of them, and how long starts may be waited for.
#[derive(Debug)]
pub struct Slows {
    waiting: HashMap<i32, Slow>,
    /// Starts that wait for their files: there is no process yet.
    pub files: HashMap<(usize, Proc), Awaited>,
    /// How many questions for files of each unit have no answer yet.
    pub unanswered: HashMap<usize, u32>,
    /// Units that were late, and until when that counts.
    late: HashMap<usize, Monotime>,
    patience: Patience,
}

impl Default for Slows {
    fn default() -> Slows {
        let (waiting, late) = (HashMap::new(), HashMap::new());
        let (files, unanswered) = (HashMap::new(), HashMap::new());
        Slows { waiting, files, unanswered, late, patience: Patience::new(ALWAYS, BUDGET) }
    }
}

impl Slows {
    /// Whether every process that was started has come to its program, or to nothing.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.files.is_empty()
    }

    /// A start of this unit is not waited for any more: until when it may take.
    pub fn is_late(&mut self, unit: usize, now: Monotime, limit: Span) -> Monotime {
        self.late.insert(unit, now + MEMORY);
        now + if limit.is_zero() || limit.is_infinite() { LIMIT } else { limit }
    }

    /// How long a start of this unit may be waited for.
    pub fn patience(&mut self, unit: usize, now: Monotime) -> Span {
        self.late.retain(|_, until| *until > now);
        if self.late.contains_key(&unit) { Span::ZERO } else { self.patience.now(now) }
    }

    /// A start was waited for so long.
    pub fn waited(&mut self, took: Span) {
        self.patience.spend(took);
    }

    /// When the next one has taken too long.
    pub fn deadline(&self) -> Option<Monotime> {
        let files = self.files.values().map(Awaited::deadline);
        self.waiting.values().map(|slow| slow.deadline).chain(files).min()
    }
}

/// What a start that is told later needs to be known by.
#[derive(Debug)]
pub struct Beginning {
    /// The process.
    pub starting: Starting,
    /// See [`Plan::outline`].
    pub plan: Plan<'static>,
    /// `TimeoutStartSec`.
    pub limit: Span,
    /// What its program has to have in it.
    pub demand: Option<Arc<Demand>>,
}

impl Daemon {
    /// A process is on its way: the machine hears of it by `Spawned` or `SpawnFailed`, before its end.
    pub fn await_start(
        &mut self,
        index: usize,
        (proc, generation): (Proc, Option<Gen>),
        watched_empty: bool,
        beginning: Beginning,
    ) {
        let now = clock::now();
        let Beginning { starting, plan, limit, demand } = beginning;
        let deadline = self.slows.is_late(index, now, limit);
        let pid = starting.pid();
        log::debug!("{}: pid {pid} has not got to its program yet", self.units[index].name);
        let slow = Slow {
            unit: index,
            proc,
            generation,
            starting,
            plan,
            demand,
            watched_empty,
            since: now,
            deadline,
            ended: false,
        };
        self.watch_start(pid, slow);
    }

    fn watch_start(&mut self, pid: i32, slow: Slow) {
        let token = Owner::Starting(pid.cast_unsigned()).token();
        if let Err(error) = self.poller.add(token, slow.starting.as_fd(), Interest::READ) {
            // Its end and the deadline are still seen.
            log::warn!("{}: cannot watch the start of pid {pid}: {error}", self.units[slow.unit].name);
        }
        self.slows.waiting.insert(pid, slow);
    }

    /// A process on its way has something to tell, or has ended: whether it has never got to its program.
    pub fn start_ready(&mut self, pid: i32) -> bool {
        let Some(slow) = self.slows.waiting.remove(&pid) else { return false };
        let _ = self.poller.remove(slow.starting.as_fd());
        let Slow { unit, proc, generation, starting, plan, demand, watched_empty, since, deadline, ended } =
            slow;
        match starting.settle() {
            Ok(Started::Slow(starting)) => {
                let slow = Slow {
                    unit,
                    proc,
                    generation,
                    starting,
                    plan,
                    demand,
                    watched_empty,
                    since,
                    deadline,
                    ended,
                };
                self.watch_start(pid, slow);
                false
            }
            Ok(Started::Running(_)) if ended => {
                let failure = too_late(&self.units[unit].name, &plan, since);
                self.start_failed(unit, (proc, generation), pid, watched_empty, failure);
                true
            }
            Ok(Started::Running(process)) => {
                Demand::executed(demand.as_deref(), &self.units[unit].name, &process);
                self.start_succeeded(unit, proc, generation, process);
                false
            }
            Err(error) => {
                let failure = self.failure_of(unit, &plan, &error);
                self.start_failed(unit, (proc, generation), pid, watched_empty, failure);
                true
            }
        }
    }

    /// Whatever a process says comes after its beginning: before anything that a unit's processes have said is believed, those
    /// of them that have begun are told.
    pub fn settle_starts(&mut self, index: usize) {
        if self.slows.waiting.is_empty() {
            return;
        }
        let of_unit = self.slows.waiting.iter().filter(|(_, slow)| slow.unit == index);
        let pids: Vec<i32> = of_unit.map(|(pid, _)| *pid).collect();
        for pid in pids {
            self.start_ready(pid);
        }
    }

    fn failure_of(&self, unit: usize, plan: &Plan<'_>, error: &SpawnError) -> SpawnFailure {
        launch::refused(&self.units[unit].name, plan, error)
    }

    fn start_succeeded(&mut self, index: usize, proc: Proc, generation: Option<Gen>, process: Process) {
        let unit = &self.units[index];
        let shell = generation.and_then(|number| unit.generations.get(&number));
        let content = shell.and_then(|shell| unit.content(shell.content?)).unwrap_or(&unit.current);
        // It was begun before the promotion and goes first, which the others do no more.
        let late = generation.filter(|_| shell.is_some_and(|shell| !shell.goes_first));
        launch::warn_of_limits(&unit.name, &content.unit.service, process.lowered);
        if let (Some(number), Some(listener)) = (generation, process.listener) {
            self.adopt_filter(index, number, listener);
        }
        if let Some(number) = late {
            self.put_back_badness(index, number);
        }
        self.deliver(index, Event::Spawned { proc, pid: process.pid });
    }

    fn start_failed(
        &mut self,
        index: usize,
        (proc, generation): (Proc, Option<Gen>),
        pid: i32,
        watched_empty: bool,
        failure: SpawnFailure,
    ) {
        self.pids.remove(&pid);
        let unit = &mut self.units[index];
        unit.children.remove(&proc);
        if let Some(shell) = generation.and_then(|number| unit.generations.get_mut(&number)) {
            shell.alive = shell.alive.saturating_sub(1);
            shell.started.retain(|started| started.pid != pid);
            shell.watch_empty |= watched_empty && shell.alive == 0;
        }
        self.deliver(index, Event::SpawnFailed { proc, failure });
        if let Some(number) = generation {
            self.check_empty(index, number);
        }
    }

    /// Ends those that take too long; what cannot be ended either is given up.
    pub fn end_slow_starts(&mut self, now: Monotime) {
        let due: Vec<i32> =
            self.slows.waiting.iter().filter(|(_, slow)| slow.deadline <= now).map(|(pid, _)| *pid).collect();
        for pid in due {
            let Some(slow) = self.slows.waiting.get_mut(&pid) else { continue };
            let first = !std::mem::replace(&mut slow.ended, true);
            if first {
                slow.deadline = now + GRACE;
                // Not reaped yet: it is still this process.
                let _ = process::kill(pid, SIGKILL);
                continue;
            }
            let Some(slow) = self.slows.waiting.remove(&pid) else { continue };
            let _ = self.poller.remove(slow.starting.as_fd());
            let failure = too_late(&self.units[slow.unit].name, &slow.plan, slow.since);
            self.start_failed(slow.unit, (slow.proc, slow.generation), pid, slow.watched_empty, failure);
        }
    }
}

/// `cannot start app: /srv/app/bin was not executed within 1min 30s: …`.
fn too_late(unit: &str, plan: &Plan<'_>, since: Monotime) -> SpawnFailure {
    let program = plan.program.to_string_lossy();
    let folder =
        plan.directory.as_ref().map_or_else(String::new, |path| format!(" and {}", path.to_string_lossy()));
    let text = format!(
        "cannot start {unit}: {program} was not executed within {}: was the process stopped, or does the file system of \
         {program}{folder} not answer?",
        clock::now().since(since)
    );
    SpawnFailure { text, code: 1, exhausted: false, gone: false, busy: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_was_late_is_not_waited_for() {
        let mut slows = Slows::default();
        let at = |seconds: u64| Monotime(1) + Span::from_secs(seconds);
        slows.late.insert(7, at(60));
        assert_eq!(slows.patience(7, at(59)), Span::ZERO);
        assert_eq!(slows.patience(8, at(59)), ALWAYS + BUDGET);
        assert_eq!(slows.patience(7, at(60)), ALWAYS + BUDGET);
    }
}
