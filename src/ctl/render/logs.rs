//! `aeternactl logs`: one line a line.

use super::{Look, Tone, clean, paint, time};
use crate::proto::control::LogLines;
use crate::proto::status::LogLine;

/// Lines of a unit's output, with their newlines.
pub(crate) fn log_lines(lines: &LogLines, look: Look) -> String {
    let mut text = String::new();
    if lines.missing > 0 {
        let missing = super::count(lines.missing as usize, "line is", "lines are");
        let told = format!("{missing} missing here: they came faster than they were read");
        text.push_str(&format!("{}\n", paint(look, Tone::Bad, &told)));
    }
    for line in &lines.lines {
        text.push_str(&log_line(&lines.unit, line, look));
    }
    text
}

/// `2025-11-20T17:33:20.250Z chat.3[812]: text`, as in aeternad's own log.
pub(super) fn log_line(unit: &str, line: &LogLine, look: Look) -> String {
    let stamp = paint(look, Tone::Faint, &time::stamp(line.time));
    let generation = line.generation.map(|number| format!(".{number}")).unwrap_or_default();
    let whose = format!("{}{generation}[{}]", clean(unit), line.pid);
    let tone = match (line.priority, line.error) {
        (Some(0..=3), _) => Tone::Bad,
        (Some(4), _) => Tone::Busy,
        (Some(7), _) => Tone::Faint,
        (Some(_) | None, _) => Tone::Plain,
    };
    // Tabs are a service's own way to lay out a line.
    let words: String = line.text.split('\t').map(clean).collect::<Vec<String>>().join("\t");
    format!("{stamp} {}: {}\n", paint(look, Tone::Strong, &whose), paint(look, tone, &words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_and_whose_it_is_and_moves_no_cursor() {
        let line = |priority, text: &str| LogLine {
            time: 1_763_660_000.25,
            generation: Some(3),
            pid: 812,
            error: true,
            priority,
            text: text.into(),
        };
        let mut hook = line(None, "a\tb\x1b[2J");
        hook.generation = None;
        let lines = LogLines { unit: "chat".into(), lines: vec![line(Some(3), "no disk"), hook], missing: 2 };
        assert_eq!(
            log_lines(&lines, Look { colour: false, width: None }),
            "2 lines are missing here: they came faster than they were read\n\
             2025-11-20T17:33:20.250Z chat.3[812]: no disk\n\
             2025-11-20T17:33:20.250Z chat[812]: a\tb\u{fffd}[2J\n"
        );
        let colours = log_lines(&lines, Look { colour: true, width: None });
        assert!(colours.contains("\x1b[31mno disk\x1b[0m"), "{colours:?}");
    }
}
