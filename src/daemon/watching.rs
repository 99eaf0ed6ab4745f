//! `WatchPaths`: a change that has settled reloads the unit. And the folders of Unix sockets, so that an
//! unlinked path comes back.

use crate::daemon::core::Daemon;
use crate::daemon::supervised::PathWatch;
use crate::daemon::token::Owner;
use crate::machine::event::Command;
use crate::sys::clock;
use crate::sys::inotify::{Progress, Watcher};
use crate::sys::poll::Interest;
use crate::time::Span;
use std::collections::BTreeMap;
use std::path::Path;

/// How long a file that has changed is waited for while somebody has it open and writes to it: a copy over a slow
/// line, but not a log.
const STILL_WRITTEN: Span = Span::from_secs(60);

impl Daemon {
    /// Watches what the serving content names; made anew only when that has changed.
    pub fn watch_paths(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let paths = &unit.current.unit.reload.watch_paths;
        if unit.watch.as_ref().is_some_and(|watch| watch.paths == *paths) {
            return;
        }
        if let Some(old) = unit.watch.take() {
            let _ = self.poller.remove(old.watcher.fd());
        }
        if paths.is_empty() {
            return;
        }
        let mut watcher = match Watcher::new() {
            Ok(made) => made,
            Err(error) => {
                log::warn!("{}: cannot watch its WatchPaths: {error}", unit.name);
                return;
            }
        };
        watcher.follow_writes();
        for path in paths {
            if let Err(error) = watcher.add(Path::new(path)) {
                log::warn!("{}: cannot watch {path}: {error}", unit.name);
            }
        }
        if let Err(error) = self.poller.add(Owner::Paths(index).token(), watcher.fd(), Interest::READ) {
            log::warn!("{}: cannot watch its WatchPaths: {error}", unit.name);
        }
        unit.watch = Some(PathWatch {
            watcher,
            paths: paths.clone(),
            settle_at: None,
            since: None,
            changed: BTreeMap::new(),
        });
    }

    /// Something below the watched paths changed: wait until it has settled.
    pub fn paths_changed(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let debounce = unit.current.unit.reload.watch_debounce;
        let Some(watch) = &mut unit.watch else { return };
        match watch.watcher.read() {
            Ok(changes) => {
                for change in changes {
                    if change.progress == Progress::Written {
                        // A log is written to all the time: only what has begun to change is waited for.
                        if let Some(is_written) = watch.changed.get_mut(&change.path) {
                            *is_written = true;
                        }
                        continue;
                    }
                    let now = clock::now();
                    watch.changed.insert(change.path, change.progress == Progress::Begun);
                    watch.since.get_or_insert(now);
                    watch.settle_at = Some(now + debounce);
                }
            }
            Err(error) => log::warn!("{}: cannot read what changed below its WatchPaths: {error}", unit.name),
        }
    }

    /// Nothing has changed for `WatchDebounce`.
    pub fn paths_settled(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let debounce = unit.current.unit.reload.watch_debounce;
        let Some(watch) = &mut unit.watch else { return };
        let now = clock::now();
        let is_late = watch.since.is_none_or(|since| since + STILL_WRITTEN <= now);
        if !is_late && watch.changed.values().any(|is_written| *is_written) {
            // It is half of what it will be, however long the next piece takes.
            watch.settle_at = Some(now + debounce.max(Span::from_millis(10)));
            log::debug!("{}: what changed below its WatchPaths is still being written", unit.name);
            return;
        }
        (watch.settle_at, watch.since) = (None, None);
        let changed = std::mem::take(&mut watch.changed);
        let first = changed.keys().next().map(|path| path.display().to_string()).unwrap_or_default();
        let reason = match changed.len() {
            0 | 1 => format!("{first} changed"),
            more => format!("{first} and {} more changed", more - 1),
        };
        self.command(index, Command::Reload { force: false, remember: true, reason });
    }

    /// Watches the folders of the unit's Unix sockets.
    pub fn watch_socket_paths(&mut self, index: usize) {
        let unit = &self.units[index];
        if let Some(fd) = unit.sockets.path_watch() {
            // In already after an earlier change of the sockets: no matter.
            let _ = self.poller.add(Owner::SocketPaths(index).token(), fd, Interest::READ);
        }
    }

    /// A folder with a socket of ours in it changed.
    pub fn socket_paths_changed(&mut self, index: usize) {
        // A descriptor may be replaced: out of the poll set before, in again after.
        self.unwatch_sockets(index);
        let unit = &mut self.units[index];
        for text in unit.sockets.check_paths() {
            log::warn!("{}: {text}", unit.name);
        }
        self.rewatch_sockets(index);
    }
}
