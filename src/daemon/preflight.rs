//! The check of the program before anything is launched: there, executable, of the right SHA-256.

use crate::daemon::core::{News, Report};
use crate::daemon::environment::DEFAULT_PATH;
use crate::daemon::launch::{describe, not_found};
use crate::machine::event::{Answer, Content, Event, Ticket};
use crate::sys::spawn;
use crate::sys::wake::Waker;
use crate::unit::Unit;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::Sender;

/// Checks on a thread of its own: a large program on a slow disk must not hold the loop up.
pub fn check_binary(
    index: usize,
    ticket: Ticket,
    content: Content,
    name: String,
    reports: Sender<Report>,
    waker: Waker,
) {
    let id = content.id;
    let report = move |result| {
        // The daemon is ending if nobody listens.
        let event = Event::Answered(ticket, Answer::BinaryChecked { content: id, result });
        let _ = reports.send(Report { unit: index, news: News::Event(event) });
        waker.wake();
    };
    let unit = content.unit;
    let fallback = report.clone();
    let spawned =
        std::thread::Builder::new().name(format!("check {name}")).spawn(move || report(check(&unit)));
    if let Err(error) = spawned {
        fallback(Err(format!("cannot start a thread to check the program: {error}")));
    }
}

/// The program that would run.
///
/// # Errors
/// Why it cannot be executed.
pub fn found(unit: &Unit) -> Result<PathBuf, String> {
    let service = &unit.service;
    let own = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into());
    let set = service.environment.iter().rev().find(|(key, _)| key == "PATH").map(|(_, value)| value.clone());
    let path = set.unwrap_or(own);
    let directory = service.working_directory.as_ref().map(|folder| folder.path.as_str());
    let Some(word) = unit.reload.binary_path.as_ref().or_else(|| service.exec_start.first()?.argv.first())
    else {
        return Ok(PathBuf::new());
    };
    if word.contains('$') {
        // Known only when its variables are: the launch will tell.
        return Ok(PathBuf::new());
    }
    spawn::find_program(word, Some(&path), directory)
        .map_err(|error| format!("cannot execute {word}: {}", not_found(word, directory, &error)))
}

fn check(unit: &Unit) -> Result<(), String> {
    let path = found(unit)?;
    let Some(wanted) = &unit.reload.binary_sha256 else { return Ok(()) };
    let path = match &unit.service.working_directory {
        Some(folder) if path.is_relative() => PathBuf::from(&folder.path).join(path),
        _ => path,
    };
    let shown = path.display();
    let mut file =
        std::fs::File::open(&path).map_err(|error| format!("cannot read {shown}: {}", describe(&error)))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read {shown}: {}", describe(&error))),
        }
    }
    let have: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if have == *wanted {
        return Ok(());
    }
    Err(format!("{shown} is not the program that BinarySHA256 names: it has {have}, wanted is {wanted}"))
}
