//! Going on under another shell: what was asked is asked again, what was lost is known to be lost.

use super::event::{
    Action, Beside, Command, Event, Exit, Failure, Fault, Gen, Proc, Question, Relayed, Req, SpawnFailure,
    Ticket,
};
use super::model::{
    Asked, Before, Contents, Handover, HealthStep, JobPhase, Look, Phase, Stage, State, Watch,
};
use super::turn::Turn;
use crate::time::Span;

impl State {
    /// Every question that is not answered, with its ticket: derived from where it is waited for, stored nowhere.
    pub(super) fn outstanding(&self, contents: &Contents) -> Vec<Action> {
        let mut asked: Vec<(Ticket, Question)> = Vec::new();
        asked.extend(self.asked_by_reload(contents));
        asked.extend(self.asked_by_job(contents));
        for g in &self.generations {
            if let HealthStep::Probing(Asked { ticket, what: kind }) = g.health.step {
                asked.push((ticket, Question::Probe { generation: g.number, kind }));
            }
            if let Phase::Quiescing { wait, .. } = g.phase {
                let question = Question::CheckDrain { generation: g.number, slot: g.slot };
                asked.extend(wait.asked.map(|ticket| (ticket, question)));
            }
        }
        for dirty in &self.dirty {
            if let Look::Asked(ticket) = dirty.look {
                asked.push((ticket, Question::CheckSlot(dirty.slot)));
            }
        }
        let idle = self.idle.and_then(|idle| idle.asked);
        asked.extend(idle.map(|ticket| (ticket, Question::CountConnections)));
        asked.sort_by_key(|(ticket, _)| *ticket);
        let watch = (self.watch == Watch::Armed).then_some(Action::WatchTraffic);
        asked.into_iter().map(|(ticket, question)| Action::Ask(ticket, question)).chain(watch).collect()
    }

    fn asked_by_reload(&self, contents: &Contents) -> Vec<(Ticket, Question)> {
        let Some(reload) = &self.reload else { return Vec::new() };
        let mut asked = Vec::new();
        match reload.stage {
            Stage::Before(Before::Loading(ticket)) => asked.push((ticket, Question::Load)),
            Stage::Before(Before::Opening { content, asked: ticket }) => {
                asked.push((ticket, Question::OpenSockets(contents.get(content).clone())));
            }
            Stage::Before(Before::Binary { content, asked: ticket, .. }) => {
                asked.push((ticket, Question::CheckBinary(contents.get(content).clone())));
            }
            Stage::Before(Before::PreFlight { .. })
            | Stage::Told { .. }
            | Stage::StoppingOld { .. }
            | Stage::Beside { .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => {}
        }
        let look =
            reload.judging.as_deref().and_then(|judging| judging.asked).zip(reload.stage.new_generation());
        if let Some(((ticket, _), new)) = look {
            let old = reload.old.filter(|old| self.generation(*old).is_some());
            asked.push((ticket, Question::Look { new, old }));
        }
        let old = self.current.and_then(|number| self.generation(number));
        if let (Some(Handover::Emptying { wait }), Some(old)) = (reload.stage.handover(), old) {
            let question = Question::CheckDrain { generation: old.number, slot: old.slot };
            asked.extend(wait.asked.map(|ticket| (ticket, question)));
        }
        asked
    }

    fn asked_by_job(&self, contents: &Contents) -> Option<(Ticket, Question)> {
        match self.job.as_ref()?.phase {
            JobPhase::Loading(ticket) => Some((ticket, Question::Load)),
            JobPhase::Opening(Asked { ticket, what }) => {
                Some((ticket, Question::OpenSockets(contents.get(what).clone())))
            }
            JobPhase::Waiting | JobPhase::Stopping(_) | JobPhase::Launched => None,
        }
    }

    /// Who is not in `waiting` gets no reply any more.
    fn drop_requests(&mut self, waiting: &[Req]) {
        let waits = |req: &Req| waiting.contains(req);
        if let Some(reload) = self.reload.as_mut() {
            reload.req = reload.req.filter(waits);
            reload.waiters.retain(waits);
        }
        if let Some(queued) = self.queued.as_mut() {
            queued.req = queued.req.filter(waits);
        }
        let lists =
            [self.job.as_mut().map(|job| &mut job.reqs), self.down.as_mut().map(|down| &mut down.reqs)];
        lists.into_iter().flatten().for_each(|reqs| reqs.retain(waits));
    }

    /// Between whom the last shell had a transfer in hand.
    fn transfer(&self) -> Option<(Gen, Gen)> {
        let reload = self.reload.as_ref()?;
        match reload.stage.handover()? {
            Handover::Running { .. } => reload.asked_for_state.zip(reload.stage.new_generation()),
            Handover::GivingBack { .. } => reload.stage.new_generation().zip(self.current),
            Handover::Awaited { .. }
            | Handover::Emptying { .. }
            | Handover::Acknowledged
            | Handover::Cold => None,
        }
    }
}

impl Turn<'_> {
    /// Another shell goes on. Of the processes only those in `alive` are left, of those who asked for something only
    /// `waiting`; a transfer of state that was under way is cut, and no answer is on its way.
    pub(super) fn resume(&mut self, alive: &[Proc], waiting: &[Req]) {
        self.s.drop_requests(waiting);
        let asked = self.s.outstanding(self.contents);
        self.out.extend(asked);
        let gone = self.s.procs.iter().filter(|owned| !alive.contains(&owned.proc));
        let gone: Vec<_> = gone.map(|owned| (owned.proc, owned.pid)).collect();
        for (proc, pid) in gone {
            let text = "aeternad went away while it was being started".to_owned();
            self.event(match pid {
                Some(_) => Event::Exited { proc, exit: Exit::Unknown, beside: Beside::Nothing },
                None => Event::SpawnFailed { proc, failure: SpawnFailure::ours(text) },
            });
        }
        if let Some((from, to)) = self.s.transfer() {
            let why = "aeternad went away while it was on its way".to_owned();
            let result = Err(Failure { fault: Fault::Cancelled, why });
            let nothing = Relayed { from, to, result, bytes: 0, frames: 0, descriptors: 0, took: Span::ZERO };
            self.event(Event::RelayEnded(nothing));
        }
    }

    /// The shell before has died: as [`Turn::resume`], and nobody of those who waited is there any more. What it was told to
    /// stop because it was about to stop itself runs again: somebody has started aeternad.
    pub(super) fn recover(&mut self, alive: &[Proc]) {
        let shut_down = std::mem::take(&mut self.s.shutdown);
        self.s.refuse_reloads = false;
        self.resume(alive, &[]);
        if shut_down && self.s.down.as_ref().is_some_and(|down| down.by_shutdown) {
            self.event(Event::Command { req: None, command: Command::Start });
        }
    }
}
