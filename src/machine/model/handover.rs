//! Where the state of the old generation is on its way to the new one.

use super::Quiesce;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};

/// Where the handover of a reload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Handover {
    /// Not begun: no sink has connected. A deadline runs once the new generation is otherwise ready.
    Awaited { until: Option<Monotime> },
    /// Steered on purpose: the new generation gets every new connection; the old one's queue is emptied first.
    Emptying { wait: Quiesce },
    /// The relay runs.
    Running {
        until: Option<Monotime>,
        began: Monotime,
        start_by: Option<Monotime>,
        /// The sink has connected anew, which ends the relay that runs.
        again: bool,
    },
    /// Acknowledged: the old generation waits for COMMIT or RESUME.
    Acknowledged,
    /// There is none, or it failed: the new generation starts cold.
    Cold,
    /// The reload was given up: the state goes back.
    GivingBack { until: Option<Monotime> },
}

impl Handover {
    /// Until when somebody is waited for.
    pub(crate) fn deadline(&self) -> Option<Monotime> {
        match self {
            Handover::Awaited { until }
            | Handover::Running { until, .. }
            | Handover::GivingBack { until } => *until,
            Handover::Emptying { .. } | Handover::Acknowledged | Handover::Cold => None,
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        match self {
            Handover::Awaited { until }
            | Handover::Running { until, .. }
            | Handover::GivingBack { until } => *until,
            Handover::Emptying { wait } => wait.next_deadline(),
            Handover::Acknowledged | Handover::Cold => None,
        }
    }
}
