//! One generation: its phases with their deadlines inside.

use super::{End, Health, Quiesce, StopPlan, StopStep, Window, Worker};
use crate::machine::event::{Conn, ContentId, Gen, Missing};
use crate::time::Monotime;
use serde::{Deserialize, Serialize};

/// What a generation is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The service.
    Full,
    /// One connection of an `Accept` unit.
    Instance { conn: Conn, socket: usize, source: String, delivered: bool },
    /// Serves what a dead generation left on its slot, and nothing else.
    Rescue { left: u32 },
}

/// Where a generation is on its way. A deadline lives in the phase that it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// From launch to ready.
    Starting { step: StartStep, deadline: Option<Monotime> },
    /// Ready.
    Up,
    /// Weight 0: waits until its slot is empty, then is stopped.
    Quiescing { wait: Quiesce, plan: StopPlan },
    /// Being stopped, or cleaned up after.
    Stopping { step: StopStep, plan: StopPlan },
}

/// The way from launch to ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StartStep {
    /// An `ExecStartPre` runs.
    Pre { index: u32 },
    /// Main processes have not all said what their `Type` asks for.
    Mains,
    /// An `ExecStartPost` runs.
    Post { index: u32 },
    /// `WarmupDelay`.
    Warmup { until: Monotime },
    /// Health checks, or the probe of a steered socket.
    Checking,
}

/// What a generation listens on, where its unit has `InterceptBind` (contract section 5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Listens {
    /// On nothing yet.
    #[default]
    Nowhere,
    /// Not on all that its predecessor listened on; a time: no longer waited for than this.
    Partly { missing: Missing, until: Option<Monotime> },
    /// On everything that counts.
    Everywhere,
}

/// One launch of the unit's service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Generation {
    pub(crate) number: Gen,
    pub(crate) content: ContentId,
    pub(crate) kind: Kind,
    pub(crate) slot: u32,
    pub(crate) steered: bool,
    pub(crate) handover: bool,
    pub(crate) launched: Monotime,
    pub(crate) ready_at: Option<Monotime>,
    pub(crate) phase: Phase,
    pub(crate) workers: Vec<Worker>,
    pub(crate) listens: Listens,
    /// Whether nothing of its tree lives.
    pub(crate) empty: bool,
    /// Whether anything was started since it was last empty.
    pub(crate) had_process: bool,
    /// Whether users' connections were ever steered to its slot.
    pub(crate) served: bool,
    /// Whether its slot was seen empty after it got weight 0.
    pub(crate) drained: bool,
    pub(crate) end: Option<End>,
    /// Whether it got a timeout once more, because nobody was awake when it passed.
    pub(crate) spared: bool,
    /// What is left of it cannot be killed, and nobody waits for it any more.
    pub(crate) given_up: bool,
    pub(crate) status_text: Option<String>,
    /// How often its STATUS was announced.
    pub(crate) told: Window,
    /// What a process that may not speak has said, and a sentence about it.
    pub(crate) unheard: Option<(String, String)>,
    pub(crate) health: Health,
}

impl Generation {
    pub(crate) fn lives(&self) -> bool {
        self.workers.iter().any(|worker| worker.proc.is_some())
    }

    pub(crate) fn first_pid(&self) -> Option<i32> {
        self.workers.iter().find_map(|worker| worker.pid)
    }

    pub(crate) fn step(&self) -> Option<StartStep> {
        match self.phase {
            Phase::Starting { step, .. } => Some(step),
            Phase::Up | Phase::Quiescing { .. } | Phase::Stopping { .. } => None,
        }
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    pub(crate) fn pids(&self) -> Vec<i32> {
        self.workers.iter().filter_map(|worker| worker.pid).collect()
    }

    pub(crate) fn kill_at(&self) -> Option<Monotime> {
        match &self.phase {
            Phase::Quiescing { plan, .. } => plan.clock.end(),
            Phase::Stopping {
                step: StopStep::Signalled { deadline } | StopStep::Exec { deadline, .. },
                ..
            } => *deadline,
            Phase::Stopping { step: StopStep::Killed { .. } | StopStep::Post { .. }, .. }
            | Phase::Starting { .. }
            | Phase::Up => None,
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        let phase = match &self.phase {
            Phase::Starting { step: StartStep::Warmup { until }, deadline } => {
                [Some(*until), *deadline].into_iter().flatten().min()
            }
            Phase::Starting {
                step: StartStep::Pre { .. } | StartStep::Mains | StartStep::Post { .. } | StartStep::Checking,
                deadline,
            } => *deadline,
            Phase::Up => None,
            Phase::Quiescing { wait, .. } => wait.next_deadline(),
            Phase::Stopping { step, .. } => step.deadline(),
        };
        let workers = self.workers.iter().filter_map(Worker::next_deadline);
        let listens = match (&self.phase, &self.listens) {
            (
                Phase::Starting { step: StartStep::Mains, .. },
                Listens::Partly { missing: Missing::Learned(_), until },
            ) => *until,
            (_, Listens::Nowhere | Listens::Everywhere | Listens::Partly { .. }) => None,
        };
        workers.chain(phase).chain(listens).chain(self.health.next_deadline()).min()
    }
}
