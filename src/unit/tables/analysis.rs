//! `[Analysis]` and its checks.

use super::super::read::{Table, Value, choice, flag, integer, list, positive_time, raw_text, text, time};
use super::super::value::{INCONCLUSIVE, parse_http_target};
use super::super::{Analysis, AnalysisCheck, AnalysisKind, HttpTarget, Inconclusive};
use super::commands::command;
use super::health::with_host;
use super::label::ANALYSIS_CHECK;
use crate::proto::exposition::Selector;
use crate::time::Span;

/// The most checks of a unit.
const MOST_CHECKS: usize = 16;
/// `MaxRelative` of shares.
const RELATIVE: f64 = 1.25;
/// The keys that say what a check judges.
const KINDS: [&str; 4] = ["Bad", "Histogram", "Value", "Exec"];

/// Reads `[Analysis]`; `None` if it is not there.
pub(crate) fn read_analysis(table: &Table<'_>) -> Option<Analysis> {
    let http_get = table.take("HttpGet", page);
    let http_get = with_host(table, http_get);
    let interval = table.take("Interval", interval).unwrap_or(Span::from_secs(1));
    let timeout = table.take("Timeout", positive_time).unwrap_or(Span::from_secs(2));
    let threshold = |v: &Value<'_>| integer(v, 1..=i64::from(u32::MAX));
    let failure_threshold = table.take("FailureThreshold", threshold).unwrap_or(3);
    let word = |v: &Value<'_>| choice(v, "an Inconclusive", INCONCLUSIVE);
    let inconclusive = table.take("Inconclusive", word).unwrap_or(Inconclusive::Promote);
    let soak_time_max = table.take("SoakTimeMax", time);
    let checks = table.take("Check", checks).unwrap_or_default();
    if !table.is_there() {
        return None;
    }
    if checks.is_empty() && !table.is_bad("Check") {
        table
            .reader()
            .error(table.at(""), format!("{} judges nothing; it needs {ANALYSIS_CHECK}", table.label()));
    }
    let reads = |check: &AnalysisCheck| check.kind.selectors().iter().any(|one| !one.name.starts_with('@'));
    if let Some(check) = checks.iter().find(|check| reads(check))
        && !table.has("HttpGet")
    {
        let why = format!("the check \"{}\" reads a page: {} needs HttpGet", check.name, table.label());
        table.reader().error(table.at(""), why);
    }
    Some(Analysis { http_get, interval, timeout, failure_threshold, inconclusive, soak_time_max, checks })
}

fn page(value: &Value<'_>) -> Option<HttpTarget> {
    let url = raw_text(value)?;
    parse_http_target(url, &value.reader().specifiers).map_or_else(|why| value.fail(why), Some)
}

fn interval(value: &Value<'_>) -> Option<Span> {
    let span = positive_time(value)?;
    if span < Span::from_millis(100) {
        return value.is_not("an Interval", "it is at least 100ms");
    }
    Some(span)
}

fn checks(value: &Value<'_>) -> Option<Vec<AnalysisCheck>> {
    let found = list(value, |item| {
        let Some(entries) = item.get().as_table() else {
            return item.is_not("a check", "write a table under [[Analysis.Check]]");
        };
        let table = Table::new(ANALYSIS_CHECK, Some(entries), item.at(), item.reader());
        let check = read_check(&table);
        table.report_unknown(&|_, _| None);
        check.map(|check| (*item, check))
    })?;
    if found.len() > MOST_CHECKS {
        return value.fail(format!("there are {} checks; {MOST_CHECKS} are the most", found.len()));
    }
    for (index, (item, check)) in found.iter().enumerate() {
        if found[..index].iter().any(|(_, earlier)| earlier.name == check.name) {
            return item.fail(format!("two checks are called \"{}\"", check.name));
        }
    }
    Some(found.into_iter().map(|(_, check)| check).collect())
}

/// Reads one check.
pub(crate) fn read_check(table: &Table<'_>) -> Option<AnalysisCheck> {
    let name = table.take("Name", name);
    let kind = read_kind(table);
    let share = matches!(kind, Some(AnalysisKind::Share { .. } | AnalysisKind::Latency { .. }));
    let is_value = matches!(kind, Some(AnalysisKind::Value { .. }));
    let is_exec = matches!(kind, Some(AnalysisKind::Exec(_)));
    let max = table.take("Max", |v| if is_value { number(v) } else { percent(v) });
    let relative = table.take("MaxRelative", number);
    let min_samples = table.take("MinSamples", |v| integer(v, 1..=i64::MAX)).unwrap_or(100);
    let delay = table.take("InitialDelay", time);
    let block_on_fail = table.take("BlockOnFail", flag).unwrap_or(true);
    if !table.has("Name") {
        table.reader().error(table.at(""), format!("{} has no Name", table.label()));
    }
    let is_there = |key: &&&str| table.has(key);
    if is_value && ["Max", "MaxRelative"].iter().filter(is_there).count() == 0 {
        table.reader().error(table.at("Value"), "Value needs a limit: Max or MaxRelative");
    }
    for key in ["Max", "MaxRelative", "MinSamples"] {
        if table.has(key) && (is_exec || (is_value && key == "MinSamples")) {
            let kind = if is_exec { "Exec" } else { "Value" };
            table.reader().warn(table.at(key), format!("{key} has no effect beside {kind}"));
        }
    }
    let relative = match relative {
        Some(0.0) => None,
        None if share => Some(RELATIVE),
        given => given,
    };
    if share && max.is_none() && relative.is_none() {
        table.reader().error(table.at("MaxRelative"), "without MaxRelative a share needs Max");
    }
    let at_once = matches!(kind, Some(AnalysisKind::Share { .. } | AnalysisKind::Exec(_)));
    Some(AnalysisCheck {
        name: name?,
        kind: kind?,
        max,
        max_relative: relative,
        min_samples,
        initial_delay: delay.or(at_once.then_some(Span::ZERO)),
        block_on_fail,
    })
}

fn read_kind(table: &Table<'_>) -> Option<AnalysisKind> {
    let bad = table.take("Bad", selector);
    let of = table.take("Of", selector);
    let histogram = table.take("Histogram", selector);
    let slower = table.take("Slower", positive_time);
    let quotient = table.take("Value", quotient);
    let exec = table.take("Exec", command);
    if !table.is_there() {
        return None;
    }
    let reader = table.reader();
    let present: Vec<&str> = KINDS.into_iter().filter(|key| table.has(key)).collect();
    match present.as_slice() {
        [_] => {}
        [] => {
            let needs = "Bad with Of, Histogram, Value or Exec";
            reader.error(table.at(""), format!("{} judges nothing; it needs {needs}", table.label()));
        }
        [first, second, ..] => {
            reader.error(table.at(second), format!("{second} beside {first}: a check judges one of them"));
        }
    }
    for (key, needs) in [("Of", "Bad"), ("Bad", "Of"), ("Slower", "Histogram")] {
        if table.has(key) && !table.has(needs) {
            reader.error(table.at(key), format!("{key} needs {needs}"));
        }
    }
    let share = bad.zip(of).map(|(bad, of)| AnalysisKind::Share { bad, of });
    let latency = histogram.map(|histogram| AnalysisKind::Latency { histogram, slower });
    let value = quotient.map(|(value, per)| AnalysisKind::Value { value, per });
    share.or(latency).or(value).or(exec.map(AnalysisKind::Exec))
}

fn name(value: &Value<'_>) -> Option<String> {
    let name = text(value)?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if name.is_empty() || name.len() > 32 || !name.bytes().all(fits) {
        return value.is_not("the name of a check", "1 to 32 of a-z, 0-9, _ and -");
    }
    Some(name)
}

/// The figures that aeternad has of its own.
pub(crate) const OWN_FIGURES: [&str; 7] = [
    "@cpu_seconds",
    "@connections",
    "@memory_bytes",
    "@tasks",
    "@descriptors",
    "@accept_queue",
    "@oom_kills",
];

fn selector(value: &Value<'_>) -> Option<Selector> {
    match Selector::parse(raw_text(value)?) {
        Ok(selector) if selector.name.starts_with('@') => {
            value.fail(format!("{} is a figure of aeternad's own: only Value takes it", selector.name))
        }
        Ok(selector) => Some(selector),
        Err(why) => value.fail(why),
    }
}

/// `selector` or `selector / selector`.
fn quotient(value: &Value<'_>) -> Option<(Selector, Option<Selector>)> {
    let written = raw_text(value)?;
    let (above, below) = match divided(written) {
        Some((above, below)) => (above, Some(below)),
        None => (written, None),
    };
    let one = |text: &str| match Selector::parse(text) {
        Ok(one) if one.name.starts_with('@') && !OWN_FIGURES.contains(&one.text.as_str()) => value
            .fail(format!("{} is unknown; aeternad's own figures are {}", one.text, OWN_FIGURES.join(", "))),
        Ok(one) => Some(one),
        Err(why) => value.fail(why),
    };
    let above = one(above)?;
    match below {
        Some(below) => Some((above, Some(one(below)?))),
        None => Some((above, None)),
    }
}

/// The two sides of the first `/` outside of quotes.
fn divided(text: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '/' if !quoted => return Some((&text[..at], &text[at + 1..])),
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    None
}

/// A number that is not negative.
fn number(value: &Value<'_>) -> Option<f64> {
    let written = value.get();
    let text = written.as_float().map(|float| float.as_str().to_string());
    let text = text.or_else(|| written.as_integer().map(|number| number.as_str().to_string()));
    match text.and_then(|text| text.replace('_', "").parse::<f64>().ok()) {
        Some(number) if number.is_finite() && number >= 0.0 => Some(number),
        _ => value.is_not("a number", "it is 0 or more, such as 1.25"),
    }
}

/// "0.2%" as 0.2.
fn percent(value: &Value<'_>) -> Option<f64> {
    let parsed =
        value.get().as_str().and_then(|text| text.trim().strip_suffix('%')?.trim().parse::<f64>().ok());
    match parsed {
        Some(percent) if percent > 0.0 && percent <= 100.0 => Some(percent),
        _ => value.is_not("a share", "write a percentage such as \"0.5%\""),
    }
}
