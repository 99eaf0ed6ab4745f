//! `status`: what the machines say, and beside it what only the kernel and the shell know.

use crate::daemon::core::Daemon;
use crate::daemon::supervised::{Standing, Supervised};
use crate::daemon::used;
use crate::machine::event::Gen;
use crate::proto::metrics::Total;
use crate::proto::status::{
    KeyChangeLine, SingleStatus, SocketChangeLine, Status, UnitChanges, UnitState, UnitStatus,
};
use crate::sys::clock::{self, Effort};
use crate::sys::host;
use crate::unit::{self, Difference, Needs, SocketChange, Unit};
use std::fmt::Write;
use std::sync::Arc;

/// How many of a unit's last lines its status shows.
const SHOWN_LINES: usize = 10;

impl Daemon {
    /// A snapshot of everything, or of one unit.
    pub fn status(&self, only: Option<usize>) -> Status {
        let stopped = |unit: &Supervised| unit.summary.is_some_and(|now| now.state == UnitState::Stopped);
        let strays = if self.units.iter().any(stopped) { self.about_strays() } else { None };
        let end = Effort::glance();
        let mut units: Vec<UnitStatus> = self
            .units_here()
            .filter(|(index, _)| only.is_none_or(|wanted| wanted == *index))
            .map(|(_, unit)| {
                let mut status = in_full(unit, unit_status(unit, end), end);
                if only.is_some() || self.units_here().count() == 1 {
                    status.releases = unit.releases_status();
                    status.notes.extend(unit.newer_on_disk(&self.shared));
                }
                if only.is_some() {
                    status.last_lines = unit.log.last(SHOWN_LINES, None);
                }
                status.notes.extend(strays.iter().filter(|_| stopped(unit)).cloned());
                status
            })
            .collect();
        if only.is_none() {
            units.extend(self.unusable_status(None));
        }
        let single = match units.as_slice() {
            [one] if self.units_here().count() + self.files.unusable.len() == 1 => Some(single(one)),
            _ => None,
        };
        Status {
            host: host::name(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: self.shared.pid,
            stopping: self.stopping,
            units,
            single,
        }
    }

    /// A snapshot of the file of this name that cannot be used.
    pub fn status_of_unusable(&self, name: &str) -> Status {
        let units = self.unusable_status(Some(name));
        let (version, pid) = (env!("CARGO_PKG_VERSION").into(), self.shared.pid);
        Status { host: host::name(), version, pid, stopping: self.stopping, units, single: None }
    }

    /// As [`Daemon::status`], without what metrics do not show and what takes time to find out.
    pub fn figures(&self) -> Status {
        let (version, pid) = (env!("CARGO_PKG_VERSION").into(), self.shared.pid);
        let end = Effort::glance();
        let with_usage = |unit: &Supervised| {
            let mut status = unit_status(unit, end);
            for generation in &mut status.generations {
                generation.usage = used::brief(unit, generation, end);
            }
            status
        };
        let units = self.units_here().map(|(_, unit)| with_usage(unit));
        let units = units.chain(self.unusable_status(None)).collect();
        Status { host: host::name(), version, pid, stopping: self.stopping, units, single: None }
    }

    /// What the generations of each unit of `status` have used, the gone ones too.
    pub fn totals(&self, status: &Status) -> Vec<Total> {
        let found = |name: &str| self.unit_named(name).map(|index| used::total(&self.units[index]));
        let none = Total { cpu_seconds: None, oom_kills: 0, releases: 0 };
        status.units.iter().map(|unit| found(&unit.name).unwrap_or(none)).collect()
    }

    /// What a reload would change, for people and for programs.
    ///
    /// # Errors
    /// Why what the unit names cannot be had.
    pub fn differences(&self, index: usize, loaded: &Arc<Unit>) -> Result<(String, UnitChanges), String> {
        let release = self.units[index].changes_on_disk(loaded, &self.shared)?;
        let (mut text, changes) = self.told_differences(index, loaded, release);
        if changes.is_nothing() {
            let _ = writeln!(text, "{}: no difference; a reload starts the same again", changes.unit);
        }
        Ok((text, changes))
    }

    /// What is other in `loaded` than in what serves, and in its release.
    pub fn told_differences(
        &self,
        index: usize,
        loaded: &Arc<Unit>,
        release: Vec<String>,
    ) -> (String, UnitChanges) {
        let unit = &self.units[index];
        let mut text = String::new();
        // What [Daemon] says counts from the start of aeternad, whatever was read since; and a socket keeps some of what it
        // was made with.
        let current = &unit.current.unit;
        let sockets = unit.sockets.in_effect(current);
        let in_effect = Unit { daemon: unit.started_with.clone(), sockets, ..(**current).clone() };
        let found = unit::differences(&in_effect, loaded);
        let mut changes = UnitChanges { unit: unit.name.clone(), ..UnitChanges::default() };
        for difference in &found {
            let _ = writeln!(text, "{}: {}", unit.name, told(difference));
            note(difference, &mut changes);
        }
        changes.release = release;
        for line in &changes.release {
            let _ = writeln!(text, "{}: {line}", unit.name);
        }
        (text, changes)
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
        Difference::Socket { address, name, change, needs } => {
            format!("socket {address} ({name}): {}{}", change_word(*change), waits(*needs))
        }
        Difference::Key { table, key, old, new, needs } => {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".into());
            format!("{table} {key}: {} → {}{}", value(old), value(new), waits(*needs))
        }
    }
}

/// The same for programs.
fn note(difference: &Difference, changes: &mut UnitChanges) {
    match difference {
        Difference::Socket { address, name, change, needs } => changes.sockets.push(SocketChangeLine {
            name: name.clone(),
            address: address.clone(),
            change: change_word(*change).into(),
            needs: needs_word(*needs).into(),
        }),
        Difference::Key { table, key, old, new, needs } => changes.keys.push(KeyChangeLine {
            table: table.clone(),
            key: (*key).into(),
            old: old.clone(),
            new: new.clone(),
            needs: needs_word(*needs).into(),
        }),
    }
}

fn change_word(change: SocketChange) -> &'static str {
    match change {
        SocketChange::Kept => "kept",
        SocketChange::Added => "added",
        SocketChange::Dropped => "dropped",
    }
}

fn needs_word(needs: Needs) -> &'static str {
    match needs {
        Needs::Reload => "reload",
        Needs::Launch => "launch",
        Needs::Restart => "restart",
    }
}

fn waits(needs: Needs) -> &'static str {
    match needs {
        Needs::Reload => "",
        Needs::Launch => " (waits for the next launch)",
        Needs::Restart => " (waits for a restart of aeternad)",
    }
}

/// What takes time because a service has much of it is left out when it is not had until `end`.
fn unit_status(unit: &Supervised, end: Effort) -> UnitStatus {
    let mut status = unit.machine.status(clock::now());
    status.description.clone_from(&unit.current.unit.description);
    status.file = unit.source.file();
    let waiting = unit::daemon_keys_that_differ(&unit.started_with, &unit.current.unit.daemon);
    status.pending.extend(waiting.into_iter().map(|key| format!("[Daemon] {key}")));
    status.pending.extend(unit.sockets.waiting(&unit.current.unit));
    if let Some(last) = &mut status.last_handover {
        // The machine knows how long ago it was, not the date.
        last.timestamp = clock::unix_time() - last.timestamp;
    }
    status.sockets = unit.sockets.status();
    status.notes = unit.filters.notes();
    let mut unenforced = unit.generations.values().filter_map(|shell| shell.unenforced.why.as_ref());
    status.notes.extend(unenforced.next_back().map(|why| format!("limits {why}")));
    if unit.standing == Standing::Leaving {
        status.notes.push("its file is gone: it is dropped when it has stopped".into());
    }
    status.stored_descriptors = u32::try_from(unit.store.len()).unwrap_or(u32::MAX);
    let share = unit.sockets.measured().and_then(|measured| measured.share);
    let flows = unit.sockets.live_flows();
    for (row, flows) in status.sockets.iter_mut().zip(&flows) {
        row.flows = flows.as_ref().map(|flows| flows.values().map(|live| live.count).sum());
    }
    for generation in &mut status.generations {
        let slot = unit.generations.get(&Gen(generation.number)).map(|shell| shell.slot);
        let mut own =
            flows.iter().flatten().filter_map(|flows| Some(flows.get(&slot?).map_or(0, |live| live.count)));
        generation.flows = own.next().map(|first| first + own.sum::<u32>());
        generation.share = match generation.phase.as_str() {
            "soaking" => share,
            "serving" => share.map(|share| 100.0 - share),
            _ => None,
        };
        if matches!(generation.phase.as_str(), "draining" | "stopping" | "rolling_back") {
            generation.connections = unit.sockets.established_of(&generation.pids, end);
        }
    }
    status
}

/// What takes time to find out: strangers beside our sockets, and programs on disk that are newer than those that run.
fn in_full(unit: &Supervised, mut status: UnitStatus, end: Effort) -> UnitStatus {
    unit.sockets.tell_strangers(&mut status.sockets, end);
    let measured = unit.sockets.measured();
    let to_new = measured.and_then(|share| share.to_new);
    let to_old = measured.and_then(|share| Some(share.connections?.saturating_sub(share.to_new?)));
    for generation in &mut status.generations {
        generation.usage = used::of(unit, generation, end);
        generation.usage.connections = match generation.phase.as_str() {
            "soaking" => to_new,
            "serving" => to_old,
            _ => None,
        };
        if let Some(shell) = unit.generations.get(&Gen(generation.number))
            && let Some(release) = shell.release.as_ref().filter(|_| !generation.pids.is_empty())
        {
            generation.program_is_newer = release.newer_on_disk();
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
