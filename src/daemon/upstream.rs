//! Our own supervisor: what we tell it over its NOTIFY_SOCKET, and its watchdog.

use crate::sys::{clock, datagram};
use crate::time::{Monotime, Span};

/// The connection to whoever started us; does nothing if nobody asked.
#[derive(Debug, Default)]
pub struct Upstream {
    socket: Option<String>,
    /// Half of what WATCHDOG_USEC allows.
    interval: Option<Span>,
    next: Option<Monotime>,
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
        Upstream { socket, interval, next: interval.map(|span| clock::now() + span) }
    }

    /// Sends a message; a supervisor that is not there is no reason to stop.
    pub fn tell(&self, text: &str) {
        if let Some(path) = &self.socket
            && let Err(error) = datagram::send_to(path, text.as_bytes())
        {
            log::warn!("cannot notify {path}: {error}");
        }
    }

    /// When the watchdog wants to be fed.
    pub fn deadline(&self) -> Option<Monotime> {
        self.next
    }

    /// Feeds the watchdog.
    pub fn feed(&mut self, now: Monotime) {
        self.tell("WATCHDOG=1");
        self.next = self.interval.map(|span| now + span);
    }
}
