//! `aeternactl logs`: the last lines of a unit's output, and those that follow.

use super::client::{Client, Next, Target};
use super::command::Past;
use super::failure::Failure;
use super::output::Output;
use super::render::log_lines;
use super::show::until_unread;
use crate::error::exit;
use crate::proto::control::{Line, LogLines, Request};
use crate::sys::clock;
use serde_json::json;

/// With `-f` alone, this many lines of the past come first.
const BEFORE: u32 = 10;

/// Prints them, and with `-f` goes on until it is interrupted, or nobody reads, or the daemon ends.
pub(super) fn logs(
    target: &Target,
    (unit, generation): (&str, Option<u32>),
    past: &Past,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let since = past.since(clock::unix_time());
    let few = (past.follow && since.is_none()).then_some(BEFORE);
    let request = Request::Logs {
        unit: unit.into(),
        generation,
        lines: past.lines.or(few),
        since,
        follow: past.follow,
    };
    let mut client = Client::ask(target, &request)?;
    let unread = until_unread(&client)?;
    loop {
        match client.next() {
            Ok(Next::Line(Line::Lines(lines))) => show(&lines, json, output),
            Ok(Next::Line(Line::Error(refusal))) => return Err(Failure::Refused(refusal)),
            Ok(Next::Line(Line::Result(_)) | Next::End) => return Ok(exit::OK),
            Ok(Next::Line(Line::Event(_)) | Next::Tick) => {}
            Err(_) if unread.cause().is_some() => return Ok(exit::OK),
            Err(failure) => return Err(failure),
        }
        if output.is_closed() {
            return Ok(exit::OK);
        }
    }
}

fn show(lines: &LogLines, json: bool, output: &mut Output) {
    if !json {
        let text = log_lines(lines, output.look());
        return output.text(&text);
    }
    if lines.missing > 0 {
        output.json(&json!({"unit": lines.unit, "missing": lines.missing}));
    }
    for line in &lines.lines {
        let mut object = json!(line);
        object["unit"] = json!(lines.unit);
        output.json(&object);
    }
}
