//! aeternad was killed before it answered: what has come of a reload is asked of the next one.

use super::client::{Client, Next, Target};
use super::command::Task;
use super::interrupt::Watch;
use super::output::Output;
use crate::proto::control::{Line, ReloadReply, Reply, Request};
use crate::proto::status::UnitStatus;
use crate::sys::inotify::Watcher;
use crate::sys::{clock, fd};
use crate::time::{Monotime, Span};

/// How long the next aeternad is waited for.
const PATIENCE: Span = Span::from_secs(10);

/// How often it is looked whether nobody wants to wait any more.
const TICK: Span = Span::from_secs(1);

/// What came of a task that was asked for at `asked`. `None` if there is no next aeternad in time, if it knows nothing of
/// it, if nobody waits any more, or if it is no reload.
pub(super) fn outcome(
    target: &Target,
    task: &Task,
    asked: Monotime,
    watch: &Watch,
    output: &mut Output,
) -> Option<Reply> {
    let units = match &task.request {
        Request::Reload { units, all: false, wait: true, .. } => units.clone(),
        Request::Rollback { unit, .. } => vec![unit.clone()],
        _ => return None,
    };
    output.clear_live();
    output.complain(&format!("aeternad was killed during {}; waiting for the next one", task.name));
    let mut reloads = Vec::new();
    let mut events = next_one(target, watch)?;
    for name in units {
        let unit = loop {
            let unit = status(target, &name, watch)?;
            if !unit.reloading {
                break unit;
            }
            wait_for_event(&mut events, &name, watch)?;
        };
        let last = unit.last_reload.filter(|last| last.ago <= clock::now().since(asked).as_secs_f64())?;
        reloads.push(ReloadReply {
            unit: name,
            file: None,
            outcome: Some(last.outcome),
            took: Some(last.duration),
            reason: last.reason,
            last_lines: Vec::new(),
        });
    }
    Some(Reply::Reloads { reloads })
}

/// A connection to an aeternad that answers, with its events from then on: what ends after a later look at the status is
/// told there.
fn begin(target: &Target) -> Option<Client> {
    let events =
        Client::ask(target, &Request::Events { unit: None, since: None, lines: None, follow: true }).ok()?;
    events.tick_every_second().ok()?;
    // One that is just dying, or that has died, still takes connections as long as anybody has its socket.
    let mut version = Client::ask(target, &Request::Version).ok()?;
    version.tick_every_second().ok()?;
    match version.next().ok()? {
        Next::Line(_) => Some(events),
        Next::Tick | Next::End => None,
    }
}

/// A connection to the next aeternad, as soon as there is one.
fn next_one(target: &Target, watch: &Watch) -> Option<Client> {
    let until = clock::now() + PATIENCE;
    let mut folder = Watcher::of_names().ok()?;
    folder.add(&target.path).ok()?;
    loop {
        if let Some(client) = begin(target) {
            return Some(client);
        }
        let rest = until.since(clock::now());
        if rest.is_zero() || watch.cause().is_some() {
            return None;
        }
        if fd::readable(folder.fd(), rest.min(TICK)) {
            folder.read().ok()?;
        }
    }
}

fn status(target: &Target, name: &str, watch: &Watch) -> Option<UnitStatus> {
    let mut client = Client::ask(target, &Request::Status { unit: Some(name.to_owned()) }).ok()?;
    client.tick_every_second().ok()?;
    loop {
        match client.next().ok()? {
            Next::Line(Line::Result(Reply::Status(status))) => {
                return status.units.into_iter().find(|unit| unit.name == name);
            }
            Next::Tick if watch.cause().is_none() => {}
            Next::Line(_) | Next::Tick | Next::End => return None,
        }
    }
}

/// Waits until something was said of a unit.
fn wait_for_event(events: &mut Client, name: &str, watch: &Watch) -> Option<()> {
    loop {
        match events.next().ok()? {
            Next::Line(Line::Event(event)) if event.unit == name => return Some(()),
            Next::Line(_) => {}
            // It may have ended before the first event that is told here.
            Next::Tick if watch.cause().is_none() => return Some(()),
            Next::Tick | Next::End => return None,
        }
    }
}
