//! `aeternactl`: arguments, one request, rendering.
//!
//! Talks to the daemon over its control socket and knows nothing else of it. Blocks; one thread, and a second
//! one that can end a wait.

#![forbid(unsafe_code)]

mod after;
pub mod args;
mod check;
mod client;
mod command;
mod completions;
mod doctor;
mod edit;
mod failure;
mod habits;
mod help;
mod import;
mod interrupt;
mod is;
mod keyboard;
mod logs;
mod notify;
mod output;
mod pager;
mod parse;
mod remote;
mod render;
mod show;
mod wait;
mod watch;

use crate::error::exit;
use crate::proto::control::Request;
use crate::sys::user;
use client::Target;
use command::{Command, Invocation, Shell};
use failure::Failure;
use output::Output;
use parse::parse;
use serde_json::{Value, json};

use std::process::ExitCode;

/// Runs `aeternactl` with the process's own arguments and streams (aeternactl(1)).
pub fn main() -> ExitCode {
    let mut output = Output::of_process();
    let status = match parse(std::env::args_os().skip(1)) {
        Ok(invocation) => run(&invocation, &mut output),
        Err(error) => {
            // Whoever reads objects gets one, however wrong the rest of the line is.
            if std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json") {
                output.json(&json!({"error": {"code": "usage", "message": error.0}}));
            } else {
                output.complain(&format!("aeternactl: {}", error.0));
            }
            exit::USAGE
        }
    };
    match output.failure().map(ToString::to_string) {
        None => ExitCode::from(status),
        Some(error) => {
            output.complain(&format!("aeternactl: cannot write the output: {error}"));
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// Carries a command out. The exit status.
fn run(invocation: &Invocation, output: &mut Output) -> u8 {
    if let Some((host, words)) = &invocation.host {
        return remote::run(host, words).unwrap_or_else(|failure| complain(invocation, &failure, output));
    }
    if invocation.pager && ends_by_itself(&invocation.command) {
        output.hold();
    }
    let result = dispatch(invocation, user::effective_uid(), output);
    output.release();
    result.unwrap_or_else(|failure| complain(invocation, &failure, output))
}

/// Says why it was not carried out. The exit status.
fn complain(invocation: &Invocation, failure: &Failure, output: &mut Output) -> u8 {
    if invocation.json {
        output.json(&failure.to_json());
    } else {
        output.complain(&format!("aeternactl: {}", failure.text()));
    }
    failure.exit_status()
}

/// Whether it shows something that is there, and that may be long: what a pager is for.
fn ends_by_itself(command: &Command) -> bool {
    match command {
        Command::Status { watch, .. } => !watch,
        Command::Events { past, .. } | Command::Logs { past, .. } => !past.follow,
        Command::Task(task) => matches!(
            task.request,
            Request::DryRun { .. }
                | Request::Rollback { dry_run: true, .. }
                | Request::Load { dry_run: true, .. }
        ),
        Command::List { .. }
        | Command::History { .. }
        | Command::Releases { .. }
        | Command::Show { .. }
        | Command::Cat { .. }
        | Command::Doctor
        | Command::Help { .. } => true,
        Command::Is { .. }
        | Command::Edit { .. }
        | Command::Check { .. }
        | Command::Import { .. }
        | Command::Version
        | Command::Notify { .. }
        | Command::OwnVersion
        | Command::Completions { .. } => false,
    }
}

fn dispatch(invocation: &Invocation, uid: u32, output: &mut Output) -> Result<u8, Failure> {
    let json = invocation.json;
    let target = Target::of(&invocation.place, uid);
    match &invocation.command {
        Command::Status { unit, watch: false } => show::status(&target, unit.as_deref(), json, output),
        Command::Status { unit, watch: true } => watch::watch(&target, unit.as_deref(), json, output),
        Command::List { failed } => show::show_list(&target, *failed, json, output),
        Command::Edit { unit } => edit::edit(&target, unit, json, output),
        Command::Is { question, quiet } => is::answer(&target, question, *quiet, json, output),
        Command::History { unit } => show::show_history(&target, unit, json, output),
        Command::Releases { unit } => show::show_releases(&target, unit, json, output),
        Command::Show { unit } => show::show_unit(&target, unit, json, output),
        Command::Cat { unit } => show::cat(&target, unit, json, output),
        Command::Events { unit, past } => show::events(&target, unit.as_deref(), past, json, output),
        Command::Logs { unit, generation, past } => {
            logs::logs(&target, (unit, *generation), past, json, output)
        }
        Command::Task(task) => wait::run(&target, task, json, output),
        Command::Version => show::version(&target, json, output),
        Command::Completions { shell: Shell::Units } => show::unit_names(&target, json, output),
        Command::Completions { shell } => {
            let script = completions::script(*shell);
            Ok(if json { object(&json!({"script": script}), output) } else { print(&script, output) })
        }
        Command::Check { files } => Ok(check::check(files, uid, json, output)),
        Command::Import { files, process } => import::import(files, process.as_deref(), json, output),
        Command::Notify { message } => notify::notify(message.as_deref(), json, output),
        Command::Doctor => Ok(doctor::doctor(&target, json, output)),
        Command::OwnVersion if json => Ok(object(&json!({"aeternactl": env!("CARGO_PKG_VERSION")}), output)),
        Command::Help { about } if json => Ok(object(&help::to_json(*about), output)),
        Command::OwnVersion => Ok(print(concat!("aeternactl ", env!("CARGO_PKG_VERSION"), "\n"), output)),
        Command::Help { about: None } => Ok(print(&help::overview(), output)),
        Command::Help { about: Some(command) } => Ok(print(&help::about(command), output)),
    }
}

fn object(value: &Value, output: &mut Output) -> u8 {
    output.json(value);
    exit::OK
}

fn print(text: &str, output: &mut Output) -> u8 {
    output.text(text);
    exit::OK
}
