//! What a process finds in its environment (contract section 5): pure, from the unit and a few facts.

use crate::unit::{Service, SocketEnvironment, expand_text, fd_variables};
use std::collections::BTreeMap;
use std::ffi::OsString;

/// One socket as the service gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// `FileDescriptorName`.
    pub name: String,
    /// The address as other starters write it: `127.0.0.1:80`, a bare port, a path.
    pub address: String,
}

/// The facts that only a launch knows.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// aeternad's own environment.
    pub own: Vec<(String, String)>,
    /// `HOME`, `USER`, `LOGNAME`, `SHELL` of the service's user, where the unit names one.
    pub account: Vec<(String, String)>,
    /// The contents of the `EnvironmentFile`s.
    pub from_files: Vec<(String, String)>,
    /// What `Release` led to.
    pub release: Option<String>,
    /// What it leads to for the one that serves.
    pub release_serving: Option<String>,
    /// The unit's name.
    pub unit: String,
    /// The generation; 0 for hooks outside one.
    pub generation: u32,
    /// `AETERNA_WORKER`, where there are several.
    pub worker: Option<u32>,
    /// The sockets from descriptor 3 on; `None` for a process that gets none.
    pub sockets: Option<Vec<Handed>>,
    /// Names of the stored descriptors behind the sockets.
    pub stored: Vec<String>,
    /// The notify socket's path.
    pub notify_socket: Option<String>,
    /// `WATCHDOG_USEC`.
    pub watchdog_usec: Option<u64>,
    /// `FDSTORE`.
    pub fd_store_max: u32,
    /// `AETERNA_STATE_SOCK`.
    pub state_socket: Option<String>,
    /// `AETERNA_FLOW_TAG`.
    pub flow_tag: Option<u8>,
    /// A serving predecessor.
    pub handover: bool,
    /// `INVOCATION_ID`: marks the generation's processes.
    pub invocation: String,
    /// `REMOTE_ADDR` and `REMOTE_PORT`.
    pub remote: Vec<(String, String)>,
    /// `RUNTIME_DIRECTORY`, colon separated.
    pub runtime_directory: Option<String>,
    /// What the machine adds: `MAINPID`, `SERVICE_RESULT`…
    pub extra: Vec<(String, String)>,
}

/// Builds the environment. `LISTEN_PID=` and `WATCHDOG_PID=` are left out: only the child knows its pid.
///
/// Later ones win: aeternad's own, the account's, ours, `Environment`, `EnvironmentFile`, the protocol's;
/// `UnsetEnvironment` has the last word.
pub fn build(service: &Service, facts: &Facts) -> BTreeMap<String, String> {
    let mut env = inherited(service, &facts.own);
    env.extend(facts.account.iter().cloned());
    let protocol = protocol(service, facts);
    // `${AETERNA_FD_http}` in Environment means a variable that is only set further down.
    let before: BTreeMap<String, String> =
        env.iter().chain(&protocol).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (key, value) in &service.environment {
        env.insert(key.clone(), expand_text(value, &|name| before.get(name).cloned()));
    }
    env.extend(facts.from_files.iter().cloned());
    env.extend(protocol);
    for unset in &service.unset_environment {
        match unset.split_once('=') {
            None => {
                env.remove(unset);
            }
            Some((name, value)) => {
                if env.get(name).is_some_and(|have| have == value) {
                    env.remove(name);
                }
            }
        }
    }
    env
}

/// What a process inherits beside [`build`]'s: variables whose values are no text, as they are, `NAME=VALUE`.
pub fn unreadable(
    service: &Service,
    own: &[(String, OsString)],
    built: &BTreeMap<String, String>,
) -> Vec<Vec<u8>> {
    let unset = |name: &String| service.unset_environment.contains(name);
    own.iter()
        .filter(|(name, _)| passes(service, name) && !built.contains_key(name) && !unset(name))
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_encoded_bytes()].concat())
        .collect()
}

/// Variables of one supervisor that would mislead the service of another.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("LISTEN_")
        || name.starts_with("WATCHDOG_")
        || name.starts_with("AETERNA_")
        || name.starts_with("MEMORY_PRESSURE_")
        || matches!(
            name,
            "NOTIFY_SOCKET"
                | "MAINPID"
                | "FDSTORE"
                | "INVOCATION_ID"
                | "JOURNAL_STREAM"
                | "CREDENTIALS_DIRECTORY"
                | "MANAGERPID"
                | "SYSTEMD_EXEC_PID"
        )
}

/// Whether a process inherits a variable of aeternad's own environment.
fn passes(service: &Service, name: &str) -> bool {
    let asked = match &service.pass_environment {
        None => true,
        Some(list) => list.iter().any(|n| n == name) || matches!(name, "PATH" | "HOME" | "USER" | "LANG"),
    };
    asked && !is_ours(name)
}

fn inherited(service: &Service, own: &[(String, String)]) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> =
        own.iter().filter(|(name, _)| passes(service, name)).cloned().collect();
    env.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    env
}

/// Where programs are looked for if nobody says: a container may start PID 1 without PATH.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn protocol(service: &Service, facts: &Facts) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        env.insert(name.to_owned(), value);
    };
    set("AETERNA_MANAGED", "1".into());
    set("AETERNA_UNIT", facts.unit.clone());
    if facts.generation > 0 {
        set("AETERNA_GENERATION", facts.generation.to_string());
    }
    if !facts.invocation.is_empty() {
        set("INVOCATION_ID", facts.invocation.clone());
    }
    if let Some(release) = &facts.release {
        set("AETERNA_RELEASE", release.clone());
    }
    if let Some(release) = &facts.release_serving {
        set("AETERNA_RELEASE_SERVING", release.clone());
    }
    if facts.handover {
        set("AETERNA_HANDOVER", "1".into());
    }
    if let Some(worker) = facts.worker {
        set("AETERNA_WORKER", worker.to_string());
    }
    if let Some(tag) = facts.flow_tag {
        set("AETERNA_FLOW_TAG", format!("{tag:02x}"));
    }
    if let Some(path) = &facts.notify_socket {
        set("NOTIFY_SOCKET", path.clone());
    }
    if let Some(path) = &facts.state_socket {
        set("AETERNA_STATE_SOCK", path.clone());
    }
    if let Some(usec) = facts.watchdog_usec {
        set("WATCHDOG_USEC", usec.to_string());
    }
    if let Some(folders) = &facts.runtime_directory {
        set("RUNTIME_DIRECTORY", folders.clone());
    }
    for (name, value) in facts.remote.iter().chain(&facts.extra) {
        set(name, value.clone());
    }
    if let Some(sockets) = &facts.sockets {
        listen_variables(&mut env, facts, sockets);
        for way in &service.socket_environment {
            starter_variables(&mut env, *way, facts, sockets);
        }
    }
    env
}

/// `LISTEN_FDS` and its kin, `AETERNA_FD_<NAME>`.
fn listen_variables(env: &mut BTreeMap<String, String>, facts: &Facts, sockets: &[Handed]) {
    if facts.fd_store_max > 0 {
        env.insert("FDSTORE".into(), facts.fd_store_max.to_string());
    }
    let count = sockets.len() + facts.stored.len();
    env.insert("AETERNA_INHERITED_FDS".into(), count.to_string());
    if count == 0 {
        return;
    }
    let names: Vec<&str> =
        sockets.iter().map(|s| s.name.as_str()).chain(facts.stored.iter().map(String::as_str)).collect();
    env.insert("LISTEN_FDS".into(), count.to_string());
    env.insert("LISTEN_FDNAMES".into(), names.join(":"));
    for (at, variable) in fd_variables(&names).into_iter().enumerate() {
        env.entry(variable).or_insert_with(|| (FIRST_FD + at).to_string());
    }
}

/// SD_LISTEN_FDS_START.
pub const FIRST_FD: usize = 3;

/// What programs written for other starters look for.
fn starter_variables(
    env: &mut BTreeMap<String, String>,
    way: SocketEnvironment,
    facts: &Facts,
    sockets: &[Handed],
) {
    let numbered = || sockets.iter().enumerate().map(|(at, socket)| (FIRST_FD + at, socket));
    match way {
        SocketEnvironment::ServerStarter => {
            let ports: Vec<String> = numbered().map(|(fd, s)| format!("{}={fd}", s.address)).collect();
            env.insert("SERVER_STARTER_PORT".into(), ports.join(";"));
            env.insert("SERVER_STARTER_GENERATION".into(), facts.generation.to_string());
        }
        SocketEnvironment::Einhorn => {
            let fds: Vec<String> = numbered().map(|(fd, _)| fd.to_string()).collect();
            env.insert("EINHORN_FD_COUNT".into(), fds.len().to_string());
            for (n, fd) in fds.iter().enumerate() {
                env.insert(format!("EINHORN_FD_{n}"), fd.clone());
            }
            env.insert("EINHORN_FDS".into(), fds.join(" "));
        }
        SocketEnvironment::Nginx => {
            let fds: String = numbered().map(|(fd, _)| format!("{fd};")).collect();
            env.insert("NGINX".into(), fds);
        }
        SocketEnvironment::PhpFpm => {
            // As it tells itself when it executes itself: in sets of so many, a variable each.
            const SET: usize = 128;
            let fds: Vec<String> = numbered().map(|(fd, s)| format!("{}={fd}", s.address)).collect();
            for (n, set) in fds.chunks(SET).enumerate() {
                let name = if n == 0 { "FPM_SOCKETS".into() } else { format!("FPM_SOCKETS_{n}") };
                env.insert(name, set.join(","));
            }
        }
    }
}
