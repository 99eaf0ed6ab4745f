//! The control socket, spoken by hand: one JSON object a line each way.

use super::WAIT;
use aeterna::proto::control::{Line, Request};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection on which nothing has been asked yet.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(stream)
}

/// One request, and its last line; the events before it are left out.
pub fn request(socket: &Path, request: &Request) -> io::Result<Line> {
    raw(socket, &serde_json::to_string(request)?)
}

/// One line as it is, and the last line of the answer.
pub fn raw(socket: &Path, line: &str) -> io::Result<Line> {
    let mut stream = connect(socket)?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Line::Event(_) | Line::Lines(_) => {}
            last @ (Line::Result(_) | Line::Error(_)) => return Ok(last),
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon hung up without an answer"))
}
