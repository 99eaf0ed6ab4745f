//! Keys of other programs, and of systemd where we have none: what to write instead, or why there is nothing.

use super::super::import::reason;
use super::super::read::nearest_within;
use super::label;

/// What to say of a key that `label`'s table does not know; `known` are its keys, `all` every table's.
pub(crate) fn hint(
    label: &str,
    key: &str,
    known: &[&'static str],
    all: &[(&'static str, &'static str)],
) -> Option<String> {
    if let Some(hint) = instead(label, key) {
        return Some(hint.into());
    }
    if let Some((table, _)) = all.iter().find(|(_, name)| *name == key) {
        return Some(format!("it belongs in {table}"));
    }
    // A slip of the keyboard comes before another program's key.
    if nearest_within(key, known.iter().copied(), 2).is_some() {
        return None;
    }
    reason(label, key).map(str::to_string)
}

/// What is meant by names that other programs use, or that are near to what is not meant.
fn instead(label: &str, key: &str) -> Option<&'static str> {
    let lower = key.to_ascii_lowercase();
    Some(match (label, lower.as_str()) {
        (label::SOCKET, "name") => "did you mean \"FileDescriptorName\"?",
        (label::SOCKET, "listen" | "port" | "address" | "bind" | "host") => "did you mean \"ListenStream\"?",
        (label::SOCKET, "mode") => "did you mean \"SocketMode\"?",
        (label::SOCKET, "user") => "did you mean \"SocketUser\"? [Service] has the service's User",
        (label::SOCKET, "group") => "did you mean \"SocketGroup\"? [Service] has the service's Group",
        (label::HEALTH, "http" | "url" | "path" | "get") => "did you mean \"HttpGet\"?",
        (label::HEALTH | label::ANALYSIS, "host" | "header" | "headers" | "httpheaders" | "hostheader") => {
            "did you mean \"HttpHost\"?"
        }
        (label::HEALTH, "tcp" | "port") => "did you mean \"TcpConnect\"?",
        (label::HEALTH, "command" | "cmd" | "execstart") => "did you mean \"Exec\"?",
        (label::SERVICE, "command" | "cmd" | "exec" | "run" | "start") => "did you mean \"ExecStart\"?",
        (label::SERVICE, "listen" | "port" | "address" | "bind" | "host") => {
            "an address is a ListenStream of a [[Socket]]"
        }
        (label::SERVICE, "env" | "envs" | "variables") => "did you mean \"Environment\"?",
        (label::SERVICE, "envfile" | "env_file") => "did you mean \"EnvironmentFile\"?",
        (label::SERVICE, "cwd" | "dir" | "directory" | "workdir" | "workingdir") => {
            "did you mean \"WorkingDirectory\"?"
        }
        (label::SERVICE, "timeoutsec" | "timeout") => {
            "write TimeoutStartSec and TimeoutStopSec: there is no key for both"
        }
        (label::SERVICE, "limitmem" | "limitmemory") => {
            "write LimitAS for the address space of a process, or LimitMEMLOCK for locked memory"
        }
        (label::SERVICE, "pidfile") => {
            "aeternad starts the main process itself and needs none: drop the key, and let the program stay in the \
             foreground"
        }
        (
            label::SERVICE,
            "statedirectory" | "cachedirectory" | "logsdirectory" | "configurationdirectory",
        ) => {
            "aeternad makes no such folder; make it beforehand (a RuntimeDirectory is removed with the service)"
        }
        (label::SERVICE, "dynamicuser") => {
            "aeternad makes no users: make one for the service and name it in User"
        }
        _ => return None,
    })
}

/// Why a table of systemd's has no place here.
pub(crate) fn of_table(name: &str) -> Option<&'static str> {
    Some(match name {
        "Install" => {
            "there are no targets: a unit starts with aeternad, or at the first connection ([Service] StartOn)"
        }
        "Timer" | "Path" | "Mount" | "Automount" | "Swap" | "Slice" | "Scope" => {
            "aeternad has services and their sockets only"
        }
        _ => return None,
    })
}
