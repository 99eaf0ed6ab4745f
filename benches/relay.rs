//! The relay against other ways through the middle: GiB/s and the ratio to one direct hop of the same round.
//!
//! `cargo bench --bench relay` (`-- MIB ROUNDS` for another size or number). A producer writes one STATE_BYTES
//! frame in pieces of 64 KiB, a consumer reads it; rounds alternate, medians are printed. socat takes part if
//! it is installed.

use aeterna::daemon::relay::{self, Copying, Inlet, Job, Outlet, RelayResult};
use aeterna::proto::srp::{Decoder, FrameType, HEADER, Header, Message};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

const CHUNK: usize = 64 * 1024;

/// A way from the producer to the consumer.
#[derive(Clone, Copy)]
enum Way {
    Direct,
    ReadWrite(usize),
    Relay(Copying),
    Socat(usize),
}

fn main() -> io::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let size = numbers.next().unwrap_or(64) << 20;
    let rounds = numbers.next().unwrap_or(9);
    let mut ways = vec![("direct hop".to_string(), Way::Direct)];
    for kib in [64, 256, 1024] {
        let bytes = kib << 10;
        ways.push((format!("read, write {kib}K"), Way::ReadWrite(bytes)));
        ways.push((format!("relay, buffer {kib}K"), Way::Relay(Copying::Buffer(bytes))));
        ways.push((format!("relay, splice {kib}K"), Way::Relay(Copying::Splice(bytes))));
    }
    if Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_ok() {
        for kib in [8, 64, 256, 1024] {
            ways.push((format!("socat -b {kib}K"), Way::Socat(kib << 10)));
        }
    }
    let mut results = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (index, (_, way)) in ways.iter().enumerate() {
            results[index].push(once(*way, size)?);
        }
    }
    let direct = median(&mut results[0].clone());
    let mut out = io::stdout().lock();
    for ((name, _), result) in ways.iter().zip(&mut results) {
        let speed = median(result);
        writeln!(out, "{name:22} {speed:6.2} GiB/s   {:.2} of a direct hop", speed / direct)?;
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sends `size` bytes this way: GiB/s.
fn once(way: Way, size: usize) -> io::Result<f64> {
    let (mut to, from) = UnixStream::pair()?;
    let (middle, mut consumer) = match way {
        Way::Direct => (None, from),
        _ => {
            let (a, b) = UnixStream::pair()?;
            (Some((from, a)), b)
        }
    };
    let worker = std::thread::spawn(move || match (way, middle) {
        (Way::ReadWrite(bytes), Some((from, to))) => copy(from, to, bytes),
        (Way::Relay(copying), Some((from, to))) => through_relay(from, to, copying),
        (Way::Socat(bytes), Some((from, to))) => through_socat(from, to, bytes),
        (_, _) => Ok(()),
    });
    if let Way::Socat(_) = way {
        // The start of a program is no part of the way.
        to.write_all(b"x")?;
        consumer.read_exact(&mut [0])?;
    }
    let start = Instant::now();
    let producer = std::thread::spawn(move || produce(to, size));
    consume(consumer, size)?;
    let seconds = start.elapsed().as_secs_f64();
    for thread in [worker, producer] {
        thread.join().map_err(|_| io::Error::other("a thread has panicked"))??;
    }
    Ok(size as f64 / f64::from(1 << 30) / seconds)
}

fn produce(mut to: UnixStream, size: usize) -> io::Result<()> {
    let header = Header::new(FrameType::StateBytes, size).map_err(io::Error::other)?;
    to.write_all(&header.to_bytes())?;
    let chunk = vec![7; CHUNK];
    for _ in 0..size / CHUNK {
        to.write_all(&chunk)?;
    }
    to.write_all(&Message::Finished(None).to_bytes())?;
    to.shutdown(Shutdown::Write)?;
    // The relay's acknowledgement, then the end.
    to.read_to_end(&mut Vec::new()).map(drop)
}

fn consume(mut from: UnixStream, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; 4 * CHUNK];
    let mut left = size + 2 * HEADER;
    while left > 0 {
        let room = left.min(buffer.len());
        left -= from.read(&mut buffer[..room])?;
    }
    // Only the relay waits for that.
    let _ = from.write_all(&Message::Finished(None).to_bytes());
    Ok(())
}

fn copy(mut from: UnixStream, mut to: UnixStream, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; bytes];
    let mut last = Vec::new();
    let end = Message::Finished(None).to_bytes();
    while last != end {
        let count = from.read(&mut buffer)?;
        to.write_all(&buffer[..count])?;
        last.extend_from_slice(&buffer[count.saturating_sub(HEADER)..count]);
        last.drain(..last.len().saturating_sub(HEADER));
    }
    Ok(())
}

fn through_relay(from: UnixStream, to: UnixStream, copying: Copying) -> io::Result<()> {
    let source = Inlet {
        stream: from,
        decoder: Decoder::new(),
        held: None,
        descriptors: Vec::new(),
        acks: 0,
        hello: Vec::new(),
    };
    let sink = Outlet { stream: to, decoder: Decoder::new(), hello: Vec::new() };
    let (cancel, _tx) = io::pipe()?;
    let job = Job { source, sink, deadline: None, max_bytes: u64::MAX, returns: false, copying };
    match relay::run(job, &cancel).result {
        RelayResult::Done => Ok(()),
        other => Err(io::Error::other(other.why())),
    }
}

fn through_socat(from: UnixStream, to: UnixStream, bytes: usize) -> io::Result<()> {
    let mut socat = Command::new("socat");
    socat.args(["-u", "-b", &bytes.to_string(), "FD:0", "FD:1"]).stderr(Stdio::null());
    socat.stdin(OwnedFd::from(from)).stdout(OwnedFd::from(to)).status().map(drop)
}
