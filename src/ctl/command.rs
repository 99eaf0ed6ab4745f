//! What a command line asks for.

use super::args::CommandSpec;
use crate::proto::control::Request;
use crate::time::Span;
use std::ffi::OsString;
use std::path::PathBuf;

/// A command line that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Invocation {
    pub(super) place: Place,
    pub(super) json: bool,
    /// Whether what is longer than the terminal may go through a pager.
    pub(super) pager: bool,
    /// The machine that it is to be done on, and the line for it there.
    pub(super) host: Option<(String, Vec<OsString>)>,
    pub(super) command: Command,
}

/// Where the daemon was said to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) control: Option<String>,
    pub(super) runtime_dir: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Status {
        unit: Option<String>,
        watch: bool,
    },
    List {
        failed: bool,
    },
    /// Whether something is so, told by the exit status.
    Is {
        question: Question,
        quiet: bool,
    },
    History {
        unit: String,
    },
    Releases {
        unit: String,
    },
    Show {
        unit: String,
    },
    Cat {
        unit: String,
    },
    Edit {
        unit: String,
    },
    Events {
        unit: Option<String>,
        past: Past,
    },
    Logs {
        unit: String,
        generation: Option<u32>,
        past: Past,
    },
    Task(Task),
    Check {
        files: Vec<PathBuf>,
    },
    Import {
        files: Vec<PathBuf>,
        process: Option<String>,
    },
    Version,
    /// sd_notify(3) lines; `None`: messages from standard input.
    Notify {
        message: Option<String>,
    },
    Doctor,
    OwnVersion,
    Help {
        about: Option<&'static CommandSpec>,
    },
    Completions {
        shell: Shell,
    },
}

/// What is asked of `is-active`, `is-failed` and `is-ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether this unit runs.
    Active(String),
    /// Whether this unit has failed.
    Failed(String),
    /// Whether every unit serves.
    Ready,
}

/// How far back, and whether what comes follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Past {
    /// The last so many.
    pub(super) lines: Option<u32>,
    /// Those of the last so long.
    pub(super) within: Option<Span>,
    pub(super) follow: bool,
}

impl Default for Past {
    /// Nothing of the past; what comes follows.
    fn default() -> Past {
        Past { lines: None, within: None, follow: true }
    }
}

impl Past {
    /// The Unix time of its beginning.
    pub(super) fn since(&self, now: f64) -> Option<f64> {
        self.within.map(|within| now - within.as_secs_f64())
    }

    /// The events of this past.
    pub(super) fn events(&self, unit: Option<&str>, now: f64) -> Request {
        let Past { lines, follow, .. } = *self;
        Request::Events { unit: unit.map(String::from), lines, since: self.since(now), follow }
    }
}

/// Something that the daemon is to do, and how it is spoken of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Task {
    /// What is sent.
    pub(super) request: Request,
    /// `the reload of chat`.
    pub(super) name: String,
    /// The command that shows what came of it.
    pub(super) see: String,
    /// How long to wait; `None` for as long as it takes.
    pub(super) timeout: Option<Span>,
    /// Whether the end of the drain is waited for, too.
    pub(super) drained: bool,
}

/// Whose completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
    /// Not a shell: the names of the units, for the scripts of the others.
    Units,
}
