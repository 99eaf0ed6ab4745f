//! The check of the program before anything is launched: there, executable, of the right SHA-256.

use crate::daemon::core::{News, Report};
use crate::daemon::launch::{describe, not_found};
use crate::daemon::releases::Release;
use crate::daemon::shared::Shared;
use crate::machine::event::{Answer, Content, Event, Ticket};
use crate::sys::near;
use crate::sys::pin::Pin;
use crate::sys::spawn;
use crate::sys::wake::Waker;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Checks on a thread of its own: a large program on a slow disk must not hold the loop up.
pub fn check_binary(
    index: usize,
    ticket: Ticket,
    content: &Content,
    pin: Result<Option<Arc<Pin>>, String>,
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
    let wanted = content.unit.reload.binary_sha256.clone();
    let fallback = report.clone();
    let check = move || match (pin, wanted) {
        (Err(why), _) => Err(why),
        (Ok(Some(pin)), Some(wanted)) => check(&pin, &wanted),
        (Ok(_), _) => Ok(()),
    };
    let spawned = std::thread::Builder::new().name(format!("check {name}")).spawn(move || report(check()));
    if let Err(error) = spawned {
        fallback(Err(format!("cannot start a thread to check the program: {error}")));
    }
}

/// The program that would run.
///
/// # Errors
/// Why it cannot be executed.
pub fn found(release: &Release, shared: &Shared) -> Result<Option<Arc<Pin>>, String> {
    let unit = &release.unit;
    let Some(word) =
        unit.reload.binary_path.as_ref().or_else(|| unit.service.exec_start.first()?.argv.first())
    else {
        return Ok(None);
    };
    if let Some(pin) = release.program(word) {
        return Ok(Some(Arc::clone(pin)));
    }
    let path = release.search_path(shared);
    let base = release.base();
    match spawn::pin_program(word, Some(&path), base.as_deref()) {
        Ok(pin) => Ok(Some(Arc::new(pin))),
        // Not held, and so not to be checked either.
        Err(error) if near::is_far(&error) && unit.reload.binary_sha256.is_none() => Ok(None),
        Err(error) => Err(format!("cannot execute {word}: {}", not_found(word, base.as_deref(), &error))),
    }
}

fn check(pin: &Pin, wanted: &str) -> Result<(), String> {
    let shown = pin.name().display();
    let cannot = |error: std::io::Error| format!("cannot read {shown}: {}", describe(&error));
    let mut file = pin.read().map_err(cannot)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
    }
    let have: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if have == *wanted {
        return Ok(());
    }
    Err(format!("{shown} is not the program that BinarySHA256 names: it has {have}, wanted is {wanted}"))
}
