//! One event being handled.

use super::event::{
    Action, Announcement, Answer, Beside, ContentId, Event, Exit, Gen, IfGone, Proc, Question, Role, Spawn,
    SpawnFailure, Target, Ticket, UnitState,
};
use super::model::{Contents, End, Owned, Place, State, Word, last_patience};
use crate::time::{Monotime, UNSEEN};
use crate::unit::Unit;
use std::collections::VecDeque;
use std::sync::Arc;

/// One event being handled: the only writer of [`State`].
pub(super) struct Turn<'a> {
    pub(super) now: Monotime,
    pub(super) contents: &'a mut Contents,
    pub(super) s: &'a mut State,
    pub(super) out: &'a mut Vec<Action>,
    follows: VecDeque<Follow>,
}

/// What follows from a rule for another subject. A rule never calls the rule of another subject that would call it back:
/// it says here what has happened, and that is looked at when the rule is over, in the order in which it was said. What a
/// rule wants done (a launch, a stop, a drain, the end of the reload) it does by a call.
#[derive(Debug)]
pub(super) enum Follow {
    /// A generation is ready, or would have been but for its state, which it now has.
    Ready(Gen),
    /// The serving generation goes by itself (STOPPING=1).
    StopsByItself(Gen),
    /// Nothing of a generation serves any more, or it never came up: how it ended.
    MainsDead(Gen, End),
    /// Everything of a generation is gone.
    CleanedUp(Gen),
    /// The generation that the reload had launched is gone.
    NewGone,
    /// There is one more generation that drains.
    OneMoreDrains,
}

impl<'a> Turn<'a> {
    pub(super) fn new(
        now: Monotime,
        contents: &'a mut Contents,
        s: &'a mut State,
        out: &'a mut Vec<Action>,
    ) -> Turn<'a> {
        Turn { now, contents, s, out, follows: VecDeque::new() }
    }
}

impl Turn<'_> {
    pub(super) fn follow(&mut self, what: Follow) {
        self.follows.push_back(what);
    }

    /// Does what follows from the rules so far, and from that, until nothing does.
    pub(super) fn follow_up(&mut self) {
        while let Some(what) = self.follows.pop_front() {
            match what {
                Follow::Ready(number) => match self.s.place(number) {
                    Place::New => self.new_is_ready(number),
                    Place::Current => self.current_is_ready(number),
                    Place::Rescue => self.rescue_is_ready(number),
                    Place::Instance | Place::Draining => {}
                },
                Follow::StopsByItself(number) => self.current_stops_by_itself(number),
                Follow::MainsDead(number, end) => self.mains_dead(number, end),
                Follow::CleanedUp(number) => self.cleaned_up(number),
                Follow::NewGone => self.new_is_gone(),
                Follow::OneMoreDrains => self.limit_draining(),
            }
        }
    }

    pub(super) fn push(&mut self, action: Action) {
        self.out.push(action);
    }

    /// A ticket that nobody had before.
    pub(super) fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.s.next_ticket);
        self.s.next_ticket += 1;
        ticket
    }

    /// Asks; whoever asks remembers the ticket.
    pub(super) fn ask(&mut self, question: Question) -> Ticket {
        let ticket = self.ticket();
        self.push(Action::Ask(ticket, question));
        ticket
    }

    pub(super) fn announce(&mut self, fact: Announcement) {
        self.out.push(Action::Announce(fact));
    }

    /// Whether nobody was awake when this time was over.
    pub(super) fn is_unseen(&self, deadline: Monotime) -> bool {
        self.now.since(deadline) > UNSEEN
    }

    /// Whether a generation gets the time of its step again because nobody saw it pass: once, so that every wait ends.
    pub(super) fn once_more(&mut self, number: Gen) -> bool {
        let Some(generation) = self.s.generation_mut(number) else { return false };
        let granted = !std::mem::replace(&mut generation.spared, true);
        if granted {
            self.warn(format!(
                "aeternad itself was not awake in time: generation {} gets its timeout once more",
                number.0
            ));
        }
        granted
    }

    pub(super) fn warn(&mut self, text: String) {
        self.announce(Announcement::Warning { text });
    }

    pub(super) fn unit(&self, id: ContentId) -> Arc<Unit> {
        Arc::clone(&self.contents.get(id).unit)
    }

    /// The unit as a generation was launched with it; the current one for a generation that is gone.
    pub(super) fn unit_of(&self, number: Gen) -> Arc<Unit> {
        self.unit(self.s.generation(number).map_or(self.s.content, |g| g.content))
    }

    /// Asks for a process, and remembers it until it is reaped.
    pub(super) fn spawn(
        &mut self,
        role: Role,
        content: ContentId,
        number: Option<Gen>,
        environment: Vec<(String, String)>,
    ) -> Proc {
        let proc = Proc(self.s.next_proc);
        self.s.next_proc += 1;
        self.s.procs.push(Owned { proc, generation: number, role, pid: None, until: None });
        let generation = number.and_then(|g| self.s.generation_mut(g));
        let (slot, handover) = generation.map_or((0, false), |g| {
            g.empty = false;
            (g.slot, g.handover)
        });
        let place = number.map(|number| self.s.place(number));
        let goes_first = place == Some(Place::New) && self.s.current.is_some();
        let content = self.contents.get(content).clone();
        self.push(Action::Spawn(Spawn {
            proc,
            role,
            content,
            generation: number,
            slot,
            handover,
            if_gone: match place {
                Some(Place::Current | Place::Draining | Place::Rescue | Place::Instance) => IfGone::TakeNew,
                Some(Place::New) | None => IfGone::Refuse,
            },
            goes_first,
            environment,
        }));
        proc
    }

    /// What happens.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Boot => self.boot(),
            Event::Command { req, command } => self.command(req, command),
            Event::Answered(ticket, answer) => self.answered(ticket, answer),
            Event::Sockets { steered } => self.s.steered = Some(steered),
            Event::Traffic => self.traffic(),
            Event::Accepted { conn, socket, source } => self.accepted(conn, socket, source),
            Event::Spawned { proc, pid } => self.spawned(proc, pid),
            Event::SpawnFailed { proc, failure } => self.spawn_failed(proc, &failure),
            Event::Said { proc, line } => self.command_said(proc, line),
            Event::Exited { proc, exit, beside } => self.exited(proc, exit, beside),
            Event::Emptied(generation) => self.emptied(generation),
            Event::Notified { generation, from, message } => self.notified(generation, from, &message),
            Event::Listened { generation, missing } => self.listened(generation, missing),
            Event::Stray { slot } => self.stray(slot),
            Event::SinkConnected(generation) => self.sink_connected(generation),
            Event::RelayEnded(relayed) => self.relay_ended(relayed),
            Event::Memory(generation, seen) => self.memory(generation, &seen),
            Event::OomKilled(generation, count) => self.oom_killed(generation, count),
            Event::Tick => self.tick(),
        }
        self.follow_up();
        self.settle();
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer) {
        match answer {
            Answer::Loaded(result) => self.loaded(ticket, result),
            Answer::Opened { content, result } => self.opened(ticket, content, result),
            Answer::BinaryChecked { content, result } => self.binary_checked(ticket, content, result),
            Answer::Probed { generation, result } => self.probed(ticket, generation, result),
            Answer::DrainState { generation, half_open, queued, flows } => {
                self.drain_state(ticket, generation, half_open + queued, flows);
            }
            Answer::SlotState { slot, queued, migrated } => self.slot_state(ticket, slot, queued, migrated),
            Answer::Looked(seen) => self.looked(ticket, &seen.new, seen.old.as_ref()),
            Answer::Connections { established, arrived } => self.connections(ticket, established, arrived),
        }
    }

    fn spawned(&mut self, proc: Proc, pid: i32) {
        let Some(owned) = self.s.procs.iter_mut().find(|owned| owned.proc == proc && owned.pid.is_none())
        else {
            return;
        };
        owned.pid = Some(pid);
        let owned = *owned;
        if let Some(generation) = owned.generation.and_then(|number| self.s.generation_mut(number)) {
            generation.empty = false;
            generation.had_process = true;
        }
        match owned.role {
            Role::Main { worker, .. } => self.main_spawned(owned, worker, pid),
            Role::Instance(_) => self.main_spawned(owned, 0, pid),
            Role::StartPre(_)
            | Role::StartPost(_)
            | Role::Stop(_)
            | Role::StopPost(_)
            | Role::Reload(_)
            | Role::PreFlight(_)
            | Role::OnSuccess(_)
            | Role::OnFailure(_)
            | Role::Health
            | Role::Analysis(_) => {}
        }
    }

    fn spawn_failed(&mut self, proc: Proc, failure: &SpawnFailure) {
        let Some(at) = self.s.procs.iter().position(|owned| owned.proc == proc && owned.pid.is_none()) else {
            return;
        };
        let owned = self.s.procs.remove(at);
        if let Some(number) = owned.generation
            && self.s.procs_of(number).next().is_none()
            && let Some(generation) = self.s.generation_mut(number)
            && !generation.had_process
        {
            generation.empty = true;
        }
        self.proc_ended(owned, &End::not_started(failure));
    }

    fn exited(&mut self, proc: Proc, exit: Exit, beside: Beside) {
        let Some(at) = self.s.procs.iter().position(|owned| owned.proc == proc && owned.pid.is_some()) else {
            return;
        };
        let owned = self.s.procs.remove(at);
        let unit = match owned.generation {
            Some(number) => self.unit_of(number),
            None => self.unit(self.s.content),
        };
        let end = match owned.role {
            Role::Main { .. } | Role::Instance(_) => End::of_main(exit, &unit.service),
            Role::StartPre(_)
            | Role::StartPost(_)
            | Role::Stop(_)
            | Role::StopPost(_)
            | Role::Reload(_)
            | Role::PreFlight(_)
            | Role::OnSuccess(_)
            | Role::OnFailure(_)
            | Role::Health
            | Role::Analysis(_) => End::of_command(exit),
        };
        self.proc_ended(owned, &end.beside(beside));
    }

    /// A process gets SIGKILL by itself, apart from its generation's stop: it is not waited for for ever.
    pub(super) fn give_up_later(&mut self, proc: Proc) {
        let until = self.now.after(last_patience(&self.unit(self.s.content).service));
        if let Some(owned) = self.s.procs.iter_mut().find(|owned| owned.proc == proc) {
            owned.until = owned.until.or(until);
        }
    }

    /// What was killed by itself and is still there never will be gone: whoever waits for it goes on.
    pub(super) fn tick_procs(&mut self) {
        let now = self.now;
        let due = |owned: &Owned| owned.until.is_some_and(|until| until <= now);
        while let Some(at) = self.s.procs.iter().position(due) {
            let owned = self.s.procs.remove(at);
            let main = matches!(owned.role, Role::Main { .. } | Role::Instance(_));
            let what = if main { Target::Proc(owned.proc) } else { Target::ProcTree(owned.proc) };
            self.push(Action::GiveUp(what));
            let text = "did not end though it was killed".to_owned();
            self.proc_ended(owned, &End::given_up(Word::Timeout, text));
        }
    }

    /// A process is not there any more, or never was, or is given up.
    fn proc_ended(&mut self, owned: Owned, end: &End) {
        match (owned.role, owned.generation) {
            (Role::Main { worker, .. }, Some(number)) => self.main_ended(number, worker, owned, end),
            (Role::Instance(_), Some(number)) => self.main_ended(number, 0, owned, end),
            (Role::StartPre(index), Some(number)) => self.pre_ended(number, index, end),
            (Role::StartPost(index), Some(number)) => self.post_ended(number, index, end),
            (Role::Stop(index), Some(number)) => self.stop_command_ended(number, index, owned.proc),
            (Role::StopPost(index), Some(number)) => self.stop_post_ended(number, index, owned.proc),
            (Role::Health, Some(number)) => self.health_ended(number, owned.proc, end),
            (Role::Reload(index), _) => self.reload_command_ended(index, owned.proc, end),
            (Role::Analysis(index), _) => self.analysis_ended(index, owned.proc, end),
            (Role::PreFlight(_), _) => self.pre_flight_ended(owned.proc, end),
            (Role::OnSuccess(_) | Role::OnFailure(_), _) => self.hook_ended(owned.proc, end),
            (
                Role::Main { .. }
                | Role::Instance(_)
                | Role::StartPre(_)
                | Role::StartPost(_)
                | Role::Stop(_)
                | Role::StopPost(_)
                | Role::Health,
                None,
            ) => {}
        }
        self.follow_up();
        if let Some(number) = owned.generation {
            self.stop_progress(number);
        }
    }

    /// What follows from the state, whatever the event was. The order matters:
    /// a stop that has ended lets a job or a remembered reload begin (so it is first, and people before the unit itself);
    /// these launch, which decides where connections go; only then can a left slot be looked at, as somebody may serve
    /// it by now; then nothing changes any more, and it is known whether anybody waits for traffic or idleness, which
    /// sockets and contents are needed, and what to show.
    fn settle(&mut self) {
        let rules: [fn(&mut Self); 10] = [
            Self::finish_down,
            Self::continue_job,
            Self::begin_queued,
            Self::settle_handover,
            Self::steer,
            Self::check_dirty_slots,
            Self::keep_idle_count,
            Self::rearm,
            Self::keep_sockets,
            Self::show,
        ];
        for rule in rules {
            rule(self);
            self.follow_up();
        }
    }

    /// Closes what nobody needs any more, and forgets contents that nobody refers to.
    fn keep_sockets(&mut self) {
        let needed = self.s.sockets_needed();
        if self.s.held.iter().any(|held| !needed.contains(held)) {
            self.s.held.retain(|held| needed.contains(held));
            let held = self.s.held.clone();
            self.push(Action::KeepSockets(held));
        }
        if self.contents.is_many() {
            let needed = self.s.contents_needed();
            let served = self.s.content;
            self.contents.prune(served, &needed);
        }
    }

    /// Says it when the unit's state has changed: the one place that does.
    fn show(&mut self) {
        let state = self.s.state();
        if matches!(
            state,
            UnitState::Listening | UnitState::Running | UnitState::Draining | UnitState::Backoff
        ) || (matches!(state, UnitState::Stopped | UnitState::Failed)
            && self.s.shown != UnitState::Pending)
        {
            self.s.settled = true;
        }
        if state == self.s.shown {
            return;
        }
        let lasted = self.now.since(self.s.since);
        let from = self.s.shown;
        self.note_phase(from, lasted);
        self.s.shown = state;
        self.s.since = self.now;
        let why = self.s.why_now(self.now);
        let generation = match &self.s.reload {
            Some(reload) => reload.stage.new_generation(),
            None => self.s.current,
        };
        self.announce(Announcement::State { from, to: state, why, lasted, generation });
    }
}
