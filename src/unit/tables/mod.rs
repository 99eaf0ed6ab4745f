//! The schema: one file per TOML table, which says what keys there are, how each is read, and its default.

mod about;
mod analysis;
mod commands;
mod daemon;
mod environment;
pub(super) mod foreign;
mod health;
mod options;
mod process;
mod reload;
mod service;
mod socket;
mod state;

pub(super) use about::{check_name, read_about};
pub(super) use analysis::{read_analysis, read_check};
pub(super) use daemon::read_daemon;
pub(super) use health::{default_statuses, read_health};
pub(super) use reload::{read_hook, read_reload, reload_defaults};
pub(super) use service::{read_service, service_defaults};
pub(super) use socket::{DESCRIPTOR_NAME, PlacedSocket, is_descriptor_name, read_socket, socket_defaults};
pub(super) use state::read_state;

/// Labels of the tables, as messages show them.
pub(super) mod label {
    pub(crate) const UNIT: &str = "[Unit]";
    pub(crate) const SOCKET: &str = "[[Socket]]";
    pub(crate) const SERVICE: &str = "[Service]";
    pub(crate) const RELOAD: &str = "[Reload]";
    pub(crate) const HEALTH: &str = "[HealthCheck]";
    pub(crate) const ANALYSIS: &str = "[Analysis]";
    pub(crate) const ANALYSIS_CHECK: &str = "[[Analysis.Check]]";
    pub(crate) const STATE: &str = "[State]";
    pub(crate) const DAEMON: &str = "[Daemon]";
    pub(crate) const PRE_FLIGHT: &str = "[[Reload.PreFlight]]";
    pub(crate) const ON_SUCCESS: &str = "[[Reload.OnSuccess]]";
    pub(crate) const ON_FAILURE: &str = "[[Reload.OnFailure]]";
}

/// Puts a value that the file gave into its field; without one the default stays.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// As [`set`], for a field that has no default.
fn set_some<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}
