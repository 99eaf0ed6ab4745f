//! A chat whose clients stay connected while the program is replaced.
//!
//! Lines go to everybody; the first line of a client is its name. At a reload each connection travels to the
//! newer generation as a descriptor, with the name and the half line that has been read from it. Between REQUEST
//! and COMMIT (or RESUME) nothing is read, so that no byte is read by one generation and meant for the other.

use aeterna::sdk::{self, Frame, Keeper, Kind, Listeners, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What is known of a client, beside its connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct About {
    kind: String,
    name: String,
    /// What has been read behind the last newline.
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    about: About,
    stream: TcpStream,
}

#[derive(Debug, Default)]
struct Room {
    clients: BTreeMap<u64, Client>,
    last: u64,
    /// A newer generation is about to take over: nothing is read or accepted.
    frozen: bool,
}

#[derive(Debug, Default)]
struct Chat {
    room: Mutex<Room>,
    thawed: Condvar,
}

impl Chat {
    /// The room, while it may be changed: waits as long as it is frozen.
    fn room(&self) -> MutexGuard<'_, Room> {
        let mut room = self.locked();
        while room.frozen {
            room = self.thawed.wait(room).unwrap_or_else(PoisonError::into_inner);
        }
        room
    }

    fn locked(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Chat>, stream: TcpStream, about: About) -> io::Result<()> {
        let reader = stream.try_clone()?;
        // A connection that has just thawed is not waited for: every read is preceded by a poll.
        reader.set_nonblocking(true)?;
        let mut room = self.locked();
        room.last += 1;
        let id = room.last;
        room.clients.insert(id, Client { about, stream });
        drop(room);
        let chat = Arc::clone(self);
        std::thread::Builder::new().spawn(move || chat.listen(id, &reader))?;
        Ok(())
    }

    /// Reads what a client says until it leaves.
    fn listen(&self, id: u64, mut reader: &TcpStream) {
        let mut buffer = [0; 4096];
        loop {
            if readable(reader).is_err() {
                return;
            }
            // Under the lock: while the state is being handed over nobody reads a byte.
            let mut room = self.room();
            let Room { clients, .. } = &mut *room;
            let Some(client) = clients.get_mut(&id) else { return };
            match reader.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(count) if count > 0 => {
                    client.about.rest.extend_from_slice(&buffer[..count]);
                    room.hear(id);
                }
                Ok(_) | Err(_) => {
                    let name = client.about.name.clone();
                    clients.remove(&id);
                    room.tell(&format!("* {name} has left"));
                    return;
                }
            }
        }
    }
}

impl Room {
    /// Takes whole lines out of what a client has said.
    fn hear(&mut self, id: u64) {
        while let Some(client) = self.clients.get_mut(&id) {
            let Some(end) = client.about.rest.iter().position(|byte| *byte == b'\n') else { return };
            let line: Vec<u8> = client.about.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim().to_string();
            let text = if client.about.name.is_empty() {
                client.about.name = line.clone();
                format!("* {line} has come (generation {})", sdk::generation())
            } else {
                format!("{}: {line}", client.about.name)
            };
            self.tell(&text);
        }
    }

    /// One line to everybody. Whoever cannot take it at once is no longer there for long.
    fn tell(&mut self, text: &str) {
        let line = format!("{text}\n");
        for client in self.clients.values_mut() {
            if client.stream.write_all(line.as_bytes()).is_err() {
                let _ = client.stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Waits until there is something to read.
fn readable(stream: &TcpStream) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    Ok(())
}

/// What aeternad asks of the older generation.
struct Held(Arc<Chat>);

impl Keeper for Held {
    fn save(&mut self) -> Vec<Frame> {
        let mut room = self.0.locked();
        room.frozen = true;
        let frames = room.clients.values().filter_map(|client| {
            let about = About { kind: "connection".into(), ..client.about.clone() };
            let connection = OwnedFd::from(client.stream.try_clone().ok()?);
            Some(Frame::descriptors(serde_json::to_string(&about).ok()?, vec![connection]))
        });
        frames.collect()
    }

    fn resume(&mut self, state: Option<Vec<Frame>>) {
        if let Some(frames) = state {
            // What the newer generation gives back replaces ours; its connections are the same ones.
            self.0.locked().clients.clear();
            if let Err(error) = adopt(&self.0, frames) {
                let _ = writeln!(io::stderr(), "cannot take all clients back: {error}");
            }
        }
        self.0.locked().frozen = false;
        self.0.thawed.notify_all();
    }
}

fn adopt(chat: &Arc<Chat>, frames: Vec<Frame>) -> io::Result<()> {
    for frame in frames.into_iter().filter(|frame| frame.kind == Kind::Descriptors) {
        let about: About = serde_json::from_slice(&frame.payload)?;
        for connection in frame.descriptors {
            chat.join(TcpStream::from(connection), about.clone())?;
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let (mut term, term_tx) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, term_tx)?;
    let port = std::env::var("PORT").unwrap_or_else(|_| "7000".into());
    let listener = Listeners::take()?.tcp(0, &format!("127.0.0.1:{port}"))?;
    let chat = Arc::new(Chat::default());
    let mut state = State::connect();
    state.load(|frames| adopt(&chat, frames));
    let kept = state.keep(Held(Arc::clone(&chat)));
    let acceptor = Arc::clone(&chat);
    std::thread::Builder::new().spawn(move || accept(&listener, &acceptor))?;
    sdk::ready()?;
    io::BufReader::new(&mut term).fill_buf()?;
    // An aeternad that is gone is no reason to end otherwise.
    let _ = sdk::stopping();
    if !kept.is_handed_over() {
        chat.locked().tell("* the chat is over");
    }
    // Connections that were handed over are closed here, which the clients do not notice.
    Ok(())
}

/// Lets newcomers in, but none between REQUEST and its end: they wait in the queue for whoever goes on.
fn accept(listener: &TcpListener, chat: &Arc<Chat>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_ok() {
        let accepted = {
            let _room = chat.room();
            listener.accept()
        };
        if let Ok((stream, _)) = accepted {
            let _ = chat.join(stream, About::default());
        }
    }
}
