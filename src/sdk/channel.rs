//! Frames over a connection to aeternad, blocking.

use super::state::{Frame, Kind};
use crate::proto::srp::{Decoder, Header, MAX_DESCRIPTORS, Message, Piece};
use crate::sys::clock;
use crate::sys::stream::{self, Moved, Watch};
use crate::time::Span;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// How long aeternad may be silent in the middle of something.
const PATIENCE: Span = Span::from_secs(60);

const CHUNK: usize = 64 * 1024;

/// A whole frame.
#[derive(Debug)]
pub(super) enum Incoming {
    Message(Message),
    State(Frame),
}

/// How long to wait for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// For ever: nothing is under way.
    Idle,
    /// Each byte for [`PATIENCE`].
    Soon,
}

#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    decoder: Decoder,
    /// Has been read already.
    early: Option<Incoming>,
}

impl Channel {
    pub(super) fn connect(path: &Path) -> io::Result<Channel> {
        Ok(Channel { stream: UnixStream::connect(path)?, decoder: Decoder::new(), early: None })
    }

    /// The next frame will be this one.
    pub(super) fn unread(&mut self, frame: Incoming) {
        self.early = Some(frame);
    }

    /// The next frame. Its memory grows with what has arrived, not with what was announced.
    pub(super) fn read(&mut self, wait: Wait) -> io::Result<Incoming> {
        if let Some(early) = self.early.take() {
            return Ok(early);
        }
        let mut frame: Option<Frame> = None;
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let begun = frame.is_some() || !self.decoder.is_between_frames();
            let room = self.decoder.wanted().min(CHUNK);
            match stream::receive(self.stream.as_fd(), &mut buffer[..room], &mut descriptors)? {
                Moved::Ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::NotYet => {
                    let patience = if begun { Wait::Soon } else { wait };
                    self.wait(patience, Watch::read(&self.stream))?;
                }
                Moved::Bytes(count) => {
                    let mut input = &buffer[..count];
                    while let Some(piece) = self.next_piece(&mut input)? {
                        match piece {
                            Piece::Message(message) => return Ok(Incoming::Message(message)),
                            Piece::State(header) => {
                                let kind = Kind::of(header.kind);
                                frame = Some(Frame { kind, payload: Vec::new(), descriptors: Vec::new() });
                            }
                            Piece::Body(body) => {
                                if let Some(frame) = &mut frame {
                                    frame.payload.extend_from_slice(body);
                                }
                            }
                            Piece::End => {
                                if let Some(mut frame) = frame.take() {
                                    frame.descriptors = descriptors;
                                    return Ok(Incoming::State(frame));
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// What is no SRP is answered by its name, and nothing is read any more.
    fn next_piece<'b>(&mut self, input: &mut &'b [u8]) -> io::Result<Option<Piece<'b>>> {
        self.decoder.next(input).map_err(|error| {
            // Whoever sends such a thing may be gone already.
            let _ = self.say(&Message::error(error.code(), error.to_string()));
            io::Error::other(format!("this is no SRP: {error}"))
        })
    }

    pub(super) fn say(&self, message: &Message) -> io::Result<()> {
        self.write(&message.to_bytes(), &[])
    }

    /// Writes a STATE frame; the descriptors go with its first byte.
    pub(super) fn send(&self, frame: &Frame) -> io::Result<()> {
        if frame.descriptors.len() > MAX_DESCRIPTORS {
            let text = format!("{} descriptors in one frame; {MAX_DESCRIPTORS} fit", frame.descriptors.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let header = Header::new(frame.kind.frame_type(), frame.payload.len()).map_err(io::Error::other)?;
        let descriptors: Vec<BorrowedFd<'_>> = frame.descriptors.iter().map(AsFd::as_fd).collect();
        self.write(&header.to_bytes(), &descriptors)?;
        self.write(&frame.payload, &[])
    }

    fn write(&self, mut bytes: &[u8], mut descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        while !bytes.is_empty() {
            match stream::send(self.stream.as_fd(), bytes, descriptors)? {
                Moved::Bytes(count) => {
                    bytes = &bytes[count..];
                    descriptors = &[];
                }
                Moved::NotYet => self.wait(Wait::Soon, Watch::write(&self.stream))?,
                Moved::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, wait: Wait, watch: Watch<'_>) -> io::Result<()> {
        let deadline = match wait {
            Wait::Idle => None,
            Wait::Soon => Some(clock::now() + PATIENCE),
        };
        let [ready] = stream::wait([watch], deadline)?;
        if ready.read || ready.write { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}
