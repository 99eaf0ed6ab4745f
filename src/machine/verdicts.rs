//! What a check's figures come to, in numbers and in words.

use super::event::Gen;
use super::evidence::Count;
use super::model::{Book, Contents, Judged, Reload};
use crate::proto::exposition::{Selector, Sum};
use crate::proto::status::{CheckSide, CheckStatus, CheckVerdict};
use crate::unit::{AnalysisCheck, AnalysisKind};

/// The most that the old generation's requests may exceed a bound that is chosen for it.
const SELDOM: f64 = 0.01;

/// Whether a check that has not failed has seen enough to have passed.
pub(super) fn has_passed(judged: &Judged, check: &AnalysisCheck) -> bool {
    let enough = match check.kind {
        AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } => {
            judged.evidence.new.all >= check.min_samples && judged.evidence.looks > 0
        }
        AnalysisKind::Value { .. } | AnalysisKind::Exec(_) => judged.looks > 0 && judged.in_row == 0,
    };
    match judged.verdict {
        CheckVerdict::Open => enough,
        CheckVerdict::Pass => true,
        CheckVerdict::Fail | CheckVerdict::Inconclusive => false,
    }
}

/// What an open check waits for.
pub(super) fn needs(judged: &Judged, check: &AnalysisCheck) -> String {
    match check.kind {
        AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } | AnalysisKind::Value { .. }
            if judged.looks == 0 && judged.silent.is_some() =>
        {
            judged.silent.clone().unwrap_or_default()
        }
        AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } => {
            let seen = thousands(judged.evidence.new.all);
            format!("{seen} of {} requests that it needs", thousands(check.min_samples))
        }
        AnalysisKind::Value { .. } | AnalysisKind::Exec(_) if judged.looks == 0 && judged.text.is_empty() => {
            "no look said anything".into()
        }
        AnalysisKind::Value { .. } if judged.looks == 0 => "no look said anything".into(),
        AnalysisKind::Value { .. } | AnalysisKind::Exec(_) => judged.text.clone(),
    }
}

/// Every check of a reload's analysis.
pub(super) fn statuses(reload: &Reload, contents: &Contents) -> Vec<CheckStatus> {
    let Some((content, judging)) = reload.stage.content().zip(reload.judging.as_deref()) else {
        return Vec::new();
    };
    let unit = &contents.get(content).unit;
    let checks = unit.analysis.iter().flat_map(|analysis| &analysis.checks);
    checks.zip(&judging.checks).map(|(check, judged)| status(judged, check)).collect()
}

/// The check for status and history.
fn status(judged: &Judged, check: &AnalysisCheck) -> CheckStatus {
    let kind = match check.kind {
        AnalysisKind::Share { .. } => "share",
        AnalysisKind::Latency { .. } => "latency",
        AnalysisKind::Value { .. } => "value",
        AnalysisKind::Exec(_) => "exec",
    };
    let is_share = matches!(check.kind, AnalysisKind::Share { .. } | AnalysisKind::Latency { .. });
    let none = CheckSide { bad: None, of: None, share: None, value: None };
    let counted = |count: Count| CheckSide {
        bad: Some(count.bad),
        of: Some(count.all),
        share: Some(count.share()),
        value: None,
    };
    let valued = |value: Option<f64>| CheckSide { value, ..none };
    let (new, old, limit) = if is_share {
        let evidence = &judged.evidence;
        (counted(evidence.new), Some(counted(evidence.old)), Some(evidence.allowed()))
    } else {
        let relative = check.max_relative.zip(judged.values.1).map(|(factor, old)| factor * old);
        let limit = check.max.into_iter().chain(relative).reduce(f64::max);
        (valued(judged.values.0), judged.values.1.map(|old| valued(Some(old))), limit)
    };
    CheckStatus {
        name: check.name.clone(),
        kind: kind.into(),
        verdict: judged.verdict,
        text: judged.text.clone(),
        new,
        old,
        limit,
        noticed_from: if is_share { judged.evidence.noticed_from() } else { None },
        looks: judged.looks,
    }
}

/// What is odd about a check's counters, once a soak.
pub(super) fn oddity(
    judged: &mut Judged,
    check: &AnalysisCheck,
    (new, old): (Option<Gen>, Option<Gen>),
) -> Option<String> {
    if judged.odd {
        return None;
    }
    let name = &check.name;
    let fell = |book: &Book, number: Option<Gen>| {
        let (process, Gen(number)) = book.fell.zip(number)?;
        Some(format!(
            "the check \"{name}\": counters of generation {number} (pid {process}) have fallen: what was counted stays, \
             and from there they count anew"
        ))
    };
    let evidence = &judged.evidence;
    let more = (evidence.is_impossible() && evidence.new.all >= check.min_samples).then(|| {
        format!(
            "the check \"{name}\": more bad requests than requests were counted: Bad has to be a part of Of"
        )
    });
    let odd = fell(&judged.new, new).or_else(|| fell(&judged.old, old)).or(more);
    judged.odd = odd.is_some();
    odd
}

/// The figures of a check in one line.
pub(super) fn text(judged: &Judged, check: &AnalysisCheck, Gen(new): Gen, old: Option<Gen>) -> String {
    let generation =
        |number: Option<Gen>| number.map_or(String::new(), |old| format!(" of generation {}", old.0));
    let evidence = &judged.evidence;
    let sure = if judged.verdict == CheckVerdict::Fail { " (sure to 99 %)" } else { "" };
    match &check.kind {
        AnalysisKind::Exec(_) => judged.text.clone(),
        AnalysisKind::Value { value, per } => {
            let name =
                per.as_ref().map_or(value.text.clone(), |per| format!("{} / {}", value.text, per.text));
            let number = |value: Option<f64>| value.map_or("unknown".into(), figure);
            let beside = match (old, judged.values.1) {
                (Some(old), Some(value)) => format!(" and {} in generation {}", figure(value), old.0),
                _ => String::new(),
            };
            let row = if judged.in_row > 0 {
                format!(", at {} looks in a row", judged.in_row)
            } else {
                String::new()
            };
            let allowed = allowed(check, "");
            format!(
                "{name} is {} in generation {new}{beside}{row}; allowed is {allowed}",
                number(judged.values.0)
            )
        }
        AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } => {
            let what = match judged.bound {
                Some(bound) => format!("took longer than {}", seconds(bound)),
                None => "are bad".into(),
            };
            let beside = if evidence.old.all > 0 {
                format!(
                    ", {} of {}{}",
                    percent(evidence.old.share()),
                    thousands(evidence.old.all),
                    generation(old)
                )
            } else {
                String::new()
            };
            format!(
                "{} of {} requests of generation {new} {what}{beside}; allowed is {}{sure}",
                percent(evidence.new.share()),
                thousands(evidence.new.all),
                allowed(check, " %")
            )
        }
    }
}

fn allowed(check: &AnalysisCheck, unit: &str) -> String {
    let max = check.max.map(|max| format!("{max}{unit}"));
    let relative = check.max_relative.map(|factor| format!("{factor} times the old one's"));
    max.into_iter().chain(relative).collect::<Vec<String>>().join(" or ")
}

/// Why a sum says nothing, if so: nothing matches, or what matches is no number.
pub(super) fn usable(name: &str, sum: &Sum, counts: bool) -> Result<(), String> {
    match &sum.odd {
        Some(odd) => Err(format!("{odd}, which is no number to go by")),
        None if sum.series == 0 => Err(no_series(name, sum)),
        None if counts && sum.is_negative() => Err(format!("{name} is negative, which no counter is")),
        None => Ok(()),
    }
}

/// The two counters of a check: bad requests, all requests.
pub(super) fn counters(check: &AnalysisCheck, bound: Option<f64>, sums: &[Sum]) -> Result<Vec<f64>, String> {
    match (&check.kind, sums) {
        (AnalysisKind::Share { bad: name, of }, [bad, all]) => {
            usable(&of.name, all, true)?;
            // None yet is none.
            if bad.series > 0 || bad.odd.is_some() {
                usable(&name.name, bad, true)?;
            }
            Ok(vec![bad.value, all.value])
        }
        (AnalysisKind::Latency { histogram, .. }, [sum]) => {
            usable(&format!("{}_bucket", histogram.name), sum, true)?;
            let all = sum.buckets.last().filter(|(bound, _)| bound.is_infinite());
            let (_, all) = all.ok_or_else(|| format!("{} has no bucket +Inf", histogram.name))?;
            let bound = bound.unwrap_or(f64::INFINITY);
            let within = sum.buckets.iter().find(|(le, _)| same(*le, bound));
            let (_, within) = within.ok_or_else(|| {
                let bounds = sum.buckets.iter().map(|(bound, _)| *bound);
                let there = around(bounds.filter(|bound| bound.is_finite()), bound);
                format!("no bucket of {} ends at {}{there}", histogram.name, seconds(bound))
            })?;
            Ok(vec![(all - within).max(0.0), *all])
        }
        _ => Err("the page was read for another unit".into()),
    }
}

/// The bound of a histogram that is judged.
pub(super) fn bound(
    histogram: &Selector,
    wanted: Option<f64>,
    new: &[Sum],
    old: Option<&[Sum]>,
) -> Result<f64, String> {
    let sum = new.first().ok_or("the page was read for another unit")?;
    let name = &histogram.name;
    usable(&format!("{name}_bucket"), sum, true)?;
    let bounds = sum.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite());
    if let Some(wanted) = wanted {
        if bounds.clone().any(|bound| same(bound, wanted)) {
            return Ok(wanted);
        }
        let there = around(bounds, wanted);
        return Err(format!("no bucket of {name} ends at {}{there}", seconds(wanted)));
    }
    let old = old.and_then(<[Sum]>::first).ok_or("without an old generation it needs Slower")?;
    usable(&format!("{name}_bucket"), old, true)?;
    let all = old.buckets.last().map_or(0.0, |(_, all)| *all);
    if all <= 0.0 {
        return Err(format!("the old generation has counted nothing in {name} yet"));
    }
    let fits: Vec<f64> = old
        .buckets
        .iter()
        .filter(|(bound, within)| bound.is_finite() && (all - within) / all <= SELDOM)
        .map(|(bound, _)| *bound)
        .collect();
    if fits.is_empty() {
        return Err(format!(
            "more than 1 % of the old generation's requests are beyond every bucket of {name}"
        ));
    }
    let common = fits.iter().find(|bound| bounds.clone().any(|one| same(one, **bound)));
    common.copied().ok_or_else(|| {
        format!("{name} has other buckets in the new generation, and none in common that at most 1 % exceed: give Slower")
    })
}

/// `: there are 250ms and 500ms`: the bounds beside one that is not there.
fn around(bounds: impl Iterator<Item = f64> + Clone, wanted: f64) -> String {
    let below = bounds.clone().filter(|bound| *bound < wanted).reduce(f64::max);
    let above = bounds.filter(|bound| *bound > wanted).reduce(f64::min);
    let there: Vec<String> = below.into_iter().chain(above).map(seconds).collect();
    if there.is_empty() { String::new() } else { format!(": there are {}", there.join(" and ")) }
}

fn same(one: f64, other: f64) -> bool {
    one == other || (one - other).abs() <= 1e-9 * one.abs().max(other.abs())
}

/// A selector that matches nothing.
pub(super) fn no_series(name: &str, sum: &Sum) -> String {
    let meant = sum.meant.as_ref().map_or(String::new(), |meant| format!("; did you mean {meant}?"));
    format!("no series of {name} matches{meant}")
}

/// `3.1 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 0.1 { format!("{percent:.1} %") } else { format!("{percent:.3} %") }
}

/// `1,204`.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(super) fn seconds(bound: f64) -> String {
    if bound < 1.0 { format!("{}ms", (bound * 1e6).round() / 1e3) } else { format!("{bound}s") }
}

pub(super) fn figure(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { format!("{value:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(f64, f64)]) -> Sum {
        Sum { series: 1, buckets: buckets.to_vec(), ..Sum::default() }
    }

    /// Both generations may have other buckets: judged is where both end, or it is said what there is.
    #[test]
    fn a_histogram_is_judged_at_a_bound_that_both_have() {
        const INF: f64 = f64::INFINITY;
        let name = Selector::parse("lat").unwrap();
        let old = histogram(&[(0.1, 90.0), (0.25, 995.0), (0.5, 1000.0), (INF, 1000.0)]);
        let with = |new: &Sum, wanted| {
            bound(&name, wanted, std::slice::from_ref(new), Some(std::slice::from_ref(&old)))
        };
        assert_eq!(with(&old, None), Ok(0.25));
        let coarser = histogram(&[(0.1, 1.0), (0.5, 1.0), (INF, 1.0)]);
        assert_eq!(with(&coarser, None), Ok(0.5));
        assert_eq!(
            with(&coarser, Some(0.3)).unwrap_err(),
            "no bucket of lat ends at 300ms: there are 100ms and 500ms"
        );
        let other = histogram(&[(0.2, 1.0), (1.0, 1.0), (INF, 1.0)]);
        assert!(with(&other, None).unwrap_err().contains("other buckets in the new generation"));
        let slow = histogram(&[(0.1, 1.0), (INF, 1000.0)]);
        let of_slow = bound(&name, None, std::slice::from_ref(&slow), Some(std::slice::from_ref(&slow)));
        assert!(of_slow.unwrap_err().starts_with("more than 1 %"));
        let idle = histogram(&[(0.1, 0.0), (INF, 0.0)]);
        let of_idle = bound(&name, None, std::slice::from_ref(&idle), Some(std::slice::from_ref(&idle)));
        assert_eq!(of_idle.unwrap_err(), "the old generation has counted nothing in lat yet");
        let odd = Sum { odd: Some("lat_bucket{le=\"+Inf\"} is NaN".into()), ..histogram(&[]) };
        assert!(with(&odd, None).unwrap_err().contains("is NaN"));
    }
}
