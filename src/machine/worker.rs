//! Main processes: how they come up, how they end, their watchdogs, and restarts within a generation.

use super::event::{Action, Announcement, Conn, Gen, Proc, Target};
use super::model::{Doom, End, Kind, Owned, Phase, Place, SIGCONT, SIGKILL, Word, Worker, last_patience};
use super::rest::WRITER_PAUSE;
use super::restart::{delay, wants_restart};
use super::table::{OldDies, row};
use super::turn::{Follow, Turn};
use crate::time::Monotime;
use crate::unit::{OomPolicy, ServiceType};

impl Turn<'_> {
    pub(super) fn worker_mut(&mut self, number: Gen, worker: u32) -> Option<&mut Worker> {
        self.s.generation_mut(number)?.workers.get_mut(worker as usize)
    }

    pub(super) fn main_spawned(&mut self, owned: Owned, index: u32, pid: i32) {
        let Some(number) = owned.generation else { return };
        let unit = self.unit_of(number);
        let now = self.now;
        let Some(generation) = self.s.generation_mut(number) else { return };
        let ready = generation.ready_at.is_some();
        if let Kind::Instance { delivered, .. } = &mut generation.kind {
            *delivered = true;
        }
        let stopping = matches!(generation.phase, Phase::Stopping { .. });
        let Some(worker) = generation.workers.get_mut(index as usize) else { return };
        worker.pid = Some(pid);
        worker.up = matches!(unit.service.service_type, ServiceType::Simple | ServiceType::Exec);
        if ready && !worker.up {
            worker.up_by = now.after(unit.service.timeout_start);
        } else if ready {
            worker.arm_watchdog(now, unit.service.watchdog);
        }
        if let Some(reload) =
            self.s.reload.as_mut().filter(|reload| reload.stage.new_generation() == Some(number))
        {
            // Also of one that dies before it is ready: OnFailure is told who that was.
            reload.new_pid = reload.new_pid.or(Some(pid));
        }
        self.announce(Announcement::Started { generation: number, worker: index, pid });
        if stopping {
            // The others have had their signal before this one existed.
            self.push(Action::Signal { to: Target::Proc(owned.proc), signal: SIGKILL });
        }
        self.mains_progress(number);
    }

    /// A main process is gone, or could not be started.
    pub(super) fn main_ended(&mut self, number: Gen, index: u32, owned: Owned, end: &End) {
        let Some(worker) = self.worker_mut(number, index) else { return };
        let mut end = end.clone();
        if let Some(doom) = worker.doomed.take() {
            // The first reason is the one: what it then did is only how.
            end.result = doom.word;
            end.text = format!("{} and {}", doom.why, end.text);
        }
        let (command, pid, attempt) = (worker.command, worker.pid, worker.attempt);
        *worker = Worker { end: Some(end.clone()), command, attempt, ..Worker::default() };
        let Some(generation) = self.s.generation_mut(number) else { return };
        let phase = generation.phase.clone();
        let expected = match phase {
            Phase::Quiescing { .. } | Phase::Stopping { .. } => true,
            Phase::Starting { .. } | Phase::Up => end.is_success(),
        };
        if let Some(known) = generation.end.as_mut().filter(|known| known.exit.is_none()) {
            // It was given up on, and this is what it then did: for ExecStopPost and the exit status.
            known.exit = end.exit;
            known.code = end.code.max(u8::from(!known.is_success()));
        }
        if let (Some(pid), Some(exit)) = (pid.or(owned.pid), end.exit) {
            self.announce(Announcement::Ended { generation: number, worker: index, pid, exit, expected });
        }
        if end.is_success() && end.forked && matches!(phase, Phase::Starting { .. } | Phase::Up) {
            self.warn(format!("generation {} {}", number.0, end.text));
        }
        match phase {
            Phase::Starting { .. } => self.main_ended_starting(number, index, end),
            Phase::Up => self.main_ended_up(number, index, end),
            Phase::Quiescing { .. } => self.quiescing_main_ended(number),
            Phase::Stopping { .. } => {}
        }
    }

    fn main_ended_starting(&mut self, number: Gen, index: u32, end: End) {
        let unit = self.unit_of(number);
        // It may be no more than a copy of a writer's descriptor in a process that is about to execute something else.
        if self.s.place(number) == Place::New && self.is_being_written(&end) {
            return self.tries_again(number, index);
        }
        if unit.service.service_type == ServiceType::Oneshot {
            self.oneshot_command_ended(number, index, end);
            return;
        }
        let notify = matches!(unit.service.service_type, ServiceType::Notify | ServiceType::NotifyReload);
        let up = self.worker_mut(number, index).is_some_and(|worker| worker.up);
        let end = if end.is_success() && notify && !up {
            let but = self.but_unheard(number, "READY=1");
            End { result: Word::Protocol, text: format!("{} before it said READY=1{but}", end.text), ..end }
        } else {
            end
        };
        self.follow(Follow::MainsDead(number, end));
    }

    fn oneshot_command_ended(&mut self, number: Gen, index: u32, end: End) {
        let unit = self.unit_of(number);
        let Some(worker) = self.worker_mut(number, index) else { return };
        let command = worker.command;
        let forgiven = unit.service.exec_start.get(command as usize).is_some_and(|c| c.ignore_failure);
        if !end.is_success() && !forgiven {
            self.follow(Follow::MainsDead(number, end));
            return;
        }
        let conn = self.conn_of(number);
        if conn.is_none() && unit.service.exec_start.len() > command as usize + 1 {
            self.spawn_main(number, index, None, command + 1);
            return;
        }
        if let Some(worker) = self.worker_mut(number, index) {
            worker.up = true;
            if forgiven && !end.is_success() {
                worker.end = Some(End { result: Word::Success, code: 0, ..end });
            }
        }
        self.mains_progress(number);
    }

    pub(super) fn conn_of(&self, number: Gen) -> Option<Conn> {
        match self.s.generation(number)?.kind {
            Kind::Instance { conn, .. } => Some(conn),
            Kind::Full | Kind::Rescue { .. } => None,
        }
    }

    fn main_ended_up(&mut self, number: Gen, index: u32, end: End) {
        let others = self.s.generation(number).is_some_and(|g| g.lives());
        let all_go = end.result == Word::OomKill && self.oom_policy(number) != OomPolicy::Continue;
        if others && !all_go && self.s.place(number) == Place::Current {
            self.told_is_lost(number, index, &end);
            self.restart_worker_later(number, index, &end);
        } else {
            self.follow(Follow::MainsDead(number, end));
        }
    }

    /// The others serve on: this one comes back alone, with the content that the generation was launched with.
    fn restart_worker_later(&mut self, number: Gen, index: u32, end: &End) {
        let unit = self.unit_of(number);
        let service = &unit.service;
        if !wants_restart(service, end) {
            return;
        }
        if self.is_being_written(end) {
            // That was no start.
            return self.tries_again(number, index);
        }
        if !self.s.starts.take(self.now, service.start_limit_interval, service.start_limit_burst) {
            let text = format!(
                "worker {index} of generation {} {} and is not restarted: it was started {} times within {}",
                number.0, end.text, service.start_limit_burst, service.start_limit_interval
            );
            self.warn(text);
            return;
        }
        let now = self.now;
        let Some(worker) = self.worker_mut(number, index) else { return };
        worker.again = now.after(delay(service, worker.attempt));
        worker.attempt += 1;
    }

    /// What could not be executed for a moment.
    fn tries_again(&mut self, number: Gen, index: u32) {
        let again = self.now.after(WRITER_PAUSE);
        if let Some(worker) = self.worker_mut(number, index) {
            worker.again = again;
        }
    }

    pub(super) fn tick_workers(&mut self, number: Gen) {
        let count = self.s.generation(number).map_or(0, |g| g.workers.len());
        for index in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            self.tick_worker(number, index);
            self.follow_up();
        }
    }

    fn tick_worker(&mut self, number: Gen, index: u32) {
        let now = self.now;
        let due = |deadline: Option<Monotime>| deadline.is_some_and(|deadline| deadline <= now);
        let Some(worker) = self.worker_mut(number, index) else { return };
        if due(worker.again) {
            let word = worker.end.as_ref().map_or(Word::Success, |end| end.result);
            let command = worker.command;
            worker.again = None;
            if self.s.place(number) != Place::New {
                self.s.restarts += 1;
                self.announce(Announcement::Restarting { result: word.text().into() });
            }
            self.starts_anew(index);
            self.spawn_main(number, index, None, command);
        } else if due(worker.up_by) {
            worker.up_by = None;
            let proc = worker.proc;
            let why = "never said READY=1".to_owned();
            worker.doomed = Some(Doom { word: Word::Timeout, why, kill_at: None, killed: true });
            self.warn(format!("worker {index} of generation {} never said READY=1 and is killed", number.0));
            self.kill_proc(proc);
        } else if due(worker.watchdog.and_then(|watchdog| watchdog.deadline)) {
            if worker.watchdog.as_mut().is_some_and(|watchdog| watchdog.is_unseen(now)) {
                let text = format!("worker {index} of generation {} gets one more WatchdogSec", number.0);
                return self.warn(format!("aeternad itself was not awake in time: {text}"));
            }
            let but = self.but_unheard(number, "WATCHDOG=1");
            self.watchdog_expired(number, index, &format!("sent no WATCHDOG=1 within WatchdogSec{but}"));
        } else if due(worker.doomed.as_ref().and_then(|doom| doom.kill_at)) {
            self.doom_is_due(number, index);
        }
    }

    /// A doomed worker has not ended in time: the final signal, and after that the one that nobody can ignore.
    fn doom_is_due(&mut self, number: Gen, index: u32) {
        let unit = self.unit_of(number);
        let next = self.now.after(last_patience(&unit.service));
        let Some(worker) = self.worker_mut(number, index) else { return };
        let proc = worker.proc;
        let Some(doom) = worker.doomed.as_mut() else { return };
        let last = std::mem::replace(&mut doom.killed, true) || unit.service.final_kill_signal == SIGKILL;
        doom.kill_at = if last { None } else { next };
        if last {
            self.kill_proc(proc);
        } else {
            self.signal_proc(proc, unit.service.final_kill_signal);
        }
    }

    /// SIGKILL to one process; if that is of no use, it is given up.
    fn kill_proc(&mut self, proc: Option<Proc>) {
        self.signal_proc(proc, SIGKILL);
        if let Some(proc) = proc {
            self.give_up_later(proc);
        }
    }

    fn signal_proc(&mut self, proc: Option<Proc>, signal: i32) {
        if let Some(proc) = proc {
            self.push(Action::Signal { to: Target::Proc(proc), signal });
        }
    }

    /// `WatchdogSec` has passed, or the service has said WATCHDOG=trigger.
    pub(super) fn watchdog_expired(&mut self, number: Gen, index: u32, why: &str) {
        let unit = self.unit_of(number);
        let kill_at = self.now.after(unit.service.timeout_stop).filter(|_| unit.service.send_sigkill);
        let Some(worker) = self.worker_mut(number, index).filter(|worker| worker.proc.is_some()) else {
            return;
        };
        worker.watchdog = None;
        worker.doomed = Some(Doom { word: Word::Watchdog, why: why.to_owned(), kill_at, killed: false });
        let proc = worker.proc;
        self.warn(format!("worker {index} of generation {} {why}", number.0));
        let signal = unit.service.watchdog_signal;
        self.signal_proc(proc, signal);
        if !matches!(signal, SIGKILL | SIGCONT) {
            // A process that is stopped would never see the signal before it.
            self.signal_proc(proc, SIGCONT);
        }
        if self.s.place(number) == Place::New || self.s.generation(number).is_some_and(|g| g.is_starting()) {
            self.follow(Follow::MainsDead(number, End::given_up(Word::Watchdog, why.to_owned())));
        }
    }

    /// Why a generation was lost, also for whoever logs no more than what went wrong. The end of a process has its own line,
    /// and what could not be started, too.
    fn tell_lost(&mut self, number: Gen, starting: bool, end: &End) {
        let text = format!("generation {} {}", number.0, end.text);
        if starting && end.exit.is_none() && matches!(end.result, Word::Resources | Word::Exhausted) {
            return;
        }
        if starting {
            self.announce(Announcement::StartFailed { generation: number, text });
        } else if end.exit.is_none() {
            self.warn(text);
        }
    }

    /// Nothing of the generation serves any more, or it never came up: what that means depends on what it is.
    pub(super) fn mains_dead(&mut self, number: Gen, end: End) {
        let Some(generation) = self.s.generation_mut(number) else { return };
        let success = end.is_success();
        let was_ready = generation.ready_at.is_some();
        let already = matches!(generation.phase, Phase::Stopping { .. });
        let starting = generation.is_starting();
        generation.end.get_or_insert_with(|| end.clone());
        if already {
            return;
        }
        if !success && self.s.place(number) != Place::New {
            self.tell_lost(number, starting, &end);
        }
        match self.s.place(number) {
            Place::New => self.new_is_lost(number, &end),
            Place::Current => {
                self.s.why = format!("generation {} {}", number.0, end.text);
                self.current_is_lost(number, &end);
                let alive = end.exit.is_none() && matches!(end.result, Word::Health | Word::OomKill);
                self.stop_lost(number, (success || alive) && was_ready);
            }
            Place::Instance => {
                if !success && !starting && end.exit.is_some() {
                    self.warn(format!("instance {} {}", number.0, end.text));
                }
                self.stop_lost(number, success && was_ready);
            }
            Place::Rescue | Place::Draining => self.stop_lost(number, false),
        }
    }

    /// The current generation has said STOPPING=1.
    pub(super) fn current_stops_by_itself(&mut self, number: Gen) {
        let end = End::given_up(Word::Success, "has said STOPPING=1".into());
        self.current_is_lost(number, &end);
        if self.s.place(number) == Place::Current {
            self.s.why = format!("generation {} {}", number.0, end.text);
            self.stops_by_itself(number);
        }
    }

    /// What the current generation's end means for a reload that is under way.
    fn current_is_lost(&mut self, number: Gen, end: &End) {
        match self.s.reload.as_ref().map(|reload| row(&reload.stage).old_dies) {
            Some(OldDies::Fails) => self.fail_reload(format!(
                "generation {} {} before anything was launched: the reload was given up",
                number.0, end.text
            )),
            Some(OldDies::Promotes) => self.promote(format!(
                "generation {} {} in the soak: the new one took over at once",
                number.0, end.text
            )),
            Some(OldDies::GoesOn) | None => {}
        }
    }
}
