//! Who may have outlived a stop, where no control group tells.

use crate::daemon::core::Daemon;
use crate::proto::harmless::harmless;
use crate::sys::{process, tree};

impl Daemon {
    /// Processes that came to us as orphans and of which nobody can tell whose they are: they have left their parent, their
    /// session and their environment behind. With control groups there are none. Few: no more than a person reads.
    pub fn strays(&self) -> Vec<i32> {
        const SHOWN: usize = 8;
        if self.shared.cgroups.is_some() {
            return Vec::new();
        }
        let known = |pid: i32| {
            self.pids.contains_key(&pid)
                || self.survival.holder.pid() == Some(pid)
                || self.shared.born_with.contains(&pid)
                || self.units.iter().any(|unit| {
                    unit.children.values().any(|child| child.pid == pid)
                        || unit.generations.keys().any(|number| self.is_member(unit, *number, pid))
                })
        };
        tree::own_children().into_iter().filter(|pid| !known(*pid)).take(SHOWN).collect()
    }

    /// [`Daemon::strays`] in words, if there are any.
    pub fn about_strays(&self) -> Option<String> {
        let strays = self.strays();
        if strays.is_empty() {
            return None;
        }
        let name = |pid: &i32| {
            let name = process::name_of(*pid).unwrap_or_default();
            format!("{pid} ({})", harmless(&name, 32))
        };
        let list: Vec<String> = strays.iter().map(name).collect();
        Some(format!(
            "without control groups nobody can tell whose these processes are, which have left their service: {}; if they \
             are of a stopped unit, end them by hand (aeternad's own end ends them too)",
            list.join(", ")
        ))
    }
}
