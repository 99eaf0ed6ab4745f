//! Procfiles: `NAME: COMMAND` lines, the command for a shell, its port in `$PORT`.

use super::super::value::split_words;
use super::draft::{Draft, Item, Origin, Table, toml_text, toml_words};
use super::{Finding, Work};
use std::net::{IpAddr, SocketAddr};

/// The first process's port, and how far the next one's is away: as foreman hands them out.
const FIRST_PORT: usize = 5000;
const PORT_STEP: usize = 100;

/// A line of a Procfile.
struct Process<'a> {
    name: &'a str,
    command: &'a str,
    line: usize,
    port: usize,
}

/// Makes a unit of one process of the Procfile; its name and the draft.
pub(super) fn import(work: &mut Work<'_>, wanted: Option<&str>) -> Result<(String, Draft), Finding> {
    let text = &work.sources[0].text;
    let (processes, strays) = processes(text);
    for line in strays {
        work.warn(Origin { source: 0, line }, "is no \"NAME: COMMAND\"; left out");
    }
    let default = processes.iter().find(|p| p.name == "web").or(processes.first());
    let chosen = match wanted {
        Some(name) => processes.iter().find(|process| process.name == name),
        None => default,
    };
    let Some(chosen) = chosen else {
        let names: Vec<&str> = processes.iter().map(|process| process.name).collect();
        let message = match wanted {
            Some(name) => format!("has no process \"{name}\"; there are: {}", names.join(", ")),
            None => "has no process".into(),
        };
        return Err(Finding::at_file(0, message));
    };
    for other in processes.iter().filter(|process| process.line != chosen.line) {
        let message = format!("\"{0}\" is a unit of its own: import it with --process {0}", other.name);
        work.warn(Origin { source: 0, line: other.line }, message);
    }
    Ok((chosen.name.to_string(), draft(chosen, work)))
}

/// The processes of a Procfile, and the lines that are none.
fn processes(text: &str) -> (Vec<Process<'_>>, Vec<usize>) {
    let mut found: Vec<Process<'_>> = Vec::new();
    let mut strays = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match trimmed.split_once(':') {
            Some((key, command))
                if !key.is_empty() && key.chars().all(name) && !command.trim().is_empty() =>
            {
                let port = FIRST_PORT + PORT_STEP * found.len();
                found.push(Process { name: key, command: command.trim(), line: index + 1, port });
            }
            _ => strays.push(index + 1),
        }
    }
    (found, strays)
}

fn draft(process: &Process<'_>, work: &mut Work<'_>) -> Draft {
    let origin = Origin { source: 0, line: process.line };
    let mut unit = Table::new("[Unit]");
    unit.imply("Name", toml_text(process.name));
    let mut socket = Table::new("[[Socket]]");
    let mut service = Table::new("[Service]");
    let mut environment = Table::new("[Service.Environment]");
    let mut reload = Table::new("[Reload]");
    service.set("ExecStart", Item::of(command(process.command), origin));
    let is_web = process.name == "web";
    let takes_port = process.command.contains("$PORT") || process.command.contains("${PORT");
    if process.name == "release" {
        work.warn(origin, "\"release\" runs once before a deployment and ends: a [[Reload.PreFlight]] of the other unit does so");
        service.imply("Type", "\"oneshot\"");
    } else if takes_port || is_web {
        service
            .comments
            .push("The program binds its address itself: aeternad takes the socket over as it does.".into());
        service.imply("InterceptBind", "true");
        match own_address(process).filter(|_| is_web) {
            Some(address) => {
                let message = format!(
                    "{address} is a guess from the command: if the program binds another address, change ListenStream"
                );
                work.warn(origin, message);
                socket.comments.push("A guess from the command: it has to be what the program binds.".into());
                socket.imply("ListenStream", toml_text(&address.to_string()));
            }
            None => {
                let message = format!(
                    "no address is sure, so there is no [[Socket]]: what the program binds is held from then on{}",
                    if sets_port(process.command) {
                        String::new()
                    } else {
                        format!("; PORT is {}, as foreman gives it out", process.port)
                    }
                );
                work.warn(origin, message);
            }
        }
    } else {
        reload.comments.push("No port: two generations at once may do the same work twice.".into());
        reload.imply("Strategy", "\"replace\"");
    }
    if (takes_port || is_web) && !sets_port(process.command) {
        environment.imply("PORT", toml_text(&process.port.to_string()));
    }
    Draft { comments: Vec::new(), tables: vec![unit, socket, service, environment, reload] }
}

/// Whether the command brings a `PORT` of its own: `PORT=3000 bundle …`.
fn sets_port(command: &str) -> bool {
    command.split_ascii_whitespace().any(|word| word.starts_with("PORT="))
}

/// The command as TOML: its words if no shell is needed for them, else a shell and the text.
fn command(text: &str) -> String {
    let needs_shell = text.contains(['|', '&', ';', '<', '>', '(', ')', '`', '*', '?', '~', '\\'])
        || text.contains("$(")
        || text.contains(":-")
        || (text.contains('$') && text.contains(['"', '\'']))
        || text.split_ascii_whitespace().next().is_some_and(|word| word.contains('='))
        || text.starts_with('$')
        || text.contains(" $");
    let words = split_words(text).ok().filter(|_| !needs_shell);
    match words {
        Some(words) => {
            let words: Vec<String> =
                words.into_iter().map(|word| braced(&word.text).replace('%', "%%")).collect();
            toml_words(&words)
        }
        None => {
            let simple = !text.contains([';', '&', '|', '(']) && !text.contains('=');
            let script = if simple { format!("exec {text}") } else { text.to_string() };
            // Variables are the shell's to replace.
            toml_words(&[":/bin/sh".into(), "-c".into(), script.replace('%', "%%")])
        }
    }
}

/// `$NAME` as `${NAME}`: inside a word only braces mark a variable.
fn braced(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if rest.starts_with('{') || end == 0 {
            out.push('$');
        } else {
            out.push_str(&format!("${{{}}}", &rest[..end]));
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// Options by which programs are told the address to bind, and the host or the port of it alone.
const BINDS: &[&str] = &[
    "-b",
    "--bind",
    "-bind",
    "--binding",
    "--listen",
    "-listen",
    "--address",
    "-address",
    "--addr",
    "-addr",
    "--http",
    "-http",
    "--http-address",
    "--http-socket",
];
const HOSTS: &[&str] =
    &["--host", "-host", "-H", "--hostname", "--ip", "-o", "-b", "--bind", "--binding", "--address"];
const PORTS: &[&str] = &["-p", "--port", "-port"];

/// The address that the command says its program binds, if it says so with host and port and only once: by an option
/// that is known for it, or by the port that is its own. What stands in a program's command is mostly others' addresses.
fn own_address(process: &Process<'_>) -> Option<SocketAddr> {
    // Of several programs any may be the one that listens.
    if process.command.contains(['|', '&', ';', '`', '\n']) {
        return None;
    }
    let words: Vec<&str> =
        process.command.split_ascii_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
    let port = process.port.to_string();
    let mut found: Vec<SocketAddr> = Vec::new();
    let (mut hosts, mut ports): (Vec<IpAddr>, Vec<u16>) = (Vec::new(), Vec::new());
    for (index, word) in words.iter().enumerate() {
        let (option, value) = match word.split_once('=').filter(|_| word.starts_with('-')) {
            Some((option, value)) => (option, value),
            None if word.starts_with('-') => (*word, words.get(index + 1).copied().unwrap_or_default()),
            None => ("", *word),
        };
        let given = with_port(value, &port);
        let is_bind = BINDS.contains(&option);
        // Behind another option it has been looked at already, as that option's value.
        let known = option.is_empty() && given != value;
        if is_bind || known {
            let bare = given.split_once("://").map_or(given.as_str(), |(_, rest)| rest);
            found.extend(
                bare.parse::<SocketAddr>().ok().filter(|address| is_own(address.ip()) && address.port() != 0),
            );
        }
        if HOSTS.contains(&option) {
            hosts.extend(given.trim_matches(['[', ']']).parse::<IpAddr>().ok().filter(|ip| is_own(*ip)));
        }
        if PORTS.contains(&option) {
            ports.extend(given.parse::<u16>().ok().filter(|port| *port != 0));
        }
    }
    if let ([host], [port]) = (hosts.as_slice(), ports.as_slice()) {
        found.push(SocketAddr::new(*host, *port));
    }
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] => Some(*one),
        _ => None,
    }
}

/// `text` with the process's port in it.
fn with_port(text: &str, port: &str) -> String {
    let mut text = text.to_string();
    while let Some((before, rest)) = text.split_once("${PORT:-") {
        let Some((_, after)) = rest.split_once('}') else { break };
        text = format!("{before}{port}{after}");
    }
    text.replace("${PORT}", port).replace("$PORT", port)
}

/// Whether a program that names this host means its own machine.
fn is_own(host: IpAddr) -> bool {
    host.is_loopback() || host.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(command: &str) -> Process<'_> {
        Process { name: "web", command, line: 1, port: 5000 }
    }

    #[test]
    fn addresses_are_taken_only_where_they_are_the_programs_own() {
        for (command, expected) in [
            ("python3 x.py 0.0.0.0:$PORT", Some("0.0.0.0:5000")),
            ("python3 x.py '127.0.0.1:${PORT:-80}'", Some("127.0.0.1:5000")),
            ("gunicorn -b 0.0.0.0:9000 app", Some("0.0.0.0:9000")),
            ("gunicorn --bind=[::]:$PORT app", Some("[::]:5000")),
            ("puma -b tcp://127.0.0.1:${PORT}", Some("127.0.0.1:5000")),
            ("uvicorn app:main --host 0.0.0.0 --port $PORT", Some("0.0.0.0:5000")),
            ("rails s -b 127.0.0.1 -p 3000", Some("127.0.0.1:3000")),
            ("rails s -p 3000", None),
            ("node x.js --port=8081", None),
            ("python -m x :7000", None),
            ("app --listen localhost:$PORT", None),
            ("app --redis localhost:6379", None),
            ("app --redis 127.0.0.1:6379", None),
            ("app --upstream=10.0.0.5:9092", None),
            ("app --bind 10.0.0.5:9092", None),
            ("xargs -P 4 app", None),
            ("docker run --mount /data:80", None),
            ("ssh -L 127.0.0.1:8080:db:80 h", None),
            ("tail -p 1", None),
            ("app -b 0.0.0.0:1 -b 127.0.0.1:2", None),
            ("proxy 127.0.0.1:$PORT & app -b 0.0.0.0:80", None),
            ("app --db postgres://h:5432/x", None),
            ("app -p $PORT", None),
            ("clock --at 5:30", None),
            ("app", None),
        ] {
            let found = own_address(&of(command)).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{command}");
        }
        assert!(sets_port("PORT=3000 bundle exec x") && sets_port("env PORT=1 x") && !sets_port("app $PORT"));
    }

    #[test]
    fn a_shell_is_started_only_where_one_is_needed() {
        for (text, expected) in [
            ("node a.js", r#"["node", "a.js"]"#),
            ("puma --port=$PORT", r#"["puma", "--port=${PORT}"]"#),
            ("a '1 2' 5%", r#"["a", "1 2", "5%%"]"#),
            ("a -p $PORT", r#"[":/bin/sh", "-c", "exec a -p $PORT"]"#),
            ("a && b", r#"[":/bin/sh", "-c", "a && b"]"#),
            ("X=1 a", r#"[":/bin/sh", "-c", "X=1 a"]"#),
        ] {
            assert_eq!(command(text), expected, "{text}");
        }
    }
}
