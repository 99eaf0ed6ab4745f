//! Whose doing it was that state did not get from one generation to the next.

use serde::{Deserialize, Serialize};

/// Why a transfer of state failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose doing it was.
    pub fault: Fault,
    /// For people.
    pub why: String,
}

/// Whose doing it was that a transfer of state failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Who gave missed the time, broke the protocol, reported an error or died.
    Source,
    /// Who took refused the state, broke the protocol or died; its process tells which.
    Sink,
    /// Who took did not acknowledge in time: whether it has the state nobody knows.
    SinkSilent,
    /// It was given up, or a newer connection has replaced one of the two.
    Cancelled,
}
