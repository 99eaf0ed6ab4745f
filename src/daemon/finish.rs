//! The end: what is ours is taken away, what belongs to others stays.

use crate::daemon::core::Daemon;
use crate::sys::{process, tree, wait};
use crate::unit::KillMode;
use std::time::Duration;

/// SIGKILL.
const SIGKILL: i32 = 9;

/// How often is looked for what is left: what is killed may leave children of its own.
const SWEEPS: u32 = 100;

/// Time for it to end.
const PAUSE: Duration = Duration::from_millis(10);

impl Daemon {
    /// Closes every socket, removes every name, and says goodbye. The services have gone.
    pub fn finish(mut self) {
        self.web.stop();
        self.end_survival();
        self.sweep();
        for unit in self.units {
            for shell in unit.generations.into_values() {
                shell.kit.remove();
            }
            if let Some(spare) = unit.spare {
                spare.remove();
            }
            unit.sockets.close();
        }
        // The name goes before the lock: the next aeternad finds neither or both.
        self.home.control.remove();
        drop(self.home.lock);
        log::info!("aeternad has stopped");
    }

    /// Without control groups, what has left its session, lost its parent and cleared its environment cannot be told from
    /// another unit's. Now it does not matter any more whose it was: as an orphan it is our child.
    fn sweep(&self) {
        let contents = self.units.iter().flat_map(|unit| unit.contents.iter().chain([&unit.current]));
        let kept = contents
            .map(|content| &content.unit.service)
            .any(|s| s.kill_mode == KillMode::Process || !s.send_sigkill);
        if kept || self.shared.cgroups.is_some() {
            return;
        }
        for _ in 0..SWEEPS {
            let mut left = tree::own_children();
            left.retain(|pid| !self.shared.born_with.contains(pid));
            if left.is_empty() {
                return;
            }
            for pid in left {
                // It may have ended by itself: then it is only reaped.
                let _ = process::kill(pid, SIGKILL);
            }
            // Not waited for one by one: what hangs in the kernel does not keep us.
            std::thread::sleep(PAUSE);
            while let Ok(Some(_)) = wait::reap_any() {}
        }
    }
}
