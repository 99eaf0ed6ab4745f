//! `start` and `restart`: read the file, bind, stop what runs, launch.

use super::event::{CommandResult, Content, ContentId, Question, Req, Ticket};
use super::model::{Asked, Course, Job, JobKind, JobPhase, Rest, Window};
use super::turn::Turn;
use crate::unit::StartOn;

impl Turn<'_> {
    /// Whoever starts by hand what has failed knows why: the start limit counts anew.
    pub(super) fn second_chance(&mut self) {
        if self.s.rest == Rest::Failed && self.s.current.is_none() {
            self.s.starts = Window::default();
        }
    }

    fn begin_job(&mut self, req: Option<Req>, kind: JobKind, launch: bool) {
        self.second_chance();
        let down = self.s.down.as_ref().is_some_and(|down| !down.done);
        let ending = kind == JobKind::Start && self.s.current.is_some();
        let phase = if down || ending {
            JobPhase::Waiting
        } else {
            self.rise();
            JobPhase::Loading(self.ask(Question::Load))
        };
        self.s.job = Some(Job { kind, reqs: req.into_iter().collect(), phase, launch });
    }

    pub(super) fn start(&mut self, req: Option<Req>) {
        if self.s.shutdown {
            self.reply(req, CommandResult::Failed("aeternad is stopping".into()));
            return;
        }
        if let Some(job) = self.s.job.as_mut() {
            job.reqs.extend(req);
            return;
        }
        match self.s.course() {
            Course::Reloading(_) => self.busy_reloading(req),
            Course::Serving => self.reply(req, CommandResult::Done("it runs already".into())),
            Course::Starting => {
                let reqs = req.into_iter().collect();
                self.s.job =
                    Some(Job { kind: JobKind::Start, reqs, phase: JobPhase::Launched, launch: true });
            }
            Course::Ending => self.begin_job(req, JobKind::Start, true),
            Course::Down { .. } | Course::Resting(Rest::Stopped | Rest::Failed | Rest::Pending) => {
                self.begin_job(req, JobKind::Start, false);
            }
            Course::Resting(Rest::Listening | Rest::Backoff { .. }) => {
                self.begin_job(req, JobKind::Start, true);
            }
        }
    }

    fn busy_reloading(&mut self, req: Option<Req>) {
        let text = "a reload is under way: wait, or end it with rollback or stop".to_owned();
        self.reply(req, CommandResult::Busy(text));
    }

    pub(super) fn restart(&mut self, req: Option<Req>) {
        if self.s.shutdown {
            self.reply(req, CommandResult::Failed("aeternad is stopping".into()));
            return;
        }
        if self.s.reload.is_some() {
            self.busy_reloading(req);
            return;
        }
        match self.s.job.as_mut() {
            Some(job) if job.phase == JobPhase::Launched => {
                self.job_end(Err("a restart came in between".into()));
            }
            Some(job) => {
                job.kind = JobKind::Restart;
                job.reqs.extend(req);
                return;
            }
            None => {}
        }
        let runs = self.s.current.is_some() && self.s.down.is_none();
        self.begin_job(req, JobKind::Restart, runs);
    }

    fn set_job(&mut self, phase: JobPhase) {
        if let Some(job) = self.s.job.as_mut() {
            job.phase = phase;
        }
    }

    pub(super) fn job_loaded(&mut self, ticket: Ticket, result: Result<Content, String>) {
        if self.s.job.as_ref().is_none_or(|job| job.phase != JobPhase::Loading(ticket)) {
            return;
        }
        match result {
            Ok(content) => {
                self.contents.add(content.clone());
                let what = content.id;
                let ticket = self.ask(Question::OpenSockets(content));
                self.set_job(JobPhase::Opening(Asked { ticket, what }));
            }
            Err(why) => self.job_end(Err(why)),
        }
    }

    pub(super) fn job_opened(&mut self, answered: Ticket, result: Result<(), String>) {
        let (kind, content) = match self.s.job.as_ref().map(|job| (job.kind, job.phase)) {
            Some((kind, JobPhase::Opening(Asked { ticket, what }))) if ticket == answered => (kind, what),
            Some(_) | None => return,
        };
        match result {
            Err(why) => self.job_end(Err(why)),
            Ok(()) if kind == JobKind::Restart && !self.s.generations.is_empty() => {
                self.set_job(JobPhase::Stopping(content));
                self.s.why = "restarted by a command".into();
                self.stop_all();
            }
            Ok(()) if self.s.current.is_some() => self.job_end(Ok(())),
            Ok(()) => self.job_launch(content),
        }
    }

    /// Goes on with a job whose wait is over.
    pub(super) fn continue_job(&mut self) {
        let Some(job) = self.s.job.as_ref() else { return };
        match job.phase {
            JobPhase::Waiting => {
                let free = self.s.down.as_ref().is_none_or(|down| down.done) && self.s.current.is_none();
                if free {
                    self.rise();
                    let ticket = self.ask(Question::Load);
                    self.set_job(JobPhase::Loading(ticket));
                }
            }
            JobPhase::Stopping(content) if self.s.generations.is_empty() => self.job_launch(content),
            JobPhase::Stopping(_) | JobPhase::Loading(_) | JobPhase::Opening(_) | JobPhase::Launched => {}
        }
    }

    fn job_launch(&mut self, content: ContentId) {
        let launch = self.s.job.as_ref().is_some_and(|job| job.launch);
        self.s.pending.clear();
        self.promote_content(content);
        self.s.attempt = 0;
        self.s.why.clear();
        self.set_job(JobPhase::Launched);
        if launch && !self.unit(content).accepts() {
            self.start_current();
        } else {
            self.bring_up();
        }
    }

    /// As at boot: launches the service, or waits for traffic.
    pub(super) fn bring_up(&mut self) {
        let unit = self.unit(self.s.content);
        if unit.accepts() || unit.service.start_on == StartOn::Connection {
            self.s.ended = None;
            self.listen();
            self.job_done(Ok(()));
        } else {
            self.start_current();
        }
    }

    /// The launch that a job waited for has come to something.
    pub(super) fn job_done(&mut self, result: Result<(), String>) {
        if self.s.job.as_ref().is_some_and(|job| job.phase == JobPhase::Launched) {
            self.job_end(result);
        }
    }

    /// The job is over, whatever it was at.
    pub(super) fn job_end(&mut self, result: Result<(), String>) {
        let Some(job) = self.s.job.take() else { return };
        for req in job.reqs {
            let result = match &result {
                Ok(()) => CommandResult::Done(String::new()),
                Err(why) => CommandResult::Failed(why.clone()),
            };
            self.reply(Some(req), result);
        }
    }
}
