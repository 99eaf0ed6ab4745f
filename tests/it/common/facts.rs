//! What became known about a daemon so far: its log and its events, and a way to wait for more.

use super::WAIT;
use aeterna::proto::control::Line;
use aeterna::proto::status::EventLine;
use nix::sys::socket::{MsgFlags, recv};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Facts that announce themselves to nobody (a process is gone, a file is there) are looked for this often.
const AGAIN: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Known {
    log: String,
    events: Vec<EventLine>,
    count: u64,
    first_pause: Option<Instant>,
}

/// What is known; shared with the threads that read.
#[derive(Default)]
pub struct Facts {
    known: Mutex<Known>,
    more: Condvar,
    /// Where the events come from.
    stream: Mutex<Option<UnixStream>>,
}

impl Facts {
    pub fn add_log(&self, line: &str) {
        let mut known = self.known.lock().unwrap();
        known.log.push_str(line);
        known.log.push('\n');
        known.count += 1;
        self.more.notify_all();
    }

    fn add_line(&self, line: &str) {
        match serde_json::from_str(line) {
            Ok(Line::Event(event)) => self.add_event(event),
            Ok(other) => self.add_log(&format!("(the event stream ended with {other:?})")),
            Err(error) => self.add_log(&format!("(not an event: {error}: {line})")),
        }
    }

    fn add_event(&self, event: EventLine) {
        let mut known = self.known.lock().unwrap();
        known.events.push(event);
        known.count += 1;
        self.more.notify_all();
    }

    pub fn log(&self) -> String {
        self.known.lock().unwrap().log.clone()
    }

    pub fn events(&self) -> Vec<EventLine> {
        self.known.lock().unwrap().events.clone()
    }

    /// Whether every event that has arrived is known.
    pub fn is_caught_up(&self) -> bool {
        let stream = self.stream.lock().unwrap();
        let waits = |stream: &UnixStream| {
            recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
        };
        !stream.as_ref().map(waits).is_some_and(|found| found.is_ok_and(|bytes| bytes > 0))
    }

    /// How many facts there are.
    pub fn count(&self) -> u64 {
        self.known.lock().unwrap().count
    }

    /// Waits until there are more than `seen` facts, or until it is time to look again.
    pub fn wait_beyond(&self, seen: u64) {
        let known = self.known.lock().unwrap();
        let _ = self.more.wait_timeout_while(known, AGAIN, |known| known.count <= seen).unwrap();
    }

    /// Waits until it is time to look again.
    pub fn pause(&self) {
        self.wait_beyond(self.count());
    }

    /// As [`Facts::pause`], but gives up after [`WAIT`] since the first call.
    pub fn pause_or(&self, give_up: impl FnOnce()) {
        let first = *self.known.lock().unwrap().first_pause.get_or_insert_with(Instant::now);
        if first.elapsed() > WAIT {
            give_up();
        }
        self.pause();
    }
}

/// Asks for the events on this connection to the control socket, and collects them on a thread of its own.
pub fn follow(facts: Arc<Facts>, mut stream: UnixStream) {
    use std::io::Write;
    stream.write_all(b"{\"command\":\"events\"}\n").unwrap();
    stream.set_read_timeout(None).unwrap();
    *facts.stream.lock().unwrap() = Some(stream.try_clone().unwrap());
    std::thread::spawn(move || {
        let (mut bytes, mut line) = (vec![0; 64 * 1024], Vec::new());
        // What is taken from the socket is known already: `is_caught_up` looks there.
        while let Ok(count @ 1..) = recv(stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK) {
            for byte in &bytes[..count] {
                if *byte == b'\n' {
                    facts.add_line(&String::from_utf8_lossy(&std::mem::take(&mut line)));
                } else {
                    line.push(*byte);
                }
            }
            stream.read_exact(&mut bytes[..count]).unwrap();
        }
    });
}
