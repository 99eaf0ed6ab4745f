//! Keys of a terminal that is ours for a while, and what has to happen when somebody wants it back.
//!
//! A second thread waits for signals: whatever the first one waits for, an interrupt or Ctrl-Z gives the terminal back as
//! it was.

use crate::sys::clock;
use crate::sys::stream::{self, Watch};
use crate::sys::terminal::{Raw, leads_session};
use crate::time::Span;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::{flag, low_level};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Another screen without a cursor; what was on this one comes back in the end.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Leave,
    Down,
    Up,
    PageDown,
    PageUp,
    Home,
    End,
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The socket has something, or has ended.
    Socket,
    Keys(Vec<Key>),
    /// The window is another one, or the terminal was somebody else's meanwhile.
    Resized,
    /// A second has passed.
    Second,
}

/// The terminal while it is ours; `None` while it is not.
type Held = Arc<Mutex<Option<Raw>>>;

fn lock(held: &Held) -> MutexGuard<'_, Option<Raw>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A terminal whose keys we get. Dropped, it is as it was.
#[derive(Debug)]
pub(super) struct Keyboard {
    keys: File,
    /// The beginning of a key that has not come to its end, or nothing.
    partial: Vec<u8>,
    held: Held,
    resized: UnixStream,
    ended: bool,
}

impl Keyboard {
    /// `None` if standard input is no terminal, or not ours to change.
    pub(super) fn begin() -> Option<Keyboard> {
        let keys = io::stdin().as_fd().try_clone_to_owned().ok()?;
        let (resized, tell) = UnixStream::pair().ok()?;
        let held: Held = Arc::new(Mutex::new(None));
        let signals = Signals::catch(Arc::clone(&held), tell).ok()?;
        enter(&mut lock(&held)).ok()?;
        thread::Builder::new().name("signals".into()).spawn(move || signals.wait()).ok()?;
        Some(Keyboard { keys: keys.into(), partial: Vec::new(), held, resized, ended: false })
    }

    /// Draws, if the terminal is ours.
    pub(super) fn draw(&self, draw: impl FnOnce()) {
        if lock(&self.held).is_some() {
            draw();
        }
    }

    /// Waits for a key, for `socket`, for another size, or for a second.
    ///
    /// # Errors
    /// Those of poll(2).
    pub(super) fn wait(&mut self, socket: &UnixStream) -> io::Result<Woken> {
        let until = clock::now() + Span::from_secs(1);
        let keys = if self.ended { Watch::gone(socket) } else { Watch::read(&self.keys) };
        let [socket, keys, resized] =
            stream::wait([Watch::read(socket), keys, Watch::read(&self.resized)], Some(until))?;
        if keys.read && !self.ended {
            let mut bytes = [0; 64];
            match (&self.keys).read(&mut bytes) {
                Ok(0) | Err(_) => self.ended = true,
                Ok(count) => self.partial.extend_from_slice(bytes.get(..count).unwrap_or_default()),
            }
            return Ok(Woken::Keys(keys_in(&mut self.partial)));
        }
        if resized.read {
            let _ = self.resized.read(&mut [0; 64]);
            return Ok(Woken::Resized);
        }
        Ok(if socket.read { Woken::Socket } else { Woken::Second })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        leave(&mut lock(&self.held));
    }
}

fn enter(held: &mut Option<Raw>) -> io::Result<()> {
    if held.is_none() {
        *held = Some(Raw::begin(io::stdin().as_fd())?);
        write(ENTER);
    }
    Ok(())
}

fn leave(held: &mut Option<Raw>) {
    if held.take().is_some() {
        write(LEAVE);
    }
}

/// Nobody is left to be told that this cannot be written.
fn write(bytes: &[u8]) {
    let mut out = io::stdout();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Signals that want the terminal back, or say that it is another.
struct Signals {
    held: Held,
    rings: UnixStream,
    seen: Vec<(i32, Arc<AtomicBool>)>,
    tell: UnixStream,
}

impl Signals {
    fn catch(held: Held, tell: UnixStream) -> io::Result<Signals> {
        let (rings, ring) = UnixStream::pair()?;
        let mut seen = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH] {
            let mark = Arc::new(AtomicBool::new(false));
            flag::register(signal, Arc::clone(&mark))?;
            low_level::pipe::register(signal, ring.try_clone()?)?;
            seen.push((signal, mark));
        }
        Ok(Signals { held, rings, seen, tell })
    }

    fn wait(mut self) {
        while matches!(self.rings.read(&mut [0]), Ok(1..)) {
            for (signal, mark) in &self.seen {
                if mark.swap(false, Ordering::Relaxed) {
                    self.act(*signal);
                }
            }
        }
    }

    fn act(&self, signal: i32) {
        let mut held = lock(&self.held);
        match signal {
            SIGWINCH => {}
            // A shell has had the terminal. In its background it is not ours.
            SIGCONT => drop(enter(&mut held)),
            // Who leads a session, as in a container, has no shell that would let it go on.
            SIGTSTP if leads_session() => {}
            _ => {
                leave(&mut held);
                // Ends or stops all of us.
                let _ = low_level::emulate_default_handler(signal);
                let _ = enter(&mut held);
            }
        }
        drop(held);
        let _ = (&self.tell).write_all(&[0]);
    }
}

/// The keys in what was read; the beginning of one that is not whole stays.
fn keys_in(bytes: &mut Vec<u8>) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'\x1b' {
            keys.extend(plain(*first));
            rest = after;
            continue;
        }
        match sequence(after) {
            Some((key, length)) => {
                keys.extend(key);
                rest = after.get(length..).unwrap_or_default();
            }
            None => break,
        }
    }
    *bytes = rest.to_vec();
    keys
}

fn plain(byte: u8) -> Option<Key> {
    Some(match byte {
        b'q' | b'Q' | 4 => Key::Leave,
        b'j' | b'\r' | b'\n' | 14 => Key::Down,
        b'k' | 16 => Key::Up,
        b' ' | b'f' | 6 => Key::PageDown,
        b'b' | 2 => Key::PageUp,
        b'g' | b'<' => Key::Home,
        b'G' | b'>' => Key::End,
        _ => return None,
    })
}

/// What follows an escape: the key, if we know it, and its length; `None` if more of it is to come.
fn sequence(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let (kind, rest) = bytes.split_first()?;
    if !b"[O".contains(kind) {
        // Escape by itself, and then another key.
        return Some((None, 0));
    }
    let end = rest.iter().position(|byte| (b'@'..=b'~').contains(byte));
    let Some(end) = end else {
        // Nobody sends one that is so long.
        return (rest.len() > 16).then_some((None, bytes.len()));
    };
    let key = match (rest.get(..end).unwrap_or_default(), rest.get(end)) {
        (b"", Some(b'A')) => Some(Key::Up),
        (b"", Some(b'B')) => Some(Key::Down),
        (b"", Some(b'H')) | (b"1" | b"7", Some(b'~')) => Some(Key::Home),
        (b"", Some(b'F')) | (b"4" | b"8", Some(b'~')) => Some(Key::End),
        (b"5", Some(b'~')) => Some(Key::PageUp),
        (b"6", Some(b'~')) => Some(Key::PageDown),
        _ => None,
    };
    Some((key, end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_however_they_arrive() {
        let typed = b"jk\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~ bgGx\x1b[1;5Cq";
        let all = [
            Key::Down,
            Key::Up,
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::End,
            Key::PageDown,
            Key::PageUp,
            Key::Home,
            Key::End,
            Key::Leave,
        ];
        let mut bytes = typed.to_vec();
        assert_eq!(keys_in(&mut bytes), all);
        assert!(bytes.is_empty());
        let mut one_by_one = Vec::new();
        for byte in typed {
            bytes.push(*byte);
            one_by_one.extend(keys_in(&mut bytes));
        }
        assert_eq!(one_by_one, all);
    }

    #[test]
    fn nonsense_is_no_key_and_does_not_pile_up() {
        let mut bytes = b"\x1b[".to_vec();
        bytes.extend(std::iter::repeat_n(b'9', 40));
        assert_eq!(keys_in(&mut bytes), []);
        assert!(bytes.is_empty());
        bytes = b"\x1bq".to_vec();
        assert_eq!(keys_in(&mut bytes), [Key::Leave]);
    }
}
