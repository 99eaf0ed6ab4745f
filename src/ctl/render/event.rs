//! `aeternactl events`: one line an event.

use super::{Look, Tone, clean, outcome_tone, paint, state_tone, time};
use crate::proto::status::EventLine;

/// One event on one line, with its newline.
pub(crate) fn event(event: &EventLine, look: Look) -> String {
    let stamp = paint(look, Tone::Faint, &time::stamp(event.time));
    let unit = if event.unit.is_empty() { "aeternad".into() } else { clean(&event.unit) };
    let text = paint(look, tone(event), &clean(&event.text));
    let generation = event.generation.map(|number| format!(" gen={number}")).unwrap_or_default();
    format!("{stamp} {}{generation}: {text}\n", paint(look, Tone::Strong, &unit))
}

/// A state's and an outcome's own; warnings are bad.
pub(super) fn tone(event: &EventLine) -> Tone {
    match (event.outcome, event.state, event.kind.as_str()) {
        (Some(outcome), _, _) => outcome_tone(outcome),
        (None, Some(state), _) => state_tone(state),
        (None, None, "warning") => Tone::Bad,
        (None, None, "restarting") => Tone::Busy,
        (None, None, _) => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::proto::status::UnitState;

    #[test]
    fn an_event_is_a_line() {
        let plain = Look { colour: false, width: None };
        let mut line = samples::event("ready", "generation 3 is ready\x1b[2J");
        line.generation = Some(3);
        assert_eq!(
            event(&line, plain),
            "2025-11-20T17:33:20.250Z chat gen=3: generation 3 is ready\u{fffd}[2J\n"
        );
        line.unit = String::new();
        line.generation = None;
        line.state = Some(UnitState::Failed);
        assert!(event(&line, plain).contains("Z aeternad: gen"));
        assert!(event(&line, Look { colour: true, width: None }).contains("\x1b[31mgeneration"));
    }
}
