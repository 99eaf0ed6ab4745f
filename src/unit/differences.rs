//! What a reload would change: two units compared key by key and address by address.

use super::print::{Entry, Section, Shown, sections};
use super::tables::label;
use super::{Listen, Socket, Strategy, Unit, same_endpoint, sharing, waiting_keys};

/// One thing in which two versions of a unit differ, or an address that they share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A key whose value is another one.
    Key {
        /// The table's heading, such as `[Service]`; a socket's with the address: `[[Socket]] 127.0.0.1:80`.
        table: String,
        /// The key.
        key: &'static str,
        /// The old value as TOML, `None` if there was none.
        old: Option<String>,
        /// The new value as TOML, `None` if there is none.
        new: Option<String>,
        /// When the new value counts.
        needs: Needs,
    },
    /// What becomes of an address.
    Socket {
        /// The address as messages show it.
        address: String,
        /// The descriptor's name.
        name: String,
        /// What becomes of it.
        change: SocketChange,
        /// When that happens.
        needs: Needs,
    },
}

/// What a changed key waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing but the reload.
    Reload,
    /// The next launch of the service: the strategy is `signal`, which launches nothing.
    Launch,
    /// A restart of aeternad.
    Restart,
}

/// What a reload does to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketChange {
    /// It stays open throughout.
    Kept,
    /// It is bound before pre-flight.
    Added,
    /// It is closed when the old generation is gone.
    Dropped,
}

/// Keys of `[Service]` that concern aeternad only: they count without a launch.
const WITHOUT_LAUNCH: &[&str] = &[
    "ExecStartPre",
    "ExecStartPost",
    "ExecStop",
    "ExecStopPost",
    "ExecReload",
    "StartOn",
    "StopWhenIdleSec",
    "Restart",
    "RestartSec",
    "RestartSteps",
    "RestartMaxDelaySec",
    "StartLimitIntervalSec",
    "StartLimitBurst",
    "SuccessExitStatus",
    "RestartPreventExitStatus",
    "RestartForceExitStatus",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "WatchdogSignal",
    "KillMode",
    "KillSignal",
    "FinalKillSignal",
    "SendSIGKILL",
    "SendSIGHUP",
];

/// Everything in which `new` differs from `old`, and every address of either: addresses first, then keys in the
/// order in which [`super::print()`] has them. Two equal units differ in nothing; their addresses are kept.
pub fn differences(old: &Unit, new: &Unit) -> Vec<Difference> {
    let mut found = addresses(old, new);
    let (old_sections, new_sections) = (sections(old), sections(new));
    for (socket, listen) in new.listens() {
        if let Some((earlier, _)) = old.listens().find(|(_, known)| same_endpoint(known, listen)) {
            let table = format!("{} {}", label::SOCKET, listen.address);
            let first = found.len();
            compare(
                &table,
                &entries_of(old, earlier, &old_sections),
                &entries_of(new, socket, &new_sections),
                new,
                &mut found,
            );
            let mut waiting = waiting_keys(&earlier.options, &socket.options);
            if sharing(old, earlier, listen).0 != sharing(new, socket, listen).0 {
                waiting.push("Sharing");
            }
            for difference in &mut found[first..] {
                if let Difference::Key { key, needs, .. } = difference
                    && waiting.contains(key)
                {
                    *needs = Needs::Restart;
                }
            }
        }
    }
    for label in [
        label::UNIT,
        label::SERVICE,
        label::RELOAD,
        label::HEALTH,
        label::ANALYSIS,
        label::STATE,
        label::DAEMON,
    ] {
        let entries = |sections: &[Section]| {
            let mut entries: Vec<Entry> = sections
                .iter()
                .filter(|section| section.label == label)
                .flat_map(|s| s.entries.clone())
                .collect();
            if label == label::RELOAD {
                entries.retain(|entry| !HOOKS.iter().any(|(key, _)| *key == entry.key));
                entries.extend(HOOKS.iter().map(|(key, label)| hooks(key, label, sections)));
            }
            if label == label::ANALYSIS {
                entries.push(hooks("Check", label::ANALYSIS_CHECK, sections));
            }
            entries
        };
        compare(label, &entries(&old_sections), &entries(&new_sections), new, &mut found);
    }
    found
}

/// The keys of hooks, and the label of their tables.
const HOOKS: [(&str, &str); 3] =
    [("PreFlight", label::PRE_FLIGHT), ("OnSuccess", label::ON_SUCCESS), ("OnFailure", label::ON_FAILURE)];

/// All hooks, or checks, of one key as one value.
fn hooks(key: &'static str, label: &str, sections: &[Section]) -> Entry {
    let hooks: Vec<String> = sections
        .iter()
        .filter(|section| section.label == label)
        .map(|section| {
            let keys: Vec<String> = section
                .entries
                .iter()
                .filter_map(|entry| Some(format!("{} = {}", entry.key, value(entry)?)))
                .collect();
            format!("{{ {} }}", keys.join(", "))
        })
        .collect();
    Entry { key, shown: Shown::Value(format!("[{}]", hooks.join(", "))) }
}

/// Addresses of the new unit, then those that only the old one has.
fn addresses(old: &Unit, new: &Unit) -> Vec<Difference> {
    let has = |unit: &Unit, listen: &Listen| unit.listens().any(|(_, known)| same_endpoint(known, listen));
    let needs = needs_of_sockets(new);
    let row = |socket: &Socket, listen: &Listen, change| Difference::Socket {
        address: listen.address.to_string(),
        name: socket.name.clone(),
        change,
        needs: if change == SocketChange::Kept { Needs::Reload } else { needs },
    };
    let present = new.listens().map(|(socket, listen)| {
        let change = if has(old, listen) { SocketChange::Kept } else { SocketChange::Added };
        row(socket, listen, change)
    });
    let gone = old.listens().filter(|(_, listen)| !has(new, listen));
    present.chain(gone.map(|(socket, listen)| row(socket, listen, SocketChange::Dropped))).collect()
}

fn needs_of_sockets(new: &Unit) -> Needs {
    if new.reload.strategy == Strategy::Signal { Needs::Launch } else { Needs::Reload }
}

/// The keys of `socket`'s section but for its addresses.
fn entries_of(unit: &Unit, socket: &Socket, sections: &[Section]) -> Vec<Entry> {
    let index = unit.sockets.iter().position(|known| std::ptr::eq(known, socket));
    let section =
        sections.iter().filter(|section| section.label == label::SOCKET).nth(index.unwrap_or(usize::MAX));
    let entries = section.map(|section| section.entries.clone()).unwrap_or_default();
    entries.into_iter().filter(|entry| !entry.key.starts_with("Listen")).collect()
}

/// Adds each key whose value is not the same in both.
fn compare(table: &str, old: &[Entry], new: &[Entry], unit: &Unit, found: &mut Vec<Difference>) {
    let value_in =
        |entries: &[Entry], key: &str| entries.iter().find(|entry| entry.key == key).and_then(value);
    let only_old = old.iter().filter(|entry| !new.iter().any(|other| other.key == entry.key));
    for key in new.iter().chain(only_old).map(|entry| entry.key) {
        let (before, after) = (value_in(old, key), value_in(new, key));
        if before != after {
            let needs = needs(table, key, unit);
            found.push(Difference::Key { table: table.to_string(), key, old: before, new: after, needs });
        }
    }
}

/// A key's value, with or without effect.
fn value(entry: &Entry) -> Option<String> {
    match &entry.shown {
        Shown::Value(value) | Shown::Void(value) => Some(value.clone()),
        Shown::Unset => None,
    }
}

/// What a new value of `key` waits for, when `unit` is the new version.
fn needs(table: &str, key: &str, unit: &Unit) -> Needs {
    // A unit is known by its name; under another one it is another unit.
    if table == label::DAEMON || (table == label::UNIT && key == "Name") {
        return Needs::Restart;
    }
    let launch = (table == label::SERVICE && !WITHOUT_LAUNCH.contains(&key)) || table == label::STATE;
    let name = table.starts_with(label::SOCKET) && key == "FileDescriptorName";
    if unit.reload.strategy == Strategy::Signal && (launch || name) { Needs::Launch } else { Needs::Reload }
}

#[cfg(test)]
mod tests {
    use super::super::{Context, keys, parse};
    use super::*;

    fn unit(text: &str) -> Unit {
        let context = Context {
            stem: "app".into(),
            file: "app.toml".into(),
            runtime_dir: "/run/a".into(),
            pid1: false,
        };
        parse(text, &context).unwrap().unit
    }

    const OLD: &str = "[[Socket]]\nListenStream = [8080, 8081]\n[Service]\nExecStart = '/bin/a'\n";

    #[test]
    fn equal_units_differ_in_nothing() {
        let found = differences(&unit(OLD), &unit(OLD));
        assert!(found.iter().all(|one| matches!(one, Difference::Socket { change: SocketChange::Kept, .. })));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn changed_keys_and_addresses_are_named() {
        let new = unit(
            "[[Socket]]\nListenStream = ['[::]:8080', 9090]\nNoDelay = true\n[Service]\nExecStart = '/bin/b'\n\
             User = 'app'\nKillSignal = 'INT'\n[Reload]\nStrategy = 'signal'\nPreFlight = [{ Exec = '/bin/c' }]\n\
             [HealthCheck]\nTcpConnect = 8080\n[State]\nEnabled = true\nMaxBytes = 7\n[Daemon]\nLogLevel = 'debug'\n",
        );
        let found = differences(&unit(OLD), &new);
        let sockets: Vec<(&str, SocketChange, Needs)> = found
            .iter()
            .filter_map(|one| match one {
                Difference::Socket { address, change, needs, .. } => {
                    Some((address.as_str(), *change, *needs))
                }
                Difference::Key { .. } => None,
            })
            .collect();
        assert_eq!(
            sockets,
            [
                ("[::]:8080", SocketChange::Kept, Needs::Reload),
                ("9090", SocketChange::Added, Needs::Launch),
                ("8081", SocketChange::Dropped, Needs::Launch)
            ]
        );
        let key = |wanted: &str| {
            found.iter().find_map(|one| match one {
                Difference::Key { key, table, old, new, needs } if *key == wanted => {
                    Some((table.as_str(), old.as_deref(), new.as_deref(), *needs))
                }
                Difference::Key { .. } | Difference::Socket { .. } => None,
            })
        };
        assert_eq!(
            key("NoDelay"),
            Some(("[[Socket]] [::]:8080", Some("false"), Some("true"), Needs::Reload))
        );
        assert_eq!(
            key("ExecStart"),
            Some(("[Service]", Some("[\"/bin/a\"]"), Some("[\"/bin/b\"]"), Needs::Launch))
        );
        assert_eq!(key("User"), Some(("[Service]", None, Some("\"app\""), Needs::Launch)));
        assert_eq!(key("KillSignal").unwrap().3, Needs::Reload);
        assert_eq!(key("PreFlight").unwrap().1, Some("[]"));
        assert_eq!(key("TcpConnect"), Some(("[HealthCheck]", None, Some("\"8080\""), Needs::Reload)));
        assert_eq!(key("Enabled"), Some(("[State]", Some("false"), Some("true"), Needs::Launch)));
        assert_eq!(key("MaxBytes").map(|found| found.2), Some(Some("7")));
        assert_eq!(key("LogLevel").unwrap().3, Needs::Restart);
        assert_eq!(key("Backlog"), None);
    }

    #[test]
    fn keys_that_need_no_launch_exist() {
        for key in WITHOUT_LAUNCH {
            assert!(keys().contains(&(label::SERVICE, key)), "{key}");
        }
    }
}
