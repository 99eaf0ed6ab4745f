//! `WatchPaths`: a change that has settled reloads the unit. And the folders of Unix sockets, so that an
//! unlinked path comes back.

use crate::daemon::core::Daemon;
use crate::daemon::settling::{Settled, Settling};
use crate::daemon::supervised::PathWatch;
use crate::daemon::token::Owner;
use crate::machine::event::Command;
use crate::sys::clock;
use crate::sys::inotify::Watcher;
use crate::sys::pin;
use crate::sys::poll::Interest;
use std::path::Path;

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
            // What happens is told with whole names.
            let added = std::path::absolute(path).and_then(|whole| watcher.add(&whole));
            if let Err(error) = added {
                log::warn!("{}: cannot watch {path}: {error}", unit.name);
            }
        }
        if let Err(error) = self.poller.add(Owner::Paths(index).token(), watcher.fd(), Interest::READ) {
            log::warn!("{}: cannot watch its WatchPaths: {error}", unit.name);
        }
        unit.watch = Some(PathWatch { watcher, paths: paths.clone(), settling: Settling::default() });
    }

    /// Something below the watched paths changed: wait until it has settled.
    pub fn paths_changed(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let debounce = unit.current.unit.reload.watch_debounce;
        let Some(watch) = &mut unit.watch else { return };
        match watch.watcher.read() {
            Ok(mut changes) => {
                changes.retain(|change| !self.is_own_doing(&change.path));
                let Some(watch) = &mut self.units[index].watch else { return };
                for change in changes {
                    watch.settling.change(clock::now(), debounce, change);
                }
            }
            Err(error) => log::warn!("{}: cannot read what changed below its WatchPaths: {error}", unit.name),
        }
    }

    /// Whether aeternad itself makes and removes things of this name: they change whenever it reloads.
    fn is_own_doing(&self, path: &Path) -> bool {
        let runtime_directory = |name: &String| path == Path::new(&self.shared.runtime_root).join(name);
        path.starts_with(&self.shared.runtime_dir)
            || self.units.iter().any(|unit| {
                unit.sockets.makes(path)
                    || unit.current.unit.service.runtime_directory.iter().any(runtime_directory)
            })
    }

    /// Nothing has changed for `WatchDebounce`.
    pub fn paths_settled(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let debounce = unit.current.unit.reload.watch_debounce;
        let release = unit.current.unit.service.release.as_deref().map(Path::new);
        let serving = unit.releases.get(unit.current.id).and_then(|release| release.named());
        let Some(watch) = &mut unit.watch else { return };
        let only_release = release.is_some_and(|name| watch.settling.is_only(name));
        let reason = match watch.settling.settled(clock::now(), debounce) {
            Settled::StillWritten => {
                log::debug!("{}: what changed below its WatchPaths is still being written", unit.name);
                return;
            }
            Settled::Changed(reason) => reason,
        };
        // Where the kernel has lost count there may be folders that nobody watches yet.
        watch.watcher.catch_up();
        if let (true, Some(name), Some(serving)) = (only_release, release, serving)
            && pin::identity(name).is_ok_and(|now| now == serving.was())
        {
            // As when OnFailure has put it back.
            log::info!("{}: {} leads to the release that serves: no reload", unit.name, name.display());
            return;
        }
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
