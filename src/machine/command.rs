//! Commands: each is answered exactly once.

use super::event::{Action, Busy, Command, CommandResult, ContentId, Gen, Outcome, Req, Target};
use super::model::{Clock, Course, Down, Queued, Rest, State, Watch};
use super::table::{End as Ending, Row, row};
use super::turn::Turn;
use crate::time::Monotime;

impl Turn<'_> {
    pub(super) fn reply(&mut self, req: Option<Req>, result: CommandResult) {
        if let Some(req) = req {
            self.push(Action::Reply { req, result });
        }
    }

    fn done(&mut self, req: Option<Req>, note: &str) {
        self.reply(req, CommandResult::Done(note.into()));
    }

    fn failed(&mut self, req: Option<Req>, why: &str) {
        self.reply(req, CommandResult::Failed(why.into()));
    }

    pub(super) fn boot(&mut self) {
        if self.s.rest != Rest::Pending || self.s.is_down() {
            return;
        }
        self.s.rest = Rest::Stopped;
        self.bring_up();
    }

    pub(super) fn command(&mut self, req: Option<Req>, command: Command) {
        match command {
            Command::Start => self.start(req),
            Command::Stop { close } => self.stop(req, close),
            Command::Restart => self.restart(req),
            Command::Reload { force, remember, reason } => {
                let how = match (force, remember) {
                    (true, _) => IfBusy::Force,
                    (false, true) => IfBusy::Remember,
                    (false, false) => IfBusy::Refuse,
                };
                self.reload(req, how, reason);
            }
            Command::Promote => self.promote_by_command(req),
            Command::Rollback { to } => self.roll_back_by_command(req, to),
            Command::DropRelease(number) => self.drop_release(req, number),
            Command::Kill { signal, generation } => self.kill_by_command(req, signal, generation),
            Command::Shutdown => {
                self.s.shutdown = true;
                self.stop(req, false);
            }
            Command::KillAll => {
                self.s.shutdown = true;
                self.stop(req, false);
                for number in self.numbers() {
                    self.kill_now(number);
                }
                self.kill_hooks();
            }
            Command::RefuseReloads => {
                self.s.refuse_reloads = true;
                self.done(req, "");
            }
        }
    }

    pub(super) fn numbers(&self) -> Vec<Gen> {
        self.s.generations.iter().map(|g| g.number).collect()
    }

    pub(super) fn stop_all(&mut self) {
        for number in self.numbers() {
            let clock: Clock = self.stop_timeout(number);
            self.begin_stop(number, clock);
        }
    }

    fn stop(&mut self, req: Option<Req>, close: bool) {
        if let Some(down) = self.s.down.as_mut() {
            down.close |= close;
            if down.done {
                self.done(req, "it was stopped already");
            } else {
                down.reqs.extend(req);
                // A start that waited for the end of this stop is called off.
                self.job_end(Err("stopped by a command".into()));
                self.drop_queued("stopped by a command");
            }
            return;
        }
        self.s.down =
            Some(Down { reqs: req.into_iter().collect(), close, done: false, by_shutdown: self.s.shutdown });
        self.s.idle_stop = false;
        self.job_end(Err("stopped by a command".into()));
        self.drop_queued("stopped by a command");
        let why = if self.s.shutdown { "aeternad stops" } else { "stopped by a command" };
        if self.s.reload.is_some() {
            self.end_reload(Outcome::Aborted, why.into());
        }
        self.s.why = why.into();
        let timeout = self.unit(self.s.content).service.timeout_stop;
        self.hurry_hooks(timeout);
        self.stop_all();
    }

    pub(super) fn finish_down(&mut self) {
        let alive = !self.s.generations.is_empty() || !self.s.procs.is_empty();
        let shutdown = self.s.shutdown;
        let Some(down) = self.s.down.as_mut().filter(|down| !down.done && !alive) else { return };
        down.done = true;
        let reqs = std::mem::take(&mut down.reqs);
        self.s.rest = Rest::Stopped;
        self.s.ended = None;
        self.s.settled = true;
        self.s.hooks.clear();
        self.s.dirty.clear();
        if !shutdown {
            self.push(Action::DropStore);
        }
        for req in reqs {
            self.done(Some(req), "");
        }
    }

    fn kill_by_command(&mut self, req: Option<Req>, signal: i32, generation: Option<Gen>) {
        let numbers = self.numbers();
        let chosen: Vec<Gen> = match generation {
            Some(number) => numbers.into_iter().filter(|n| *n == number).collect(),
            None => numbers,
        };
        let alive: Vec<Gen> =
            chosen.into_iter().filter(|n| self.s.generation(*n).is_some_and(|g| g.lives())).collect();
        if alive.is_empty() {
            let text = match generation {
                Some(number) => format!("generation {} does not run", number.0),
                None => "nothing of it runs".into(),
            };
            self.failed(req, &text);
            return;
        }
        for number in alive {
            self.push(Action::Signal { to: Target::Mains(number), signal });
        }
        self.done(req, "");
    }

    fn reload(&mut self, req: Option<Req>, how: IfBusy, reason: String) {
        if self.s.shutdown || self.s.refuse_reloads {
            self.refuse(req, reason, Outcome::Refused, "aeternad is stopping: no new reloads");
            return;
        }
        let Some(busy) = self.s.busy(self.now) else {
            self.rise();
            self.begin_reload(req, reason, None);
            return;
        };
        match how {
            IfBusy::Force if busy.ends_by_force() => {
                self.drop_queued("another reload with --force came first");
                self.s.queued = Some(Queued { req, reason });
                self.abandon("ended by --force");
            }
            IfBusy::Remember => {
                if self.s.queued.is_none() {
                    self.s.queued = Some(Queued { req: None, reason });
                }
                self.done(req, "remembered: it is reloaded when that is over");
            }
            IfBusy::Force | IfBusy::Refuse => {
                self.refuse_reload(reason, Outcome::Refused, busy.to_string());
                self.reply(req, CommandResult::Busy(busy.to_string()));
            }
        }
    }

    fn refuse(&mut self, req: Option<Req>, asked: String, outcome: Outcome, why: &str) {
        self.refuse_reload(asked, outcome, why.into());
        self.reply(req, CommandResult::Reload { outcome, reason: why.into() });
    }

    fn drop_queued(&mut self, why: &str) {
        if let Some(queued) = self.s.queued.take() {
            self.refuse(queued.req, queued.reason, Outcome::Aborted, why);
        }
    }

    /// A unit that was stopped may be started again.
    pub(super) fn rise(&mut self) {
        if self.s.down.as_ref().is_some_and(|down| down.done) {
            self.s.down = None;
        }
    }

    /// Runs a remembered reload as soon as nothing is in its way.
    pub(super) fn begin_queued(&mut self) {
        if self.s.queued.is_none() || self.s.reload.is_some() || self.s.busy_with().is_some() {
            return;
        }
        if self.s.shutdown || self.s.refuse_reloads {
            self.drop_queued("aeternad is stopping");
            return;
        }
        if let Some(queued) = self.s.queued.take() {
            self.rise();
            self.begin_reload(queued.req, queued.reason, None);
        }
    }

    fn row(&self) -> Option<Row> {
        self.s.reload.as_ref().map(|reload| row(&reload.stage))
    }

    /// Ends the reload that is under way, by force.
    fn abandon(&mut self, why: &str) {
        match self.row().map(|row| row.force) {
            Some(Ending::Aborts) => self.end_reload(Outcome::Aborted, why.into()),
            Some(Ending::RollsBack) => self.roll_back(Outcome::Aborted, why.into()),
            Some(Ending::Waits | Ending::Refused(_)) | None => {}
        }
    }

    fn promote_by_command(&mut self, req: Option<Req>) {
        match self.row().map(|row| row.promote) {
            Some(Ok(())) => {
                self.promote("promoted by a command".into());
                self.done(req, "");
            }
            Some(Err(why)) => self.failed(req, why),
            None => self.failed(req, "no reload is under way"),
        }
    }

    fn roll_back_by_command(&mut self, req: Option<Req>, to: Option<Gen>) {
        const WHY: &str = "rolled back by a command";
        match self.row().map(|row| row.rollback) {
            Some(Ending::Aborts) => {
                self.waits_for_end(req);
                self.end_reload(Outcome::Aborted, WHY.into());
            }
            Some(Ending::RollsBack) => {
                self.waits_for_end(req);
                self.roll_back(Outcome::RolledBack, WHY.into());
            }
            Some(Ending::Waits) => self.waits_for_end(req),
            Some(Ending::Refused(why)) => self.failed(req, why),
            None => self.roll_back_to(req, to),
        }
    }

    /// A reload to the release that was promoted before the one that serves, or to what a generation ran.
    fn roll_back_to(&mut self, req: Option<Req>, to: Option<Gen>) {
        let reason =
            to.map_or("rollback".to_owned(), |number| format!("rollback to generation {}", number.0));
        if self.s.shutdown || self.s.refuse_reloads {
            self.refuse(req, reason, Outcome::Refused, "aeternad is stopping: no new reloads");
        } else if let Some(busy) = self.s.busy_with() {
            self.refuse_reload(reason, Outcome::Refused, busy.into());
            self.reply(req, CommandResult::Busy(busy.into()));
        } else {
            match self.s.earlier(to) {
                Ok(content) => {
                    self.rise();
                    self.begin_reload(req, reason, Some(content));
                }
                Err(why) => self.failed(req, &why),
            }
        }
    }

    /// Lets a release go: what it holds on the disk too, once no process of it is left.
    fn drop_release(&mut self, req: Option<Req>, number: Gen) {
        let Some(content) = self.s.kept.of(number).map(|entry| entry.content) else {
            let why = format!("no release of generation {} is kept; {}", number.0, self.s.kept_in_words());
            return self.failed(req, &why);
        };
        let reload = self.s.reload.as_ref().and_then(|reload| reload.stage.content());
        if content == self.s.content {
            let why = format!("generation {} runs what serves now: that stays", number.0);
            self.failed(req, &why);
        } else if reload == Some(content) {
            self.failed(req, "a reload to it is under way");
        } else {
            self.s.kept.forget(content);
            self.done(req, "");
        }
    }

    pub(super) fn forget_watch(&mut self) {
        if self.s.watch == Watch::Armed {
            self.push(Action::IgnoreTraffic);
        }
        self.s.watch = Watch::Off;
    }
}

/// What a rollback would do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// The reload that is under way would be given up.
    GivesUp,
    /// A reload to this content.
    To(ContentId),
}

impl State {
    /// What a rollback would do now.
    ///
    /// # Errors
    /// Why it would be refused.
    pub(super) fn back(&self, to: Option<Gen>) -> Result<Back, String> {
        match self.reload.as_ref().map(|reload| row(&reload.stage).rollback) {
            Some(Ending::Refused(why)) => return Err(why.into()),
            Some(Ending::Aborts | Ending::RollsBack | Ending::Waits) => return Ok(Back::GivesUp),
            None => {}
        }
        if self.shutdown || self.refuse_reloads {
            return Err("aeternad is stopping: no new reloads".into());
        }
        if let Some(busy) = self.busy_with() {
            return Err(busy.into());
        }
        self.earlier(to).map(Back::To)
    }

    /// What is gone back to.
    fn earlier(&self, to: Option<Gen>) -> Result<ContentId, String> {
        if let Some(number) = to {
            return match self.kept.of(number) {
                Some(entry) => Ok(entry.content),
                None => {
                    Err(format!("no release of generation {} is kept; {}", number.0, self.kept_in_words()))
                }
            };
        }
        if let Some(entry) = self.kept.earlier(self.content) {
            return Ok(entry.content);
        }
        let why = "there is no earlier release to go back to".to_owned();
        let ran = self.kept.entry(self.content).map(|entry| entry.generations.as_slice());
        Err(match ran {
            Some([.., before, last]) => format!(
                "{why}: generation {} runs the same program and unit as generation {}",
                last.0, before.0
            ),
            _ => why,
        })
    }

    /// `there are 2, 3 (serving) and 4`.
    fn kept_in_words(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        for entry in self.kept.all() {
            let serves = if entry.content == self.content { " (serving)" } else { "" };
            words.extend(entry.generations.last().map(|number| format!("{}{serves}", number.0)));
        }
        match words.split_last() {
            None => "there is none".into(),
            Some((only, [])) => format!("there is {only}"),
            Some((last, others)) => format!("there are {} and {last}", others.join(", ")),
        }
    }

    /// Why no reload can begin now.
    pub(super) fn busy(&self, now: Monotime) -> Option<Busy> {
        let reload = self.reload.as_ref().map(|reload| {
            let age = now.since(reload.began).as_secs_f64();
            let state = self.shown.name();
            let asked =
                if reload.asked.is_empty() { String::new() } else { format!(", asked for {}", reload.asked) };
            Busy::Reload(format!("a reload is under way: {state}, began {age:.1}s ago{asked}"))
        });
        reload.or_else(|| self.busy_with().map(Busy::Other))
    }

    /// Why no reload can begin now, other than another reload.
    fn busy_with(&self) -> Option<&'static str> {
        if self.job.is_some() {
            return Some("a start or restart is under way");
        }
        match self.course() {
            Course::Down { done: false } => Some("it is being stopped"),
            Course::Starting => Some("its first generation is still starting"),
            Course::Ending => Some("its service is just ending"),
            Course::Resting(Rest::Pending) => Some("it has not been started yet"),
            Course::Down { done: true } | Course::Reloading(_) | Course::Serving | Course::Resting(_) => None,
        }
    }
}

/// What becomes of a reload while another one is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfBusy {
    Refuse,
    Remember,
    Force,
}
