//! What a process needs of files before it can be started: its streams and its environment files. A file system may not answer,
//! a service's own one (FUSE) as it likes, so they are opened and read on a thread. That is waited for a little; a start whose
//! files take longer goes on as soon as they are there, and fails after `TimeoutStartSec`.

use crate::daemon::core::{Daemon, News, Report};
use crate::daemon::envfiles;
use crate::daemon::launch::{self, describe, failure};
use crate::daemon::releases::Release;
use crate::machine::event::{Event, Gen, Proc, Role, Spawn, SpawnFailure, Target};
use crate::sys::aside::Foreign;
use crate::sys::clock;
use crate::sys::dir::{self, Access};
use crate::sys::later::{self, Asked};
use crate::sys::spawn::Credentials;
use crate::time::{Monotime, Span};
use crate::unit::{EnvironmentFile, Input, Output, Service, Unit};
use std::path::Path;

/// How many questions of a unit may have no answer, and two for each worker.
const UNANSWERED: u32 = 4;

/// What was said by environment files.
type Variables = Vec<(String, String)>;

/// Files that a process needs.
#[derive(Debug)]
pub struct Wanted {
    streams: [Option<(String, Access)>; 3],
    texts: Vec<EnvironmentFile>,
    who: Option<Credentials>,
}

/// The same, opened and read, or why they cannot be.
#[derive(Debug, Default)]
pub struct Ahead {
    streams: [Option<Result<Foreign, String>>; 3],
    texts: Vec<(String, Result<Variables, String>)>,
}

impl Wanted {
    /// What a process of a release needs that runs as `who`.
    pub fn of(release: &Release, role: Role, who: Option<&Credentials>) -> Wanted {
        let service = &release.unit.service;
        let texts = service.environment_file.iter().filter(|file| !release.has_text(&file.path));
        // What a command of the analysis says is heard by us.
        let streams =
            if matches!(role, Role::Analysis(_)) { Default::default() } else { streams_of(service) };
        Wanted { streams, texts: texts.cloned().collect(), who: who.cloned() }
    }

    fn is_empty(&self) -> bool {
        self.streams.iter().all(Option::is_none) && self.texts.is_empty()
    }

    /// Its names, for people.
    fn names(&self) -> String {
        let streams = self.streams.iter().flatten().map(|(path, _)| path);
        let mut names: Vec<&str> =
            streams.chain(self.texts.iter().map(|file| &file.path)).map(String::as_str).collect();
        names.dedup();
        names.join(", ")
    }

    /// Opens and reads them, in the order in which a start needs them.
    fn take(self) -> Ahead {
        let who = self.who.as_ref();
        let text = |file: &EnvironmentFile| (file.path.clone(), envfiles::read(file, who));
        let texts = self.texts.iter().map(text).collect();
        let open = |(path, access): (String, Access)| {
            let path = Path::new(&path);
            let opened = dir::open_stream(path, access, who);
            opened.map(Foreign::from).map_err(|error| dir::explain(path, who, &describe(&error)))
        };
        Ahead { streams: self.streams.map(|stream| stream.map(open)), texts }
    }
}

/// Standard input, output and error, where they are files.
fn streams_of(service: &Service) -> [Option<(String, Access)>; 3] {
    let input = match &service.standard_input {
        Input::File(path) => Some((path.clone(), Access::Read)),
        Input::Null | Input::Inherit | Input::Socket => None,
    };
    let output = |output: &Output| match output {
        // Also `file:`: two generations, or both streams of one, would write over each other otherwise.
        Output::File(path) | Output::Append(path) => Some((path.clone(), Access::Append)),
        Output::Null | Output::Inherit | Output::Socket | Output::Log => None,
    };
    [input, output(&service.standard_output), output(&service.standard_error)]
}

impl Ahead {
    /// Standard input (0), output (1) or error (2), where that is a file.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn stream(&mut self, number: usize) -> Option<Result<Foreign, String>> {
        self.streams.get_mut(number)?.take()
    }

    /// What an environment file said.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn text(&mut self, path: &str) -> Option<Result<Variables, String>> {
        let at = self.texts.iter().position(|(known, _)| known == path)?;
        Some(self.texts.remove(at).1)
    }
}

/// A start that waits for its files.
#[derive(Debug)]
pub struct Awaited {
    spawn: Spawn,
    /// Whether it is the first process of a generation that goes first.
    newcomer: Option<Gen>,
    names: String,
    since: Monotime,
    deadline: Monotime,
}

/// How a start gets what is not there in time.
pub struct Asking<'a> {
    /// How long it is waited for.
    pub patience: Span,
    /// How many questions of its unit have no answer yet.
    pub unanswered: u32,
    /// What is there already.
    pub ahead: Option<Ahead>,
    /// Who is told of the rest.
    pub later: &'a dyn Fn() -> Box<dyn FnOnce(Ahead) + Send>,
}

/// What came of [`Asking::for_files`].
pub enum Files {
    /// They are there.
    There(Ahead),
    /// They may come: what they are called.
    Awaited(String),
}

impl Asking<'_> {
    /// The files of a process.
    ///
    /// # Errors
    /// Too many others are waited for.
    pub fn for_files(self, unit: &Unit, wanted: Wanted) -> Result<Files, SpawnFailure> {
        if let Some(ahead) = self.ahead {
            return Ok(Files::There(ahead));
        }
        if wanted.is_empty() {
            return Ok(Files::There(Ahead::default()));
        }
        let names = wanted.names();
        let never = || {
            let why =
                format!("{names}: others have waited for their file system without an answer until now");
            Err(failure(&unit.name, "open its files", &why, 1))
        };
        // A unit whose files do not answer takes nothing from the others by trying again and again.
        if self.unanswered >= UNANSWERED + 2 * unit.service.workers {
            return never();
        }
        match later::ask(self.patience, move || wanted.take(), (self.later)()) {
            Asked::Now(ahead) => Ok(Files::There(ahead)),
            Asked::Later => Ok(Files::Awaited(names)),
            Asked::Never => never(),
        }
    }
}

impl Daemon {
    /// Who is told when the files of a process are there after all.
    pub fn tell_later(&self, index: usize, proc: Proc) -> impl Fn() -> Box<dyn FnOnce(Ahead) + Send> + use<> {
        let (reports, waker) = (self.reports.clone(), self.waker.clone());
        move || {
            let (reports, waker) = (reports.clone(), waker.clone());
            Box::new(move |ahead| {
                // The daemon is ending if nobody listens.
                let _ = reports.send(Report { unit: index, news: News::Opened(proc, Box::new(ahead)) });
                waker.wake();
            })
        }
    }

    /// A start waits for its files: the machine hears of it when they are there, or do not come.
    pub fn await_files(&mut self, index: usize, spawn: &Spawn, newcomer: Option<Gen>, names: String) {
        let since = clock::now();
        let limit = spawn.content.unit.service.timeout_start;
        log::debug!("{}: {names} is not open yet", self.units[index].name);
        let deadline = self.slows.is_late(index, since, limit);
        let awaited = Awaited { spawn: spawn.clone(), newcomer, names, since, deadline };
        self.slows.files.insert((index, spawn.proc), awaited);
        *self.slows.unanswered.entry(index).or_default() += 1;
    }

    /// The files of a process are there.
    pub fn files_opened(&mut self, index: usize, proc: Proc, ahead: Ahead) {
        if let Some(count) = self.slows.unanswered.get_mut(&index) {
            *count = count.saturating_sub(1);
        }
        let Some(Awaited { spawn, newcomer, .. }) = self.slows.files.remove(&(index, proc)) else { return };
        self.start_with_files(index, spawn, newcomer, ahead);
        self.settle();
    }

    /// Whoever waits for his files is not there yet, and what would end him ends the waiting.
    pub fn end_awaited(&mut self, index: usize, to: Target, signal: i32) {
        if self.slows.files.is_empty() || !ends(signal) {
            return;
        }
        let is_main = |role| matches!(role, Role::Main { .. } | Role::Instance(_));
        let meant = |spawn: &Spawn| match to {
            Target::Proc(proc) | Target::ProcTree(proc) => spawn.proc == proc,
            Target::Everyone(number) => spawn.generation == Some(number),
            Target::Mains(number) => spawn.generation == Some(number) && is_main(spawn.role),
        };
        let meant =
            |(unit, _): &(usize, Proc), awaited: &mut Awaited| *unit == index && meant(&awaited.spawn);
        let ended: Vec<Awaited> = self.slows.files.extract_if(meant).map(|(_, awaited)| awaited).collect();
        for awaited in ended {
            let after = clock::now().since(awaited.since);
            let why = format!("the file system had not answered when it was told to end, after {after}");
            self.not_opened(index, &awaited, &why);
        }
    }

    /// Ends the waiting for files that takes too long.
    pub fn end_late_files(&mut self, now: Monotime) {
        let due = |_: &(usize, Proc), awaited: &mut Awaited| awaited.deadline <= now;
        let late: Vec<_> = self.slows.files.extract_if(due).collect();
        for ((index, _), awaited) in late {
            let after = now.since(awaited.since);
            self.not_opened(index, &awaited, &format!("the file system does not answer within {after}"));
        }
        self.settle();
    }

    fn not_opened(&mut self, index: usize, awaited: &Awaited, why: &str) {
        let unit = &self.units[index].name;
        let failure = launch::failure(unit, "open its files", &format!("{}: {why}", awaited.names), 1);
        self.queue.push_back((index, Event::SpawnFailed { proc: awaited.spawn.proc, failure }));
    }
}

impl Awaited {
    /// When it is waited for no longer.
    pub fn deadline(&self) -> Monotime {
        self.deadline
    }
}

/// Whether a signal ends a process that knows nothing of it yet: see signal(7).
fn ends(signal: i32) -> bool {
    const CHLD: i32 = 17;
    const CONT_TO_URG: std::ops::RangeInclusive<i32> = 18..=23;
    const WINCH: i32 = 28;
    signal != 0 && signal != CHLD && signal != WINCH && !CONT_TO_URG.contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_end_nobody_do_not_end_the_waiting() {
        for (signal, expected) in
            [(0, false), (1, true), (9, true), (15, true), (17, false), (18, false), (19, false), (23, false)]
        {
            assert_eq!(ends(signal), expected, "{signal}");
        }
        assert!(ends(24) && ends(31) && ends(40) && !ends(28));
    }
}
