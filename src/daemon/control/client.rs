//! One client: the bytes of its requests, and what it has yet to read.

use super::{MAX_QUEUE, REQUEST_TIME, Wants};
use crate::proto::control::{Line, LogLines, MAX_REQUEST, Refusal, Request, parse_request, to_line};
use crate::proto::status::EventLine;
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

/// How far a client's connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Both directions are open.
    Open,
    /// It sends no more; what it has asked is still answered.
    Finished,
    /// It is sent what is queued, then it is over.
    Closing,
    /// Nothing more can be done with it.
    Over,
}

/// Whose events a client gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Topics {
    All,
    Units(Vec<String>),
    /// No events: the lines of a unit's output, of one generation or of all.
    Lines(String, Option<u32>),
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) phase: Phase,
    /// Both directions are closed: nobody reads, and its socket rings for as long as it is in the poll set.
    pub(super) gone: bool,
    /// At most [`MAX_REQUEST`] bytes and a newline.
    pub(super) input: Vec<u8>,
    pub(super) output: VecDeque<u8>,
    /// Whether a request was handed out and is not yet answered.
    pub(super) busy: bool,
    pub(super) topics: Topics,
    /// When the request that is arriving must be whole, or the last line read.
    pub(super) deadline: Option<Monotime>,
    /// Events that were dropped since the client was last told, and the time of the last one.
    pub(super) dropped: u64,
    pub(super) dropped_at: f64,
    /// Requests that were none, since [`Client::take_refused`].
    pub(super) refused: u64,
    /// What the poll set waits for.
    pub(super) registered: Wants,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> Client {
        Client {
            stream,
            phase: Phase::Open,
            gone: false,
            input: Vec::new(),
            output: VecDeque::new(),
            busy: false,
            topics: Topics::Units(Vec::new()),
            deadline: None,
            dropped: 0,
            dropped_at: 0.0,
            refused: 0,
            registered: Wants { read: true, write: false },
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Reads until there is no more, or a request's length is there.
    pub(super) fn read(&mut self, now: Monotime) {
        let mut chunk = [0; 4096];
        while self.phase == Phase::Open && self.input.len() <= MAX_REQUEST {
            let room = (MAX_REQUEST + 1 - self.input.len()).min(chunk.len());
            match self.stream.read(&mut chunk[..room]) {
                Ok(0) => self.phase = Phase::Finished,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.phase = Phase::Over,
            }
        }
        if !self.input.is_empty() && self.deadline.is_none() {
            self.deadline = Some(now + REQUEST_TIME);
        }
    }

    /// Its socket has hung up.
    pub(super) fn gone(&mut self) {
        self.gone = true;
    }

    /// The next request, if none is being carried out. What is not one is answered at once.
    pub(super) fn next_request(&mut self, now: Monotime) -> Option<Request> {
        // A client that reads none of its answers cannot pile them up here.
        while !self.busy && self.output.len() <= MAX_QUEUE {
            let line = self.next_line(now)?;
            match parse_request(&line) {
                Ok(request) => {
                    self.busy = true;
                    return Some(request);
                }
                Err(refusal) => {
                    self.refused += 1;
                    self.push_answer(&to_line(&Line::Error(refusal)));
                }
            }
        }
        None
    }

    /// Takes the next line out of the input, without its newline.
    fn next_line(&mut self, now: Monotime) -> Option<Vec<u8>> {
        if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let rest = self.input.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.input, rest);
            line.pop();
            self.deadline = (!self.input.is_empty()).then(|| now + REQUEST_TIME);
            return Some(line);
        }
        match self.phase {
            Phase::Finished if !self.input.is_empty() => {
                self.deadline = None;
                Some(std::mem::take(&mut self.input))
            }
            Phase::Open if self.input.len() > MAX_REQUEST => {
                self.deadline = Some(now + REQUEST_TIME);
                self.hang_up(&format!("the request is longer than {MAX_REQUEST} bytes"));
                None
            }
            Phase::Open | Phase::Finished | Phase::Closing | Phase::Over => None,
        }
    }

    /// Says why, and ends the connection when that has been read.
    fn hang_up(&mut self, why: &str) {
        self.input = Vec::new();
        self.phase = Phase::Closing;
        self.refused += 1;
        self.push_answer(&to_line(&Line::Error(Refusal::bad(why))));
    }

    /// How many requests could not be understood since this was asked last.
    pub(super) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// Whether it has asked for nothing, and waits for nothing.
    pub(super) fn is_silent(&self) -> bool {
        !self.busy && self.input.is_empty() && self.output.is_empty()
    }

    /// The deadline has passed.
    pub(super) fn give_up(&mut self) {
        if self.phase == Phase::Closing {
            self.phase = Phase::Over;
            return;
        }
        self.hang_up("the request did not end within 10s; a request is one line with a newline at its end");
        // What it does not read now is not waited for.
        self.phase = Phase::Over;
    }

    /// Queues an answer: the end of the request.
    pub(super) fn push_answer(&mut self, line: &[u8]) {
        self.tell_dropped();
        self.output.extend(line);
        self.busy = false;
        self.topics = Topics::Units(Vec::new());
        self.flush();
    }

    /// Queues an event, or drops it.
    pub(super) fn push_event(&mut self, time: f64, line: &[u8]) {
        if self.output.len() + line.len() > MAX_QUEUE {
            self.dropped += 1;
            self.dropped_at = time;
            return;
        }
        self.tell_dropped();
        self.output.extend(line);
        self.flush();
    }

    /// Queues what was asked for and is bounded by itself.
    pub(super) fn push_asked(&mut self, line: &[u8]) {
        self.output.extend(line);
        self.flush();
    }

    /// Queues lines of output, or drops them: the next ones then say how many are missing.
    pub(super) fn push_lines(&mut self, mut lines: LogLines) {
        let count = lines.lines.len() as u64;
        lines.missing += self.dropped;
        let lines_missing = lines.missing;
        let line = to_line(&Line::Lines(lines));
        if self.output.len() + line.len() > MAX_QUEUE {
            self.dropped = lines_missing + count;
            return;
        }
        self.dropped = 0;
        self.output.extend(line);
        self.flush();
    }

    /// Queues the number of dropped events, if there are any.
    fn tell_dropped(&mut self) {
        if self.dropped == 0 {
            return;
        }
        if let Topics::Lines(unit, _) = &self.topics {
            let missing = std::mem::take(&mut self.dropped);
            let lines = LogLines { unit: unit.clone(), lines: Vec::new(), missing };
            self.output.extend(to_line(&Line::Lines(lines)));
            return;
        }
        let event = EventLine {
            time: self.dropped_at,
            unit: String::new(),
            kind: "warning".into(),
            text: format!("{} events were left out here: they came faster than they were read", self.dropped),
            generation: None,
            state: None,
            lasted: None,
            pid: None,
            outcome: None,
        };
        self.dropped = 0;
        self.output.extend(to_line(&Line::Event(event)));
    }

    /// Writes what the socket takes.
    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() && self.phase != Phase::Over {
            match write_some(&mut self.stream, &self.output) {
                Ok(0) => self.phase = Phase::Over,
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.phase = Phase::Over,
            }
            if self.output.is_empty() {
                self.tell_dropped();
            }
        }
        // A long answer's memory is not kept for the rest of the connection.
        self.output = VecDeque::new();
    }

    pub(super) fn subscribe(&mut self, unit: Option<&str>) {
        match (&mut self.topics, unit) {
            (_, None) => self.topics = Topics::All,
            (Topics::Units(units), Some(unit)) => units.push(unit.to_string()),
            (Topics::All, Some(_)) => {}
            (topics @ Topics::Lines(..), Some(unit)) => *topics = Topics::Units(vec![unit.to_string()]),
        }
    }

    pub(super) fn subscribe_lines(&mut self, unit: &str, generation: Option<u32>) {
        self.topics = Topics::Lines(unit.to_owned(), generation);
    }

    /// Which generation's lines of this unit it gets, `None` for all; `None` if it gets none.
    pub(super) fn follows(&self, unit: &str) -> Option<Option<u32>> {
        match &self.topics {
            Topics::Lines(wanted, generation) if wanted == unit => Some(*generation),
            Topics::Lines(..) | Topics::All | Topics::Units(_) => None,
        }
    }

    /// Whether it gets the events of `unit`.
    pub(super) fn hears(&self, unit: &str) -> bool {
        match &self.topics {
            Topics::All => true,
            Topics::Units(units) => units.iter().any(|u| u == unit),
            Topics::Lines(..) => false,
        }
    }

    /// None while a request is carried out: what comes meanwhile waits, however long that takes.
    pub(super) fn deadline(&self) -> Option<Monotime> {
        self.deadline.filter(|_| !self.busy && self.phase != Phase::Over)
    }

    pub(super) fn wants(&self) -> Wants {
        Wants {
            read: self.phase == Phase::Open && self.input.len() <= MAX_REQUEST,
            write: self.phase != Phase::Over && !self.output.is_empty(),
        }
    }

    /// What it wants, if that is not what the poll set waits for.
    pub(super) fn take_change(&mut self) -> Option<Wants> {
        let wants = self.wants();
        let changed = wants != self.registered;
        self.registered = wants;
        (changed && !self.gone).then_some(wants)
    }

    #[cfg(test)]
    pub(super) fn is_dropping(&self) -> bool {
        self.dropped > 0
    }

    /// Whether nothing more will come or go.
    pub(super) fn is_over(&self) -> bool {
        if self.gone && self.input.is_empty() {
            // What it has asked for goes on, and is told to nobody.
            return true;
        }
        match self.phase {
            Phase::Open => false,
            Phase::Finished => self.output.is_empty() && self.input.is_empty() && !self.busy,
            Phase::Closing => self.output.is_empty(),
            Phase::Over => true,
        }
    }
}

/// Writes once, from the front of the queue.
fn write_some(stream: &mut UnixStream, queue: &VecDeque<u8>) -> io::Result<usize> {
    stream.write(queue.as_slices().0)
}
