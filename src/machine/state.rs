//! What the unit's machine remembers.

use super::event::{Content, ContentId, Gen, Proc, Relayed, ReloadRecord, Req, Role, Steering, UnitState};
use super::generation::{Generation, Phase};
use super::hooks::HookRun;
use super::reload::{Queued, Reload};
use super::restart::Window;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

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

    pub(super) fn is_many(&self) -> bool {
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
    pub(super) last_handover: Option<(Relayed, Monotime)>,
    pub(super) refuse_reloads: bool,
    pub(super) shutdown: bool,
    pub(super) settled: bool,
    pub(super) ended: Option<u8>,
    pub(super) last_status: Option<u8>,
    /// What the service did at its last end, for the one who reads why it is not started again.
    pub(super) last_end: String,
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
    pub(super) fn sockets_needed(&self) -> Vec<ContentId> {
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
