//! Commands that wait for the daemon: reload, rollback, start, stop, restart and their like.

use super::client::{Client, Next, Target};
use super::failure::Failure;
use super::interrupt::{Cause, Interrupt, Watch};
use super::output::Output;
use super::parse::Task;
use super::render::{Progress, outcomes};
use crate::error::exit;
use crate::proto::control::{Line, ReloadReply, Reply, UpgradeOutcome, UpgradeReply};
use crate::proto::harmless::is_seen;

/// Carries a task out: shows what happens meanwhile and what came of it. The exit status.
pub(super) fn run(target: &Target, task: &Task, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let mut progress = Progress::default();
    let reply = follow(target, task, json, &mut progress, output)?;
    Ok(conclude(&reply, &progress, json, output))
}

/// Waits for the answer; shows events as they come.
fn follow(
    target: &Target,
    task: &Task,
    json: bool,
    progress: &mut Progress,
    output: &mut Output,
) -> Result<Reply, Failure> {
    let mut client = Client::connect(target)?;
    let cannot_wait = |error| Failure::Broken(format!("cannot wait for the answer: {error}"));
    let interrupt = Interrupt::catch().map_err(cannot_wait)?;
    let live = output.is_live() && !json;
    if live {
        client.tick_every_second().map_err(cannot_wait)?;
    }
    client.send(&task.request)?;
    // The time counts from the request: however short it is, what was asked for is under way.
    let watch = client.handle().and_then(|socket| Watch::start(interrupt, socket, task.timeout));
    let watch = watch.map_err(cannot_wait)?;
    let ended = loop {
        match client.next() {
            Ok(Next::Line(Line::Event(event))) if !json => {
                let text = progress.event(&event, output.look());
                if !text.is_empty() {
                    output.text(&text);
                }
            }
            Ok(Next::Line(Line::Event(_) | Line::Lines(_))) => {}
            Ok(Next::Line(Line::Result(reply))) => break Ok(reply),
            Ok(Next::Line(Line::Error(refusal))) => break Err(Failure::Refused(refusal)),
            Ok(Next::Tick) => progress.tick(),
            Ok(Next::End) => break Err(broken_off(&watch, task)),
            // A socket that was shut down while a line arrived ends in the middle of it.
            Err(_) if watch.cause().is_some() => break Err(broken_off(&watch, task)),
            Err(failure) => break Err(failure),
        }
        if live {
            output.live(&progress.live());
        }
    };
    output.clear_live();
    ended
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
    use crate::proto::status::Outcome;

    #[test]
    fn the_worst_outcome_is_the_exit_status() {
        let all = |outcomes: &[Option<Outcome>]| {
            let reply = |outcome: &Option<Outcome>| ReloadReply {
                unit: "a".into(),
                outcome: *outcome,
                file: None,
                reason: String::new(),
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
