//! Ends a wait from outside: by SIGINT, when `--timeout` has passed, or when nobody reads the output any more.
//!
//! One thread sleeps on a socket that the signal handler writes to, with the timeout as its read timeout, or on
//! standard output; when it wakes up it notes why and shuts the daemon's socket down, so that whoever reads from
//! that sees its end.

use crate::sys::stream;
use crate::time::Span;
use signal_hook::consts::SIGINT;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// Why a wait was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Interrupted,
    TimedOut,
    /// The reader of standard output is gone.
    Unread,
}

/// Watches over one wait.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    cause: Arc<OnceLock<Cause>>,
}

/// SIGINT, which from now on ends no process.
#[derive(Debug)]
pub(super) struct Interrupt(UnixStream);

impl Interrupt {
    /// # Errors
    /// No descriptors left.
    pub(super) fn catch() -> io::Result<Interrupt> {
        let (signals_rx, signals_tx) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGINT, signals_tx)?;
        Ok(Interrupt(signals_rx))
    }
}

impl Watch {
    /// SIGINT, also one that has come already, and the end of `timeout`, which counts from now, shut `socket` down.
    ///
    /// # Errors
    /// No thread left.
    pub(super) fn start(
        interrupt: Interrupt,
        socket: UnixStream,
        timeout: Option<Span>,
    ) -> io::Result<Watch> {
        let Interrupt(mut signals_rx) = interrupt;
        signals_rx.set_read_timeout(timeout.map(|span| Duration::from_nanos(span.0)))?;
        Watch::when("interrupt", socket, move || Some(wait(&mut signals_rx)))
    }

    /// From now on the end of whoever reads standard output shuts `socket` down: a command without an end has
    /// nothing left to do, also while there is nothing to write.
    ///
    /// # Errors
    /// No thread left.
    pub(super) fn until_unread(socket: UnixStream) -> io::Result<Watch> {
        Watch::when("output", socket, || {
            // What cannot be waited for, a closed descriptor say, shows at the first write.
            stream::wait([stream::Watch::gone(&io::stdout())], None).ok().map(|_| Cause::Unread)
        })
    }

    /// A thread that shuts `socket` down for the cause that `wait` returns with.
    fn when(
        name: &str,
        socket: UnixStream,
        wait: impl FnOnce() -> Option<Cause> + Send + 'static,
    ) -> io::Result<Watch> {
        let cause = Arc::new(OnceLock::new());
        let noted = Arc::clone(&cause);
        thread::Builder::new().name(name.into()).spawn(move || {
            if let Some(why) = wait() {
                let _ = noted.set(why);
                // The socket may have ended by itself at the same moment.
                let _ = socket.shutdown(Shutdown::Both);
            }
        })?;
        Ok(Watch { cause })
    }

    /// Why the wait was ended; `None` if it was not, or not from here.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }
}

/// Waits for a signal's byte, or for the read timeout.
fn wait(signals_rx: &mut UnixStream) -> Cause {
    loop {
        match signals_rx.read(&mut [0]) {
            Ok(_) => return Cause::Interrupted,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Cause::TimedOut,
        }
    }
}
