//! `aeternactl status --watch`: again whenever something happens.

use super::client::{Client, Next, Target};
use super::command::Past;
use super::failure::Failure;
use super::interrupt::Watch;
use super::keyboard::{Key, Keyboard, Woken};
use super::output::Output;
use super::render::Timeline;
use super::show::{ask_status, page, until_unread};
use crate::error::exit;
use crate::proto::control::{Line, Request};
use crate::proto::status::Status;
use crate::sys::clock;
use std::os::unix::net::UnixStream;

/// Until `q`, an interrupt, the end of whoever reads, or that of the daemon. One connection for the events, one for the
/// status.
pub(super) fn watch(
    target: &Target,
    unit: Option<&str>,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let request = Request::Status { unit: unit.map(String::from) };
    // The events first: what happens between the two is then seen.
    let events = Client::ask(target, &Past::default().events(unit, clock::unix_time()))?;
    let mut client = Client::ask(target, &request)?;
    let cannot_wait = |error| Failure::Broken(format!("cannot wait: {error}"));
    let socket = events.handle().map_err(cannot_wait)?;
    let unread = until_unread(&events)?;
    let live = output.is_live() && !json;
    if live {
        // Bars and ages grow also while nothing happens.
        events.tick_every_second().map_err(cannot_wait)?;
    }
    // Before the terminal is taken: a unit that is not there is said where one can read it.
    let mut status = ask_status(&mut client)?;
    page(&status, unit, output)?;
    let keyboard = if live { Keyboard::begin() } else { None };
    let mut watching =
        Watching { unit, events, socket, unread, keyboard, timeline: Timeline::default(), top: 0 };
    loop {
        if json {
            output.json(&status);
        } else {
            watching.draw(&status, output)?;
        }
        if output.is_closed() || !watching.until_something(&status, output)? {
            return Ok(exit::OK);
        }
        client.send(&request)?;
        status = ask_status(&mut client)?;
    }
}

/// What is watched, and by whom.
struct Watching<'a> {
    unit: Option<&'a str>,
    events: Client,
    /// The same connection, to wait for it and for keys together.
    socket: UnixStream,
    unread: Watch,
    /// `None` where nobody can press a key.
    keyboard: Option<Keyboard>,
    timeline: Timeline,
    /// The first line that is shown.
    top: usize,
}

impl Watching<'_> {
    fn draw(&mut self, status: &Status, output: &mut Output) -> Result<(), Failure> {
        output.measure();
        let text = page(status, self.unit, output)? + &lanes(&mut self.timeline, status, output);
        if !output.is_live() {
            output.text(&format!("{text}\n"));
            return Ok(());
        }
        let top = &mut self.top;
        match &self.keyboard {
            Some(keyboard) => keyboard.draw(|| output.screen(&text, top, true)),
            None => output.screen(&text, top, false),
        }
        Ok(())
    }

    /// Waits until there is something new to show; `false`: nobody wants to see it any more.
    fn until_something(&mut self, status: &Status, output: &mut Output) -> Result<bool, Failure> {
        loop {
            // Of a burst of events only the end is worth a new picture.
            let woken = match &mut self.keyboard {
                Some(keyboard) if !self.events.has_line() => {
                    let cannot = |error| Failure::Broken(format!("cannot wait: {error}"));
                    keyboard.wait(&self.socket).map_err(cannot)?
                }
                Some(_) | None => Woken::Socket,
            };
            match woken {
                Woken::Second => return Ok(true),
                Woken::Resized => self.draw(status, output)?,
                Woken::Keys(keys) => {
                    for key in keys {
                        let Some(top) = moved(key, self.top, output.height().unwrap_or(24)) else {
                            return Ok(false);
                        };
                        self.top = top;
                    }
                    self.draw(status, output)?;
                }
                Woken::Socket => match something(&mut self.events) {
                    Ok(true) if self.events.has_line() => {}
                    Ok(_) => return Ok(true),
                    Err(_) if self.unread.cause().is_some() => return Ok(false),
                    Err(failure) => return Err(failure),
                },
            }
        }
    }
}

/// The first line that is shown after a key; `None`: none is any more. A picture knows its own end.
fn moved(key: Key, top: usize, height: usize) -> Option<usize> {
    let most = height.saturating_sub(3).max(1);
    match key {
        Key::Leave => None,
        Key::Down => Some(top.saturating_add(1)),
        Key::Up => Some(top.saturating_sub(1)),
        Key::PageDown => Some(top.saturating_add(most)),
        Key::PageUp => Some(top.saturating_sub(most)),
        Key::Home => Some(0),
        Key::End => Some(usize::MAX),
    }
}

/// Waits for the next event, or for the next second of a connection that ticks: `true` for an event.
fn something(events: &mut Client) -> Result<bool, Failure> {
    match events.next()? {
        Next::Line(Line::Event(_)) => Ok(true),
        Next::Tick | Next::Line(Line::Lines(_)) | Next::Line(Line::Result(_)) => Ok(false),
        Next::Line(Line::Error(refusal)) => Err(Failure::Refused(refusal)),
        Next::End => Err(Failure::Broken("aeternad has closed the connection: it has ended".into())),
    }
}

/// The timelines of the units in which something has happened.
fn lanes(timeline: &mut Timeline, status: &Status, output: &Output) -> String {
    let now = clock::now().0 as f64 / 1e9;
    let mut text = String::new();
    for unit in &status.units {
        timeline.see(unit, now);
        if let Some(lanes) = timeline.lanes(&unit.name, now, output.look()) {
            text.push_str(&format!("\n{}\n{lanes}", unit.name));
        }
    }
    text
}
