//! The counters in a form that can be stored.

use super::{
    HANDOVER_BOUNDS, HEALTH_RESULTS, Histogram, Metrics, PHASE_BOUNDS, PHASES, RESTART_REASONS, UnitCounters,
};
use crate::proto::status::{CheckVerdict, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// [`Metrics`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMetrics {
    units: BTreeMap<String, SavedUnit>,
    handover_time: SavedHistogram,
    handover_bytes: u64,
    notify_errors: u64,
    control_errors: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedUnit {
    restarts: BTreeMap<String, u64>,
    reloads: Vec<(Outcome, u64)>,
    phases: BTreeMap<String, SavedHistogram>,
    health: BTreeMap<String, u64>,
    /// Check, result, how often.
    #[serde(default)]
    checks: Vec<(String, CheckVerdict, u64)>,
    stranded: u64,
    canary_new: u64,
    canary_old: u64,
    last_reload_good: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedHistogram {
    counts: Vec<u64>,
    sum: f64,
}

impl Metrics {
    /// The counters, for storing.
    pub fn save(&self) -> SavedMetrics {
        let Metrics { units, handover_time, handover_bytes, notify_errors, control_errors } = self;
        SavedMetrics {
            units: units.iter().map(|(name, unit)| (name.clone(), unit.save())).collect(),
            handover_time: handover_time.save(),
            handover_bytes: *handover_bytes,
            notify_errors: *notify_errors,
            control_errors: *control_errors,
        }
    }

    /// Counters that go on from `saved`.
    ///
    /// # Errors
    /// A word or a bucket is there that is not known here.
    pub fn restore(saved: SavedMetrics) -> Result<Metrics, String> {
        let SavedMetrics { units, handover_time, handover_bytes, notify_errors, control_errors } = saved;
        let mut restored = BTreeMap::new();
        for (name, unit) in units {
            restored.insert(name, UnitCounters::restore(unit)?);
        }
        let handover_time = Histogram::restore(&HANDOVER_BOUNDS, handover_time)?;
        Ok(Metrics { units: restored, handover_time, handover_bytes, notify_errors, control_errors })
    }
}

fn texts(words: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    words.iter().map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

fn known(word: &str, words: &[&'static str]) -> Result<&'static str, String> {
    let found = words.iter().copied().find(|known| *known == word);
    found.ok_or_else(|| format!("a counter \"{word}\" is not known here"))
}

fn words(texts: BTreeMap<String, u64>, of: &[&'static str]) -> Result<BTreeMap<&'static str, u64>, String> {
    texts.into_iter().map(|(text, count)| Ok((known(&text, of)?, count))).collect()
}

impl UnitCounters {
    fn save(&self) -> SavedUnit {
        let UnitCounters {
            restarts,
            reloads,
            phases,
            health,
            checks,
            stranded,
            canary_new,
            canary_old,
            last_reload_good,
        } = self;
        SavedUnit {
            restarts: texts(restarts),
            reloads: reloads.iter().map(|(outcome, count)| (*outcome, *count)).collect(),
            phases: phases.iter().map(|(phase, one)| ((*phase).to_owned(), one.save())).collect(),
            health: texts(health),
            checks: checks.iter().map(|((check, result), count)| (check.clone(), *result, *count)).collect(),
            stranded: *stranded,
            canary_new: *canary_new,
            canary_old: *canary_old,
            last_reload_good: *last_reload_good,
        }
    }

    fn restore(saved: SavedUnit) -> Result<UnitCounters, String> {
        let phase = |(phase, one): (String, SavedHistogram)| {
            Ok::<_, String>((known(&phase, &PHASES)?, Histogram::restore(&PHASE_BOUNDS, one)?))
        };
        Ok(UnitCounters {
            restarts: words(saved.restarts, &RESTART_REASONS)?,
            reloads: saved.reloads.into_iter().collect(),
            phases: saved.phases.into_iter().map(phase).collect::<Result<_, _>>()?,
            health: words(saved.health, &HEALTH_RESULTS)?,
            checks: saved.checks.into_iter().map(|(check, result, count)| ((check, result), count)).collect(),
            stranded: saved.stranded,
            canary_new: saved.canary_new,
            canary_old: saved.canary_old,
            last_reload_good: saved.last_reload_good,
        })
    }
}

impl Histogram {
    fn save(&self) -> SavedHistogram {
        SavedHistogram { counts: self.counts.clone(), sum: self.sum }
    }

    fn restore(bounds: &'static [f64], saved: SavedHistogram) -> Result<Histogram, String> {
        if saved.counts.len() != bounds.len() + 1 {
            return Err("a histogram has other buckets here".into());
        }
        Ok(Histogram { bounds, counts: saved.counts, sum: saved.sum })
    }
}
