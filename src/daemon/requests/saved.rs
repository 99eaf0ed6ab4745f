//! Requests under way in a stored state.

use super::{Part, Pending};
use crate::daemon::control::ClientId;
use crate::machine::event::{CommandResult, Req};
use crate::proto::control::FileChange;
use serde::{Deserialize, Serialize};

/// A [`Pending`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPending {
    client: ClientId,
    parts: Vec<SavedPart>,
    reload: bool,
    all: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPart {
    req: Req,
    unit: Option<usize>,
    name: String,
    file: Option<FileChange>,
    result: Option<CommandResult>,
    mark: u64,
}

impl Pending {
    /// Stores it.
    pub fn save(&self) -> SavedPending {
        let Pending { client, parts, reload, all } = self;
        let part = |Part { req, unit, name, file, result, mark }: &Part| SavedPart {
            req: *req,
            unit: *unit,
            name: name.clone(),
            file: *file,
            result: result.clone(),
            mark: *mark,
        };
        SavedPending { client: *client, parts: parts.iter().map(part).collect(), reload: *reload, all: *all }
    }

    /// The request again. `units` is how many there are.
    ///
    /// # Errors
    /// It is about a unit that is not there.
    pub fn restore(saved: SavedPending, units: usize) -> Result<Pending, String> {
        let SavedPending { client, parts, reload, all } = saved;
        if parts.iter().any(|part| part.unit.is_some_and(|unit| unit >= units)) {
            return Err("a request is about a unit that is not there".into());
        }
        let part = |SavedPart { req, unit, name, file, result, mark }: SavedPart| Part {
            req,
            unit,
            name,
            file,
            result,
            mark,
        };
        Ok(Pending { client, parts: parts.into_iter().map(part).collect(), reload, all })
    }
}
