//! The check of the program before anything is launched: there, executable, of the right SHA-256.

use crate::daemon::core::{News, Report};
use crate::daemon::launch::{describe, not_found};
use crate::daemon::releases::Release;
use crate::daemon::shared::Shared;
use crate::machine::event::{Answer, Content, Event, Ticket};
use crate::sys::pin::Pin;
use crate::sys::spawn;
use crate::sys::wake::Waker;
use crate::sys::{clock, near};
use crate::time::Monotime;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

/// A check of a unit that is under way: it breaks off as soon as this is dropped.
#[derive(Debug)]
pub struct Checking(#[expect(dead_code, reason = "that it is there is what counts")] Arc<()>);

/// Checks on a thread of its own: a large program on a slow disk must not hold the loop up. It ends at the latest when
/// nobody waits for it any more.
pub fn check_binary(
    index: usize,
    ticket: Ticket,
    content: &Content,
    pin: Result<Option<Arc<Pin>>, String>,
    name: String,
    reports: Sender<Report>,
    waker: Waker,
) -> Checking {
    let id = content.id;
    let report = move |result| {
        // The daemon is ending if nobody listens.
        let event = Event::Answered(ticket, Answer::BinaryChecked { content: id, result });
        let _ = reports.send(Report { unit: index, news: News::Event(event) });
        waker.wake();
    };
    let wanted = content.unit.reload.binary_sha256.clone();
    let asked = Arc::new(());
    let until =
        Until { asked: Arc::downgrade(&asked), at: clock::now() + content.unit.service.timeout_start };
    let fallback = report.clone();
    let check = move || match (pin, wanted) {
        (Err(why), _) => Err(why),
        (Ok(Some(pin)), Some(wanted)) => check(&pin, &wanted, &until),
        (Ok(_), _) => Ok(()),
    };
    let spawned = std::thread::Builder::new().name(format!("check {name}")).spawn(move || report(check()));
    if let Err(error) = spawned {
        fallback(Err(format!("cannot start a thread to check the program: {error}")));
    }
    Checking(asked)
}

/// How long a file is read.
struct Until {
    /// Somebody waits for it.
    asked: Weak<()>,
    /// When nobody does any more, also if he has not said so.
    at: Monotime,
}

impl Until {
    fn is_over(&self) -> bool {
        self.asked.strong_count() == 0 || clock::now() >= self.at
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

fn check(pin: &Pin, wanted: &str, until: &Until) -> Result<(), String> {
    let shown = pin.name().display();
    let cannot = |error: std::io::Error| format!("cannot read {shown}: {}", describe(&error));
    let stamp = pin.stamp().map_err(cannot)?;
    let mut file = pin.read().map_err(cannot)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    loop {
        if until.is_over() {
            return Err(format!("{shown} was not read through in time: see TimeoutStartSec"));
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
    }
    let sum: [u8; 32] = hash.finalize().into();
    let have: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    if have != *wanted {
        return Err(format!(
            "{shown} is not the program that BinarySHA256 names: it has {have}, wanted is {wanted}"
        ));
    }
    // What it was like before it was read is what its processes look for.
    pin.has_sum(sum, stamp, clock::unix_time());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::checked::bytes_of;
    use crate::time::Span;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn program(text: &str) -> (tempfile::TempDir, Pin) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let pin = Pin::program(&path).unwrap();
        (folder, pin)
    }

    fn sum_of(text: &str) -> String {
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_file_without_end_is_read_until_nobody_waits_for_it() {
        let (folder, pin) = program("");
        // A hole of 8 exbibytes.
        let file = fs::File::options().write(true).open(folder.path().join("app")).unwrap();
        let largest = (40..63).rev().find(|bits| file.set_len(1 << bits).is_ok()).unwrap();
        assert!(largest > 40, "an hour of reading: 2^{largest}");
        let asked = Arc::new(());
        let wait = |asked: &Arc<()>, at| Until { asked: Arc::downgrade(asked), at };
        let told = check(&pin, &"0".repeat(64), &wait(&asked, clock::now() + Span::from_millis(20)));
        assert!(told.unwrap_err().contains("was not read through in time"));
        let forever = wait(&asked, Monotime(u64::MAX));
        let reads = std::thread::spawn(move || check(&pin, &"0".repeat(64), &forever));
        drop(asked);
        assert!(reads.join().unwrap().is_err());
    }

    #[test]
    fn what_was_read_is_known_until_anything_about_it_changes() {
        let (folder, pin) = program("one");
        let sum = bytes_of(&sum_of("one")).unwrap();
        let asked = Arc::new(());
        let until = Until { asked: Arc::downgrade(&asked), at: Monotime(u64::MAX) };
        check(&pin, &sum_of("one"), &until).unwrap();
        let stamp = pin.stamp().unwrap();
        assert!(
            !pin.is_known_by(&sum, &stamp),
            "it was written a moment ago, and may be again within one tick"
        );
        let later = clock::unix_time() + 60.0;
        pin.has_sum(sum, stamp, later);
        assert!(pin.is_known_by(&sum, &stamp) && !pin.is_known_by(&[0; 32], &stamp));
        // The same length, and the time of writing put back.
        let path = folder.path().join("app");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        while pin.stamp().unwrap() == stamp {
            fs::write(&path, "two").unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        }
        assert!(!pin.is_known_by(&sum, &pin.stamp().unwrap()));
        let told = check(&pin, &sum_of("one"), &until).unwrap_err();
        assert!(told.contains(&format!("it has {}", sum_of("two"))), "{told}");
    }
}
