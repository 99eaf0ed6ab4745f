//! What the HTTP threads need of the world beside their sockets; tests bring their own.

use super::Stream;
use crate::time::Monotime;
use std::fmt;
use std::sync::Arc;

/// The main loop, the clock, and who is at the other end of a connection.
#[derive(Clone)]
pub struct Outside {
    /// Makes the main loop look at its calls. Never blocks.
    pub wake: Arc<dyn Fn() + Send + Sync>,
    /// The monotonic clock.
    pub now: fn() -> Monotime,
    /// The user of this machine at the other end; `None` if nobody knows. `Err` says why, for people.
    pub peer_uid: fn(&Stream) -> Result<Option<u32>, String>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outside")
    }
}
