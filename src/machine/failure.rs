//! Why a process could not be started.

use serde::{Deserialize, Serialize};

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFailure {
    /// For people: `cannot start app: exec /srv/app/bin: Permission denied`.
    pub text: String,
    /// Whether the machine or aeternad has too little of something just now (processes, memory, descriptors): that
    /// says nothing of the program.
    pub exhausted: bool,
    /// The exit code that stands for it: 127 not found, 126 not executable, else 1.
    pub code: u8,
    /// Whether what it was to run is gone, and nothing may run in its place: it is not tried again.
    pub gone: bool,
    /// Whether somebody is just writing its program (ETXTBSY): it is tried again soon, and that is no start.
    pub busy: bool,
}

impl SpawnFailure {
    /// What aeternad itself could not do, in words for people.
    pub fn ours(text: String) -> SpawnFailure {
        SpawnFailure { text, code: 1, exhausted: false, gone: false, busy: false }
    }
}
