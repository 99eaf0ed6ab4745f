//! A small web service that lets itself be replaced: what a service needs to know of Aeterna, in one file.
//!
//! It answers `GET /` with its pid, its generation and a counter that it holds in memory. The sockets come
//! as `LISTEN_FDS` (sd_listen_fds(3)); started by hand it binds `127.0.0.1:$PORT` itself. It says READY=1,
//! and on SIGTERM it stops accepting, finishes what it has and exits 0: a connection that is kept open gets
//! `Connection: close` with its next answer.

#![expect(unsafe_code, reason = "an inherited descriptor is a number that somebody has to believe in")]

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A connection that is kept open and silent is closed this long after the drain began, milliseconds, unless
/// `IDLE_IN_DRAIN_MS` says otherwise.
const IDLE_IN_DRAIN: u16 = 500;

/// What all connections share.
struct Service {
    generation: String,
    count: AtomicU64,
    idle_in_drain: u16,
    /// Closed for writing when the drain begins: every poll(2) on it then returns.
    drain: UnixStream,
}

fn main() -> io::Result<()> {
    let (drain, drain_tx) = UnixStream::pair()?;
    let (term, term_tx) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, term_tx)?;
    let listeners = listeners()?;
    let generation = std::env::var("AETERNA_GENERATION").unwrap_or_else(|_| "0".into());
    let idle = std::env::var("IDLE_IN_DRAIN_MS").ok().and_then(|text| text.parse().ok());
    let idle_in_drain = idle.unwrap_or(IDLE_IN_DRAIN);
    let service = Arc::new(Service { generation, count: AtomicU64::new(0), idle_in_drain, drain });
    let connections = Arc::new(Mutex::new(Vec::new()));
    let mut acceptors = Vec::new();
    for listener in listeners {
        let (service, connections) = (Arc::clone(&service), Arc::clone(&connections));
        acceptors.push(std::thread::spawn(move || accept(&listener, &service, &connections)));
    }
    notify("READY=1")?;
    wait_readable(&[term.as_fd()], PollTimeout::NONE)?;
    drop(drain_tx);
    // Whoever hears of it finds the drain begun.
    notify("STOPPING=1")?;
    for acceptor in acceptors {
        drop(acceptor.join());
    }
    let left = connections.lock().map(|mut c| std::mem::take(&mut *c)).unwrap_or_default();
    for connection in left {
        drop(connection.join());
    }
    Ok(())
}

/// The sockets that the supervisor holds for us, else one of our own.
fn listeners() -> io::Result<Vec<TcpListener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") == Some(std::process::id() as i32) {
        let count = number("LISTEN_FDS").unwrap_or(0);
        // SAFETY: LISTEN_PID is ours, so 3 … 3+LISTEN_FDS are open and belong to this process and to nobody
        // in it; main asks once.
        let take = |fd| unsafe { TcpListener::from_raw_fd(fd) };
        return Ok((3..3 + count).map(take).collect());
    }
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".into());
    Ok(vec![TcpListener::bind(format!("127.0.0.1:{port}"))?])
}

/// One sd_notify(3) message; nothing without a supervisor that listens.
fn notify(message: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// Waits until one of these can be read (or has ended), or until the time is over: which.
fn wait_readable(fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> io::Result<Vec<bool>> {
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    while let Err(error) = poll(&mut set, timeout) {
        if error != nix::errno::Errno::EINTR {
            return Err(error.into());
        }
    }
    Ok(set.iter().map(|fd| fd.any().unwrap_or(false)).collect())
}

type Threads = Mutex<Vec<std::thread::JoinHandle<()>>>;

/// Accepts until the drain begins. The other generation accepts from the same socket: a connection that was
/// there at poll(2) may be gone at accept(2), so the listener must not block.
fn accept(listener: &TcpListener, service: &Arc<Service>, connections: &Threads) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while let Ok(ready) = wait_readable(&[listener.as_fd(), service.drain.as_fd()], PollTimeout::NONE) {
        if ready[1] {
            return;
        }
        let Ok((connection, _)) = listener.accept() else { continue };
        let service = Arc::clone(service);
        let thread = std::thread::spawn(move || drop(serve(&connection, &service)));
        if let Ok(mut threads) = connections.lock() {
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread);
        }
    }
}

/// Answers the requests of one connection until one side has enough.
fn serve(connection: &TcpStream, service: &Service) -> io::Result<()> {
    connection.set_nonblocking(false)?;
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection);
    loop {
        if reader.buffer().is_empty() {
            let ready = wait_readable(&[connection.as_fd(), service.drain.as_fd()], PollTimeout::NONE)?;
            let silent = || wait_readable(&[connection.as_fd()], PollTimeout::from(service.idle_in_drain));
            if !ready[0] && !silent()?[0] {
                return Ok(());
            }
        }
        let Some(request) = Request::read(&mut reader)? else { return Ok(()) };
        let draining = wait_readable(&[service.drain.as_fd()], PollTimeout::ZERO)?[0];
        let close = request.close || draining;
        answer(connection, service, &request, close)?;
        if close {
            return Ok(());
        }
    }
}

struct Request {
    path: String,
    close: bool,
}

impl Request {
    /// The head of a request without a body; `None` at the end of the stream.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut words = first.split_whitespace().skip(1);
        let path = words.next().unwrap_or("/").to_string();
        let mut close = words.next() == Some("HTTP/1.0");
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Some(Request { path, close }));
            }
            if let Some(value) = line.strip_prefix("connection:") {
                close = value.trim() == "close";
            }
        }
    }
}

fn answer(mut to: &TcpStream, service: &Service, request: &Request, close: bool) -> io::Result<()> {
    let (status, body) = match request.path.as_str() {
        "/" | "/health" => {
            let count = service.count.fetch_add(1, Ordering::Relaxed) + 1;
            let (pid, generation) = (std::process::id(), &service.generation);
            ("200 OK", format!("{{\"pid\":{pid},\"generation\":{generation},\"count\":{count}}}\n"))
        }
        _ => ("404 Not Found", "{\"error\":\"there is only /\"}\n".to_string()),
    };
    let connection = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
    to.write_all(format!("{head}{connection}\r\n{body}").as_bytes())
}
