//! `[Reload]` and its hooks.

use super::super::read::{
    Table, Value, choice, flag, integer, list, positive_time, raw_text, signal, text, time,
};
use super::super::value::{CANARY_BY, STRATEGIES};
use super::super::{CanaryBy, Hook, Reload, Strategy};
use super::commands::command;
use super::label::{ON_FAILURE, ON_SUCCESS, PRE_FLIGHT};
use super::options::absolute_path;
use super::{set, set_some};
use crate::time::Span;

/// The most releases that are kept: each holds its files on the disk.
const MOST_RELEASES: i64 = 32;

const BLOCK_ON_FAIL: &str = "BlockOnFail";

/// What `[Reload]` is without a key. The strategy is `replace` for what cannot overlap (`check.rs` decides).
pub(crate) fn reload_defaults() -> Reload {
    Reload {
        strategy: Strategy::Canary,
        pre_flight: Vec::new(),
        warmup_delay: Span::ZERO,
        soak_time: Span::from_secs(30),
        canary_weight: vec![10],
        canary_by: CanaryBy::Connection,
        drain_timeout: Span::from_secs(30),
        reload_signal: 1,
        on_success: Vec::new(),
        on_failure: Vec::new(),
        watch_paths: Vec::new(),
        watch_debounce: Span::from_millis(200),
        keep_releases: 3,
        binary_path: None,
        binary_sha256: None,
    }
}

/// Reads `[Reload]`.
pub(crate) fn read_reload(table: &Table<'_>) -> Reload {
    let mut reload = reload_defaults();
    set(&mut reload.strategy, table.take("Strategy", |v| choice(v, "a Strategy", STRATEGIES)));
    set(&mut reload.pre_flight, table.take("PreFlight", |v| hooks(v, PRE_FLIGHT)));
    set(&mut reload.warmup_delay, table.take("WarmupDelay", time));
    set(&mut reload.soak_time, table.take("SoakTime", time));
    set(&mut reload.canary_weight, table.take("CanaryWeight", weights));
    set(&mut reload.canary_by, table.take("CanaryBy", |v| choice(v, "a CanaryBy", CANARY_BY)));
    set(&mut reload.drain_timeout, table.take("DrainTimeout", time));
    set(&mut reload.reload_signal, table.take("ReloadSignal", signal));
    set(&mut reload.on_success, table.take("OnSuccess", |v| hooks(v, ON_SUCCESS)));
    set(&mut reload.on_failure, table.take("OnFailure", |v| hooks(v, ON_FAILURE)));
    set(&mut reload.watch_paths, table.take("WatchPaths", |v| list(v, watched_path)));
    set(&mut reload.watch_debounce, table.take("WatchDebounce", time));
    set(&mut reload.keep_releases, table.take("KeepReleases", |v| integer(v, 0..=MOST_RELEASES)));
    set_some(&mut reload.binary_path, table.take("BinaryPath", absolute_path));
    set_some(&mut reload.binary_sha256, table.take("BinarySHA256", sha256));
    reload
}

/// Percentages, at least one.
fn weights(value: &Value<'_>) -> Option<Vec<u8>> {
    let weights = list(value, |v| integer(v, 0..=100))?;
    if weights.is_empty() {
        return value.fail("CanaryWeight needs at least one percentage");
    }
    Some(weights)
}

/// Hooks: tables under `label`, in an array or alone.
fn hooks(value: &Value<'_>, label: &'static str) -> Option<Vec<Hook>> {
    list(value, |item| {
        let Some(entries) = item.get().as_table() else {
            return item.is_not("a hook", "write { Exec = [\"/bin/x\"] }, or a table under its own heading");
        };
        let table = Table::new(label, Some(entries), item.at(), item.reader());
        let hook = read_hook(&table);
        table.report_unknown(&|key, _| (key == BLOCK_ON_FAIL).then(|| format!("it belongs in {PRE_FLIGHT}")));
        hook
    })
}

/// Reads one hook. `BlockOnFail` is known in pre-flight only: elsewhere there is nothing left to block.
pub(crate) fn read_hook(table: &Table<'_>) -> Option<Hook> {
    let name = table.take("Name", text);
    let exec = table.take("Exec", command);
    let timeout = table.take("Timeout", positive_time);
    let block = if table.label() == PRE_FLIGHT { table.take(BLOCK_ON_FAIL, flag) } else { None };
    if !table.has("Exec") {
        table.reader().error(table.at(""), format!("{} has no Exec; a hook is a command", table.label()));
    }
    let exec = exec?;
    let program = exec.argv.first().map(String::as_str).unwrap_or_default();
    let base_name = program.rsplit('/').next().unwrap_or_default().to_string();
    Some(Hook {
        name: name.unwrap_or(base_name),
        exec,
        timeout: timeout.unwrap_or(Span::from_secs(30)),
        block_on_fail: block.unwrap_or(true),
    })
}

/// An absolute path, or one below the folder that the service works in.
fn watched_path(value: &Value<'_>) -> Option<String> {
    let path = text(value)?;
    if path == "~" || path.starts_with("~/") {
        return value.is_not("a path", "no shell replaces ~: write the folder out");
    }
    Some(path)
}

/// 64 hexadecimal digits.
fn sha256(value: &Value<'_>) -> Option<String> {
    let digits = raw_text(value)?;
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return value.is_not("a SHA-256 sum", "it has 64 hexadecimal digits, as sha256sum prints them");
    }
    Some(digits.to_ascii_lowercase())
}
