//! Requests on the control socket: what is asked goes to the machines, what they answer goes back.

mod saved;

pub use saved::SavedPending;

use crate::daemon::control::ClientId;
use crate::daemon::core::Daemon;
use crate::daemon::event_loop::ACCEPT_PAUSE;
use crate::daemon::token::Owner;
use crate::daemon::upgrade::{self, Wish};
use crate::machine::event::{Command, CommandResult, Event, Gen, Req};
use crate::proto::control::{Line, Refusal, RefusalCode, ReloadReply, Reply, Request};
use crate::proto::status::{Outcome, UnitState};
use crate::sys::poll::{Interest, Readiness, Token};
use crate::sys::{clock, message, peer};
use crate::time::Span;
use crate::unit::{Output, print};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// A request that waits for its end.
#[derive(Debug)]
pub struct Pending {
    /// Who asked.
    pub client: ClientId,
    /// Every unit that it is about, in the order asked for.
    parts: Vec<Part>,
    /// Whether the answer is a list of reloads.
    reload: bool,
}

#[derive(Debug)]
struct Part {
    req: Req,
    unit: usize,
    result: Option<CommandResult>,
}

/// How many clients are accepted in one turn, and how long requests are carried out in one: what other clients and units
/// have to say is not put off for longer.
const MAX_TURN: usize = 16;
const TURN_TIME: Span = Span::from_millis(20);

/// A client's place in the poll set. Numbers are never used again, and nobody connects four billion times.
pub fn token(id: ClientId) -> Token {
    Owner::Client(id.0 as u32).token()
}

impl Daemon {
    /// Takes new control clients.
    pub fn accept_clients(&mut self) {
        // Whoever connects without end is served with the others: the rest rings again.
        for _ in 0..MAX_TURN {
            match message::accept(self.control.as_fd()) {
                Ok(Some(stream)) => self.greet(stream.into()),
                Ok(None) => return,
                Err(error) => return self.pause_control(&error),
            }
        }
    }

    /// Out of descriptors, most likely: the client waits in the queue meanwhile, and would ring at once.
    fn pause_control(&mut self, error: &std::io::Error) {
        log::warn!("cannot accept a control client: {error}; the next try is in {ACCEPT_PAUSE}");
        self.control_again = clock::now().after(ACCEPT_PAUSE);
        let _ = self.poller.change(Owner::Control.token(), self.control.as_fd(), Interest::HANGUP_ONLY);
    }

    /// The pause is over.
    pub fn resume_control(&mut self) {
        self.control_again = None;
        let _ = self.poller.change(Owner::Control.token(), self.control.as_fd(), Interest::READ);
    }

    fn greet(&mut self, stream: UnixStream) {
        // Mode 0600 keeps others out already; credentials do where the path's mode is not looked at.
        let who = match peer::peer_credentials(stream.as_fd()) {
            Ok(who) => who,
            Err(error) => return log::warn!("cannot see who a control client is: {error}"),
        };
        match self.clients.accept(stream, who.uid) {
            Ok(id) => {
                let added =
                    self.clients.stream(id).map(|fd| self.poller.add(token(id), fd.as_fd(), Interest::READ));
                if let Some(Err(error)) = added {
                    log::warn!("cannot watch a control client: {error}");
                    self.clients.close(id);
                }
            }
            Err(why) => {
                self.web.metrics.on_control_error();
                log::warn!("a control client was refused: {why:?}");
            }
        }
    }

    /// A control client can be read or written.
    pub fn client_ready(&mut self, id: u32, readiness: Readiness) {
        let id = ClientId(u64::from(id));
        if readiness.readable || readiness.error {
            self.clients.on_readable(id, clock::now());
        }
        if readiness.hangup {
            // A request that takes its time would otherwise let it ring all the while.
            if let Some(stream) = self.clients.stream(id) {
                let _ = self.poller.remove(stream.as_fd());
            }
            self.clients.on_hangup(id, clock::now());
        }
        if readiness.writable {
            self.clients.on_writable(id);
        }
        if readiness.error {
            self.clients.close(id);
        }
    }

    /// Carries out what clients ask, and brings the poll set up to date with them. Last in a turn.
    pub fn serve_clients(&mut self) {
        let end = clock::now() + TURN_TIME;
        while let Some((id, request)) = self.clients.next_request(clock::now()) {
            self.request(id, request);
            if clock::now() >= end {
                // What has been read already rings no more by itself.
                self.waker.wake();
                break;
            }
        }
        for _ in 0..self.clients.take_refused() {
            self.web.metrics.on_control_error();
        }
        for (id, stream) in self.clients.take_ended() {
            let _ = self.poller.remove(stream.as_fd());
            // What it asked for goes on; nobody hears of its end.
            self.pending.retain(|wait| wait.client != id);
        }
        for (id, wants) in self.clients.take_changes() {
            let Some(stream) = self.clients.stream(id) else { continue };
            let interest = Interest { read: wants.read, write: wants.write };
            if let Err(error) = self.poller.change(token(id), stream.as_fd(), interest) {
                log::warn!("cannot watch a control client: {error}");
            }
        }
    }

    /// Queues a line for a client.
    fn send(&mut self, id: ClientId, line: &Line) {
        self.clients.send(id, line);
    }

    fn refuse(&mut self, id: ClientId, code: RefusalCode, message: String) {
        self.send(id, &Line::Error(Refusal { code, message }));
    }

    fn request(&mut self, id: ClientId, request: Request) {
        match request {
            Request::Version => self.result(id, Reply::Version { version: env!("CARGO_PKG_VERSION").into() }),
            Request::Status { unit } => self.status_request(id, unit.as_deref()),
            Request::History { unit } => self.history_request(id, &unit),
            Request::Show { unit } => self.show_request(id, &unit),
            Request::Events { unit } => self.events_request(id, unit),
            Request::DryRun { units, all } => self.dry_run(id, &units, all),
            Request::Page => match self.web.page_address() {
                Ok(note) => self.result(id, Reply::Done { note }),
                Err(why) => self.refuse(id, RefusalCode::Failed, why),
            },
            Request::Upgrade { program, check, timeout } => {
                let patience =
                    timeout.map_or(upgrade::PATIENCE, |seconds| Span((seconds.clamp(0.0, 1e6) * 1e9) as u64));
                let program = program.map(std::path::PathBuf::from);
                self.ask_upgrade(Some(id), &Wish { program, only_check: check, patience });
            }
            Request::Reload { units, all, wait, force, reason } => {
                self.reload_request(
                    id,
                    &units,
                    all,
                    wait,
                    &Command::Reload { force, remember: false, reason },
                );
            }
            Request::Rollback { unit, to } => {
                self.reload_request(id, &[unit], false, true, &Command::Rollback { to: to.map(Gen) })
            }
            Request::DropRelease { unit, generation } => {
                self.unit_request(id, unit, Command::DropRelease(Gen(generation)))
            }
            Request::Promote { unit } => self.unit_request(id, unit, Command::Promote),
            Request::Start { unit } => self.unit_request(id, unit, Command::Start),
            Request::Stop { unit, close } => self.unit_request(id, unit, Command::Stop { close }),
            Request::Restart { unit } => self.unit_request(id, unit, Command::Restart),
            Request::Kill { unit, signal, generation } => {
                if (1..=64).contains(&signal) {
                    self.unit_request(id, unit, Command::Kill { signal, generation: generation.map(Gen) });
                } else {
                    self.refuse(id, RefusalCode::BadRequest, format!("{signal} is not a signal"));
                }
            }
        }
    }

    /// Answers a request.
    pub fn result(&mut self, id: ClientId, reply: Reply) {
        self.send(id, &Line::Result(reply));
    }

    /// Finds the units that a request names, or answers that one is not there.
    fn find_units(&mut self, id: ClientId, names: &[String], all: bool) -> Option<Vec<usize>> {
        if all {
            return Some((0..self.units.len()).collect());
        }
        if names.is_empty() {
            self.refuse(id, RefusalCode::BadRequest, "no unit named".into());
            return None;
        }
        let mut found: Vec<usize> = Vec::new();
        for name in names {
            let Some(index) = self.unit_named(name) else {
                let known: Vec<&str> = self.units.iter().map(|unit| unit.name.as_str()).collect();
                let text = format!("no unit is called \"{name}\"; there is {}", known.join(", "));
                self.refuse(id, RefusalCode::NoSuchUnit, text);
                return None;
            };
            if !found.contains(&index) {
                found.push(index);
            }
        }
        Some(found)
    }

    fn status_request(&mut self, id: ClientId, unit: Option<&str>) {
        let status = match unit {
            None => self.status(None),
            Some(name) => {
                let Some(found) = self.find_units(id, &[name.to_owned()], false) else { return };
                self.status(found.first().copied())
            }
        };
        self.result(id, Reply::Status(Box::new(status)));
    }

    fn history_request(&mut self, id: ClientId, name: &str) {
        let Some(found) = self.find_units(id, &[name.to_owned()], false) else { return };
        for index in found {
            let unit = &self.units[index];
            let reply =
                Reply::History { unit: unit.name.clone(), reloads: unit.history.iter().cloned().collect() };
            self.result(id, reply);
        }
    }

    fn show_request(&mut self, id: ClientId, name: &str) {
        let Some(found) = self.find_units(id, &[name.to_owned()], false) else { return };
        for index in found {
            let unit = &self.units[index];
            let text = print(&unit.current.unit);
            let reply = Reply::Unit { unit: unit.name.clone(), text };
            self.result(id, reply);
        }
    }

    fn events_request(&mut self, id: ClientId, unit: Option<String>) {
        if let Some(name) = &unit
            && self.find_units(id, std::slice::from_ref(name), false).is_none()
        {
            return;
        }
        self.clients.subscribe(id, unit.as_deref());
    }

    fn dry_run(&mut self, id: ClientId, names: &[String], all: bool) {
        let Some(found) = self.find_units(id, names, all) else { return };
        let mut text = String::new();
        let mut units = Vec::new();
        for index in found {
            match self.differences(index) {
                Ok((lines, changes)) => {
                    text.push_str(&lines);
                    units.push(changes);
                }
                Err(why) => return self.refuse(id, RefusalCode::Failed, why),
            }
        }
        self.result(id, Reply::Changes { text, units });
    }

    fn unit_request(&mut self, id: ClientId, name: String, command: Command) {
        let Some(found) = self.find_units(id, &[name], false) else { return };
        self.ask(id, &found, &command, false);
    }

    fn reload_request(&mut self, id: ClientId, names: &[String], all: bool, wait: bool, command: &Command) {
        let Some(found) = self.find_units(id, names, all) else { return };
        self.ask(id, &found, command, true);
        if !wait && let Some(at) = self.pending.iter().position(|pending| pending.client == id) {
            // Under way: whoever does not wait hears so now.
            let pending = self.pending.remove(at);
            self.answer(pending);
        }
    }

    /// Hands a command to units and waits for their answers.
    fn ask(&mut self, client: ClientId, units: &[usize], command: &Command, reload: bool) {
        let parts: Vec<Part> =
            units.iter().map(|unit| Part { req: self.new_req(), unit: *unit, result: None }).collect();
        let asked: Vec<(Req, usize)> = parts.iter().map(|part| (part.req, part.unit)).collect();
        for unit in units {
            // Its progress, until the answer.
            self.clients.subscribe(client, Some(&self.units[*unit].name));
        }
        self.pending.push(Pending { client, parts, reload });
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
        let Some(at) = self.pending.iter().position(|wait| wait.parts.iter().any(|part| part.req == req))
        else {
            return;
        };
        log::debug!("{}: request {} ends: {result:?}", self.units[index].name, req.0);
        let waits = &mut self.pending[at];
        if let Some(part) = waits.parts.iter_mut().find(|part| part.req == req) {
            part.result = Some(result);
        }
        if waits.parts.iter().all(|part| part.result.is_some()) {
            let pending = self.pending.remove(at);
            self.answer(pending);
        }
    }

    fn answer(&mut self, pending: Pending) {
        let client = pending.client;
        let reloads_only =
            |result: &Option<CommandResult>| matches!(result, None | Some(CommandResult::Reload { .. }));
        let single = pending.parts.len() == 1;
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
                let stopped = self.units[part.unit].machine.summary().state == UnitState::Stopped;
                let strays = if stopped { self.about_strays() } else { None };
                let notes: Vec<String> =
                    [note, strays.unwrap_or_default()].into_iter().filter(|n| !n.is_empty()).collect();
                self.result(client, Reply::Done { note: notes.join("; ") });
            }
            Some(CommandResult::Busy(why)) => self.refuse(client, RefusalCode::Busy, why),
            Some(CommandResult::Failed(why)) => self.refuse(client, RefusalCode::Failed, why),
            Some(CommandResult::Reload { .. }) | None => {
                let reloads = vec![self.reload_reply(part)];
                self.result(client, Reply::Reloads { reloads });
            }
        }
    }

    fn reload_reply(&self, part: Part) -> ReloadReply {
        let unit = &self.units[part.unit];
        let (outcome, reason) = match part.result {
            None => (None, "under way".to_owned()),
            Some(CommandResult::Reload { outcome, reason }) => (Some(outcome), reason),
            Some(CommandResult::Done(note)) => (Some(Outcome::Promoted), note),
            Some(CommandResult::Busy(why)) => (Some(Outcome::Refused), why),
            Some(CommandResult::Failed(why)) => (Some(Outcome::Failed), why),
        };
        let failed = matches!(outcome, Some(Outcome::RolledBack | Outcome::Failed | Outcome::Aborted));
        let last_lines = match unit.history.back() {
            Some(record) if failed && record.outcome != Outcome::Promoted => record.last_lines.clone(),
            _ => Vec::new(),
        };
        let new =
            unit.history.back().filter(|_| failed && last_lines.is_empty()).and_then(|r| r.new_generation);
        let words = unit.last_words.as_ref().filter(|words| Some(words.generation.0) == new);
        let reason = match words.and_then(|words| words.went_to.as_ref()).and_then(where_to_look) {
            Some(place) => format!("{reason}; {place}: StandardError = \"log\" would show it here"),
            None => reason,
        };
        let reason = match &unit.releases.still_there {
            Some(still) if outcome == Some(Outcome::RolledBack) => format!("{reason}; {still}"),
            _ => reason,
        };
        ReloadReply { unit: unit.name.clone(), outcome, reason, last_lines }
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
