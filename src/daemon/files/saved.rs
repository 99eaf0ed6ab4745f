//! The unit files of a daemon in a stored state.

use super::{Arrival, Files, Unusable, Waiting};
use crate::daemon::load::Setting;
use crate::daemon::saved::StoredPath;
use serde::{Deserialize, Serialize};

/// [`Files`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedFiles {
    roots: Vec<StoredPath>,
    runtime_root: String,
    pid1: bool,
    unusable: Vec<Unusable>,
    waiting: Vec<Waiting>,
}

impl Files {
    /// Stores them.
    pub fn save(&self) -> SavedFiles {
        let Files { roots, setting: Setting { runtime_root, pid1 }, unusable, waiting } = self;
        SavedFiles {
            roots: roots.iter().cloned().map(StoredPath).collect(),
            runtime_root: runtime_root.clone(),
            pid1: *pid1,
            unusable: unusable.clone(),
            waiting: waiting.clone(),
        }
    }

    /// The files again. `units` is how many there are.
    ///
    /// # Errors
    /// A reload waits of a unit that is not there.
    pub fn restore(saved: SavedFiles, units: usize) -> Result<Files, String> {
        let SavedFiles { roots, runtime_root, pid1, unusable, waiting } = saved;
        let is_there = |one: &Waiting| !matches!(one.what, Arrival::Reload(unit, _) if unit >= units);
        if !waiting.iter().all(is_there) {
            return Err("a reload waits of a unit that is not there".into());
        }
        let roots = roots.into_iter().map(|path| path.0).collect();
        Ok(Files { roots, setting: Setting { runtime_root, pid1 }, unusable, waiting })
    }
}
