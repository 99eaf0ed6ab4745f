//! What was asked for, and the answer once everything of it has ended.

use crate::daemon::control::ClientId;
use crate::daemon::core::Daemon;
use crate::daemon::supervised::{LAST_LINES, Standing};
use crate::machine::event::{Command, CommandResult, Event, Req};
use crate::proto::control::{FileChange, Line, Refusal, RefusalCode, ReloadReply, Reply};
use crate::proto::status::{Outcome, UnitState};
use crate::unit::Output;

/// A request that waits for its end.
#[derive(Debug)]
pub struct Pending {
    /// Who asked.
    pub client: ClientId,
    /// Every unit that it is about, in the order asked for.
    pub(super) parts: Vec<Part>,
    /// Whether the answer is a list of reloads.
    pub(super) reload: bool,
    /// Whether it is about all files: the answer is a list however short it is.
    pub(super) all: bool,
}

impl Pending {
    /// Whether everything has ended.
    pub(super) fn is_over(&self) -> bool {
        self.parts.iter().all(|part| part.result.is_some())
    }
}

/// One unit of a request.
#[derive(Debug)]
pub struct Part {
    /// The number of what the unit was asked for.
    pub req: Req,
    /// Which; `None` for a file that is no unit, or not yet.
    pub unit: Option<usize>,
    /// Its name.
    pub name: String,
    /// What has become of its file, if that is more than a reload.
    pub file: Option<FileChange>,
    /// What came of it.
    pub result: Option<CommandResult>,
    /// Where the unit's output was when it was asked.
    pub mark: u64,
}

impl Part {
    /// A part that waits for its reply.
    pub fn waits(req: Req, unit: Option<usize>, name: String) -> Part {
        Part { req, unit, name, file: None, result: None, mark: 0 }
    }
}

impl Daemon {
    /// Hands a command to units and waits for their answers.
    pub(super) fn ask(&mut self, client: ClientId, units: &[usize], command: &Command, reload: bool) {
        let ends = matches!(command, Command::Stop { .. } | Command::Kill { .. });
        let mut parts = Vec::with_capacity(units.len());
        let mut asked = Vec::with_capacity(units.len());
        for index in units {
            let unit = &self.units[*index];
            let (name, leaves) = (unit.name.clone(), unit.standing == Standing::Leaving);
            // Its progress, until the answer.
            self.clients.subscribe(client, Some(&name));
            let mark = unit.log.end();
            let mut part = Part { mark, ..Part::waits(self.new_req(), Some(*index), name) };
            if leaves && !ends {
                let why = "its file is gone: it is being stopped and dropped";
                part.result = Some(CommandResult::Failed(why.into()));
            } else {
                asked.push((part.req, *index));
            }
            parts.push(part);
        }
        let pending = Pending { client, parts, reload, all: false };
        if pending.is_over() {
            return self.answer(pending);
        }
        self.pending.push(pending);
        for (req, unit) in asked {
            self.queue.push_back((unit, Event::Command { req: Some(req), command: command.clone() }));
        }
        self.settle();
    }

    /// A machine's answer.
    pub fn reply(&mut self, index: usize, req: Req, result: CommandResult) {
        if self.web.hears(req, &result) {
            return;
        }
        log::debug!("{}: request {} ends: {result:?}", self.units[index].name, req.0);
        self.replied(req, result);
    }

    /// What came of a part of a request.
    pub fn replied(&mut self, req: Req, result: CommandResult) {
        let is_its = |part: &Part| part.req == req;
        let Some(at) = self.pending.iter().position(|wait| wait.parts.iter().any(is_its)) else { return };
        let waits = &mut self.pending[at];
        if let Some(part) = waits.parts.iter_mut().find(|part| part.req == req) {
            part.result = Some(result);
        }
        if waits.is_over() {
            let pending = self.pending.remove(at);
            self.answer(pending);
        }
    }

    pub(super) fn answer(&mut self, pending: Pending) {
        let client = pending.client;
        let reloads_only =
            |result: &Option<CommandResult>| matches!(result, None | Some(CommandResult::Reload { .. }));
        let single = pending.parts.len() == 1 && !pending.all;
        if pending.reload && (!single || pending.parts.iter().all(|part| reloads_only(&part.result))) {
            let reloads = pending.parts.into_iter().map(|part| self.reload_reply(part)).collect();
            self.result(client, Reply::Reloads { reloads });
        } else if let Some(part) = pending.parts.into_iter().next() {
            self.answer_one(client, part);
        }
    }

    fn answer_one(&mut self, client: ClientId, part: Part) {
        match part.result {
            Some(CommandResult::Done(note)) => {
                // The summary of this very moment: the answer comes before the unit's is taken over.
                let state = part.unit.map(|unit| self.units[unit].machine.summary().state);
                let strays = if state == Some(UnitState::Stopped) { self.about_strays() } else { None };
                let notes: Vec<String> =
                    [note, strays.unwrap_or_default()].into_iter().filter(|n| !n.is_empty()).collect();
                self.result(client, Reply::Done { note: notes.join("; ") });
            }
            Some(CommandResult::Busy(why)) => self.refuse(client, RefusalCode::Busy, why),
            Some(CommandResult::Failed(message)) => {
                let last_lines = part.unit.map_or_else(Vec::new, |unit| self.written(unit, part.mark));
                let refusal = Refusal { last_lines, ..Refusal::new(RefusalCode::Failed, message) };
                self.send(client, &Line::Error(refusal));
            }
            Some(CommandResult::Reload { .. }) | None => {
                let reloads = vec![self.reload_reply(part)];
                self.result(client, Reply::Reloads { reloads });
            }
        }
    }

    /// The last lines that a unit has written since a mark.
    fn written(&self, index: usize, mark: u64) -> Vec<String> {
        let Some(unit) = self.units.get(index) else { return Vec::new() };
        let mut lines: Vec<String> =
            unit.log.since(mark).rev().take(LAST_LINES).map(|line| line.text.clone()).collect();
        lines.reverse();
        lines
    }

    fn reload_reply(&self, part: Part) -> ReloadReply {
        let by_reload = matches!(part.result, Some(CommandResult::Reload { .. }));
        let (outcome, reason) = match part.result {
            None => (None, "under way".to_owned()),
            Some(CommandResult::Reload { outcome, reason }) => (Some(outcome), reason),
            Some(CommandResult::Done(note)) => (Some(Outcome::Promoted), note),
            Some(CommandResult::Busy(why)) => (Some(Outcome::Refused), why),
            Some(CommandResult::Failed(why)) => (Some(Outcome::Failed), why),
        };
        let (unit, file) = (part.name, part.file);
        let failed = matches!(outcome, Some(Outcome::RolledBack | Outcome::Failed | Outcome::Aborted));
        let here = part.unit.and_then(|index| self.units.get(index));
        let took = here.filter(|known| known.name == unit).and_then(|known| known.history.back());
        let took = took.filter(|record| by_reload && file.is_none() && Some(record.outcome) == outcome);
        let took = took.map(|record| record.duration);
        let Some(known) = here.filter(|known| failed && file.is_none() && known.name == unit) else {
            return ReloadReply { unit, outcome, file, reason, took, last_lines: Vec::new() };
        };
        let mut last_lines = match known.history.back() {
            Some(record) if record.outcome != Outcome::Promoted => record.last_lines.clone(),
            _ => Vec::new(),
        };
        let launched = known.history.back().and_then(|record| record.new_generation);
        if let (true, None, Some(index)) = (last_lines.is_empty(), launched, part.unit) {
            // Nothing was launched but hooks: a pre-flight check says why in its own words.
            last_lines = self.written(index, part.mark);
        }
        let new = known.history.back().filter(|_| last_lines.is_empty()).and_then(|r| r.new_generation);
        let words = known.last_words.as_ref().filter(|words| Some(words.generation.0) == new);
        let reason = match words.and_then(|words| words.went_to.as_ref()).and_then(where_to_look) {
            Some(place) => format!("{reason}; {place}: StandardError = \"log\" would show it here"),
            None => reason,
        };
        let reason = match &known.releases.still_there {
            Some(still) if outcome == Some(Outcome::RolledBack) => format!("{reason}; {still}"),
            _ => reason,
        };
        ReloadReply { unit, outcome, file, reason, took, last_lines }
    }
}

/// Where a failed generation's last words went, if not through us.
fn where_to_look(output: &Output) -> Option<&'static str> {
    match output {
        Output::Log => None,
        Output::Null => Some("what it wrote to standard error went nowhere"),
        Output::Inherit => Some("what it wrote is where aeternad's own output goes"),
        Output::Socket | Output::File(_) | Output::Append(_) => {
            Some("what it wrote is where StandardError says")
        }
    }
}
