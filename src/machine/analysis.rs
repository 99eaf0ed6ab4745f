//! The analysis of a soak: when both generations are looked at, and what follows from what they say.

use super::event::{Action, Announcement, Gen, NoPage, Outcome, Page, Question, Role, Seen, Target, Ticket};
use super::evidence::Count;
use super::model::{End, Increase, Judged, Judging, SIGKILL};
use super::turn::Turn;
use super::verdicts;
use crate::proto::exposition::{Kind, Sum};
use crate::proto::status::{CheckStatus, CheckVerdict, Usage};
use crate::time::{Monotime, Span};
use crate::unit::{Analysis, AnalysisCheck, AnalysisKind, Inconclusive, Unit};
use std::sync::Arc;

/// A look that has not come back this long after `Timeout` never will.
const GRACE: Span = Span::from_secs(1);
/// A command that cannot say: EX_TEMPFAIL.
const CANNOT_SAY: u8 = 75;

impl Turn<'_> {
    /// The unit whose analysis the reload goes by.
    fn analysed(&self) -> Option<Arc<Unit>> {
        let content = self.s.reload.as_ref()?.stage.content()?;
        Some(self.unit(content)).filter(|unit| unit.analysis.is_some())
    }

    fn judging(&mut self) -> Option<&mut Judging> {
        self.s.reload.as_mut()?.judging.as_deref_mut()
    }

    /// The soak has begun.
    pub(super) fn begin_analysis(&mut self) {
        let unit = self.analysed();
        let Some(analysis) = unit.as_ref().and_then(|unit| unit.analysis.as_ref()) else { return };
        let now = self.now;
        if let Some(reload) = self.s.reload.as_mut() {
            reload.judging = Some(Box::new(Judging::new(analysis, now)));
        }
        self.look();
    }

    /// Looks at both, if nobody does already.
    fn look(&mut self) {
        let unit = self.analysed();
        let Some(analysis) = unit.as_ref().and_then(|unit| unit.analysis.as_ref()) else { return };
        let now = self.now;
        let Some((new, old)) =
            self.s.reload.as_ref().map(|reload| (reload.stage.new_generation(), reload.old))
        else {
            return;
        };
        let Some(new) = new else { return };
        let old = old.filter(|old| self.s.generation(*old).is_some());
        let Some(judging) = self.judging() else { return };
        if judging.asked.is_some() {
            return;
        }
        judging.next = now.after(analysis.interval);
        let ticket = self.ask(Question::Look { new, old });
        if let Some(judging) = self.judging() {
            judging.asked = now.after(analysis.timeout + GRACE).map(|until| (ticket, until));
        }
        self.start_commands(analysis, new, old);
    }

    fn start_commands(&mut self, analysis: &Analysis, new: Gen, old: Option<Gen>) {
        let began = self.soak_began();
        let now = self.now;
        for (index, check) in analysis.checks.iter().enumerate() {
            let AnalysisKind::Exec(_) = check.kind else { continue };
            if now.since(began) < self.delay_of(check) {
                continue;
            }
            let free = self
                .judging()
                .and_then(|judging| judging.checks.get(index))
                .is_some_and(|check| check.running.is_none() && check.verdict != CheckVerdict::Fail);
            let Some(content) =
                self.s.reload.as_ref().and_then(|reload| reload.stage.content()).filter(|_| free)
            else {
                continue;
            };
            let role = Role::Analysis(u32::try_from(index).unwrap_or(u32::MAX));
            let environment = self.command_environment(new, old, began);
            let proc = self.spawn(role, content, None, environment);
            let until = now.after(analysis.timeout);
            if let Some(check) = self.judging().and_then(|judging| judging.checks.get_mut(index)) {
                check.running = Some((proc, until));
            }
        }
    }

    fn command_environment(&self, new: Gen, old: Option<Gen>, began: Monotime) -> Vec<(String, String)> {
        let pid = |number: Option<Gen>| number.and_then(|n| self.s.generation(n)?.first_pid());
        let text = |value: Option<String>| value.unwrap_or_default();
        let seconds = self.now.since(began).as_secs_f64().floor();
        [
            ("AETERNA_OLD_PID", text(pid(old).map(|pid| pid.to_string()))),
            ("AETERNA_NEW_PID", text(pid(Some(new)).map(|pid| pid.to_string()))),
            ("AETERNA_OLD_GENERATION", text(old.map(|old| old.0.to_string()))),
            ("AETERNA_NEW_GENERATION", new.0.to_string()),
            ("AETERNA_SOAK_SECONDS", seconds.to_string()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .to_vec()
    }

    fn soak_began(&self) -> Monotime {
        self.s.reload.as_ref().and_then(|reload| reload.stage.soak()).map_or(self.now, |soak| soak.began)
    }

    /// From the start of the soak to the check's first look: latencies and values of a program that has just been
    /// started are not those that it will have.
    fn delay_of(&self, check: &AnalysisCheck) -> Span {
        let content = self.s.reload.as_ref().and_then(|reload| reload.stage.content());
        let soak = content.map_or(Span::ZERO, |content| self.unit(content).reload.soak_time);
        let half = if soak.is_infinite() { Span::from_secs(30) } else { Span(soak.0 / 2) };
        check.initial_delay.unwrap_or(half)
    }

    /// What a look has seen.
    pub(super) fn looked(&mut self, ticket: Ticket, new: &Seen, old: Option<&Seen>) {
        let soaking = self.s.reload.as_ref().is_some_and(|r| r.stage.soak().is_some());
        let unit = self.analysed().filter(|_| soaking);
        let Some(analysis) = unit.as_ref().and_then(|unit| unit.analysis.as_ref()) else { return };
        let Some(judging) = self.judging() else { return };
        if judging.asked.is_none_or(|(asked, _)| asked != ticket) {
            return;
        }
        judging.asked = None;
        let mut at = 0;
        for (index, check) in analysis.checks.iter().enumerate() {
            let paged = check.kind.selectors().iter().filter(|one| !one.name.starts_with('@')).count();
            let (from, to) = (at, at + paged);
            at = to;
            if self.now.since(self.soak_began()) >= self.delay_of(check) {
                self.judge(index, check, analysis, (new, old), from..to);
            }
        }
        self.after_look(analysis);
    }

    fn judge(
        &mut self,
        index: usize,
        check: &AnalysisCheck,
        analysis: &Analysis,
        (new, old): (&Seen, Option<&Seen>),
        range: std::ops::Range<usize>,
    ) {
        let numbers = self.s.reload.as_ref().map(|reload| (reload.stage.new_generation(), reload.old));
        let Some(judged) = self.judging().and_then(|judging| judging.checks.get_mut(index)) else { return };
        let before = judged.verdict;
        let warning = match &check.kind {
            AnalysisKind::Exec(_) => None,
            AnalysisKind::Value { .. } => values(judged, check, analysis, new, old, range).err(),
            AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } => {
                shares(judged, check, new, old, range).err()
            }
        };
        if let Some((new, old)) = numbers {
            judged.text = verdicts::text(judged, check, new, old);
        }
        judged.silent.clone_from(&warning);
        if let Some(why) = warning
            && !judged.warned
        {
            judged.warned = true;
            let text = format!("the check \"{}\" says nothing: {why}", check.name);
            self.warn(text);
        }
        self.tell_verdict(index, before);
    }

    /// A verdict that has changed is told.
    fn tell_verdict(&mut self, index: usize, before: CheckVerdict) {
        let Some(status) = self.check_statuses().into_iter().nth(index) else { return };
        if status.verdict != before {
            self.announce(Announcement::Analysis { check: status });
        }
    }

    /// What follows from all checks together.
    fn after_look(&mut self, analysis: &Analysis) {
        let Some(judging) = self.judging() else { return };
        let failed = analysis
            .checks
            .iter()
            .zip(&judging.checks)
            .find(|(check, judged)| check.block_on_fail && judged.verdict == CheckVerdict::Fail);
        if let Some((check, judged)) = failed {
            let reason = format!("{}: {}", check.name, judged.text);
            return self.roll_back(Outcome::RolledBack, reason);
        }
        if judging.last || judging.extended {
            self.decide(analysis);
        }
    }

    /// The soak's time is over: one more look decides.
    pub(super) fn soak_is_over(&mut self) {
        match self.judging() {
            None => self.promote(String::new()),
            Some(judging) if judging.last => {}
            Some(judging) => {
                judging.last = true;
                if let Some(soak) = self.s.reload.as_mut().and_then(|reload| reload.stage.soak_mut()) {
                    // The answer ends it, and comes within `Timeout`.
                    soak.until = None;
                }
                self.look();
            }
        }
    }

    /// Promotes, goes on, or applies `Inconclusive`.
    fn decide(&mut self, analysis: &Analysis) {
        let now = self.now;
        let began = self.soak_began();
        let Some(judging) = self.judging() else { return };
        let open: Vec<String> = analysis
            .checks
            .iter()
            .zip(&judging.checks)
            .filter(|(check, judged)| check.block_on_fail && !verdicts::has_passed(judged, check))
            .map(|(check, judged)| format!("{} ({})", check.name, verdicts::needs(judged, check)))
            .collect();
        let last = judging.last;
        if open.is_empty() {
            return self.promote(String::new());
        }
        if !last {
            return;
        }
        let most = analysis.soak_time_max.unwrap_or(Span::ZERO);
        if !judging.extended && most > now.since(began) {
            judging.extended = true;
            judging.last = false;
            let until = began.after(most);
            if let Some(soak) = self.s.reload.as_mut().and_then(|reload| reload.stage.soak_mut()) {
                soak.until = until;
                soak.next = None;
            }
            let text = format!("the soak goes on, up to {most}: not judged yet: {}", open.join(", "));
            self.announce(Announcement::Step { generation: None, text });
            return;
        }
        let reason = format!("not judged: {}", open.join(", "));
        match analysis.inconclusive {
            Inconclusive::Promote => self.promote(reason),
            Inconclusive::Rollback => self.roll_back(Outcome::RolledBack, reason),
        }
    }

    /// The checks as they stand become final, and are told.
    pub(super) fn end_analysis(&mut self) {
        let unit = self.analysed();
        let Some(analysis) = unit.as_ref().and_then(|unit| unit.analysis.as_ref()) else { return };
        let Some(judging) = self.judging().filter(|judging| !judging.ended) else { return };
        judging.ended = true;
        judging.next = None;
        judging.asked = None;
        let mut kill = Vec::new();
        for (check, judged) in analysis.checks.iter().zip(&mut judging.checks) {
            if judged.verdict == CheckVerdict::Open {
                let passed = verdicts::has_passed(judged, check);
                judged.verdict = if passed { CheckVerdict::Pass } else { CheckVerdict::Inconclusive };
            }
            kill.extend(judged.running.take().map(|(proc, _)| proc));
        }
        for proc in kill {
            self.push(Action::Signal { to: Target::ProcTree(proc), signal: SIGKILL });
        }
        for check in self.check_statuses() {
            self.announce(Announcement::Analysis { check });
        }
    }

    /// Every check as it stands: for status and history.
    pub(super) fn check_statuses(&self) -> Vec<CheckStatus> {
        self.s.reload.as_ref().map_or_else(Vec::new, |reload| verdicts::statuses(reload, self.contents))
    }

    /// A command of a check has ended.
    pub(super) fn analysis_ended(&mut self, index: u32, proc: super::event::Proc, end: &End) {
        self.push(Action::Signal { to: Target::ProcTree(proc), signal: SIGKILL });
        let unit = self.analysed();
        let Some(analysis) = unit.as_ref().and_then(|unit| unit.analysis.as_ref()) else { return };
        let at = index as usize;
        let Some(check) = analysis.checks.get(at) else { return };
        let threshold = analysis.failure_threshold;
        let Some(judged) = self.judging().and_then(|judging| judging.checks.get_mut(at)) else { return };
        let Some((_, until)) = judged.running.filter(|(running, _)| *running == proc) else { return };
        judged.running = None;
        let before = judged.verdict;
        let says_nothing = until.is_none() || end.exit == Some(super::event::Exit::Code(CANNOT_SAY));
        if says_nothing {
            judged.text = format!("the command {}: it cannot say", end.text);
        } else if end.is_success() {
            judged.looks += 1;
            judged.in_row = 0;
            judged.text = "the command exited with status 0".into();
        } else {
            judged.looks += 1;
            judged.in_row += 1;
            judged.text = format!("the command {}, {} times in a row", end.text, judged.in_row);
            if judged.in_row >= threshold {
                judged.verdict = CheckVerdict::Fail;
            }
        }
        let blocks = check.block_on_fail;
        self.tell_verdict(at, before);
        let waits = self.judging().is_some_and(|judging| judging.asked.is_some());
        if blocks && !waits {
            self.after_look(analysis);
        }
    }

    pub(super) fn tick_analysis(&mut self) {
        let now = self.now;
        let soaking = self.s.reload.as_ref().is_some_and(|r| r.stage.soak().is_some());
        let Some(judging) = self.judging().filter(|_| soaking) else { return };
        let mut late = Vec::new();
        for judged in &mut judging.checks {
            if let Some((proc, until)) = &mut judged.running
                && until.is_some_and(|until| until <= now)
            {
                // Its end is told by its process; without a limit it counts as "cannot say".
                *until = None;
                late.push(*proc);
            }
        }
        let lost = judging.asked.is_some_and(|(_, until)| until <= now);
        if lost {
            judging.asked = None;
        }
        let due = judging.asked.is_none() && judging.next.is_some_and(|next| next <= now);
        for proc in late {
            self.push(Action::Signal { to: Target::ProcTree(proc), signal: SIGKILL });
        }
        let unit = self.analysed().filter(|_| lost);
        if let Some(analysis) = unit.as_ref().and_then(|unit| unit.analysis.as_ref()) {
            self.after_look(analysis);
        }
        if due {
            self.look();
        }
    }
}

/// The sums of a check from a page, and whose counters they are.
fn sums<'a>(seen: &'a Seen, range: &std::ops::Range<usize>) -> Result<(&'a Page, &'a [Sum]), String> {
    let page = seen.page.as_ref().map_err(NoPage::to_string)?;
    let sums = page.sums.get(range.clone()).ok_or("the page was read for another unit")?;
    Ok((page, sums))
}

/// Adds a look to a check of a share or of latencies.
fn shares(
    judged: &mut Judged,
    check: &AnalysisCheck,
    new: &Seen,
    old: Option<&Seen>,
    range: std::ops::Range<usize>,
) -> Result<(), String> {
    let (new_page, new_sums) = sums(new, &range)?;
    let old_sums = old.map(|old| sums(old, &range)).transpose()?;
    if let AnalysisKind::Latency { histogram, slower } = &check.kind
        && judged.bound.is_none()
    {
        let wanted = slower.map(Span::as_secs_f64);
        judged.bound = Some(verdicts::bound(histogram, wanted, new_sums, old_sums.map(|(_, sums)| sums))?);
    }
    let bound = judged.bound;
    let counters = |sums: &[Sum]| verdicts::counters(check, bound, sums);
    let new_count = counters(new_sums)?;
    let old_count = old_sums.map(|(page, sums)| counters(sums).map(|count| (page, count))).transpose()?;
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
fn values(
    judged: &mut Judged,
    check: &AnalysisCheck,
    analysis: &Analysis,
    new: &Seen,
    old: Option<&Seen>,
    range: std::ops::Range<usize>,
) -> Result<(), String> {
    let now = value(judged, check, new, &range, true)?;
    let then = match old {
        Some(old) => value(judged, check, old, &range, false)?,
        None => None,
    };
    let Some(now) = now else { return Ok(()) };
    judged.values = (Some(now), then);
    let relative = check.max_relative.map(|factor| then.map(|then| factor * then));
    let limit = match (check.max, relative) {
        (Some(max), Some(Some(relative))) => max.max(relative),
        (Some(max), _) => max,
        (None, Some(Some(relative))) => relative,
        (None, _) => return Ok(()),
    };
    judged.looks += 1;
    judged.in_row = if now > limit { judged.in_row + 1 } else { 0 };
    if judged.verdict == CheckVerdict::Open && judged.in_row >= analysis.failure_threshold {
        judged.verdict = CheckVerdict::Fail;
    }
    Ok(())
}

/// The value of one generation; `None` before its counters have a beginning.
fn value(
    judged: &mut Judged,
    check: &AnalysisCheck,
    seen: &Seen,
    range: &std::ops::Range<usize>,
    is_new: bool,
) -> Result<Option<f64>, String> {
    let selectors = check.kind.selectors();
    let mut paged = range.clone();
    let (mut amounts, mut growing, mut page_of) = (Vec::new(), Vec::new(), None);
    for selector in selectors {
        if let Some((amount, counts)) = own_figure(&selector.name, &seen.usage) {
            amounts.push(amount.ok_or_else(|| format!("{} cannot be known here", selector.name))?);
            growing.push(counts);
            continue;
        }
        let at = paged.next().unwrap_or(usize::MAX);
        let (page, sums) = sums(seen, &(at..at.saturating_add(1)))?;
        let sum = sums.first().ok_or("the page was read for another unit")?;
        if sum.series == 0 {
            return Err(verdicts::no_series(&selector.name, sum));
        }
        amounts.push(sum.value);
        growing.push(sum.kind == Kind::Counter);
        page_of = Some(page);
    }
    let (process, alone) = page_of.map_or((0, true), |page| (page.process, page.alone));
    let book = if is_new { &mut judged.new } else { &mut judged.old };
    if growing.contains(&true) {
        match book.since(process, alone, &amounts) {
            Some(since) => {
                for ((amount, since), growing) in amounts.iter_mut().zip(since).zip(&growing) {
                    if *growing {
                        *amount = since;
                    }
                }
            }
            None => return Ok(None),
        }
    }
    let value = match amounts.as_slice() {
        [value] => *value,
        [_, per] if *per == 0.0 => return Ok(None),
        [value, per] => value / per,
        _ => return Ok(None),
    };
    Ok(Some(value).filter(|value| value.is_finite()))
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
