//! When what has changed below `WatchPaths` counts as settled: pure, as whoever can write there chooses what comes and
//! when.

use crate::daemon::saved::StoredPath;
use crate::proto::harmless::harmless_bytes;
use crate::sys::inotify::{Change, Progress};
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How long a file that has changed is waited for while somebody has it open and writes to it, and how long changes that
/// do not end put a reload off: a copy over a slow line, but not a log, and not for ever.
const LONGEST: Span = Span::from_secs(60);

/// How many paths are remembered; of others only that there were some.
const NAMED: usize = 64;

/// What has changed since the last time that it had settled.
#[derive(Debug, Default)]
pub struct Settling {
    /// When the changes seen so far count as settled.
    settle_at: Option<Monotime>,
    /// When the first of them came.
    since: Option<Monotime>,
    /// The paths that changed since then, and whether somebody is still writing them.
    changed: BTreeMap<PathBuf, bool>,
    /// Whether there were more.
    more: bool,
}

/// What to do at the deadline.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled {
    /// Reload, for this reason.
    Changed(String),
    /// Wait on: somebody is still writing.
    StillWritten,
}

/// [`Settling`] in a stored state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSettling {
    settle_at: Option<Monotime>,
    since: Option<Monotime>,
    changed: Vec<(StoredPath, bool)>,
    more: bool,
}

impl Settling {
    /// Stores it.
    pub fn save(&self) -> SavedSettling {
        let Settling { settle_at, since, changed, more } = self;
        let changed = changed.iter().map(|(path, written)| (StoredPath(path.clone()), *written)).collect();
        SavedSettling { settle_at: *settle_at, since: *since, changed, more: *more }
    }

    /// It again.
    pub fn restore(saved: SavedSettling) -> Settling {
        let SavedSettling { settle_at, since, changed, more } = saved;
        let changed = changed.into_iter().map(|(path, written)| (path.0, written)).collect();
        Settling { settle_at, since, changed, more }
    }

    /// When [`Settling::settled`] is wanted.
    pub fn deadline(&self) -> Option<Monotime> {
        self.settle_at
    }

    /// Something has changed.
    pub fn change(&mut self, now: Monotime, debounce: Span, change: Change) {
        if change.progress == Progress::Written {
            // A log is written to all the time: only what has begun to change is waited for.
            if let Some(is_written) = self.changed.get_mut(&change.path) {
                *is_written = true;
            }
            return;
        }
        if self.changed.len() < NAMED || self.changed.contains_key(&change.path) {
            self.changed.insert(change.path, change.progress == Progress::Begun);
        } else {
            self.more = true;
        }
        let since = *self.since.get_or_insert(now);
        self.settle_at = Some((now + debounce).min(since + LONGEST.max(debounce)));
    }

    /// Whether nothing has changed but this.
    pub fn is_only(&self, path: &Path) -> bool {
        !self.more && self.changed.keys().all(|changed| changed == path)
    }

    /// The deadline has passed.
    pub fn settled(&mut self, now: Monotime, debounce: Span) -> Settled {
        let is_late = self.since.is_none_or(|since| since + LONGEST <= now);
        if !is_late && self.changed.values().any(|is_written| *is_written) {
            // It is half of what it will be, however long the next piece takes.
            self.settle_at = Some(now + debounce.max(Span::from_millis(10)));
            return Settled::StillWritten;
        }
        let Settling { changed, more, .. } = std::mem::take(self);
        let name = |path: &PathBuf| harmless_bytes(path.as_os_str().as_encoded_bytes(), 256);
        let first = changed.keys().next().map(name).unwrap_or_default();
        Settled::Changed(match changed.len() {
            0 | 1 => format!("{first} changed"),
            count if more => format!("{first} and more than {} others changed", count - 1),
            count => format!("{first} and {} more changed", count - 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBOUNCE: Span = Span::from_millis(200);

    fn at(milliseconds: u64) -> Monotime {
        Monotime(1) + Span::from_millis(milliseconds)
    }

    fn change(path: &str, progress: Progress) -> Change {
        Change { path: path.into(), progress }
    }

    #[test]
    fn a_writer_that_never_stops_does_not_put_the_reload_off_for_ever_and_is_not_remembered_without_end() {
        let mut settling = Settling::default();
        let mut time = 0;
        while settling.deadline().is_none_or(|deadline| deadline > at(time)) {
            settling.change(at(time), DEBOUNCE, change(&format!("/w/{time}"), Progress::Done));
            assert!(settling.changed.len() <= NAMED);
            time += 100;
            assert!(time <= 60_000);
        }
        assert_eq!(time, 60_000);
        let reason = "/w/0 and more than 63 others changed".to_owned();
        assert_eq!(settling.settled(at(time), DEBOUNCE), Settled::Changed(reason));
        assert_eq!(settling.deadline(), None);
    }

    #[test]
    fn one_that_stops_is_waited_for_and_no_longer() {
        let mut settling = Settling::default();
        settling.change(at(0), DEBOUNCE, change("/w/a", Progress::Begun));
        settling.change(at(100), DEBOUNCE, change("/w/b", Progress::Done));
        assert_eq!(settling.deadline(), Some(at(300)));
        assert_eq!(settling.settled(at(300), DEBOUNCE), Settled::StillWritten);
        assert_eq!(settling.deadline(), Some(at(500)));
        settling.change(at(400), DEBOUNCE, change("/w/a", Progress::Done));
        assert_eq!(settling.deadline(), Some(at(600)));
        assert_eq!(settling.settled(at(600), DEBOUNCE), Settled::Changed("/w/a and 1 more changed".into()));
        // A log is no change, and a debounce that is longer than our own limit counts.
        settling.change(at(700), DEBOUNCE, change("/w/log", Progress::Written));
        assert_eq!(settling.deadline(), None);
        settling.change(at(700), Span::from_secs(90), change("/w/a", Progress::Done));
        assert_eq!(settling.deadline(), Some(at(90_700)));
    }

    #[test]
    fn a_file_name_forges_no_line_of_the_log() {
        let mut settling = Settling::default();
        settling.change(at(0), DEBOUNCE, change("/w/a\nERROR all is lost\u{202e}", Progress::Done));
        let reason = "/w/a\\nERROR all is lost\\u{202e} changed".to_owned();
        assert_eq!(settling.settled(at(200), DEBOUNCE), Settled::Changed(reason));
    }
}
