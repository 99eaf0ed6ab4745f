//! Rules of `[Analysis]`.

use super::super::file::Tables;
use super::super::value::{STRATEGIES, word_of};
use super::super::{Address, AnalysisKind, Sharing, Strategy, Unit};
use super::{error, warn};

/// Applies the rules.
pub(super) fn check(unit: &Unit, tables: &Tables<'_>) {
    let Some(analysis) = &unit.analysis else { return };
    let table = &tables.analysis;
    if let Some(why) = no_soak(unit) {
        warn(&[(table, "Check"), (&tables.reload, "Strategy"), (&tables.reload, "SoakTime")], why);
        return;
    }
    let soak = unit.reload.soak_time;
    if let Some(most) = analysis.soak_time_max
        && most < soak
    {
        let why = format!(
            "SoakTimeMax ({most}) is shorter than SoakTime ({soak}): it is how long a soak may become"
        );
        error(&[(table, "SoakTimeMax"), (&tables.reload, "SoakTime")], why);
    }
    for check in &analysis.checks {
        let relative_alone = check.max.is_none() && check.max_relative.is_some();
        if relative_alone
            && !matches!(check.kind, AnalysisKind::Exec(_))
            && let Some(why) = old_gets_nothing(unit)
        {
            let why = format!(
                "the check \"{}\" compares with the old generation, which {why}: give it Max",
                check.name
            );
            warn(&[(table, "Check")], why);
        }
    }
}

/// Why the unit never soaks, if so.
fn no_soak(unit: &Unit) -> Option<String> {
    let word = word_of(STRATEGIES, &unit.reload.strategy);
    if unit.reload.strategy != Strategy::Canary {
        return Some(format!("[Analysis] has no effect with Strategy = \"{word}\": there is no soak"));
    }
    unit.reload.soak_time.is_zero().then(|| "[Analysis] has no effect with SoakTime = 0".to_string())
}

/// Why the old generation gets no new connections in a soak, if so.
fn old_gets_nothing(unit: &Unit) -> Option<&'static str> {
    if unit.reload.canary_weight.iter().all(|weight| *weight == 100) {
        return Some("gets no new connections with CanaryWeight = 100");
    }
    let steered = |socket: &super::super::Socket| socket.sharing == Sharing::Steered;
    if unit.state.enabled && unit.listens().any(|(socket, _)| steered(socket)) {
        return Some("gets no new connections on steered sockets with [State]");
    }
    let path = |address: &Address| matches!(address, Address::Path(_));
    let all_paths = unit.listens().all(|(socket, listen)| steered(socket) && path(&listen.address));
    (all_paths && unit.listens().next().is_some()).then_some("gets no new connections on a steered Unix path")
}
