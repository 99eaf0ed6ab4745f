//! The reload that is under way.

use super::{End, Handover};
use crate::machine::event::{ContentId, Gen, Outcome, Proc, Relayed, Req, Ticket};
use crate::proto::status::PhaseTime;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};

/// The reload that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reload {
    pub(crate) req: Option<Req>,
    /// Who ended it by a command, and waits until it is over.
    pub(crate) enders: Vec<Req>,
    pub(crate) asked: String,
    pub(crate) content: Option<ContentId>,
    pub(crate) old: Option<Gen>,
    pub(crate) old_content: ContentId,
    pub(crate) old_pid: Option<i32>,
    /// How the old generation ended, if it did so by itself.
    pub(crate) old_end: Option<End>,
    /// The launched generation, while it lives and is not promoted.
    pub(crate) new: Option<Gen>,
    pub(crate) launched: Option<Gen>,
    pub(crate) new_pid: Option<i32>,
    pub(crate) began: Monotime,
    pub(crate) phases: Vec<PhaseTime>,
    /// Whether the unit's state has changed since it began.
    pub(crate) shown: bool,
    /// State on its way; `None` if none is expected.
    pub(crate) handover: Option<Handover>,
    /// The generation that has got REQUEST, and neither COMMIT nor RESUME yet.
    pub(crate) asked_for_state: Option<Gen>,
    /// How the handover ended.
    pub(crate) relayed: Option<Relayed>,
    pub(crate) phase: ReloadPhase,
}

/// Where a reload is. What a generation does by itself is in its own phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum ReloadPhase {
    /// The file is being read.
    Loading(Ticket),
    /// New addresses are being bound.
    Opening(Ticket),
    /// The program is being checked; that takes as long as reading it.
    Binary { asked: Ticket, deadline: Option<Monotime> },
    /// A pre-flight command runs; `late` when it was killed for taking too long.
    PreFlight { index: u32, proc: Proc, deadline: Option<Monotime>, late: bool },
    /// `signal`: an `ExecReload` runs.
    Command { index: u32, proc: Proc, deadline: Option<Monotime>, told: Told },
    /// `signal`, `notify-reload`: the signal was sent, READY=1 is awaited from each worker.
    AwaitReady { deadline: Option<Monotime>, told: Told },
    /// `replace`: the old generation is being stopped.
    StoppingOld,
    /// The new generation is not ready yet.
    Starting,
    /// Both serve.
    Soaking(Soak),
    /// The new generation is being stopped.
    RollingBack { why: GivenUp },
    /// `replace`: the previous content is started again.
    Restoring { why: GivenUp },
}

/// How and why a reload is being given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GivenUp {
    pub(crate) outcome: Outcome,
    pub(crate) reason: String,
}

/// The soak and its equal steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Soak {
    pub(crate) began: Monotime,
    /// `None`: until somebody says so.
    pub(crate) until: Option<Monotime>,
    pub(crate) step: u32,
    pub(crate) next: Option<Monotime>,
    pub(crate) weight: u8,
}

/// A reload that waits for the end of the one that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Queued {
    pub(crate) req: Option<Req>,
    pub(crate) reason: String,
}

impl ReloadPhase {
    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        match self {
            ReloadPhase::Binary { deadline, .. }
            | ReloadPhase::PreFlight { deadline, .. }
            | ReloadPhase::Command { deadline, .. }
            | ReloadPhase::AwaitReady { deadline, .. } => *deadline,
            ReloadPhase::Soaking(soak) => [soak.until, soak.next].into_iter().flatten().min(),
            ReloadPhase::Loading(_)
            | ReloadPhase::Opening(_)
            | ReloadPhase::StoppingOld
            | ReloadPhase::Starting
            | ReloadPhase::RollingBack { .. }
            | ReloadPhase::Restoring { .. } => None,
        }
    }
}

/// When a service was told to reload, and which of its workers have said that they have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) at: Monotime,
    pub(crate) acked: Vec<u32>,
}

impl Told {
    pub(crate) fn at(now: Monotime) -> Told {
        Told { at: now, acked: Vec::new() }
    }

    /// Whether it was told only after it had begun to reload by itself, as MONOTONIC_USEC counts.
    pub(crate) fn is_after(&self, began: Monotime) -> bool {
        began.0 / 1_000 < self.at.0 / 1_000
    }
}
