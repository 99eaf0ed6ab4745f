//! Sizes and resource limits (systemd.exec(5), PROCESS PROPERTIES; setrlimit(2)).

use super::super::{Amount, Limit, Resource};
use crate::time::Span;

/// Every `Limit…` key and its resource.
pub(crate) const RESOURCES: &[(&str, Resource)] = &[
    ("LimitCPU", Resource::Cpu),
    ("LimitFSIZE", Resource::Fsize),
    ("LimitDATA", Resource::Data),
    ("LimitSTACK", Resource::Stack),
    ("LimitCORE", Resource::Core),
    ("LimitRSS", Resource::Rss),
    ("LimitNOFILE", Resource::Nofile),
    ("LimitAS", Resource::As),
    ("LimitNPROC", Resource::Nproc),
    ("LimitMEMLOCK", Resource::Memlock),
    ("LimitLOCKS", Resource::Locks),
    ("LimitSIGPENDING", Resource::Sigpending),
    ("LimitMSGQUEUE", Resource::Msgqueue),
    ("LimitNICE", Resource::Nice),
    ("LimitRTPRIO", Resource::Rtprio),
    ("LimitRTTIME", Resource::Rttime),
];

/// The key that sets a resource's limit.
pub fn limit_key(resource: Resource) -> &'static str {
    RESOURCES.iter().find(|(_, known)| *known == resource).map_or("Limit", |(key, _)| key)
}

/// The number of bytes that `16M` or `4096` is; K, M, G, T, P and E are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_end);
    let shift = match suffix {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        "E" => 60,
        _ => return Err(format!("\"{suffix}\" is not a unit of size; use K, M, G, T, P or E (base 1024)")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "write bytes as a number, or \"64K\", \"16M\", \"4G\" (base 1024)".into())
}

/// The limit that `text` (`VALUE` for both, or `SOFT:HARD`) is for `resource`.
pub(crate) fn parse_limit(resource: Resource, text: &str) -> Result<Limit, String> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let number =
        |part: &str| one_limit(resource, part).map_err(|why| format!("\"{text}\" is not a limit: {why}"));
    let limit = Limit { resource, soft: number(soft)?, hard: number(hard)? };
    if limit.soft > limit.hard {
        return Err(format!("\"{text}\" is not a limit: the soft limit is above the hard one"));
    }
    Ok(limit)
}

/// One number of a limit, in the resource's unit.
fn one_limit(resource: Resource, text: &str) -> Result<u64, String> {
    if text == "infinity" {
        return Ok(u64::MAX);
    }
    if ["unlimited", "none", "max", "inf", "-1"].contains(&text) && resource != Resource::Nice {
        return Err("write \"infinity\" for no limit".into());
    }
    let count = || {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let whole = "write a whole number, \"SOFT:HARD\" or \"infinity\"";
        text.parse::<u64>().ok().filter(|_| plain).ok_or(whole.to_string())
    };
    match resource {
        Resource::Cpu => Ok(time(text)?.0.div_ceil(1_000_000_000)),
        // Alone among times, a bare number is microseconds here: the unit of setrlimit(2).
        Resource::Rttime => match count() {
            Ok(microseconds) => Ok(microseconds),
            Err(_) => Ok(time(text)?.0.div_ceil(1_000)),
        },
        Resource::Fsize
        | Resource::Data
        | Resource::Stack
        | Resource::Core
        | Resource::Rss
        | Resource::As
        | Resource::Memlock
        | Resource::Msgqueue => size(text),
        Resource::Nice => nice(text).unwrap_or_else(count),
        Resource::Nofile | Resource::Nproc | Resource::Locks | Resource::Sigpending | Resource::Rtprio => {
            count()
        }
    }
}

fn time(text: &str) -> Result<Span, String> {
    text.parse().map_err(|why: crate::time::SpanError| why.to_string())
}

/// A nice level with a sign, as setrlimit(2) counts: 20 - level.
fn nice(text: &str) -> Option<Result<u64, String>> {
    if !text.starts_with(['+', '-']) {
        return None;
    }
    let level = text.parse::<i64>().ok().filter(|level| (-20..=19).contains(level));
    Some(match level {
        Some(level) => Ok((20 - level).unsigned_abs()),
        None => Err("a nice level goes from -20 to +19".into()),
    })
}

/// Memory: bytes, a percentage of what the machine has, or "infinity".
pub(crate) fn parse_memory(text: &str) -> Result<Amount, String> {
    const WHAT: &str =
        "write bytes (\"512M\"), a percentage of the machine's memory (\"25%\") or \"infinity\"";
    if let Some(amount) = infinity_or_share(text) {
        return amount.map_err(|why| format!("{why}; {WHAT}"));
    }
    size(text).map(Amount::Of).map_err(|why| format!("\"{text}\" is no amount of memory: {why}"))
}

/// Tasks: a number, a percentage of what the machine can have, or "infinity".
pub(crate) fn parse_tasks(text: &str) -> Result<Amount, String> {
    const WHAT: &str = "write a number from 1 on, a percentage (\"10%\") or \"infinity\"";
    if let Some(amount) = infinity_or_share(text) {
        return amount.map_err(|why| format!("{why}; {WHAT}"));
    }
    let number = text.parse::<u64>().ok().filter(|number| *number > 0);
    number.map(Amount::Of).ok_or_else(|| format!("\"{text}\" is no number of tasks: {WHAT}"))
}

/// `CPUQuota`: a percentage of one processor; more than 100 % is more than one.
pub(crate) fn parse_quota(text: &str) -> Result<u32, String> {
    share(text).and_then(Result::ok).ok_or_else(|| {
        format!("\"{text}\" is no quota: write a percentage of one processor, such as \"150%\"")
    })
}

fn infinity_or_share(text: &str) -> Option<Result<Amount, String>> {
    if text == "infinity" {
        return Some(Ok(Amount::Infinity));
    }
    let share = share(text)?.and_then(|share| match share {
        0..=10_000 => Ok(Amount::Share(share)),
        _ => Err(format!("\"{text}\" is more than all")),
    });
    Some(share)
}

/// `12.5%` in hundredths of a percent, more than 0; `None` if it does not end in a percent sign. `%%` is one.
fn share(text: &str) -> Option<Result<u32, String>> {
    let digits = text.strip_suffix("%%").or_else(|| text.strip_suffix('%'))?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number = digits.parse::<f64>().ok().filter(|_| plain).map(|number| (number * 100.0).round());
    let number = number.filter(|number| (1.0..=f64::from(u32::MAX)).contains(number));
    Some(number.map(|number| number as u32).ok_or_else(|| format!("\"{text}\" is no percentage")))
}

/// The amount as it is read back.
pub(crate) fn print_amount(amount: Amount) -> String {
    match amount {
        Amount::Of(number) => number.to_string(),
        Amount::Share(share) => print_share(share),
        Amount::Infinity => "infinity".into(),
    }
}

/// Hundredths of a percent as they are read back.
pub(crate) fn print_share(share: u32) -> String {
    format!("{}%", f64::from(share) / 100.0)
}

/// The limit as [`parse_limit`] reads it back.
pub(crate) fn print_limit(limit: &Limit) -> String {
    let number = |number: u64| if number == u64::MAX { "infinity".to_string() } else { number.to_string() };
    if limit.soft == limit.hard {
        return number(limit.soft);
    }
    format!("{}:{}", number(limit.soft), number(limit.hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [("0", 0), ("4096", 4096), ("64K", 65536), ("16M", 1 << 24), ("4G", 1 << 32)]
        {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "K", "64KB", "1.5M", "-1", "16E", "64k"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_numbers_shares_or_infinite() {
        for (text, expected) in [
            ("512M", Some(Amount::Of(512 << 20))),
            ("25%", Some(Amount::Share(2_500))),
            ("12.5%%", Some(Amount::Share(1_250))),
            ("infinity", Some(Amount::Infinity)),
            ("100.01%", None),
            ("0%", None),
            ("-1%", None),
            ("%", None),
            ("1e1%", None),
            ("lots", None),
        ] {
            let read = parse_memory(text);
            assert_eq!(read.clone().ok(), expected, "{text}: {read:?}");
            if let Ok(amount) = read {
                assert_eq!(parse_memory(&print_amount(amount)), Ok(amount), "{text}");
            }
        }
        for (text, expected) in [("512", Some(Amount::Of(512))), ("0", None), ("1K", None)] {
            assert_eq!(parse_tasks(text).ok(), expected, "{text}");
        }
        for (text, expected) in [("150%", Some(15_000)), ("0.5%", Some(50)), ("2", None), ("infinity", None)]
        {
            assert_eq!(parse_quota(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn limits_are_read_in_their_unit() {
        for (resource, text, soft, hard) in [
            (Resource::Nofile, "1024", 1024, 1024),
            (Resource::Nofile, "1024:4096", 1024, 4096),
            (Resource::Nofile, "1024:infinity", 1024, u64::MAX),
            (Resource::Core, "0", 0, 0),
            (Resource::As, "4G:8G", 4 << 30, 8 << 30),
            (Resource::Cpu, "1min", 60, 60),
            (Resource::Cpu, "500ms:3", 1, 3),
            (Resource::Rttime, "200", 200, 200),
            (Resource::Rttime, "1ms:1s", 1000, 1_000_000),
            (Resource::Nice, "-5", 25, 25),
            (Resource::Nice, "30", 30, 30),
        ] {
            let limit = Limit { resource, soft, hard };
            assert_eq!(parse_limit(resource, text), Ok(limit), "{text}");
            assert_eq!(parse_limit(resource, &print_limit(&limit)), Ok(limit), "{text}");
        }
    }

    #[test]
    fn what_is_no_limit_is_refused() {
        for (resource, text, part) in [
            (Resource::Nofile, "many", "whole number"),
            (Resource::Nofile, "4096:1024", "above the hard"),
            (Resource::Nofile, "1:2:3", "whole number"),
            (Resource::Nofile, "", "whole number"),
            (Resource::Core, "unlimited", "write \"infinity\""),
            (Resource::As, "4GB", "unit of size"),
            (Resource::Cpu, "3 parsecs", "unit of time"),
            (Resource::Nice, "-21", "-20 to +19"),
        ] {
            let why = parse_limit(resource, text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
