//! What the unit's machine remembers, and the turn that changes it.

use super::event::{
    Action, Announcement, Content, ContentId, Event, Exit, Gen, Proc, ReloadRecord, Req, Role, Spawn,
    Steering, UnitState,
};
use super::generation::{Generation, Phase};
use super::hooks::HookRun;
use super::reload::{Queued, Reload};
use super::restart::{End, Window};
use crate::time::Monotime;
use crate::unit::Unit;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Signal numbers as Linux has them on every architecture that aeternad runs on.
pub(super) const SIGHUP: i32 = 1;
pub(super) const SIGKILL: i32 = 9;
pub(super) const SIGCONT: i32 = 18;

/// Every parsed version of the unit that something still refers to. Never empty.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    first: Content,
    more: Vec<Content>,
}

impl Contents {
    pub(super) fn new(first: Content) -> Contents {
        Contents { first, more: Vec::new() }
    }

    /// The content of this id. Every id that the state holds is here: `restore` refuses a state of which one
    /// is missing, and [`Contents::prune`] keeps what it is told to.
    pub(super) fn get(&self, id: ContentId) -> &Content {
        self.find(id).unwrap_or(&self.first)
    }

    pub(super) fn find(&self, id: ContentId) -> Option<&Content> {
        self.all().find(|content| content.id == id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Content> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn is_many(&self) -> bool {
        !self.more.is_empty()
    }

    pub(super) fn add(&mut self, content: Content) {
        if self.find(content.id).is_none() {
            self.more.push(content);
        }
    }

    /// Drops what is not in `keep`; the one that is served is always kept, as the first.
    pub(super) fn prune(&mut self, served: ContentId, keep: &[ContentId]) {
        if self.first.id != served
            && let Some(at) = self.more.iter().position(|content| content.id == served)
        {
            std::mem::swap(&mut self.first, &mut self.more[at]);
        }
        self.more.retain(|content| keep.contains(&content.id));
    }
}

/// What the unit is while no generation is its current one and no reload is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Rest {
    Pending,
    Listening,
    Backoff { until: Monotime, then: Then },
    Stopped,
    Failed,
}

/// What a back-off ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    Launch,
    Listen,
}

/// Whether the shell watches the sockets for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Watch {
    Off,
    Armed,
    /// A limit was hit: armed again then.
    Paused(Monotime),
}

/// `start` or `restart` under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) kind: JobKind,
    pub(super) reqs: Vec<Req>,
    pub(super) phase: JobPhase,
    /// Whether it launches a service that would otherwise wait for traffic.
    pub(super) launch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum JobKind {
    Start,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum JobPhase {
    /// A `start` that waits for the end of a stop.
    Waiting,
    Loading,
    Opening(ContentId),
    /// A `restart` whose content is ready to be launched when the old one is gone.
    Stopping(ContentId),
    Launched,
}

/// The unit is being stopped, or was: nothing starts until a `start`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Down {
    pub(super) reqs: Vec<Req>,
    pub(super) close: bool,
    pub(super) done: bool,
}

/// A process that was started and has not been reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owned {
    pub(super) proc: Proc,
    pub(super) generation: Option<Gen>,
    pub(super) role: Role,
    pub(super) pid: Option<i32>,
}

/// Counting established connections until nobody is there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Idle {
    pub(super) next: Option<Monotime>,
    pub(super) quiet: u32,
}

/// A slot whose generation died without having been drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirtySlot {
    pub(super) slot: u32,
    pub(super) asked: bool,
    /// Connections that wait there, and were counted as stranded.
    pub(super) stranded: u32,
}

/// Everything that the machine remembers but the contents themselves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) shown: UnitState,
    pub(super) since: Monotime,
    pub(super) why: String,
    /// What was promoted last: what an automatic restart launches.
    pub(super) content: ContentId,
    /// What was promoted before that.
    pub(super) previous: Option<ContentId>,
    pub(super) generations: Vec<Generation>,
    pub(super) procs: Vec<Owned>,
    pub(super) next_generation: u32,
    pub(super) next_proc: u32,
    pub(super) next_probe: u32,
    /// The generation that serves, or that starts or stops where none serves.
    pub(super) current: Option<Gen>,
    pub(super) last_number: u32,
    pub(super) rest: Rest,
    pub(super) watch: Watch,
    pub(super) job: Option<Job>,
    pub(super) down: Option<Down>,
    pub(super) reload: Option<Reload>,
    pub(super) queued: Option<Queued>,
    /// How many answers to `Load` nobody waits for any more.
    pub(super) stale_loads: u32,
    pub(super) held: Vec<ContentId>,
    pub(super) starts: Window,
    pub(super) triggers: Window,
    pub(super) attempt: u32,
    pub(super) restarts: u32,
    pub(super) result: Option<String>,
    pub(super) idle: Option<Idle>,
    pub(super) idle_stop: bool,
    pub(super) steered: Option<bool>,
    pub(super) steering: Steering,
    pub(super) dirty: Vec<DirtySlot>,
    pub(super) hooks: VecDeque<HookRun>,
    pub(super) last_reload: Option<(ReloadRecord, Monotime)>,
    pub(super) refuse_reloads: bool,
    pub(super) shutdown: bool,
    pub(super) settled: bool,
    pub(super) ended: Option<u8>,
    pub(super) last_status: Option<u8>,
    pub(super) pending: Vec<String>,
}

impl State {
    pub(super) fn generation(&self, number: Gen) -> Option<&Generation> {
        self.generations.iter().find(|g| g.number == number)
    }

    pub(super) fn generation_mut(&mut self, number: Gen) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|g| g.number == number)
    }

    /// The current generation, if it is ready and nobody stops it.
    pub(super) fn serving(&self) -> Option<&Generation> {
        self.current.and_then(|g| self.generation(g)).filter(|g| matches!(g.phase, Phase::Up))
    }

    pub(super) fn place(&self, number: Gen) -> Place {
        use super::generation::Kind;
        match self.generation(number).map(|g| &g.kind) {
            Some(Kind::Instance { .. }) => return Place::Instance,
            Some(Kind::Rescue { .. }) => return Place::Rescue,
            Some(Kind::Full) | None => {}
        }
        if self.reload.as_ref().is_some_and(|reload| reload.new == Some(number)) {
            Place::New
        } else if self.current == Some(number) {
            Place::Current
        } else {
            Place::Draining
        }
    }

    /// Whose sockets are needed.
    fn sockets_needed(&self) -> Vec<ContentId> {
        let mut needed: Vec<ContentId> = Vec::with_capacity(4);
        if !self.down.as_ref().is_some_and(|down| down.close) {
            needed.push(self.content);
        }
        needed.extend(self.generations.iter().map(|g| g.content));
        needed.extend(self.reload.as_ref().and_then(|reload| reload.content));
        needed.extend(self.job.as_ref().and_then(|job| match job.phase {
            JobPhase::Opening(content) | JobPhase::Stopping(content) => Some(content),
            JobPhase::Waiting | JobPhase::Loading | JobPhase::Launched => None,
        }));
        needed
    }

    /// Every content that the state refers to.
    pub(super) fn contents_needed(&self) -> Vec<ContentId> {
        let mut needed = self.sockets_needed();
        needed.push(self.content);
        needed.extend(self.previous);
        needed.extend(self.reload.as_ref().map(|reload| reload.old_content));
        needed.extend(self.hooks.iter().map(|hook| hook.content));
        needed
    }

    /// Whether the unit was asked to stop, and nothing may start.
    pub(super) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    pub(super) fn procs_of(&self, number: Gen) -> impl Iterator<Item = &Owned> {
        self.procs.iter().filter(move |owned| owned.generation == Some(number))
    }
}

/// What a generation is to its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Current,
    /// Launched by the reload that is under way.
    New,
    Draining,
    Rescue,
    Instance,
}

/// One event being handled: the only writer of [`State`].
pub(super) struct Turn<'a> {
    pub(super) now: Monotime,
    pub(super) contents: &'a mut Contents,
    pub(super) s: &'a mut State,
    pub(super) out: &'a mut Vec<Action>,
}

impl Turn<'_> {
    pub(super) fn push(&mut self, action: Action) {
        self.out.push(action);
    }

    pub(super) fn announce(&mut self, fact: Announcement) {
        self.out.push(Action::Announce(fact));
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
        self.s.procs.push(Owned { proc, generation: number, role, pid: None });
        let generation = number.and_then(|g| self.s.generation_mut(g));
        let (slot, handover) = generation.map_or((0, false), |g| {
            g.empty = false;
            (g.slot, g.handover)
        });
        let content = self.contents.get(content).clone();
        self.push(Action::Spawn(Spawn {
            proc,
            role,
            content,
            generation: number,
            slot,
            handover,
            environment,
        }));
        proc
    }

    /// What happens.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Boot => self.boot(),
            Event::Command { req, command } => self.command(req, command),
            Event::Loaded(result) => self.loaded(result),
            Event::Opened { content, result } => self.opened(content, result),
            Event::Sockets { steered } => self.s.steered = Some(steered),
            Event::BinaryChecked { content, result } => self.binary_checked(content, result),
            Event::Traffic => self.traffic(),
            Event::Accepted { conn, socket, source } => self.accepted(conn, socket, source),
            Event::Spawned { proc, pid } => self.spawned(proc, pid),
            Event::SpawnFailed { proc, failure } => self.spawn_failed(proc, &failure),
            Event::Exited { proc, exit } => self.exited(proc, exit),
            Event::Emptied(generation) => self.emptied(generation),
            Event::Notified { generation, from, message } => self.notified(generation, from, &message),
            Event::Probed { generation, probe, result } => self.probed(generation, probe, result),
            Event::DrainState { generation, half_open, queued } => {
                self.drain_state(generation, half_open, queued);
            }
            Event::SlotState { slot, queued, migrated } => self.slot_state(slot, queued, migrated),
            Event::Connections { established, arrived } => self.connections(established, arrived),
            Event::Tick => self.tick(),
        }
        self.settle();
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
            | Role::Health => {}
        }
    }

    fn spawn_failed(&mut self, proc: Proc, failure: &super::event::SpawnFailure) {
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

    fn exited(&mut self, proc: Proc, exit: Exit) {
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
            | Role::Health => End::of_command(exit),
        };
        self.proc_ended(owned, &end);
    }

    /// A process is not there any more, or never was.
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
        if let Some(number) = owned.generation {
            self.stop_progress(number);
        }
    }

    /// What follows from the state, whatever the event was.
    fn settle(&mut self) {
        self.finish_down();
        self.continue_job();
        self.begin_queued();
        self.steer();
        self.check_dirty_slots();
        self.keep_idle_count();
        self.rearm();
        self.keep_sockets();
        self.show();
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
        let why = self.s.why.clone();
        self.announce(Announcement::State { from, to: state, why, lasted });
    }
}
