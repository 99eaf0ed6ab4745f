//! One connection, on its thread: requests in, answers out, until one side has had enough.

use super::followers::Wish;
use super::registry::{At, Slot};
use super::stream::duration;
use super::{HttpCall, Shared, Stream, token};
use crate::proto::http::guard::{self, Holder, Rules, check_names, check_post};
use crate::proto::http::request::{Head, Method, parse_head};
use crate::proto::http::response::{After, CONTINUE, Content, Response, event_stream_head};
use crate::proto::http::route::{self, Call};
use crate::time::{Monotime, Span};
use std::io::{self, Read, Write};
use std::sync::{PoisonError, mpsc};
use std::time::Duration;

/// How long a connection may be silent between two requests.
const IDLE_TIME: Span = Span::from_secs(30);
/// How long a request may take, from its first byte to its last; and an answer, to be taken.
const TRANSFER_TIME: Span = Span::from_secs(10);
/// How long the main loop may take for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How often a silent event stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client may take to send what is read over, and to see that it is refused. It makes room for others.
const LINGER_TIME: Span = Span::from_secs(5);
/// The most input that is read over before a connection with a refused request is closed.
const MAX_REST: usize = 256 * 1024;

/// Why a connection ends.
enum End {
    /// Nothing more is to be said.
    Quiet,
    /// This is to be said first; what the client still sends is read over.
    With(Response),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        // The peer is gone or too slow: there is nobody to tell.
        End::Quiet
    }
}

/// A connection. Lives on its own thread.
pub(super) struct Connection<'a> {
    shared: &'a Shared,
    stream: &'a Stream,
    slot: &'a Slot,
    buffer: Vec<u8>,
    /// How long the next request may be waited for: a new connection has a reason.
    patience: Span,
}

impl<'a> Connection<'a> {
    pub(super) fn new(shared: &'a Shared, stream: &'a Stream, slot: &'a Slot) -> Connection<'a> {
        Connection { shared, stream, slot, buffer: Vec::new(), patience: TRANSFER_TIME }
    }

    /// Serves it to its end.
    pub(super) fn serve(mut self) {
        loop {
            match self.request() {
                Ok(After::KeepAlive) => {}
                Ok(After::Close) | Err(End::Quiet) => return,
                Err(End::With(response)) => {
                    self.slot.is_at(At::Idle);
                    if self.write(&response.to_bytes(After::Close, Content::Sent)).is_ok() {
                        self.linger();
                    }
                    return;
                }
            }
        }
    }

    fn now(&self) -> Monotime {
        (self.shared.outside.now)()
    }

    /// One request and its answer.
    fn request(&mut self) -> Result<After, End> {
        let head = self.head()?;
        let content = if head.method == Method::Head { Content::LeftOut } else { Content::Sent };
        let after = if head.keep_alive { After::KeepAlive } else { After::Close };
        let response = match self.allowed(&head) {
            // The body of a refused request is not waited for.
            Err(response) if head.body_length > 0 => return Err(End::With(response)),
            Err(response) => response,
            Ok(holders) => {
                let body = self.body(&head)?;
                self.slot.is_at(At::Served);
                match route::route(&head, &body) {
                    Err(response) => response,
                    Ok(Call::Events { unit, recent }) => {
                        return self.events(&head, Wish { unit, recent, after: head.last_event_id });
                    }
                    Ok(call) => self.ask(call, holders),
                }
            }
        };
        self.slot.is_at(At::Idle);
        self.write(&response.to_bytes(after, content))?;
        Ok(after)
    }

    /// Whether the request may be carried out; of an order without a token over TCP, who holds its connection.
    fn allowed(&self, head: &Head) -> Result<Vec<Holder>, Response> {
        check_names(head, self.shared.reach)?;
        route::check(head)?;
        if !route::is_guarded(head) {
            return Ok(Vec::new());
        }
        let page_tokens = self.shared.page_tokens().valid(self.now());
        let token = match &self.shared.token_file {
            Some(_) if guard::has_page_token(head, &page_tokens) => None,
            Some(path) => Some(token::read(path).map_err(|why| {
                log::warn!("http: {why}");
                Response::unavailable("cannot read the token file", "its path and why are in aeternad's log")
            })?),
            None => None,
        };
        let rules = Rules {
            page_tokens: &page_tokens,
            reach: self.shared.reach,
            token: token.as_deref(),
            own_uid: self.shared.own_uid,
        };
        let mut creator = None;
        check_post(head, rules, || {
            creator = (self.shared.outside.peer_uid)(self.stream)?;
            Ok(creator)
        })?;
        match (self.stream, creator) {
            // Nobody was asked: a token was enough.
            (_, None) | (Stream::Unix(_), _) => Ok(Vec::new()),
            (Stream::Tcp(_), Some(creator)) => self.holders(creator),
        }
    }

    /// Who holds the peer's socket, if all of them may give orders.
    fn holders(&self, creator: u32) -> Result<Vec<Holder>, Response> {
        let found = {
            // Somebody who asks again and again costs one thread's time.
            let _one_at_a_time = self.shared.scanning.lock().unwrap_or_else(PoisonError::into_inner);
            (self.shared.outside.holders)(self.stream)
        };
        let found = found.map_err(|why| {
            Response::error(403, &format!("cannot tell which processes ask: {why}"), guard::TOKENLESS)
        })?;
        guard::check_holders(&found, creator, self.shared.own_uid, self.shared.outside.own_pid)?;
        Ok(found.found)
    }

    /// The next head; what follows it stays in the buffer.
    fn head(&mut self) -> Result<Head, End> {
        if self.buffer.is_empty() {
            let deadline = self.now() + self.patience;
            self.fill(deadline)?;
            self.patience = IDLE_TIME;
        }
        let deadline = self.now() + TRANSFER_TIME;
        loop {
            if let Some((head, length)) = parse_head(&self.buffer).map_err(End::With)? {
                self.buffer.drain(..length);
                return Ok(head);
            }
            self.fill(deadline).map_err(too_slow)?;
        }
    }

    /// The body that belongs to `head`.
    fn body(&mut self, head: &Head) -> Result<Vec<u8>, End> {
        if head.expects_continue && self.buffer.len() < head.body_length {
            self.write(CONTINUE)?;
        }
        let deadline = self.now() + TRANSFER_TIME;
        while self.buffer.len() < head.body_length {
            self.fill(deadline).map_err(too_slow)?;
        }
        Ok(self.buffer.drain(..head.body_length).collect())
    }

    /// Reads at least one more byte.
    fn fill(&mut self, deadline: Monotime) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let count = self.read(&mut bytes, deadline)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8], deadline: Monotime) -> io::Result<usize> {
        loop {
            let left = deadline.since(self.now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(duration(left))?;
            let mut stream = self.stream;
            match stream.read(bytes) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                result => return result,
            }
        }
    }

    /// Writes everything, if the peer takes it in time.
    fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = self.now() + TRANSFER_TIME;
        while !bytes.is_empty() {
            let left = deadline.since(self.now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_write_timeout(duration(left))?;
            let mut stream = self.stream;
            match stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads over what the client still sends, so that closing does not take the answer from it.
    fn linger(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write);
        let deadline = self.now() + LINGER_TIME;
        let mut bytes = [0; 4096];
        let mut left = MAX_REST;
        while left > 0 {
            match self.read(&mut bytes, deadline) {
                Ok(0) | Err(_) => return,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    }

    /// Asks the main loop.
    fn ask(&self, call: Call, holders: Vec<Holder>) -> Response {
        let (reply, answer) = mpsc::sync_channel(1);
        let stopping = || Response::unavailable("aeternad is stopping", "look at its log");
        if self.shared.calls.send(HttpCall { call, peer: self.peer(), holders, reply }).is_err() {
            return stopping();
        }
        (self.shared.outside.wake)();
        match answer.recv_timeout(ANSWER_TIME) {
            Ok(response) => response,
            Err(mpsc::RecvTimeoutError::Disconnected) => stopping(),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                log::warn!("http: the main loop did not answer within {} s", ANSWER_TIME.as_secs());
                Response::unavailable("aeternad does not answer", "it is busy or stuck; look at its log")
            }
        }
    }

    /// Who asks, for the log.
    fn peer(&self) -> String {
        match self.stream {
            Stream::Tcp(stream) => {
                stream.peer_addr().map_or_else(|_| "?".into(), |address| address.to_string())
            }
            Stream::Unix(_) => match (self.shared.outside.peer_uid)(self.stream) {
                Ok(Some(uid)) => format!("uid {uid}"),
                Ok(None) | Err(_) => "?".into(),
            },
        }
    }

    /// Streams events until the client or the server has had enough.
    fn events(&self, head: &Head, wish: Wish) -> Result<After, End> {
        if head.method == Method::Head {
            self.write(&event_stream_head())?;
            return Ok(After::Close);
        }
        if let Some(unit) = &wish.unit {
            // Nobody follows a unit that is not there.
            let there = self.ask(Call::Unit(unit.clone()), Vec::new());
            if there.status != 200 {
                return Err(End::With(there));
            }
        }
        let Some(following) = self.shared.followers.follow(wish) else {
            let text = "too many follow the events already, or aeternad is stopping";
            return Err(End::With(Response::unavailable(text, "try again later")));
        };
        let mut start = event_stream_head();
        start.extend_from_slice(b"retry: 2000\n: aeternad\n\n");
        let mut result = self.write(&start);
        while result.is_ok() {
            let lost = following.take_lost();
            if lost > 0 {
                result = self.write(format!("event: lost\ndata: {{\"lost\":{lost}}}\n\n").as_bytes());
                continue;
            }
            result = match following.lines.recv_timeout(HEARTBEAT) {
                Ok(line) => self.write(line.text.as_bytes()),
                Err(mpsc::RecvTimeoutError::Timeout) => self.write(b":\n\n"),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
        }
        self.shared.followers.forget(following);
        Ok(After::Close)
    }
}

/// A request that began and did not arrive; whoever is gone is not told.
fn too_slow(error: io::Error) -> End {
    if error.kind() == io::ErrorKind::TimedOut {
        let text = format!("the request did not arrive within {} s", TRANSFER_TIME.0 / 1_000_000_000);
        return End::With(Response::error(400, &text, "send it at once"));
    }
    End::Quiet
}
