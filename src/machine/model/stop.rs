//! The stop of one generation.

use crate::machine::event::Proc;
use crate::time::{Monotime, Span};
use crate::unit::Service;
use serde::{Deserialize, Serialize};

/// What was killed gets at least this long to go: a busy machine needs its time, too.
const LAST_PATIENCE: Span = Span::from_secs(5);

/// How long after the final signal something is waited for.
pub(crate) fn last_patience(service: &Service) -> Span {
    service.timeout_stop.max(LAST_PATIENCE)
}

/// How a stop is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Clock {
    /// Each step by itself: `TimeoutStopSec`.
    Each(Span),
    /// All of it: `DrainTimeout` from promotion or rollback.
    Until(Option<Monotime>),
}

impl Clock {
    pub(crate) fn deadline(self, now: Monotime) -> Option<Monotime> {
        match self {
            Clock::Each(span) => now.after(span),
            Clock::Until(end) => end,
        }
    }

    /// When everything has to be over, if that is known.
    pub(crate) fn end(self) -> Option<Monotime> {
        match self {
            Clock::Each(_) => None,
            Clock::Until(end) => end,
        }
    }

    /// Whichever of the two ends first.
    pub(crate) fn sooner(self, now: Monotime, other: Clock) -> Clock {
        match (self.deadline(now), other.deadline(now)) {
            (Some(a), Some(b)) if a <= b => self,
            (Some(_), None) => self,
            (Some(_) | None, _) => other,
        }
    }
}

/// What a stop consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopPlan {
    pub(crate) clock: Clock,
    /// Whether `ExecStop` is run: only if the service had started successfully.
    pub(crate) exec_stop: bool,
}

/// Where a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum StopStep {
    /// An `ExecStop` runs.
    Exec { index: u32, proc: Proc, deadline: Option<Monotime> },
    /// It is about to go by itself (STOPPING=1), or has got its stop signal.
    Signalled { deadline: Option<Monotime> },
    /// The final signal was sent; it is sent again now and then, for what was forked just then. `until`: what then still
    /// is there cannot be killed, and is given up.
    Killed { again: Monotime, pause: Span, until: Option<Monotime>, then: AfterKill },
    /// An `ExecStopPost` runs.
    Post { index: u32, proc: Proc, deadline: Option<Monotime> },
}

/// What follows when everything was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AfterKill {
    StopPost,
    Gone,
}

impl StopStep {
    pub(crate) fn deadline(self) -> Option<Monotime> {
        match self {
            StopStep::Exec { deadline, .. }
            | StopStep::Signalled { deadline }
            | StopStep::Post { deadline, .. } => deadline,
            StopStep::Killed { again, until, .. } => Some(until.map_or(again, |until| until.min(again))),
        }
    }
}
