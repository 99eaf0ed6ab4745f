//! For services in Rust: the sockets that aeternad holds, notices to it, and state that outlives a reload.
//!
//! Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
//! A state that cannot be loaded is no state and a line on standard error that begins with `[Aeterna-SDK]`.
//!
//! ```no_run
//! use aeterna::sdk::{self, Frame, Listeners, State};
//!
//! # fn main() -> std::io::Result<()> {
//! let listener = Listeners::take()?.tcp("http", "127.0.0.1:8080")?;
//! let mut state = State::connect();
//! let count: u64 = state.load(|frames| frames[0].text()?.parse().map_err(std::io::Error::other)).unwrap_or(0);
//! state.keep(Counter { count });
//! sdk::ready()?;
//! # drop(listener);
//! # Ok(())
//! # }
//! # struct Counter { count: u64 }
//! # impl sdk::Keeper for Counter {
//! #     fn save(&mut self) -> Vec<Frame> { vec![Frame::json(self.count.to_string())] }
//! #     fn resume(&mut self, _: Option<Vec<Frame>>) {}
//! # }
//! ```

mod channel;
mod listeners;
mod state;

use crate::sys::clock;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub use listeners::{Listeners, Which};
pub use state::{Frame, Keeper, Kept, Kind, State};

/// The service serves: sd_notify(3) `READY=1`.
///
/// # Errors
/// As [`notify`].
pub fn ready() -> io::Result<bool> {
    notify("READY=1")
}

/// The service is about to end: `STOPPING=1`.
///
/// # Errors
/// As [`notify`].
pub fn stopping() -> io::Result<bool> {
    notify("STOPPING=1")
}

/// The service rereads its configuration by itself; [`ready`] ends that. `RELOADING=1` with `MONOTONIC_USEC`.
///
/// # Errors
/// As [`notify`].
pub fn reloading() -> io::Result<bool> {
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::now().0 / 1000))
}

/// One line for `aeternactl status`: `STATUS=…`. A newline in it becomes a space.
///
/// # Errors
/// As [`notify`].
pub fn status(text: &str) -> io::Result<bool> {
    notify(&format!("STATUS={}", text.replace('\n', " ")))
}

/// Any sd_notify(3) message: `KEY=value` lines. Returns whether there was somebody to tell.
///
/// # Errors
/// The socket that `NOTIFY_SOCKET` names cannot be reached.
pub fn notify(message: &str) -> io::Result<bool> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(false) };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(true)
}

/// Whether aeternad has started this program.
pub fn is_managed() -> bool {
    std::env::var("AETERNA_MANAGED").as_deref() == Ok("1")
}

/// 1 for the first launch, one more for each; 0 without aeternad.
pub fn generation() -> u32 {
    std::env::var("AETERNA_GENERATION").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether an earlier generation was serving when this one was started.
pub fn is_handover() -> bool {
    std::env::var("AETERNA_HANDOVER").as_deref() == Ok("1")
}

/// A line for whoever runs the service. A standard error that is gone is no reason to stop.
fn log(text: &str) {
    let _ = writeln!(io::stderr(), "[Aeterna-SDK] {text}");
}
