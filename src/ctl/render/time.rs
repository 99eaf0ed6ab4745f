//! Seconds as a person reads them.

/// How long something has lasted: the two largest units (`3s`, `2min 5s`, `4d 3h`), whole seconds.
pub(super) fn age(seconds: f64) -> String {
    let total = whole(seconds);
    let units = [("y", 31_557_600), ("w", 604_800), ("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let largest = units.iter().position(|(_, length)| total >= *length).unwrap_or(units.len() - 1);
    let (name, length) = units[largest];
    let rest = match units.get(largest + 1) {
        Some((next, shorter)) if total % length >= *shorter => format!(" {}{next}", total % length / shorter),
        Some(_) | None => String::new(),
    };
    format!("{}{name}{rest}", total / length)
}

/// How long something took: `120us`, `3.4ms`, `1.25s`, then as [`age`].
pub(super) fn took(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { 0.0 };
    // Each limit is where rounding would print the next unit's 1.
    if seconds == 0.0 {
        "0s".into()
    } else if seconds < 0.000_999_5 {
        format!("{:.0}us", seconds * 1e6)
    } else if seconds < 0.009_995 {
        format!("{:.2}ms", seconds * 1e3)
    } else if seconds < 0.9995 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 9.995 {
        format!("{seconds:.2}s")
    } else if seconds < 59.95 {
        format!("{seconds:.1}s")
    } else {
        age(seconds)
    }
}

/// A Unix time as `2026-11-20 18:30:05Z`: UTC, because the daemon's log is compared with those of other
/// machines.
pub(super) fn date(unix: f64) -> String {
    let total = whole(unix);
    let (days, second) = (total / 86_400, total % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// As [`date`], with milliseconds and a `T`: for lines that are compared with logs.
pub(super) fn stamp(unix: f64) -> String {
    let milliseconds = whole(unix * 1000.0);
    let text = date((milliseconds / 1000) as f64);
    format!("{}.{:03}Z", text.trim_end_matches('Z').replace(' ', "T"), milliseconds % 1000)
}

/// Whole seconds from 0 to the year 9999; nonsense is 0.
fn whole(seconds: f64) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.9, "0s"),
            (3.7, "3s"),
            (60.0, "1min"),
            (125.0, "2min 5s"),
            (3600.0, "1h"),
            (3601.0, "1h"),
            (7380.0, "2h 3min"),
            (4.0 * 86_400.0 + 3.0 * 3600.0 + 59.0, "4d 3h"),
            (86_400.0 * 8.0, "1w 1d"),
            (31_557_600.0 * 2.0, "2y"),
            (-5.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(age(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn what_took_long_needs_no_fractions() {
        for (seconds, text) in [
            (0.0, "0s"),
            (0.000_12, "120us"),
            (0.000_999_6, "1.00ms"),
            (0.0034, "3.40ms"),
            (0.12, "120ms"),
            (0.9996, "1.00s"),
            (1.25, "1.25s"),
            (30.04, "30.0s"),
            (59.97, "59s"),
            (125.4, "2min 5s"),
            (-1.0, "0s"),
            (f64::INFINITY, "0s"),
        ] {
            assert_eq!(took(seconds), text, "{seconds}");
        }
    }

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
}
