//! What a look adds to a check: counters of shares and latencies, and values.

use super::event::{Gen, NoPage, Page, Seen};
use super::evidence::Count;
use super::model::{Book, Increase, Judged};
use super::verdicts;
use crate::proto::exposition::{Kind, Sum};
use crate::proto::status::{CheckVerdict, Usage};
use crate::time::Span;
use crate::unit::{Analysis, AnalysisCheck, AnalysisKind};
use std::ops::Range;

/// Both generations as a look has seen them, and where in their pages the sums of the check are.
pub(super) struct Looking<'a> {
    pub(super) new: (Option<Gen>, &'a Seen),
    pub(super) old: (Option<Gen>, Option<&'a Seen>),
    pub(super) range: Range<usize>,
}

impl<'a> Looking<'a> {
    /// What a generation's page has for the check; `None`: that generation is not there.
    fn page(&self, is_new: bool) -> Result<Option<(&'a Page, &'a [Sum])>, String> {
        let seen = if is_new { Some(self.new.1) } else { self.old.1 };
        let Some(seen) = seen else { return Ok(None) };
        let page = seen.page.as_ref().map_err(|none: &NoPage| self.of(is_new, none.to_string()))?;
        let sums = page.sums.get(self.range.clone()).ok_or("the page was read for another unit")?;
        Ok(Some((page, sums)))
    }

    /// Whose fault it is.
    fn of(&self, is_new: bool, why: String) -> String {
        let number = if is_new { self.new.0 } else { self.old.0 };
        number.map_or(why.clone(), |Gen(number)| format!("generation {number}: {why}"))
    }
}

/// Adds a look to a check of a share or of latencies.
///
/// # Errors
/// Why the look says nothing: for people.
pub(super) fn shares(
    judged: &mut Judged,
    check: &AnalysisCheck,
    looking: &Looking<'_>,
) -> Result<(), String> {
    let Some((new_page, new_sums)) = looking.page(true)? else { return Ok(()) };
    let old = looking.page(false)?;
    if let AnalysisKind::Latency { histogram, slower } = &check.kind
        && judged.bound.is_none()
    {
        let wanted = slower.map(Span::as_secs_f64);
        judged.bound = Some(verdicts::bound(histogram, wanted, new_sums, old.map(|(_, sums)| sums))?);
    }
    let bound = judged.bound;
    let counters =
        |is_new, sums: &[Sum]| verdicts::counters(check, bound, sums).map_err(|why| looking.of(is_new, why));
    let new_count = counters(true, new_sums)?;
    let old_count = old.map(|(page, sums)| counters(false, sums).map(|count| (page, count))).transpose()?;
    let old_grown = old_count.map(|(page, count)| judged.old.add(page.process, page.alone, &count));
    let mut anew = matches!(old_grown, Some(Increase::Anew(_)));
    let new_grown = judged.new.add(new_page.process, new_page.alone, &new_count);
    anew |= matches!(new_grown, Increase::Anew(_));
    if anew {
        let fresh = Judged::new(check);
        judged.evidence = fresh.evidence;
        judged.looks = 0;
    }
    let (Some(new), Some(old)) =
        (count(&new_grown), old_grown.as_ref().map_or(Some(Count::default()), count))
    else {
        return Ok(());
    };
    judged.looks += 1;
    judged.evidence.add(new, old);
    if judged.verdict == CheckVerdict::Open && judged.evidence.fails() {
        judged.verdict = CheckVerdict::Fail;
    }
    Ok(())
}

fn count(increase: &Increase) -> Option<Count> {
    let (Increase::By(grown) | Increase::Anew(grown)) = increase else { return None };
    let whole = |at: usize| grown.get(at).map_or(0, |value| value.round().clamp(0.0, 1e15) as u64);
    Some(Count { bad: whole(0), all: whole(1) })
}

/// Adds a look to a check of a value.
///
/// # Errors
/// Why the look says nothing: for people.
pub(super) fn values(
    judged: &mut Judged,
    check: &AnalysisCheck,
    analysis: &Analysis,
    looking: &Looking<'_>,
) -> Result<(), String> {
    let now = value(judged, check, looking, true)?;
    let then = value(judged, check, looking, false)?;
    let Some(now) = now else { return Ok(()) };
    judged.values = (Some(now), then);
    // So many times what is below nothing is less than that.
    let compared = then.filter(|then| *then >= 0.0);
    let relative = check.max_relative.zip(compared).map(|(factor, then)| factor * then);
    let Some(limit) = check.max.into_iter().chain(relative).reduce(f64::max) else {
        return match then {
            Some(then) if then < 0.0 => {
                let why =
                    format!("it is {}, and no multiple of that is a limit: give Max", verdicts::figure(then));
                Err(looking.of(false, why))
            }
            Some(_) | None => Ok(()),
        };
    };
    judged.looks += 1;
    judged.in_row = if now > limit { judged.in_row + 1 } else { 0 };
    if judged.verdict == CheckVerdict::Open && judged.in_row >= analysis.failure_threshold {
        judged.verdict = CheckVerdict::Fail;
    }
    Ok(())
}

/// A figure that a value is made of.
struct Amount {
    is: f64,
    /// It only grows: what counts is by how much.
    grows: bool,
    /// It is aeternad's own: of all processes together.
    own: bool,
}

/// The value of one generation; `None` before its counters have a beginning.
fn value(
    judged: &mut Judged,
    check: &AnalysisCheck,
    looking: &Looking<'_>,
    is_new: bool,
) -> Result<Option<f64>, String> {
    let seen = if is_new { Some(looking.new.1) } else { looking.old.1 };
    let Some(seen) = seen else { return Ok(None) };
    let mut paged = 0..looking.range.len();
    let (mut amounts, mut page_of) = (Vec::new(), None);
    for selector in check.kind.selectors() {
        if let Some((amount, grows)) = own_figure(&selector.name, &seen.usage) {
            let unknown = || looking.of(is_new, format!("{} cannot be known here", selector.name));
            amounts.push(Amount { is: amount.ok_or_else(unknown)?, grows, own: true });
            continue;
        }
        let Some((page, sums)) = looking.page(is_new)? else { return Ok(None) };
        let sum = paged.next().and_then(|at| sums.get(at)).ok_or("the page was read for another unit")?;
        let grows = sum.kind == Kind::Counter;
        verdicts::usable(&selector.name, sum, grows).map_err(|why| looking.of(is_new, why))?;
        amounts.push(Amount { is: sum.value, grows, own: false });
        page_of = Some(page);
    }
    let (process, alone) = page_of.map_or((0, true), |page| (page.process, page.alone));
    let (book, own) =
        if is_new { (&mut judged.new, &mut judged.own_new) } else { (&mut judged.old, &mut judged.own_old) };
    let since = (grown(&mut amounts, false, book, process, alone), grown(&mut amounts, true, own, 0, true));
    if since != (true, true) {
        return Ok(None);
    }
    let value = match amounts.iter().map(|amount| amount.is).collect::<Vec<f64>>()[..] {
        [value] => value,
        [_, 0.0] => {
            judged.silent = Some(looking.of(is_new, "there is nothing yet to divide by".into()));
            return Ok(None);
        }
        [value, per] => value / per,
        _ => return Ok(None),
    };
    Ok(Some(value).filter(|value| value.is_finite()))
}

/// Puts in the place of counters by how much they have grown; false before that is known.
fn grown(amounts: &mut [Amount], own: bool, book: &mut Book, process: i32, alone: bool) -> bool {
    let mut counters: Vec<&mut Amount> =
        amounts.iter_mut().filter(|amount| amount.grows && amount.own == own).collect();
    if counters.is_empty() {
        return true;
    }
    let said: Vec<f64> = counters.iter().map(|amount| amount.is).collect();
    let Some(since) = book.since(process, alone, &said) else { return false };
    for (amount, since) in counters.iter_mut().zip(since) {
        amount.is = since;
    }
    true
}

/// A figure of aeternad's own, and whether it only grows; the outer `None`: no such figure.
pub(super) fn own_figure(name: &str, usage: &Usage) -> Option<(Option<f64>, bool)> {
    let whole = |amount: Option<u64>| amount.map(|amount| amount as f64);
    Some(match name {
        "@cpu_seconds" => (usage.cpu_seconds, true),
        "@connections" => (whole(usage.connections), true),
        "@oom_kills" => (whole(usage.oom_kills), true),
        "@memory_bytes" => (whole(usage.memory), false),
        "@tasks" => (whole(usage.tasks), false),
        "@descriptors" => (whole(usage.descriptors), false),
        "@accept_queue" => (whole(usage.accept_queue), false),
        _ => return None,
    })
}
