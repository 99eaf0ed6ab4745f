//! `aeterna.yaml`: what the earlier Aeterna, written in Go, was configured with.

use super::super::value::split_words;
use super::draft::{Draft, Item, Origin, Table, toml_number, toml_text, toml_words};
use super::yaml::{self, Node, Value};
use super::{Finding, Work};

/// Where that version listened when nothing said so.
const PORT: &str = "8080";

/// What grows while the manifest is read.
struct Manifest<'w, 'a> {
    work: &'w mut Work<'a>,
    name: String,
    unit: Table,
    socket: Table,
    service: Table,
    environment: Table,
    reload: Table,
    pre_flight: Vec<Table>,
    on_success: Vec<Table>,
    on_failure: Vec<Table>,
    health: Table,
    state: Table,
    daemon: Table,
}

/// Which list of hooks.
#[derive(Clone, Copy)]
enum Hooks {
    PreFlight,
    OnSuccess,
    OnFailure,
}

/// Makes a unit of the one source; its name and the draft.
pub(super) fn import(work: &mut Work<'_>) -> Result<(String, Draft), Finding> {
    let (root, findings) = yaml::parse(&work.sources[0].text);
    for (line, message) in findings {
        work.warn(Origin { source: 0, line }, message);
    }
    let Value::Map(entries) = &root.value else {
        return Err(Finding::at_file(0, "is no map of keys and values"));
    };
    let mut manifest = Manifest {
        work,
        name: "aeterna".into(),
        unit: Table::new("[Unit]"),
        socket: Table::new("[[Socket]]"),
        service: Table::new("[Service]"),
        environment: Table::new("[Service.Environment]"),
        reload: Table::new("[Reload]"),
        pre_flight: Vec::new(),
        on_success: Vec::new(),
        on_failure: Vec::new(),
        health: Table::new("[HealthCheck]"),
        state: Table::new("[State]"),
        daemon: Table::new("[Daemon]"),
    };
    manifest.map("", entries);
    if !manifest.service.has("ExecStart") {
        return Err(Finding::at_file(0, "has no command: nothing to start"));
    }
    Ok(manifest.draft())
}

impl Manifest<'_, '_> {
    fn map(&mut self, path: &str, entries: &[(String, Node)]) {
        for (key, node) in entries {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            self.take(&path, node);
        }
    }

    /// One key. What is grouped under `service`, `orchestration` and so on may also stand by itself.
    fn take(&mut self, path: &str, node: &Node) {
        let origin = Origin { source: 0, line: node.line };
        let short = ["service.", "orchestration.", "observability.", "reload."]
            .iter()
            .fold(path, |path, group| path.strip_prefix(group).unwrap_or(path));
        match (short, &node.value) {
            (_, Value::Null) => {}
            (
                "service"
                | "orchestration"
                | "observability"
                | "reload"
                | "canary"
                | "startup"
                | "drain"
                | "post_process"
                | "canary.health_check"
                | "health_check"
                | "state_handoff"
                | "state",
                Value::Map(entries),
            ) => self.map(path, entries),
            ("name", Value::Scalar(name)) => {
                self.unit.set("Name", Item::of(toml_text(name), origin));
                self.name.clone_from(name);
            }
            ("version", _) => {}
            ("description", Value::Scalar(text)) => {
                self.unit.set("Description", Item::of(toml_text(text), origin));
            }
            ("command", _) => self.command("ExecStart", node, origin),
            ("env" | "environment", _) => self.env(node),
            ("listen" | "listeners" | "address" | "addresses" | "port" | "sockets", _) => self.listen(node),
            ("pre_flight", Value::List(hooks)) => self.hooks(Hooks::PreFlight, hooks),
            ("post_process.on_success" | "on_success", Value::List(hooks)) => {
                self.hooks(Hooks::OnSuccess, hooks);
            }
            ("post_process.on_failure" | "on_failure", Value::List(hooks)) => {
                self.hooks(Hooks::OnFailure, hooks);
            }
            ("state_handoff" | "state" | "state_handoff.enabled" | "state.enabled", Value::Scalar(text)) => {
                self.state.set("Enabled", Item::of(super::rules::flag(text), origin));
            }
            (_, Value::Scalar(text)) => self.scalar(path, short, text, origin),
            _ => self.nothing(path, origin),
        }
    }

    /// A key with a plain value.
    fn scalar(&mut self, path: &str, key: &str, text: &str, origin: Origin) {
        let value = Item::of(toml_text(&text.replace('%', "%%")), origin);
        let (table, key) = match key {
            "binary_path" => (&mut self.reload, "BinaryPath"),
            "working_dir" | "workdir" | "dir" | "cwd" => (&mut self.service, "WorkingDirectory"),
            "user" => (&mut self.service, "User"),
            "group" => (&mut self.service, "Group"),
            "strategy" => (&mut self.reload, "Strategy"),
            "mode" if text == "hot-relay" => return,
            "startup.warmup_delay" | "warmup_delay" => (&mut self.reload, "WarmupDelay"),
            "canary.soak_time" | "soak_time" => (&mut self.reload, "SoakTime"),
            "canary.enabled" => {
                if super::rules::flag(text) == "false" {
                    self.reload.set("Strategy", Item::of("\"immediate\"", origin));
                }
                return;
            }
            "drain.timeout" | "drain_timeout" => (&mut self.reload, "DrainTimeout"),
            "state_handoff.socket_path" | "state.socket_path" => (&mut self.state, "SocketPath"),
            "state_handoff.timeout" | "state.timeout" => (&mut self.state, "Timeout"),
            "metrics_port" => {
                let address = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_string() };
                let address = if address.contains(':') { address } else { format!("0.0.0.0:{address}") };
                return self.daemon.set("Http", Item::of(toml_text(&address), origin));
            }
            "log_level" => {
                return self.daemon.set("LogLevel", Item::of(toml_text(&text.to_lowercase()), origin));
            }
            _ => {
                let check = key.strip_prefix("canary.health_check.").or(key.strip_prefix("health_check."));
                match check.and_then(check_key) {
                    Some((key, true)) => return self.health.set(key, Item::of(toml_number(text), origin)),
                    Some((key, false)) => (&mut self.health, key),
                    None => return self.nothing(path, origin),
                }
            }
        };
        table.set(key, value);
    }

    fn nothing(&mut self, path: &str, origin: Origin) {
        self.work.warn(origin, format!("{path} has no equivalent; left out"));
    }

    /// A command as a list of words or as one string.
    fn words(&mut self, node: &Node) -> Option<Vec<String>> {
        let words = match &node.value {
            Value::List(items) => items.iter().map(text_of).collect(),
            Value::Scalar(text) => match split_words(text) {
                Ok(words) => Some(words.into_iter().map(|word| word.text).collect()),
                Err(why) => {
                    self.work.warn(Origin { source: 0, line: node.line }, why);
                    return None;
                }
            },
            Value::Null | Value::Map(_) => None,
        };
        // No variable was ever replaced there, and a percent sign was one.
        words.map(|words: Vec<String>| {
            words.iter().map(|word| word.replace('$', "$$").replace('%', "%%")).collect()
        })
    }

    fn command(&mut self, key: &str, node: &Node, origin: Origin) {
        match self.words(node) {
            Some(words) => self.service.set(key, Item::of(toml_words(&words), origin)),
            None => self.work.warn(origin, "a command is a list of words or one text; left out"),
        }
    }

    /// A list of `K=V`, or a map.
    fn env(&mut self, node: &Node) {
        let mut variables: Vec<(String, String, usize)> = Vec::new();
        match &node.value {
            Value::List(items) => {
                for item in items {
                    match text_of(item).as_deref().and_then(|text| text.split_once('=')) {
                        Some((name, value)) => variables.push((name.into(), value.into(), item.line)),
                        None => {
                            self.work.warn(
                                Origin { source: 0, line: item.line },
                                "a variable is written NAME=value; left out",
                            );
                        }
                    }
                }
            }
            Value::Map(entries) => {
                for (name, value) in entries {
                    variables.push((name.clone(), text_of(value).unwrap_or_default(), value.line));
                }
            }
            Value::Null | Value::Scalar(_) => {
                self.work.warn(Origin { source: 0, line: node.line }, "env is a list or a map; left out");
            }
        }
        for (name, value, line) in variables {
            let value = toml_text(&value.replace('%', "%%").replace("${", "$${"));
            let bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty();
            let name = if bare { name } else { toml_text(&name) };
            self.environment.set(&name, Item::of(value, Origin { source: 0, line }));
        }
    }

    /// Addresses as Go writes them: `:8080`, `127.0.0.1:80`, `tcp://…`, `unix:///path`.
    fn listen(&mut self, node: &Node) {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        for item in items {
            let origin = Origin { source: 0, line: item.line };
            let text = match &item.value {
                Value::Map(entries) => {
                    let address = |(key, _): &&(String, Node)| key == "address" || key == "listen";
                    entries.iter().find(address).and_then(|(_, node)| text_of(node))
                }
                _ => text_of(item),
            };
            let Some(text) = text else {
                self.work.warn(origin, "an address is a text such as \":8080\"; left out");
                continue;
            };
            let (key, text) =
                match text.split_once("://").or_else(|| text.split_once("unix:").map(|(_, p)| ("unix", p))) {
                    Some(("udp" | "unixgram", rest)) => ("ListenDatagram", rest.to_string()),
                    Some((_, rest)) => ("ListenStream", rest.to_string()),
                    None => ("ListenStream", text),
                };
            let text = text.strip_prefix(':').unwrap_or(&text);
            self.socket.push(key, Item::of(toml_number(text), origin));
        }
    }

    fn hooks(&mut self, which: Hooks, nodes: &[Node]) {
        for node in nodes {
            let origin = Origin { source: 0, line: node.line };
            let Value::Map(entries) = &node.value else {
                self.work.warn(origin, "a hook is a map with a command; left out");
                continue;
            };
            let mut table = Table::new(match which {
                Hooks::PreFlight => "[[Reload.PreFlight]]",
                Hooks::OnSuccess => "[[Reload.OnSuccess]]",
                Hooks::OnFailure => "[[Reload.OnFailure]]",
            });
            for (key, node) in entries {
                let origin = Origin { source: 0, line: node.line };
                match (key.as_str(), &node.value) {
                    ("name", Value::Scalar(name)) => {
                        table.set("Name", Item::of(toml_text(&name.replace('%', "%%")), origin));
                    }
                    ("command", _) => {
                        if let Some(words) = self.words(node) {
                            table.set("Exec", Item::of(toml_words(&words), origin));
                        }
                    }
                    ("timeout", Value::Scalar(time)) => {
                        table.set("Timeout", Item::of(toml_text(time), origin))
                    }
                    ("block_on_fail", Value::Scalar(flag)) => {
                        table.set("BlockOnFail", Item::of(super::rules::flag(flag), origin));
                    }
                    _ => self.nothing(&format!("hook.{key}"), origin),
                }
            }
            if !table.has("Exec") {
                self.work.warn(origin, "a hook without a command is left out");
                continue;
            }
            match which {
                Hooks::PreFlight => self.pre_flight.push(table),
                Hooks::OnSuccess => self.on_success.push(table),
                Hooks::OnFailure => self.on_failure.push(table),
            }
        }
    }

    fn draft(mut self) -> (String, Draft) {
        if !self.socket.has("ListenStream") && !self.socket.has("ListenDatagram") {
            self.socket.comments.push("The earlier version listened here, whatever its file said.".into());
            self.socket.imply("ListenStream", PORT);
        }
        let mut draft = Draft::default();
        draft.tables.extend([self.unit, self.socket, self.service, self.environment, self.reload]);
        draft.tables.extend(self.pre_flight);
        draft.tables.extend(self.on_success);
        draft.tables.extend(self.on_failure);
        draft.tables.extend([self.health, self.state, self.daemon]);
        (self.name, draft)
    }
}

/// A key of `health_check`, and whether it is a number.
fn check_key(key: &str) -> Option<(&'static str, bool)> {
    Some(match key {
        "http_get" => ("HttpGet", false),
        "tcp_connect" => ("TcpConnect", false),
        "interval" => ("Interval", false),
        "timeout" => ("Timeout", false),
        "initial_delay" => ("InitialDelay", false),
        "success_threshold" => ("SuccessThreshold", true),
        "failure_threshold" => ("FailureThreshold", true),
        _ => return None,
    })
}

/// A scalar's text.
fn text_of(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(text) => Some(text.clone()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}
