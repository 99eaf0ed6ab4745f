//! `[Service]`: what the process runs as: user, folder, streams, limits.

use super::super::read::{
    Table, Value, choice, flag, integer, limited, list, mode, nearest, raw_text, specified, text,
};
use super::super::value::{
    INPUTS, OOM_POLICIES, OUTPUTS, RESOURCES, Words, parse_cpus, parse_limit, parse_memory, parse_quota,
    parse_tasks,
};
use super::super::{Amount, Input, Output, Service, WorkingDirectory};
use super::environment::words;
use super::options::absolute_path;
use super::{set, set_some};

/// Reads user, group, folder and permissions.
pub(crate) fn read_identity(table: &Table<'_>, service: &mut Service) {
    set_some(&mut service.user, table.take("User", user_or_group));
    set_some(&mut service.group, table.take("Group", user_or_group));
    set(&mut service.supplementary_groups, table.take("SupplementaryGroups", |v| list(v, user_or_group)));
    set_some(&mut service.working_directory, table.take("WorkingDirectory", working_directory));
    set_some(&mut service.release, table.take("Release", release));
    set(&mut service.umask, table.take("UMask", umask));
    set(&mut service.runtime_directory, table.take("RuntimeDirectory", |v| words(v, runtime_directory)));
}

/// Reads the three standard streams.
pub(crate) fn read_streams(table: &Table<'_>, service: &mut Service) {
    set(&mut service.standard_input, table.take("StandardInput", input));
    set(&mut service.standard_output, table.take("StandardOutput", output));
    set(&mut service.standard_error, table.take("StandardError", output));
}

/// Reads the resource limits and what else the kernel keeps of a process.
pub(crate) fn read_limits(table: &Table<'_>, service: &mut Service) {
    for (key, resource) in RESOURCES {
        service.limits.extend(table.take(key, |v| limited(v, |text| parse_limit(*resource, text))));
    }
    set_some(&mut service.nice, table.take("Nice", |v| integer(v, -20..=19)));
    set_some(&mut service.oom_score_adjust, table.take("OOMScoreAdjust", |v| integer(v, -1000..=1000)));
    let group = &mut service.group_limits;
    set_some(&mut group.memory_max, table.take("MemoryMax", memory));
    set_some(&mut group.memory_high, table.take("MemoryHigh", memory));
    set_some(&mut group.memory_swap_max, table.take("MemorySwapMax", memory));
    set_some(&mut group.tasks_max, table.take("TasksMax", |v| amount(v, parse_tasks)));
    set_some(&mut group.cpu_weight, table.take("CPUWeight", |v| integer(v, 1..=10_000)));
    set_some(&mut group.cpu_quota, table.take("CPUQuota", |v| amount(v, parse_quota)));
    set(&mut group.oom_policy, table.take("OOMPolicy", |v| choice(v, "an OOMPolicy", OOM_POLICIES)));
    set(&mut service.cpu_affinity, table.take("CPUAffinity", cpus));
    set(&mut service.no_new_privileges, table.take("NoNewPrivileges", flag));
    set(&mut service.ignore_sigpipe, table.take("IgnoreSIGPIPE", flag));
}

fn memory(value: &Value<'_>) -> Option<Amount> {
    amount(value, parse_memory)
}

/// A number, or text in which percent signs mean themselves.
fn amount<T>(value: &Value<'_>, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    if value.get().is_integer() {
        return limited(value, parse);
    }
    match parse(raw_text(value)?) {
        Ok(parsed) => Some(parsed),
        Err(why) => value.fail(why),
    }
}

/// The name or the number of a user or group; a number may be a TOML number.
pub(crate) fn user_or_group(value: &Value<'_>) -> Option<String> {
    limited(value, |name| {
        let number = name.bytes().all(|byte| byte.is_ascii_digit());
        // 2^32 - 1 is (uid_t) -1: "leave it as it is" to every system call.
        let valid = if number {
            name.parse::<u32>().is_ok_and(|id| id != u32::MAX)
        } else {
            let first = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
            first
                && name.len() <= 256
                && !name.contains(|c: char| c.is_control() || c.is_whitespace() || ":/,".contains(c))
        };
        if valid {
            return Ok(name.to_string());
        }
        Err(format!("\"{}\" is not the name or number of a user or group", name.escape_debug()))
    })
}

/// An absolute path or `~`, with a leading `-` if the folder may be missing.
fn working_directory(value: &Value<'_>) -> Option<WorkingDirectory> {
    let text = text(value)?;
    let (path, optional) = text.strip_prefix('-').map_or((text.as_str(), false), |path| (path, true));
    if path != "~" && !path.starts_with('/') {
        return value.is_not("a working directory", "write an absolute path, or ~ for the user's home");
    }
    Some(WorkingDirectory { path: path.to_string(), optional })
}

/// The path that a deployment moves, as the unit's other keys write it.
fn release(value: &Value<'_>) -> Option<String> {
    let path = absolute_path(value)?;
    match path.trim_end_matches('/') {
        "" => value.is_not("a release", "name a folder, a file, or best a link to one: /srv/app/current"),
        path => Some(path.to_owned()),
    }
}

fn umask(value: &Value<'_>) -> Option<u32> {
    let mask = mode(value)?;
    if mask > 0o777 {
        return value.is_not("a file mode mask", "it goes from \"0000\" to \"0777\"");
    }
    Some(mask)
}

/// A name below the runtime directory: relative, without `.` and `..`.
fn runtime_directory(value: &Value<'_>, word: &str) -> Option<String> {
    let plain = word.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !plain {
        return value.fail(format!(
            "\"{}\" is not a name below the runtime directory, such as \"app\" or \"app/cache\"",
            word.escape_debug()
        ));
    }
    Some(word.to_string())
}

fn input(value: &Value<'_>) -> Option<Input> {
    let Some(text) = value.get().as_str().filter(|text| text.starts_with("file:")) else {
        return stream(value, "a StandardInput", "\"file:/path\"", INPUTS);
    };
    stream_path(value, text, "file:").map(Input::File)
}

fn output(value: &Value<'_>) -> Option<Output> {
    match value.get().as_str() {
        Some(text) if text.starts_with("file:") => stream_path(value, text, "file:").map(Output::File),
        Some(text) if text.starts_with("append:") => stream_path(value, text, "append:").map(Output::Append),
        Some("journal" | "syslog" | "kmsg") => value.is_not("a stream", "aeternad's own log is \"log\""),
        _ => stream(value, "a stream", "\"file:/path\" or \"append:/path\"", OUTPUTS),
    }
}

/// A stream that is a word; `others` are the forms with a path.
fn stream<T: Clone>(value: &Value<'_>, what: &str, others: &str, words: Words<T>) -> Option<T> {
    if let Some(text) = value.get().as_str()
        && let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text)
    {
        return Some(meaning.clone());
    }
    let names: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let near = value.get().as_str().and_then(|text| nearest(text, words.iter().map(|(w, _)| *w)));
    match near {
        Some(name) => value.fail(format!("{} is not {what}; did you mean \"{name}\"?", value.written())),
        None => value.is_not(what, &format!("use {}, {others}", names.join(", "))),
    }
}

/// The absolute path after `prefix`, with specifiers.
fn stream_path(value: &Value<'_>, text: &str, prefix: &str) -> Option<String> {
    let path = specified(value, raw_text(value).map(|_| &text[prefix.len()..])?)?;
    if !path.starts_with('/') {
        return value.fail(format!("after \"{prefix}\" comes an absolute path"));
    }
    Some(path)
}

/// Processors: numbers, ranges, lists of both.
fn cpus(value: &Value<'_>) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    let items = list(value, |item| limited(item, |text| Ok(text.to_string())).map(|text| (*item, text)))?;
    let mut good = true;
    for (item, text) in items {
        if let Err(why) = parse_cpus(&text, &mut cpus) {
            item.fail::<()>(why);
            good = false;
        }
    }
    good.then_some(cpus)
}
