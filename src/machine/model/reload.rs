//! The reload that is under way.

use super::{End, Handover, Judging};
use crate::machine::event::{ContentId, Gen, Outcome, Proc, Relayed, Req, Ticket};
use crate::proto::status::PhaseTime;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};

/// The reload that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Reload {
    pub(crate) req: Option<Req>,
    /// Who ended it by a command, and waits until it is over.
    pub(crate) waiters: Vec<Req>,
    pub(crate) asked: String,
    /// Whether it goes back to a content that was kept.
    pub(crate) back: bool,
    pub(crate) old: Option<Gen>,
    pub(crate) old_content: ContentId,
    pub(crate) old_pid: Option<i32>,
    /// How the old generation ended, if it did so by itself.
    pub(crate) old_end: Option<End>,
    /// The generation that it has launched, also when that is gone.
    pub(crate) launched: Option<Gen>,
    pub(crate) new_pid: Option<i32>,
    pub(crate) began: Monotime,
    pub(crate) phases: Vec<PhaseTime>,
    /// Whether the unit's state has changed since it began.
    pub(crate) shown: bool,
    /// The generation that has got REQUEST, and neither COMMIT nor RESUME yet.
    pub(crate) asked_for_state: Option<Gen>,
    /// How the handover ended.
    pub(crate) relayed: Option<Relayed>,
    pub(crate) stage: Stage,
    /// It got the time of a step again that nobody had seen pass: once.
    #[serde(default)]
    pub(crate) spared: bool,
    /// The analysis of the soak.
    #[serde(default)]
    pub(crate) judging: Option<Box<Judging>>,
}

/// Where a reload is, with what there is only then. What each stage means is one row of `table.rs`; what a generation
/// does by itself is in its own phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Nothing is launched, and nobody was told anything.
    Before(Before),
    /// `signal`: the running generation is being told to reload.
    Told { content: ContentId, told: Told, step: Telling },
    /// `replace`: the old generation is being stopped.
    StoppingOld { content: ContentId },
    /// The new generation is there, beside the old one if there is one.
    Beside { content: ContentId, new: Newcomer, step: Step },
    /// The new generation, if there is one, is being stopped.
    GivingUp { content: ContentId, new: Option<Newcomer>, why: GivenUp },
    /// `replace`: the previous content is started again.
    Restoring { content: ContentId, why: GivenUp },
}

/// What has to be known before anything is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Before {
    /// The file is being read.
    Loading(Ticket),
    /// New addresses are being bound.
    Opening { content: ContentId, asked: Ticket },
    /// The program is being checked; that takes as long as reading it.
    Binary { content: ContentId, asked: Ticket, deadline: Option<Monotime> },
    /// A pre-flight command runs; `late` when it was killed for taking too long.
    PreFlight { content: ContentId, index: u32, proc: Proc, deadline: Option<Monotime>, late: bool },
}

/// How a service is told to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Telling {
    /// An `ExecReload` runs.
    Command { index: u32, proc: Proc, deadline: Option<Monotime> },
    /// `notify-reload`: the signal was sent, READY=1 is awaited from each worker.
    AwaitReady { deadline: Option<Monotime> },
}

/// The launched generation, while it is not promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Newcomer {
    pub(crate) generation: Gen,
    /// State on its way; `None` if none is expected.
    pub(crate) handover: Option<Handover>,
}

/// What the new generation beside the old one is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// It is not ready yet.
    Starting,
    /// Both serve.
    Soaking(Soak),
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
    /// When is looked next whether time has passed that nobody saw: it is no soak.
    pub(crate) pulse: Option<Monotime>,
    pub(crate) weight: u8,
}

/// A reload that waits for the end of the one that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Queued {
    pub(crate) req: Option<Req>,
    pub(crate) reason: String,
}

impl Stage {
    /// The soak, if this is one.
    pub(crate) fn soak_mut(&mut self) -> Option<&mut Soak> {
        match self {
            Stage::Beside { step: Step::Soaking(soak), .. } => Some(soak),
            Stage::Before(_)
            | Stage::Told { .. }
            | Stage::StoppingOld { .. }
            | Stage::Beside { .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => None,
        }
    }

    /// The content that the reload goes to, once it is known.
    pub(crate) fn content(&self) -> Option<ContentId> {
        match self {
            Stage::Before(Before::Loading(_)) => None,
            Stage::Before(
                Before::Opening { content, .. }
                | Before::Binary { content, .. }
                | Before::PreFlight { content, .. },
            )
            | Stage::Told { content, .. }
            | Stage::StoppingOld { content }
            | Stage::Beside { content, .. }
            | Stage::GivingUp { content, .. }
            | Stage::Restoring { content, .. } => Some(*content),
        }
    }

    pub(crate) fn newcomer(&self) -> Option<&Newcomer> {
        match self {
            Stage::Beside { new, .. } => Some(new),
            Stage::GivingUp { new, .. } => new.as_ref(),
            Stage::Before(_) | Stage::Told { .. } | Stage::StoppingOld { .. } | Stage::Restoring { .. } => {
                None
            }
        }
    }

    pub(crate) fn newcomer_mut(&mut self) -> Option<&mut Newcomer> {
        match self {
            Stage::Beside { new, .. } => Some(new),
            Stage::GivingUp { new, .. } => new.as_mut(),
            Stage::Before(_) | Stage::Told { .. } | Stage::StoppingOld { .. } | Stage::Restoring { .. } => {
                None
            }
        }
    }

    /// The launched generation, while it lives and is not promoted.
    pub(crate) fn new_generation(&self) -> Option<Gen> {
        self.newcomer().map(|new| new.generation)
    }

    pub(crate) fn handover(&self) -> Option<Handover> {
        self.newcomer()?.handover
    }

    pub(crate) fn soak(&self) -> Option<&Soak> {
        match self {
            Stage::Beside { step: Step::Soaking(soak), .. } => Some(soak),
            Stage::Before(_)
            | Stage::Told { .. }
            | Stage::StoppingOld { .. }
            | Stage::Beside { step: Step::Starting, .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => None,
        }
    }

    /// A process of the reload itself, which belongs to no generation.
    pub(crate) fn process(&self) -> Option<Proc> {
        match self {
            Stage::Before(Before::PreFlight { proc, .. })
            | Stage::Told { step: Telling::Command { proc, .. }, .. } => Some(*proc),
            Stage::Before(Before::Loading(_) | Before::Opening { .. } | Before::Binary { .. })
            | Stage::Told { step: Telling::AwaitReady { .. }, .. }
            | Stage::StoppingOld { .. }
            | Stage::Beside { .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => None,
        }
    }

    /// The deadline of a step that no generation has a part in.
    pub(crate) fn own_deadline(&mut self) -> Option<&mut Monotime> {
        match self {
            Stage::Before(Before::Binary { deadline, .. } | Before::PreFlight { deadline, .. })
            | Stage::Told {
                step: Telling::Command { deadline, .. } | Telling::AwaitReady { deadline },
                ..
            } => deadline.as_mut(),
            Stage::Before(Before::Loading(_) | Before::Opening { .. })
            | Stage::StoppingOld { .. }
            | Stage::Beside { .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => None,
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        match self {
            Stage::Before(Before::Binary { deadline, .. } | Before::PreFlight { deadline, .. })
            | Stage::Told {
                step: Telling::Command { deadline, .. } | Telling::AwaitReady { deadline },
                ..
            } => *deadline,
            Stage::Beside { step: Step::Soaking(soak), .. } => {
                [soak.until, soak.next, soak.pulse].into_iter().flatten().min()
            }
            Stage::Before(Before::Loading(_) | Before::Opening { .. })
            | Stage::StoppingOld { .. }
            | Stage::Beside { step: Step::Starting, .. }
            | Stage::GivingUp { .. }
            | Stage::Restoring { .. } => None,
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
