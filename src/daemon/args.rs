//! The command line of `aeternad` (contract section 2). Reads arguments, touches nothing else.

use crate::error::{Fatal, exit};
use crate::proto::nearest::nearest;
use crate::unit::check_http_address;
use lexopt::{Arg, Parser, ValueExt};
use std::ffi::OsString;

/// `aeternad --help`.
pub const HELP: &str = "\
aeternad supervises services and replaces them without losing a connection.

Usage:
  aeternad --unit FILE... [options]                                supervise these units
  aeternad [options] [--listen [NAME=]ADDR...] [--intercept] -- COMMAND [ARG...]
                                                                   one unit without a file
  aeternad --check --unit FILE...                                  validate only

Options:
  --unit FILE...         unit files, or directories (all *.toml files in them)
  --listen [NAME=]ADDR   with COMMAND: bind ADDR and pass the socket to it, called NAME; repeatable
  --intercept            with COMMAND: hold the sockets that it binds itself, so that it can be replaced
  --check                print \"FILE: ok\" or every error (exit status 78), start nothing
  --show                 print the unit with every default filled in, start nothing
  --runtime-dir DIR      directory for the control socket, the lock and the services' sockets
  --control PATH         path of the control socket
  --http ADDR            serve metrics, status and a live page over HTTP: IP:PORT, PORT or /path
  --log-level LEVEL      error, warn, info, debug or trace
  --log-format FORMAT    text or json
  --version              print the version
  --help                 print this text

Environment: AETERNA_LOG (log filter, such as \"debug\" or \"aeterna=trace\"), AETERNA_RUNTIME_DIR.
Signals: HUP reload, TERM stop (after StopDelaySec), INT stop at once, a second TERM or INT kill,
         USR1 status to the log, USR2 replace aeternad's own program in place.
See also: aeternad(8), aeternactl(1), aeterna.unit(5).
";

/// What this invocation does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Supervise.
    Run,
    /// `--check`.
    Check,
    /// `--show`.
    Show,
    /// `--help`.
    Help,
    /// `--version`.
    Version,
}

/// A valid command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What this invocation does.
    pub mode: Mode,
    /// `--unit`: files and folders, in order.
    pub units: Vec<OsString>,
    /// `--listen`, in order.
    pub listen: Vec<String>,
    /// `--intercept`.
    pub intercept: bool,
    /// The words after `--`.
    pub command: Vec<String>,
    /// `--runtime-dir`.
    pub runtime_dir: Option<String>,
    /// `--control`.
    pub control: Option<String>,
    /// `--http`.
    pub http: Option<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<String>,
}

impl Args {
    fn new() -> Args {
        Args {
            mode: Mode::Run,
            units: Vec::new(),
            listen: Vec::new(),
            intercept: false,
            command: Vec::new(),
            runtime_dir: None,
            control: None,
            http: None,
            log_level: None,
            log_format: None,
        }
    }
}

/// Reads a command line without the program's name.
///
/// # Errors
/// Exit status 2, with what is wrong and a pointer to `--help`.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Args, Fatal> {
    let mut list: Vec<OsString> = arguments.into_iter().collect();
    let mut args = Args::new();
    // The service's own arguments are not ours to read.
    if let Some(at) = list.iter().position(|word| word == "--") {
        for word in list.split_off(at).into_iter().skip(1) {
            args.command.push(word.into_string().map_err(|word| usage(format!("{word:?} is not UTF-8")))?);
        }
        if args.command.is_empty() {
            return Err(usage("no command after \"--\""));
        }
    }
    let mut parser = Parser::from_args(list);
    while let Some(word) = next(&mut parser).map_err(usage)? {
        option(&mut args, &mut parser, &word).map_err(usage)?;
    }
    consistent(args)
}

/// A word of the command line, by itself: its value is still with the parser.
enum Word {
    Option(String),
    Argument(String),
}

fn next(parser: &mut Parser) -> Result<Option<Word>, lexopt::Error> {
    Ok(parser.next()?.map(|arg| match arg {
        Arg::Long(name) => Word::Option(name.to_owned()),
        Arg::Short('h') => Word::Option("help".to_owned()),
        Arg::Short('V') => Word::Option("version".to_owned()),
        Arg::Short(letter) => Word::Option(letter.to_string()),
        Arg::Value(value) => Word::Argument(value.to_string_lossy().into_owned()),
    }))
}

/// Takes one option and its values.
fn option(args: &mut Args, parser: &mut Parser, word: &Word) -> Result<(), lexopt::Error> {
    let name = match word {
        Word::Option(name) => name.as_str(),
        Word::Argument(text) => {
            let hint = "a unit file needs --unit, a command needs -- before it";
            return Err(format!("unexpected argument \"{text}\"; {hint}").into());
        }
    };
    match name {
        "unit" => args.units.extend(parser.values()?),
        "listen" => args.listen.push(parser.value()?.string()?),
        "intercept" => args.intercept = true,
        "check" => args.mode = Mode::Check,
        "show" => args.mode = Mode::Show,
        "runtime-dir" => args.runtime_dir = Some(parser.value()?.string()?),
        "control" => args.control = Some(parser.value()?.string()?),
        "http" => {
            let address = parser.value()?.string()?;
            check_http_address(&address)?;
            args.http = Some(address);
        }
        "log-level" => args.log_level = Some(word_of(parser, &["error", "warn", "info", "debug", "trace"])?),
        "log-format" => args.log_format = Some(word_of(parser, &["text", "json"])?),
        "version" => args.mode = Mode::Version,
        "help" => args.mode = Mode::Help,
        _ => return Err(unknown(name)),
    }
    Ok(())
}

/// An unknown option, with the nearest one that exists.
fn unknown(name: &str) -> lexopt::Error {
    const KNOWN: [&str; 12] = [
        "unit",
        "listen",
        "intercept",
        "check",
        "show",
        "runtime-dir",
        "control",
        "http",
        "log-level",
        "log-format",
        "version",
        "help",
    ];
    let dashes = if name.len() == 1 { "-" } else { "--" };
    match nearest(name, KNOWN) {
        Some(near) => format!("unknown option --{name}; did you mean --{near}?").into(),
        None => format!("unknown option {dashes}{name}").into(),
    }
}

/// A value that must be one of `words`.
fn word_of(parser: &mut Parser, words: &[&str]) -> Result<String, lexopt::Error> {
    let value = parser.value()?.string()?;
    if words.contains(&value.as_str()) {
        return Ok(value);
    }
    Err(format!("\"{value}\" is not one of {}", words.join(", ")).into())
}

/// Checks what only the whole command line shows.
fn consistent(args: Args) -> Result<Args, Fatal> {
    if matches!(args.mode, Mode::Help | Mode::Version) {
        return Ok(args);
    }
    if !args.listen.is_empty() && args.command.is_empty() {
        return Err(usage("--listen needs a command after --; a unit file has its own ListenStream"));
    }
    if args.units.is_empty() && args.command.is_empty() {
        return Err(usage("nothing to do: give --unit FILE, or a command after --"));
    }
    if !args.units.is_empty() && !args.command.is_empty() {
        return Err(usage("--unit and a command after -- exclude each other"));
    }
    if args.intercept && args.command.is_empty() {
        return Err(usage("--intercept needs a command after --; a unit file has InterceptBind"));
    }
    Ok(args)
}

/// A wrong command line.
fn usage(text: impl std::fmt::Display) -> Fatal {
    Fatal::new(exit::USAGE, format!("{text}\nTry \"aeternad --help\"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Result<Args, Fatal> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn unit_takes_every_argument_up_to_the_next_option() {
        let got = args("--unit a.toml b.toml --runtime-dir /x").unwrap();
        assert_eq!(got.units, ["a.toml", "b.toml"]);
        assert_eq!(got.runtime_dir.as_deref(), Some("/x"));
    }

    #[test]
    fn what_stands_behind_the_dashes_is_the_services() {
        let got = args("--listen 8080 -- server --unit x").unwrap();
        assert_eq!(got.command, ["server", "--unit", "x"]);
        assert_eq!(got.listen, ["8080"]);
    }

    #[test]
    fn wrong_lines_are_refused_with_status_2() {
        for line in [
            "",
            "--",
            "app.toml",
            "--unit",
            "--unit a -- b",
            "--listen 80",
            "--intercept --unit a",
            "--unti a",
            "--log-level loud --unit a",
            "--http somewhere --unit a",
        ] {
            let error = args(line).unwrap_err();
            assert_eq!(error.code, exit::USAGE, "{line}");
            assert!(error.text.contains("aeternad --help"), "{line}");
        }
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
        assert!(args("--units a").unwrap_err().text.contains("did you mean --unit?"));
    }
}
