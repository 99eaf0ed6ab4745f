//! Clients with a connection per request, for servers of any protocol, over TCP or a Unix path.

use super::WAIT;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// What is sent, and what has to be in the answer.
pub type Talk = (&'static str, &'static str);

/// A request to any web server.
pub const HTTP: Talk = ("GET / HTTP/1.0\r\nHost: x\r\n\r\n", "HTTP/1");

/// More than one of them would be as many as the processors of a small machine have room for.
const CLIENTS: usize = 4;

/// Where clients go.
#[derive(Clone)]
pub enum To {
    Port(u16),
    Path(PathBuf),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn dial(to: &To) -> std::io::Result<Box<dyn Stream>> {
    match to {
        To::Port(port) => {
            let stream = TcpStream::connect(("127.0.0.1", *port))?;
            stream.set_read_timeout(Some(WAIT))?;
            Ok(Box::new(stream))
        }
        To::Path(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(WAIT))?;
            Ok(Box::new(stream))
        }
    }
}

/// One connection, one request; what came if it is not what was expected.
pub fn ask(to: &To, (request, expected): (&str, &str)) -> Result<(), String> {
    let mut stream = dial(to).map_err(|error| format!("connect: {error}"))?;
    stream.write_all(request.as_bytes()).map_err(|error| format!("write: {error}"))?;
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&got).contains(expected) {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("ended after {:?}", String::from_utf8_lossy(&got))),
            Ok(count) => got.extend(&buffer[..count]),
            Err(error) => return Err(format!("read: {error}")),
        }
    }
    Ok(())
}

/// Clients at work, without a pause.
pub struct Hammer {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Hammer {
    /// Starts them.
    pub fn start(to: &To, talk: Talk) -> Hammer {
        let mut hammer = Hammer { stop: Arc::default(), answered: Arc::default(), clients: Vec::new() };
        for _ in 0..CLIENTS {
            let (to, stop, answered) = (to.clone(), Arc::clone(&hammer.stop), Arc::clone(&hammer.answered));
            hammer.clients.push(std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) && failed.len() < 100 {
                    match ask(&to, talk) {
                        Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Err(why) => failed.push(why),
                    }
                }
                failed
            }));
        }
        hammer
    }

    /// Waits until `more` further requests have been answered, or nobody asks any more.
    pub fn wait_answers(&self, more: u64) {
        let target = self.answered.load(Ordering::Relaxed) + more;
        let until = Instant::now() + WAIT;
        while self.answered.load(Ordering::Relaxed) < target
            && self.clients.iter().any(|client| !client.is_finished())
        {
            assert!(Instant::now() < until, "the load is not answered any more");
            std::thread::yield_now();
        }
    }

    /// Ends them, each after its request: how many were answered, and what happened to the others.
    pub fn finish(mut self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.clients.drain(..).flat_map(|client| client.join().unwrap()).collect();
        (self.answered.load(Ordering::Relaxed), failed)
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
