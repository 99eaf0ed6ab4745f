//! From the command line to a [`Command`], or to what is wrong with it and what was probably meant.

use super::args::{CommandSpec, Operands, OptionSpec, commands, find, global_options};
use super::command::{Command, Invocation, Past, Place, Question, Shell, Task};
use super::habits::unknown_command;
use crate::proto::control::Request;
use crate::proto::nearest::nearest;
use crate::time::Span;
use crate::unit::parse_signal;
use lexopt::{Arg, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// What is wrong with a command line: one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsageError(pub(super) String);

/// What was found on the command line, not yet made sense of.
#[derive(Default)]
struct Found {
    command: Option<&'static CommandSpec>,
    options: Vec<(&'static OptionSpec, String)>,
    operands: Vec<OsString>,
}

/// Reads the arguments that follow the program's name.
///
/// # Errors
/// A [`UsageError`] with a hint.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = Parser::from_args(arguments);
    let mut found = Found::default();
    while let Some(argument) = parser.next().map_err(|error| found.wrong(error.to_string()))? {
        let option = match argument {
            Arg::Value(value) => {
                found.take_value(value)?;
                continue;
            }
            Arg::Short(short) => found.short_option(short)?,
            Arg::Long(long) => found.long_option(long)?,
        };
        let value = match option.value {
            None => String::new(),
            Some(_) => {
                let value = parser.value().map_err(|error| found.wrong(error.to_string()))?;
                value
                    .into_string()
                    .map_err(|_| found.wrong(format!("the value of --{} is not UTF-8", option.long)))?
            }
        };
        found.options.push((option, value));
    }
    found.invocation()
}

impl Found {
    /// A message with the hint where to read on.
    fn wrong(&self, message: impl AsRef<str>) -> UsageError {
        let help =
            self.command.map_or("aeternactl help".to_string(), |c| format!("aeternactl help {}", c.name));
        UsageError(format!("{}\nTry \"{help}\".", message.as_ref()))
    }

    fn take_value(&mut self, value: OsString) -> Result<(), UsageError> {
        if self.command.is_some() {
            self.operands.push(value);
            return Ok(());
        }
        let name = value.to_string_lossy();
        self.command = Some(find(&name).ok_or_else(|| self.wrong(unknown_command(&name)))?);
        Ok(())
    }

    /// The options that may stand here.
    fn known(&self) -> impl Iterator<Item = &'static OptionSpec> {
        self.command.map_or(&[][..], |command| command.options).iter().chain(global_options())
    }

    fn short_option(&self, short: char) -> Result<&'static OptionSpec, UsageError> {
        let known = self.known().find(|option| option.short == Some(short));
        known.ok_or_else(|| self.wrong(format!("unknown option -{short}")))
    }

    fn long_option(&self, long: &str) -> Result<&'static OptionSpec, UsageError> {
        if let Some(option) = self.known().find(|option| option.long == long) {
            return Ok(option);
        }
        let elsewhere = |command: &&CommandSpec| command.options.iter().any(|option| option.long == long);
        let owner = commands().iter().find(elsewhere);
        let message = match (self.command, owner, nearest(long, self.known().map(|option| option.long))) {
            (None, Some(owner), _) => {
                format!("the option --{long} stands after its command: aeternactl {} --{long}", owner.name)
            }
            (_, _, Some(near)) => format!("unknown option --{long}: did you mean --{near}?"),
            (Some(command), Some(owner), None) => {
                format!("\"{}\" has no option --{long}; \"{}\" has one", command.name, owner.name)
            }
            (_, None, None) => format!("unknown option --{long}"),
        };
        Err(self.wrong(message))
    }

    fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(option, _)| option.long == long)
    }

    /// The option's value; its last one counts.
    fn value(&self, long: &str) -> Option<&str> {
        let of_this_name =
            |(option, value): &'_ &(&OptionSpec, String)| option.long == long && !value.is_empty();
        self.options.iter().rev().find(of_this_name).map(|(_, value)| value.as_str())
    }

    fn invocation(self) -> Result<Invocation, UsageError> {
        let place = Place {
            control: self.value("control").map(String::from),
            runtime_dir: self.value("runtime-dir").map(String::from),
        };
        for path in ["control", "runtime-dir", "host"] {
            if self.has(path) && self.value(path).is_none() {
                return Err(self.wrong(format!("--{path} is empty")));
            }
        }
        let json = self.has("json");
        let command = if self.has("help") {
            Command::Help { about: self.command }
        } else if self.has("version") {
            Command::OwnVersion
        } else {
            let spec = self
                .command
                .ok_or_else(|| self.wrong("no command; \"aeternactl status\" is a good start"))?;
            self.check_operands(spec)?;
            self.command(spec)?
        };
        let host = self.host(&command)?;
        Ok(Invocation { place, json, pager: !self.has("no-pager"), host, command })
    }

    /// Where else it is to be done, and the line for it there.
    fn host(&self, command: &Command) -> Result<Option<(String, Vec<OsString>)>, UsageError> {
        let Some(host) = self.value("host") else { return Ok(None) };
        if host.starts_with('-') || host.contains(char::is_whitespace) {
            return Err(self.wrong(format!("{host:?} is not a host; write HOST or USER@HOST")));
        }
        let here = match command {
            Command::Check { .. } | Command::Import { .. } => Some("reads files of this machine"),
            Command::Notify { .. } => Some("is for the process that runs it"),
            Command::Completions { shell } if *shell != Shell::Units => Some("is the same everywhere"),
            _ => None,
        };
        if let (Some(why), Some(spec)) = (here, self.command) {
            return Err(self.wrong(format!("\"{}\" {why}: leave --host out", spec.name)));
        }
        let mut words: Vec<OsString> = self.command.iter().map(|spec| spec.name.into()).collect();
        for (option, value) in self.options.iter().filter(|(option, _)| option.long != "host") {
            let value = if option.value.is_some() { format!("={value}") } else { String::new() };
            words.push(format!("--{}{value}", option.long).into());
        }
        if !self.operands.is_empty() {
            words.push("--".into());
            words.extend(self.operands.iter().cloned());
        }
        Ok(Some((host.to_owned(), words)))
    }

    /// Whether there are as many operands as the command takes.
    fn check_operands(&self, spec: &CommandSpec) -> Result<(), UsageError> {
        let (least, most) = match spec.operands {
            Operands::None => (0, 0),
            Operands::MaybeUnit | Operands::MaybeCommand => (0, 1),
            Operands::Unit | Operands::Shell => (1, 1),
            // `reload` says itself what is missing.
            Operands::Units => (0, usize::MAX),
            Operands::Files | Operands::Notices => (1, usize::MAX),
        };
        if self.operands.len() < least {
            return Err(self.wrong(format!("{} needs {}", spec.name, spec.operands.usage())));
        }
        match self.operands.get(most) {
            Some(extra) => Err(self.wrong(format!("one argument too many: {extra:?}"))),
            None => Ok(()),
        }
    }

    fn command(&self, spec: &'static CommandSpec) -> Result<Command, UsageError> {
        Ok(match spec.name {
            "status" => Command::Status { unit: self.maybe_unit()?, watch: self.has("watch") },
            "list" => Command::List { failed: self.has("failed") },
            "is-active" => self.is(Question::Active(self.unit()?)),
            "is-failed" => self.is(Question::Failed(self.unit()?)),
            "is-ready" => self.is(Question::Ready),
            "history" => Command::History { unit: self.unit()? },
            "show" => Command::Show { unit: self.unit()? },
            "edit" => Command::Edit { unit: self.unit()? },
            "cat" => Command::Cat { unit: self.unit()? },
            "events" => {
                Command::Events { unit: self.maybe_unit()?, past: self.past(!self.has("no-follow"))? }
            }
            "logs" => {
                let (unit, generation) = self.unit_and_generation()?;
                Command::Logs { unit, generation, past: self.past(self.has("follow"))? }
            }
            "reload" => Command::Task(self.reload()?),
            "load" => Command::Task(self.load()?),
            "promote" => self.task("promotion", |unit| Request::Promote { unit })?,
            "rollback" => {
                let to = self.generation("to")?;
                let dry_run = self.has("dry-run");
                self.task("rollback", |unit| Request::Rollback { unit, to, dry_run })?
            }
            "releases" => match self.generation("drop")? {
                None => Command::Releases { unit: self.unit()? },
                Some(generation) => self.task("release", |unit| Request::DropRelease { unit, generation })?,
            },
            "start" => self.task("start", |unit| Request::Start { unit })?,
            "stop" => self.task("stop", |unit| Request::Stop { unit, close: self.has("close") })?,
            "restart" => self.task("restart", |unit| Request::Restart { unit })?,
            "kill" => self.kill()?,
            "page" => Command::Task(Task {
                request: Request::Page,
                name: "the page".into(),
                see: "aeternactl status".into(),
                timeout: None,
                drained: false,
            }),
            "upgrade" => Command::Task(self.upgrade()?),
            "check" => Command::Check { files: self.operands.iter().map(PathBuf::from).collect() },
            "import" => Command::Import {
                files: self.operands.iter().map(PathBuf::from).collect(),
                process: self.value("process").map(String::from),
            },
            "notify" => self.notify()?,
            "doctor" => Command::Doctor,
            "version" => Command::Version,
            "completions" => Command::Completions { shell: self.shell()? },
            _ => Command::Help { about: self.maybe_command()? },
        })
    }

    fn notify(&self) -> Result<Command, UsageError> {
        let lines = self.texts()?;
        if lines == ["-"] {
            return Ok(Command::Notify { message: None });
        }
        let has_key = |line: &String| line.split_once('=').is_some_and(|(key, _)| !key.is_empty());
        match lines.iter().find(|line| !has_key(line) || line.contains('\n')) {
            Some(wrong) => Err(self.wrong(format!("{wrong:?} is not KEY=VALUE, such as READY=1"))),
            None => Ok(Command::Notify { message: Some(lines.join("\n")) }),
        }
    }

    fn is(&self, question: Question) -> Command {
        Command::Is { question, quiet: self.has("quiet") }
    }

    /// The operands as text.
    fn texts(&self) -> Result<Vec<String>, UsageError> {
        let text = |operand: &OsString| match operand.to_str() {
            Some("") => Err(self.wrong("an empty argument where a name belongs")),
            Some(text) => Ok(text.to_string()),
            None => Err(self.wrong(format!("{operand:?} is not UTF-8"))),
        };
        self.operands.iter().map(text).collect()
    }

    fn maybe_unit(&self) -> Result<Option<String>, UsageError> {
        Ok(self.texts()?.pop())
    }

    fn unit(&self) -> Result<String, UsageError> {
        self.maybe_unit()?.ok_or_else(|| self.wrong("no unit"))
    }

    fn maybe_command(&self) -> Result<Option<&'static CommandSpec>, UsageError> {
        let Some(name) = self.maybe_unit()? else { return Ok(None) };
        // Not "aeternactl help help": the list of commands is what helps.
        let unknown = || UsageError(format!("{}\nTry \"aeternactl help\".", unknown_command(&name)));
        find(&name).map(Some).ok_or_else(unknown)
    }

    fn shell(&self) -> Result<Shell, UsageError> {
        match self.unit()?.as_str() {
            "bash" => Ok(Shell::Bash),
            "zsh" => Ok(Shell::Zsh),
            "fish" => Ok(Shell::Fish),
            "units" => Ok(Shell::Units),
            other => {
                Err(self.wrong(format!("there are completions for bash, zsh and fish, not for {other:?}")))
            }
        }
    }

    /// A task for one unit.
    fn task(&self, noun: &str, request: impl FnOnce(String) -> Request) -> Result<Command, UsageError> {
        let unit = self.unit()?;
        Ok(Command::Task(Task {
            name: format!("the {noun} of {unit}"),
            see: format!("aeternactl status {unit}"),
            request: request(unit),
            timeout: None,
            drained: false,
        }))
    }

    fn reload(&self) -> Result<Task, UsageError> {
        let (units, all) = (self.texts()?, self.has("all"));
        if units.is_empty() && !all {
            return Err(self.wrong("reload which unit? Name one or more, or use --all"));
        }
        if all && !units.is_empty() {
            return Err(self.wrong(format!("both --all and {:?}: only one of them can be meant", units[0])));
        }
        let (name, see) = match units.as_slice() {
            [unit] => (format!("the reload of {unit}"), format!("aeternactl status {unit}")),
            [] => ("the reload of all units".into(), "aeternactl status".into()),
            several => (format!("the reload of {}", several.join(", ")), "aeternactl status".into()),
        };
        let timeout = self.timeout()?;
        let drained = self.until_drained()?;
        if !self.has("dry-run") {
            let reason = self.value("reason").unwrap_or_default().to_string();
            let (wait, force) = (!self.has("no-wait"), self.has("force"));
            let request = Request::Reload { units, all, wait, force, reason };
            return Ok(Task { request, name, see, timeout, drained });
        }
        if let Some(other) = ["force", "no-wait", "wait"].iter().find(|option| self.has(option)) {
            return Err(
                self.wrong(format!("--dry-run does nothing that --{other} could be about: leave one out"))
            );
        }
        Ok(Task { request: Request::DryRun { units, all }, name, see, timeout, drained })
    }

    /// `--wait=drained`.
    fn until_drained(&self) -> Result<bool, UsageError> {
        let drained = match self.value("wait") {
            None if self.has("wait") => return Err(self.wrong("--wait is empty")),
            None => return Ok(false),
            Some("promoted") => false,
            Some("drained") => true,
            Some(other) => {
                return Err(self.wrong(format!("--wait is \"promoted\" or \"drained\", not {other:?}")));
            }
        };
        if self.has("no-wait") {
            return Err(self.wrong("both --wait and --no-wait: only one of them can be meant"));
        }
        Ok(drained)
    }

    fn past(&self, follow: bool) -> Result<Past, UsageError> {
        let lines = match self.value("lines") {
            None if self.has("lines") => return Err(self.wrong("--lines is empty")),
            None => None,
            Some(text) => {
                let number =
                    text.parse().map_err(|_| self.wrong(format!("--lines: {text:?} is no number")))?;
                Some(number)
            }
        };
        let within = match self.value("since") {
            None if self.has("since") => return Err(self.wrong("--since is empty")),
            None => None,
            Some(text) => {
                let text = text.trim_start_matches('-').trim_end_matches(" ago");
                Some(text.parse().map_err(|error| {
                    self.wrong(format!("--since is how long ago, such as \"10min\": {error}"))
                })?)
            }
        };
        Ok(Past { lines, within, follow })
    }

    /// `UNIT`, `UNIT/3`, or `--generation 3`.
    fn unit_and_generation(&self) -> Result<(String, Option<u32>), UsageError> {
        let number = |text: &str| {
            text.parse().map_err(|_| self.wrong(format!("{text:?} is not a generation's number")))
        };
        let by_option = self.value("generation").map(number).transpose()?;
        let unit = self.unit()?;
        match (unit.split_once('/'), by_option) {
            (Some(_), Some(_)) => {
                Err(self.wrong(format!("both {unit:?} and --generation name a generation")))
            }
            (Some((unit, text)), None) => Ok((unit.to_owned(), Some(number(text)?))),
            (None, generation) => Ok((unit, generation)),
        }
    }

    fn load(&self) -> Result<Task, UsageError> {
        let (wait, dry_run) = (!self.has("no-wait"), self.has("dry-run"));
        let (name, see) = ("the load of all unit files".into(), "aeternactl status".into());
        Ok(Task {
            request: Request::Load { wait, dry_run },
            name,
            see,
            timeout: self.timeout()?,
            drained: false,
        })
    }

    fn upgrade(&self) -> Result<Task, UsageError> {
        let program = self.value("program").map(|path| {
            // aeternad has another working directory.
            let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
            path.to_str().map(String::from).ok_or_else(|| self.wrong("--program is no UTF-8"))
        });
        let timeout = self.timeout()?.map(Span::as_secs_f64);
        let request = Request::Upgrade { program: program.transpose()?, check: self.has("check"), timeout };
        let (name, see) = ("the upgrade".into(), "aeternactl version".into());
        Ok(Task { request, name, see, timeout: None, drained: false })
    }

    fn timeout(&self) -> Result<Option<Span>, UsageError> {
        if !self.has("timeout") {
            return Ok(None);
        }
        let text = self.value("timeout").unwrap_or_default();
        let span: Span = text.parse().map_err(|error| self.wrong(format!("--timeout: {error}")))?;
        if span.is_zero() {
            return Err(self.wrong("--timeout is 0; not to wait at all is --no-wait"));
        }
        Ok(Some(span).filter(|span| !span.is_infinite()))
    }

    /// The number that an option names.
    fn generation(&self, option: &str) -> Result<Option<u32>, UsageError> {
        match self.value(option) {
            None if self.has(option) => Err(self.wrong(format!("--{option} is empty"))),
            None => Ok(None),
            Some(text) => {
                let number = text.parse::<u32>().ok().filter(|number| *number > 0);
                number.map(Some).ok_or_else(|| self.wrong(format!("{text:?} is not a generation: 1, 2, 3…")))
            }
        }
    }

    fn kill(&self) -> Result<Command, UsageError> {
        let name = self.value("signal").unwrap_or(if self.has("signal") { "" } else { "SIGTERM" });
        let signal = parse_signal(&name.to_ascii_uppercase())
            .ok_or_else(|| self.wrong(format!("{name:?} is not a signal; write SIGHUP, HUP or 1")))?;
        let generation = self.generation("generation")?;
        self.task("signal", |unit| Request::Kill { unit, signal, generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn command(line: &str) -> Command {
        read(line).unwrap().command
    }

    fn wrong(line: &str) -> String {
        read(line).unwrap_err().0
    }

    fn request(line: &str) -> Request {
        match command(line) {
            Command::Task(task) => task.request,
            other => panic!("{line} is read as {other:?}"),
        }
    }

    #[test]
    fn every_command_is_read() {
        for (line, expected) in [
            ("status", Command::Status { unit: None, watch: false }),
            ("status a --watch", Command::Status { unit: Some("a".into()), watch: true }),
            ("is-active a", Command::Is { question: Question::Active("a".into()), quiet: false }),
            ("is-failed -q a", Command::Is { question: Question::Failed("a".into()), quiet: true }),
            ("is-ready --quiet", Command::Is { question: Question::Ready, quiet: true }),
            ("history a", Command::History { unit: "a".into() }),
            ("releases a", Command::Releases { unit: "a".into() }),
            ("show a", Command::Show { unit: "a".into() }),
            ("cat a", Command::Cat { unit: "a".into() }),
            ("edit a", Command::Edit { unit: "a".into() }),
            ("list", Command::List { failed: false }),
            ("list-units --failed", Command::List { failed: true }),
            ("events", Command::Events { unit: None, past: Past::default() }),
            (
                "events a -n 5 --no-follow",
                Command::Events {
                    unit: Some("a".into()),
                    past: Past { lines: Some(5), within: None, follow: false },
                },
            ),
            (
                "logs a/3 -f --since 10min",
                Command::Logs {
                    unit: "a".into(),
                    generation: Some(3),
                    past: Past { lines: None, within: Some(Span::from_secs(600)), follow: true },
                },
            ),
            ("check x.toml y", Command::Check { files: vec!["x.toml".into(), "y".into()] }),
            ("version", Command::Version),
            ("--version", Command::OwnVersion),
            ("-V", Command::OwnVersion),
            ("help", Command::Help { about: None }),
            ("-h", Command::Help { about: None }),
            ("help kill", Command::Help { about: find("kill") }),
            ("kill --help", Command::Help { about: find("kill") }),
            ("doctor", Command::Doctor),
            ("completions fish", Command::Completions { shell: Shell::Fish }),
            ("completions units", Command::Completions { shell: Shell::Units }),
        ] {
            assert_eq!(command(line), expected, "{line}");
        }
    }

    #[test]
    fn every_task_is_read() {
        let unit = || "a".to_string();
        for (line, expected) in [
            ("promote a", Request::Promote { unit: unit() }),
            ("rollback a", Request::Rollback { unit: unit(), to: None, dry_run: false }),
            ("rollback a --to 3 --dry-run", Request::Rollback { unit: unit(), to: Some(3), dry_run: true }),
            ("releases a --drop=2", Request::DropRelease { unit: unit(), generation: 2 }),
            ("start a", Request::Start { unit: unit() }),
            ("stop a", Request::Stop { unit: unit(), close: false }),
            ("stop --close a", Request::Stop { unit: unit(), close: true }),
            ("restart a", Request::Restart { unit: unit() }),
            ("kill a", Request::Kill { unit: unit(), signal: 15, generation: None }),
            ("kill a -s hup", Request::Kill { unit: unit(), signal: 1, generation: None }),
            ("kill -sUSR1 a --generation=3", Request::Kill { unit: unit(), signal: 10, generation: Some(3) }),
            ("kill --signal RTMIN+3 a", Request::Kill { unit: unit(), signal: 37, generation: None }),
            ("page", Request::Page),
            ("upgrade", Request::Upgrade { program: None, check: false, timeout: None }),
        ] {
            assert_eq!(request(line), expected, "{line}");
        }
    }

    #[test]
    fn a_reload_has_many_options() {
        let reload = |units: &[&str], all, wait, force, reason: &str| Request::Reload {
            units: units.iter().map(ToString::to_string).collect(),
            all,
            wait,
            force,
            reason: reason.into(),
        };
        assert_eq!(request("reload a"), reload(&["a"], false, true, false, ""));
        let line = "reload --all --force --no-wait --reason fix --timeout 1min30s";
        assert_eq!(
            command(line),
            Command::Task(Task {
                request: reload(&[], true, false, true, "fix"),
                name: "the reload of all units".into(),
                see: "aeternactl status".into(),
                timeout: Some(Span::from_secs(90)),
                drained: false,
            })
        );
        assert_eq!(request("reload -- a --all"), reload(&["a", "--all"], false, true, false, ""));
        assert_eq!(request("reload a --dry-run"), Request::DryRun { units: vec!["a".into()], all: false });
        assert_eq!(request("reload --dry-run --all"), Request::DryRun { units: vec![], all: true });
        let Command::Task(task) = command("reload a --timeout infinity") else { panic!("not a task") };
        assert_eq!((task.name.as_str(), task.timeout), ("the reload of a", None));
    }

    #[test]
    fn global_options_stand_anywhere() {
        let expected = Place { control: Some("/s".into()), runtime_dir: Some("/d".into()) };
        for line in
            ["--control /s --runtime-dir=/d --json status", "status --json --control=/s --runtime-dir /d"]
        {
            let found = read(line).unwrap();
            assert_eq!((found.place, found.json), (expected.clone(), true), "{line}");
        }
    }

    #[test]
    fn another_machine_gets_the_same_line() {
        let found =
            read("--json -H root@web1 reload --reason=new --control /c --all --wait drained").unwrap();
        let (host, words) = found.host.unwrap();
        assert_eq!(host, "root@web1");
        assert_eq!(words, ["reload", "--json", "--reason=new", "--control=/c", "--all", "--wait=drained"]);
        let (_, words) = read("stop --host=web1 --close -- -a").unwrap().host.unwrap();
        assert_eq!(words, ["stop", "--close", "--", "-a"]);
        assert_eq!(read("status").unwrap().host, None);
        assert!(read("status").unwrap().pager && !read("status --no-pager").unwrap().pager);
    }

    #[test]
    fn a_slip_is_told_what_was_meant() {
        for (line, message) in [
            ("", "no command; \"aeternactl status\" is a good start\nTry \"aeternactl help\"."),
            ("relaod a", "unknown command \"relaod\": did you mean \"reload\"?\nTry \"aeternactl help\"."),
            ("top", "unknown command \"top\": did you mean \"status --watch\"?\nTry \"aeternactl help\"."),
            ("tsop a", "unknown command \"tsop\": did you mean \"stop\"?\nTry \"aeternactl help\"."),
            ("xtop a", "unknown command \"xtop\"\nTry \"aeternactl help\"."),
            (
                "daemon-reload",
                "unknown command \"daemon-reload\": did you mean \"load\"?\nTry \"aeternactl help\".",
            ),
            ("surgeon", "unknown command \"surgeon\"\nTry \"aeternactl help\"."),
            (
                "reload a --forse",
                "unknown option --forse: did you mean --force?\nTry \"aeternactl help reload\".",
            ),
            (
                "--watch status",
                "the option --watch stands after its command: aeternactl status --watch\nTry \"aeternactl help\".",
            ),
            (
                "start a --close",
                "\"start\" has no option --close; \"stop\" has one\nTry \"aeternactl help start\".",
            ),
            ("status -x", "unknown option -x\nTry \"aeternactl help status\"."),
            ("reload", "reload which unit? Name one or more, or use --all\nTry \"aeternactl help reload\"."),
            ("start", "start needs UNIT\nTry \"aeternactl help start\"."),
            ("start a b", "one argument too many: \"b\"\nTry \"aeternactl help start\"."),
        ] {
            assert_eq!(wrong(line), message, "{line}");
        }
    }

    #[test]
    fn a_wrong_value_is_refused() {
        for (line, part) in [
            ("kill a -s FOO", "\"FOO\" is not a signal"),
            ("kill a -s", "missing argument"),
            ("kill a --signal=", "is not a signal"),
            ("kill a --generation 0", "is not a generation"),
            ("kill a --generation=", "--generation is empty"),
            ("reload a --timeout soon", "--timeout: "),
            ("reload a --timeout=", "--timeout: an empty time"),
            ("reload a --timeout 0", "--no-wait"),
            ("reload a --all", "both --all and \"a\""),
            ("reload a --dry-run --force", "that --force could be about"),
            ("reload a --dry-run --no-wait", "that --no-wait could be about"),
            ("reload a --dry-run --wait=drained", "that --wait could be about"),
            ("reload a --wait=drained --no-wait", "both --wait and --no-wait"),
            ("reload a --wait=gone", "not \"gone\""),
            ("reload a --wait=", "--wait is empty"),
            ("-H -oProxyCommand=x status", "is not a host"),
            ("--host= status", "--host is empty"),
            ("-H web1 check a.toml", "reads files of this machine"),
            ("-H web1 completions bash", "is the same everywhere"),
            ("reload a --force=yes", "unexpected argument"),
            ("status --control=", "--control is empty"),
            ("completions tcsh", "not for \"tcsh\""),
            ("help nothing", "unknown command \"nothing\""),
        ] {
            let message = wrong(line);
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn every_command_of_the_table_is_its_own() {
        for spec in commands() {
            let operands = match spec.operands {
                Operands::Shell => " bash",
                Operands::None | Operands::MaybeCommand | Operands::MaybeUnit => "",
                Operands::Notices => " A=1",
                Operands::Unit | Operands::Units | Operands::Files => " a",
            };
            let found = command(&format!("{}{operands}", spec.name));
            let is_help = matches!(found, Command::Help { .. });
            assert_eq!(is_help, spec.name == "help", "{} is read as {found:?}", spec.name);
        }
    }
}
