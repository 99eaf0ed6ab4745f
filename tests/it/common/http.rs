//! A small HTTP/1.1 client over TCP and Unix sockets. It never repeats a request: a lost one is seen.

use super::WAIT;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// The head without its first line, as it came.
    pub headers: String,
    pub body: String,
    /// Whether the server will close the connection.
    pub closes: bool,
}

/// A connected stream of either family.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// Where a client of this machine reaches a bound address: wildcards become loopback.
pub fn reachable(address: &str) -> String {
    address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
}

/// Connects to `IP:PORT`, `/path` or `@abstract`; reads and writes are bounded by [`WAIT`].
pub fn connect(address: &str) -> io::Result<Box<dyn Stream>> {
    if address.starts_with(['/', '@']) {
        let stream = match address.strip_prefix('@') {
            Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => UnixStream::connect(address)?,
        };
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        return Ok(Box::new(stream));
    }
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(Box::new(stream))
}

/// One request on a connection of its own.
pub fn get(address: &str, path: &str) -> io::Result<Response> {
    let mut client = Client::connect(address)?;
    client.send(path, "Connection: close\r\n")?;
    client.receive()
}

/// A connection that is kept.
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

impl Client {
    pub fn connect(address: &str) -> io::Result<Client> {
        Ok(Client { stream: BufReader::new(connect(address)?) })
    }

    /// One request, and its answer.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(path, "")?;
        self.receive()
    }

    /// Sends a request with more header lines (each ends with CRLF).
    pub fn send(&mut self, path: &str, headers: &str) -> io::Result<()> {
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// One raw line of what the server sends, without its end; an empty text at the end of the stream.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_string())
    }

    /// Writes raw bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads to the end of the stream.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// The answer to what was sent.
    pub fn receive(&mut self) -> io::Result<Response> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("no answer, only {first:?}"))
        })?;
        let mut headers = String::new();
        let mut length = None;
        let mut closes = false;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok(),
                "connection" => closes = value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
            headers.push_str(&line);
            headers.push('\n');
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                self.stream.read_exact(&mut body)?;
            }
            None => drop(self.stream.read_to_end(&mut body)?),
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Response { status, headers, body, closes })
    }
}
