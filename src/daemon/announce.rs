//! Facts become one line of the log, one line of the event stream, and an entry of the history.

use crate::daemon::core::Daemon;
use crate::machine::event::{Announcement, Exit, Failure, Gen, Relayed, ReloadRecord, Share};
use crate::proto::status::{CheckStatus, CheckVerdict, EventLine, UnitState};
use crate::sys::clock;
use log::Level;

/// A fact in words, with what programs read beside them.
struct Told {
    level: Level,
    kind: &'static str,
    text: String,
    generation: Option<u32>,
    pid: Option<i32>,
}

impl Told {
    fn new(level: Level, kind: &'static str, text: String) -> Told {
        Told { level, kind, text, generation: None, pid: None }
    }

    fn of(mut self, generation: Gen) -> Told {
        self.generation = Some(generation.0);
        self
    }

    fn with(mut self, pid: i32) -> Told {
        self.pid = Some(pid);
        self
    }
}

impl Daemon {
    /// Logs a fact and streams it to whoever follows.
    pub fn announce(&mut self, index: usize, fact: Announcement) {
        let told = tell(&fact);
        let unit = &mut self.units[index];
        log::log!(told.level, "{}: {}", unit.name, told.text);
        if let Announcement::Restarting { result } = &fact {
            *unit.restarts.entry(result.clone()).or_default() += 1;
        }
        let mut line = EventLine {
            time: clock::unix_time(),
            unit: unit.name.clone(),
            kind: told.kind.to_owned(),
            text: told.text,
            generation: told.generation,
            state: None,
            lasted: None,
            pid: told.pid,
            outcome: None,
        };
        match &fact {
            Announcement::State { to, lasted, generation, .. } => {
                line.generation = generation.map(|Gen(number)| number);
                line.state = Some(*to);
                line.lasted = Some(lasted.as_secs_f64());
            }
            Announcement::Reloaded { outcome, .. } => line.outcome = Some(*outcome),
            _ => {}
        }
        self.web.announced(&line.unit, &fact, &line);
        self.clients.broadcast(&line);
    }

    /// A reload is over.
    pub fn record(&mut self, index: usize, mut record: ReloadRecord) {
        record.started_at = clock::unix_time() - record.duration;
        let usage = self.take_usage(index, record.new_generation, record.old_generation);
        record.usage = usage.map(Box::new);
        let unit = &mut self.units[index];
        // Whatever is still being read for it is in vain.
        unit.checking = None;
        if record.new_generation.is_some() {
            record.shares = unit.sockets.take_shares();
        }
        if record.outcome != crate::proto::status::Outcome::Promoted
            && let Some(number) = record.new_generation
        {
            record.last_lines = unit.last_lines(Gen(number));
        }
        let moved = unit.sockets.settle_moved(record.outcome == crate::proto::status::Outcome::Promoted);
        for text in &moved {
            log::warn!("{}: {text}", unit.name);
        }
        self.web.recorded(&unit.name, &record);
        unit.remember(record);
        if !moved.is_empty() {
            self.follow_sockets(index);
        }
    }
}

fn tell(fact: &Announcement) -> Told {
    match fact {
        Announcement::State { from, to, why, .. } => changed(*from, *to, why),
        Announcement::Started { generation, worker, pid } => {
            let worker = if *worker == 0 { String::new() } else { format!(", worker {worker}") };
            Told::new(
                Level::Info,
                "started",
                format!("generation {}{worker} started, pid {pid}", generation.0),
            )
            .of(*generation)
            .with(*pid)
        }
        Announcement::Ready { generation } => {
            Told::new(Level::Info, "ready", format!("generation {} is ready", generation.0)).of(*generation)
        }
        Announcement::Ended { generation, pid, exit, expected, .. } => {
            let level = if *expected { Level::Info } else { Level::Warn };
            Told::new(level, "ended", format!("generation {}, pid {pid}, {}", generation.0, ending(*exit)))
                .of(*generation)
                .with(*pid)
        }
        Announcement::Restarting { result } => {
            Told::new(Level::Warn, "restarting", format!("restarting it ({result})"))
        }
        Announcement::Step { generation, text } => Told {
            generation: generation.map(|number| number.0),
            ..Told::new(Level::Info, "step", text.clone())
        },
        Announcement::Weight { generation, weight } => {
            let text = format!("generation {} gets {weight} % of new connections", generation.0);
            Told::new(Level::Info, "weight", text).of(*generation)
        }
        Announcement::Measured { generation, share } => measured(*generation, *share),
        Announcement::Health { generation, result, detail } => probed(*generation, result, detail),
        Announcement::Analysis { check } => judged(check),
        Announcement::Handover { relayed } => handed_over(relayed),
        Announcement::Status { generation, text } => {
            Told::new(Level::Info, "status", format!("generation {} says: {text}", generation.0))
                .of(*generation)
        }
        Announcement::Reloaded { outcome, reason } => {
            let good = *outcome == crate::proto::status::Outcome::Promoted;
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            let level = if good { Level::Info } else { Level::Error };
            Told::new(level, "reloaded", format!("reload {}{why}", outcome.name()))
        }
        Announcement::StartFailed { generation, text } => {
            Told::new(Level::Error, "failed", text.clone()).of(*generation)
        }
        Announcement::ReleaseGone { generation, text } => Told {
            generation: generation.map(|number| number.0),
            ..Told::new(Level::Warn, "release_gone", text.clone())
        },
        Announcement::Warning { text } => Told::new(Level::Warn, "warning", text.clone()),
    }
}

fn probed(generation: Gen, result: &str, detail: &str) -> Told {
    let level = if result == "pass" { Level::Debug } else { Level::Warn };
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    Told::new(level, "health", format!("health check of generation {}: {result}{detail}", generation.0))
        .of(generation)
}

fn changed(from: UnitState, to: UnitState, why: &str) -> Told {
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    let level = if to == UnitState::Failed { Level::Error } else { Level::Info };
    Told::new(level, "state", format!("{} → {}{why}", from.name(), to.name()))
}

fn judged(check: &CheckStatus) -> Told {
    let level = if check.verdict == CheckVerdict::Fail { Level::Warn } else { Level::Info };
    let text = if check.text.is_empty() { "no look said anything" } else { &check.text };
    // What was not seen is worth as much as what could have been.
    let noticed = check.noticed_from.filter(|_| check.verdict != CheckVerdict::Fail);
    let noticed = noticed.map_or(String::new(), |share| {
        format!("; from {:.1} % on it would have been noticed", share * 100.0)
    });
    Told::new(level, "analysis", format!("check {}: {}: {text}{noticed}", check.name, check.verdict.name()))
}

fn measured(generation: Gen, share: Share) -> Told {
    let text = format!(
        "generation {} got {:.1} % of {} new connections while {} % were asked for",
        generation.0,
        share.share.unwrap_or_default(),
        share.connections.unwrap_or_default(),
        share.weight
    );
    Told::new(Level::Info, "weight", text).of(generation)
}

fn handed_over(relayed: &Relayed) -> Told {
    let (from, to) = (relayed.from.0, relayed.to.0);
    let told = match &relayed.result {
        Ok(()) => {
            let milliseconds = relayed.took.as_secs_f64() * 1e3;
            let text = format!(
                "generation {to} has the state of generation {from}: {} bytes in {} frames, {} descriptors, {milliseconds:.1} ms",
                relayed.bytes, relayed.frames, relayed.descriptors
            );
            Told::new(Level::Info, "handover", text)
        }
        Err(Failure { why, .. }) => {
            let text = format!("no state from generation {from} to generation {to}: {why}");
            Told::new(Level::Warn, "handover", text)
        }
    };
    told.of(relayed.to)
}

/// How a process ended, as the rest of a sentence.
pub fn ending(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal { signal, core } => {
            let dumped = if core { " and dumped core" } else { "" };
            format!("was ended by {}{dumped}", crate::unit::signal_name(signal))
        }
        Exit::Unknown => "is gone, nobody knows how".to_owned(),
    }
}
