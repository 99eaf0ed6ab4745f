//! The relay of one transfer (contract section 7): copies the source's frames to the sink on a thread of its own.
//!
//! Owns the two sockets for as long as it runs, shares nothing, and hands them back with its
//! [`RelayOutcome`]. Its memory is one buffer and one pipe, whatever passes through: it reads only what the
//! sink has taken, so that back-pressure reaches the source. Descriptors leave with the first byte of their
//! frame. Whether a failed transfer means a cold start or a rollback is not decided here.

mod pump;

use crate::proto::srp::{Complaint, Decoder, Header, Totals};
use crate::sys::aside::Foreign;
use crate::sys::clock;
use crate::time::{Monotime, Span, UNSEEN};
use pump::Pump;
use serde::{Deserialize, Serialize};
use std::io::{self, PipeWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// What the source had already sent when the transfer began, taken off its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// The header of a STATE frame.
    State(Header),
    /// A whole FINISHED frame; its payload is the decoder's last one.
    Finished(Option<Totals>),
}

/// The end that gives the state.
#[derive(Debug)]
pub struct Inlet {
    /// Its socket.
    pub stream: UnixStream,
    /// How far its frames have been read.
    pub decoder: Decoder,
    /// What has been read and not used.
    pub held: Option<Held>,
    /// The descriptors that came with it.
    pub descriptors: Vec<Foreign>,
    /// Acknowledgements of earlier transfers that are still to come; the first empty FINISHED frames are those.
    pub acks: u32,
    /// The coordinator's HELLO, in case the peer still asks for it.
    pub hello: Vec<u8>,
}

/// The end that takes the state.
#[derive(Debug)]
pub struct Outlet {
    /// Its socket.
    pub stream: UnixStream,
    /// How far its frames have been read.
    pub decoder: Decoder,
    /// The coordinator's HELLO, in case the peer still asks for it.
    pub hello: Vec<u8>,
}

/// How the payloads of STATE frames are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// recvmsg(2) and sendmsg(2) with a buffer of so many bytes.
    Buffer(usize),
    /// splice(2) through a pipe of so many bytes; STATE_FD and short frames as with a buffer.
    Splice(usize),
}

/// What the bench found fastest: see benches/relay.rs.
pub const FASTEST: Copying = Copying::Splice(256 * 1024);

/// A time limit that is noticed later than this was over while aeternad was not awake, and the peers may have been as
/// little: it counts once more. The machine's own limit, a second later, was passed unseen then too.
pub const ASLEEP: Span = Span(2 * UNSEEN.0);

/// A transfer.
#[derive(Debug)]
pub struct Job {
    /// Who gives.
    pub source: Inlet,
    /// Who takes.
    pub sink: Outlet,
    /// When the acknowledgement must be there; `None`: never.
    pub deadline: Option<Monotime>,
    /// The most bytes of payload in STATE frames.
    pub max_bytes: u64,
    /// A source that closes its connection before the sink has been sent anything may come again with another:
    /// the sink is told nothing then.
    pub returns: bool,
    /// How.
    pub copying: Copying,
}

/// How a transfer ended. Texts are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayResult {
    /// The sink has acknowledged all of it.
    Done,
    /// The source died, reported an error, broke the protocol or had more than `MaxBytes`.
    SourceFailed(String),
    /// The source was not done at the deadline.
    SourceTimedOut,
    /// The sink died, reported an error or broke the protocol.
    SinkFailed(String),
    /// The sink did not take the state, or not acknowledge it, by the deadline.
    SinkTimedOut,
    /// It was told to stop.
    Cancelled,
}

impl RelayResult {
    /// For people: why there is no state; empty for a success.
    pub fn why(&self) -> String {
        match self {
            RelayResult::Done => String::new(),
            RelayResult::SourceFailed(why) => {
                format!("the old generation did not hand its state over: {why}")
            }
            RelayResult::SourceTimedOut => "the old generation did not hand its state over in time".into(),
            RelayResult::SinkFailed(why) => format!("the new generation did not take the state: {why}"),
            RelayResult::SinkTimedOut => "the new generation did not acknowledge the state in time".into(),
            RelayResult::Cancelled => "the handover was given up".into(),
        }
    }
}

/// The source's socket after a transfer.
#[derive(Debug)]
pub struct SourceBack {
    /// The socket.
    pub stream: UnixStream,
    /// How far its frames have been read: what is left of one belongs to the transfer that has ended.
    pub decoder: Decoder,
    /// Whether all of its state, FINISHED included, was read.
    pub finished: bool,
    /// Acknowledgements of earlier transfers that have still not come.
    pub acks: u32,
}

impl SourceBack {
    fn of(source: Inlet, finished: bool) -> SourceBack {
        SourceBack { stream: source.stream, decoder: source.decoder, finished, acks: source.acks }
    }
}

/// The sink's socket after a transfer.
#[derive(Debug)]
pub struct SinkBack {
    /// The socket; the last frame that was written to it is whole.
    pub stream: UnixStream,
    /// How far its frames have been read.
    pub decoder: Decoder,
}

/// What came of a transfer.
#[derive(Debug)]
pub struct RelayOutcome {
    /// How it ended.
    pub result: RelayResult,
    /// STATE frames that went through.
    pub frames: u64,
    /// Bytes of their payloads that went through.
    pub bytes: u64,
    /// Descriptors that went with them.
    pub descriptors: u64,
    /// What the source says to have sent.
    pub claimed: Option<Totals>,
    /// Whether the sink has been sent nothing, not even an ERROR.
    pub untouched: bool,
    /// How long it took.
    pub duration: Span,
    /// `None` if it is gone or broke the protocol (it has been told).
    pub source: Option<SourceBack>,
    /// `None` if it is gone, broke the protocol, or could not be told that the transfer has failed.
    pub sink: Option<SinkBack>,
}

impl RelayOutcome {
    /// What the source says to have sent, and what has gone through, in words, if that is not the same.
    pub fn differs(&self) -> Option<(String, String)> {
        let Totals { frames, bytes } = self.claimed.filter(|_| self.result == RelayResult::Done)?;
        let (frames, bytes) = (frames.unwrap_or(self.frames), bytes.unwrap_or(self.bytes));
        let text = |frames: u64, bytes: u64| format!("{frames} frames and {bytes} bytes");
        let same = (frames, bytes) == (self.frames, self.bytes);
        (!same).then(|| (text(frames, bytes), text(self.frames, self.bytes)))
    }
}

/// Stops the relay when it is dropped: its outcome is then [`RelayResult::Cancelled`], unless it had ended.
#[derive(Debug)]
pub struct Canceller {
    tx: PipeWriter,
}

impl Canceller {
    /// Stops it; the sink is told only if it has been sent something.
    pub fn quietly(mut self) {
        // The relay has ended if nobody reads.
        let _ = self.tx.write_all(&[0]);
    }
}

/// Starts a transfer. `report` gets the outcome whatever happens: on the relay's thread, or on this one before
/// this returns `None`, if there can be no thread or no descriptor for it.
pub fn start(job: Job, report: impl FnOnce(RelayOutcome) + Send + 'static) -> Option<Canceller> {
    let (rx, tx) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => {
            report(not_started(job, &error));
            return None;
        }
    };
    // The thread takes it out; if there is no thread, it is still here.
    let work = Arc::new(Mutex::new(Some((job, report))));
    let theirs = Arc::clone(&work);
    let spawned = std::thread::Builder::new().name("relay".into()).stack_size(256 * 1024).spawn(move || {
        let work = theirs.lock().ok().and_then(|mut work| work.take());
        if let Some((job, report)) = work {
            report(guarded(|| run(job, &rx)));
        }
    });
    if let Err(error) = spawned {
        if let Some((job, report)) = work.lock().ok().and_then(|mut work| work.take()) {
            report(not_started(job, &error));
        }
        return None;
    }
    Some(Canceller { tx })
}

/// A reload waits for the outcome: a defect of ours must not make it wait for ever.
fn guarded(work: impl FnOnce() -> RelayOutcome) -> RelayOutcome {
    // What the panic has left behind is dropped with the closure: both sockets, so that the peers see an end.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| RelayOutcome {
        result: RelayResult::SourceFailed("the relay broke down, which is a defect of aeternad".into()),
        frames: 0,
        bytes: 0,
        descriptors: 0,
        claimed: None,
        untouched: false,
        duration: Span::ZERO,
        source: None,
        sink: None,
    })
}

/// Runs a transfer on this thread until it is over or `cancel` hangs up. Blocks.
pub fn run(job: Job, cancel: &io::PipeReader) -> RelayOutcome {
    let start = clock::now();
    let mut outcome = Pump::new(job, cancel).run();
    outcome.duration = clock::now().since(start);
    outcome
}

/// The complaint that a sink gets when the transfer fails for this reason.
pub(crate) fn complaint(result: &RelayResult) -> Complaint {
    let code = match result {
        RelayResult::Done | RelayResult::Cancelled => "cancelled",
        RelayResult::SourceFailed(_) => "source_failed",
        RelayResult::SourceTimedOut => "source_timeout",
        RelayResult::SinkFailed(_) => "sink_failed",
        RelayResult::SinkTimedOut => "sink_timeout",
    };
    Complaint { code: code.into(), message: result.why() }
}

fn not_started(job: Job, error: &io::Error) -> RelayOutcome {
    RelayOutcome {
        result: RelayResult::SourceFailed(format!("cannot start the transfer: {error}")),
        frames: 0,
        bytes: 0,
        descriptors: 0,
        claimed: None,
        untouched: true,
        duration: Span::ZERO,
        source: Some(SourceBack::of(job.source, false)),
        sink: Some(SinkBack { stream: job.sink.stream, decoder: job.sink.decoder }),
    }
}

#[cfg(test)]
mod tests;
