//! A .service file and the .socket files that activate it.

use super::super::value::split_words_leniently;
use super::draft::{Draft, Item, Origin, Table, is_guard, toml_number, toml_text, toml_words, without};
use super::lines::{self, Assignment};
use super::rules::{self, Rule};
use super::specifiers::Names;
use super::streams::Streams;
use super::{Finding, Work};

/// One .socket file: addresses in their order, and what is set on all of them.
struct Socket {
    names: Names,
    description: String,
    listens: Vec<(String, Item)>,
    options: Table,
}

/// What the files say so far.
struct Import<'w, 'a> {
    work: &'w mut Work<'a>,
    /// What the unit is called after.
    called: Names,
    /// What the service's specifiers stand for.
    names: Names,
    /// Whether it is a unit of a user's manager.
    user: bool,
    description: Option<Item>,
    documentation: Vec<String>,
    service: Table,
    reload: Table,
    environment: Table,
    streams: Streams,
    sockets: Vec<Socket>,
    /// Whether a target wants the service: it starts with aeternad, not at the first connection.
    boots: bool,
    /// Keys that take rights away and could not be carried over, with the file that they stand in: a later line may
    /// still set them.
    lost: Vec<(Option<usize>, String, Finding)>,
}

/// Makes a unit of the sources; its name and the draft.
pub(super) fn import(work: &mut Work<'_>) -> Result<(String, Draft), Finding> {
    let files = Files::of(work)?;
    let accepts = files.accepts(work);
    // With Accept=yes the service is a template whose instances are connections: the socket gives the name.
    let named_by = if accepts { files.sockets.first().unwrap_or(&files.service) } else { &files.service };
    let called = Names::of(named_by);
    let name = called.name();
    let user = work.sources.iter().any(|source| source.file.contains("/systemd/user/"));
    let names = Names::of(&files.service).of_user(user).of_connections(accepts);
    let mut import = Import {
        work,
        called,
        names,
        user,
        description: None,
        documentation: Vec::new(),
        service: Table::new("[Service]"),
        reload: Table::new("[Reload]"),
        environment: Table::new("[Service.Environment]"),
        streams: Streams::default(),
        sockets: files.sockets.iter().map(|file| Socket::new(file, user)).collect(),
        boots: false,
        lost: Vec::new(),
    };
    import.read(&files);
    if import.service.has("User") {
        import.lost.retain(|(_, key, _)| key != "DynamicUser");
    }
    if let Some((_, _, finding)) = import.lost.pop() {
        return Err(finding);
    }
    Ok((name, import.draft(accepts)))
}

/// Which files there are.
struct Files {
    service: String,
    sockets: Vec<String>,
}

impl Files {
    fn of(work: &Work<'_>) -> Result<Files, Finding> {
        let mut names: Vec<(usize, String)> = Vec::new();
        for (index, source) in work.sources.iter().enumerate() {
            if !names.iter().any(|(_, name)| *name == source.name) {
                names.push((index, source.name.clone()));
            }
        }
        let mut service = None;
        let mut sockets = Vec::new();
        for (index, name) in names {
            if name.ends_with(".socket") {
                sockets.push(name);
            } else if !name.ends_with(".service") {
                return Err(Finding::at_file(index, "is neither a .service nor a .socket file"));
            } else if service.replace(name).is_some() {
                let message = "is a second service: a unit has one; import each with its sockets by itself";
                return Err(Finding::at_file(index, message));
            }
        }
        match service {
            Some(service) => Ok(Files { service, sockets }),
            None => Err(Finding::at_file(0, "has no service: name the .service file that it starts too")),
        }
    }

    /// Whether the sockets' last word on `Accept` is yes.
    fn accepts(&self, work: &Work<'_>) -> bool {
        let sockets = work.sources.iter().filter(|source| source.name.ends_with(".socket"));
        let mut assignments = sockets.flat_map(|source| lines::parse(&source.text).assignments);
        let last = assignments.rfind(|a| a.section == "Socket" && a.key == "Accept");
        last.is_some_and(|assignment| rules::flag(&assignment.value) == "true")
    }
}

impl Socket {
    fn new(file: &str, user: bool) -> Socket {
        Socket {
            names: Names::of(file).of_user(user),
            description: String::new(),
            listens: Vec::new(),
            options: Table::new("[[Socket]]"),
        }
    }

    /// Tables in which the addresses keep their order: a key that comes back after another begins a new table.
    fn tables(self) -> Vec<Table> {
        let mut tables: Vec<Table> = Vec::new();
        let mut last = String::new();
        for (key, item) in self.listens {
            let fits = tables.last().is_some_and(|table| last == key || !table.has(&key));
            if !fits {
                tables.push(Table::new("[[Socket]]"));
            }
            if let Some(table) = tables.last_mut() {
                table.push(&key, item);
            }
            last = key;
        }
        tables.iter_mut().for_each(|table| table.extend(&self.options));
        if let Some(first) = tables.first_mut().filter(|_| !self.description.is_empty()) {
            first.comments.push(self.description.replace("%%", "%"));
        }
        tables
    }
}

impl Import<'_, '_> {
    /// Reads every source, drop-ins after what they change.
    fn read(&mut self, files: &Files) {
        for (index, source) in self.work.sources.iter().enumerate() {
            let parsed = lines::parse(&source.text);
            for (line, stray) in parsed.strays {
                let message = format!("\"{stray}\" is no assignment in a section; left out");
                self.work.warn(Origin { source: index, line }, message);
            }
            let socket = files.sockets.iter().position(|name| *name == source.name);
            for assignment in parsed.assignments {
                let origin = Origin { source: index, line: assignment.line };
                self.take(socket, &assignment, origin, files);
            }
        }
    }

    fn take(&mut self, socket: Option<usize>, one: &Assignment, origin: Origin, files: &Files) {
        let rule = match (one.section.as_str(), socket) {
            ("Unit", _) => rules::of_unit(&one.key),
            ("Service", None) => rules::of_service(&one.key),
            ("Socket", Some(_)) => rules::of_socket(&one.key),
            ("Install", _) => return self.install(socket, one, origin),
            (section, _) if section.starts_with("X-") => Rule::Nothing("the section is for other programs"),
            _ => Rule::Nothing("there is no such section in this kind of file"),
        };
        self.lost.retain(|(place, key, _)| (*place, key) != (socket, &one.key));
        if one.key == "DynamicUser" && one.section == "Service" {
            return self.dynamic_user(one, origin);
        }
        if one.value.is_empty() && rules::keeps_what_was(&one.key) && !matches!(rule, Rule::Nothing(_)) {
            return self
                .work
                .warn(origin, format!("{}= is empty: systemd passes over it, and so is it here", one.key));
        }
        if let Rule::Nothing(why) = rule {
            return self.work.warn(origin, format!("{}={}: {why}", one.key, shortened(&one.value)));
        }
        // Lists of words go through the specifiers word by word, so that quoting is seen first.
        let names = socket.and_then(|index| self.sockets.get(index)).map_or(&self.names, |s| &s.names);
        let value = match names.translate(&one.value) {
            Ok(value) => value,
            Err(why) if is_guard(&one.key) => {
                let message = format!("{}={}: {why}; {}", one.key, shortened(&one.value), without(&one.key));
                return self.lost.push((socket, one.key.clone(), Finding::at(origin, message)));
            }
            Err(why) => return self.refuse(one, &why, origin),
        };
        if rule == Rule::Special {
            return self.special(socket, one, value, origin, files);
        }
        let Some(index) = socket.filter(|_| one.section == "Socket") else {
            if rule == Rule::Commands {
                return self.commands(one, origin);
            }
            return put(&mut self.service, rule, &one.key, value, origin);
        };
        let socket = &mut self.sockets[index];
        if rule != Rule::Listen {
            put(&mut socket.options, rule, &one.key, value, origin);
        } else if value.is_empty() {
            socket.listens.clear();
        } else {
            socket.listens.push((one.key.clone(), Item::of(toml_number(&value), origin)));
        }
    }

    fn refuse(&mut self, one: &Assignment, why: &str, origin: Origin) {
        self.work.warn(origin, format!("{}={} is not carried over: {why}", one.key, shortened(&one.value)));
    }

    fn install(&mut self, socket: Option<usize>, one: &Assignment, origin: Origin) {
        self.boots |= socket.is_none() && rules::boots(&one.key, &one.value);
        if let Some(why) = rules::of_install(&one.key, &one.value) {
            self.work.warn(origin, format!("{}={}: {why}", one.key, one.value));
        }
    }

    /// A user for the time that the service runs: without a User of its own it would be root.
    fn dynamic_user(&mut self, one: &Assignment, origin: Origin) {
        let why = "aeternad makes no users: make one for the service and name it in User";
        self.lost.retain(|(_, key, _)| key != "DynamicUser");
        if rules::flag(&one.value) == "true" {
            let message = format!("DynamicUser={}: {why}; {}", one.value, without("User"));
            self.lost.push((None, one.key.clone(), Finding::at(origin, message)));
        }
    }

    /// Options that are spelt or meant differently here.
    fn special(
        &mut self,
        socket: Option<usize>,
        one: &Assignment,
        value: String,
        origin: Origin,
        files: &Files,
    ) {
        match one.key.as_str() {
            "Description" => match socket.and_then(|index| self.sockets.get_mut(index)) {
                Some(socket) => socket.description = value,
                None => self.description = Some(Item::of(toml_text(&value), origin)),
            },
            "BusName" => self.work.warn(origin, format!("BusName={value}: nobody waits for a bus name")),
            "Documentation" => {
                self.documentation.extend(one.value.split_ascii_whitespace().map(str::to_string));
            }
            "Service" => {
                if value != files.service {
                    let other = &files.service;
                    self.work.warn(origin, format!("Service={value}: the unit starts {other} instead"));
                }
            }
            "TimeoutSec" => {
                for key in ["TimeoutStartSec", "TimeoutStopSec"] {
                    put(&mut self.service, Rule::Text, key, value.clone(), origin);
                }
            }
            "StartLimitInterval" | "StartLimitIntervalSec" => {
                put(&mut self.service, Rule::Text, "StartLimitIntervalSec", value, origin);
            }
            "StartLimitBurst" => put(&mut self.service, Rule::Number, "StartLimitBurst", value, origin),
            "ReloadSignal" => put(&mut self.reload, Rule::Text, "ReloadSignal", value, origin),
            "Environment" => self.environment(one, origin),
            "Type" => self.service_type(value, origin),
            "OOMPolicy" => put(&mut self.service, Rule::Text, "OOMPolicy", value, origin),
            "KillMode" if value == "none" => {
                self.service.set("KillMode", Item::of("\"process\"", origin));
                self.work.warn(origin, "KillMode=none: the main process is stopped, as with \"process\"");
            }
            "KillMode" => put(&mut self.service, Rule::Text, "KillMode", value, origin),
            "EnvironmentFile" if value.contains(['*', '?', '[']) => {
                self.refuse(one, "a pattern is no file here; name each file that is meant", origin);
            }
            "EnvironmentFile" => put(&mut self.service, Rule::Texts, "EnvironmentFile", value, origin),
            "BindIPv6Only" => {
                // systemd's older spelling.
                let value = match rules::flag(&value).as_str() {
                    "true" => "ipv6-only".into(),
                    "false" => "both".into(),
                    _ => value,
                };
                if let Some(socket) = socket.and_then(|index| self.sockets.get_mut(index)) {
                    put(&mut socket.options, Rule::Text, "BindIPv6Only", value, origin);
                }
            }
            key => self.streams.take(key, value, origin),
        }
    }

    fn service_type(&mut self, value: String, origin: Origin) {
        let why = match value.as_str() {
            "forking" => {
                "Type=forking: aeternad supervises the process that it starts; give the program its option to stay \
                 in the foreground"
            }
            "dbus" => "Type=dbus: nobody waits for a bus name; the service is up when it has been executed",
            "idle" => "Type=idle: nothing is waited for; the service is up when it has been executed",
            _ => return put(&mut self.service, Rule::Text, "Type", value, origin),
        };
        self.service.remove("Type");
        self.work.warn(origin, why);
    }

    /// `A=b "C=d e"`; an empty value takes every variable back.
    fn environment(&mut self, one: &Assignment, origin: Origin) {
        if one.value.is_empty() {
            self.environment = Table::new("[Service.Environment]");
            return;
        }
        let words = match split_words_leniently(&one.value) {
            Ok(words) => words,
            Err(why) => return self.refuse(one, &why, origin),
        };
        for word in words {
            let Some((name, value)) = word.text.split_once('=') else {
                self.refuse(one, &format!("\"{}\" has no \"=\"", word.text), origin);
                continue;
            };
            match self.names.translate(value) {
                // Values know no variables in systemd; here ${NAME} is one.
                Ok(value) => {
                    let item = Item::of(toml_text(&value.replace("${", "$${")), origin);
                    self.environment.set(&environment_key(name), item);
                }
                Err(why) => self.refuse(one, &why, origin),
            }
        }
    }

    /// One assignment's commands: several with ` ; ` between them, none if it is empty.
    fn commands(&mut self, one: &Assignment, origin: Origin) {
        if one.value.is_empty() {
            return self.service.remove(&one.key);
        }
        let words = match split_words_leniently(&one.value) {
            Ok(words) => words,
            Err(why) => return self.refuse(one, &why, origin),
        };
        for command in words.split(|word| word.written == ";").filter(|command| !command.is_empty()) {
            let translated: Result<Vec<String>, String> =
                command.iter().map(|word| self.names.translate(&word.text)).collect();
            let mut words = match translated {
                Ok(words) => words,
                Err(why) => return self.refuse(one, &why, origin),
            };
            let prefixes: String = words[0].chars().take_while(|c| "@-:+!|".contains(*c)).collect();
            let kept: String = prefixes.chars().filter(|c| "@-:".contains(*c)).collect();
            if prefixes.contains('|') {
                return self.refuse(one, "no shell is involved; name the shell in the command", origin);
            }
            if kept != prefixes {
                let program = &words[0];
                let why = format!("{}={program}: runs with the service's own user and privileges", one.key);
                self.work.warn(origin, why);
                words[0] = format!("{kept}{}", &words[0][prefixes.len()..]);
            }
            self.service.push(&one.key, Item::of(toml_words(&words), origin));
        }
    }

    /// Everything in its place.
    fn draft(mut self, accepts: bool) -> Draft {
        let mut draft = Draft::default();
        let has_sockets = self.sockets.iter().any(|socket| !socket.listens.is_empty());
        draft.comments.extend(self.documentation.iter().map(|place| format!("Documentation: {place}")));
        let mut unit = Table::new("[Unit]");
        if !self.called.is_template() {
            unit.imply("Name", toml_text(&self.called.name()));
        }
        if let Some(description) = self.description.take().filter(|item| item.toml != "\"\"") {
            unit.set("Description", description);
        }
        draft.tables.push(unit);
        for socket in std::mem::take(&mut self.sockets) {
            let name = socket.names.full_name();
            for mut table in socket.tables() {
                // What systemd calls a socket that has no name of its own.
                if !table.has("FileDescriptorName") && !accepts {
                    table.imply("FileDescriptorName", toml_text(&name));
                }
                draft.tables.push(table);
            }
        }
        self.finish_service(has_sockets, accepts);
        draft.tables.extend([self.service, self.environment, self.reload]);
        draft
    }

    /// What systemd means without saying it.
    fn finish_service(&mut self, has_sockets: bool, accepts: bool) {
        std::mem::take(&mut self.streams).settle(&mut self.service, self.work);
        if !self.service.has("WorkingDirectory") {
            self.service.imply("WorkingDirectory", if self.user { "\"~\"" } else { "\"/\"" });
        }
        if !self.service.has("PassEnvironment") {
            self.service.imply("PassEnvironment", "[]");
        }
        if has_sockets && !accepts {
            self.service.imply("StartOn", if self.boots { "\"boot\"" } else { "\"connection\"" });
        }
        let by_signal = self.service.has("ExecReload")
            || self.service.value("Type") == Some("\"notify-reload\"")
            || self.reload.has("ReloadSignal");
        if has_sockets || self.service.value("Type") == Some("\"oneshot\"") {
            return;
        }
        self.reload.comments.push("No socket is held: two generations would bind the same addresses.".into());
        self.reload.imply("Strategy", if by_signal { "\"signal\"" } else { "\"replace\"" });
    }
}

/// Puts a value under its key.
fn put(table: &mut Table, rule: Rule, key: &str, value: String, origin: Origin) {
    if value.is_empty() {
        return table.remove(key);
    }
    match rule {
        Rule::Number => table.set(key, Item::of(toml_number(&value), origin)),
        Rule::Flag => table.set(key, Item::of(rules::flag(&value), origin)),
        Rule::Texts => table.push(key, Item::of(toml_text(&value), origin)),
        Rule::Words => {
            // What is quoted wrongly is taken as it is: the parser has a say too.
            let words =
                split_words_leniently(&value).map(|words| words.into_iter().map(|word| word.text).collect());
            let plain = |_| value.split_ascii_whitespace().map(str::to_string).collect::<Vec<String>>();
            for word in words.unwrap_or_else(plain) {
                table.push(key, Item::of(toml_text(&word), origin));
            }
        }
        Rule::Text | Rule::Commands | Rule::Listen | Rule::Special | Rule::Nothing(_) => {
            table.set(key, Item::of(toml_text(&value), origin));
        }
    }
}

/// A variable's name as a key: bare where TOML allows it.
fn environment_key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if bare { name.to_string() } else { toml_text(name) }
}

/// A value that is not too long for a message.
fn shortened(value: &str) -> String {
    const ENOUGH: usize = 60;
    match value.char_indices().nth(ENOUGH) {
        Some((at, _)) => format!("{}…", &value[..at]),
        None => value.to_string(),
    }
}
