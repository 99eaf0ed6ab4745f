//! What the kernel says of generations.

use super::MetricsInput;
use super::text::{Kind, Text};
use crate::proto::status::Usage;

/// All generations of a unit together, the gone ones too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Total {
    /// Processor time, seconds; `None` where there are no control groups: ended processes take theirs with them.
    pub cpu_seconds: Option<f64>,
    /// Processes that the kernel has killed for memory.
    pub oom_kills: u64,
    /// Releases that are kept beside the one that serves.
    pub releases: u32,
}

/// What the generations of all units use, by what they are to their unit.
pub(super) fn used(text: &mut Text, input: &MetricsInput<'_>) {
    text.family(
        "aeterna_cpu_seconds_total",
        Kind::Counter,
        "Processor time of a unit's generations, the gone ones too, where they have control groups.",
    );
    for (unit, total) in input.status.units.iter().zip(input.totals) {
        if let Some(seconds) = total.cpu_seconds {
            text.sample("", &[("unit", &unit.name)], seconds);
        }
    }
    text.family("aeterna_oom_kills_total", Kind::Counter, "Processes that the kernel has killed for memory.");
    for (unit, total) in input.status.units.iter().zip(input.totals) {
        text.sample("", &[("unit", &unit.name)], total.oom_kills as f64);
    }
    text.family(
        "aeterna_releases_kept",
        Kind::Gauge,
        "Releases that a unit keeps for rollback, beside the one that serves.",
    );
    for (unit, total) in input.status.units.iter().zip(input.totals) {
        text.sample("", &[("unit", &unit.name)], f64::from(total.releases));
    }
    let memory = "Memory of a unit's generations that cannot be reclaimed.";
    gauge(text, input, "aeterna_memory_bytes", memory, |used| used.memory);
    gauge(text, input, "aeterna_tasks", "Threads of a unit's generations.", |used| used.tasks);
}

fn gauge(
    text: &mut Text,
    input: &MetricsInput<'_>,
    name: &'static str,
    help: &str,
    of: fn(&Usage) -> Option<u64>,
) {
    text.family(name, Kind::Gauge, help);
    for unit in &input.status.units {
        for phase in ["serving", "soaking", "draining"] {
            let all = unit.generations.iter().filter(|one| one.phase == phase);
            let known: Vec<u64> = all.filter_map(|one| of(&one.usage)).collect();
            if !known.is_empty() {
                let labels = [("unit", unit.name.as_str()), ("generation", phase)];
                text.sample("", &labels, known.iter().sum::<u64>() as f64);
            }
        }
    }
}
