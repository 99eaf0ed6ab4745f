//! A unit's log pipes: from readable to a line in the log.

use crate::daemon::core::Daemon;
use crate::daemon::linelog::priority;
use crate::daemon::logpipe::{LogPipe, Turn};
use crate::daemon::supervised::{Child, LAST_LINES, Stream, Supervised};
use crate::daemon::token::Owner;
use crate::machine::event::{Gen, Role};
use crate::proto::status::LogLine;
use crate::sys::clock;
use crate::sys::poll::Interest;
use log::Level;
use std::os::fd::{AsFd, OwnedFd};

/// As much of a check's last line is in its reason, characters.
const LONGEST_SAID: usize = 200;

/// As many turns as the largest pipe of a service without privileges takes (fs.pipe-max-size): 1 MiB.
const MOST_TURNS: u32 = 17;

impl Daemon {
    /// Takes over the read ends of a new process.
    pub fn adopt_streams(
        &mut self,
        index: usize,
        generation: Option<Gen>,
        pid: i32,
        logs: [Option<OwnedFd>; 2],
    ) {
        for (is_error, source) in
            logs.into_iter().enumerate().filter_map(|(at, source)| Some((at == 1, source?)))
        {
            let unit = &mut self.units[index];
            unit.last_stream = unit.last_stream.wrapping_add(1);
            let id = unit.last_stream;
            let pipe = LogPipe::new(source.into());
            if let Err(error) = self.poller.add(Owner::Log(index, id).token(), pipe.as_fd(), Interest::READ) {
                log::warn!("{}: cannot watch its output: {error}", unit.name);
            }
            unit.streams.insert(id, Stream { pipe, generation, pid, is_error });
        }
    }

    /// Reads one pipe.
    pub fn read_log(&mut self, index: usize, id: u32) -> Turn {
        let Some(unit) = self.units.get_mut(index) else { return Turn::Closed };
        let mark = unit.log.end();
        let turn = read(unit, id);
        if self.clients.wants_lines(&unit.name) {
            // A turn of reading is a batch: whoever follows gets it as one line. What it pushed out itself is missing.
            let lines: Vec<LogLine> = unit.log.since(mark).cloned().collect();
            let missing = unit.log.end().saturating_sub(mark).saturating_sub(lines.len() as u64);
            self.clients.broadcast_lines(&unit.name, &lines, missing);
        }
        if turn == Turn::Closed
            && let Some(stream) = unit.streams.remove(&id)
        {
            let _ = self.poller.remove(stream.pipe.as_fd());
        }
        turn
    }

    /// Reads what a process that has died left in its pipes.
    pub fn drain_streams_of(&mut self, index: usize, pid: i32) {
        let unit = &self.units[index];
        let ids: Vec<u32> =
            unit.streams.iter().filter(|(_, stream)| stream.pid == pid).map(|(id, _)| *id).collect();
        for id in ids {
            // All that the largest pipe holds; what a child that lives on writes meanwhile has its own turn.
            for _ in 0..MOST_TURNS {
                if self.read_log(index, id) != Turn::More {
                    break;
                }
            }
        }
    }
}

fn read(unit: &mut Supervised, id: u32) -> Turn {
    let Some(stream) = unit.streams.get_mut(&id) else { return Turn::Open };
    let (generation, pid, is_error) = (stream.generation, stream.pid, stream.is_error);
    let is_check = |child: &&mut Child| child.pid == pid && matches!(child.role, Role::Analysis(_));
    let mut child = unit.children.values_mut().find(is_check);
    let mut last =
        generation.and_then(|number| unit.generations.get_mut(&number)).map(|shell| &mut shell.last_lines);
    let (name, log) = (&unit.name, &mut unit.log);
    stream.pipe.read(&mut |line| {
        let number = generation.map_or(String::new(), |Gen(number)| format!(".{number}"));
        let (priority, text) = priority(line);
        log::log!(target: "service", level(priority), "{name}{number}[{pid}]: {text}");
        if let Some(lines) = last.as_deref_mut() {
            if lines.len() == LAST_LINES {
                lines.pop_front();
            }
            lines.push_back(text.to_owned());
        }
        if let Some(child) = child.as_deref_mut().filter(|_| !text.trim().is_empty()) {
            child.said = Some(text.chars().take(LONGEST_SAID).collect());
        }
        log.push(LogLine {
            time: clock::unix_time(),
            generation: generation.map(|number| number.0),
            pid,
            error: is_error,
            priority,
            text: text.to_owned(),
        });
    })
}

/// The level of a line that says its priority; the others are all alike.
const fn level(priority: Option<u8>) -> Level {
    match priority {
        Some(0..=3) => Level::Error,
        Some(4) => Level::Warn,
        Some(7) => Level::Debug,
        None | Some(_) => Level::Info,
    }
}
