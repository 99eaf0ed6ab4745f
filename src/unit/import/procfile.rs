//! Procfiles: `NAME: COMMAND` lines, the command for a shell, its port in `$PORT`.

use super::super::value::split_words;
use super::draft::{Draft, Item, Origin, Table, toml_text, toml_words};
use super::{Finding, Work};

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
    let literal = literal_port(process.command);
    let takes_port = process.command.contains("$PORT") || process.command.contains("${PORT");
    let port = literal.map_or(process.port.to_string(), |port| port.to_string());
    if takes_port || literal.is_some() || process.name == "web" {
        environment.imply("PORT", toml_text(&port));
        socket
            .comments
            .push("The program binds this port itself: it is given the socket that is held.".into());
        socket.imply("ListenStream", port.clone());
        service.imply("InterceptBind", "true");
        if literal.is_none() {
            let message = format!("its port is {port}, as foreman gives it out; write another if it has one");
            work.warn(origin, message);
        }
    } else {
        reload.comments.push("No port: two generations at once may do the same work twice.".into());
        reload.imply("Strategy", "\"replace\"");
    }
    Draft { comments: Vec::new(), tables: vec![unit, socket, service, environment, reload] }
}

/// The command as TOML: its words if no shell is needed for them, else a shell and the text.
fn command(text: &str) -> String {
    let needs_shell = text.contains(['|', '&', ';', '<', '>', '(', ')', '`', '*', '?', '~', '\\'])
        || text.contains("$(")
        || text.contains(":-")
        || (text.contains('$') && text.contains(['"', '\'']))
        || text.split_ascii_whitespace().next().is_some_and(|word| word.contains('='))
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

/// A port that is written into the command: `-p 3000`, `--port=3000`, `0.0.0.0:3000`, `:3000`.
fn literal_port(command: &str) -> Option<u16> {
    let words: Vec<&str> = command.split_ascii_whitespace().collect();
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    words.iter().enumerate().find_map(|(index, word)| {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (*word, words.get(index + 1).copied()),
        };
        if ["-p", "--port", "-port", "-P"].contains(&option) {
            return value.and_then(port);
        }
        if word.contains("://") {
            return None;
        }
        let (host, tail) = word.rsplit_once(':')?;
        // 5:30 is a time.
        let is_number = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_digit());
        port(tail).filter(|_| !is_number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_where_they_are_written() {
        for (command, expected) in [
            ("rails s -p 3000", Some(3000)),
            ("node x.js --port=8081", Some(8081)),
            ("gunicorn -b 0.0.0.0:9000 app", Some(9000)),
            ("python -m x :7000", Some(7000)),
            ("app --db postgres://h:5432/x", None),
            ("app -p $PORT", None),
            ("clock --at 5:30", None),
            ("app", None),
        ] {
            assert_eq!(literal_port(command), expected, "{command}");
        }
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
