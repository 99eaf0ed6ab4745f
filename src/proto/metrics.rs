//! What `/metrics` shows (contract section 8): counters that live as long as the daemon, and what the status
//! says at the moment, in the text format of Prometheus.
//!
//! Counters belong to aeternad, not to a generation, so that no reload resets them. Labels are the names of
//! units and sockets and fixed sets of words: their number does not grow with time.

mod histogram;
mod saved;
mod text;
mod used;

pub use saved::SavedMetrics;
pub use used::Total;

use crate::proto::status::{CheckStatus, CheckVerdict, Outcome, ReloadRecord, Status, UnitState};
use histogram::Histogram;
use std::collections::BTreeMap;
use text::{Kind, Text};

/// The upper bounds of the buckets of a reload's phases, seconds.
const PHASE_BOUNDS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The upper bounds of the buckets of a handover of state, seconds.
const HANDOVER_BOUNDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The results of a health check.
const HEALTH_RESULTS: [&str; 6] = ["pass", "fail", "timeout", "unattributed", "never_reached", "not_made"];

/// systemd's SERVICE_RESULT words, and one for what is none of them.
const RESTART_REASONS: [&str; 11] = [
    "success",
    "exit-code",
    "signal",
    "core-dump",
    "timeout",
    "watchdog",
    "protocol",
    "oom-kill",
    "resources",
    "start-limit-hit",
    "other",
];

/// The phases of a reload, as in a [`ReloadRecord`]: the names of the states that it goes through; a `replace` one
/// stops the old generation first.
const PHASES: [&str; 7] =
    ["pre_checking", "stopping", "starting", "handshaking", "soaking", "draining", "rolling_back"];

const OUTCOMES: [Outcome; 5] =
    [Outcome::Promoted, Outcome::RolledBack, Outcome::Failed, Outcome::Refused, Outcome::Aborted];

/// Counters of one unit.
#[derive(Debug, Clone, Default, PartialEq)]
struct UnitCounters {
    restarts: BTreeMap<&'static str, u64>,
    reloads: BTreeMap<Outcome, u64>,
    phases: BTreeMap<&'static str, Histogram>,
    health: BTreeMap<&'static str, u64>,
    checks: BTreeMap<(String, CheckVerdict), u64>,
    stranded: u64,
    canary_new: u64,
    canary_old: u64,
    last_reload_good: Option<bool>,
}

/// Everything that is counted. Fed on the main thread, one call a fact.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    units: BTreeMap<String, UnitCounters>,
    handover_time: Histogram,
    handover_bytes: u64,
    notify_errors: u64,
    control_errors: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            units: BTreeMap::new(),
            handover_time: Histogram::new(&HANDOVER_BOUNDS),
            handover_bytes: 0,
            notify_errors: 0,
            control_errors: 0,
        }
    }
}

impl Metrics {
    fn unit(&mut self, unit: &str) -> &mut UnitCounters {
        if !self.units.contains_key(unit) {
            self.units.insert(unit.to_owned(), UnitCounters::default());
        }
        self.units.entry(unit.to_owned()).or_default()
    }

    /// A unit is no more: what was counted of it is dropped.
    pub fn forget(&mut self, unit: &str) {
        self.units.remove(unit);
    }

    /// A unit came out of state `from` after `seconds`. Counts drains: the other phases come with the record
    /// of their reload, a drain outlasts it.
    pub fn on_state(&mut self, unit: &str, from: UnitState, seconds: f64) {
        if from == UnitState::Draining {
            self.phase(unit, "draining", seconds);
        }
    }

    /// A reload has ended.
    pub fn on_reload(&mut self, unit: &str, record: &ReloadRecord) {
        for phase in &record.phases {
            if phase.phase != "draining" {
                self.phase(unit, &phase.phase, phase.seconds);
            }
        }
        let counters = self.unit(unit);
        for share in &record.shares {
            let to_new = share.to_new.unwrap_or_default();
            counters.canary_new += to_new;
            counters.canary_old += share.connections.unwrap_or_default().saturating_sub(to_new);
        }
        *counters.reloads.entry(record.outcome).or_default() += 1;
        if record.outcome != Outcome::Refused {
            counters.last_reload_good = Some(record.outcome == Outcome::Promoted);
        }
    }

    fn phase(&mut self, unit: &str, phase: &str, seconds: f64) {
        let Some(phase) = PHASES.into_iter().find(|known| *known == phase) else { return };
        let histogram = self.unit(unit).phases.entry(phase).or_insert_with(|| Histogram::new(&PHASE_BOUNDS));
        histogram.observe(seconds);
    }

    /// An automatic restart is being made; `result` is systemd's SERVICE_RESULT word.
    pub fn on_restart(&mut self, unit: &str, result: &str) {
        let reason = RESTART_REASONS.into_iter().find(|known| *known == result).unwrap_or("other");
        *self.unit(unit).restarts.entry(reason).or_default() += 1;
    }

    /// A health check has been made: `pass`, `fail`, `timeout`, `unattributed`, `never_reached`, `not_made`.
    pub fn on_health(&mut self, unit: &str, result: &str) {
        let result = HEALTH_RESULTS.into_iter().find(|known| *known == result).unwrap_or("fail");
        *self.unit(unit).health.entry(result).or_default() += 1;
    }

    /// A check of a soak's analysis has its last word.
    pub fn on_check(&mut self, unit: &str, check: &CheckStatus) {
        if check.verdict != CheckVerdict::Open {
            let counted = self.unit(unit).checks.entry((check.name.clone(), check.verdict)).or_default();
            *counted += 1;
        }
    }

    /// State was relayed from one generation to the next.
    pub fn on_handover(&mut self, seconds: f64, bytes: u64) {
        self.handover_time.observe(seconds);
        self.handover_bytes += bytes;
    }

    /// Connections that wait where nothing takes them before the next launch.
    pub fn on_stranded(&mut self, unit: &str, connections: u64) {
        self.unit(unit).stranded += connections;
    }

    /// A notification that could not be understood or came from somebody who may not send one.
    pub fn on_notify_error(&mut self) {
        self.notify_errors += 1;
    }

    /// A control client that was refused, or a request that could not be understood.
    pub fn on_control_error(&mut self) {
        self.control_errors += 1;
    }

    /// The text that `/metrics` shows.
    pub fn render(&self, input: &MetricsInput<'_>) -> String {
        let mut text = Text::default();
        self.daemon(&mut text, input);
        self.states(&mut text, input.status);
        self.counters(&mut text, input.status);
        sockets(&mut text, input.status);
        used::used(&mut text, input);
        input.process.render(&mut text);
        text.finish()
    }

    fn daemon(&self, text: &mut Text, input: &MetricsInput<'_>) {
        text.family("aeterna_build_info", Kind::Gauge, "The version of aeternad; always 1.");
        text.sample("", &[("version", &input.status.version)], 1.0);
        text.family("aeterna_ready", Kind::Gauge, "Whether /ready is 200.");
        text.sample("", &[], f64::from(u8::from(input.ready)));
        text.counter("aeterna_notify_errors_total", "Notifications that were refused.", self.notify_errors);
        text.counter(
            "aeterna_control_errors_total",
            "Control requests that were refused.",
            self.control_errors,
        );
        text.counter("aeterna_orphans_reaped_total", "Ended processes that were nobody's.", input.orphans);
        text.family(
            "aeterna_handover_duration_seconds",
            Kind::Histogram,
            "How long the relay of state between generations took.",
        );
        text.histogram(&[], &self.handover_time);
        text.counter(
            "aeterna_handover_bytes_total",
            "Bytes of state that were relayed.",
            self.handover_bytes,
        );
    }

    fn states(&self, text: &mut Text, status: &Status) {
        text.family(
            "aeterna_process_state",
            Kind::Gauge,
            "State of a unit: 0 running, 1 soaking, 2 draining, 3 starting, 4 pre-checking, 5 handshaking, \
             6 rolling back, 7 listening, 8 backoff, 9 stopping, 10 stopped, 11 failed, 12 pending.",
        );
        for unit in &status.units {
            text.sample("", &[("unit", &unit.name)], f64::from(state_number(unit.state)));
        }
        text.family(
            "aeterna_generation",
            Kind::Gauge,
            "Number of the serving generation, or of the last one.",
        );
        for unit in &status.units {
            text.sample("", &[("unit", &unit.name)], f64::from(unit.generation));
        }
        canaries(text, status);
        analyses(text, status);
        draining(text, status);
    }

    fn counters(&self, text: &mut Text, status: &Status) {
        let none = UnitCounters::default();
        let units: Vec<(&str, &UnitCounters)> = status
            .units
            .iter()
            .map(|unit| (unit.name.as_str(), self.units.get(&unit.name).unwrap_or(&none)))
            .collect();
        text.family(
            "aeterna_restarts_total",
            Kind::Counter,
            "Automatic restarts, by systemd's SERVICE_RESULT.",
        );
        for (unit, counters) in &units {
            text.words("unit", unit, "reason", &RESTART_REASONS, &counters.restarts);
        }
        text.family("aeterna_reloads_total", Kind::Counter, "Reloads that have ended, by outcome.");
        for (unit, counters) in &units {
            for outcome in OUTCOMES {
                let count = counters.reloads.get(&outcome).copied().unwrap_or_default();
                text.sample("", &[("unit", unit), ("outcome", outcome.name())], count as f64);
            }
        }
        text.family("aeterna_last_reload_successful", Kind::Gauge, "Whether the last reload was promoted.");
        for (unit, counters) in &units {
            if let Some(good) = counters.last_reload_good {
                text.sample("", &[("unit", unit)], f64::from(u8::from(good)));
            }
        }
        text.family("aeterna_health_checks_total", Kind::Counter, "Health checks that were made, by result.");
        for (unit, counters) in &units {
            text.words("unit", unit, "result", &HEALTH_RESULTS, &counters.health);
        }
        judged(text, &units);
        text.family(
            "aeterna_connections_stranded_total",
            Kind::Counter,
            "Connections left in the queue of a crashed generation until the next launch.",
        );
        for (unit, counters) in &units {
            text.sample("", &[("unit", unit)], counters.stranded as f64);
        }
        text.family(
            "aeterna_canary_connections_total",
            Kind::Counter,
            "New connections in soaks that are over, by the generation that got them.",
        );
        for (unit, counters) in &units {
            for (generation, count) in [("old", counters.canary_old), ("new", counters.canary_new)] {
                text.sample("", &[("unit", unit), ("generation", generation)], count as f64);
            }
        }
        phases(text, &units);
    }
}

/// The checks of soaks that are over.
fn judged(text: &mut Text, units: &[(&str, &UnitCounters)]) {
    text.family(
        "aeterna_analysis_total",
        Kind::Counter,
        "Checks of soaks that were judged, by result: pass, fail, inconclusive.",
    );
    for (unit, counters) in units {
        for ((check, result), count) in &counters.checks {
            text.sample("", &[("unit", unit), ("check", check), ("result", result.name())], *count as f64);
        }
    }
}

/// The checks of soaks that are under way.
fn analyses(text: &mut Text, status: &Status) {
    let checks =
        || status.units.iter().flat_map(|unit| unit.analysis.iter().map(move |check| (&unit.name, check)));
    text.family(
        "aeterna_analysis_value",
        Kind::Gauge,
        "What a check of the soak under way has measured: a share from 0 to 1, or a value.",
    );
    for (unit, check) in checks() {
        for (generation, side) in [("new", Some(&check.new)), ("old", check.old.as_ref())] {
            if let Some(value) = side.and_then(|side| side.share.or(side.value)) {
                text.sample("", &[("unit", unit), ("check", &check.name), ("generation", generation)], value);
            }
        }
    }
    text.family("aeterna_analysis_limit", Kind::Gauge, "What a check of the soak under way allows.");
    for (unit, check) in checks() {
        if let Some(limit) = check.limit {
            text.sample("", &[("unit", unit), ("check", &check.name)], limit);
        }
    }
}

fn canaries(text: &mut Text, status: &Status) {
    let soaking = || {
        let found = |unit: &crate::proto::status::UnitStatus| {
            unit.generations.iter().find(|one| one.phase == "soaking").map(|one| (one.weight, one.share))
        };
        status.units.iter().filter_map(move |unit| Some((unit.name.as_str(), found(unit)?)))
    };
    let help = "Percent of new connections that the new generation is to get; while there is a soak.";
    text.family("aeterna_canary_weight", Kind::Gauge, help);
    for (unit, (weight, _)) in soaking() {
        if let Some(weight) = weight {
            text.sample("", &[("unit", unit)], f64::from(weight));
        }
    }
    let help = "Percent that it has got since the weight was set, where they may be counted.";
    text.family("aeterna_canary_share", Kind::Gauge, help);
    for (unit, (_, share)) in soaking() {
        if let Some(share) = share {
            text.sample("", &[("unit", unit)], share);
        }
    }
}

fn phases(text: &mut Text, units: &[(&str, &UnitCounters)]) {
    let help = "How long the phases of reloads took.";
    text.family("aeterna_reload_phase_duration_seconds", Kind::Histogram, help);
    for (unit, counters) in units {
        for (phase, histogram) in &counters.phases {
            text.histogram(&[("unit", unit), ("phase", phase)], histogram);
        }
    }
}

fn draining(text: &mut Text, status: &Status) {
    let drains = |unit: &crate::proto::status::UnitStatus| {
        let draining: Vec<_> =
            unit.generations.iter().filter(|one| one.phase == "draining").cloned().collect();
        let connections: u64 = draining.iter().filter_map(|one| one.connections).map(u64::from).sum();
        let oldest = draining.iter().map(|one| one.age).fold(0.0, f64::max);
        (draining.len() as f64, connections as f64, oldest)
    };
    let all: Vec<(&str, (f64, f64, f64))> =
        status.units.iter().map(|unit| (unit.name.as_str(), drains(unit))).collect();
    text.family("aeterna_draining_generations", Kind::Gauge, "Old generations that finish what they have.");
    for (unit, (count, ..)) in &all {
        text.sample("", &[("unit", unit)], *count);
    }
    text.family(
        "aeterna_draining_connections",
        Kind::Gauge,
        "Connections that draining generations still have.",
    );
    for (unit, (_, connections, _)) in &all {
        text.sample("", &[("unit", unit)], *connections);
    }
    text.family(
        "aeterna_draining_oldest_age_seconds",
        Kind::Gauge,
        "Time since the launch of the oldest generation that drains; 0 if none does.",
    );
    for (unit, (.., oldest)) in &all {
        text.sample("", &[("unit", unit)], *oldest);
    }
}

fn sockets(text: &mut Text, status: &Status) {
    let all: Vec<(&str, String, &crate::proto::status::SocketStatus)> = status
        .units
        .iter()
        .flat_map(|unit| {
            let names = socket_labels(unit.sockets.iter().map(|socket| socket.name.as_str()));
            unit.sockets.iter().zip(names).map(|(socket, name)| (unit.name.as_str(), name, socket))
        })
        .collect();
    text.family("aeterna_socket_accept_queue", Kind::Gauge, "Connections that wait to be accepted.");
    for (unit, name, socket) in &all {
        if let Some(queue) = socket.queue {
            text.sample("", &[("unit", unit), ("socket", name)], f64::from(queue));
        }
    }
    text.family("aeterna_socket_accept_queue_limit", Kind::Gauge, "How many connections can wait.");
    for (unit, name, socket) in &all {
        if let Some(limit) = socket.limit {
            text.sample("", &[("unit", unit), ("socket", name)], f64::from(limit));
        }
    }
    text.family("aeterna_socket_repairs_total", Kind::Counter, "How often a socket had to be repaired.");
    for (unit, name, socket) in &all {
        text.sample("", &[("unit", unit), ("socket", name)], f64::from(socket.repairs));
    }
}

/// One label a socket: a second address of one name is `NAME_2`, as in `AETERNA_FD_NAME_2`.
fn socket_labels<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for name in names {
        let mut label = name.to_owned();
        let mut number = 2;
        while labels.contains(&label) {
            label = format!("{name}_{number}");
            number += 1;
        }
        labels.push(label);
    }
    labels
}

/// The number of a state (contract section 8).
const fn state_number(state: UnitState) -> u8 {
    match state {
        UnitState::Running => 0,
        UnitState::Soaking => 1,
        UnitState::Draining => 2,
        UnitState::Starting => 3,
        UnitState::PreChecking => 4,
        UnitState::Handshaking => 5,
        UnitState::RollingBack => 6,
        UnitState::Listening => 7,
        UnitState::Backoff => 8,
        UnitState::Stopping => 9,
        UnitState::Stopped => 10,
        UnitState::Failed => 11,
        UnitState::Pending => 12,
    }
}

/// What is true at the moment at which the text is made.
#[derive(Debug, Clone)]
pub struct MetricsInput<'a> {
    /// Every unit.
    pub status: &'a Status,
    /// For each unit of it, in order.
    pub totals: &'a [Total],
    /// Whether `/ready` is 200.
    pub ready: bool,
    /// Ended processes that were reaped and belonged to no unit.
    pub orphans: u64,
    /// aeternad's own process.
    pub process: ProcessFacts,
}

/// The process metrics of every exporter; what cannot be found out is left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessFacts {
    /// User and system time, seconds.
    pub cpu_seconds: Option<f64>,
    /// Descriptors that are open.
    pub open_fds: Option<u64>,
    /// Descriptors that can be.
    pub max_fds: Option<u64>,
    /// How many bytes of address space there can be; without a limit the largest number.
    pub max_virtual_bytes: Option<u64>,
    /// Bytes of address space.
    pub virtual_bytes: Option<u64>,
    /// Bytes in memory.
    pub resident_bytes: Option<u64>,
    /// Unix time of its start, seconds.
    pub start_time: Option<f64>,
    /// Threads.
    pub threads: Option<u64>,
}

impl ProcessFacts {
    /// Reads the texts of /proc/self/{stat,status,limits} and /proc/stat (proc(5)); times there are in
    /// hundredths of a second. `open_fds` is counted by the caller.
    pub fn parse(stat: &str, status: &str, limits: &str, system: &str) -> ProcessFacts {
        // The name may hold blanks and parentheses; what follows its last one does not.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        let of = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            match line.split_whitespace().next()? {
                "unlimited" => Some(u64::MAX),
                number => number.parse::<u64>().ok(),
            }
        };
        let booted = of(system, "btime ");
        ProcessFacts {
            cpu_seconds: ticks(11).zip(ticks(12)).map(|(user, own)| (user + own) / 100.0),
            open_fds: None,
            max_fds: of(limits, "Max open files"),
            max_virtual_bytes: of(limits, "Max address space"),
            virtual_bytes: of(status, "VmSize:").map(|kib| kib * 1024),
            resident_bytes: of(status, "VmRSS:").map(|kib| kib * 1024),
            start_time: booted.zip(ticks(19)).map(|(booted, after)| booted as f64 + after / 100.0),
            threads: of(status, "Threads:"),
        }
    }

    fn render(&self, text: &mut Text) {
        let mut one = |name, kind, help, value: Option<f64>| {
            if let Some(value) = value {
                text.family(name, kind, help);
                text.sample("", &[], value);
            }
        };
        let whole = |value: Option<u64>| value.map(|value| value as f64);
        let gauge = Kind::Gauge;
        one("process_cpu_seconds_total", Kind::Counter, "User and system time.", self.cpu_seconds);
        one("process_open_fds", gauge, "Descriptors that are open.", whole(self.open_fds));
        one("process_max_fds", gauge, "Descriptors that can be open.", whole(self.max_fds));
        one("process_virtual_memory_bytes", gauge, "Address space.", whole(self.virtual_bytes));
        let most = whole(self.max_virtual_bytes);
        one("process_virtual_memory_max_bytes", gauge, "Address space that there can be.", most);
        one("process_resident_memory_bytes", gauge, "Memory in use.", whole(self.resident_bytes));
        one("process_start_time_seconds", gauge, "Unix time of the start.", self.start_time);
        one("process_threads", gauge, "Threads.", whole(self.threads));
    }
}

#[cfg(test)]
mod tests;
