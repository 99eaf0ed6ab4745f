//! `status`: what the machines say, and beside it what only the kernel and the shell know.

use crate::daemon::core::Daemon;
use crate::daemon::supervised::Supervised;
use crate::machine::event::Gen;
use crate::proto::status::{SingleStatus, Status, UnitStatus};
use crate::sys::{clock, process};
use crate::unit::{self, Difference, Needs, SocketChange};
use std::fmt::Write;

impl Daemon {
    /// A snapshot of everything, or of one unit.
    pub fn status(&self, only: Option<usize>) -> Status {
        let units: Vec<UnitStatus> = self
            .units
            .iter()
            .enumerate()
            .filter(|(index, _)| only.is_none_or(|wanted| wanted == *index))
            .map(|(_, unit)| unit_status(unit))
            .collect();
        let single = match units.as_slice() {
            [one] if self.units.len() == 1 => Some(single(one)),
            _ => None,
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: self.shared.pid,
            stopping: self.stopping,
            units,
            single,
        }
    }

    /// What a reload would change, for people.
    ///
    /// # Errors
    /// The file's errors.
    pub fn differences(&self, index: usize) -> Result<String, String> {
        let unit = &self.units[index];
        let loaded = unit.source.load()?;
        let mut text = String::new();
        let found = unit::differences(&unit.current.unit, &loaded.unit);
        if found.is_empty() {
            let _ = writeln!(text, "{}: no difference; a reload starts the same again", unit.name);
        }
        for difference in found {
            let _ = writeln!(text, "{}: {}", unit.name, told(&difference));
        }
        Ok(text)
    }

    /// SIGUSR1: the whole status to the log.
    pub fn log_status(&self) {
        match serde_json::to_string(&self.status(None)) {
            Ok(text) => log::info!("status: {text}"),
            Err(error) => log::warn!("cannot print the status: {error}"),
        }
    }
}

/// A difference in one line.
fn told(difference: &Difference) -> String {
    match difference {
        Difference::Socket { address, name, change, .. } => {
            let what = match change {
                SocketChange::Kept => "kept",
                SocketChange::Added => "added",
                SocketChange::Dropped => "dropped",
            };
            format!("socket {address} ({name}): {what}")
        }
        Difference::Key { table, key, old, new, needs } => {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".into());
            let when = match needs {
                Needs::Reload => "",
                Needs::Launch => " (waits for the next launch)",
                Needs::Restart => " (waits for a restart of aeternad)",
            };
            format!("{table} {key}: {} → {}{when}", value(old), value(new))
        }
    }
}

fn unit_status(unit: &Supervised) -> UnitStatus {
    let mut status = unit.machine.status(clock::now());
    status.description.clone_from(&unit.current.unit.description);
    status.file = unit.source.file();
    if let Some(last) = &mut status.last_handover {
        // The machine knows how long ago it was, not the date.
        last.timestamp = clock::unix_time() - last.timestamp;
    }
    status.sockets = unit.sockets.status();
    status.notes = unit.filters.notes();
    status.stored_descriptors = u32::try_from(unit.store.len()).unwrap_or(u32::MAX);
    let share = unit.sockets.measured().and_then(|measured| measured.share);
    for generation in &mut status.generations {
        generation.share = match generation.phase.as_str() {
            "soaking" => share,
            "serving" => share.map(|share| 100.0 - share),
            _ => None,
        };
        let Some(shell) = unit.generations.get(&Gen(generation.number)) else { continue };
        if matches!(generation.phase.as_str(), "draining" | "stopping" | "rolling_back") {
            generation.connections = unit.sockets.established_of(&generation.pids);
        }
        if let (Some(program), Some(pid)) = (&shell.program, generation.pids.first()) {
            generation.program_is_newer = process::program_is_newer(*pid, program);
        }
    }
    status
}

/// The same in the words of the first protocol version.
fn single(unit: &UnitStatus) -> SingleStatus {
    let serving = unit.generations.iter().find(|generation| generation.number == unit.generation);
    let old = unit.generations.iter().rfind(|generation| generation.number < unit.generation);
    SingleStatus {
        fsm_state: unit.state,
        current_pid: unit.main_pids.first().copied(),
        old_pid: old.and_then(|generation| generation.pids.first().copied()),
        uptime: serving.map_or(0.0, |generation| generation.age),
        last_handover: unit.last_handover.clone(),
    }
}
