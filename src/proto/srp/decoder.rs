//! Frames out of chunks that end wherever they end.

use super::{FrameError, HEADER, Header, Message};
use serde::{Deserialize, Serialize};

/// What the next bytes of a stream are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole frame that is not state.
    Message(Message),
    /// A STATE frame begins; its payload follows as [`Piece::Body`], then [`Piece::End`].
    State(Header),
    /// The next bytes of the STATE frame's payload; never empty.
    Body(&'a [u8]),
    /// The STATE frame is over.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Between frames, or so many bytes into a header.
    Header,
    /// In the payload of a control frame.
    Control(Header),
    /// In the payload of a STATE frame: bytes left.
    State(u32),
}

/// An incremental reader of frames. Holds at most one control payload, whatever a peer claims.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    phase: Phase,
    /// The header or the control payload as far as it has come.
    held: Vec<u8>,
    /// The payload of the last control frame.
    last: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// At the beginning of a stream.
    pub fn new() -> Decoder {
        Decoder { phase: Phase::Header, held: Vec::new(), last: Vec::new() }
    }

    /// Takes the next piece off the front of `input`; `None` when all of it has been taken and more is needed.
    ///
    /// # Errors
    /// [`FrameError`]; the stream cannot be read any further.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        loop {
            match self.phase {
                Phase::Header => {
                    if !self.fill(input, HEADER) {
                        return Ok(None);
                    }
                    let header = self.header()?;
                    self.held.clear();
                    if header.kind.is_state() {
                        self.phase = Phase::State(header.payload);
                        return Ok(Some(Piece::State(header)));
                    }
                    self.phase = Phase::Control(header);
                }
                Phase::Control(header) => {
                    if !self.fill(input, header.payload as usize) {
                        return Ok(None);
                    }
                    self.phase = Phase::Header;
                    self.last = std::mem::take(&mut self.held);
                    return Message::parse(header.kind, &self.last).map(|m| Some(Piece::Message(m)));
                }
                Phase::State(0) => {
                    self.phase = Phase::Header;
                    return Ok(Some(Piece::End));
                }
                Phase::State(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let count = input.len().min(left as usize);
                    let (body, rest) = input.split_at(count);
                    *input = rest;
                    self.phase = Phase::State(left - count as u32);
                    return Ok(Some(Piece::Body(body)));
                }
            }
        }
    }

    /// How many bytes the reader may take from the stream without reaching into the next frame's header (or
    /// payload): at least 1. Whoever receives descriptors reads no further than this.
    pub fn wanted(&self) -> usize {
        let left = match self.phase {
            Phase::Header | Phase::State(0) => HEADER - self.held.len(),
            Phase::Control(header) => header.payload as usize - self.held.len(),
            Phase::State(left) => left as usize,
        };
        left.max(1)
    }

    /// Counts bytes of a STATE frame's payload that went another way (splice(2)); no more than are left.
    pub fn skip(&mut self, count: u32) {
        if let Phase::State(left) = &mut self.phase {
            *left = left.saturating_sub(count);
        }
    }

    /// The payload of the last whole control frame, as it came.
    pub fn last_payload(&self) -> &[u8] {
        &self.last
    }

    /// Whether the stream may end here: no frame is begun.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.phase, Phase::Header | Phase::State(0)) && self.held.is_empty()
    }

    /// Bytes of a STATE frame's payload that are still to come.
    pub fn state_left(&self) -> u32 {
        if let Phase::State(left) = self.phase { left } else { 0 }
    }

    /// Moves bytes into `held` until it has `size`; false if the input does not reach.
    fn fill(&mut self, input: &mut &[u8], size: usize) -> bool {
        let count = input.len().min(size - self.held.len());
        let (bytes, rest) = input.split_at(count);
        self.held.extend_from_slice(bytes);
        *input = rest;
        self.held.len() == size
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.held.capacity() + self.last.capacity()
    }

    fn header(&self) -> Result<Header, FrameError> {
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(&self.held[..HEADER]);
        Header::parse(&bytes)
    }
}
