//! sd_notify(3) datagrams: text → [`Notification`]. Unknown keys are left out, they are no error.

use serde::{Deserialize, Serialize};

/// What one datagram says. A key that stands twice counts as its last value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notification {
    /// `READY=1`.
    pub ready: bool,
    /// `RELOADING=1`.
    pub reloading: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=`.
    pub status: Option<String>,
    /// `ERRNO=`.
    pub errno: Option<i32>,
    /// `EXIT_STATUS=`.
    pub exit_status: Option<i32>,
    /// `MAINPID=`.
    pub main_pid: Option<i32>,
    /// `WATCHDOG=1`.
    pub watchdog: bool,
    /// `WATCHDOG=trigger`.
    pub watchdog_trigger: bool,
    /// `WATCHDOG_USEC=`, microseconds.
    pub watchdog_usec: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`, microseconds.
    pub extend_timeout_usec: Option<u64>,
    /// `FDSTORE=1`.
    pub fd_store: bool,
    /// `FDSTOREREMOVE=1`.
    pub fd_store_remove: bool,
    /// `FDNAME=`, if it is a valid name.
    pub fd_name: Option<String>,
    /// False after `FDPOLL=0`.
    pub fd_poll: bool,
    /// `BARRIER=1`.
    pub barrier: bool,
    /// `MONOTONIC_USEC=`, microseconds.
    pub monotonic_usec: Option<u64>,
}
