//! What several units of one aeternad must agree on: names and addresses of their own, one `[Daemon]`.

use super::overlap::{overlap, overlaps_http};
use super::{Address, DaemonSettings, Listen, Unit};
use std::fmt::Display;

/// A line for each thing that two of `units` both claim, or see differently.
pub fn clashes<'a>(units: impl IntoIterator<Item = &'a Unit>) -> Vec<String> {
    let units: Vec<&Unit> = units.into_iter().collect();
    let mut found = Vec::new();
    for (at, unit) in units.iter().enumerate() {
        for other in &units[..at] {
            found.extend(clash(other, unit));
        }
    }
    found.extend(quarrels(&units));
    found
}

/// A line for each thing that `unit` claims, or sees differently, and one of `others`, which agree among themselves.
pub fn clashes_of<'a>(unit: &Unit, others: impl IntoIterator<Item = &'a Unit>) -> Vec<String> {
    let mut found = Vec::new();
    for other in others {
        found.extend(clash(other, unit));
        found.extend(quarrels(&[other, unit]));
    }
    // What it sees differently than several is one mistake.
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|line| seen.insert(line.clone()));
    found
}

/// What two units both claim: a name, an address.
fn clash(one: &Unit, other: &Unit) -> Vec<String> {
    let mut found = Vec::new();
    if one.name == other.name {
        found.push(format!("two units are called \"{}\"; give one of them another [Unit] Name", one.name));
    }
    for (socket, listen) in other.listens().filter(|(_, listen)| !listen.any_port()) {
        if one.listens().any(|(_, have)| same_place(have, listen)) {
            found.push(format!(
                "the units \"{}\" and \"{}\" both listen on {}",
                one.name, other.name, listen.address
            ));
        } else if let Some((_, have)) = one.listens().find(|have| overlap(*have, (socket, listen))) {
            found.push(format!(
                "the units \"{}\" and \"{}\" cannot both listen: {} and {} overlap",
                one.name, other.name, have.address, listen.address
            ));
        }
    }
    found.extend(http_clash(one, other));
    found.extend(http_clash(other, one));
    found
}

/// What one unit wants of aeternad's own HTTP and another has as its socket. A unit that does both says it itself.
fn http_clash(asking: &Unit, holding: &Unit) -> Option<String> {
    let http = asking.daemon.http.as_ref()?;
    let (_, listen) = holding.listens().find(|(socket, listen)| overlaps_http(http, socket, listen))?;
    Some(format!(
        "[Daemon] Http in the unit \"{}\" is \"{http}\", and the unit \"{}\" listens on {}: give one of them another \
         address",
        asking.name, holding.name, listen.address
    ))
}

/// Whether only one of two sockets can be bound. A path is one file, whatever kind of socket it is.
fn same_place(one: &Listen, other: &Listen) -> bool {
    match (&one.address, &other.address) {
        (Address::Path(one), Address::Path(other)) => one == other,
        _ => super::same_endpoint(one, other),
    }
}

/// A key's value, if the unit sets it.
type Value = fn(&DaemonSettings) -> Option<String>;

/// The keys of `[Daemon]`.
const DAEMON_KEYS: [(&str, Value); 5] = [
    ("Http", |daemon| daemon.http.clone()),
    ("HttpTokenFile", |daemon| daemon.http_token_file.clone()),
    ("LogLevel", |daemon| daemon.log_level.clone()),
    ("LogFormat", |daemon| daemon.log_format.clone()),
    ("StopDelaySec", |daemon| daemon.stop_delay.map(|delay| delay.to_string())),
];

/// The keys of `[Daemon]` that have another value in `new` than in `old`: they wait for a restart of aeternad.
pub fn daemon_keys_that_differ(old: &DaemonSettings, new: &DaemonSettings) -> Vec<&'static str> {
    let differing = DAEMON_KEYS.iter().filter(|(_, value)| value(old) != value(new));
    differing.map(|(key, _)| *key).collect()
}

/// A line for each key of `[Daemon]` that two units set differently.
fn quarrels(units: &[&Unit]) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in DAEMON_KEYS {
        let mut first: Option<(&str, String)> = None;
        for (name, value) in units.iter().filter_map(|unit| Some((&unit.name, value(&unit.daemon)?))) {
            match &first {
                None => first = Some((name, value)),
                Some((_, said)) if *said == value => {}
                Some((earlier, said)) => found.push(quarrel(key, (earlier, said), (name, &value))),
            }
        }
    }
    found
}

fn quarrel(key: &str, first: (&str, &dyn Display), second: (&str, &dyn Display)) -> String {
    format!(
        "[Daemon] {key} is \"{}\" in the unit \"{}\" and \"{}\" in \"{}\"; there is one aeternad for all",
        first.1, first.0, second.1, second.0
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Context, parse};
    use super::*;

    fn unit(name: &str, text: &str) -> Unit {
        let context =
            Context { stem: name.into(), file: String::new(), runtime_dir: "/run".into(), pid1: false };
        parse(&format!("{text}\n[Service]\nExecStart = '/bin/a'\n"), &context).unwrap().unit
    }

    #[test]
    fn what_two_units_both_claim_is_named() {
        let all = [
            unit("a", "[Socket]\nListenStream = [8080, '/run/x', 0]\n[Daemon]\nStopDelaySec = 60"),
            unit("b", "[Socket]\nListenStream = ['[::]:8080', 0]\nListenDatagram = [8080, '/run/x']"),
            unit("a", "[Daemon]\nStopDelaySec = '1min'\nLogLevel = 'info'"),
            unit("c", "[Daemon]\nStopDelaySec = 3\nLogLevel = 'info'"),
        ];
        assert_eq!(
            clashes(&all),
            [
                "the units \"a\" and \"b\" both listen on [::]:8080",
                "the units \"a\" and \"b\" both listen on /run/x",
                "two units are called \"a\"; give one of them another [Unit] Name",
                "[Daemon] StopDelaySec is \"1min\" in the unit \"a\" and \"3s\" in \"c\"; there is one aeternad for all",
            ]
        );
        assert_eq!(clashes(&all[1..3]), [] as [&str; 0]);
        let of_last = clashes_of(&all[3], &all[..2]);
        assert_eq!(
            of_last,
            ["[Daemon] StopDelaySec is \"1min\" in the unit \"a\" and \"3s\" in \"c\"; there is one \
                              aeternad for all"]
        );
        let wide = [
            unit("a", "[Socket]\nListenStream = 8080"),
            unit("b", "[Socket]\nListenStream = '127.0.0.1:8080'"),
            unit("c", "[Daemon]\nHttp = '0.0.0.0:8080'"),
        ];
        assert_eq!(
            clashes(&wide),
            [
                "the units \"a\" and \"b\" cannot both listen: 8080 and 127.0.0.1:8080 overlap",
                "[Daemon] Http in the unit \"c\" is \"0.0.0.0:8080\", and the unit \"a\" listens on 8080: give one of them \
                 another address",
                "[Daemon] Http in the unit \"c\" is \"0.0.0.0:8080\", and the unit \"b\" listens on 127.0.0.1:8080: give one \
                 of them another address",
            ]
        );
    }
}
