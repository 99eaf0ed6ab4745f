//! The keeper: a small process that holds copies of descriptors, so that they outlive whoever has them.
//!
//! It knows nothing of what they are: numbers name them. It speaks with one aeternad at a time, over a socket of messages
//! (SOCK_SEQPACKET) in the runtime dir, and only with its own user. As long as that one is connected it holds what it was
//! given; when the connection ends it waits for the next one, at most for [`PATIENCE`], and then lets everything go: a
//! socket that nobody will ever accept from must refuse, not swallow.
//!
//! ```text
//! P keys    with descriptors: hold them         D keys   let them go; answered by `d`
//! G         give everything: `H keys` with      Q        let everything go, and end
//!           copies, then `E` with its pid       F keys   (from the keeper) no room for these
//! ```

use super::{clock, fd, message, peer, process, user};
use crate::time::{Monotime, Span};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

/// How long descriptors are held for an aeternad that does not come.
pub const PATIENCE: Span = Span::from_secs(300);

/// The first argument of a keeper.
pub const OPTION: &str = "--keeper";

/// The number of its listening socket, and of the connection that it is started with.
const LISTENER: i32 = 3;
const FIRST: i32 = 4;

/// So many descriptors go with one message.
const BATCH: usize = 64;

/// The longest message: its kind and the keys.
const LONGEST: usize = 1 + 8 * BATCH;

/// How long a killed one may take to be gone.
const DYING: Span = Span::from_millis(200);

/// How long an answer is waited for.
const ANSWER: Span = Span::from_secs(2);

fn record(kind: u8, keys: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + 8 * keys.len());
    bytes.push(kind);
    bytes.extend(keys.iter().flat_map(|key| key.to_le_bytes()));
    bytes
}

fn keys_of(bytes: &[u8]) -> Vec<u64> {
    let keys = bytes.get(1..).unwrap_or_default().chunks_exact(8);
    keys.filter_map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?))).collect()
}

/// A connection to a keeper.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    /// A descriptor of its process, where there can be one and it is known.
    process: Option<OwnedFd>,
    /// Messages `D` that are not answered yet.
    unanswered: u32,
}

/// What a keeper says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It has no room for these.
    Full(Vec<u64>),
    /// It is gone.
    Gone,
}

impl Link {
    /// One that a program before this one has had, with its pid if it is our child.
    pub fn restored(fd: OwnedFd, pid: Option<i32>) -> Link {
        Link { fd, process: pid.and_then(|pid| process::pidfd_open(pid).ok()), unanswered: 0 }
    }

    /// Starts a keeper that listens at `path`, in a folder that is ours alone. Returns its pid: it is our child.
    ///
    /// # Errors
    /// No socket can be made there; no process.
    pub fn start(path: &Path) -> io::Result<(Link, i32)> {
        let (listener, name) = message::listen_packets(path)?;
        let (ours, theirs) = message::packet_pair()?;
        let started = start_keeper(&listener, &theirs);
        match started {
            Ok(pid) => Ok((Link::restored(ours, Some(pid)), pid)),
            Err(error) => {
                name.remove();
                Err(error)
            }
        }
    }

    /// The keeper that an aeternad before us has started, and all that it holds. `None` if there is none.
    ///
    /// # Errors
    /// It is not our user's, or does not answer.
    pub fn find(path: &Path) -> io::Result<Option<(Link, BTreeMap<u64, OwnedFd>)>> {
        let fd = match message::connect_packets(path) {
            Ok(fd) => fd,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if peer::peer_credentials(fd.as_fd())?.uid != user::effective_uid() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        let mut link = Link::restored(fd, None);
        match link.take_all() {
            Ok(all) => Ok(Some((link, all))),
            // It ended when we came: as if it had not been there.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Copies of everything that it holds.
    fn take_all(&mut self) -> io::Result<BTreeMap<u64, OwnedFd>> {
        message::send(self.fd.as_fd(), b"G", &[])?;
        let until = clock::now() + ANSWER;
        let mut all = BTreeMap::new();
        loop {
            match self.next(until)? {
                (b'H', keys, fds) => {
                    if keys.len() != fds.len() {
                        return Err(io::Error::from_raw_os_error(libc::EMFILE));
                    }
                    all.extend(keys.into_iter().zip(fds));
                }
                (b'E', who, _) => {
                    let pid = who.first().and_then(|pid| i32::try_from(*pid).ok());
                    // One on a thread of our own is none to end.
                    let other = pid.filter(|pid| *pid != process::pid());
                    self.process = other.and_then(|pid| process::pidfd_open(pid).ok());
                    return Ok(all);
                }
                _ => {}
            }
        }
    }

    /// The next message; waited for.
    fn next(&mut self, until: Monotime) -> io::Result<(u8, Vec<u64>, Vec<OwnedFd>)> {
        let mut buffer = [0; LONGEST];
        loop {
            match message::recv(self.fd.as_fd(), &mut buffer, BATCH) {
                Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(message) => {
                    let bytes = buffer.get(..message.bytes).unwrap_or_default();
                    let fds = message.fds.into_iter().filter_map(super::aside::Foreign::into_owned).collect();
                    return Ok((bytes.first().copied().unwrap_or_default(), keys_of(bytes), fds));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) => return Err(error),
            }
            let rest = until.since(clock::now());
            if rest.is_zero() || !fd::readable(self.fd.as_fd(), rest) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Gives it descriptors to hold. Never waits.
    ///
    /// # Errors
    /// `EPIPE` if it is gone; `EAGAIN` if it does not read; `ETOOMANYREFS`.
    pub fn put(&self, fds: &[(u64, RawFd)]) -> io::Result<()> {
        for batch in fds.chunks(BATCH) {
            let keys: Vec<u64> = batch.iter().map(|(key, _)| *key).collect();
            // SAFETY: the numbers are open, as the caller says, and only borrowed for this call.
            let fds: Vec<BorrowedFd<'_>> =
                batch.iter().map(|(_, fd)| unsafe { BorrowedFd::borrow_raw(*fd) }).collect();
            message::send(self.fd.as_fd(), &record(b'P', &keys), &fds)?;
        }
        Ok(())
    }

    /// Lets descriptors go. Never waits: [`Link::settle`] does.
    ///
    /// # Errors
    /// As [`Link::put`].
    pub fn drop(&mut self, keys: &[u64]) -> io::Result<()> {
        for batch in keys.chunks(BATCH) {
            message::send(self.fd.as_fd(), &record(b'D', batch), &[])?;
            self.unanswered += 1;
        }
        Ok(())
    }

    /// Waits until it has let go what it was told to.
    ///
    /// # Errors
    /// It does not answer, or is gone.
    pub fn settle(&mut self) -> io::Result<Vec<News>> {
        let until = clock::now() + ANSWER;
        let mut news = Vec::new();
        while self.unanswered > 0 {
            let (kind, keys, _) = self.next(until)?;
            news.extend(self.heard(kind, keys));
        }
        Ok(news)
    }

    fn heard(&mut self, kind: u8, keys: Vec<u64>) -> Option<News> {
        match kind {
            b'd' => {
                self.unanswered = self.unanswered.saturating_sub(1);
                None
            }
            b'F' => Some(News::Full(keys)),
            _ => None,
        }
    }

    /// What it has said since the last time; never waits.
    pub fn read(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let mut buffer = [0; LONGEST];
        loop {
            match message::recv(self.fd.as_fd(), &mut buffer, BATCH) {
                Ok(message) if message.bytes > 0 => {
                    let bytes = buffer.get(..message.bytes).unwrap_or_default();
                    let kind = bytes.first().copied().unwrap_or_default();
                    news.extend(self.heard(kind, keys_of(bytes)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return news,
                Ok(_) | Err(_) => {
                    news.push(News::Gone);
                    return news;
                }
            }
        }
    }

    /// Ends it, and waits until it has let everything go, and is gone: nobody is to find it after us.
    pub fn quit(mut self) {
        let until = clock::now() + ANSWER;
        if message::send(self.fd.as_fd(), b"Q", &[]).is_ok() {
            while self.next(until).is_ok() {}
        }
        let is_over = |process: &OwnedFd| fd::readable(process.as_fd(), until.since(clock::now()));
        if !self.process.as_ref().is_none_or(is_over) {
            self.kill();
        }
    }

    /// Ends one that does not answer, a stopped one perhaps: what it holds would be held for as long as it is there, and who
    /// connects to that would wait for ever. Waits for a moment until that is closed.
    pub fn kill(&self) {
        let Some(process) = &self.process else { return };
        if process::pidfd_signal(process.as_fd(), libc::SIGKILL).is_ok() {
            fd::readable(process.as_fd(), DYING);
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn start_keeper(listener: &OwnedFd, connection: &OwnedFd) -> io::Result<i32> {
    use super::spawn::{self, Plan};
    let null = fd::dev_null()?;
    let mut plan = Plan::new(c"/proc/self/exe".to_owned(), [null.as_fd(), null.as_fd(), null.as_fd()]);
    let option = CString::new(OPTION).unwrap_or_default();
    plan.argv = vec![c"aeterna-keeper".to_owned(), option];
    // Whoever looks for what belongs to aeternad by its environment finds it too.
    plan.env = spawn::own_environment();
    plan.directory = Some(c"/".to_owned());
    plan.fds = vec![listener.as_fd(), connection.as_fd()];
    let started = spawn::spawn(&plan).map_err(|error| io::Error::from_raw_os_error(error.errno))?;
    Ok(started.pid)
}

/// The keeper itself: `aeternad --keeper`. Ends when it is told to, or when nobody has come for [`PATIENCE`]. Its exit
/// status is 2 for somebody who types the option.
pub fn main() -> u8 {
    let (Ok(listener), Ok(first)) = (fd::inherited(LISTENER), fd::inherited(FIRST)) else { return 2 };
    if peer::peer_credentials(first.as_fd()).is_err() {
        return 2;
    }
    // What is meant for aeternad, and for the group that it is in, is not meant for this one.
    let _ = super::signal::block_all();
    let _ = nix::sys::prctl::set_name(c"aeterna-keeper");
    let mut keeper = Serving { held: BTreeMap::new(), link: Some(first) };
    keeper.run(listener.as_fd());
    0
}

/// A keeper at work.
struct Serving {
    held: BTreeMap<u64, OwnedFd>,
    link: Option<OwnedFd>,
}

/// Whether a keeper goes on.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    End,
}

impl Serving {
    fn run(&mut self, listener: BorrowedFd<'_>) {
        let mut until = clock::now() + PATIENCE;
        loop {
            let patience = match &self.link {
                Some(_) => PollTimeout::NONE,
                None => {
                    let rest = (until.since(clock::now()).0.div_ceil(1_000_000)).min(60_000);
                    if rest == 0 {
                        return;
                    }
                    PollTimeout::from(u16::try_from(rest).unwrap_or(u16::MAX))
                }
            };
            let (mut new, mut said) = (false, false);
            {
                let mut watched = vec![PollFd::new(listener, PollFlags::POLLIN)];
                watched.extend(self.link.as_ref().map(|link| PollFd::new(link.as_fd(), PollFlags::POLLIN)));
                if poll(&mut watched, patience).is_ok() {
                    let any = |at: usize| watched.get(at).is_some_and(|fd| fd.any() == Some(true));
                    (new, said) = (any(0), any(1));
                }
            }
            // Who has hung up makes room for who has just come.
            if said && self.hear() == Goes::End {
                return;
            }
            if new {
                self.welcome(listener);
            }
            if self.link.is_some() {
                until = clock::now() + PATIENCE;
            }
        }
    }

    /// One at a time, and of our own user only.
    fn welcome(&mut self, listener: BorrowedFd<'_>) {
        let Ok(Some(connection)) = message::accept(listener) else { return };
        let ours =
            peer::peer_credentials(connection.as_fd()).is_ok_and(|peer| peer.uid == user::effective_uid());
        if ours && self.link.is_none() {
            self.link = Some(connection);
        }
    }

    /// Reads all that the other side has said.
    fn hear(&mut self) -> Goes {
        let mut buffer = [0; LONGEST];
        while let Some(link) = &self.link {
            let message = match message::recv(link.as_fd(), &mut buffer, BATCH) {
                Ok(message) if message.bytes > 0 => message,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    self.link = None;
                    break;
                }
            };
            let bytes = buffer.get(..message.bytes).unwrap_or_default();
            let (kind, keys) = (bytes.first().copied().unwrap_or_default(), keys_of(bytes));
            let fds = message.fds.into_iter().filter_map(super::aside::Foreign::into_owned);
            match kind {
                b'P' => {
                    let before = keys.len();
                    let mut lacking = keys;
                    let mut count = 0;
                    for (key, fd) in lacking.iter().zip(fds) {
                        self.held.insert(*key, fd);
                        count += 1;
                    }
                    if count < before {
                        self.say(&record(b'F', &lacking.split_off(count)), &[]);
                    }
                }
                b'D' => {
                    keys.iter().for_each(|key| drop(self.held.remove(key)));
                    self.say(b"d", &[]);
                }
                b'G' => self.give(),
                b'Q' => {
                    self.held.clear();
                    return Goes::End;
                }
                _ => {}
            }
        }
        Goes::On
    }

    fn give(&mut self) {
        let all: Vec<(u64, BorrowedFd<'_>)> = self.held.iter().map(|(key, fd)| (*key, fd.as_fd())).collect();
        for batch in all.chunks(BATCH) {
            let keys: Vec<u64> = batch.iter().map(|(key, _)| *key).collect();
            let fds: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, fd)| *fd).collect();
            self.say(&record(b'H', &keys), &fds);
        }
        self.say(&record(b'E', &[u64::from(process::pid().unsigned_abs())]), &[]);
    }

    /// Says something, and waits until there is room for it: who asks reads the answer.
    fn say(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let Some(link) = &self.link else { return };
        let until = clock::now() + ANSWER;
        while let Err(error) = message::send(link.as_fd(), bytes, fds) {
            let rest = until.since(clock::now());
            let full = error.kind() == io::ErrorKind::WouldBlock;
            if !full || rest.is_zero() || !fd::writable(link.as_fd(), rest) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    /// A keeper on a thread of its own.
    fn keeper(path: &Path) -> (Link, std::thread::JoinHandle<usize>) {
        let (listener, _) = message::listen_packets(path).unwrap();
        let (ours, theirs) = message::packet_pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut keeper = Serving { held: BTreeMap::new(), link: Some(theirs) };
            keeper.run(listener.as_fd());
            keeper.held.len()
        });
        (Link::restored(ours, None), thread)
    }

    #[test]
    fn what_is_put_outlives_who_has_put_it_and_what_is_dropped_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let (link, thread) = keeper(&path);
        let pairs: Vec<_> = (0..200).map(|_| UnixStream::pair().unwrap()).collect();
        let fds: Vec<(u64, RawFd)> =
            pairs.iter().enumerate().map(|(number, (a, _))| (number as u64 + 7, a.as_raw_fd())).collect();
        link.put(&fds).unwrap();
        let mut others: Vec<UnixStream> = pairs.into_iter().map(|(_, b)| b).collect();
        drop(link);
        let (mut link, mut all) = loop {
            // The end of the link before may not have been seen yet.
            match Link::find(&path) {
                Ok(Some(found)) => break found,
                other => assert!(matches!(other, Ok(None)), "{other:?}"),
            }
        };
        assert_eq!(all.keys().copied().collect::<Vec<u64>>(), (7..207).collect::<Vec<u64>>());
        let mut first: UnixStream = all.remove(&7).unwrap().into();
        first.write_all(b"x").unwrap();
        let mut byte = [0];
        others[0].read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop((first, all));
        link.drop(&(7..107).collect::<Vec<u64>>()).unwrap();
        assert_eq!(link.settle().unwrap(), []);
        assert_eq!(others[0].read(&mut byte).unwrap(), 0, "closed when it was answered");
        others[150].set_nonblocking(true).unwrap();
        assert_eq!(others[150].read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        link.quit();
        assert_eq!((thread.join().unwrap(), others[150].read(&mut byte).unwrap()), (0, 0));
    }

    #[test]
    fn one_at_a_time_and_an_unknown_word_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let (link, thread) = keeper(&path);
        // Somebody else comes while the first is there: he is sent away.
        assert!(Link::find(&path).unwrap().is_none());
        for word in [&b"?"[..], b"Dxyz", b"P", b"P12345678"] {
            message::send(link.as_fd(), word, &[]).unwrap();
        }
        link.quit();
        thread.join().unwrap();
        assert!(Link::find(&path).unwrap().is_none(), "nobody is there any more");
    }
}
