//! The parts of a [`super::Unit`], one file per group of tables. Plain values: whoever reads or prints them is elsewhere.

mod analysis;
mod group;
mod reload;
mod service;
mod socket;
mod state;

pub use analysis::{Analysis, AnalysisCheck, AnalysisKind, Inconclusive};
pub use group::{Amount, GroupLimits, OomPolicy};
pub use reload::{CanaryBy, Check, DaemonSettings, HealthCheck, Hook, HttpTarget, Reload, Strategy};
pub use service::{
    Command, EnvironmentFile, ExitStatusSet, Input, KillMode, Limit, NotifyAccess, Output, Resource, Restart,
    Service, ServiceType, SocketEnvironment, StartOn, WorkingDirectory,
};
pub use socket::{
    Address, BindIpv6Only, FlowBy, FlowOptions, Listen, ListenKind, Sharing, Socket, SocketOptions,
    SocketProtocol, same_endpoint,
};
pub use state::State;
