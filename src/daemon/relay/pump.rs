//! The relay's work: one frame after the other, each wait bounded by the deadline and ended by a cancel.

mod farewell;

use super::{Copying, Held, Job, RelayOutcome, RelayResult};
use crate::proto::harmless::{LONGEST, harmless};
use crate::proto::srp::{FrameType, HEADER, Header, Hello, MAX_DESCRIPTORS, Message, Piece, Totals};
use crate::sys::aside::Foreign;
use crate::sys::clock;
use crate::sys::stream::{self, Moved, Watch};
use crate::time::{Monotime, Span};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;

/// The buffer for everything that is not spliced, bytes.
const BUFFER: usize = 64 * 1024;

/// A payload below this is copied: splicing costs two calls more.
const WORTH_SPLICING: u32 = 32 * 1024;

/// What the relay waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Source,
    SinkRoom,
    SinkFrame,
}

/// Why the copying stopped, and whose connection cannot be used any more.
#[derive(Debug)]
pub(super) struct Failure {
    result: RelayResult,
    /// What the one who is lost is told before its connection is closed.
    accuse: Option<Message>,
    source_lost: bool,
    sink_lost: bool,
}

impl Failure {
    fn plain(result: RelayResult) -> Failure {
        Failure { result, accuse: None, source_lost: false, sink_lost: false }
    }

    fn source_gone(why: &str) -> Failure {
        let result = RelayResult::SourceFailed(why.into());
        Failure { source_lost: true, ..Failure::plain(result) }
    }

    /// The source broke the protocol.
    fn source_broke(code: &str, why: &str) -> Failure {
        let accuse = Some(Message::error(code, why));
        let result = RelayResult::SourceFailed(format!("it broke the protocol: {why}"));
        Failure { accuse, source_lost: true, ..Failure::plain(result) }
    }

    fn sink(why: String) -> Failure {
        Failure { sink_lost: true, ..Failure::plain(RelayResult::SinkFailed(why)) }
    }

    /// The sink broke the protocol.
    fn sink_broke(code: &str, why: &str) -> Failure {
        let accuse = Some(Message::error(code, why));
        Failure { accuse, ..Failure::sink(format!("it broke the protocol: {why}")) }
    }
}

type Step<T> = Result<T, Failure>;

/// One transfer at work.
pub(super) struct Pump<'a> {
    job: Job,
    cancel: &'a PipeReader,
    pub(super) deadline: Option<Monotime>,
    /// How long that was in the beginning, as long as it may be given again.
    spare: Option<Span>,
    buffer: Vec<u8>,
    pipe: Option<(PipeReader, PipeWriter)>,
    frames: u64,
    bytes: u64,
    descriptors: u64,
    claimed: Option<Totals>,
    finished: bool,
    /// Bytes that the sink must still get before it can read another frame.
    sink_left: u64,
    /// The size of that frame.
    sink_frame: u64,
    /// What a late HELLO of the sink is answered with, once a frame has ended.
    answer: Vec<u8>,
    acknowledged: bool,
    /// Whether a hang-up of `cancel` ends the farewell.
    heeds_cancel: bool,
    /// There is no farewell to the sink.
    is_quiet: bool,
}

impl<'a> Pump<'a> {
    pub(super) fn new(job: Job, cancel: &'a PipeReader) -> Pump<'a> {
        Pump {
            deadline: job.deadline,
            spare: job.deadline.map(|by| by.since(clock::now())),
            job,
            cancel,
            buffer: Vec::new(),
            pipe: None,
            frames: 0,
            bytes: 0,
            descriptors: 0,
            claimed: None,
            finished: false,
            sink_left: 0,
            sink_frame: 0,
            answer: Vec::new(),
            acknowledged: false,
            heeds_cancel: true,
            is_quiet: false,
        }
    }

    pub(super) fn run(mut self) -> RelayOutcome {
        let buffer = if let Copying::Buffer(size) = self.job.copying { size } else { BUFFER };
        self.buffer = vec![0; buffer.max(2 * HEADER)];
        match self.transfer() {
            Ok(()) => self.outcome(RelayResult::Done, true, true),
            Err(failure) => self.fail(failure),
        }
    }

    /// The whole conversation.
    fn transfer(&mut self) -> Step<()> {
        for end in [&self.job.source.stream, &self.job.sink.stream] {
            let set = end.set_nonblocking(true);
            set.map_err(|e| Failure::source_gone(&format!("cannot use its connection: {e}")))?;
        }
        loop {
            let held = match self.job.source.held.take() {
                Some(held) => held,
                None => self.next_frame()?,
            };
            match held {
                Held::State(header) => self.relay_frame(header)?,
                Held::Finished(None) if self.job.source.acks > 0 && self.frames == 0 => {
                    self.job.source.acks -= 1;
                }
                Held::Finished(totals) => {
                    self.claimed = totals;
                    break;
                }
            }
        }
        self.finished = true;
        self.answer_sink()?;
        let payload = self.job.source.decoder.last_payload().to_vec();
        let header = Header { kind: FrameType::Finished, payload: payload.len() as u32 };
        let bytes = [&header.to_bytes()[..], &payload].concat();
        self.begin_frame(bytes.len() as u64);
        self.write_sink(&bytes, &[])?;
        while !self.acknowledged {
            self.wait(For::SinkFrame)?;
            self.read_sink(For::SinkFrame)?;
        }
        // The state has arrived: a source that is gone by now does not matter.
        let ack = Message::Finished(None).to_bytes();
        let _ = stream::send(self.job.source.stream.as_fd(), &ack, &[]);
        Ok(())
    }

    /// The next STATE header or FINISHED of the source; what it says beside is dealt with.
    fn next_frame(&mut self) -> Step<Held> {
        loop {
            match self.read_source()? {
                Some(Said::State(header)) => return Ok(Held::State(header)),
                Some(Said::Message(Message::Finished(totals))) => return Ok(Held::Finished(totals)),
                Some(Said::Message(Message::Error(complaint))) => {
                    return Err(Failure::plain(RelayResult::SourceFailed(complaint.shown())));
                }
                Some(Said::Message(Message::Hello(Hello::Source))) if !self.job.source.hello.is_empty() => {
                    let hello = std::mem::take(&mut self.job.source.hello);
                    let _ = stream::send(self.job.source.stream.as_fd(), &hello, &[]);
                }
                Some(Said::Message(other)) => {
                    let why = format!("{} comes from no source", other.kind());
                    return Err(Failure::source_broke("unexpected", &why));
                }
                None => self.wait(For::Source)?,
            }
        }
    }

    /// Reads no further than the frame that has begun; `None`: wait for more.
    fn read_source(&mut self) -> Step<Option<Said>> {
        let source = &mut self.job.source;
        let room = source.decoder.wanted().min(self.buffer.len());
        let moved = stream::receive(source.stream.as_fd(), &mut self.buffer[..room], &mut source.descriptors);
        let count = match moved.map_err(|e| Failure::source_gone(&format!("cannot read from it: {e}")))? {
            Moved::Bytes(count) => count,
            Moved::NotYet => return Ok(None),
            Moved::Ended => return Err(Failure::source_gone("it closed its connection before FINISHED")),
        };
        let mut input = &self.buffer[..count];
        let piece = source.decoder.next(&mut input);
        let piece = piece.map_err(|e| Failure::source_broke(e.code(), &harmless(&e.to_string(), LONGEST)))?;
        let said = match piece {
            Some(Piece::State(header)) => Some(Said::State(header)),
            Some(Piece::Message(message)) => Some(Said::Message(message)),
            Some(Piece::Body(_) | Piece::End) | None => None,
        };
        if source.descriptors.len() > MAX_DESCRIPTORS {
            return Err(Failure::source_broke(
                "too_many_descriptors",
                "more descriptors than a frame can carry",
            ));
        }
        let may = matches!(said, None | Some(Said::State(Header { kind: FrameType::StateFd, .. })));
        if !source.descriptors.is_empty() && !may {
            return Err(Failure::source_broke("stray_descriptors", STRAY));
        }
        Ok(said)
    }

    /// Copies one STATE frame.
    fn relay_frame(&mut self, header: Header) -> Step<()> {
        self.answer_sink()?;
        if header.kind != FrameType::StateFd && !self.job.source.descriptors.is_empty() {
            return Err(Failure::source_broke("stray_descriptors", STRAY));
        }
        let total = self.bytes.saturating_add(u64::from(header.payload));
        if total > self.job.max_bytes {
            let why = format!("more than MaxBytes={} bytes of state", self.job.max_bytes);
            return Err(Failure::plain(RelayResult::SourceFailed(why)));
        }
        let spliced = match self.job.copying {
            Copying::Splice(size) if header.payload >= WORTH_SPLICING => {
                Some(size).filter(|_| header.kind != FrameType::StateFd)
            }
            Copying::Splice(_) | Copying::Buffer(_) => None,
        };
        self.begin_frame(HEADER as u64 + u64::from(header.payload));
        let mut left = header.payload;
        left -= self.relay_head(header, if spliced.is_some() { 0 } else { left })?;
        match spliced {
            Some(size) => self.splice_body(left, size)?,
            None => self.copy_body(left)?,
        }
        // The decoder says that the frame is over without asking for another byte.
        let _ = self.job.source.decoder.next(&mut &[][..]);
        self.frames += 1;
        Ok(())
    }

    /// Sends the header with its descriptors, and up to `ahead` bytes of the payload that have come already: most
    /// frames are small, and one write is one wake-up of the sink. Returns how many.
    fn relay_head(&mut self, header: Header, ahead: u32) -> Step<u32> {
        let descriptors = std::mem::take(&mut self.job.source.descriptors);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer[..HEADER].copy_from_slice(&header.to_bytes());
        let end = buffer.len().min(HEADER + ahead as usize);
        let sent = self.read_body(&mut buffer[HEADER..end]).and_then(|count| {
            self.write_sink(&buffer[..HEADER + count], &descriptors)?;
            Ok(count)
        });
        self.buffer = buffer;
        let count = sent?;
        self.descriptors += descriptors.len() as u64;
        self.bytes += count as u64;
        Ok(count as u32)
    }

    /// Reads what has come of the payload: 0 for nothing yet.
    fn read_body(&mut self, to: &mut [u8]) -> Step<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        let source = &mut self.job.source;
        let got = stream::receive(source.stream.as_fd(), to, &mut source.descriptors);
        let count = self.source_bytes(got)?;
        if !self.job.source.descriptors.is_empty() {
            return Err(Failure::source_broke("stray_descriptors", STRAY));
        }
        self.job.source.decoder.skip(count as u32);
        Ok(count)
    }

    fn copy_body(&mut self, mut left: u32) -> Step<()> {
        while left > 0 {
            let mut buffer = std::mem::take(&mut self.buffer);
            let room = buffer.len().min(left as usize);
            let copied = self.read_body(&mut buffer[..room]).and_then(|count| {
                self.write_sink(&buffer[..count], &[])?;
                Ok(count)
            });
            self.buffer = buffer;
            match copied? {
                0 => self.wait(For::Source)?,
                count => {
                    left -= count as u32;
                    self.bytes += count as u64;
                }
            }
        }
        Ok(())
    }

    fn splice_body(&mut self, mut left: u32, size: usize) -> Step<()> {
        if self.pipe.is_none() {
            let pipe =
                io::pipe().map_err(|e| Failure::source_gone(&format!("no pipe for the relay: {e}")))?;
            stream::resize_pipe(pipe.1.as_fd(), size);
            self.pipe = Some(pipe);
        }
        while left > 0 {
            let Some((_, tx)) = &self.pipe else { return Ok(()) };
            let got = stream::splice(self.job.source.stream.as_fd(), tx.as_fd(), size.min(left as usize));
            let count = self.source_bytes(got)?;
            if count == 0 {
                self.wait(For::Source)?;
                continue;
            }
            self.job.source.decoder.skip(count as u32);
            left -= count as u32;
            self.empty_pipe(count)?;
            self.bytes += count as u64;
        }
        Ok(())
    }

    /// Moves exactly so many bytes from the pipe to the sink.
    fn empty_pipe(&mut self, mut count: usize) -> Step<()> {
        while count > 0 {
            let Some((rx, _)) = &self.pipe else { return Ok(()) };
            match stream::splice(rx.as_fd(), self.job.sink.stream.as_fd(), count) {
                Ok(Moved::Bytes(moved)) => {
                    count -= moved;
                    self.sink_left -= moved as u64;
                }
                Ok(Moved::NotYet) => self.wait(For::SinkRoom)?,
                Ok(Moved::Ended) => return Err(self.sink_gone()),
                Err(error) => return Err(Failure::sink(format!("cannot write to it: {error}"))),
            }
        }
        Ok(())
    }

    /// How many bytes of a payload came; 0: none yet.
    fn source_bytes(&self, moved: io::Result<Moved>) -> Step<usize> {
        match moved.map_err(|e| Failure::source_gone(&format!("cannot read from it: {e}")))? {
            Moved::Bytes(count) => Ok(count),
            Moved::NotYet => Ok(0),
            Moved::Ended => Err(Failure::source_gone("it closed its connection in the middle of a frame")),
        }
    }

    /// Writes all of it. The descriptors go with the first byte.
    fn write_sink(&mut self, mut bytes: &[u8], descriptors: &[Foreign]) -> Step<()> {
        let mut descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        while !bytes.is_empty() {
            match stream::send(self.job.sink.stream.as_fd(), bytes, &descriptors) {
                Ok(Moved::Bytes(count)) => {
                    bytes = &bytes[count..];
                    descriptors.clear();
                    self.sink_left = self.sink_left.saturating_sub(count as u64);
                }
                Ok(Moved::NotYet) => self.wait(For::SinkRoom)?,
                Ok(Moved::Ended) => return Err(self.sink_gone()),
                Err(error) => return Err(Failure::sink(format!("cannot write to it: {error}"))),
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, size: u64) {
        (self.sink_frame, self.sink_left) = (size, size);
    }

    /// Sends what a late HELLO of the sink asked for; only between frames.
    fn answer_sink(&mut self) -> Step<()> {
        let answer = std::mem::take(&mut self.answer);
        self.write_sink(&answer, &[])
    }

    /// Waits for one thing, and meanwhile for a cancel and for the sink's complaints.
    fn wait(&mut self, what: For) -> Step<()> {
        loop {
            let (source, sink) = (&self.job.source.stream, &self.job.sink.stream);
            let to_sink = if what == For::SinkRoom { Watch::read_write(sink) } else { Watch::read(sink) };
            // A source that is not asked is not watched: its end would be reported over and over.
            let ready = if what == For::Source {
                stream::wait([Watch::read(self.cancel), to_sink, Watch::read(source)], self.deadline)
            } else {
                let two = stream::wait([Watch::read(self.cancel), to_sink], self.deadline);
                two.map(|[cancel, sink]| [cancel, sink, stream::Ready::default()])
            };
            let ready = ready.map_err(|e| Failure::source_gone(&format!("cannot wait for it: {e}")))?;
            let [cancel, sink, source] = ready;
            if cancel.read {
                self.is_quiet =
                    self.sink_frame == 0 && self.cancel.read(&mut [0]).is_ok_and(|count| count > 0);
                return Err(Failure::plain(RelayResult::Cancelled));
            }
            if sink.read && what != For::SinkFrame {
                self.read_sink(what)?;
            }
            let there = match what {
                For::Source => source.read,
                For::SinkRoom => sink.write,
                For::SinkFrame => sink.read,
            };
            if there {
                return Ok(());
            }
            if self.once_more() {
                continue;
            }
            if self.deadline.is_some_and(|by| by <= clock::now()) {
                let source_late = what == For::Source;
                let late = if source_late { RelayResult::SourceTimedOut } else { RelayResult::SinkTimedOut };
                return Err(Failure::plain(late));
            }
        }
    }

    /// Gives the transfer its time once more if that was over while aeternad was not awake; whether it has.
    pub(super) fn once_more(&mut self) -> bool {
        let (Some(by), Some(length), now) = (self.deadline, self.spare, clock::now()) else { return false };
        if now.since(by) <= super::ASLEEP {
            return false;
        }
        self.spare = None;
        self.deadline = Some(now + length);
        true
    }

    /// Reads what the sink has to say.
    fn read_sink(&mut self, what: For) -> Step<()> {
        loop {
            let sink = &mut self.job.sink;
            let mut chunk = [0; 512];
            let room = sink.decoder.wanted().min(chunk.len());
            let mut stray: Vec<Foreign> = Vec::new();
            let count = match stream::receive(sink.stream.as_fd(), &mut chunk[..room], &mut stray) {
                Ok(Moved::Bytes(count)) => count,
                Ok(Moved::NotYet) => return Ok(()),
                Ok(Moved::Ended) => return Err(Failure::sink("it closed its connection".into())),
                Err(error) => return Err(Failure::sink(format!("cannot read from it: {error}"))),
            };
            if !stray.is_empty() {
                return Err(Failure::sink_broke("stray_descriptors", "descriptors from a sink"));
            }
            let mut input = &chunk[..count];
            let piece = sink.decoder.next(&mut input);
            let misplaced = |why: String| Failure::sink_broke("unexpected", &why);
            match piece.map_err(|e| Failure::sink_broke(e.code(), &harmless(&e.to_string(), LONGEST)))? {
                None => {}
                Some(Piece::Message(Message::Finished(None))) if what == For::SinkFrame => {
                    self.acknowledged = true;
                    return Ok(());
                }
                Some(Piece::Message(Message::Error(c))) => {
                    return Err(Failure::sink(c.shown()));
                }
                Some(Piece::Message(Message::Hello(Hello::Sink))) if !sink.hello.is_empty() => {
                    self.answer = std::mem::take(&mut sink.hello);
                }
                Some(Piece::Message(other)) => {
                    return Err(misplaced(format!("{} before it had all of the state", other.kind())));
                }
                Some(Piece::State(header)) => return Err(misplaced(format!("{} from a sink", header.kind))),
                Some(Piece::Body(_) | Piece::End) => {}
            }
        }
    }

    /// The sink takes no more: perhaps it has said why.
    fn sink_gone(&mut self) -> Failure {
        match self.read_sink(For::SinkRoom) {
            Err(failure) => failure,
            Ok(()) => Failure::sink("it closed its connection".into()),
        }
    }
}

/// What is wrong with a source that sends descriptors where none belong.
const STRAY: &str = "descriptors belong on the first byte of a STATE_FD frame";

/// What a source has said, as far as the relay looks at it.
#[derive(Debug)]
enum Said {
    State(Header),
    Message(Message),
}
