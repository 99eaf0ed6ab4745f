//! The daemon's side of HTTP: the listener if there is one, the counters, and which replies a call waits for.

use super::outside::Outside;
use super::saved::{self, SavedHttp, Stored};
use super::{HttpCall, HttpServer, facts};
use crate::daemon::saved::{Incoming, Outgoing};
use crate::machine::event::{Announcement, CommandResult, Req};
use crate::proto::metrics::Metrics;
use crate::proto::status::{EventLine, ReloadRecord};
use crate::sys::wake::Waker;
use crate::sys::{clock, user};
use crate::time::{Monotime, Span};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// How long answers that are being given are waited for before an upgrade.
const FINISHING: Span = Span::from_millis(500);

/// HTTP, as the main loop has it. Main thread only.
#[derive(Debug, Default)]
pub struct Web {
    server: Option<HttpServer>,
    /// What is served again once an upgrade is over.
    stored: Option<Stored>,
    /// Wakes the loop.
    waker: Option<Waker>,
    /// Until when answers that are being given are waited for, before an upgrade.
    until: Option<Monotime>,
    /// What is counted, also while nobody can look.
    pub metrics: Metrics,
    /// Which replies are waited for, and from which unit.
    waiting: Vec<(Req, String)>,
    replies: Vec<(String, CommandResult)>,
}

impl Web {
    /// Begins to listen; `waker` wakes the loop for each call.
    ///
    /// # Errors
    /// What cannot be bound or read, and why: for people.
    pub fn start(&mut self, address: &str, token_file: Option<&Path>, waker: Waker) -> Result<(), String> {
        let outside = Outside::new(waker.clone());
        self.waker = Some(waker);
        let server = HttpServer::start(address, token_file, outside, user::effective_uid())?;
        self.server = Some(server);
        Ok(())
    }

    /// The page's address, with a token made for it.
    ///
    /// # Errors
    /// Why there is no page that a browser can open, and what to do: for people.
    pub fn page_address(&self) -> Result<String, String> {
        let server = self.server.as_ref().ok_or(
            "there is no page: aeternad does not listen for HTTP; start it with --http 127.0.0.1:9091, or set [Daemon] Http",
        )?;
        let at: SocketAddr = server.address().parse().map_err(|_| {
            format!(
                "aeternad listens for HTTP on {}, which no browser can open; use an IP address",
                server.address()
            )
        })?;
        let local = match at.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), at.port()),
            IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port()),
            IpAddr::V4(_) | IpAddr::V6(_) => at,
        };
        // What follows the sign stays in the browser: it is sent to nobody.
        Ok(format!("http://{local}/#token={}", server.new_page_token()))
    }

    /// Stores the listener.
    ///
    /// # Errors
    /// Those of [`Outgoing::put`].
    pub fn save(&self, out: &mut Outgoing) -> Result<Option<SavedHttp>, String> {
        let served = self.server.as_ref().map(HttpServer::parts);
        let stored = self
            .stored
            .as_ref()
            .map(|stored| (&stored.listener, stored.token_file.as_ref(), stored.page_tokens.clone()));
        let one = served.or(stored);
        one.map(|(listener, token, made)| saved::save(listener, token, made, out)).transpose()
    }

    /// HTTP again, not yet at work: see [`Web::resume`].
    ///
    /// # Errors
    /// Those of [`Incoming::take`].
    pub fn restore(metrics: Metrics, saved: Option<SavedHttp>, from: &mut Incoming) -> Result<Web, String> {
        let stored = saved.map(|saved| Stored::restore(saved, from)).transpose()?;
        Ok(Web { metrics, stored, ..Web::default() })
    }

    /// Who wakes the loop, after [`Web::restore`].
    pub fn wake_by(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// Nothing new is accepted: an upgrade is about to be made.
    pub fn pause(&mut self) {
        if let (Some(server), Some(waker)) = (&self.server, &self.waker) {
            server.pause(waker);
            self.until = Some(clock::now() + FINISHING);
        }
    }

    /// Whether an answer that is being given is worth to be waited for.
    pub fn unfinished(&self) -> bool {
        let waits = self.until.is_some_and(|until| clock::now() < until);
        waits && self.server.as_ref().is_some_and(HttpServer::is_at_work)
    }

    /// When [`Web::unfinished`] ends at the latest.
    pub fn deadline(&self) -> Option<Monotime> {
        self.until
    }

    /// Serves, again.
    pub fn resume(&mut self) {
        self.until = None;
        if let (Some(Stored { listener, token_file, page_tokens }), Some(waker)) =
            (self.stored.take(), &self.waker)
        {
            let (outside, uid) = (Outside::new(waker.clone()), user::effective_uid());
            match HttpServer::on(listener, token_file.as_deref(), page_tokens, outside, uid) {
                Ok(server) => self.server = Some(server),
                Err(why) => log::error!("http: not served any more: {why}"),
            }
        }
        if let Some(Err(why)) = self.server.as_mut().map(HttpServer::resume) {
            log::error!("http: not served any more: {why}");
        }
    }

    /// An event that is no unit's.
    pub fn tell(&self, line: &EventLine) {
        if let Some(server) = &self.server {
            server.broadcast(line);
        }
    }

    /// The next call, if somebody has asked something.
    pub fn next_call(&self) -> Option<HttpCall> {
        self.server.as_ref()?.calls().try_recv().ok()
    }

    /// A unit's machine has announced `fact`, which is `line` in the event stream.
    pub fn announced(&mut self, unit: &str, fact: &Announcement, line: &EventLine) {
        facts::count(&mut self.metrics, unit, fact);
        if let Some(server) = &self.server {
            server.broadcast(line);
        }
    }

    /// A reload has ended.
    pub fn recorded(&mut self, unit: &str, record: &ReloadRecord) {
        self.metrics.on_reload(unit, record);
    }

    /// A call waits for the reply to this request to `unit`, until [`Web::take_replies`].
    pub fn expect(&mut self, req: Req, unit: &str) {
        self.waiting.push((req, unit.to_owned()));
    }

    /// Whether a call waits for this reply; if so, it is kept for it.
    pub fn hears(&mut self, req: Req, result: &CommandResult) -> bool {
        let Some((_, unit)) = self.waiting.iter().find(|(waits, _)| *waits == req) else { return false };
        self.replies.push((unit.clone(), result.clone()));
        true
    }

    /// Which unit has replied what since [`Web::expect`]. Later replies go to nobody.
    pub fn take_replies(&mut self) -> Vec<(String, CommandResult)> {
        self.waiting.clear();
        std::mem::take(&mut self.replies)
    }

    /// Stops listening; event streams end after what was sent to them.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::response::Response;
    use crate::proto::http::route::Call;
    use crate::sys::wake;
    use std::io::{Read, Write};

    #[test]
    fn a_call_wakes_the_loop_and_its_answer_goes_back() {
        let (waker, wakeups) = wake::self_pipe().unwrap();
        let mut web = Web::default();
        assert!(web.next_call().is_none());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.sock");
        web.start(path.to_str().unwrap(), None, waker).unwrap();
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut sources = [nix::poll::PollFd::new(wakeups.fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut sources, 20_000u16).unwrap();
        wakeups.drain();
        let call = web.next_call().unwrap();
        assert_eq!(call.call, Call::Reload { unit: None, reason: String::new(), force: false });
        assert_eq!(call.peer, format!("uid {}", user::effective_uid()));
        call.reply.send(Response::accepted("/v1/status", "")).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 202 Accepted\r\n"), "{text}");
        web.stop();
        assert!(!path.exists());
    }

    #[test]
    fn replies_are_heard_while_somebody_waits() {
        let mut web = Web::default();
        let done = CommandResult::Done("x".into());
        assert!(!web.hears(Req(1), &done));
        web.expect(Req(1), "chat");
        assert!(web.hears(Req(1), &done));
        assert_eq!(web.take_replies(), vec![("chat".to_owned(), done.clone())]);
        assert!(!web.hears(Req(1), &done));
    }
}
