//! Generations and reloads as bars: how long each part took, on one scale that fills the terminal's width.

use super::{Look, Tone, clean, paint, time};
use crate::proto::status::{GenerationStatus, PhaseTime, ReloadRecord, UnitState, UnitStatus};
use std::collections::BTreeMap;

/// Without a width nothing is drawn: a pipe gets the numbers only.
const NARROWEST: usize = 30;

/// The most generations of a unit that are remembered.
const MOST: usize = 8;

/// The sign of a part, and what its colour says.
fn sign(part: &str) -> (char, Tone) {
    match part {
        "serving" => ('█', Tone::Good),
        "soaking" => ('▓', Tone::Busy),
        "draining" => ('░', Tone::Plain),
        "rolling_back" => ('×', Tone::Bad),
        "handshaking" => ('≈', Tone::Busy),
        "pre_checking" => ('·', Tone::Faint),
        "stopping" => ('-', Tone::Faint),
        _ => ('▒', Tone::Plain),
    }
}

/// What the signs mean, for the parts that were drawn, and what else is to be said; in lines after `indent`.
fn legend(look: Look, parts: &[&str], rest: Option<String>, indent: &str) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for part in parts {
        if !seen.contains(part) {
            seen.push(part);
        }
    }
    let signs = seen.into_iter().map(|part| {
        let (sign, tone) = sign(part);
        (format!("{} {}", paint(look, tone, &sign.to_string()), clean(part)), 2 + part.chars().count())
    });
    let rest = rest.map(|text| (paint(look, Tone::Faint, &text), text.chars().count()));
    let (mut text, mut used) = (String::from(indent), 0);
    for (word, length) in signs.chain(rest) {
        if used > 0 && indent.len() + used + 2 + length > look.width.unwrap_or(usize::MAX) {
            text.push_str(&format!("\n{indent}"));
            used = 0;
        }
        let gap = if used > 0 { "  " } else { "" };
        text.push_str(gap);
        text.push_str(&word);
        used += gap.len() + length;
    }
    text + "\n"
}

/// The phases of a reload as one bar; `longest` seconds fill `width` columns. A phase that took time has a column.
fn bar(phases: &[PhaseTime], longest: f64, width: usize, look: Look) -> String {
    let (mut text, mut from, mut used) = (String::new(), 0.0, 0);
    for (at, phase) in phases.iter().enumerate() {
        from += phase.seconds;
        let later = phases[at + 1..].iter().filter(|phase| phase.seconds > 0.0).count();
        let until = columns(from, longest, width).min(width.saturating_sub(later));
        let room = until.saturating_sub(used).max(usize::from(phase.seconds > 0.0)).min(width - used);
        let (sign, tone) = sign(&phase.phase);
        text.push_str(&paint(look, tone, &sign.to_string().repeat(room)));
        used += room;
    }
    text
}

fn columns(seconds: f64, longest: f64, width: usize) -> usize {
    if longest > 0.0 { ((seconds / longest).clamp(0.0, 1.0) * width as f64).round() as usize } else { 0 }
}

/// The reloads of a history as bars on one scale; `None` where there is no width, or nothing took time.
pub(super) fn reloads(records: &[ReloadRecord], look: Look) -> Option<String> {
    let width = look.width.filter(|width| *width >= NARROWEST)?;
    let spent = |record: &ReloadRecord| record.phases.iter().map(|phase| phase.seconds).sum::<f64>();
    let longest = records.iter().map(spent).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let name = |record: &ReloadRecord| record.new_generation.map_or("-".into(), |number| number.to_string());
    let names = records.iter().map(|record| name(record).len()).max().unwrap_or(1);
    let room = width.saturating_sub(names + 12);
    let mut text = String::new();
    for record in records {
        let drawn = bar(&record.phases, longest, room, look);
        text.push_str(&format!("{:>names$} {drawn} {}\n", name(record), time::took(spent(record))));
    }
    let parts: Vec<&str> =
        records.iter().flat_map(|record| &record.phases).map(|phase| phase.phase.as_str()).collect();
    Some(format!("\n{text}{}", legend(look, &parts, None, "")))
}

/// A part of a generation's life: from when to when, seconds of one clock; without an end it goes on.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    name: String,
    from: f64,
    until: Option<f64>,
}

/// What was seen of generations while somebody watched.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    units: BTreeMap<String, BTreeMap<u32, Vec<Part>>>,
}

impl Timeline {
    /// Takes in what a unit looks like at `now`, seconds of any clock that goes forward.
    pub(crate) fn see(&mut self, unit: &UnitStatus, now: f64) {
        let lanes = self.units.entry(unit.name.clone()).or_default();
        for (number, parts) in lanes.iter_mut() {
            if !unit.generations.iter().any(|generation| generation.number == *number) {
                end(parts, now);
            }
        }
        for generation in &unit.generations {
            let parts = lanes.entry(generation.number).or_insert_with(|| before(unit, generation, now));
            if parts.last().is_none_or(|part| part.name != generation.phase) {
                end(parts, now);
                parts.push(Part { name: generation.phase.clone(), from: now, until: None });
            }
        }
        while lanes.len() > MOST {
            lanes.pop_first();
        }
    }

    /// A unit's generations as bars, newest last; `None` where there is no width, or nothing but one that serves.
    pub(crate) fn lanes(&self, unit: &str, now: f64, look: Look) -> Option<String> {
        let width = look.width.filter(|width| *width >= NARROWEST)?;
        let lanes = self.units.get(unit)?;
        let parts = || lanes.values().flatten();
        let start = parts().filter(|part| part.name != "serving").map(|part| part.from).reduce(f64::min)?;
        let span = (now - start).max(0.001);
        let names = lanes.keys().map(|number| number.to_string().len()).max().unwrap_or(1);
        let label =
            |parts: &[Part]| parts.last().filter(|part| part.until.is_none()).map(|part| now_at(part, now));
        let labels = lanes.values().filter_map(|parts| label(parts)).map(|text| text.chars().count()).max();
        let room = width.saturating_sub(names + 4 + labels.unwrap_or(0));
        let mut text = String::new();
        for (number, parts) in lanes {
            let drawn = lane(parts, start, span, room, now, look);
            let label = label(parts).map(|text| format!(" {text}")).unwrap_or_default();
            text.push_str(&format!("  {number:>names$} {drawn}{label}\n"));
        }
        let shown: Vec<&str> = parts().map(|part| part.name.as_str()).collect();
        let across = format!("{} across", time::took(span));
        Some(text + &legend(look, &shown, Some(across), "  "))
    }
}

/// What a generation is at, and for how long.
fn now_at(part: &Part, now: f64) -> String {
    format!("{} {}", clean(&part.name).replace('_', " "), time::took(now - part.from))
}

/// What must have been before the first look at a generation.
fn before(unit: &UnitStatus, generation: &GenerationStatus, now: f64) -> Vec<Part> {
    let born = now - generation.age;
    let earlier = match generation.phase.as_str() {
        "soaking" if unit.state == UnitState::Soaking => "starting",
        "draining" if unit.state == UnitState::Draining => "serving",
        _ => return vec![Part { name: generation.phase.clone(), from: born, until: None }],
    };
    let turned = (now - unit.since).max(born);
    vec![
        Part { name: earlier.into(), from: born, until: Some(turned) },
        Part { name: generation.phase.clone(), from: turned, until: None },
    ]
}

fn end(parts: &mut [Part], now: f64) {
    if let Some(last) = parts.last_mut() {
        last.until.get_or_insert(now);
    }
}

/// One generation's bar, from `start` on; `span` seconds fill `room` columns. What took time has a column.
fn lane(parts: &[Part], start: f64, span: f64, room: usize, now: f64, look: Look) -> String {
    let mut text = String::new();
    let mut used = 0;
    for (at, part) in parts.iter().enumerate() {
        // Each part that comes later has a column too.
        let room = room.saturating_sub(parts.len() - at - 1);
        let from = columns(part.from - start, span, room);
        let until = columns(part.until.unwrap_or(now) - start, span, room);
        text.push_str(&" ".repeat(from.saturating_sub(used)));
        used = used.max(from);
        let (sign, tone) = sign(&part.name);
        let seen = part.until.unwrap_or(now) > part.from.max(start);
        let wide = until.saturating_sub(used).max(usize::from(seen)).min(room.saturating_sub(used));
        text.push_str(&paint(look, tone, &sign.to_string().repeat(wide)));
        used += wide;
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const NARROW: Look = Look { colour: false, width: Some(40) };

    #[test]
    fn a_reload_that_is_watched_is_a_lane_for_each_generation() {
        let mut timeline = Timeline::default();
        let mut unit = samples::unit("chat");
        unit.generations[0].age = 1000.0;
        timeline.see(&unit, 0.0);
        assert_eq!(timeline.lanes("chat", 1.0, NARROW), None, "nothing happens");
        unit.generations.push(samples::generation(2, "starting", vec![101]));
        unit.generations[1].age = 0.0;
        timeline.see(&unit, 10.0);
        unit.generations[1].phase = "soaking".into();
        timeline.see(&unit, 20.0);
        unit.generations[0].phase = "draining".into();
        unit.generations[1].phase = "serving".into();
        timeline.see(&unit, 40.0);
        unit.generations.remove(0);
        timeline.see(&unit, 43.0);
        assert_eq!(
            timeline.lanes("chat", 46.0, NARROW).unwrap(),
            concat!(
                "  1 ██████████████████░░\n",
                "  2 ▒▒▒▒▒▒▓▓▓▓▓▓▓▓▓▓▓▓████ serving 6.00s\n",
                "  █ serving  ░ draining  ▒ starting\n  ▓ soaking  36.0s across\n",
            )
        );
    }

    #[test]
    fn a_reload_that_began_before_is_drawn_from_its_beginning() {
        let mut timeline = Timeline::default();
        timeline.see(&samples::soaking(), 100.0);
        let text = timeline.lanes("chat", 100.0, NARROW).unwrap();
        assert!(text.contains("▓▓▓"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    }

    #[test]
    fn no_bar_is_longer_than_the_terminal_and_no_phase_is_missing() {
        let phases: Vec<PhaseTime> = [("pre_checking", 0.001), ("starting", 0.002), ("soaking", 30.0)]
            .map(|(phase, seconds)| PhaseTime { phase: phase.into(), seconds })
            .to_vec();
        assert_eq!(bar(&phases, 30.003, 10, NARROW), "·▒▓▓▓▓▓▓▓▓");
        assert_eq!(bar(&phases, 60.006, 10, NARROW), "·▒▓▓▓");
        assert_eq!(bar(&phases, 0.0, 10, NARROW), "·▒▓");
        let phases = [phases, vec![PhaseTime { phase: "rolling_back".into(), seconds: 0.01 }]].concat();
        assert_eq!(bar(&phases, 30.013, 10, NARROW), "·▒▓▓▓▓▓▓▓×");
    }
}
