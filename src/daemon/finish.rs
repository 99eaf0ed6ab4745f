//! The end: what is ours is taken away, what belongs to others stays.

use crate::daemon::core::Daemon;

impl Daemon {
    /// Closes every socket, removes every name, and says goodbye. The services have gone.
    pub fn finish(mut self) {
        self.web.stop();
        for unit in self.units {
            for shell in unit.generations.into_values() {
                if let Some(socket) = shell.notify {
                    // The folder belongs to us: nobody else can have put another file there.
                    let _ = std::fs::remove_file(&socket.path);
                }
                if let Some(group) = shell.cgroup {
                    // One that is still populated stays: KillMode = "process" leaves processes by intent.
                    let _ = group.remove();
                }
            }
            unit.sockets.close();
        }
        log::info!("aeternad has stopped");
    }
}
