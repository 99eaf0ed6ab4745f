//! Points on the monotonic clock and lengths of time. Reads no clock: `sys::clock` does.

use std::fmt;
use std::ops::{Add, Sub};

/// A point on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Monotime(pub u64);

/// A length of time in nanoseconds. [`Span::INFINITY`] never passes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Span(pub u64);

/// A deadline that is noticed later than this has passed while aeternad was not awake (stopped, frozen with its container,
/// or starved), and whoever it is about may have been as little.
pub const UNSEEN: Span = Span::from_secs(1);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);
    /// Never passes: systemd's "infinity".
    pub const INFINITY: Span = Span(u64::MAX);

    /// `n` whole seconds, [`Span::INFINITY`] if that is too many.
    pub const fn from_secs(n: u64) -> Span {
        Span(n.saturating_mul(1_000_000_000))
    }

    /// `n` milliseconds, [`Span::INFINITY`] if that is too many.
    pub const fn from_millis(n: u64) -> Span {
        Span(n.saturating_mul(1_000_000))
    }

    /// `n` microseconds, [`Span::INFINITY`] if that is too many.
    pub const fn from_micros(n: u64) -> Span {
        Span(n.saturating_mul(1_000))
    }

    /// Whether this length never passes.
    pub const fn is_infinite(self) -> bool {
        self.0 == u64::MAX
    }

    /// Whether this is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// In seconds; infinity for [`Span::INFINITY`].
    pub fn as_secs_f64(self) -> f64 {
        if self.is_infinite() { f64::INFINITY } else { self.0 as f64 / 1e9 }
    }

    /// In whole microseconds, rounded down.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }
}

/// The time of day of a Unix time, seconds since 1970: `12:03:01Z`. UTC, as everywhere in our logs.
pub fn of_day(unix: f64) -> String {
    // `as` saturates and turns NaN into 0.
    let second = unix as u64 % 86_400;
    format!("{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// A Unix time as `2026-11-20 18:30:05Z`: UTC, because the daemon's log is compared with those of other
/// machines.
pub fn date(unix: f64) -> String {
    let total = whole_time(unix);
    let (days, second) = (total / 86_400, total % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// As [`date`], with milliseconds and a `T`: for lines that are compared with logs.
pub fn stamp(unix: f64) -> String {
    let milliseconds = whole_time(unix * 1000.0);
    let text = date((milliseconds / 1000) as f64);
    format!("{}.{:03}Z", text.trim_end_matches('Z').replace(' ', "T"), milliseconds % 1000)
}

/// Whole seconds from 0 to the year 9999; nonsense is 0.
fn whole_time(seconds: f64) -> u64 {
    // `as` saturates and turns NaN into 0.
    (seconds as u64).min(253_402_300_799_999)
}

/// Year, month and day of the day that is `days` after 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March put the leap day at their end; 719468 days lie between 0000-03-01 and 1970.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

impl Monotime {
    /// How long after `earlier` this is; zero if it is not.
    pub const fn since(self, earlier: Monotime) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// `span` later, or `None` if that never comes.
    pub const fn after(self, span: Span) -> Option<Monotime> {
        if span.is_infinite() {
            return None;
        }
        match self.0.checked_add(span.0) {
            Some(ns) => Some(Monotime(ns)),
            None => None,
        }
    }
}

impl Add<Span> for Monotime {
    type Output = Monotime;
    /// Saturates: a deadline that is infinitely far away is `u64::MAX`.
    fn add(self, span: Span) -> Monotime {
        Monotime(self.0.saturating_add(span.0))
    }
}

impl Sub for Monotime {
    type Output = Span;
    fn sub(self, earlier: Monotime) -> Span {
        self.since(earlier)
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

/// The units of systemd.time(7), largest first, for parsing and printing: (names, nanoseconds).
const UNITS: &[(&[&str], u64)] = &[
    (&["y", "year", "years"], 31_557_600_000_000_000),
    (&["M", "month", "months"], 2_629_800_000_000_000),
    (&["w", "week", "weeks"], 604_800_000_000_000),
    (&["d", "day", "days"], 86_400_000_000_000),
    (&["h", "hr", "hour", "hours"], 3_600_000_000_000),
    (&["min", "m", "minute", "minutes"], 60_000_000_000),
    (&["s", "sec", "second", "seconds"], 1_000_000_000),
    (&["ms", "msec"], 1_000_000),
    (&["us", "usec", "µs", "μs"], 1_000),
    (&["ns", "nsec"], 1),
];

/// Why a text is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanError(pub String);

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SpanError {}

impl std::str::FromStr for Span {
    type Err = SpanError;

    /// Reads systemd.time(7) syntax: `5`, `500ms`, `1min 30s`, `1.5h`, `infinity`. A bare number is seconds.
    fn from_str(text: &str) -> Result<Span, SpanError> {
        let trimmed = text.trim();
        if trimmed == "infinity" {
            return Ok(Span::INFINITY);
        }
        if trimmed.is_empty() {
            return Err(SpanError("an empty time; write \"30s\", \"1min 30s\" or \"infinity\"".into()));
        }
        let mut rest = trimmed;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (nanoseconds, after) = one_term(rest)?;
            total = total
                .checked_add(nanoseconds)
                .filter(|t| *t != u64::MAX)
                .ok_or_else(|| SpanError(format!("the time \"{trimmed}\" is too long")))?;
            rest = after.trim_start();
        }
        Ok(Span(total))
    }
}

/// Reads one `NUMBER[UNIT]` from the start of `text`: its nanoseconds and what follows it.
fn one_term(text: &str) -> Result<(u64, &str), SpanError> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(digits_end);
    if number.is_empty() || number == "." || number.matches('.').count() > 1 {
        return Err(SpanError(format!(
            "\"{text}\" is not a time; write \"30s\", \"1min 30s\" or \"infinity\""
        )));
    }
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c.is_whitespace()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let scale = if unit.is_empty() {
        1_000_000_000
    } else {
        UNITS.iter().find(|(names, _)| names.contains(&unit)).map(|(_, scale)| *scale).ok_or_else(|| {
            SpanError(format!("\"{unit}\" is not a unit of time; use us, ms, s, min, h, d or w"))
        })?
    };
    let too_long = || SpanError(format!("the time \"{number}{unit}\" is too long"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
    let mut nanoseconds = whole.checked_mul(scale).ok_or_else(too_long)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanoseconds = nanoseconds.checked_add(u64::from(digit - b'0') * place).ok_or_else(too_long)?;
    }
    Ok((nanoseconds, rest))
}

impl fmt::Display for Span {
    /// Prints what parsing reads back exactly: `0`, `30s`, `1min 30s`, `infinity`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_infinite() {
            return f.write_str("infinity");
        }
        if self.is_zero() {
            return f.write_str("0");
        }
        let mut left = self.0;
        let mut first = true;
        // Years and months are of uneven length: weeks and below are what people read without doubt.
        for (names, scale) in &UNITS[2..] {
            let count = left / scale;
            if count > 0 {
                let gap = if first { "" } else { " " };
                write!(f, "{gap}{count}{}", names[0])?;
                left %= scale;
                first = false;
            }
        }
        Ok(())
    }
}

/// How long something may be waited for that others may hold up: always a little, and beyond that from a budget that comes
/// back within a second. Whoever makes us wait again and again gets no more of our time by that.
#[derive(Debug, Clone)]
pub struct Patience {
    always: Span,
    budget: Span,
    spent: Span,
    at: Option<Monotime>,
}

impl Patience {
    /// Nothing is spent yet.
    pub const fn new(always: Span, budget: Span) -> Patience {
        Patience { always, budget, spent: Span::ZERO, at: None }
    }

    /// How long to wait at most now.
    pub fn now(&mut self, now: Monotime) -> Span {
        const SECOND: u64 = 1_000_000_000;
        let passed = self.at.map_or(SECOND, |at| now.since(at).0.min(SECOND));
        self.spent = Span(self.spent.0.saturating_sub(passed.saturating_mul(self.budget.0) / SECOND));
        self.at = Some(now);
        self.always + Span(self.budget.0.saturating_sub(self.spent.0))
    }

    /// It was waited so long.
    pub fn spend(&mut self, took: Span) {
        self.spent = self.spent + Span(took.0.saturating_sub(self.always.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_at_the_edges_of_the_calendar() {
        for (unix, text) in [
            (0.0, "1970-01-01 00:00:00Z"),
            (68_169_599.0, "1972-02-28 23:59:59Z"),
            (68_169_600.0, "1972-02-29 00:00:00Z"),
            (951_782_400.0, "2000-02-29 00:00:00Z"),
            (951_868_800.0, "2000-03-01 00:00:00Z"),
            (1_763_660_000.0, "2025-11-20 17:33:20Z"),
            (4_102_444_800.0, "2100-01-01 00:00:00Z"),
            (4_107_542_400.0, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(date(unix), text);
        }
        assert_eq!(stamp(1_763_660_000.25), "2025-11-20T17:33:20.250Z");
        assert!(!stamp(f64::MAX).is_empty());
    }

    #[test]
    fn patience_is_bounded_however_often_somebody_is_late() {
        let (always, budget) = (Span::from_millis(3), Span::from_millis(30));
        let mut patience = Patience::new(always, budget);
        let at = |milliseconds: u64| Monotime(1) + Span::from_millis(milliseconds);
        let mut beyond = Span::ZERO;
        for _ in 0..1_000 {
            let most = patience.now(at(0));
            patience.spend(most);
            beyond = beyond + Span(most.0 - always.0);
        }
        assert_eq!(beyond, budget);
        assert_eq!(patience.now(at(0)), always);
        assert_eq!(patience.now(at(100)), always + Span::from_millis(3));
        assert_eq!(patience.now(at(5_000)), always + budget);
    }

    #[test]
    fn spans_are_read_as_systemd_reads_them() {
        for (text, ns) in [
            ("5", 5_000_000_000),
            ("500ms", 500_000_000),
            ("1min 30s", 90_000_000_000),
            ("1min30s", 90_000_000_000),
            ("2h 3 min", 7_380_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("10us", 10_000),
            ("0", 0),
            (" 3 s ", 3_000_000_000),
        ] {
            assert_eq!(text.parse::<Span>(), Ok(Span(ns)), "{text}");
        }
        assert_eq!("infinity".parse::<Span>(), Ok(Span::INFINITY));
    }

    #[test]
    fn what_is_not_a_span_is_refused() {
        for text in ["", "s", "5x", "-1s", "1..5s", "99999999999999999999s", "1 2 furlongs", "."] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_printed_span_reads_back() {
        for ns in [0, 1, 999, 1_000_000, 90_000_000_000, 86_400_000_000_001, u64::MAX, 604_800_000_000_000] {
            let span = Span(ns);
            assert_eq!(span.to_string().parse::<Span>(), Ok(span), "{span}");
        }
    }
}
