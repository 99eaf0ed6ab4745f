//! The checks of one generation.

use super::Asked;
use crate::machine::event::{ProbeKind, Proc};
use crate::time::Monotime;
use serde::{Deserialize, Serialize};

/// The checks of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Health {
    pub(crate) step: HealthStep,
    pub(crate) passes: u32,
    /// It has accepted a connection, at least once.
    pub(crate) accepted: bool,
    pub(crate) fails: u32,
    /// How often in a row another generation answered.
    pub(crate) misses: u32,
    /// When the probe that is under way was asked for.
    pub(crate) since: Monotime,
    /// What the last one said that the generation answered itself, or why none was, for people.
    pub(crate) last: String,
}

/// Where the checks are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HealthStep {
    #[default]
    Off,
    /// The next one is due then.
    Waiting(Monotime),
    /// The shell probes.
    Probing(Asked<ProbeKind>),
    /// `Exec` runs.
    Running { proc: Proc, deadline: Option<Monotime> },
    /// `Exec` did not end in time, and was killed.
    Overdue(Proc),
}

impl Health {
    pub(crate) fn stop(&mut self) {
        if let HealthStep::Waiting(_) | HealthStep::Probing(_) = self.step {
            self.step = HealthStep::Off;
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotime> {
        match self.step {
            HealthStep::Waiting(at) => Some(at),
            HealthStep::Running { deadline, .. } => deadline,
            HealthStep::Off | HealthStep::Probing(_) | HealthStep::Overdue(_) => None,
        }
    }

    pub(crate) fn process(&self) -> Option<Proc> {
        match self.step {
            HealthStep::Running { proc, .. } | HealthStep::Overdue(proc) => Some(proc),
            HealthStep::Off | HealthStep::Waiting(_) | HealthStep::Probing(_) => None,
        }
    }
}
