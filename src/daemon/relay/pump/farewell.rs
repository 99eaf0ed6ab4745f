//! The end of a transfer: who is told what, and what is handed back.

use super::{BUFFER, Failure, Pump, Step};
use crate::daemon::relay::{Job, RelayOutcome, RelayResult, SinkBack, SourceBack, complaint};
use crate::proto::srp::{HEADER, Message};
use crate::sys::clock;
use crate::sys::stream::{self, Moved, Watch};
use crate::time::Span;
use std::os::fd::AsFd;

/// The rest of a broken frame that is filled up with zeroes, so that ERROR can follow it, bytes. Beyond that
/// the sink's connection is closed in the middle of the frame, which says the same.
const MOST_FILLING: u64 = 256 * 1024 * 1024;

/// How long a sink may take to read that the transfer has failed; longer, while the transfer might still have gone
/// on, if much of a frame has to be filled up.
const FAREWELL: Span = Span::from_secs(1);
const FILLING: Span = Span::from_secs(10);

impl Pump<'_> {
    /// Tells both sides as well as it can be done, and gives back what can still be used.
    pub(super) fn fail(mut self, failure: Failure) -> RelayOutcome {
        if let Some(accuse) = failure.accuse.as_ref().filter(|_| failure.source_lost) {
            let _ = stream::send(self.job.source.stream.as_fd(), &accuse.to_bytes(), &[]);
        }
        let closed = failure.source_lost && failure.accuse.is_none();
        if self.is_quiet || (self.job.returns && closed && self.sink_frame == 0) {
            self.is_quiet = true;
            let _ = self.answer_sink();
            return self.outcome(failure.result, !failure.source_lost, true);
        }
        let now = clock::now();
        let by = match (&failure.result, self.deadline) {
            (RelayResult::SourceFailed(_), Some(by)) => by.min(now + FILLING),
            (RelayResult::SourceFailed(_), None) => now + FILLING,
            _ => now,
        };
        self.deadline = Some(by.max(now + FAREWELL));
        // Whoever gives up a transfer has hung up before it is said that he has.
        self.heeds_cancel = failure.result != RelayResult::Cancelled;
        if let Some(accuse) = failure.accuse.as_ref().filter(|_| failure.sink_lost) {
            let _ = self.tell_sink(accuse);
        }
        let void = Message::Error(complaint(&failure.result));
        let told = !failure.sink_lost && self.tell_sink(&void).is_ok();
        self.outcome(failure.result, !failure.source_lost, told)
    }

    /// Ends the frame that the sink is in the middle of, then says why all of it is void.
    fn tell_sink(&mut self, error: &Message) -> Step<()> {
        let gone = self.sink_frame - self.sink_left;
        if gone == 0 {
            self.sink_left = 0;
        }
        // Nothing can follow the half of a header.
        if self.sink_left > MOST_FILLING || (self.sink_left > 0 && gone < HEADER as u64) {
            return Err(Failure::plain(RelayResult::Cancelled));
        }
        let zeroes = vec![0; BUFFER];
        while self.sink_left > 0 {
            let count = zeroes.len().min(self.sink_left as usize);
            self.write_farewell(&zeroes[..count])?;
        }
        self.write_farewell(&error.to_bytes())
    }

    fn write_farewell(&mut self, mut bytes: &[u8]) -> Step<()> {
        while !bytes.is_empty() {
            let sink = &self.job.sink.stream;
            match stream::send(sink.as_fd(), bytes, &[]) {
                Ok(Moved::Bytes(count)) => {
                    bytes = &bytes[count..];
                    self.sink_left = self.sink_left.saturating_sub(count as u64);
                }
                Ok(Moved::NotYet) if self.deadline.is_some_and(|by| by > clock::now()) => {
                    let cancel = Watch::read(self.cancel);
                    let ready = if self.heeds_cancel {
                        stream::wait([cancel, Watch::write(sink)], self.deadline).map(|[cancel, _]| cancel)
                    } else {
                        stream::wait([Watch::write(sink)], self.deadline).map(|_| stream::Ready::default())
                    };
                    if ready.is_ok_and(|cancel| cancel.read) {
                        return Err(Failure::plain(RelayResult::Cancelled));
                    }
                }
                _ => return Err(Failure::plain(RelayResult::Cancelled)),
            }
        }
        Ok(())
    }

    pub(super) fn outcome(self, result: RelayResult, keep_source: bool, keep_sink: bool) -> RelayOutcome {
        let Job { source, sink, .. } = self.job;
        let source = SourceBack::of(source, self.finished);
        let sink = SinkBack { stream: sink.stream, decoder: sink.decoder };
        RelayOutcome {
            result,
            frames: self.frames,
            bytes: self.bytes,
            descriptors: self.descriptors,
            claimed: self.claimed,
            untouched: self.is_quiet,
            duration: Span::ZERO,
            source: keep_source.then_some(source),
            sink: keep_sink.then_some(sink),
        }
    }
}
