//! aeternad's own process, for `/metrics` (proc(5)), and what the machines announce, for its counters.

use crate::machine::event::Announcement;
use crate::proto::metrics::{Metrics, ProcessFacts};
use std::fs;

/// Reads what the kernel says about this process; what it does not say is left out.
pub fn process() -> ProcessFacts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut facts = ProcessFacts::parse(
        &read("/proc/self/stat"),
        &read("/proc/self/status"),
        &read("/proc/self/limits"),
        &read("/proc/stat"),
    );
    facts.open_fds = open_descriptors();
    facts
}

/// The folder's size is their number since Linux 6.2, which takes no time; before it is 0, and they are counted.
fn open_descriptors() -> Option<u64> {
    let told = fs::metadata("/proc/self/fd").map(|folder| folder.len()).ok().filter(|count| *count > 0);
    // The folder's own descriptor is among those that are listed.
    let counted = || Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64);
    told.or_else(counted)
}

/// Counts what a unit's machine announces. A finished reload is counted by [`Metrics::on_reload`].
pub fn count(metrics: &mut Metrics, unit: &str, fact: &Announcement) {
    match fact {
        Announcement::State { from, lasted, .. } => metrics.on_state(unit, *from, lasted.as_secs_f64()),
        Announcement::Restarting { result } => metrics.on_restart(unit, result),
        Announcement::Handover { relayed } if relayed.result.is_ok() => {
            metrics.on_handover(relayed.took.as_secs_f64(), relayed.bytes);
        }
        Announcement::Health { result, .. } => metrics.on_health(unit, result),
        Announcement::Analysis { check } => metrics.on_check(unit, check),
        Announcement::Started { .. }
        | Announcement::Ready { .. }
        | Announcement::Ended { .. }
        | Announcement::Step { .. }
        | Announcement::Weight { .. }
        | Announcement::Measured { .. }
        | Announcement::Handover { .. }
        | Announcement::Status { .. }
        | Announcement::Reloaded { .. }
        | Announcement::StartFailed { .. }
        | Announcement::ReleaseGone { .. }
        | Announcement::Warning { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_everything_about_this_process() {
        let facts = process();
        for known in [facts.open_fds, facts.max_fds, facts.virtual_bytes, facts.resident_bytes, facts.threads]
        {
            assert!(known.is_some_and(|value| value > 0), "{facts:?}");
        }
        assert!(facts.cpu_seconds.is_some() && facts.start_time.is_some_and(|time| time > 1e9), "{facts:?}");
    }

    #[test]
    fn announcements_are_counted() {
        let mut metrics = Metrics::default();
        count(&mut metrics, "a", &Announcement::Restarting { result: "watchdog".into() });
        let mut other = Metrics::default();
        other.on_restart("a", "watchdog");
        assert_eq!(metrics, other);
    }
}
