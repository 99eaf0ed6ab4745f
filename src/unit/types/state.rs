//! `[State]`.

use crate::time::Span;

/// `[State]`: how a service's memory moves from one generation to the next (aeterna-srp(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `Enabled`: the unit has an SRP socket.
    pub enabled: bool,
    /// `SocketPath`: absolute; `None` is a name in the runtime dir.
    pub socket_path: Option<String>,
    /// `Timeout`: from REQUEST (or `Signal`) to the ACK; infinity for no limit.
    pub timeout: Span,
    /// `Required`: a reload without the state is rolled back.
    pub required: bool,
    /// `MaxBytes`: the most state of one transfer, bytes.
    pub max_bytes: u64,
    /// `Descriptor`: what was stored last under the name `aeterna-state` is handed to the next generation.
    pub descriptor: bool,
    /// `Signal`: tells the source to connect; `None` for one that keeps its connection.
    pub signal: Option<i32>,
}

impl Default for State {
    fn default() -> State {
        State {
            enabled: false,
            socket_path: None,
            timeout: Span::from_secs(5),
            required: false,
            max_bytes: 8 << 30,
            descriptor: false,
            signal: None,
        }
    }
}
