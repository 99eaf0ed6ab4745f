//! Commands that wait for the daemon: reload, rollback, start, stop, restart and their like.

use super::after;
use super::client::{Client, Next, Target};
use super::command::{Past, Task};
use super::failure::Failure;
use super::interrupt::{Cause, Interrupt, Watch};
use super::output::Output;
use super::render::{Progress, outcomes};
use super::show::ask_status;
use crate::error::exit;
use crate::proto::control::{Line, ReloadReply, Reply, Request, UpgradeOutcome, UpgradeReply};
use crate::proto::harmless::is_seen;
use crate::proto::status::{Outcome, Status};
use crate::sys::clock;

/// Carries a task out: shows what happens meanwhile and what came of it. The exit status.
pub(super) fn run(target: &Target, task: &Task, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let mut progress = Progress::default();
    let (reply, mut waiting) = follow(target, task, json, &mut progress, output)?;
    if let (Reply::Reloads { reloads }, true) = (&reply, task.drained) {
        if !json {
            // What was promoted is promoted, whatever becomes of the drain.
            output.text(&outcomes(reloads, &progress, output.look()));
        }
        waiting.until_drained(task, reloads, &mut progress, output)?;
        if json {
            output.json(&reply);
        }
        return Ok(exit_status(reloads));
    }
    Ok(conclude(&reply, &progress, json, output))
}

/// Waits for the answer; shows events as they come.
fn follow(
    target: &Target,
    task: &Task,
    json: bool,
    progress: &mut Progress,
    output: &mut Output,
) -> Result<(Reply, Waiting), Failure> {
    let mut client = Client::connect(target)?;
    let cannot_wait = |error| Failure::Broken(format!("cannot wait for the answer: {error}"));
    let interrupt = Interrupt::catch().map_err(cannot_wait)?;
    let live = output.is_live() && !json;
    if live {
        client.tick_every_second().map_err(cannot_wait)?;
    }
    let asked = clock::now();
    client.send(&task.request)?;
    // The time counts from the request: however short it is, what was asked for is under way.
    let watch = client.handle().and_then(|socket| Watch::start(interrupt, socket, task.timeout));
    let watch = watch.map_err(cannot_wait)?;
    let mut waiting =
        Waiting { client, watch, glance: Glance::new(target, live), json, only: vec![], gone: false };
    let ended = loop {
        match waiting.next(task, progress, output) {
            Ok(Some(reply)) => break Ok(reply),
            Ok(None) => {}
            Err(failure) if waiting.gone => {
                break after::outcome(target, task, asked, &waiting.watch, output).ok_or(failure);
            }
            Err(failure) => break Err(failure),
        }
    };
    output.clear_live();
    ended.map(|reply| (reply, waiting))
}

/// A connection on which something is waited for.
struct Waiting {
    client: Client,
    watch: Watch,
    glance: Glance,
    json: bool,
    /// Whose events are shown; everybody's that are sent if empty.
    only: Vec<String>,
    /// Whether the daemon has hung up.
    gone: bool,
}

impl Waiting {
    /// Shows the next thing that happens; the answer, once it is here.
    fn next(
        &mut self,
        task: &Task,
        progress: &mut Progress,
        output: &mut Output,
    ) -> Result<Option<Reply>, Failure> {
        match self.client.next() {
            Ok(Next::Line(Line::Event(event))) if !self.json && self.shows(&event.unit) => {
                let text = progress.event(&event, output.look());
                if !text.is_empty() {
                    output.text(&text);
                }
            }
            Ok(Next::Line(Line::Event(_) | Line::Lines(_))) => {}
            Ok(Next::Line(Line::Result(reply))) => return Ok(Some(reply)),
            Ok(Next::Line(Line::Error(refusal))) => return Err(Failure::Refused(refusal)),
            Ok(Next::Tick) => {
                progress.tick();
                self.glance.at(progress);
            }
            Ok(Next::End) => {
                self.gone = self.watch.cause().is_none();
                return Err(broken_off(&self.watch, task));
            }
            // A socket that was shut down while a line arrived ends in the middle of it.
            Err(_) if self.watch.cause().is_some() => return Err(broken_off(&self.watch, task)),
            Err(failure) => return Err(failure),
        }
        if output.is_live() && !self.json {
            output.live(&progress.live());
        }
        Ok(None)
    }

    fn shows(&self, unit: &String) -> bool {
        self.only.is_empty() || self.only.contains(unit)
    }

    /// Waits until the generations that these reloads have replaced are gone.
    fn until_drained(
        &mut self,
        task: &Task,
        reloads: &[ReloadReply],
        progress: &mut Progress,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let promoted =
            |name: &str| reloads.iter().any(|one| one.unit == name && one.outcome == Some(Outcome::Promoted));
        let draining = |status: &Status| -> Vec<(String, u32)> {
            let units = status.units.iter().filter(|unit| promoted(&unit.name));
            let all = units.flat_map(|unit| unit.generations.iter().map(|one| (unit.name.clone(), one)));
            all.filter(|(_, one)| one.phase == "draining").map(|(name, one)| (name, one.number)).collect()
        };
        let task = Task { name: task.name.replacen("the reload", "the drain", 1), ..task.clone() };
        let cannot_wait = |error| Failure::Broken(format!("cannot wait for the drain: {error}"));
        // Also where nobody looks: what happens between the two requests is seen at the next look.
        self.client.tick_every_second().map_err(cannot_wait)?;
        self.client.send(&Past::default().events(None, clock::unix_time()))?;
        self.only = reloads.iter().map(|one| one.unit.clone()).collect();
        let mut waits: Option<Vec<(String, u32)>> = None;
        while waits.as_ref().is_none_or(|waits| !waits.is_empty()) {
            match (self.glance.ask(None), &mut waits) {
                (Ok(status), None) => waits = Some(draining(&status)),
                // One that a later reload has replaced is not ours to wait for.
                (Ok(status), Some(waits)) => {
                    let now = draining(&status);
                    waits.retain(|one| now.contains(one));
                }
                // It is busy: the connection that events come through says it if it has ended.
                (Err(Failure::TimedOut(_) | Failure::Broken(_)), _) => {}
                (Err(failure), _) => return Err(failure),
            }
            if waits.as_ref().is_none_or(|waits| !waits.is_empty()) {
                self.next(&task, progress, output)?;
            }
        }
        output.clear_live();
        for one in reloads.iter().filter(|one| !self.json && promoted(&one.unit)) {
            output.text(&progress.drained(&one.unit));
        }
        Ok(())
    }
}

/// What the daemon says of units while something is waited for: on a connection of its own.
struct Glance {
    target: Target,
    /// Whether somebody looks at it.
    live: bool,
    client: Option<Client>,
}

impl Glance {
    fn new(target: &Target, live: bool) -> Glance {
        Glance { target: target.clone(), live, client: None }
    }

    /// Lets the progress know; what does not answer at once is asked no more.
    fn at(&mut self, progress: &mut Progress) {
        let name = progress.latest().to_owned();
        if !self.live || name.is_empty() {
            return;
        }
        match self.ask(Some(name)) {
            Ok(status) => status.units.into_iter().for_each(|unit| progress.know(unit)),
            Err(_) => self.live = false,
        }
    }

    fn ask(&mut self, unit: Option<String>) -> Result<Status, Failure> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => {
                let client = Client::connect(&self.target)?;
                client
                    .tick_every_second()
                    .map_err(|error| Failure::Broken(format!("cannot wait for an answer: {error}")))?;
                client
            }
        };
        client.send(&Request::Status { unit })?;
        let status = ask_status(&mut client)?;
        // One that was late would take the next answer for its own.
        self.client = Some(client);
        Ok(status)
    }
}

/// Why there was no answer.
fn broken_off(watch: &Watch, task: &Task) -> Failure {
    let Task { name, see, .. } = task;
    match (watch.cause(), task.timeout) {
        (Some(Cause::Interrupted), _) => {
            Failure::Interrupted(format!("interrupted: {name} goes on in aeternad; \"{see}\" shows it"))
        }
        (Some(Cause::TimedOut), timeout) => {
            let within = timeout.map(|span| format!(" within {span}")).unwrap_or_default();
            Failure::TimedOut(format!(
                "{name} has not ended{within}: it goes on in aeternad; \"{see}\" shows it"
            ))
        }
        (None | Some(Cause::Unread), _) => Failure::Broken(format!(
            "aeternad closed the connection before it answered, so that nobody knows what came of {name}.\n\
             It may have stopped or crashed: see its log, and \"{see}\"."
        )),
    }
}

/// Shows the answer. The exit status.
fn conclude(reply: &Reply, progress: &Progress, json: bool, output: &mut Output) -> u8 {
    if json {
        output.json(reply);
    } else {
        let text = match reply {
            Reply::Reloads { reloads } => outcomes(reloads, progress, output.look()),
            Reply::Done { note } if note.is_empty() => "done\n".into(),
            Reply::Done { note } => lines(note),
            Reply::Changes { text, .. } => lines(text),
            Reply::Version { version } => lines(version),
            Reply::Upgrade(reply) => lines(&upgrade(reply)),
            Reply::Unit { text, .. } => lines(text),
            Reply::Status(_) | Reply::History { .. } => "done\n".into(),
        };
        output.text(&text);
    }
    match reply {
        Reply::Reloads { reloads } => exit_status(reloads),
        Reply::Upgrade(reply) => reply.outcome.exit_status(),
        Reply::Done { .. }
        | Reply::Changes { .. }
        | Reply::Version { .. }
        | Reply::Status(_)
        | Reply::Unit { .. }
        | Reply::History { .. } => exit::OK,
    }
}

/// What came of an upgrade, as one line.
fn upgrade(reply: &UpgradeReply) -> String {
    let UpgradeReply { outcome, from, to, pause, reason } = reply;
    let goes_on = format!("aeternad {from} goes on");
    match outcome {
        UpgradeOutcome::Done => {
            let pause = pause.map(|pause| format!(", paused for {:.0}ms", pause * 1e3)).unwrap_or_default();
            format!("aeternad {from} → {}{pause}", to.as_deref().unwrap_or("?"))
        }
        UpgradeOutcome::Possible => reason.clone(),
        UpgradeOutcome::Failed => format!("{goes_on}: {reason}"),
        UpgradeOutcome::GaveBack => format!("{goes_on}: the new program gave back: {reason}"),
        UpgradeOutcome::Refused => format!("refused: {reason}"),
    }
}

/// The worst that came of several reloads: failed before rolled back before refused before promoted.
fn exit_status(reloads: &[ReloadReply]) -> u8 {
    let statuses: Vec<u8> = reloads
        .iter()
        .map(|reload| reload.outcome.map_or(exit::OK, |outcome| outcome.exit_status()))
        .collect();
    let worst_first = [exit::FAILURE, exit::ROLLED_BACK, exit::BUSY];
    worst_first.into_iter().find(|status| statuses.contains(status)).unwrap_or(exit::OK)
}

/// A text of the daemon's own making, in whole lines and without control characters.
pub(super) fn lines(text: &str) -> String {
    let clean = |c: char| if is_seen(c) || c == '\n' { c } else { '\u{fffd}' };
    format!("{}\n", text.trim_end_matches('\n').chars().map(clean).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_is_the_exit_status() {
        let all = |outcomes: &[Option<Outcome>]| {
            let reply = |outcome: &Option<Outcome>| ReloadReply {
                unit: "a".into(),
                outcome: *outcome,
                file: None,
                reason: String::new(),
                took: None,
                last_lines: vec![],
            };
            exit_status(&outcomes.iter().map(reply).collect::<Vec<_>>())
        };
        assert_eq!(all(&[]), 0);
        assert_eq!(all(&[None, Some(Outcome::Promoted)]), 0);
        assert_eq!(all(&[Some(Outcome::Promoted), Some(Outcome::Refused)]), 4);
        assert_eq!(all(&[Some(Outcome::Refused), Some(Outcome::RolledBack)]), 3);
        assert_eq!(all(&[Some(Outcome::Aborted), Some(Outcome::Failed)]), 1);
    }

    #[test]
    fn a_note_is_whole_lines() {
        assert_eq!(lines("a\nb\n\n"), "a\nb\n");
        assert_eq!(lines("a\x1b[1m"), "a\u{fffd}[1m\n");
    }
}
