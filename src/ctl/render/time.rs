//! Seconds as a person reads them.

pub(super) use crate::time::{date, stamp};

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

/// Whole seconds from 0 to the year 9999; nonsense is 0.
fn whole(seconds: f64) -> u64 {
    // `as` saturates and turns NaN into 0.
    (seconds as u64).min(253_402_300_799_999)
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
}
