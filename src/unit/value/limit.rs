//! Sizes and resource limits (systemd.exec(5), PROCESS PROPERTIES; setrlimit(2)).

use super::super::{Limit, Resource};
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
