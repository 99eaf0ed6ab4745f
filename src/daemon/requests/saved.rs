//! Requests under way in a stored state.

use super::{Part, Pending};
use crate::daemon::control::ClientId;
use crate::machine::event::{CommandResult, Req};
use serde::{Deserialize, Serialize};

/// A [`Pending`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPending {
    client: ClientId,
    parts: Vec<(Req, usize, Option<CommandResult>)>,
    reload: bool,
}

impl Pending {
    /// Stores it.
    pub fn save(&self) -> SavedPending {
        let Pending { client, parts, reload } = self;
        let part = |Part { req, unit, result }: &Part| (*req, *unit, result.clone());
        SavedPending { client: *client, parts: parts.iter().map(part).collect(), reload: *reload }
    }

    /// The request again. `units` is how many there are.
    ///
    /// # Errors
    /// It is about a unit that is not there.
    pub fn restore(saved: SavedPending, units: usize) -> Result<Pending, String> {
        let SavedPending { client, parts, reload } = saved;
        if parts.iter().any(|(_, unit, _)| *unit >= units) {
            return Err("a request is about a unit that is not there".into());
        }
        let parts = parts.into_iter().map(|(req, unit, result)| Part { req, unit, result }).collect();
        Ok(Pending { client, parts, reload })
    }
}
