//! Why a command was not carried out, with its exit status.

use crate::error::exit;
use crate::proto::control::{Refusal, RefusalCode};
use crate::proto::harmless::is_seen;
use serde_json::{Value, json};

/// Ends a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody answers at the socket.
    NoDaemon(String),
    /// There is a socket, and we may not connect to it.
    Denied(String),
    /// The daemon said no.
    Refused(Refusal),
    /// The daemon broke off, or sent what is no answer.
    Broken(String),
    /// What is to become a unit is none.
    Invalid(String),
    /// `--timeout` passed.
    TimedOut(String),
    /// SIGINT came while something was waited for.
    Interrupted(String),
}

impl Failure {
    /// The daemon's answer does not have the unit that was asked for.
    pub(super) fn no_unit(name: &str) -> Failure {
        let message = format!("there is no unit {name:?}");
        Failure::Refused(Refusal::new(RefusalCode::NoSuchUnit, message))
    }

    /// The exit status of aeternactl (contract section 3; for SIGINT what a shell makes of it).
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Failure::NoDaemon(_) => exit::NO_DAEMON,
            Failure::Refused(refusal) => refusal.code.exit_status(),
            Failure::Denied(_) | Failure::Broken(_) => exit::FAILURE,
            Failure::Invalid(_) => exit::CONFIG,
            Failure::TimedOut(_) => exit::TIMEOUT,
            Failure::Interrupted(_) => 128 + 2,
        }
    }

    /// For a person: whole lines, below them what the unit wrote last.
    pub(super) fn text(&self) -> String {
        let mut text = self.message().to_owned();
        if let Failure::Refused(Refusal { last_lines, .. }) = self
            && !last_lines.is_empty()
        {
            text.push_str("\n  the last lines that it wrote:");
            for line in last_lines {
                let clean: String = line.chars().map(|c| if is_seen(c) { c } else { '\u{fffd}' }).collect();
                text.push_str(&format!("\n  | {clean}"));
            }
        }
        text
    }

    /// Why, for a person.
    pub(super) fn message(&self) -> &str {
        match self {
            Failure::Refused(refusal) => &refusal.message,
            Failure::NoDaemon(text)
            | Failure::Denied(text)
            | Failure::Invalid(text)
            | Failure::Broken(text)
            | Failure::TimedOut(text)
            | Failure::Interrupted(text) => text,
        }
    }

    /// `{"error":{"code":…,"message":…}}`, in the daemon's words where it has one.
    pub(super) fn to_json(&self) -> Value {
        if let Failure::Refused(refusal) = self {
            return json!({"error": refusal});
        }
        let code = match self {
            Failure::NoDaemon(_) => json!("no_daemon"),
            Failure::Denied(_) => json!("denied"),
            Failure::Invalid(_) => json!("invalid"),
            Failure::Refused(refusal) => json!(refusal.code),
            Failure::Broken(_) => json!(RefusalCode::Failed),
            Failure::TimedOut(_) => json!("timeout"),
            Failure::Interrupted(_) => json!("interrupted"),
        };
        json!({"error": {"code": code, "message": self.message()}})
    }
}
