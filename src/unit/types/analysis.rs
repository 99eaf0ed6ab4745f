//! `[Analysis]`: the figures by which a soak is judged.

use super::{Command, HttpTarget};
use crate::proto::exposition::Selector;
use crate::time::Span;

/// `[Analysis] Inconclusive`: what the end of a soak means when a check could not be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inconclusive {
    /// The new generation is promoted.
    Promote,
    /// It is rolled back.
    Rollback,
}

/// `[Analysis]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// `HttpGet`: a page in the Prometheus text format; `${AETERNA_GENERATION}` in it is the number of who is asked.
    pub http_get: Option<HttpTarget>,
    /// `Interval`, from the beginning of one look to that of the next.
    pub interval: Span,
    /// `Timeout` of one look.
    pub timeout: Span,
    /// `FailureThreshold` of `Value` and `Exec`: looks in a row.
    pub failure_threshold: u32,
    /// `Inconclusive`.
    pub inconclusive: Inconclusive,
    /// `SoakTimeMax`: how long a soak may last while a check is open; `None`: as `SoakTime`.
    pub soak_time_max: Option<Span>,
    /// `[[Analysis.Check]]`.
    pub checks: Vec<AnalysisCheck>,
}

/// `[[Analysis.Check]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisCheck {
    /// `Name`: 1 to 32 characters of `[a-z0-9_-]`, unique.
    pub name: String,
    /// What is judged.
    pub kind: AnalysisKind,
    /// `Max`: percent for shares, a number for `Value`.
    pub max: Option<f64>,
    /// `MaxRelative`: a factor; `None` where it is switched off.
    pub max_relative: Option<f64>,
    /// `MinSamples`: requests of the new generation below which a share has not passed.
    pub min_samples: u64,
    /// `InitialDelay` from the start of the soak to the first look that counts; `None`: half of `SoakTime`.
    pub initial_delay: Option<Span>,
    /// `BlockOnFail`: false if a failure is only said.
    pub block_on_fail: bool,
}

/// What a check judges.
#[derive(Debug, Clone, PartialEq)]
pub enum AnalysisKind {
    /// `Bad` among `Of`: the increases of counters.
    Share {
        /// `Bad`.
        bad: Selector,
        /// `Of`.
        of: Selector,
    },
    /// The share of requests slower than `Slower`.
    Latency {
        /// `Histogram`, without `_bucket`.
        histogram: Selector,
        /// `Slower`; `None`: a bound that the old generation seldom exceeds.
        slower: Option<Span>,
    },
    /// `Value`: a selector, or one divided by another.
    Value {
        /// What stands alone or above the `/`.
        value: Selector,
        /// What stands below it.
        per: Option<Selector>,
    },
    /// `Exec`.
    Exec(Command),
}

impl AnalysisKind {
    /// What the check reads.
    pub fn selectors(&self) -> Vec<&Selector> {
        match self {
            AnalysisKind::Share { bad, of } => vec![bad, of],
            AnalysisKind::Latency { histogram, .. } => vec![histogram],
            AnalysisKind::Value { value, per } => std::iter::once(value).chain(per).collect(),
            AnalysisKind::Exec(_) => Vec::new(),
        }
    }
}
