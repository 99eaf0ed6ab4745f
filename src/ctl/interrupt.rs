//! Ends a wait from outside: by SIGINT, or when `--timeout` has passed.
//!
//! One thread sleeps on a socket that the signal handler writes to, with the timeout as its read timeout; when it
//! wakes up it notes why and shuts the daemon's socket down, so that whoever reads from that sees its end.

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
}

/// Watches over one wait.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    cause: Arc<OnceLock<Cause>>,
}

impl Watch {
    /// From now on SIGINT, and the end of `timeout`, shut `socket` down instead of ending the process.
    ///
    /// # Errors
    /// No descriptors or no thread left.
    pub(super) fn start(socket: UnixStream, timeout: Option<Span>) -> io::Result<Watch> {
        let (mut signals_rx, signals_tx) = UnixStream::pair()?;
        signals_rx.set_read_timeout(timeout.map(|span| Duration::from_nanos(span.0)))?;
        signal_hook::low_level::pipe::register(SIGINT, signals_tx)?;
        let cause = Arc::new(OnceLock::new());
        let noted = Arc::clone(&cause);
        thread::Builder::new().name("interrupt".into()).spawn(move || {
            let why = wait(&mut signals_rx);
            let _ = noted.set(why);
            // The socket may have ended by itself at the same moment.
            let _ = socket.shutdown(Shutdown::Both);
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
