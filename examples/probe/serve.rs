//! What the probe does with the sockets that it was lent.

use crate::orders::{self, After};
use crate::report;
use crate::world::World;
use nix::poll::PollTimeout;
use nix::sys::socket::{AddressFamily, Shutdown, getsockopt, shutdown, sockopt};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A kept connection that is silent is closed this long after the drain began, milliseconds: longer than a client that
/// is about to send its next request may be kept from it by a busy machine.
const IDLE_IN_DRAIN: u16 = 3_000;

/// Starts a thread for everything that was lent, and for what the probe binds itself.
pub(crate) fn everything(world: &Arc<World>) -> io::Result<()> {
    let settings = &world.settings;
    let lent = if report::variable("LISTEN_PID") == Some(i64::from(std::process::id())) {
        report::lent()
    } else {
        Vec::new()
    };
    for fd in &lent {
        misuse(world, *fd)?;
    }
    if let Some(path) = settings.get("orders") {
        let generation = std::env::var("AETERNA_GENERATION").unwrap_or_default();
        let path = path.replace("%g", &generation).replace("%p", &std::process::id().to_string());
        let _ = std::fs::remove_file(&path);
        start(world, OwnedFd::from(UnixListener::bind(path)?));
    }
    if let Some(address) = settings.get("bind") {
        start(world, OwnedFd::from(TcpListener::bind(address)?));
    } else if lent.is_empty()
        && let Ok(port) = std::env::var("PORT")
    {
        start(world, OwnedFd::from(TcpListener::bind(format!("127.0.0.1:{port}"))?));
    }
    if settings.get("stdin") == Some("http") {
        start(world, crate::owned(0));
    }
    if !settings.has("no_serve") && !settings.has("close_fds") {
        for fd in lent {
            start(world, crate::owned(fd));
        }
    }
    Ok(())
}

/// `shutdown_listener`, `unlink_path`, `close_fds`, and close-on-exec unless `leak`.
fn misuse(world: &World, fd: i32) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let settings = &world.settings;
    if !settings.has("leak") {
        fcntl(crate::borrowed(fd), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    if settings.has("unlink_path") {
        unlink(fd)?;
    }
    if settings.has("shutdown_listener") {
        shutdown(fd, Shutdown::Both)?;
    }
    if settings.has("close_fds") {
        drop(crate::owned(fd));
    }
    Ok(())
}

/// Removes the path that a Unix socket is bound to.
pub(crate) fn unlink(fd: i32) -> io::Result<()> {
    match report::address(fd) {
        Some(path) if path.starts_with('/') => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

fn start(world: &Arc<World>, fd: OwnedFd) {
    let number = fd.as_raw_fd();
    let listening = getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false);
    let world = Arc::clone(world);
    match report::kind(number) {
        "stream" | "seqpacket" if listening => {
            // Who accepts is at work: the drain is not over before it has seen that there is one, or it could end with
            // a connection that was accepted at this moment.
            world.begin();
            std::thread::spawn(move || {
                if let Ok(listener) = Listener::new(fd) {
                    accept(&world, &listener);
                }
                world.end();
            });
        }
        "stream" | "seqpacket" => {
            std::thread::spawn(move || {
                world.count_accept();
                let _ = connection(&world, File::from(fd));
                // A connection was all that this process was started for.
                std::process::exit(0);
            });
        }
        "datagram" => {
            std::thread::spawn(move || datagrams(&world, fd));
        }
        "fifo" => {
            std::thread::spawn(move || fifo(&world, fd));
        }
        // Kept open, for `/read` and `/fds`.
        _ => std::mem::forget(fd),
    }
}

/// A listener of either family; `/close` must find no second descriptor of it.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(fd: OwnedFd) -> io::Result<Listener> {
        // Other generations accept from the same socket: a connection may be gone between poll and accept.
        if report::family(fd.as_raw_fd()) == Some(AddressFamily::Unix) {
            let listener = UnixListener::from(fd);
            listener.set_nonblocking(true)?;
            return Ok(Listener::Unix(listener));
        }
        let listener = TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Listener::Tcp(listener))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }

    fn accept(&self) -> io::Result<OwnedFd> {
        match self {
            Listener::Tcp(listener) => Ok(listener.accept()?.0.into()),
            Listener::Unix(listener) => Ok(listener.accept()?.0.into()),
        }
    }
}

/// Accepts until the drain.
fn accept(world: &Arc<World>, listener: &Listener) {
    loop {
        if !world.accepting.load(Ordering::Relaxed) {
            match crate::readable(&[world.drain_rx.as_fd()], PollTimeout::from(10u16)) {
                Ok(ready) if !ready[0] => continue,
                _ => return,
            }
        }
        let ready = crate::readable(&[listener.as_fd(), world.drain_rx.as_fd()], PollTimeout::NONE);
        let Ok(ready) = ready else { return };
        if ready[1] {
            return;
        }
        if !world.accepting.load(Ordering::Relaxed) {
            continue;
        }
        match listener.accept() {
            Ok(fd) => {
                world.count_accept();
                world.begin();
                let world = Arc::clone(world);
                std::thread::spawn(move || {
                    let _ = connection(&world, File::from(fd));
                    world.end();
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // A listener that was shut down: there is nothing to wait for.
            Err(_) => return,
        }
    }
}

/// Answers the requests of one connection.
fn connection(world: &Arc<World>, file: File) -> io::Result<()> {
    let mut reader = BufReader::new(file.try_clone()?);
    loop {
        if reader.buffer().is_empty() {
            let ready = crate::readable(&[file.as_fd(), world.drain_rx.as_fd()], PollTimeout::NONE)?;
            if !ready[0] && !crate::readable(&[file.as_fd()], PollTimeout::from(IDLE_IN_DRAIN))?[0] {
                return Ok(());
            }
        }
        let Some((target, close)) = request(&mut reader)? else { return Ok(()) };
        if target == "/hold" {
            return hold(world, &file, &mut reader);
        }
        let draining = crate::readable(&[world.drain_rx.as_fd()], PollTimeout::ZERO)?[0];
        let close = close || draining;
        let answer = orders::obey(world, &target);
        let connection = if close { "Connection: close\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {} Probe\r\nContent-Length: {}\r\n{connection}\r\n",
            answer.status,
            answer.body.len()
        );
        (&file).write_all(format!("{head}{}", answer.body).as_bytes())?;
        match answer.after {
            After::Nothing => {}
            After::Exit(code) => std::process::exit(code),
            After::Die(signal) => crate::world::die_of(&signal)?,
        }
        if close {
            return Ok(());
        }
    }
}

/// Keeps the connection until the client closes it; it hears of SIGTERM with the line `term`.
fn hold(world: &World, file: &File, reader: &mut impl BufRead) -> io::Result<()> {
    let line =
        format!("{} {}\n", std::process::id(), std::env::var("AETERNA_GENERATION").unwrap_or_default());
    world.hold(file.try_clone()?);
    (&*file).write_all(format!("HTTP/1.1 200 Probe\r\nConnection: close\r\n\r\n{line}").as_bytes())?;
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).map(drop)
}

/// The target of a request, and whether the client wants the connection closed; `None` at the end.
fn request(reader: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_whitespace().skip(1);
    let target = words.next().unwrap_or("/").to_string();
    let mut close = words.next() == Some("HTTP/1.0");
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            return Ok(Some((target, close)));
        }
        if let Some(value) = line.strip_prefix("connection:") {
            close = value.trim() == "close";
        }
    }
}

/// Datagrams: each is remembered; one that begins with `/` is an order, and its sender gets the answer.
fn datagrams(world: &World, fd: OwnedFd) {
    let unix = report::family(fd.as_raw_fd()) == Some(AddressFamily::Unix);
    let mut buffer = vec![0; 65536];
    if unix {
        let socket = UnixDatagram::from(fd);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = datagram(world, &buffer[..length]);
            if from.as_pathname().is_some() {
                let _ = socket.send_to_addr(answer.as_bytes(), &from);
            }
        }
    } else {
        let socket = std::net::UdpSocket::from(fd);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(datagram(world, &buffer[..length]).as_bytes(), from);
        }
    }
}

fn datagram(world: &World, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    world.receive(text.trim_end());
    if text.starts_with('/') { orders::obey(world, text.trim_end()).body } else { text.into_owned() }
}

/// Lines of a FIFO are remembered; one that begins with `/` is an order.
fn fifo(world: &World, fd: OwnedFd) {
    let mut reader = BufReader::new(File::from(fd));
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            // No writer is there: wait for the next one. A FIFO that aeternad holds open for writing never ends.
            Ok(0) => drop(crate::readable(&[reader.get_ref().as_fd()], PollTimeout::from(20u16))),
            Ok(_) => {
                world.receive(line.trim_end());
                if line.starts_with('/') {
                    orders::obey(world, line.trim_end());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(crate::readable(&[reader.get_ref().as_fd()], PollTimeout::NONE));
            }
            Err(_) => return,
        }
    }
}
