//! Commands that show something: status, history, events, version, and the names of the units.

use super::client::{Client, Next, Target};
use super::command::Past;
use super::failure::Failure;
use super::interrupt::Watch;
use super::output::Output;
use super::render::{detail, event, history, list, overview, releases};
use super::wait::lines;
use crate::error::exit;
use crate::proto::control::{Line, Reply, Request};
use crate::proto::status::{Status, UnitState};
use crate::sys::{clock, textfile};
use crate::unit::MAX_FILE;
use std::path::{Path, PathBuf};

/// `aeternactl status [UNIT]`.
pub(super) fn status(
    target: &Target,
    unit: Option<&str>,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let request = Request::Status { unit: unit.map(String::from) };
    let status = ask_status(&mut Client::ask(target, &request)?)?;
    if json {
        output.json(&status);
    } else {
        let text = page(&status, unit, output)?;
        output.text(&text);
    }
    let runs = unit.is_none_or(|name| status.units.iter().any(|unit| unit.name == name && unit.serves()));
    Ok(if runs { exit::OK } else { exit::NOT_SO })
}

/// The page of one unit, or of all.
pub(super) fn page(status: &Status, unit: Option<&str>, output: &Output) -> Result<String, Failure> {
    let Some(name) = unit else { return Ok(overview(status, output.look())) };
    let found = status.units.iter().find(|unit| unit.name == name);
    found.map(|unit| detail(unit, output.look())).ok_or_else(|| Failure::no_unit(name))
}

/// `aeternactl history UNIT`.
pub(super) fn show_history(
    target: &Target,
    unit: &str,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let reply = answer(&mut Client::ask(target, &Request::History { unit: unit.into() })?)?;
    let Reply::History { unit, reloads } = &reply else { return Err(unexpected()) };
    if json {
        output.json(&reply);
    } else {
        let text = history(unit, reloads, output.look());
        output.text(&text);
    }
    Ok(exit::OK)
}

/// `aeternactl releases UNIT`: what is kept to be gone back to.
pub(super) fn show_releases(
    target: &Target,
    unit: &str,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let status = ask_status(&mut Client::ask(target, &Request::Status { unit: Some(unit.into()) })?)?;
    let Some(found) = status.units.into_iter().find(|known| known.name == unit) else {
        return Err(Failure::no_unit(unit));
    };
    if json {
        output.json(&serde_json::json!({"unit": unit, "releases": found.releases}));
    } else {
        let text = releases(&found.releases, output.look());
        output.text(&text);
    }
    Ok(exit::OK)
}

/// `aeternactl show UNIT`: the content that serves, with every default.
pub(super) fn show_unit(target: &Target, unit: &str, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let reply = answer(&mut Client::ask(target, &Request::Show { unit: unit.into() })?)?;
    let Reply::Unit { text, .. } = &reply else { return Err(unexpected()) };
    if json {
        output.json(&reply)
    } else {
        output.text(&lines(text))
    }
    Ok(exit::OK)
}

/// `aeternactl list`.
pub(super) fn show_list(
    target: &Target,
    failed: bool,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let mut status = ask_status(&mut Client::ask(target, &Request::Status { unit: None })?)?;
    status.units.retain(|unit| !failed || unit.state == UnitState::Failed);
    if json {
        output.json(&serde_json::json!({"units": status.units}));
    } else {
        let text = list(&status.units, output.look());
        output.text(&text);
    }
    Ok(exit::OK)
}

/// The unit's file as aeternad names it, and how it is found from here.
pub(super) fn file_of(status: &Status, unit: &str) -> Result<(String, PathBuf), Failure> {
    let found = status.units.iter().find(|known| known.name == unit);
    let file = &found.ok_or_else(|| Failure::no_unit(unit))?.file;
    if file.is_empty() {
        return Err(Failure::Broken(format!(
            "{unit} has no file: it was given on aeternad's command line. \"aeternactl show {unit}\" prints it as a unit."
        )));
    }
    // A relative path is relative to where aeternad was started.
    Ok((file.clone(), Path::new("/proc").join(status.pid.to_string()).join("cwd").join(file)))
}

/// `aeternactl cat UNIT`: the file as it is now.
pub(super) fn cat(target: &Target, unit: &str, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let status = ask_status(&mut Client::ask(target, &Request::Status { unit: Some(unit.into()) })?)?;
    let (file, path) = file_of(&status, unit)?;
    let text = textfile::read(&path, MAX_FILE)
        .map_err(|error| Failure::Broken(format!("cannot read {file}: {}", textfile::why(&error))))?;
    if json {
        output.json(&serde_json::json!({"unit": unit, "file": file, "text": text}));
    } else {
        output.text(&lines(&format!("# {file}\n{text}")));
    }
    Ok(exit::OK)
}

/// `aeternactl events [UNIT]`: until it is interrupted, or nobody reads, or the daemon ends; or only those of the past.
pub(super) fn events(
    target: &Target,
    unit: Option<&str>,
    past: &Past,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let mut client = Client::ask(target, &past.events(unit, clock::unix_time()))?;
    let unread = until_unread(&client)?;
    loop {
        match next_event(&mut client) {
            Ok(Some(line)) if json => output.json(&line),
            Ok(Some(line)) => output.text(&event(&line, output.look())),
            Ok(None) => return Ok(exit::OK),
            Err(_) if unread.cause().is_some() => return Ok(exit::OK),
            Err(failure) => return Err(failure),
        }
        if output.is_closed() {
            return Ok(exit::OK);
        }
    }
}

/// Watches whether somebody still reads what a command without an end writes.
pub(super) fn until_unread(client: &Client) -> Result<Watch, Failure> {
    let watch = client.handle().and_then(Watch::until_unread);
    watch.map_err(|error| Failure::Broken(format!("cannot watch standard output: {error}")))
}

/// `aeternactl version`: that there is no daemon is no failure.
pub(super) fn version(target: &Target, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = match Client::ask(target, &Request::Version).and_then(|mut client| answer(&mut client)) {
        Ok(Reply::Version { version }) => Ok(version),
        Ok(_) => return Err(unexpected()),
        Err(Failure::NoDaemon(_)) => Err("not there"),
        Err(Failure::Denied(_)) => Err("not to be asked: permission denied"),
        Err(failure) => return Err(failure),
    };
    if json {
        output.json(&serde_json::json!({"aeternactl": own, "aeternad": daemon.ok()}));
    } else {
        let daemon = daemon.unwrap_or_else(|why| format!("{why} ({})", target.path.display()));
        output.text(&format!("aeternactl {own}\naeternad {daemon}\n"));
    }
    Ok(exit::OK)
}

/// The names of the units, a line each, for completions.
pub(super) fn unit_names(target: &Target, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let mut client = Client::ask(target, &Request::Status { unit: None })?;
    // A daemon that hangs must not hang the shell of whoever presses TAB.
    client.tick_every_second().map_err(|error| Failure::Broken(format!("cannot wait: {error}")))?;
    let status = ask_status(&mut client)?;
    let names: Vec<&str> = status.units.iter().map(|unit| unit.name.as_str()).collect();
    if json {
        output.json(&serde_json::json!({"units": names}));
    } else {
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        output.text(&lines);
    }
    Ok(exit::OK)
}

/// The answer to a [`Request::Status`] that was sent.
pub(super) fn ask_status(client: &mut Client) -> Result<Status, Failure> {
    match answer(client)? {
        Reply::Status(status) => Ok(*status),
        Reply::Reloads { .. }
        | Reply::Done { .. }
        | Reply::Changes { .. }
        | Reply::History { .. }
        | Reply::Upgrade(_)
        | Reply::Unit { .. }
        | Reply::Version { .. } => Err(unexpected()),
    }
}

/// The answer, past any events; a connection that ticks gives up at the first tick.
fn answer(client: &mut Client) -> Result<Reply, Failure> {
    loop {
        match client.next()? {
            Next::Line(Line::Event(_) | Line::Lines(_)) => {}
            Next::Tick => return Err(Failure::TimedOut("aeternad does not answer".into())),
            Next::Line(Line::Result(reply)) => return Ok(reply),
            Next::Line(Line::Error(refusal)) => return Err(Failure::Refused(refusal)),
            Next::End => {
                return Err(Failure::Broken("aeternad closed the connection before it answered".into()));
            }
        }
    }
}

/// The next event of a subscription; `None` if the daemon ended it in good order.
fn next_event(client: &mut Client) -> Result<Option<crate::proto::status::EventLine>, Failure> {
    loop {
        match client.next()? {
            Next::Line(Line::Event(event)) => return Ok(Some(event)),
            Next::Line(Line::Result(_)) => return Ok(None),
            Next::Line(Line::Error(refusal)) => return Err(Failure::Refused(refusal)),
            Next::Tick | Next::Line(Line::Lines(_)) => {}
            Next::End => {
                return Err(Failure::Broken("aeternad has closed the connection: it has ended".into()));
            }
        }
    }
}

fn unexpected() -> Failure {
    Failure::Broken("aeternad answered something else than was asked; is it of another version?".into())
}
