//! What the main loop does with a [`Call`]: reads are answered at once, the rest becomes a command of a unit.
//! Pure; the daemon shows itself through [`View`].

use crate::machine::event::{Busy, Command, CommandResult, Gen};
use crate::proto::http::response::Response;
use crate::proto::http::route::Call;
use crate::proto::status::{LogLine, Outcome, ReloadRecord, Status, UnitStatus};
use serde_json::json;

/// The daemon, as far as HTTP shows it.
pub trait View {
    /// Every unit.
    fn status(&self) -> Status;
    /// One unit; `None` if there is none of this name.
    fn unit(&self, name: &str) -> Option<UnitStatus>;
    /// The last reloads of a unit, oldest first; `None` if there is none of this name.
    fn history(&self, name: &str) -> Option<Vec<ReloadRecord>>;
    /// The last lines of a unit, and why there are none where it writes elsewhere; `None` if there is none of this name.
    fn logs(
        &self,
        name: &str,
        generation: Option<u32>,
        lines: usize,
    ) -> Option<(Vec<LogLine>, Option<String>)>;
    /// The text of `/metrics`.
    fn metrics(&self) -> String;
    /// Why `/ready` is 503, for people; `None` if it is 200. See [`crate::proto::status::UnitState::serves`].
    fn unready(&self) -> Option<String>;
    /// The names of all units.
    fn names(&self) -> Vec<String>;
    /// Why no reload of this unit can begin now.
    fn busy(&self, unit: &str) -> Option<Busy>;
    /// Whether aeternad is stopping.
    fn is_stopping(&self) -> bool;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Send this answer.
    Answer(Response),
    /// Hand `command` to each of `units` and send [`answer_to`] what they reply at once. A unit that refuses has
    /// it in its log and its history.
    Command {
        /// Their names; each of them exists.
        units: Vec<String>,
        /// The same for all.
        command: Command,
        /// Where the progress shows.
        location: String,
    },
}

/// What a call asks of the daemon.
pub fn task(call: &Call, view: &dyn View) -> Task {
    let (unit, command) = match call {
        Call::Reload { unit, reason, force } => {
            (unit.as_deref(), Command::Reload { force: *force, remember: false, reason: reason.clone() })
        }
        Call::Start(unit) => (Some(unit.as_str()), Command::Start),
        Call::Stop(unit) => (Some(unit.as_str()), Command::Stop { close: false }),
        Call::Promote(unit) => (Some(unit.as_str()), Command::Promote),
        Call::Rollback { unit, to } => (Some(unit.as_str()), Command::Rollback { to: to.map(Gen) }),
        Call::Metrics
        | Call::Health
        | Call::Ready
        | Call::Status
        | Call::Unit(_)
        | Call::History(_)
        | Call::Logs { .. }
        | Call::Events { .. }
        | Call::Page => return Task::Answer(answer(call, view)),
    };
    match targets(unit, &command, view) {
        Ok(units) => {
            let location = match unit {
                Some(unit) => format!("/v1/units/{}", encoded(unit)),
                None => "/v1/status".into(),
            };
            Task::Command { units, command, location }
        }
        Err(response) => Task::Answer(response),
    }
}

/// The answer to a read.
fn answer(call: &Call, view: &dyn View) -> Response {
    match call {
        Call::Metrics => Response::ok("text/plain; version=0.0.4; charset=utf-8", view.metrics()),
        Call::Health => Response::check(true, "ok", "", ""),
        Call::Ready => match view.unready() {
            None => Response::check(true, "ready", "", ""),
            Some(why) => Response::check(false, "", &why, "GET /v1/status shows every unit"),
        },
        Call::Status => Response::json(200, &view.status()),
        Call::Unit(name) => match view.unit(name) {
            Some(unit) => Response::json(200, &unit),
            None => no_such_unit(name, view),
        },
        Call::History(name) => match view.history(name) {
            Some(reloads) => Response::json(200, &json!({"unit": name, "reloads": reloads})),
            None => no_such_unit(name, view),
        },
        Call::Logs { unit, generation, lines } => match view.logs(unit, *generation, *lines) {
            Some((lines, why)) => Response::json(200, &json!({"unit": unit, "lines": lines, "why": why})),
            None => no_such_unit(unit, view),
        },
        Call::Page => super::page::render(&view.status()),
        Call::Events { .. }
        | Call::Reload { .. }
        | Call::Start(_)
        | Call::Stop(_)
        | Call::Promote(_)
        | Call::Rollback { .. } => Response::error(400, "this is not answered by reading", "report this"),
    }
}

fn no_such_unit(name: &str, view: &dyn View) -> Response {
    let names = view.names();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    Response::no_such_unit(name, &known)
}

/// Which units a command is for: all of them can take it, or none gets it.
fn targets(unit: Option<&str>, command: &Command, view: &dyn View) -> Result<Vec<String>, Response> {
    let names = view.names();
    let units = match unit {
        Some(name) if names.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(name) => return Err(no_such_unit(name, view)),
        None => names,
    };
    if view.is_stopping() {
        return Err(Response::unavailable("aeternad is stopping", "nothing is reloaded any more"));
    }
    if let Command::Reload { force, .. } = command {
        let refuses = |unit: &&String| view.busy(unit).is_some_and(|busy| !(*force && busy.ends_by_force()));
        if let Some(busy) = units.iter().find(refuses).cloned() {
            // It refuses for all, and says who is at it.
            return Ok(vec![busy]);
        }
    }
    Ok(units)
}

/// The answer to a command, from what units replied within the same turn: nothing yet, as a rule.
pub fn answer_to(replies: &[(String, CommandResult)], location: &str) -> Response {
    let mut notes: Vec<&str> = Vec::new();
    for (unit, reply) in replies {
        match reply {
            CommandResult::Busy(text) => return Response::busy(&format!("{unit}: {text}")),
            CommandResult::Failed(text) => return Response::conflict(&format!("{unit}: {text}")),
            CommandResult::Reload { outcome: Outcome::Refused, reason } => {
                return Response::busy(&format!("{unit}: {reason}"));
            }
            CommandResult::Reload { outcome, reason } => {
                notes.push(outcome.name());
                notes.push(reason);
            }
            CommandResult::Done(note) => notes.push(note),
        }
    }
    notes.retain(|note| !note.is_empty());
    Response::accepted(location, &notes.join(": "))
}

/// Percent-encodes a name for a path.
fn encoded(name: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte);
    name.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Units by name, and what each is busy with.
    struct Canned(Vec<(&'static str, Option<Busy>)>, Option<&'static str>, bool);

    impl View for Canned {
        fn status(&self) -> Status {
            Status {
                host: "".into(),
                version: "1".into(),
                pid: 1,
                stopping: self.2,
                units: vec![],
                single: None,
            }
        }
        fn unit(&self, _: &str) -> Option<UnitStatus> {
            None
        }
        fn history(&self, name: &str) -> Option<Vec<ReloadRecord>> {
            self.0.iter().any(|(known, _)| *known == name).then(Vec::new)
        }
        fn logs(&self, name: &str, _: Option<u32>, _: usize) -> Option<(Vec<LogLine>, Option<String>)> {
            self.0.iter().any(|(known, _)| *known == name).then(|| (vec![], Some("elsewhere".into())))
        }
        fn metrics(&self) -> String {
            "a 1\n".into()
        }
        fn unready(&self) -> Option<String> {
            self.1.map(str::to_owned)
        }
        fn names(&self) -> Vec<String> {
            self.0.iter().map(|(name, _)| (*name).to_owned()).collect()
        }
        fn busy(&self, unit: &str) -> Option<Busy> {
            self.0.iter().find(|(name, _)| *name == unit)?.1.clone()
        }
        fn is_stopping(&self) -> bool {
            self.2
        }
    }

    fn status(call: &Call, view: &Canned) -> u16 {
        match task(call, view) {
            Task::Answer(response) => response.status,
            Task::Command { .. } => 202,
        }
    }

    fn reload(unit: Option<&str>, force: bool) -> Call {
        Call::Reload { unit: unit.map(str::to_owned), reason: "why".into(), force }
    }

    #[test]
    fn a_reload_of_all_starts_nothing_if_one_is_busy() {
        let under_way = Busy::Reload("SOAKING".into());
        let view = Canned(vec![("a", None), ("b c", Some(under_way.clone()))], None, false);
        let asked = |call: &Call, view: &Canned| match task(call, view) {
            Task::Command { units, .. } => units,
            Task::Answer(answer) => panic!("{answer:?}"),
        };
        // The busy one refuses for all.
        assert_eq!(asked(&reload(None, false), &view), ["b c"]);
        assert_eq!(asked(&reload(Some("b c"), false), &view), ["b c"]);
        assert_eq!(asked(&reload(Some("a"), false), &view), ["a"]);
        assert_eq!(status(&reload(Some("x"), false), &view), 404);
        assert_eq!(status(&Call::Promote("b c".into()), &view), 202);
        let start = Busy::Other("its first generation is still starting");
        let view = Canned(vec![("a", Some(under_way)), ("b c", Some(start))], None, false);
        assert_eq!(asked(&reload(None, true), &view), ["b c"], "nothing ends a start");
        let view = Canned(vec![("a", None), ("b c", Some(Busy::Reload("SOAKING".into())))], None, false);
        let Task::Command { units, command, location } = task(&reload(None, true), &view) else { panic!() };
        assert_eq!((units, location.as_str()), (vec!["a".to_owned(), "b c".to_owned()], "/v1/status"));
        assert_eq!(command, Command::Reload { force: true, remember: false, reason: "why".into() });
        let Task::Command { location, .. } = task(&reload(Some("b c"), true), &view) else { panic!() };
        assert_eq!(location, "/v1/units/b%20c");
    }

    #[test]
    fn nothing_is_reloaded_while_stopping() {
        let view = Canned(vec![("a", None)], Some("aeternad is stopping"), true);
        assert_eq!(status(&reload(None, true), &view), 503);
        assert_eq!(status(&Call::Rollback { unit: "a".into(), to: None }, &view), 503);
        assert_eq!(status(&Call::Ready, &view), 503);
        assert_eq!(status(&Call::Health, &view), 200);
    }

    #[test]
    fn reads_are_answered() {
        let view = Canned(vec![("a", None)], None, false);
        for call in [Call::Metrics, Call::Health, Call::Ready, Call::Status, Call::Page] {
            assert_eq!(status(&call, &view), 200, "{call:?}");
        }
        assert_eq!(status(&Call::Unit("b".into()), &view), 404);
        let logs = |unit: &str| Call::Logs { unit: unit.into(), generation: None, lines: 5 };
        for (call, code) in [
            (Call::History("a".into()), 200),
            (Call::History("b".into()), 404),
            (logs("a"), 200),
            (logs("b"), 404),
            (Call::Start("a".into()), 202),
            (Call::Stop("b".into()), 404),
        ] {
            assert_eq!(status(&call, &view), code, "{call:?}");
        }
    }

    #[test]
    fn what_a_unit_replies_at_once_becomes_the_answer() {
        let failed = CommandResult::Failed("not soaking".into());
        let refused = CommandResult::Reload { outcome: Outcome::Refused, reason: "stopping".into() };
        let told = |replies: &[CommandResult]| {
            let replies: Vec<_> = replies.iter().map(|reply| ("chat".to_owned(), reply.clone())).collect();
            let answer = answer_to(&replies, "/v1/status");
            (answer.status, String::from_utf8(answer.body).unwrap())
        };
        assert_eq!(told(&[]).0, 202);
        assert_eq!(told(&[CommandResult::Done("promoted".into())]).0, 202);
        for reply in [CommandResult::Busy("soaking".into()), failed, refused] {
            let (status, body) = told(&[CommandResult::Done(String::new()), reply]);
            assert!(status == 409 && body.contains("\"chat: "), "{body}");
        }
        let (_, body) = told(&[CommandResult::Reload { outcome: Outcome::Failed, reason: "line 3".into() }]);
        assert!(body.contains("failed: line 3"), "{body}");
    }
}
