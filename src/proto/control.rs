//! The control socket's requests and replies (contract section 9): one JSON object a line each way.
//!
//! A request gets any number of `{"event":…}` lines, then exactly one `{"result":…}` or `{"error":…}` line.

use crate::proto::status::{EventLine, Outcome, ReloadRecord, Status};
use serde::{Deserialize, Serialize};

/// The longest request line that the daemon reads, bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// What `aeternactl` asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// [`Reply::Status`]; of one unit, or of all.
    Status {
        /// Which.
        #[serde(default)]
        unit: Option<String>,
    },
    /// [`Reply::Reloads`] when every one of them has ended (or at once with `wait` false).
    Reload {
        /// Which; empty with `all`.
        #[serde(default)]
        units: Vec<String>,
        /// Every unit.
        #[serde(default)]
        all: bool,
        /// Whether the answer waits for the end.
        #[serde(default = "yes")]
        wait: bool,
        /// First abandon what is under way.
        #[serde(default)]
        force: bool,
        /// For the history.
        #[serde(default)]
        reason: String,
    },
    /// What a reload would change: [`Reply::Text`].
    DryRun {
        /// Which; empty with `all`.
        #[serde(default)]
        units: Vec<String>,
        /// Every unit.
        #[serde(default)]
        all: bool,
    },
    /// [`Reply::Done`].
    Start {
        /// Which.
        unit: String,
    },
    /// [`Reply::Done`] when nothing of it lives.
    Stop {
        /// Which.
        unit: String,
        /// Close the sockets too.
        #[serde(default)]
        close: bool,
    },
    /// [`Reply::Done`] when it is ready again.
    Restart {
        /// Which.
        unit: String,
    },
    /// [`Reply::Done`].
    Promote {
        /// Which.
        unit: String,
    },
    /// [`Reply::Reloads`] or [`Reply::Done`].
    Rollback {
        /// Which.
        unit: String,
    },
    /// [`Reply::Done`].
    Kill {
        /// Which.
        unit: String,
        /// The signal's number.
        signal: i32,
        /// Which generation; all without.
        #[serde(default)]
        generation: Option<u32>,
    },
    /// [`Reply::History`].
    History {
        /// Which.
        unit: String,
    },
    /// `{"event":…}` lines until the client goes.
    Events {
        /// Of one unit, or of all.
        #[serde(default)]
        unit: Option<String>,
    },
    /// Replace aeternad's own program.
    Upgrade,
    /// [`Reply::Version`].
    Version,
}

fn yes() -> bool {
    true
}

/// One line of the daemon's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Something happened; more lines follow.
    Event(EventLine),
    /// The answer: the last line.
    Result(Reply),
    /// The request failed: the last line.
    Error(Refusal),
}

/// The answer to a request that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<Status>),
    /// To `reload` (and to a `rollback` outside a reload): one entry a unit.
    Reloads {
        /// In the order asked for.
        reloads: Vec<ReloadReply>,
    },
    /// To a command that has nothing to show but a note.
    Done {
        /// For people; may be empty.
        note: String,
    },
    /// To `dry_run`.
    Text {
        /// For people.
        text: String,
    },
    /// To `history`: oldest first.
    History {
        /// Which unit.
        unit: String,
        /// At most 32.
        reloads: Vec<ReloadRecord>,
    },
    /// To `version`.
    Version {
        /// aeternad's version.
        version: String,
    },
}

/// How one unit's reload ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Which unit.
    pub unit: String,
    /// How; `None` when nobody waited for the end.
    pub outcome: Option<Outcome>,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// The last lines that the failed generation wrote.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which kind.
    pub code: RefusalCode,
    /// For people: what, on what, why, and what to do.
    pub message: String,
}

/// The kinds of [`Refusal`], each with an exit status of `aeternactl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// 1: it was tried and failed.
    Failed,
    /// 2: not a request that the daemon knows.
    BadRequest,
    /// 4: a reload is under way.
    Busy,
    /// 6: no such unit.
    NoSuchUnit,
    /// 1: not there (yet).
    Unsupported,
}
