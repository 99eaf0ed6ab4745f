//! What `aeternactl reload` (and whatever else waits) shows while it waits, and at the end.

use super::event::tone;
use super::{Look, Tone, clean, outcome_tone, outcome_words, paint, state_tone, time};
use crate::proto::control::{FileChange, ReloadReply};
use crate::proto::status::{EventLine, Outcome, UnitState, UnitStatus};
use std::collections::BTreeMap;

/// What has been seen of the units that are waited for.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    units: BTreeMap<String, Seen>,
    /// The unit that something happened to last.
    latest: String,
    /// Unix time of the last event, and seconds that have passed since.
    time: f64,
    since: f64,
    /// What the daemon said last of that unit.
    known: Option<UnitStatus>,
}

/// What has been seen of one unit.
#[derive(Debug)]
struct Seen {
    state: UnitState,
    /// Unix time of the first change of state, and of the last.
    first: f64,
    began: f64,
    /// The last words about weight, health or status.
    remark: String,
}

impl Progress {
    /// Takes an event in; the lines that it is worth, with newlines, or nothing.
    pub(crate) fn event(&mut self, event: &EventLine, look: Look) -> String {
        self.time = event.time;
        self.since = 0.0;
        self.latest.clone_from(&event.unit);
        let unit = clean(&event.unit);
        if let Some(state) = event.state {
            return format!("{unit}: {}\n", self.change(event, state, look));
        }
        match event.kind.as_str() {
            "weight" | "health" | "status" => {
                if let Some(seen) = self.units.get_mut(&event.unit) {
                    seen.remark = clean(&event.text);
                }
                String::new()
            }
            // The answer says it, with more.
            "reloaded" => String::new(),
            _ if event.unit.is_empty() => format!("{}\n", paint(look, tone(event), &clean(&event.text))),
            _ => format!("{unit}:   {}\n", paint(look, tone(event), &clean(&event.text))),
        }
    }

    /// A unit's new state, and how long the one before took if it was seen to begin.
    fn change(&mut self, event: &EventLine, state: UnitState, look: Look) -> String {
        let before = self.units.get(&event.unit);
        let took = before.map(|seen| {
            let lasted = event.lasted.unwrap_or(event.time - seen.began);
            paint(look, Tone::Faint, &format!("  ({} took {})", seen.state.name(), time::took(lasted)))
        });
        let first = before.map_or(event.time, |seen| seen.first);
        let seen = Seen { state, first, began: event.time, remark: String::new() };
        self.units.insert(event.unit.clone(), seen);
        format!("{}{}", paint(look, state_tone(state), state.name()), took.unwrap_or_default())
    }

    /// A second without an event has passed.
    pub(crate) fn tick(&mut self) {
        self.since += 1.0;
    }

    /// The unit to which something happened last; empty if nothing has.
    pub(crate) fn latest(&self) -> &str {
        &self.latest
    }

    /// What the daemon says of a unit just now.
    pub(crate) fn know(&mut self, unit: UnitStatus) {
        self.known = Some(unit);
    }

    /// The progress line: where the unit is to which something happened last. Without a newline.
    pub(crate) fn live(&self) -> String {
        let Some(seen) = self.units.get(&self.latest) else { return String::new() };
        let lasted = time::age(self.time + self.since - seen.began);
        let known = self.known.as_ref().filter(|unit| unit.name == self.latest && unit.state == seen.state);
        let told = known.and_then(how_far);
        let (lasted, remark) = match told {
            Some((whole, remark)) => (format!("{lasted} of {whole}"), remark),
            None => (format!("for {lasted}"), String::new()),
        };
        let remark = if remark.is_empty() { &seen.remark } else { &remark };
        let remark = if remark.is_empty() { String::new() } else { format!(", {remark}") };
        format!("{}: {} {lasted}{remark}", clean(&self.latest), seen.state.name())
    }

    /// That the old generation of a unit is gone, and how long after the promotion.
    pub(crate) fn drained(&self, unit: &str) -> String {
        let began =
            self.units.get(unit).filter(|seen| seen.state == UnitState::Draining).map(|seen| seen.began);
        let after = began.map(|began| format!(" after {}", time::took(self.time + self.since - began)));
        format!("{}: drained{}\n", clean(unit), after.unwrap_or_default())
    }

    /// How long has been seen of a unit, seconds; `None` if nothing has.
    fn length(&self, unit: &str) -> Option<f64> {
        let seen = self.units.get(unit)?;
        Some(seen.began - seen.first).filter(|length| *length > 0.0)
    }
}

/// How long a phase lasts at most, and what is to be said of it meanwhile.
fn how_far(unit: &UnitStatus) -> Option<(String, String)> {
    let whole = |left: f64| time::age((unit.since + left).round());
    match unit.state {
        UnitState::Soaking => Some((whole(unit.soak_ends_in?), share(unit))),
        UnitState::Draining => {
            let oldest = unit.generations.iter().find(|one| one.phase == "draining")?;
            let left = oldest.connections.map(|count| {
                let count = count as usize;
                format!(
                    "generation {} has {} left",
                    oldest.number,
                    super::count(count, "connection", "connections")
                )
            });
            // A stop signal that has not been sent yet has no end.
            Some((whole(oldest.kill_in?), left.unwrap_or_default()))
        }
        _ => None,
    }
}

/// `generation 5 has 10.2 % of 1,204 connections`, as measured; else what it is to get.
fn share(unit: &UnitStatus) -> String {
    let Some(new) = unit.generations.iter().find(|one| one.phase == "soaking") else { return String::new() };
    let counted = unit.generations.iter().filter_map(|one| one.usage.connections).sum::<u64>();
    match new.share {
        Some(share) if counted > 0 => {
            let all = super::thousands(counted);
            format!("generation {} has {share:.1} % of {all} connections", new.number)
        }
        // Nobody came yet, or nobody can count.
        _ => new.weight.map_or_else(String::new, |weight| {
            format!("generation {} gets {weight} % of new connections", new.number)
        }),
    }
}

/// How reloads ended: a line each, and what the failed generation wrote last.
pub(crate) fn outcomes(reloads: &[ReloadReply], progress: &Progress, look: Look) -> String {
    let mut text = String::new();
    if reloads.is_empty() {
        text.push_str("nothing has changed\n");
    }
    for reload in reloads {
        let unit = clean(&reload.unit);
        if let Some(change) = reload.file {
            text.push_str(&of_file(reload, change, look));
            continue;
        }
        let Some(outcome) = reload.outcome else {
            text.push_str(&format!("{unit}: the reload has begun\n"));
            continue;
        };
        // As the history says it; what was seen from here began a little later.
        let length = reload.took.or_else(|| progress.length(&reload.unit));
        let length = length.map(|length| format!(" after {}", time::took(length)));
        let words = paint(look, outcome_tone(outcome), outcome_words(outcome));
        let reason =
            if reload.reason.is_empty() { String::new() } else { format!(": {}", lines(&reload.reason)) };
        text.push_str(&format!("{unit}: {words}{}{reason}\n", length.unwrap_or_default()));
        if !reload.last_lines.is_empty() {
            text.push_str("  the last lines of the new generation:\n");
        }
        for line in &reload.last_lines {
            text.push_str(&format!("  | {}\n", clean(line)));
        }
    }
    text
}

/// What has become of a unit whose file is new or gone, or cannot be used.
fn of_file(reload: &ReloadReply, change: FileChange, look: Look) -> String {
    let unit = clean(&reload.unit);
    let good = match (change, reload.outcome) {
        (FileChange::Added, Some(Outcome::Promoted)) => Some("started: its file is new"),
        (FileChange::Added, None) => Some("its start has begun: its file is new"),
        (FileChange::Removed, Some(Outcome::Promoted)) => Some("stopped and dropped: its file is gone"),
        (FileChange::Removed, None) => Some("its stop has begun: its file is gone"),
        (FileChange::Added | FileChange::Removed | FileChange::Unusable, _) => None,
    };
    if let Some(good) = good {
        return format!("{unit}: {}\n", paint(look, Tone::Good, good));
    }
    let bad = match change {
        FileChange::Added => "its file is new, and it does not start",
        FileChange::Removed => "its file is gone, and it does not stop",
        FileChange::Unusable => "its file cannot be used",
    };
    format!("{unit}: {}:\n  {}\n", paint(look, Tone::Bad, bad), lines(&reload.reason))
}

/// A reason of one or more lines, those after the first indented.
fn lines(reason: &str) -> String {
    reason.lines().map(clean).collect::<Vec<String>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    const PLAIN: Look = Look { colour: false, width: None };

    fn change(at: f64, state: UnitState, lasted: f64) -> EventLine {
        EventLine { time: at, state: Some(state), lasted: Some(lasted), ..samples::event("state", "A -> B") }
    }

    fn reply(outcome: Option<Outcome>, reason: &str) -> ReloadReply {
        ReloadReply {
            unit: "chat".into(),
            outcome,
            file: None,
            reason: reason.into(),
            took: None,
            last_lines: vec![],
        }
    }

    #[test]
    fn each_phase_is_a_line_when_it_begins() {
        let mut progress = Progress::default();
        assert_eq!(progress.live(), "");
        let lines: String = [
            change(100.0, UnitState::PreChecking, 86_400.0),
            samples::event("step", "pre-flight \"check\" passed"),
            change(100.12, UnitState::Starting, 0.12),
            samples::event("warning", "slow\n"),
            change(100.5, UnitState::Soaking, 0.38),
            change(102.5, UnitState::Draining, 2.0),
            samples::event("reloaded", "promoted"),
        ]
        .iter()
        .map(|event| progress.event(event, PLAIN))
        .collect();
        assert_eq!(
            lines,
            "\
chat: PRE_CHECKING
chat:   pre-flight \"check\" passed
chat: STARTING  (PRE_CHECKING took 120ms)
chat:   slow\u{fffd}
chat: SOAKING  (STARTING took 380ms)
chat: DRAINING  (SOAKING took 2.00s)
"
        );
        let text = outcomes(&[reply(Some(Outcome::Promoted), "")], &progress, PLAIN);
        assert_eq!(text, "chat: promoted after 2.50s\n");
    }

    #[test]
    fn the_progress_line_tells_the_phase_its_time_and_the_last_remark() {
        let mut progress = Progress::default();
        progress.event(&change(100.0, UnitState::Soaking, 1.0), PLAIN);
        assert_eq!(progress.live(), "chat: SOAKING for 0s");
        let weight = EventLine { time: 103.0, ..samples::event("weight", "10% of new connections") };
        assert_eq!(progress.event(&weight, PLAIN), "");
        progress.tick();
        progress.tick();
        assert_eq!(progress.live(), "chat: SOAKING for 5s, 10% of new connections");
        progress.event(&change(106.0, UnitState::Draining, 6.0), PLAIN);
        assert_eq!(progress.live(), "chat: DRAINING for 0s");
    }

    #[test]
    fn the_progress_line_says_of_how_long_and_what_was_measured() {
        let mut progress = Progress::default();
        progress.event(&change(100.0, UnitState::Soaking, 1.0), PLAIN);
        let mut unit = samples::soaking();
        unit.since = 9.0;
        unit.soak_ends_in = Some(6.0);
        unit.generations[2].share = Some(10.22);
        unit.generations[1].usage.connections = Some(1081);
        unit.generations[2].usage.connections = Some(123);
        (0..9).for_each(|_| progress.tick());
        progress.know(unit.clone());
        assert_eq!(progress.live(), "chat: SOAKING 9s of 15s, generation 3 has 10.2 % of 1,204 connections");
        unit.generations[1].usage.connections = None;
        unit.generations[2].usage.connections = None;
        progress.know(unit.clone());
        assert_eq!(progress.live(), "chat: SOAKING 9s of 15s, generation 3 gets 10 % of new connections");
        // Of another state than the one that was told of, nothing is said.
        progress.event(&change(109.0, UnitState::Draining, 9.0), PLAIN);
        assert_eq!(progress.live(), "chat: DRAINING for 0s");
        unit.state = UnitState::Draining;
        unit.since = 2.0;
        unit.generations[0].kill_in = Some(28.0);
        progress.know(unit);
        assert_eq!(progress.live(), "chat: DRAINING 0s of 30s, generation 1 has 17 connections left");
        progress.tick();
        assert_eq!(progress.drained("chat"), "chat: drained after 1.00s\n");
        assert_eq!(progress.drained("web"), "web: drained\n");
    }

    #[test]
    fn a_failure_shows_its_reason_and_last_lines() {
        let mut failed = reply(Some(Outcome::RolledBack), "the new generation exited with status 1");
        failed.last_lines = vec!["panic: no config".into(), "\tat main".into()];
        let text = outcomes(&[failed, reply(None, "")], &Progress::default(), PLAIN);
        assert_eq!(
            text,
            "\
chat: rolled back: the new generation exited with status 1
  the last lines of the new generation:
  | panic: no config
  | \u{fffd}at main
chat: the reload has begun
"
        );
    }
}
