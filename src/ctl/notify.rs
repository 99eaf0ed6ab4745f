//! `aeternactl notify`: what a service without datagram sockets tells its supervisor.

use super::failure::Failure;
use super::output::Output;
use crate::error::exit;
use crate::sys::datagram;
use serde_json::json;
use std::io::{BufRead, Read};

/// The longest message that is read; a longer one is no notice.
const LONGEST: u64 = 64 * 1024;

/// Sends the message, or each that standard input has, ended by a zero byte.
pub(super) fn notify(message: Option<&str>, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let socket = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    if socket.is_empty() {
        let text = "NOTIFY_SOCKET is not set: this process was started by no supervisor, or NotifyAccess is \"none\"";
        return Err(Failure::Broken(text.into()));
    }
    let send = |bytes: &[u8]| {
        datagram::send_to(&socket, bytes)
            .map_err(|error| Failure::Broken(format!("cannot send to {socket} (NOTIFY_SOCKET): {error}")))
    };
    match message {
        Some(message) => send(message.as_bytes())?,
        None => relay(send, |text| output.complain(&format!("aeternactl: {text}")))?,
    }
    if json {
        output.json(&json!({}));
    }
    Ok(exit::OK)
}

/// Messages of standard input, until its end.
fn relay(send: impl Fn(&[u8]) -> Result<(), Failure>, mut complain: impl FnMut(&str)) -> Result<(), Failure> {
    let mut input = std::io::stdin().lock();
    loop {
        let mut message = Vec::new();
        let read = input.by_ref().take(LONGEST).read_until(0, &mut message);
        let count = read.map_err(|error| Failure::Broken(format!("cannot read standard input: {error}")))?;
        if count == 0 {
            return Ok(());
        }
        if message.last() == Some(&0) {
            message.pop();
        } else if count as u64 == LONGEST {
            return Err(Failure::Broken(format!("a message of more than {LONGEST} bytes")));
        }
        // A supervisor that is gone may come back.
        if let Err(failure) = send(&message) {
            complain(failure.message());
        }
    }
}
