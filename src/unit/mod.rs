//! A unit: what one TOML file declares, checked and with every default filled in.
//!
//! Only valid values exist: [`parse()`] turns text into a [`Unit`] or into every error of the text, [`print()`] turns a
//! [`Unit`] into canonical TOML that parses back to the same unit, [`inline()`] makes one of a command line. Touches no
//! file, no socket and no clock. Names and meanings are systemd's (systemd.socket(5), systemd.service(5),
//! systemd.exec(5), systemd.kill(5)) unless aeterna.unit(5) says otherwise.
//!
//! | module | owns |
//! | --- | --- |
//! | `types` | the values themselves |
//! | `value` | the syntax of single values, without positions |
//! | `read` | cursors over TOML that know where everything stands and report what nobody took |
//! | `tables` | the schema: keys, readers and defaults, one file per table |
//! | `check` | rules that concern several keys |
//! | `file`, `syntax` | the walk from a text to a unit; what is no TOML, for people |
//! | `print`, `differences` | back to text, and what two units differ in |
//! | `clash`, `overlap` | what several units cannot all have; addresses that exclude each other |
//! | `keepable` | what a rollback could not bring back |
//! | `sharing`, `verdict` | what a check says of a unit's addresses, and of files |
//! | `release` | the name of what is deployed, and where a unit says it |
//! | `expand`, `environment_file`, `signal` | what the launch needs of the same rules |

#![forbid(unsafe_code)]

mod check;
mod clash;
mod diagnostic;
mod differences;
mod environment_file;
mod expand;
mod file;
mod fixed;
mod import;
mod inline;
mod keepable;
mod overlap;
mod print;
mod read;
mod release;
mod sharing;
mod signal;
mod syntax;
mod tables;
mod types;
mod value;
mod variables;
mod verdict;

pub use clash::{clashes, clashes_of, daemon_keys_that_differ};
pub use diagnostic::Diagnostic;
pub use differences::{Difference, Needs, SocketChange, differences};
pub use environment_file::{EnvironmentText, parse_environment_file};
pub use expand::{expand_command, expand_text};
pub use file::{Context, MAX_FILE, Parsed, keys, parse};
pub use fixed::{in_effect, waiting_keys};
pub use import::{Imported, Source, import};
pub use inline::{Sockets, inline, undeclared_socket};
pub use keepable::{Found, What};
pub use print::{defaults, print};
pub use release::{Named, bind, named_files};
pub use sharing::sharing;
pub use signal::{parse_signal, signal_name};
pub use types::{
    Address, Amount, Analysis, AnalysisCheck, AnalysisKind, BindIpv6Only, CanaryBy, Check, Command,
    DaemonSettings, EnvironmentFile, ExitStatusSet, FlowBy, FlowOptions, GroupLimits, HealthCheck, Hook,
    HttpTarget, Inconclusive, Input, KillMode, Limit, Listen, ListenKind, NotifyAccess, OomPolicy, Output,
    Reload, Resource, Restart, Service, ServiceType, Sharing, Socket, SocketEnvironment, SocketOptions,
    SocketProtocol, StartOn, State, Strategy, WorkingDirectory, same_endpoint,
};
pub use value::check_http_address;
pub use value::limit_key;
pub use variables::fd_variables;
pub use verdict::{FileVerdict, Here, SocketVerdict, Unmet, Verdict};

/// One unit: sockets, a service, how it is reloaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// `[Unit] Name`, else the file's stem. Never empty; ASCII letters, digits, and `:-_.\@`.
    pub name: String,
    /// `[Unit] Description`, may be empty.
    pub description: String,
    /// The `[[Socket]]` tables in the order of the file.
    pub sockets: Vec<Socket>,
    /// `[Service]`.
    pub service: Service,
    /// `[Reload]`.
    pub reload: Reload,
    /// `[HealthCheck]`, if the table is there.
    pub health: Option<HealthCheck>,
    /// `[Analysis]`, if the table is there.
    pub analysis: Option<Analysis>,
    /// `[State]`: how its memory moves on.
    pub state: State,
    /// `[Daemon]`: what the unit asks of the supervisor itself.
    pub daemon: DaemonSettings,
}

impl Unit {
    /// Whether each connection gets its own instance (`Accept = true`; all sockets of a unit agree on it).
    pub fn accepts(&self) -> bool {
        self.sockets.iter().any(|socket| socket.accept)
    }

    /// Every address in the order in which a service gets its descriptors (3, 4, 5…), with its table.
    pub fn listens(&self) -> impl Iterator<Item = (&Socket, &Listen)> {
        self.sockets.iter().flat_map(|socket| socket.listen.iter().map(move |listen| (socket, listen)))
    }
}
