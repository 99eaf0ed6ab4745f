//! Asking a program whether it could take over: it is run as a child with a state, restores all of it without a single
//! descriptor, and stores it again; only if that is the same, byte for byte, it says yes.
//!
//! A half-copied program, one of another architecture, another program, an older or newer aeternad that does not know
//! this state: all that is found out here, where nothing has happened yet.

use crate::daemon::saved::{self, Incoming};
use crate::sys::spawn::{self, Plan, Stage};
use crate::sys::wait::{self, WaitStatus};
use crate::sys::{capability, clock, fd, process, replace, signal, stream};
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

/// The first argument of a program that is asked.
pub const OPTION: &str = "--can-take-over";

/// The number of the state's descriptor there.
const STATE: i32 = 3;

/// What is read of an answer, bytes: one that never ends is none.
const MOST: usize = 64 * 1024;

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `aeternad`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// Why it cannot; nothing if it can.
    pub why: Option<String>,
}

/// A program that is being asked.
#[derive(Debug)]
pub struct Check {
    pid: i32,
    answer: File,
    said: Vec<u8>,
    is_over: bool,
    status: Option<WaitStatus>,
    shown: String,
}

impl Check {
    /// Runs it. Its output, what it complains about too, is its answer.
    ///
    /// # Errors
    /// It cannot be executed: why.
    pub fn begin(program: BorrowedFd<'_>, state: BorrowedFd<'_>, shown: &str) -> Result<Check, String> {
        let plain =
            |what: &str, error: &std::io::Error| format!("{what}: {}", crate::sys::textfile::why(error));
        let (source, sink) = fd::pipe().map_err(|error| plain("a pipe", &error))?;
        fd::set_blocking(source.as_fd(), fd::Blocking::No).map_err(|error| plain("a pipe", &error))?;
        let null = fd::dev_null().map_err(|error| plain("/dev/null", &error))?;
        // The very file that was opened, whatever its name stands for by now: the descriptor after the state's.
        let path = format!("/proc/self/fd/{}", STATE + 1);
        let word = |text: String| CString::new(text).map_err(|_| "there is a NUL byte in it".to_owned());
        let mut plan = Plan::new(word(path)?, [null.as_fd(), sink.as_fd(), sink.as_fd()]);
        plan.argv = vec![word("aeternad".into())?, word(OPTION.into())?];
        plan.env = spawn::own_environment();
        plan.fds = vec![state, program];
        let process = spawn::spawn(&plan).map_err(|error| {
            let why = crate::sys::textfile::why(&std::io::Error::from_raw_os_error(error.errno));
            match error.stage {
                Stage::Exec if !std::path::Path::new("/proc/self").exists() => {
                    "an upgrade needs /proc, which is not mounted here".to_owned()
                }
                Stage::Exec => format!("cannot execute {shown}: {why}"),
                _ => format!("cannot {}: {why}", error.stage.words()),
            }
        })?;
        Ok(Check {
            pid: process.pid,
            answer: source.into(),
            said: Vec::new(),
            is_over: false,
            status: None,
            shown: shown.to_owned(),
        })
    }

    /// What to wait on.
    pub fn answer_fd(&self) -> BorrowedFd<'_> {
        self.answer.as_fd()
    }

    /// Reads what is there. Whether nothing more will come.
    pub fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while !self.is_over {
            match self.answer.read(&mut buffer) {
                Ok(0) => self.is_over = true,
                Ok(count) => {
                    self.said.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    if self.said.len() > MOST {
                        // Whatever it is, it will not stop by itself.
                        let _ = process::kill(self.pid, SIGKILL);
                        self.is_over = true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_over = true,
            }
        }
        self.is_over
    }

    /// Whether a process that was reaped is this one.
    pub fn reaped(&mut self, pid: i32, status: WaitStatus) -> bool {
        let is_it = self.pid == pid && self.status.is_none();
        if is_it {
            self.status = Some(status);
        }
        is_it
    }

    /// What came of it, once it has ended and all that it said was read.
    pub fn verdict(&self) -> Option<Result<Verdict, String>> {
        let status = self.status.filter(|_| self.is_over)?;
        Some(verdict(&self.shown, status, &self.said))
    }

    /// Nobody wants to know any more.
    pub fn end(self) {
        if self.status.is_none() {
            // It leads a session of its own; it is reaped like anybody.
            let _ = process::kill(self.pid, SIGKILL);
        }
    }
}

/// SIGKILL.
const SIGKILL: i32 = 9;

/// Asks, and waits for the answer.
///
/// # Errors
/// Why it cannot take over.
pub fn ask(
    program: BorrowedFd<'_>,
    state: BorrowedFd<'_>,
    shown: &str,
    patience: Span,
) -> Result<Verdict, String> {
    let mut check = Check::begin(program, state, shown)?;
    let until = clock::now() + patience;
    while !check.read() {
        let [ready] = stream::wait([stream::Watch::read(&check.answer)], Some(until))
            .map_err(|error| format!("cannot wait for the new program: {error}"))?;
        if !ready.read {
            break;
        }
    }
    if !check.is_over {
        let _ = process::kill(check.pid, SIGKILL);
        let _ = wait::reap(check.pid);
        return Err(format!("{shown} has not said within {patience} whether it can take over; try again"));
    }
    // It has closed its output, so it ends now, or is made to.
    let status = wait::status_within(check.pid, until).unwrap_or_else(|| {
        let _ = process::kill(check.pid, SIGKILL);
        let _ = wait::reap(check.pid);
        WaitStatus::Signaled { signal: SIGKILL, core: false }
    });
    verdict(shown, status, &check.said)
}

fn verdict(shown: &str, status: WaitStatus, said: &[u8]) -> Result<Verdict, String> {
    let text = String::from_utf8_lossy(said);
    let answer = text.lines().rev().find_map(|line| serde_json::from_str::<Verdict>(line).ok());
    match (answer, status) {
        (Some(Verdict { program, version, why: None }), WaitStatus::Exited(0)) if program == "aeternad" => {
            Ok(Verdict { program, version, why: None })
        }
        (Some(Verdict { why: Some(why), version, .. }), WaitStatus::Exited(_)) => {
            Err(format!("aeternad {version} cannot take over: {why}"))
        }
        (_, WaitStatus::Signaled { signal, .. }) => Err(format!(
            "{shown} ended with {} when it was asked; is it half copied, or for another machine?",
            signal::name(signal)
        )),
        (_, WaitStatus::Exited(status)) => {
            let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
            let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
            Err(format!(
                "{shown} is no aeternad that can take over: it ended with status {status} and said: {line}"
            ))
        }
    }
}

/// The program that is asked: `aeternad --can-take-over`, with a state on descriptor 3.
pub fn main() -> ExitCode {
    let why = understood().err();
    let can = why.is_none();
    let verdict = Verdict { program: "aeternad".into(), version: env!("CARGO_PKG_VERSION").into(), why };
    let said = serde_json::to_string(&verdict).unwrap_or_default();
    let written = writeln!(std::io::stdout(), "{said}").is_ok();
    if can && written { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether a state can be restored here, all of it.
fn understood() -> Result<(), String> {
    let bytes = replace::unsealed(STATE).map_err(|_| "it was given no state".to_owned())?;
    let (head, text) = saved::read(&bytes, None)?;
    let lost = head.capabilities & !capability::effective();
    if lost != 0 {
        return Err(format!(
            "it would have fewer capabilities than the program that runs (by {lost:#x}); give it the same with setcap(8)"
        ));
    }
    let restored = saved::restore(saved::parse(text)?, &mut Incoming::pretended()?)?;
    let again = restored.save().and_then(|state| {
        serde_json::to_vec(&state).map_err(|error| format!("it cannot store the state: {error}"))
    })?;
    // Nothing of it may end here: names that are somebody else's would be removed.
    std::mem::forget(restored);
    if again == text { Ok(()) } else { Err("it would not go on with the same state".into()) }
}
