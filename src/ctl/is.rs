//! Commands that answer by their exit status, as systemctl's do: is-active, is-failed, is-ready.

use super::client::{Client, Target};
use super::command::Question;
use super::failure::Failure;
use super::output::Output;
use super::show::ask_status;
use crate::error::exit;
use crate::proto::control::{RefusalCode, Request};
use serde_json::{Value, json};

/// Asks, prints a word for people, and answers by the exit status: 0, 3 if it is not so, 4 if there is no such unit.
pub(super) fn answer(
    target: &Target,
    question: &Question,
    quiet: bool,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let (so, text, object) = match found(target, question) {
        // Whoever asks about a unit asks with systemctl's statuses.
        Err(Failure::Refused(refusal)) if refusal.code == RefusalCode::NoSuchUnit => {
            let failure = Failure::Refused(refusal);
            match (json, quiet) {
                (true, _) => output.json(&failure.to_json()),
                (false, true) => {}
                (false, false) => output.complain(&format!("aeternactl: {}", failure.message())),
            }
            return Ok(exit::NOT_KNOWN);
        }
        found => found?,
    };
    if json {
        output.json(&object);
    } else if !quiet {
        output.text(&format!("{text}\n"));
    }
    Ok(if so { exit::OK } else { exit::NOT_SO })
}

/// Whether it is so, the word for it, and the same for programs.
fn found(target: &Target, question: &Question) -> Result<(bool, String, Value), Failure> {
    let unit = match question {
        Question::Active(unit) | Question::Failed(unit) => Some(unit.clone()),
        Question::Ready => None,
    };
    let mut client = Client::ask(target, &Request::Status { unit: unit.clone() })?;
    let status = ask_status(&mut client)?;
    let Some(name) = unit else {
        let why = status.unready();
        let text = why.as_ref().map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}"));
        return Ok((why.is_none(), text, json!({"ready": why.is_none(), "why": why})));
    };
    let unit = status.units.iter().find(|unit| unit.name == name).ok_or_else(|| Failure::no_unit(&name))?;
    let word = unit.state.active(unit.reloading);
    let so = if matches!(question, Question::Failed(_)) { word == "failed" } else { unit.serves() };
    Ok((so, word.to_owned(), json!({"unit": name, "active": word, "state": unit.state})))
}
