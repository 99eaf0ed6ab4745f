//! Rules of `[Reload]` and `[HealthCheck]`.

use super::super::file::Tables;
use super::super::value::{STRATEGIES, word_of};
use super::super::{Listen, Socket};
use super::super::{ListenKind, ServiceType, Sharing, Strategy, Unit};
use super::{error, warn};

/// The default of `Strategy`: what cannot overlap is replaced.
pub(super) fn settle(unit: &mut Unit, tables: &Tables<'_>) {
    if !tables.reload.has("Strategy") && cannot_overlap(unit).is_some() {
        unit.reload.strategy = Strategy::Replace;
    }
    below_working_directory(unit, tables);
}

/// Relative names begin in `WorkingDirectory`. Without it they begin in our own, which no pure code knows.
fn below_working_directory(unit: &mut Unit, tables: &Tables<'_>) {
    let Some(folder) = &unit.service.working_directory else { return };
    let home = folder.path == "~";
    for path in unit.reload.watch_paths.iter_mut().filter(|path| !path.starts_with('/')) {
        if home {
            let keys = [(&tables.reload, "WatchPaths"), (&tables.service, "WorkingDirectory")];
            return error(
                &keys,
                format!(
                    "\"{path}\" is relative, and WorkingDirectory = \"~\" is whatever the user's home is then: write an absolute path"
                ),
            );
        }
        *path = format!("{}/{}", folder.path.trim_end_matches('/'), path.trim_start_matches("./"));
    }
}

/// Why two generations of the unit never run beside each other, if so.
fn cannot_overlap(unit: &Unit) -> Option<&'static str> {
    if unit.accepts() {
        return Some("Accept = true");
    }
    (unit.service.service_type == ServiceType::Oneshot).then_some("Type = \"oneshot\"")
}

/// Applies the rules.
pub(super) fn check(unit: &Unit, tables: &Tables<'_>) {
    strategy(unit, tables);
    told(unit, tables);
    canary(unit, tables);
    times(unit, tables);
}

fn strategy(unit: &Unit, tables: &Tables<'_>) {
    let overlaps = matches!(unit.reload.strategy, Strategy::Canary | Strategy::Immediate);
    if let Some(why) = cannot_overlap(unit)
        && overlaps
    {
        let word = word_of(STRATEGIES, &unit.reload.strategy);
        error(
            &[(&tables.reload, "Strategy"), (&tables.service, "Type")],
            format!(
                "Strategy = \"{word}\" beside {why}: there is no old generation to run beside; use \"replace\""
            ),
        );
    }
}

/// What a running process is told with, where none is ever told.
fn told(unit: &Unit, tables: &Tables<'_>) {
    if unit.reload.strategy != Strategy::Signal && !unit.service.exec_reload.is_empty() {
        warn(
            &[(&tables.service, "ExecReload"), (&tables.reload, "Strategy")],
            format!(
                "ExecReload has no effect without Strategy = \"signal\" in [Reload]: with \"{}\" a reload starts a new \
                 generation",
                word_of(STRATEGIES, &unit.reload.strategy)
            ),
        );
    }
}

fn canary(unit: &Unit, tables: &Tables<'_>) {
    let keys = [(&tables.reload, "CanaryWeight"), (&tables.reload, "Strategy")];
    if !tables.reload.has("CanaryWeight") {
        return;
    }
    if let Some(why) = no_canary(unit) {
        warn(&keys, format!("CanaryWeight has no effect {why}"));
    }
}

/// Why `CanaryWeight` has no effect in this unit, if so.
pub(crate) fn no_canary(unit: &Unit) -> Option<String> {
    if unit.reload.strategy != Strategy::Canary {
        let word = word_of(STRATEGIES, &unit.reload.strategy);
        return Some(format!("with Strategy = \"{word}\": there is no soak"));
    }
    let learned = unit.service.intercept_bind && !unit.state.enabled;
    let weighed = learned || unit.listens().any(|(socket, listen)| takes_weights(socket, listen));
    (!weighed).then(|| "on shared sockets: the kernel gives a connection to whoever is first".to_string())
}

/// Whether connections (or flows) to this address are divided by percentage: steered TCP and UDP.
fn takes_weights(socket: &Socket, listen: &Listen) -> bool {
    let tcp = listen.is_ip() && listen.kind == ListenKind::Stream && socket.sharing != Sharing::Shared;
    let udp = listen.is_unicast_udp() && socket.sharing == Sharing::Steered;
    !socket.accept && (tcp || udp)
}

/// A launch that is not ready before its deadline could never be.
fn times(unit: &Unit, tables: &Tables<'_>) {
    let limit = unit.service.timeout_start;
    if limit.is_infinite() {
        return;
    }
    let warmup = unit.reload.warmup_delay;
    if warmup >= limit {
        error(
            &[(&tables.reload, "WarmupDelay"), (&tables.service, "TimeoutStartSec")],
            format!(
                "WarmupDelay ({warmup}) is not shorter than TimeoutStartSec ({limit}): no launch could become ready"
            ),
        );
    } else if let Some(health) = &unit.health
        && warmup + health.initial_delay >= limit
    {
        error(
            &[
                (&tables.health, "InitialDelay"),
                (&tables.service, "TimeoutStartSec"),
                (&tables.reload, "WarmupDelay"),
            ],
            format!(
                "InitialDelay ({}) is not shorter than TimeoutStartSec ({limit}): no launch could become ready",
                health.initial_delay
            ),
        );
    }
}
