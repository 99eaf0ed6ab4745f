//! The HTTP listener (contract section 8): one thread accepts, each connection has a small one of its own,
//! and what is asked goes to the main loop as an [`HttpCall`] and comes back as a [`Response`].
//!
//! Connections never touch the daemon's state. Their number, the sizes of what they send and the times that
//! they take are bounded, so that a slow or silent client costs its own connection and nothing else.

pub mod answer;
mod bind;
mod connection;
pub mod facts;
mod followers;
pub mod outside;
pub mod page;
mod page_tokens;
mod registry;
mod saved;
mod serve;
mod stream;
mod token;
pub mod web;

pub use saved::SavedHttp;
pub use stream::Stream;

use crate::proto::http::guard::{Holder, Reach};
use crate::proto::http::response::{After, Content, Response};
use crate::proto::http::route::Call;
use crate::proto::status::EventLine;
use crate::sys::wake::Waker;
use crate::sys::{clock, limits};
use bind::Listener;
use followers::Followers;
use outside::Outside;
use page_tokens::PageTokens;
use registry::{Registry, Slot};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 64;

/// The most of them that follow events, so that some are left for everybody else.
pub const MAX_FOLLOWERS: usize = 48;

/// Parsing a request and copying an answer need little; 64 stacks of the usual size would be much.
const STACK: usize = 128 * 1024;

/// How long connections may finish what they write when the server stops.
const STOP_TIME: Duration = Duration::from_secs(1);

/// What somebody asks; whoever carries it out sends the answer. A connection waits for it for ten seconds.
#[derive(Debug)]
pub struct HttpCall {
    /// What; never [`Call::Events`].
    pub call: Call,
    /// Who, for the log: `127.0.0.1:40000`, or `uid 0`.
    pub peer: String,
    /// An order over TCP without a token: who holds the peer's socket. None of them may belong to a unit.
    pub holders: Vec<Holder>,
    /// Where the answer goes. Never blocks; fails if nobody waits any more.
    pub reply: mpsc::SyncSender<Response>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    calls: mpsc::Sender<HttpCall>,
    outside: Outside,
    reach: Reach,
    token_file: Option<PathBuf>,
    page_tokens: Mutex<PageTokens>,
    /// Who looks through all of /proc: one at a time.
    scanning: Mutex<()>,
    own_uid: u32,
    followers: Followers,
    registry: Arc<Registry>,
}

impl Shared {
    /// The tokens of pages; one that was left half-way through a change is whole, as each is one step.
    fn page_tokens(&self) -> std::sync::MutexGuard<'_, PageTokens> {
        self.page_tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The listener, from the main loop's side. Main thread only.
#[derive(Debug)]
pub struct HttpServer {
    calls: mpsc::Receiver<HttpCall>,
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Binds `address` (`IP:PORT`, `localhost:PORT`, `PORT`, `/path`, `@abstract`) and begins to serve.
    ///
    /// After each [`HttpCall`] the loop is woken through `outside`. With `token_file` a POST needs the token in
    /// it, which is read anew each time; without, the peer has to be root or `own_uid` on this machine, and over TCP
    /// everybody who holds its socket. A token of [`HttpServer::new_page_token`] is always enough.
    ///
    /// # Errors
    /// What cannot be bound, read or started, and why: for people.
    pub fn start(
        address: &str,
        token_file: Option<&Path>,
        outside: Outside,
        own_uid: u32,
    ) -> Result<HttpServer, String> {
        if let Some(path) = token_file {
            token::read(path)?;
            token::warn_if_open(path);
        }
        let server =
            HttpServer::on(Listener::bind(address)?, token_file, PageTokens::default(), outside, own_uid)?;
        log::info!("http: listening on {}", server.address());
        Ok(server)
    }

    /// As [`HttpServer::start`], on a listener that is there already.
    ///
    /// # Errors
    /// No thread can be started.
    fn on(
        listener: Listener,
        token_file: Option<&Path>,
        page_tokens: PageTokens,
        outside: Outside,
        own_uid: u32,
    ) -> Result<HttpServer, String> {
        let listener = Arc::new(listener);
        let reach = listener.reach();
        if reach == Reach::Network && token_file.is_none() {
            log::info!("http: without HttpTokenFile nothing can be changed over {}", listener.address());
        }
        let (calls, inbox) = mpsc::channel();
        let shared = Arc::new(Shared {
            calls,
            reach,
            token_file: token_file.map(Path::to_path_buf),
            page_tokens: Mutex::new(page_tokens),
            scanning: Mutex::default(),
            own_uid,
            followers: Followers::new(outside.first_event),
            registry: Arc::new(Registry::default()),
            outside,
        });
        let thread = accept_thread(&shared, &listener)?;
        Ok(HttpServer { calls: inbox, shared, listener, thread: Some(thread) })
    }

    /// Accepts nothing for now: who comes waits in the queue. The loop is woken when nothing is being answered any more.
    fn pause(&self, waker: &Waker) {
        self.listener.pause();
        self.shared.registry.tell(waker.clone());
    }

    /// After [`HttpServer::pause`]: whether something is still being accepted or answered.
    fn is_at_work(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) || self.shared.registry.is_serving()
    }

    /// Accepts again.
    ///
    /// # Errors
    /// No thread can be started.
    fn resume(&mut self) -> Result<(), String> {
        self.listener.resume();
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            self.thread = Some(accept_thread(&self.shared, &self.listener)?);
        }
        Ok(())
    }

    /// What it is stored as.
    fn parts(&self) -> (&Listener, Option<&PathBuf>, PageTokens) {
        (&self.listener, self.shared.token_file.as_ref(), self.shared.page_tokens().clone())
    }

    /// What is asked. The loop takes everything that is there after each wake-up.
    pub fn calls(&self) -> &mpsc::Receiver<HttpCall> {
        &self.calls
    }

    /// Where it listens, with the real port: `127.0.0.1:9091`, `/run/x.sock`.
    pub fn address(&self) -> &str {
        self.listener.address()
    }

    /// A new token for whoever opens the page.
    pub fn new_page_token(&self) -> String {
        self.shared.page_tokens().make(clock::now())
    }

    /// Sends an event to everybody who follows. Never blocks: whoever is too slow loses it and is told.
    pub fn broadcast(&self, event: &EventLine) {
        self.shared.followers.broadcast(event);
    }

    /// Stops listening, ends the event streams after what was sent to them, and closes every connection
    /// within a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.listener.close();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic there was reported when it happened.
            let _ = thread.join();
        }
        // Whoever waits for an answer that will not come hears so.
        let (_, nobody) = mpsc::channel();
        drop(std::mem::replace(&mut self.calls, nobody));
        self.shared.followers.close();
        self.shared.registry.close(STOP_TIME);
    }
}

fn accept_thread(shared: &Arc<Shared>, listener: &Arc<Listener>) -> Result<JoinHandle<()>, String> {
    let (shared, listener) = (Arc::clone(shared), Arc::clone(listener));
    thread::Builder::new()
        .name("http".into())
        .stack_size(STACK)
        .spawn(move || {
            accept(&shared, &listener);
            (shared.outside.wake)();
        })
        .map_err(|error| format!("cannot start the HTTP thread: {error}"))
}

/// The accept thread.
fn accept(shared: &Arc<Shared>, listener: &Listener) {
    let mut failed = false;
    loop {
        match listener.accept() {
            // What was in the queue when it was closed.
            Ok(_) if listener.is_closed() => return,
            Ok(stream) => {
                failed = false;
                welcome(shared, stream);
            }
            Err(_) if listener.is_closed() || listener.is_paused() => return,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !failed {
                    log::warn!("http: cannot accept a connection: {error}");
                }
                failed = true;
                // No descriptors, no memory: that does not change at once.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn welcome(shared: &Arc<Shared>, stream: Stream) {
    if limits::is_scarce(stream.as_fd()) {
        return turn_away(&stream, "aeternad has hardly any descriptors left");
    }
    let stream = Arc::new(stream);
    let Some(slot) = Registry::enter(&shared.registry, &stream) else {
        let text = format!("aeternad serves {MAX_CONNECTIONS} connections already");
        return turn_away(&stream, &text);
    };
    let (shared, own) = (Arc::clone(shared), Arc::clone(&stream));
    let thread = thread::Builder::new().name("http-client".into()).stack_size(STACK);
    if let Err(error) = thread.spawn(move || serve(&shared, &own, &slot)) {
        turn_away(&stream, &format!("aeternad cannot start a thread: {error}"));
    }
}

fn serve(shared: &Shared, stream: &Stream, slot: &Slot) {
    connection::Connection::new(shared, stream, slot).serve();
}

/// 503 without waiting for the request: a new socket has room for it.
fn turn_away(stream: &Stream, why: &str) {
    let response = Response::unavailable(why, "try again later");
    let mut stream = stream;
    let _ = stream.set_write_timeout(Duration::from_millis(10));
    let _ = stream.write_all(&response.to_bytes(After::Close, Content::Sent));
    stream.forget_input();
}

#[cfg(test)]
mod tests;
