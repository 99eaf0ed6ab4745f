//! Requests on the control socket: what is asked goes to the machines, what they answer goes back.

mod answer;
mod load;
mod past;
mod saved;

pub use answer::{Part, Pending};
pub use past::elsewhere;
pub use saved::SavedPending;

use crate::daemon::control::ClientId;
use crate::daemon::core::Daemon;
use crate::daemon::event_loop::ACCEPT_PAUSE;
use crate::daemon::files::How;
use crate::daemon::token::Owner;
use crate::daemon::upgrade::{self, Wish};
use crate::machine::event::{Command, Gen};
use crate::proto::control::{Line, Refusal, RefusalCode, Reply, Request};
use crate::sys::poll::{Interest, Readiness, Token};
use crate::sys::{clock, message, peer};
use crate::time::Span;
use crate::unit::print;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

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

    /// Answers that a request is not carried out.
    pub fn refuse(&mut self, id: ClientId, code: RefusalCode, message: String) {
        self.send(id, &Line::Error(Refusal::new(code, message)));
    }

    fn request(&mut self, id: ClientId, request: Request) {
        match request {
            Request::Version => self.result(id, Reply::Version { version: env!("CARGO_PKG_VERSION").into() }),
            Request::Status { unit } => self.status_request(id, unit.as_deref()),
            Request::History { unit } => self.history_request(id, &unit),
            Request::Show { unit } => self.show_request(id, &unit),
            Request::Events { unit, lines, since, follow } => {
                self.events_request(id, unit, (lines, since), follow);
            }
            Request::Logs { unit, generation, lines, since, follow } => {
                self.logs_request(id, &unit, generation, (lines, since), follow);
            }
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
                let command = Command::Reload { force, remember: false, reason };
                if all {
                    self.load_request(id, wait, &How::All(command));
                } else {
                    self.reload_request(id, &units, wait, &command);
                }
            }
            Request::Load { wait, dry_run: false } => self.load_request(id, wait, &How::Changed),
            Request::Load { dry_run: true, .. } => self.dry_load(id, &How::Changed),
            Request::Rollback { unit, to, dry_run: true } => self.dry_rollback(id, &unit, to.map(Gen)),
            Request::Rollback { unit, to, dry_run: false } => {
                self.reload_request(id, &[unit], true, &Command::Rollback { to: to.map(Gen) })
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
    pub fn find_units(&mut self, id: ClientId, names: &[String]) -> Option<Vec<usize>> {
        if names.is_empty() {
            self.refuse(id, RefusalCode::BadRequest, "no unit named".into());
            return None;
        }
        let mut found: Vec<usize> = Vec::new();
        for name in names {
            let Some(index) = self.unit_named(name) else {
                if let Some(unusable) = self.unusable(name) {
                    let text = format!("{name} cannot be used:\n{}", unusable.why);
                    self.refuse(id, RefusalCode::Failed, text);
                    return None;
                }
                let known: Vec<&str> = self.units_here().map(|(_, unit)| unit.name.as_str()).collect();
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
                if self.unit_named(name).is_none() && self.unusable(name).is_some() {
                    let status = self.status_of_unusable(name);
                    return self.result(id, Reply::Status(Box::new(status)));
                }
                let Some(found) = self.find_units(id, &[name.to_owned()]) else { return };
                found.iter().for_each(|index| self.look_at_releases(*index));
                self.status(found.first().copied())
            }
        };
        self.result(id, Reply::Status(Box::new(status)));
    }

    fn history_request(&mut self, id: ClientId, name: &str) {
        let Some(found) = self.find_units(id, &[name.to_owned()]) else { return };
        for index in found {
            let unit = &self.units[index];
            let reply =
                Reply::History { unit: unit.name.clone(), reloads: unit.history.iter().cloned().collect() };
            self.result(id, reply);
        }
    }

    fn show_request(&mut self, id: ClientId, name: &str) {
        let Some(found) = self.find_units(id, &[name.to_owned()]) else { return };
        for index in found {
            let unit = &self.units[index];
            let text = print(&unit.current.unit);
            let reply = Reply::Unit { unit: unit.name.clone(), text };
            self.result(id, reply);
        }
    }

    fn dry_run(&mut self, id: ClientId, names: &[String], all: bool) {
        if all {
            let command = Command::Reload { force: false, remember: false, reason: String::new() };
            return self.dry_load(id, &How::All(command));
        }
        let Some(found) = self.find_units(id, names) else { return };
        self.tell_differences(id, String::new(), found);
    }

    /// What these units' files would change, after `text`.
    fn tell_differences(&mut self, id: ClientId, text: String, found: Vec<usize>) {
        if let Err(why) = self.try_reloads(id, text, &found) {
            self.refuse(id, RefusalCode::Failed, why);
        }
    }

    fn unit_request(&mut self, id: ClientId, name: String, command: Command) {
        if matches!(command, Command::Start | Command::Restart) && self.start_unusable(id, &name) {
            return;
        }
        let Some(found) = self.find_units(id, &[name]) else { return };
        self.ask(id, &found, &command, false);
    }

    fn reload_request(&mut self, id: ClientId, names: &[String], wait: bool, command: &Command) {
        if let ([name], Command::Reload { .. }) = (names, command)
            && self.start_unusable(id, name)
        {
            return;
        }
        let Some(found) = self.find_units(id, names) else { return };
        self.ask(id, &found, command, true);
        self.answer_now_unless(id, wait);
    }

    /// Whoever does not wait hears now that it is under way.
    fn answer_now_unless(&mut self, id: ClientId, wait: bool) {
        if !wait && let Some(at) = self.pending.iter().position(|pending| pending.client == id) {
            let pending = self.pending.remove(at);
            self.answer(pending);
        }
    }
}
