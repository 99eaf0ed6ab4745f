//! Our own supervisor: what we tell it over its NOTIFY_SOCKET, and its watchdog.

use crate::sys::{clock, datagram};
use crate::time::{Monotime, Span};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::ErrorKind;

/// The kernel queues few datagrams (`net.unix.max_dgram_qlen`, 10 by default): a supervisor that has no room now is
/// tried again so much later.
const AGAIN: Span = Span::from_millis(100);

/// So many messages wait for it; beyond that the oldest is given up.
const MOST: usize = 32;

/// What feeds the watchdog.
const FEED: &str = "WATCHDOG=1";

/// The connection to whoever started us; does nothing if nobody asked.
#[derive(Debug, Default)]
pub struct Upstream {
    socket: Option<String>,
    /// Half of what WATCHDOG_USEC allows.
    interval: Option<Span>,
    next: Option<Monotime>,
    /// What it had no room for, oldest first.
    unsaid: VecDeque<String>,
    /// When that is tried again.
    again: Option<Monotime>,
}

/// An [`Upstream`] in a stored state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedUpstream {
    next: Option<Monotime>,
    unsaid: Vec<String>,
    again: Option<Monotime>,
}

impl Upstream {
    /// From our environment: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` if `WATCHDOG_PID` names us (or nobody).
    pub fn from_environment(environment: &[(String, String)], pid: i32) -> Upstream {
        let value =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let socket = value("NOTIFY_SOCKET").filter(|path| path.starts_with(['/', '@'])).map(str::to_owned);
        let ours = value("WATCHDOG_PID").is_none_or(|text| text.parse() == Ok(pid));
        let usec =
            value("WATCHDOG_USEC").and_then(|text| text.parse::<u64>().ok()).filter(|usec| *usec > 0 && ours);
        let interval = socket.as_ref().and(usec).map(|usec| Span::from_micros(usec / 2));
        Upstream { socket, interval, next: interval.map(|span| clock::now() + span), ..Upstream::default() }
    }

    /// What another program has still to say, and when.
    pub fn save(&self) -> SavedUpstream {
        // The rest is the environment's.
        let Upstream { socket: _, interval: _, next, unsaid, again } = self;
        SavedUpstream { next: *next, unsaid: unsaid.iter().cloned().collect(), again: *again }
    }

    /// The connection again, as the program before has left it.
    pub fn restored(saved: SavedUpstream, environment: &[(String, String)], pid: i32) -> Upstream {
        let SavedUpstream { next, unsaid, again } = saved;
        Upstream { next, unsaid: unsaid.into(), again, ..Upstream::from_environment(environment, pid) }
    }

    /// Sends a message, now or when there is room for it, in the order of the calls; a supervisor that is not there is no
    /// reason to stop.
    pub fn tell(&mut self, text: &str) {
        if self.socket.is_none() {
            return;
        }
        if self.unsaid.len() >= MOST {
            let given_up = self.unsaid.pop_front().unwrap_or_default();
            log::warn!("our supervisor reads nothing: it is not told {given_up:?}");
        }
        self.unsaid.push_back(text.to_owned());
        self.say(clock::now());
    }

    fn say(&mut self, now: Monotime) {
        self.again = None;
        let Some(path) = &self.socket else { return };
        while let Some(text) = self.unsaid.front() {
            match datagram::send_to(path, text.as_bytes()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.again = Some(now + AGAIN);
                    return;
                }
                Err(error) => log::warn!("cannot notify {path}: {error}"),
            }
            self.unsaid.pop_front();
        }
    }

    /// When [`Upstream::tick`] is wanted next.
    pub fn deadline(&self) -> Option<Monotime> {
        [self.next, self.again].into_iter().flatten().min()
    }

    /// Says what there was no room for, and feeds the watchdog if it is time.
    pub fn tick(&mut self, now: Monotime) {
        if self.again.is_some_and(|again| again <= now) {
            self.say(now);
        }
        if self.next.is_some_and(|next| next <= now) {
            self.next = self.interval.map(|span| now + span);
            // One that waits is enough.
            if !self.unsaid.iter().any(|text| text == FEED) {
                self.tell(FEED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn what_a_busy_supervisor_has_no_room_for_is_said_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        supervisor.set_nonblocking(true).unwrap();
        let environment = vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())];
        let mut upstream = Upstream::from_environment(&environment, 1);
        let mut sent = 0;
        while upstream.deadline().is_none() {
            upstream.tell(&format!("STATUS={sent}"));
            sent += 1;
        }
        upstream.tell("READY=1");
        upstream.tell("STOPPING=1");
        let mut heard = Vec::new();
        let mut buffer = [0; 64];
        for _ in 0..sent + 2 {
            while let Ok(count) = supervisor.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            }
            if let Some(again) = upstream.deadline() {
                upstream.tick(again);
            }
        }
        let all: Vec<String> = (0..sent)
            .map(|number| format!("STATUS={number}"))
            .chain(["READY=1".into(), "STOPPING=1".into()])
            .collect();
        assert_eq!(heard, all);
        assert_eq!(upstream.deadline(), None);
    }

    #[test]
    fn one_that_never_reads_costs_little() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        let _supervisor = UnixDatagram::bind(&path).unwrap();
        let environment = ["NOTIFY_SOCKET", "WATCHDOG_USEC"]
            .map(String::from)
            .into_iter()
            .zip([path.display().to_string(), "200000".into()]);
        let mut upstream = Upstream::from_environment(&environment.collect::<Vec<_>>(), 1);
        for _ in 0..2_000 {
            let next = upstream.deadline().unwrap();
            upstream.tick(next);
        }
        assert_eq!(upstream.unsaid, [FEED]);
        for number in 0..100 {
            upstream.tell(&format!("STATUS={number}"));
        }
        assert_eq!(upstream.unsaid.len(), MOST);
        assert_eq!(upstream.unsaid.back().map(String::as_str), Some("STATUS=99"));
    }
}
