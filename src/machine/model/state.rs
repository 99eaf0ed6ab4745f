//! What the unit's machine remembers.

use super::{Generation, HookRun, Kept, Kind, Phase, Queued, Reload, Window};
use crate::machine::event::{
    Content, ContentId, Gen, Proc, Relayed, ReloadRecord, Req, Role, SteerBy, Steering, Ticket, UnitState,
};
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Signal numbers as Linux has them on every architecture that aeternad runs on.
pub(crate) const SIGHUP: i32 = 1;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGCONT: i32 = 18;

/// Every parsed version of the unit that something still refers to. Never empty.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    first: Content,
    more: Vec<Content>,
}

impl Contents {
    pub(crate) fn new(first: Content) -> Contents {
        Contents { first, more: Vec::new() }
    }

    /// The content of this id. Every id that the state holds is here: `restore` refuses a state of which one
    /// is missing, and [`Contents::prune`] keeps what it is told to.
    pub(crate) fn get(&self, id: ContentId) -> &Content {
        self.find(id).unwrap_or(&self.first)
    }

    pub(crate) fn find(&self, id: ContentId) -> Option<&Content> {
        self.all().find(|content| content.id == id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Content> {
        std::iter::once(&self.first).chain(&self.more)
    }

    pub(crate) fn is_many(&self) -> bool {
        !self.more.is_empty()
    }

    pub(crate) fn add(&mut self, content: Content) {
        if self.find(content.id).is_none() {
            self.more.push(content);
        }
    }

    /// Drops what is not in `keep`; the one that is served is always kept, as the first.
    pub(crate) fn prune(&mut self, served: ContentId, keep: &[ContentId]) {
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
pub(crate) enum Rest {
    Pending,
    Listening,
    Backoff { until: Monotime, then: Then },
    Stopped,
    Failed,
}

/// What a unit is about, as one value: of everything that is under way, what decides.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Course<'a> {
    /// It is being stopped, or was (`done`): nothing starts until a `start`.
    Down { done: bool },
    /// A reload is under way, with a generation that serves or without.
    Reloading(&'a Reload),
    /// The current generation is on its way to ready.
    Starting,
    /// It serves.
    Serving,
    /// It ends.
    Ending,
    /// There is none.
    Resting(Rest),
}

/// What a back-off ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Then {
    Launch,
    Listen,
}

/// Whether the shell watches the sockets for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Watch {
    Off,
    Armed,
    /// A limit was hit: armed again then.
    Paused(Monotime),
}

/// `start` or `restart` under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) kind: JobKind,
    pub(crate) reqs: Vec<Req>,
    pub(crate) phase: JobPhase,
    /// Whether it launches a service that would otherwise wait for traffic.
    pub(crate) launch: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobKind {
    Start,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobPhase {
    /// A `start` that waits for the end of a stop.
    Waiting,
    Loading(Ticket),
    Opening(Asked<ContentId>),
    /// A `restart` whose content is ready to be launched when the old one is gone.
    Stopping(ContentId),
    Launched,
}

/// The unit is being stopped, or was: nothing starts until a `start`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Down {
    pub(crate) reqs: Vec<Req>,
    pub(crate) close: bool,
    pub(crate) done: bool,
    /// aeternad stopped, and nobody had stopped the unit before.
    pub(crate) by_shutdown: bool,
}

/// A process that was started and has not been reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owned {
    pub(crate) proc: Proc,
    pub(crate) generation: Option<Gen>,
    pub(crate) role: Role,
    pub(crate) pid: Option<i32>,
    /// It was killed by itself, apart from its generation's stop: when it is given up if that was of no use.
    pub(crate) until: Option<Monotime>,
}

/// Counting established connections until nobody is there any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// `None` while the answer to the last count is awaited.
    pub(crate) next: Option<Monotime>,
    pub(crate) asked: Option<Ticket>,
    pub(crate) quiet: u32,
}

/// A question that is not answered yet, and what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked<T> {
    pub(crate) ticket: Ticket,
    pub(crate) what: T,
}

/// Whether somebody looks at a slot that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Look {
    /// As soon as somebody could serve what is there.
    Wanted,
    /// The answer is awaited.
    Asked(Ticket),
    /// It was looked at, and what is there waits.
    Done,
}

/// A slot whose generation died without having been drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DirtySlot {
    pub(crate) slot: u32,
    pub(crate) look: Look,
    /// Connections that wait there, and were counted as stranded.
    pub(crate) stranded: u32,
}

/// Everything that the machine remembers but the contents themselves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) shown: UnitState,
    pub(crate) since: Monotime,
    pub(crate) why: String,
    /// What was promoted last: what an automatic restart launches.
    pub(crate) content: ContentId,
    /// It, and what was promoted before it.
    pub(crate) kept: Kept,
    pub(crate) generations: Vec<Generation>,
    pub(crate) procs: Vec<Owned>,
    pub(crate) next_generation: u32,
    pub(crate) next_proc: u32,
    pub(crate) next_ticket: u32,
    /// The generation that serves, or that starts or stops where none serves.
    pub(crate) current: Option<Gen>,
    pub(crate) last_number: u32,
    pub(crate) rest: Rest,
    pub(crate) watch: Watch,
    pub(crate) job: Option<Job>,
    pub(crate) down: Option<Down>,
    pub(crate) reload: Option<Reload>,
    pub(crate) queued: Option<Queued>,
    pub(crate) held: Vec<ContentId>,
    pub(crate) starts: Window,
    pub(crate) triggers: Window,
    pub(crate) attempt: u32,
    pub(crate) restarts: u32,
    /// Somebody writes the program of a start: since when.
    pub(crate) busy_since: Option<Monotime>,
    pub(crate) result: Option<String>,
    pub(crate) idle: Option<Idle>,
    pub(crate) idle_stop: bool,
    pub(crate) steered: Option<bool>,
    pub(crate) steering: Steering,
    pub(crate) dirty: Vec<DirtySlot>,
    pub(crate) hooks: VecDeque<HookRun>,
    pub(crate) last_reload: Option<(ReloadRecord, Monotime)>,
    pub(crate) last_handover: Option<(Relayed, Monotime)>,
    pub(crate) refuse_reloads: bool,
    pub(crate) shutdown: bool,
    pub(crate) settled: bool,
    pub(crate) ended: Option<u8>,
    pub(crate) last_status: Option<u8>,
    /// What the service did at its last end, for the one who reads why it is not started again.
    pub(crate) last_end: String,
    pub(crate) pending: Vec<String>,
}

impl State {
    pub(crate) fn generation(&self, number: Gen) -> Option<&Generation> {
        self.generations.iter().find(|g| g.number == number)
    }

    pub(crate) fn generation_mut(&mut self, number: Gen) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|g| g.number == number)
    }

    /// The current generation, if it is ready and nobody stops it.
    pub(crate) fn serving(&self) -> Option<&Generation> {
        self.current.and_then(|g| self.generation(g)).filter(|g| matches!(g.phase, Phase::Up))
    }

    pub(crate) fn course(&self) -> Course<'_> {
        if let Some(down) = &self.down {
            return Course::Down { done: down.done };
        }
        if let Some(reload) = &self.reload {
            return Course::Reloading(reload);
        }
        match self.current.and_then(|g| self.generation(g)).map(|g| &g.phase) {
            Some(Phase::Starting { .. }) => Course::Starting,
            Some(Phase::Up) => Course::Serving,
            Some(Phase::Quiescing { .. } | Phase::Stopping { .. }) => Course::Ending,
            None => Course::Resting(self.rest),
        }
    }

    pub(crate) fn place(&self, number: Gen) -> Place {
        match self.generation(number).map(|g| &g.kind) {
            Some(Kind::Instance { .. }) => return Place::Instance,
            Some(Kind::Rescue { .. }) => return Place::Rescue,
            Some(Kind::Full) | None => {}
        }
        if self.reload.as_ref().is_some_and(|reload| reload.stage.new_generation() == Some(number)) {
            Place::New
        } else if self.current == Some(number) {
            Place::Current
        } else {
            Place::Draining
        }
    }

    /// Whose sockets are needed.
    pub(crate) fn sockets_needed(&self) -> Vec<ContentId> {
        let mut needed: Vec<ContentId> = Vec::with_capacity(4);
        if !self.down.as_ref().is_some_and(|down| down.close) {
            needed.push(self.content);
        }
        // An instance has its connection, and nothing else of the unit's sockets.
        let instance = |g: &&Generation| matches!(g.kind, Kind::Instance { .. });
        needed.extend(self.generations.iter().filter(|g| !instance(g)).map(|g| g.content));
        needed.extend(self.reload.as_ref().and_then(|reload| reload.stage.content()));
        needed.extend(self.job.as_ref().and_then(|job| match job.phase {
            JobPhase::Opening(Asked { what: content, .. }) | JobPhase::Stopping(content) => Some(content),
            JobPhase::Waiting | JobPhase::Loading(_) | JobPhase::Launched => None,
        }));
        needed
    }

    /// Every content that the state refers to.
    pub(crate) fn contents_needed(&self) -> Vec<ContentId> {
        let mut needed = self.sockets_needed();
        needed.push(self.content);
        needed.extend(self.generations.iter().map(|g| g.content));
        needed.extend(self.kept.all().map(|entry| entry.content));
        needed.extend(self.reload.as_ref().map(|reload| reload.old_content));
        needed.extend(self.hooks.iter().map(|hook| hook.content));
        needed
    }

    /// Whether the unit was asked to stop, and nothing may start.
    pub(crate) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    pub(crate) fn procs_of(&self, number: Gen) -> impl Iterator<Item = &Owned> {
        self.procs.iter().filter(move |owned| owned.generation == Some(number))
    }
}

/// What a generation is to its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Current,
    /// Launched by the reload that is under way.
    New,
    Draining,
    Rescue,
    Instance,
}

impl State {
    pub(crate) fn new(content: ContentId) -> State {
        State {
            shown: UnitState::Pending,
            since: Monotime::default(),
            why: String::new(),
            content,
            kept: Kept::new(content),
            generations: Vec::new(),
            procs: Vec::new(),
            next_generation: 1,
            next_proc: 1,
            next_ticket: 1,
            current: None,
            last_number: 0,
            rest: Rest::Pending,
            watch: Watch::Off,
            job: None,
            down: None,
            reload: None,
            queued: None,
            held: vec![content],
            starts: Window::default(),
            triggers: Window::default(),
            attempt: 0,
            restarts: 0,
            busy_since: None,
            result: None,
            idle: None,
            idle_stop: false,
            steered: None,
            steering: Steering { serving: 0, canary: None, by: SteerBy::Connection },
            dirty: Vec::new(),
            hooks: VecDeque::new(),
            last_reload: None,
            last_handover: None,
            refuse_reloads: false,
            shutdown: false,
            settled: false,
            ended: None,
            last_status: None,
            last_end: String::new(),
            pending: Vec::new(),
        }
    }
}
