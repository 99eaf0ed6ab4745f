//! Every closed set of words, once, for reading and printing.

use super::super::{
    BindIpv6Only, CanaryBy, FlowBy, Inconclusive, Input, KillMode, NotifyAccess, OomPolicy, Output, Restart,
    ServiceType, Sharing, SocketEnvironment, SocketProtocol, StartOn, Strategy,
};

/// Words and what they mean.
pub(crate) type Words<T> = &'static [(&'static str, T)];

/// The word for `meaning`.
pub(crate) fn word_of<T: PartialEq>(words: Words<T>, meaning: &T) -> &'static str {
    words.iter().find(|(_, known)| known == meaning).map_or("", |(word, _)| word)
}

pub(crate) const BIND_IPV6_ONLY: Words<BindIpv6Only> = &[
    ("default", BindIpv6Only::Default),
    ("both", BindIpv6Only::Both),
    ("ipv6-only", BindIpv6Only::Ipv6Only),
];

pub(crate) const SOCKET_PROTOCOLS: Words<SocketProtocol> =
    &[("mptcp", SocketProtocol::Mptcp), ("sctp", SocketProtocol::Sctp)];

pub(crate) const SHARINGS: Words<Sharing> =
    &[("auto", Sharing::Auto), ("steered", Sharing::Steered), ("shared", Sharing::Shared)];

pub(crate) const FLOWS_BY: Words<FlowBy> = &[("address", FlowBy::Address), ("tag", FlowBy::Tag)];

/// `IPTOS` by name: the bits of RFC 1349.
pub(crate) const IP_TOS: Words<u8> =
    &[("low-delay", 0x10), ("throughput", 0x08), ("reliability", 0x04), ("low-cost", 0x02)];

pub(crate) const TYPES: Words<ServiceType> = &[
    ("simple", ServiceType::Simple),
    ("exec", ServiceType::Exec),
    ("notify", ServiceType::Notify),
    ("notify-reload", ServiceType::NotifyReload),
    ("oneshot", ServiceType::Oneshot),
];

pub(crate) const NOTIFY_ACCESS: Words<NotifyAccess> = &[
    ("none", NotifyAccess::None),
    ("main", NotifyAccess::Main),
    ("exec", NotifyAccess::Exec),
    ("all", NotifyAccess::All),
];

pub(crate) const OOM_POLICIES: Words<OomPolicy> =
    &[("continue", OomPolicy::Continue), ("stop", OomPolicy::Stop), ("kill", OomPolicy::Kill)];

pub(crate) const START_ON: Words<StartOn> = &[("boot", StartOn::Boot), ("connection", StartOn::Connection)];

pub(crate) const RESTARTS: Words<Restart> = &[
    ("no", Restart::No),
    ("always", Restart::Always),
    ("on-success", Restart::OnSuccess),
    ("on-failure", Restart::OnFailure),
    ("on-abnormal", Restart::OnAbnormal),
    ("on-abort", Restart::OnAbort),
    ("on-watchdog", Restart::OnWatchdog),
];

pub(crate) const KILL_MODES: Words<KillMode> =
    &[("control-group", KillMode::ControlGroup), ("mixed", KillMode::Mixed), ("process", KillMode::Process)];

pub(crate) const SOCKET_ENVIRONMENTS: Words<SocketEnvironment> = &[
    ("server-starter", SocketEnvironment::ServerStarter),
    ("einhorn", SocketEnvironment::Einhorn),
    ("nginx", SocketEnvironment::Nginx),
    ("php-fpm", SocketEnvironment::PhpFpm),
];

/// `StandardInput` without a path.
pub(crate) const INPUTS: Words<Input> =
    &[("null", Input::Null), ("inherit", Input::Inherit), ("socket", Input::Socket)];

/// `StandardOutput` and `StandardError` without a path.
pub(crate) const OUTPUTS: Words<Output> =
    &[("inherit", Output::Inherit), ("null", Output::Null), ("socket", Output::Socket), ("log", Output::Log)];

pub(crate) const STRATEGIES: Words<Strategy> = &[
    ("canary", Strategy::Canary),
    ("immediate", Strategy::Immediate),
    ("replace", Strategy::Replace),
    ("signal", Strategy::Signal),
];

/// `[Analysis] Inconclusive`.
pub(crate) const INCONCLUSIVE: Words<Inconclusive> =
    &[("promote", Inconclusive::Promote), ("rollback", Inconclusive::Rollback)];

pub(crate) const CANARY_BY: Words<CanaryBy> =
    &[("connection", CanaryBy::Connection), ("client", CanaryBy::Client)];

/// `LogLevel`: the words mean themselves.
pub(crate) const LOG_LEVELS: Words<&str> =
    &[("error", "error"), ("warn", "warn"), ("info", "info"), ("debug", "debug"), ("trace", "trace")];

/// `LogFormat`: the words mean themselves.
pub(crate) const LOG_FORMATS: Words<&str> = &[("text", "text"), ("json", "json")];
