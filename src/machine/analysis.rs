//! The analysis of a soak: when both generations are looked at, and what follows from what they say.

use super::event::{Action, Announcement, Exit, Gen, Outcome, Proc, Question, Role, Seen, Target, Ticket};
use super::figures::{self, Looking};
use super::model::{End, Judged, Judging, SIGKILL, Word};
use super::turn::Turn;
use super::verdicts;
use crate::proto::status::{CheckStatus, CheckVerdict};
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
        let Some(reload) = self.s.reload.as_ref() else { return };
        let (number, before_it) = (reload.stage.new_generation(), reload.old);
        let looking = Looking { new: (number, new), old: (before_it, old), range };
        let Some(judged) = self.judging().and_then(|judging| judging.checks.get_mut(index)) else { return };
        let before = judged.verdict;
        judged.silent = None;
        let says_nothing = match &check.kind {
            AnalysisKind::Exec(_) => None,
            AnalysisKind::Value { .. } => figures::values(judged, check, analysis, &looking).err(),
            AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } => {
                figures::shares(judged, check, &looking).err()
            }
        };
        if let (Some(new), false) = (number, matches!(check.kind, AnalysisKind::Exec(_))) {
            judged.text = verdicts::text(judged, check, new, before_it);
        }
        judged.silent = says_nothing.clone().or(judged.silent.take());
        let mut warnings = Vec::new();
        if let Some(why) = says_nothing.filter(|_| !std::mem::replace(&mut judged.warned, true)) {
            warnings.push(format!("the check \"{}\" says nothing: {why}", check.name));
        }
        warnings.extend(verdicts::oddity(judged, check, (number, before_it)));
        for text in warnings {
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
        let (mut kill, mut told) = (Vec::new(), Vec::new());
        for (check, judged) in analysis.checks.iter().zip(&mut judging.checks) {
            // One that has failed was told of when it did.
            told.push(judged.verdict != CheckVerdict::Open);
            if judged.verdict == CheckVerdict::Open {
                let passed = verdicts::has_passed(judged, check);
                judged.verdict = if passed { CheckVerdict::Pass } else { CheckVerdict::Inconclusive };
            }
            kill.extend(judged.running.take().map(|(proc, _)| proc));
        }
        for proc in kill {
            self.push(Action::Signal { to: Target::ProcTree(proc), signal: SIGKILL });
        }
        for (check, _) in self.check_statuses().into_iter().zip(told).filter(|(_, told)| !told) {
            self.announce(Announcement::Analysis { check });
        }
    }

    /// Every check as it stands: for status and history.
    pub(super) fn check_statuses(&self) -> Vec<CheckStatus> {
        self.s.reload.as_ref().map_or_else(Vec::new, |reload| verdicts::statuses(reload, self.contents))
    }

    /// A command of a check has written its last line.
    pub(super) fn command_said(&mut self, proc: Proc, line: String) {
        let running = |check: &&mut Judged| check.running.is_some_and(|(running, _)| running == proc);
        let checks = self.judging().into_iter().flat_map(|judging| &mut judging.checks);
        if let Some(judged) = checks.into_iter().find(running) {
            judged.said = Some(line);
        }
    }

    /// A command of a check has ended.
    pub(super) fn analysis_ended(&mut self, index: u32, proc: Proc, end: &End) {
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
        let said = judged.said.take().map_or(String::new(), |line| format!(": \"{line}\""));
        // What aeternad or the machine lacks says nothing of the service.
        let none = end.exit.is_none() || end.result == Word::OomKill;
        let cannot = if until.is_none() {
            Some("the command did not end within Timeout".to_owned())
        } else if none || end.exit == Some(Exit::Code(CANNOT_SAY)) {
            Some(format!("the command {}", end.text))
        } else {
            None
        };
        let mut warning = None;
        if let Some(why) = cannot {
            judged.text = format!("{why}{said}: that says nothing");
            if !std::mem::replace(&mut judged.warned, true) {
                warning = Some(format!("the check \"{}\" says nothing: {why}{said}", check.name));
            }
        } else if end.is_success() {
            judged.looks += 1;
            judged.in_row = 0;
            judged.text = format!("the command exited with status 0{said}");
        } else {
            judged.looks += 1;
            judged.in_row += 1;
            let times =
                if judged.in_row == 1 { "once".into() } else { format!("{} times in a row", judged.in_row) };
            judged.text = format!("the command {}, {times}{said}", end.text);
            if judged.in_row >= threshold {
                judged.verdict = CheckVerdict::Fail;
            }
        }
        if let Some(text) = warning {
            self.warn(text);
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
