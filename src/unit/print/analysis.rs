//! `[Analysis]` as TOML.

use super::super::tables::label;
use super::super::value::{INCONCLUSIVE, word_of};
use super::super::{Analysis, AnalysisCheck, AnalysisKind};
use super::entries::{Section, section};
use super::toml::{command, quote};

/// `[Analysis]` and a table for each check.
pub(super) fn analysis(analysis: &Analysis) -> Vec<Section> {
    let mut table = section(label::ANALYSIS);
    table.optional("HttpGet", analysis.http_get.as_ref().map(|target| quote(&target.url)));
    let named = analysis.http_get.as_ref().and_then(|target| target.named.as_deref());
    table.optional("HttpHost", named.map(quote));
    table.time("Interval", analysis.interval);
    table.time("Timeout", analysis.timeout);
    table.number("FailureThreshold", analysis.failure_threshold);
    table.word("Inconclusive", word_of(INCONCLUSIVE, &analysis.inconclusive));
    table.optional("SoakTimeMax", analysis.soak_time_max.map(|span| quote(&span.to_string())));
    std::iter::once(table).chain(analysis.checks.iter().map(check)).collect()
}

fn check(check: &AnalysisCheck) -> Section {
    let mut table = section(label::ANALYSIS_CHECK);
    table.text("Name", &check.name);
    let share = matches!(check.kind, AnalysisKind::Share { .. } | AnalysisKind::Latency { .. });
    match &check.kind {
        AnalysisKind::Share { bad, of } => {
            table.raw("Bad", &bad.text);
            table.raw("Of", &of.text);
        }
        AnalysisKind::Latency { histogram, slower } => {
            table.raw("Histogram", &histogram.text);
            table.optional("Slower", slower.map(|span| quote(&span.to_string())));
        }
        AnalysisKind::Value { value, per } => {
            let divided = per.as_ref().map(|per| format!("{} / {}", value.text, per.text));
            table.raw("Value", &divided.unwrap_or_else(|| value.text.clone()));
        }
        AnalysisKind::Exec(words) => table.put("Exec", command(words)),
    }
    let max = |max: f64| if share { quote(&format!("{max}%")) } else { format!("{max:?}") };
    if !matches!(check.kind, AnalysisKind::Exec(_)) {
        table.optional("Max", check.max.map(max));
        let off = share.then(|| "0".to_string());
        table.optional("MaxRelative", check.max_relative.map(|factor| format!("{factor:?}")).or(off));
    }
    if share {
        table.put("MinSamples", check.min_samples.to_string());
    }
    table.optional("InitialDelay", check.initial_delay.map(|span| quote(&span.to_string())));
    table.put("BlockOnFail", check.block_on_fail.to_string());
    table
}
