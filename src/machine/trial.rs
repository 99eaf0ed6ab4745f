//! What the checks of an analysis would read now, and what a soak could tell by it: for `reload --dry-run`.

use super::event::{NoPage, Seen};
use super::evidence::{Count, Evidence, Limit};
use super::figures::own_figure;
use super::verdicts;
use crate::proto::exposition::{Kind, Sum};
use crate::proto::status::TriedCheck;
use crate::time::Span;
use crate::unit::{AnalysisCheck, AnalysisKind, Unit};

/// Tries the checks of `unit` on what was seen of a generation that was launched `age` ago.
pub fn trial(unit: &Unit, seen: &Seen, age: Span) -> Vec<TriedCheck> {
    let mut at = 0;
    let checks = unit.analysis.iter().flat_map(|analysis| &analysis.checks);
    checks
        .map(|check| {
            let paged = check.kind.selectors().iter().filter(|one| !one.name.starts_with('@')).count();
            let (from, to) = (at, at + paged);
            at = to;
            let found = one(unit, check, seen, from..to, age);
            let ok = found.is_ok();
            TriedCheck { name: check.name.clone(), ok, text: found.unwrap_or_else(|why| why) }
        })
        .collect()
}

fn one(
    unit: &Unit,
    check: &AnalysisCheck,
    seen: &Seen,
    range: std::ops::Range<usize>,
    age: Span,
) -> Result<String, String> {
    let page = || -> Result<&[Sum], String> {
        let page = seen.page.as_ref().map_err(NoPage::to_string)?;
        page.sums.get(range.clone()).ok_or_else(|| "the page was read for another unit".into())
    };
    let alone = seen.page.as_ref().is_ok_and(|page| page.alone);
    match &check.kind {
        AnalysisKind::Exec(_) => Ok("a command; it is not tried".into()),
        AnalysisKind::Share { .. } => {
            let sums = page()?;
            let counted = count(&verdicts::counters(check, None, sums)?);
            let series: Vec<u32> = sums.iter().map(|sum| sum.series).collect();
            let [bad, all] = series[..] else { return Err("the page was read for another unit".into()) };
            let bad =
                if bad == 0 { "no series of Bad yet, which is none".into() } else { format!("{bad} of Bad") };
            let counts = format!(
                "{} of {} requests are bad ({bad}, {all} of Of)",
                verdicts::percent(counted.share()),
                verdicts::thousands(counted.all)
            );
            Ok(counts + &outlook(unit, check, counted, age, alone))
        }
        AnalysisKind::Latency { histogram, slower } => {
            let sums = page()?;
            let wanted = slower.map(Span::as_secs_f64);
            let bound = verdicts::bound(histogram, wanted, sums, Some(sums))?;
            let counted = count(&verdicts::counters(check, Some(bound), sums)?);
            let counts = format!(
                "{} of {} requests took longer than {} ({} buckets)",
                verdicts::percent(counted.share()),
                verdicts::thousands(counted.all),
                verdicts::seconds(bound),
                sums.first().map_or(0, |sum| sum.buckets.len())
            );
            Ok(counts + &outlook(unit, check, counted, age, alone))
        }
        AnalysisKind::Value { .. } => values(check, seen, range),
    }
}

/// What a check of values reads.
fn values(check: &AnalysisCheck, seen: &Seen, mut paged: std::ops::Range<usize>) -> Result<String, String> {
    let mut parts = Vec::new();
    for selector in check.kind.selectors() {
        let amount = match own_figure(&selector.name, &seen.usage) {
            // Counted in soaks only.
            Some((None, _)) if selector.name == "@connections" => {
                parts.push(format!("{} is counted in a soak", selector.text));
                continue;
            }
            Some((amount, _)) => amount.ok_or_else(|| format!("{} cannot be known here", selector.name))?,
            None => {
                let at = paged.next().unwrap_or(usize::MAX);
                let page = seen.page.as_ref().map_err(NoPage::to_string)?;
                let sum = page.sums.get(at).ok_or("the page was read for another unit")?;
                verdicts::usable(&selector.name, sum, sum.kind == Kind::Counter)?;
                sum.value
            }
        };
        parts.push(format!("{} is {}", selector.text, verdicts::figure(amount)));
    }
    Ok(parts.join(", "))
}

fn count(counters: &[f64]) -> Count {
    let whole = |at: usize| counters.get(at).map_or(0, |value| value.round().clamp(0.0, 1e15) as u64);
    Count { bad: whole(0), all: whole(1) }
}

/// `; at this rate a soak of 30s notices 2.1 % or more`: with the share of the old generation as it was so far.
fn outlook(unit: &Unit, check: &AnalysisCheck, so_far: Count, age: Span, alone: bool) -> String {
    let reload = &unit.reload;
    let soak = if reload.soak_time.is_infinite() { Span::from_secs(60) } else { reload.soak_time };
    let judged = match check.initial_delay {
        Some(delay) => Span(soak.0.saturating_sub(delay.0)),
        None => Span(soak.0 / 2),
    };
    // Of several processes each may count for itself: the rate of one is not that of the unit.
    if !alone || age < Span::from_secs(1) || judged.is_zero() || reload.canary_weight.is_empty() {
        return String::new();
    }
    let weights = reload.canary_weight.iter().map(|weight| f64::from(*weight));
    let part = weights.sum::<f64>() / reload.canary_weight.len() as f64 / 100.0;
    let requests = so_far.all as f64 / age.as_secs_f64() * judged.as_secs_f64();
    let whole = |number: f64| number.round().max(0.0) as u64;
    let (new, old) = (whole(requests * part), whole(requests * (1.0 - part)));
    let max = check.max.map(|max| max / 100.0);
    let mut evidence = Evidence::new(Limit { max, relative: check.max_relative });
    let bad = whole(old as f64 * so_far.share());
    evidence.add(Count { all: new, bad: 0 }, Count { all: old, bad });
    let few = if new < check.min_samples {
        format!(", which is not enough to pass (MinSamples {})", verdicts::thousands(check.min_samples))
    } else {
        String::new()
    };
    let notices = match evidence.noticed_from() {
        Some(share) => format!("notices {} or more", verdicts::percent(share)),
        None => "notices nothing".into(),
    };
    let about = verdicts::thousands(new);
    format!(
        "; at this rate a soak of {soak} sees some {about} requests of a new generation{few}, and {notices}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::event::Page;
    use super::*;
    use crate::proto::status::Usage;
    use crate::unit::{Context, parse};

    fn unit(checks: &str) -> Unit {
        let text = format!(
            "[[Socket]]\nListenStream = 1\n[Service]\nExecStart = \"/bin/true\"\n[Reload]\nSoakTime = \"30s\"\n\
             CanaryWeight = 10\n[Analysis]\nHttpGet = \"http://127.0.0.1:1/metrics\"\n{checks}"
        );
        parse(&text, &Context::of_file(std::path::Path::new("a.toml"), "/run", false)).unwrap().unit
    }

    fn sum(value: f64, series: u32) -> Sum {
        Sum { value, series, ..Sum::default() }
    }

    fn seen(sums: Vec<Sum>) -> Seen {
        Seen {
            page: Ok(Page { process: 1, alone: true, sums }),
            usage: Usage { tasks: Some(4), ..Usage::default() },
        }
    }

    const CHECKS: &str = "[[Analysis.Check]]\nName = \"errors\"\nBad = \"bad\"\nOf = \"all\"\nMax = \"0.2%\"\n\
                          [[Analysis.Check]]\nName = \"tasks\"\nValue = \"@tasks\"\nMax = 5\n\
                          [[Analysis.Check]]\nName = \"pool\"\nValue = \"pool / @connections\"\nMax = 5\n\
                          [[Analysis.Check]]\nName = \"cmd\"\nExec = \"/bin/true\"\n";

    #[test]
    fn each_check_says_what_it_reads_now() {
        let meant = Sum { meant: Some("pools".into()), ..sum(0.0, 0) };
        let tried =
            trial(&unit(CHECKS), &seen(vec![sum(1000.0, 2), sum(100_000.0, 5), meant]), Span::from_secs(100));
        let lines: Vec<(&str, bool, &str)> =
            tried.iter().map(|one| (one.name.as_str(), one.ok, one.text.as_str())).collect();
        assert_eq!(lines[0].0, "errors");
        assert!(
            lines[0].2.starts_with("1.0 % of 100,000 requests are bad (2 of Bad, 5 of Of); at this rate a soak of 30s sees some 3,000 requests of a new generation, and notices 2.1 % or more"),
            "{lines:?}"
        );
        assert_eq!(lines[1], ("tasks", true, "@tasks is 4"));
        assert_eq!(lines[2], ("pool", false, "no series of pool matches; did you mean pools?"));
        assert_eq!(lines[3], ("cmd", true, "a command; it is not tried"));
    }

    #[test]
    fn little_traffic_and_no_page_are_said() {
        let few =
            trial(&unit(CHECKS), &seen(vec![sum(0.0, 0), sum(10.0, 1), sum(1.0, 1)]), Span::from_secs(100));
        assert!(few[0].text.contains("no series of Bad yet"), "{few:?}");
        assert!(few[0].text.ends_with("not enough to pass (MinSamples 100), and notices nothing"), "{few:?}");
        assert_eq!(few[2].text, "pool is 1, @connections is counted in a soak");
        let blind = Seen { page: Err(NoPage::Status(404)), usage: Usage::default() };
        let none = trial(&unit(CHECKS), &blind, Span::ZERO);
        assert_eq!((none[0].ok, none[0].text.as_str()), (false, "the page's status is 404"));
        assert_eq!((none[1].ok, none[1].text.as_str()), (false, "@tasks cannot be known here"));
    }
}
