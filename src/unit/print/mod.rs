//! Canonical printing: a [`Unit`] as TOML with every default filled in.

mod analysis;
mod entries;
mod service;
mod socket;
mod toml;

pub(super) use entries::{Entry, Section, Shown};
pub(super) use toml::quote;

use super::Unit;
use super::check::no_canary;
use super::file::{Context, keys, parse};
use super::tables::{default_statuses, label, reload_defaults};
use super::value::{CANARY_BY, STRATEGIES, print_address, print_status_ranges, word_of};
use super::{Check, HealthCheck, Hook, Listen, ListenKind, Reload, State, signal_name};
use entries::section;

/// The unit as TOML that [`super::parse()`] reads back to an equal unit (with the same context). A key that has
/// neither a value nor a default is a comment.
pub fn print(unit: &Unit) -> String {
    let mut out = String::new();
    for section in sections(unit) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(section.label);
        out.push('\n');
        for entry in &section.entries {
            let line = match &entry.shown {
                Shown::Value(value) => format!("{} = {value}\n", entry.key),
                Shown::Unset => format!("# {} is not set\n", entry.key),
                Shown::Void(value) => format!("# {} = {value} has no effect here\n", entry.key),
            };
            out.push_str(&line);
        }
    }
    out
}

/// Every table, every key and its default as TOML: what documentation is compared with.
///
/// `None` for a key that has no default: it must be given, or nothing is set without it. Defaults that depend on
/// other keys are those of a steered TCP socket and a service of `Type = "exec"`, aeternad not being PID 1.
pub fn defaults() -> Vec<(&'static str, &'static str, Option<String>)> {
    const GIVEN: [&str; 6] = ["Name", "Exec", "ExecStart", "ListenStream", "HttpGet", "Histogram"];
    const TEXT: &str = "Socket = { ListenStream = 1 }\nService = { ExecStart = '/x' }\n\
                        HealthCheck = { HttpGet = 'http://127.0.0.1/' }\n\
                        Analysis = { HttpGet = 'http://127.0.0.1/', Check = { Name = 'a', Histogram = 'b' } }\n\
                        Reload = { PreFlight = { Exec = '/x' }, OnSuccess = { Exec = '/x' }, OnFailure = { Exec = '/x' } }\n";
    let context =
        Context { stem: "unit".into(), file: String::new(), runtime_dir: String::new(), pid1: false };
    let sections = parse(TEXT, &context).map(|parsed| sections(&parsed.unit)).unwrap_or_default();
    let default = |table: &str, key: &str| {
        // Lists of hooks are empty; here they are not, so that the hooks' own keys are there.
        if table == label::RELOAD && ["PreFlight", "OnSuccess", "OnFailure"].contains(&key) {
            return Some("[]".to_string());
        }
        let section = sections.iter().find(|section| section.label == table)?;
        match &section.entries.iter().find(|entry| entry.key == key)?.shown {
            Shown::Value(value) if !GIVEN.contains(&key) => Some(value.clone()),
            Shown::Value(_) | Shown::Void(_) | Shown::Unset => None,
        }
    };
    keys().into_iter().map(|(table, key)| (table, key, default(table, key))).collect()
}

/// Every table of the unit, in the order in which they are printed.
pub(super) fn sections(unit: &Unit) -> Vec<Section> {
    let mut about = section(label::UNIT);
    about.raw("Name", &unit.name);
    about.text("Description", &unit.description);
    let mut sections = vec![about];
    sections.extend(unit.sockets.iter().map(socket::socket));
    sections.push(service::service(&unit.service));
    sections.push(reload(unit));
    for (label, hooks) in [
        (label::PRE_FLIGHT, &unit.reload.pre_flight),
        (label::ON_SUCCESS, &unit.reload.on_success),
        (label::ON_FAILURE, &unit.reload.on_failure),
    ] {
        sections.extend(hooks.iter().map(|one| hook(label, one)));
    }
    sections.extend(unit.health.as_ref().map(health));
    sections.extend(unit.analysis.iter().flat_map(analysis::analysis));
    sections.push(state(&unit.state));
    let mut daemon = section(label::DAEMON);
    daemon.optional_text("Http", unit.daemon.http.as_deref());
    daemon.optional_text("HttpTokenFile", unit.daemon.http_token_file.as_deref());
    daemon.optional("LogLevel", unit.daemon.log_level.as_deref().map(quote));
    daemon.optional("LogFormat", unit.daemon.log_format.as_deref().map(quote));
    daemon.optional("StopDelaySec", unit.daemon.stop_delay.map(|span| quote(&span.to_string())));
    sections.push(daemon);
    sections
}

fn reload(unit: &Unit) -> Section {
    let reload: &Reload = &unit.reload;
    let mut section = section(label::RELOAD);
    section.word("Strategy", word_of(STRATEGIES, &reload.strategy));
    section.no_hooks("PreFlight", &reload.pre_flight);
    section.time("WarmupDelay", reload.warmup_delay);
    section.time("SoakTime", reload.soak_time);
    let weights = toml::array(reload.canary_weight.iter().map(ToString::to_string));
    let is_default = reload.canary_weight == reload_defaults().canary_weight;
    if is_default && no_canary(unit).is_some() {
        section.void("CanaryWeight", weights);
    } else {
        section.put("CanaryWeight", weights);
    }
    section.word("CanaryBy", word_of(CANARY_BY, &reload.canary_by));
    section.time("DrainTimeout", reload.drain_timeout);
    section.signal("ReloadSignal", reload.reload_signal);
    section.no_hooks("OnSuccess", &reload.on_success);
    section.no_hooks("OnFailure", &reload.on_failure);
    section.texts("WatchPaths", &reload.watch_paths);
    section.time("WatchDebounce", reload.watch_debounce);
    section.number("KeepReleases", reload.keep_releases);
    section.optional_text("BinaryPath", reload.binary_path.as_deref());
    section.optional("BinarySHA256", reload.binary_sha256.as_deref().map(quote));
    section
}

fn hook(label: &'static str, hook: &Hook) -> Section {
    let mut section = section(label);
    section.text("Name", &hook.name);
    section.put("Exec", toml::command(&hook.exec));
    section.time("Timeout", hook.timeout);
    if label == label::PRE_FLIGHT {
        section.put("BlockOnFail", hook.block_on_fail.to_string());
    }
    section
}

fn health(health: &HealthCheck) -> Section {
    let mut section = section(label::HEALTH);
    match &health.check {
        Check::HttpGet(target) => section.raw("HttpGet", &target.url),
        Check::TcpConnect(address) => {
            let listen = Listen { kind: ListenKind::Stream, address: address.clone() };
            section.raw("TcpConnect", &print_address(&listen));
        }
        Check::Exec(command) => section.put("Exec", toml::command(command)),
    }
    let named = match &health.check {
        Check::HttpGet(target) => target.named.as_deref(),
        Check::TcpConnect(_) | Check::Exec(_) => None,
    };
    section.optional_text("HttpHost", named);
    section.time("Interval", health.interval);
    section.time("Timeout", health.timeout);
    section.time("InitialDelay", health.initial_delay);
    section.put("SuccessThreshold", health.success_threshold.to_string());
    section.put("FailureThreshold", health.failure_threshold.to_string());
    let statuses = quote(&print_status_ranges(&health.expect_status));
    if matches!(health.check, Check::HttpGet(_)) || health.expect_status != default_statuses() {
        section.put("ExpectStatus", statuses);
    } else {
        section.void("ExpectStatus", statuses);
    }
    section.put("Always", health.always.to_string());
    section
}

/// What does nothing while `Enabled` is false is shown as a remark: as a key it would earn a warning.
fn state(state: &State) -> Section {
    let mut section = section(label::STATE);
    section.put("Enabled", state.enabled.to_string());
    if state.enabled {
        section.optional_text("SocketPath", state.socket_path.as_deref());
        section.time("Timeout", state.timeout);
        section.put("Required", state.required.to_string());
        section.put("MaxBytes", state.max_bytes.to_string());
        section.optional("Signal", state.signal.map(|number| quote(&signal_name(number))));
    }
    section.put("Descriptor", state.descriptor.to_string());
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_manual() {
        let defaults = defaults();
        let default = |table: &str, key: &str| {
            defaults.iter().find(|row| row.0 == table && row.1 == key).and_then(|row| row.2.clone())
        };
        for (table, key, value) in [
            (label::SOCKET, "TriggerLimitBurst", "20"),
            (label::SOCKET, "SocketMode", "\"0666\""),
            (label::SERVICE, "Type", "\"exec\""),
            (label::SERVICE, "TimeoutStopSec", "\"1min 30s\""),
            (label::SERVICE, "RestartSec", "\"100ms\""),
            (label::RELOAD, "CanaryWeight", "[10]"),
            (label::RELOAD, "OnSuccess", "[]"),
            (label::PRE_FLIGHT, "Timeout", "\"30s\""),
            (label::HEALTH, "ExpectStatus", "\"200-399\""),
        ] {
            assert_eq!(default(table, key).as_deref(), Some(value), "{key}");
        }
        for (table, key) in
            [(label::SERVICE, "ExecStart"), (label::SERVICE, "User"), (label::PRE_FLIGHT, "Exec")]
        {
            assert_eq!(default(table, key), None, "{key}");
        }
        assert_eq!(defaults.len(), keys().len());
    }
}
