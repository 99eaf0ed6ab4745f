//! Typed readers: each makes one kind of value out of a [`Value`], or says at its place why it cannot.

use super::super::signal::{parse_signal, signal_names};
use super::super::value::{self, Words};
use super::{Value, nearest};
use crate::time::Span;
use std::ops::RangeInclusive;
use toml::de::DeValue;

/// A string as it is written, without specifiers.
pub(crate) fn raw_text<'a>(value: &Value<'a>) -> Option<&'a str> {
    let Some(text) = value.get().as_str() else {
        let why = if value.get().is_array() { "one value belongs here" } else { "write it in quotes" };
        return value.is_not("a string", why);
    };
    if text.contains('\0') {
        return value.fail("a NUL character cannot be passed to any program");
    }
    Some(text)
}

/// A string that is not empty, with its specifiers replaced.
pub(crate) fn text(value: &Value<'_>) -> Option<String> {
    let text = raw_text(value)?;
    if text.is_empty() {
        return value.fail("this must not be empty; leave the key out instead");
    }
    specified(value, text)
}

/// `text` with its specifiers replaced; findings are at `value`.
pub(crate) fn specified(value: &Value<'_>, text: &str) -> Option<String> {
    match value.reader().specifiers.expand(text) {
        Ok(text) => Some(text),
        Err(why) => value.fail(why),
    }
}

/// A string (with specifiers) that `parse` reads; an integer is taken as its digits.
pub(crate) fn limited<T>(value: &Value<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    let text = match value.get() {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_string(),
        DeValue::Integer(integer) => {
            return match i128::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => value.fail(format!("{} is not read here; write {number}", value.written())),
                Err(_) => value.fail(format!("{} is not read here; write a decimal number", value.written())),
            };
        }
        DeValue::Float(float) => {
            let whole = float.as_str().split('.').next().unwrap_or_default();
            return value.fail(format!("{} is no whole number; write {whole}", value.written()));
        }
        _ => text(value)?,
    };
    match parse(&text) {
        Ok(parsed) => Some(parsed),
        Err(why) => value.fail(why),
    }
}

/// `true` or `false`.
pub(crate) fn flag(value: &Value<'_>) -> Option<bool> {
    if let Some(flag) = value.get().as_bool() {
        return Some(flag);
    }
    let word = value.get().as_str().map(str::to_lowercase).unwrap_or_else(|| value.written());
    let why = match word.as_str() {
        "yes" | "true" | "on" | "y" | "t" | "1" => "write true, without quotes",
        "no" | "false" | "off" | "n" | "f" | "0" => "write false, without quotes",
        _ => "",
    };
    value.is_not("true or false", why)
}

/// A whole number in `range`.
pub(crate) fn integer<T: TryFrom<i128>>(value: &Value<'_>, range: RangeInclusive<i64>) -> Option<T> {
    let what = format!("a whole number from {} to {}", range.start(), range.end());
    let Some(integer) = value.get().as_integer() else {
        let digits = value.get().as_str().is_some_and(|text| text.parse::<i64>().is_ok());
        return value.is_not(&what, if digits { "write it without quotes" } else { "" });
    };
    i128::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .filter(|number| (i128::from(*range.start())..=i128::from(*range.end())).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .or_else(|| value.is_not(&what, ""))
}

/// One of `words`; `what` names the kind of word.
pub(crate) fn choice<T: Copy>(value: &Value<'_>, what: &str, words: Words<T>) -> Option<T> {
    let known = || words.iter().map(|(word, _)| *word);
    let use_one_of =
        || format!("use {}", known().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "));
    let Some(text) = value.get().as_str() else {
        return value.is_not(what, &use_one_of());
    };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*meaning);
    }
    match nearest(text, known()) {
        Some(name) => value.fail(format!("{} is not {what}; did you mean \"{name}\"?", value.written())),
        None => value.is_not(what, &use_one_of()),
    }
}

/// A time: whole seconds, or systemd.time(7) text.
pub(crate) fn time(value: &Value<'_>) -> Option<Span> {
    match value.get() {
        DeValue::Integer(integer) => match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(seconds) if seconds <= u64::MAX / 1_000_000_000 => Some(Span::from_secs(seconds)),
            _ => value.is_not("a time", "write whole seconds from 0 on, or \"infinity\""),
        },
        DeValue::String(text) => match text.parse() {
            Ok(span) => Some(span),
            Err(why) => {
                let why = why.to_string();
                let repeated = why.contains("is not a time") || text.trim().is_empty();
                value.is_not(
                    "a time",
                    if repeated { "write \"30s\", \"1min 30s\" or \"infinity\"" } else { &why },
                )
            }
        },
        _ => value.is_not("a time", "write whole seconds, or text such as \"500ms\" or \"1min 30s\""),
    }
}

/// A time that is longer than nothing.
pub(crate) fn positive_time(value: &Value<'_>) -> Option<Span> {
    let span = time(value)?;
    if span.is_zero() {
        return value.fail("this time must be longer than 0");
    }
    Some(span)
}

/// A time limit by systemd's rule that 0 means none.
pub(crate) fn timeout(value: &Value<'_>) -> Option<Span> {
    time(value).map(|span| if span.is_zero() { Span::INFINITY } else { span })
}

/// A size in bytes, at most what a socket option can carry.
pub(crate) fn bytes(value: &Value<'_>) -> Option<u64> {
    match whole_bytes(value)? {
        size @ 1..=0x7fff_ffff => Some(size),
        _ => value.is_not("a size that fits", "from 1 byte to 2G - 1"),
    }
}

/// A size in bytes, from 1 to the largest number of TOML.
pub(crate) fn size(value: &Value<'_>) -> Option<u64> {
    match whole_bytes(value)? {
        size if (1..=i64::MAX.unsigned_abs()).contains(&size) => Some(size),
        _ => value.is_not("a size that fits", "from 1 byte to 8E - 1"),
    }
}

/// Bytes as a number or with a suffix.
fn whole_bytes(value: &Value<'_>) -> Option<u64> {
    let size = match value.get() {
        DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
        DeValue::String(text) => value::size(text).ok(),
        _ => None,
    };
    match size {
        Some(size) => Some(size),
        None => value.is_not("a size", "write bytes as a number, or \"64K\", \"16M\", \"4G\" (base 1024)"),
    }
}

/// File permissions: an octal string.
pub(crate) fn mode(value: &Value<'_>) -> Option<u32> {
    const HINT: &str = "write octal digits in quotes, such as \"0660\"";
    let digits = match value.get() {
        DeValue::Integer(integer) if integer.radix() == 8 => integer.as_str(),
        DeValue::String(text) => text.as_ref(),
        DeValue::Integer(integer) if integer.radix() == 10 && integer.as_str().len() < 5 => {
            let digits = integer.as_str();
            return value
                .is_not("a mode", &format!("write octal digits in quotes, such as \"{digits:0>4}\""));
        }
        _ => return value.is_not("a mode", HINT),
    };
    let octal = !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if octal && mode <= 0o7777 => Some(mode),
        _ => value.is_not("a mode", HINT),
    }
}

/// A signal's number.
pub(crate) fn signal(value: &Value<'_>) -> Option<i32> {
    let text = match value.get() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_string(),
        _ => return value.is_not("a signal", "write \"SIGTERM\", \"TERM\" or 15"),
    };
    if let Some(signal) = parse_signal(&text) {
        return Some(signal);
    }
    let upper = text.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let names: Vec<String> = signal_names().collect();
    match nearest(&full, names.iter().map(String::as_str)) {
        Some(name) if text.starts_with(|c: char| c.is_alphabetic()) => {
            value.fail(format!("{} is not a signal; did you mean \"{name}\"?", value.written()))
        }
        _ => value.is_not("a signal", "write \"SIGTERM\", \"TERM\" or 15"),
    }
}

/// A list: an array, each element read by `read`, or a single value. Every element's errors are reported.
pub(crate) fn list<'a, T>(value: &Value<'a>, read: impl Fn(&Value<'a>) -> Option<T>) -> Option<Vec<T>> {
    let read: Vec<Option<T>> = value.items().iter().map(read).collect();
    read.into_iter().collect()
}
