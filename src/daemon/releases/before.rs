//! What the names that a launch's own `ExecStartPre` may change meant before it, and what it has changed.

use super::{Release, folder_of};
use crate::daemon::shared::Shared;
use crate::sys::pin::{self, Identity, Pin};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What the names meant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    named: Option<Identity>,
    working: Option<Identity>,
    programs: BTreeMap<String, Option<Identity>>,
    files: BTreeMap<String, Option<Identity>>,
}

impl Release {
    /// What the names mean that an `ExecStartPre` may change.
    pub fn before(&self) -> Before {
        let now = |path: &str| pin::identity(Path::new(path)).ok();
        let words = self.unit.service.exec_start.iter().filter_map(|command| command.argv.first());
        let files = self.unit.service.environment_file.iter();
        Before {
            named: self.unit.service.release.as_deref().and_then(now),
            working: folder_of(&self.unit).and_then(|path| now(&path)),
            programs: words.map(|word| (word.clone(), self.means_now(word))).collect(),
            files: files.map(|file| (file.path.clone(), now(&file.path))).collect(),
        }
    }

    /// The same with what has changed since; `None` if nothing has. Where a program was checked, it stays, and so does all
    /// that is beside it.
    pub fn after(&self, before: &Before, shared: &Shared) -> Option<Release> {
        let mut now = self.before();
        if self.unit.reload.binary_sha256.is_some() {
            now = Before { files: now.files, ..before.clone() };
        }
        if now == *before {
            return None;
        }
        if now.named != before.named {
            return Some(Release::read(&self.plain, shared));
        }
        let mut release = self.clone();
        if now.working != before.working {
            let folder = folder_of(&self.unit);
            release.working = folder.and_then(|path| Pin::place(Path::new(&path)).ok()).map(Arc::new);
        }
        for (word, identity) in &now.programs {
            if before.programs.get(word) != Some(identity) {
                // Looked up anew by the launch.
                release.programs.remove(word);
            }
        }
        if now.files != before.files {
            release.texts = super::texts_of(&self.unit);
        }
        release.identity = release.hash();
        Some(release)
    }

    /// What the name of a main program means now, wherever the way there leads by now.
    pub(super) fn means_now(&self, word: &str) -> Option<Identity> {
        let path = match self.program(word) {
            Some(pin) if !word.contains('/') => pin.name().to_owned(),
            _ => Path::new(&folder_of(&self.unit).unwrap_or_default()).join(word),
        };
        pin::identity(&path).ok()
    }
}
