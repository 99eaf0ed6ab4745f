//! The main loop's part of HTTP: the daemon shows itself, and commands go to the machines.

use super::answer::{Task, View, answer_to, task};
use super::facts;
use crate::daemon::core::Daemon;
use crate::daemon::requests::elsewhere;
use crate::daemon::supervised::Supervised;
use crate::machine::event::{Busy, Command, Event};
use crate::proto::http::guard::{self, Holder};
use crate::proto::http::response::Response;
use crate::proto::metrics::MetricsInput;
use crate::proto::status::{LogLine, ReloadRecord, Status, UnitStatus, nobody_has};
use crate::sys::{clock, process};
use crate::time::Span;

/// How long calls are answered in one turn.
const TURN_TIME: Span = Span::from_millis(20);

impl Daemon {
    /// Answers everything that was asked over HTTP.
    pub fn serve_http(&mut self) {
        let end = clock::now() + TURN_TIME;
        while let Some(call) = self.web.next_call() {
            let response = match task(&call.call, self) {
                // Only of orders, and of what is as good as one, it is known who asks.
                _ if self.any_of_a_unit(&call.holders) => {
                    log::warn!("http: {} asks for {:?}: a unit's process; refused", call.peer, call.call);
                    let text = "a process of a unit holds this connection, and may change nothing";
                    Response::error(403, text, guard::TOKENLESS)
                }
                Task::Answer(response) => response,
                Task::Command { units, command, location } => {
                    log::info!("http: {} asks for {:?}", call.peer, call.call);
                    self.http_command(&units, &command, &location)
                }
            };
            // Whoever asked may have gone.
            let _ = call.reply.send(response);
            if clock::now() >= end {
                // Whoever was answered may ask again at once, without end.
                self.waker.wake();
                break;
            }
        }
    }

    /// Whether one of these processes belongs to a unit, or has ended: then nobody knows.
    fn any_of_a_unit(&self, holders: &[Holder]) -> bool {
        holders.iter().any(|Holder { pid, started, .. }| {
            let member = |unit: &Supervised| {
                unit.children.values().any(|child| child.pid == *pid)
                    || unit.generations.keys().any(|number| self.is_member(unit, *number, *pid))
            };
            self.units.iter().any(member) || process::start_time(*pid) != Some(*started)
        })
    }

    fn http_command(&mut self, units: &[String], command: &Command, location: &str) -> Response {
        for name in units {
            let Some(index) = self.unit_named(name) else { continue };
            let req = self.new_req();
            self.web.expect(req, name);
            self.queue.push_back((index, Event::Command { req: Some(req), command: command.clone() }));
        }
        self.settle();
        answer_to(&self.web.take_replies(), location)
    }
}

impl View for Daemon {
    fn status(&self) -> Status {
        Daemon::status(self, None)
    }

    fn unit(&self, name: &str) -> Option<UnitStatus> {
        let Some(index) = self.unit_named(name) else { return self.unusable_status(Some(name)).pop() };
        // Everybody may read this; what services write not everybody.
        let unit = Daemon::status(self, Some(index)).units.pop()?;
        Some(UnitStatus { last_lines: Vec::new(), ..unit })
    }

    fn history(&self, name: &str) -> Option<Vec<ReloadRecord>> {
        let unit = &self.units[self.unit_named(name)?];
        let plain = |record: &ReloadRecord| ReloadRecord { last_lines: Vec::new(), ..record.clone() };
        Some(unit.history.iter().map(plain).collect())
    }

    fn logs(
        &self,
        name: &str,
        generation: Option<u32>,
        lines: usize,
    ) -> Option<(Vec<LogLine>, Option<String>)> {
        let unit = &self.units[self.unit_named(name)?];
        let found = unit.log.last(lines, generation);
        let why = elsewhere(&unit.current.unit.service).filter(|_| found.is_empty());
        Some((found, why.map(|why| format!("Its output does not come through aeternad: {why}"))))
    }

    fn metrics(&self) -> String {
        let status = self.figures();
        self.web.metrics.render(&MetricsInput {
            status: &status,
            totals: &self.totals(&status),
            ready: self.unready().is_none(),
            orphans: self.orphans,
            process: facts::process(),
        })
    }

    fn unready(&self) -> Option<String> {
        if self.stopping {
            return Some("aeternad is stopping".to_owned());
        }
        let unusable = self.files.unusable.iter().map(|one| format!("{} is FAILED", one.name));
        let mut rest: Vec<String> = self
            .units_here()
            .filter_map(|(_, unit)| match unit.summary {
                Some(now) if now.state.serves(now.reloading) => None,
                Some(now) => Some(format!("{} is {}", unit.name, now.state.name())),
                None => Some(format!("{} has not begun", unit.name)),
            })
            .chain(unusable)
            .collect();
        for (_, unit) in self.units_here().filter(|(_, unit)| {
            !unit.generations.is_empty() && unit.summary.is_some_and(|now| now.state.serves(now.reloading))
        }) {
            rest.extend(unit.sockets.unserved().map(|address| nobody_has(&unit.name, address)));
        }
        if rest.is_empty() { None } else { Some(rest.join(", ")) }
    }

    fn names(&self) -> Vec<String> {
        self.staying().into_iter().map(|index| self.units[index].name.clone()).collect()
    }

    fn busy(&self, unit: &str) -> Option<Busy> {
        self.units.get(self.unit_named(unit)?)?.machine.busy(clock::now())
    }

    fn is_stopping(&self) -> bool {
        self.stopping
    }
}
