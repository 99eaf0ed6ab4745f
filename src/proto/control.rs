//! The control socket's requests and replies (contract section 9): one JSON object a line each way.
//!
//! A request gets any number of `{"event":…}` lines, then exactly one `{"result":…}` or `{"error":…}` line.

use crate::proto::harmless::{LONGEST, harmless};
use crate::proto::nearest::nearest;
use crate::proto::status::{EventLine, LogLine, Outcome, ReloadRecord, Status, UnitChanges};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest request line that the daemon reads, bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest line of an answer that a client reads, bytes: the status of thousands of units fits.
pub const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// The longest `reason` that is kept, characters; what follows is cut off.
pub const MAX_REASON: usize = 500;

/// Every `command` of a [`Request`].
pub const COMMANDS: [&str; 18] = [
    "status",
    "reload",
    "load",
    "dry_run",
    "start",
    "stop",
    "restart",
    "promote",
    "rollback",
    "drop_release",
    "kill",
    "history",
    "show",
    "events",
    "logs",
    "page",
    "upgrade",
    "version",
];

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
    /// Take in what is new in the files and folders of `--unit`, reload what has changed, stop and drop what is gone:
    /// [`Reply::Reloads`] when all of that has ended (or at once with `wait` false); with `dry_run`
    /// [`Reply::Changes`]. A `reload` of all does the same, and reloads what has not changed too.
    Load {
        /// Whether the answer waits for the end.
        #[serde(default = "yes")]
        wait: bool,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// What a reload would change: [`Reply::Changes`].
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
        /// To what this generation ran; without, to the release before the one that serves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u32>,
        /// Only say what would be done: [`Reply::Changes`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
    },
    /// Keep what a generation ran no longer: [`Reply::Done`].
    DropRelease {
        /// Which unit.
        unit: String,
        /// Which generation.
        generation: u32,
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
    /// [`Reply::Unit`].
    Show {
        /// Which.
        unit: String,
    },
    /// `{"event":…}` lines until the client goes; with `follow` false those of the past, and then [`Reply::Done`].
    Events {
        /// Of one unit, or of all.
        #[serde(default)]
        unit: Option<String>,
        /// First the last so many of the past; all that are kept with `since` alone, else none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<u32>,
        /// First those of the past from this Unix time on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<f64>,
        /// Whether what happens from now on follows.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        follow: bool,
    },
    /// The last lines of output: one `{"lines":…}` line and then [`Reply::Done`]; with `follow` more of them until the
    /// client goes.
    Logs {
        /// Of which unit.
        unit: String,
        /// Of one generation; of all, and of hooks, without.
        #[serde(default)]
        generation: Option<u32>,
        /// The last so many; all that are kept without.
        #[serde(default)]
        lines: Option<u32>,
        /// From this Unix time on.
        #[serde(default)]
        since: Option<f64>,
        /// Whether what comes from now on follows.
        #[serde(default)]
        follow: bool,
    },
    /// The page's address, with a token made for it: [`Reply::Done`], the note is the address.
    Page,
    /// Replace aeternad's own program: [`Reply::Upgrade`].
    Upgrade {
        /// Another one than aeternad was started from; an absolute path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        program: Option<String>,
        /// Only say whether it could be done.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        check: bool,
        /// How long state that is on its way between two generations is waited for, seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<f64>,
    },
    /// [`Reply::Version`].
    Version,
}

fn yes() -> bool {
    true
}

fn is_yes(yes: &bool) -> bool {
    *yes
}

/// One line of the daemon's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Something happened; more lines follow.
    Event(EventLine),
    /// Output of a unit; more lines follow.
    Lines(LogLines),
    /// The answer: the last line.
    Result(Reply),
    /// The request failed: the last line.
    Error(Refusal),
}

/// Lines of a unit's output, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogLines {
    /// Whose.
    pub unit: String,
    /// The lines; none where there are none yet.
    pub lines: Vec<LogLine>,
    /// Lines that were left out before these: they came faster than they were read.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The answer to a request that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<Status>),
    /// To `reload`, `load` (and to a `rollback` outside a reload): one entry a unit, and one for each file that cannot be
    /// used.
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
    Changes {
        /// For people.
        text: String,
        /// The same for programs.
        units: Vec<UnitChanges>,
    },
    /// To `history`: oldest first.
    History {
        /// Which unit.
        unit: String,
        /// At most 32.
        reloads: Vec<ReloadRecord>,
    },
    /// To `upgrade`.
    Upgrade(UpgradeReply),
    /// To `show`.
    Unit {
        /// Which unit.
        unit: String,
        /// The content that serves, as TOML with every default.
        text: String,
    },
    /// To `version`.
    Version {
        /// aeternad's version.
        version: String,
    },
}

/// What came of an upgrade.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpgradeReply {
    /// How it ended.
    pub outcome: UpgradeOutcome,
    /// The version before.
    pub from: String,
    /// The version of the new program, if it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How long aeternad did nothing else, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<f64>,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
}

/// How an upgrade ended. All but [`UpgradeOutcome::Done`] leave the program that was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeOutcome {
    /// 0: the new program runs.
    Done,
    /// 0: it was only asked for, and could be made.
    Possible,
    /// 1: something is wrong with the new program, or was in the way.
    Failed,
    /// 3: the new program could not go on, and gave back.
    GaveBack,
    /// 4: not now.
    Refused,
}

impl UpgradeOutcome {
    /// The exit status of `aeternactl`.
    pub const fn exit_status(self) -> u8 {
        use crate::error::exit;
        match self {
            UpgradeOutcome::Done | UpgradeOutcome::Possible => exit::OK,
            UpgradeOutcome::Failed => exit::FAILURE,
            UpgradeOutcome::GaveBack => exit::ROLLED_BACK,
            UpgradeOutcome::Refused => exit::BUSY,
        }
    }
}

/// What has become of a unit's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChange {
    /// It is new: the unit was started.
    Added,
    /// It is gone: the unit was stopped and dropped.
    Removed,
    /// It cannot be used.
    Unusable,
}

/// How one unit's reload ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Which unit.
    pub unit: String,
    /// How; `None` when nobody waited for the end.
    pub outcome: Option<Outcome>,
    /// What has become of its file, if that is more than a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileChange>,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// How long it took, seconds: as the history says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<f64>,
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
    /// The last lines that the unit wrote meanwhile, where they went through aeternad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
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

impl Refusal {
    /// A refusal; `message` for people.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into(), last_lines: Vec::new() }
    }

    /// A request that the daemon does not understand; `message` for people.
    pub fn bad(message: impl Into<String>) -> Refusal {
        Refusal::new(RefusalCode::BadRequest, message)
    }
}

impl RefusalCode {
    /// The exit status of `aeternactl` (contract section 3).
    pub const fn exit_status(self) -> u8 {
        use crate::error::exit;
        match self {
            RefusalCode::Failed | RefusalCode::Unsupported => exit::FAILURE,
            RefusalCode::BadRequest => exit::USAGE,
            RefusalCode::Busy => exit::BUSY,
            RefusalCode::NoSuchUnit => exit::NO_UNIT,
        }
    }
}

impl Outcome {
    /// The exit status of the `aeternactl` that waited for this outcome (contract section 3).
    pub const fn exit_status(self) -> u8 {
        use crate::error::exit;
        match self {
            Outcome::Promoted => exit::OK,
            Outcome::Failed => exit::FAILURE,
            Outcome::RolledBack | Outcome::Aborted => exit::ROLLED_BACK,
            Outcome::Refused => exit::BUSY,
        }
    }
}

/// Reads one request line, with or without its newline.
///
/// Checked here, so that nobody need look again: a reload or dry run names units or `all`, not both and not
/// neither; a signal is 1 to 64; a reason is one line of at most [`MAX_REASON`] characters (made so).
///
/// # Errors
/// A [`RefusalCode::BadRequest`] that says what is wrong with it.
pub fn parse_request(line: &[u8]) -> Result<Request, Refusal> {
    if line.len() > MAX_REQUEST {
        return Err(Refusal::bad(format!("the request is longer than {MAX_REQUEST} bytes")));
    }
    let text = std::str::from_utf8(line).map_err(|_| Refusal::bad("the request is not UTF-8"))?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Refusal::bad(format!("the request is not one JSON object on one line: {error}")))?;
    let Value::Object(object) = &value else {
        return Err(Refusal::bad("the request is not a JSON object, as {\"command\":\"status\"} is"));
    };
    let command = match object.get("command") {
        Some(Value::String(command)) => command.clone(),
        Some(_) => return Err(Refusal::bad("\"command\" is not a string")),
        None => return Err(Refusal::bad("the request has no \"command\"")),
    };
    if !COMMANDS.contains(&command.as_str()) {
        let hint = nearest(&command, COMMANDS).map(|near| format!(": did you mean \"{near}\"?"));
        let hint = hint.unwrap_or_else(|| format!("; there are {}", COMMANDS.join(", ")));
        return Err(Refusal::bad(format!("unknown command {}{hint}", quoted(&command))));
    }
    let request = serde_json::from_value(value).map_err(|error| {
        // What was sent may stand in it.
        let why = harmless(&error.to_string(), LONGEST);
        Refusal::bad(format!("cannot understand the request \"{command}\": {why}"))
    })?;
    checked(request)
}

/// What the types of a [`Request`] cannot say.
fn checked(mut request: Request) -> Result<Request, Refusal> {
    match &mut request {
        Request::Reload { units, all, reason, .. } => {
            which(units, *all)?;
            *reason = one_line(reason);
        }
        Request::DryRun { units, all } => which(units, *all)?,
        Request::Kill { signal, .. } if !(1..=64).contains(signal) => {
            return Err(Refusal::bad(format!("there is no signal {signal}: signals are 1 to 64")));
        }
        Request::Status { .. }
        | Request::Load { .. }
        | Request::Start { .. }
        | Request::Stop { .. }
        | Request::Restart { .. }
        | Request::Promote { .. }
        | Request::Rollback { .. }
        | Request::DropRelease { .. }
        | Request::Kill { .. }
        | Request::History { .. }
        | Request::Show { .. }
        | Request::Events { .. }
        | Request::Logs { .. }
        | Request::Page
        | Request::Upgrade { .. }
        | Request::Version => {}
    }
    Ok(request)
}

/// Units or `all`: one of the two.
fn which(units: &[String], all: bool) -> Result<(), Refusal> {
    match (units.is_empty(), all) {
        (true, false) => Err(Refusal::bad("the request names no unit; give \"units\", or \"all\"")),
        (false, true) => Err(Refusal::bad("the request has both \"units\" and \"all\"")),
        (true, true) | (false, false) => Ok(()),
    }
}

/// A text for the log and the history: without line breaks and other control characters, not too long.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect();
    harmless(line.trim(), usize::MAX).chars().take(MAX_REASON).collect()
}

/// What somebody wrote, for a message: quoted, escaped, and short.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}")
}

/// A line of an answer as it crosses the socket, with its newline.
pub fn to_line(line: &Line) -> Vec<u8> {
    json_line(line).unwrap_or_else(|error| {
        // Every map of a `Line` has string keys, so that this cannot be; the one who waits gets an answer still.
        let text = error.to_string().replace(['"', '\\'], "'");
        format!("{{\"error\":{{\"code\":\"failed\",\"message\":\"cannot write the answer: {text}\"}}}}\n")
            .into_bytes()
    })
}

/// A request as it crosses the socket, with its newline.
///
/// # Errors
/// Never for a [`Request`] that can be made today.
pub fn to_request_line(request: &Request) -> Result<Vec<u8>, String> {
    json_line(request).map_err(|error| format!("cannot write the request: {error}"))
}

fn json_line<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads one line of an answer, with or without its newline. Fields that are not known (of a newer daemon)
/// are left out.
///
/// # Errors
/// Why this is not a line of an answer, for people.
pub fn parse_line(line: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(line).map_err(|error| {
        let start = quoted(&String::from_utf8_lossy(&line[..line.len().min(160)]));
        format!("not a line that aeternad sends ({error}): {start}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(line: &str) -> String {
        let refusal = parse_request(line.as_bytes()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::BadRequest);
        refusal.message
    }

    fn all_requests() -> Vec<Request> {
        let unit = || "chat".to_string();
        vec![
            Request::Status { unit: None },
            Request::Status { unit: Some(unit()) },
            Request::Reload { units: vec![unit()], all: false, wait: true, force: true, reason: "x".into() },
            Request::DryRun { units: vec![], all: true },
            Request::Load { wait: true, dry_run: false },
            Request::Start { unit: unit() },
            Request::Stop { unit: unit(), close: true },
            Request::Restart { unit: unit() },
            Request::Promote { unit: unit() },
            Request::Rollback { unit: unit(), to: None, dry_run: false },
            Request::Rollback { unit: unit(), to: Some(3), dry_run: true },
            Request::DropRelease { unit: unit(), generation: 3 },
            Request::Kill { unit: unit(), signal: 64, generation: Some(3) },
            Request::History { unit: unit() },
            Request::Show { unit: unit() },
            Request::Events { unit: None, lines: None, since: None, follow: true },
            Request::Logs { unit: unit(), generation: None, lines: Some(7), since: None, follow: false },
            Request::Page,
            Request::Upgrade { program: Some("/x".into()), check: true, timeout: Some(1.5) },
            Request::Upgrade { program: None, check: false, timeout: None },
            Request::Version,
        ]
    }

    #[test]
    fn every_request_reads_back() {
        for request in all_requests() {
            let line = to_request_line(&request).unwrap();
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(parse_request(&line), Ok(request));
        }
    }

    #[test]
    fn the_list_of_commands_is_whole() {
        for request in all_requests() {
            let value = serde_json::to_value(&request).unwrap();
            assert!(COMMANDS.contains(&value["command"].as_str().unwrap()), "{value}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(
            parse_request(br#"{"command":"reload","units":["a"]}"#),
            Ok(Request::Reload {
                units: vec!["a".into()],
                all: false,
                wait: true,
                force: false,
                reason: String::new()
            })
        );
        assert_eq!(parse_request(b"{\"command\":\"status\"}\r\n"), Ok(Request::Status { unit: None }));
    }

    #[test]
    fn a_wrong_request_is_told_what_is_wrong() {
        assert!(refused("").contains("not one JSON object"));
        assert!(refused("hello").contains("not one JSON object"));
        assert!(refused("[]").contains("not a JSON object"));
        assert!(refused("{}").contains("no \"command\""));
        assert!(refused(r#"{"command":3}"#).contains("not a string"));
        assert_eq!(
            refused(r#"{"command":"relaod"}"#),
            "unknown command \"relaod\": did you mean \"reload\"?"
        );
        assert!(refused(r#"{"command":"xyzzy"}"#).contains("there are status, reload"));
        assert!(refused(r#"{"command":"start"}"#).contains("missing field `unit`"));
        assert!(refused(r#"{"command":"start","unit":"a","close":true}"#).contains("unknown field `close`"));
        assert!(refused(r#"{"command":"reload"}"#).contains("names no unit"));
        assert!(refused(r#"{"command":"dry_run","units":["a"],"all":true}"#).contains("both"));
        assert!(refused(r#"{"command":"kill","unit":"a","signal":65}"#).contains("1 to 64"));
        assert!(refused(&"[".repeat(10_000)).contains("not one JSON object"));
        assert!(parse_request(b"{\"command\":\"\xff\"}").unwrap_err().message.contains("UTF-8"));
        assert!(parse_request(&vec![b' '; MAX_REQUEST + 1]).unwrap_err().message.contains("65536"));
    }

    #[test]
    fn a_refusal_is_one_line_whatever_was_sent() {
        for line in [
            "{\"command\":\"stop\",\"u\\nit\":\"a\"}",
            "{\"command\":\"sto\\np\"}",
            "{\"command\":\"kill\",\"unit\":\"\u{202e}\",\"signal\":\"\\u001b\"}",
        ] {
            let refusal = parse_request(line.as_bytes()).unwrap_err();
            assert!(refusal.message.chars().all(crate::proto::harmless::is_seen), "{}", refusal.message);
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        let long =
            format!(r#"{{"command":"reload","all":true,"reason":"fix\nit\u001b[1m {}"}}"#, "é".repeat(900));
        let Ok(Request::Reload { reason, .. }) = parse_request(long.as_bytes()) else { panic!("refused") };
        assert!(reason.starts_with("fix it [1m é"), "{reason}");
        let turned = one_line(" safe\u{202e}exe.gpj ");
        assert_eq!(turned, "safe\\u{202e}exe.gpj");
        assert_eq!(reason.chars().count(), MAX_REASON);
    }

    #[test]
    fn lines_of_an_answer_read_back() {
        let event = EventLine {
            time: 1.5,
            unit: "a".into(),
            kind: "state".into(),
            text: "two\nlines".into(),
            generation: None,
            state: None,
            lasted: None,
            pid: None,
            outcome: None,
        };
        for line in [
            Line::Event(event),
            Line::Result(Reply::Done { note: "ü".into() }),
            Line::Error(Refusal::new(RefusalCode::Busy, "a reload is under way")),
            Line::Lines(LogLines { unit: "a".into(), lines: vec![], missing: 3 }),
        ] {
            let bytes = to_line(&line);
            assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(parse_line(&bytes), Ok(line));
        }
        assert_eq!(
            to_line(&Line::Error(Refusal::bad("x"))),
            b"{\"error\":{\"code\":\"bad_request\",\"message\":\"x\"}}\n"
        );
        assert!(parse_line(b"HTTP/1.1 400").unwrap_err().contains("HTTP/1.1 400"));
    }

    #[test]
    fn exit_statuses_are_the_contracts() {
        let codes = [
            RefusalCode::Failed,
            RefusalCode::BadRequest,
            RefusalCode::Busy,
            RefusalCode::NoSuchUnit,
            RefusalCode::Unsupported,
        ];
        assert_eq!(codes.map(RefusalCode::exit_status), [1, 2, 4, 6, 1]);
        let outcomes =
            [Outcome::Promoted, Outcome::Failed, Outcome::RolledBack, Outcome::Aborted, Outcome::Refused];
        assert_eq!(outcomes.map(Outcome::exit_status), [0, 1, 3, 3, 4]);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_request(&bytes);
            let _ = parse_line(&bytes);
        }

        #[test]
        fn no_object_makes_it_panic(command in "[a-z_]{0,9}", key in "[a-z]{0,9}", text in ".{0,20}") {
            let line = serde_json::json!({"command": command, key: text}).to_string();
            let _ = parse_request(line.as_bytes());
        }
    }
}
