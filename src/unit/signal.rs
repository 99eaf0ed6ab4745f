//! Signals by name and number, as Linux numbers them on x86, ARM, RISC-V, POWER and s390.

/// Names without `SIG` and numbers; of two names for one number the first is the one that is printed.
const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The first real-time signal that a program may use: glibc and musl keep 32 to 34 for themselves.
const RTMIN: i32 = 34;
/// The last signal there is.
const RTMAX: i32 = 64;

/// The number of a signal written as `SIGTERM`, `TERM`, `15`, `RTMIN`, `SIGRTMIN+3` or `RTMAX-1`.
///
/// `None` if it is no signal of Linux (1 to 64). Letters are upper case.
pub fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        return (plain && (1..=RTMAX).contains(&number)).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        RTMIN + real_time_offset(offset, '+')?
    } else {
        RTMAX - real_time_offset(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The number after `sign` in what follows `RTMIN` or `RTMAX`; 0 if nothing does.
fn real_time_offset(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix(sign)?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|offset| plain && (0..=RTMAX - RTMIN).contains(offset))
}

/// The name that [`parse_signal`] reads back: `SIGTERM`, `SIGRTMIN+3`; a bare number for 32, 33 and what is no signal.
pub fn signal_name(signal: i32) -> String {
    if let Some((name, _)) = SIGNALS.iter().find(|(_, number)| *number == signal) {
        return format!("SIG{name}");
    }
    match signal {
        RTMIN => "SIGRTMIN".into(),
        RTMAX => "SIGRTMAX".into(),
        _ if (RTMIN..RTMAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RTMIN),
        _ => signal.to_string(),
    }
}

/// Every name that [`parse_signal`] knows, with `SIG`, for "did you mean".
pub(super) fn signal_names() -> impl Iterator<Item = String> {
    SIGNALS.iter().map(|(name, _)| format!("SIG{name}")).chain(["SIGRTMIN".into(), "SIGRTMAX".into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_every_spelling() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("15", 15),
            ("SIGIOT", 6),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMIN+30", 64),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("33", 33),
        ] {
            assert_eq!(parse_signal(text), Some(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in [
            "", "0", "65", "-1", "+9", "term", "SIG", "SIG15", "SIGFOO", "RTMIN+31", "RTMIN-1", "RTMAX+1",
            "RTMIN+",
        ] {
            assert_eq!(parse_signal(text), None, "{text}");
        }
    }

    #[test]
    fn every_signal_prints_as_what_reads_back() {
        for signal in 1..=RTMAX {
            assert_eq!(parse_signal(&signal_name(signal)), Some(signal));
        }
    }
}
