//! Values → text for a person: pure functions, tested as strings.
//!
//! Whatever a service or a file may have written (a STATUS, an address, a reason) goes through [`clean`], so
//! that it cannot move the cursor of whoever looks.

mod detail;
mod doctor;
mod event;
mod history;
mod logs;
mod overview;
mod progress;
mod releases;
mod table;
mod time;
mod timeline;

pub(super) use detail::detail;
pub(super) use doctor::doctor;
pub(super) use event::event;
pub(super) use history::history;
pub(super) use logs::log_lines;
pub(super) use overview::{list, overview};
pub(super) use progress::{Progress, outcomes};
pub(super) use releases::releases;
pub(super) use timeline::Timeline;

use crate::proto::harmless::is_seen;
use crate::proto::status::{Outcome, UnitState};

/// How a text is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether colours may be used.
    pub(super) colour: bool,
    /// The terminal's width in columns, where it is known.
    pub(super) width: Option<usize>,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Faint,
    Strong,
}

/// `text` in a tone, if there are colours.
fn paint(look: Look, tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Plain => return text.to_string(),
        Tone::Good => "32",
        Tone::Busy => "33",
        Tone::Bad => "31",
        Tone::Faint => "2",
        Tone::Strong => "1",
    };
    if look.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// `text` on one line and without control characters.
fn clean(text: &str) -> String {
    text.chars().map(|c| if is_seen(c) { c } else { '\u{fffd}' }).collect()
}

fn state_tone(state: UnitState) -> Tone {
    match state {
        UnitState::Running | UnitState::Listening => Tone::Good,
        UnitState::Pending
        | UnitState::Starting
        | UnitState::PreChecking
        | UnitState::Handshaking
        | UnitState::Soaking
        | UnitState::Draining
        | UnitState::Stopping => Tone::Busy,
        UnitState::RollingBack | UnitState::Backoff | UnitState::Failed => Tone::Bad,
        UnitState::Stopped => Tone::Faint,
    }
}

fn outcome_tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Promoted => Tone::Good,
        Outcome::RolledBack | Outcome::Failed => Tone::Bad,
        Outcome::Refused | Outcome::Aborted => Tone::Busy,
    }
}

/// The outcome as a person writes it: `rolled back`.
fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Promoted => "promoted",
        Outcome::RolledBack => "rolled back",
        Outcome::Failed => "failed",
        Outcome::Refused => "refused",
        Outcome::Aborted => "aborted",
    }
}

/// `1` is `one thing`, other numbers `n things`.
fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// Numbers with a space between.
fn numbers(numbers: &[i32]) -> String {
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

/// `1,204`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as a person reads them: `512 B`, `1.5 MiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        // Before it would be printed as 1024.0 of the smaller unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

#[cfg(test)]
mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_easily() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn large_numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1204, "1,204"), (1_000_000, "1,000,000")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn what_a_service_writes_cannot_move_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\nc\u{9b}d\u{202e}e"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e");
    }
}
