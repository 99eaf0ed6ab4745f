//! SRP, the State Relay Protocol (contract section 7; aeterna-srp(7)): frames as bytes and as values.
//!
//! Shape of a frame, integers big-endian: `length: u32` (what follows it: 8 + payload), `magic: u32`,
//! `version: u8`, `type: u8`, `reserved: u16`, payload. Nothing here allocates by a length that a peer has
//! sent: the payload of a control frame is bounded by [`MAX_CONTROL`], the one of a STATE frame is streamed.

mod decoder;
mod message;

pub use decoder::{Decoder, Piece};
pub use message::{Complaint, Hello, Message, Role, Totals, control_frame};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The four bytes that every frame carries.
pub const MAGIC: u32 = 0xAE7E_2024;

/// The version of the protocol.
pub const VERSION: u8 = 1;

/// Bytes of a frame's header, the length included.
pub const HEADER: usize = 12;

/// The part of the header that `length` counts.
const COUNTED: u32 = 8;

/// The longest payload of a frame that is not a STATE frame, bytes.
pub const MAX_CONTROL: u32 = 64 * 1024;

/// The most descriptors that the kernel carries with one frame (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrameType {
    /// Who a peer is, and the coordinator's answer.
    Hello,
    /// State as JSON.
    StateJson,
    /// State as protobuf.
    StateProtobuf,
    /// State that only the service understands.
    StateBytes,
    /// JSON about the descriptors that travel with the frame's first byte.
    StateFd,
    /// Coordinator to source: send your state now, accept nothing more.
    Request,
    /// Coordinator to source: the handover was given up, serve on.
    Resume,
    /// Coordinator to source: the state is the new generation's for good.
    Commit,
    /// What came before it in this transfer is void.
    Error,
    /// The source's end of the state; from the sink (or a source after RESUME) the acknowledgement.
    Finished,
}

impl FrameType {
    /// Every type, in the order of their numbers.
    pub const ALL: [FrameType; 10] = [
        FrameType::Hello,
        FrameType::StateJson,
        FrameType::StateProtobuf,
        FrameType::StateBytes,
        FrameType::StateFd,
        FrameType::Request,
        FrameType::Resume,
        FrameType::Commit,
        FrameType::Error,
        FrameType::Finished,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            FrameType::Hello => 0x01,
            FrameType::StateJson => 0x02,
            FrameType::StateProtobuf => 0x03,
            FrameType::StateBytes => 0x04,
            FrameType::StateFd => 0x05,
            FrameType::Request => 0x10,
            FrameType::Resume => 0x11,
            FrameType::Commit => 0x12,
            FrameType::Error => 0xFE,
            FrameType::Finished => 0xFF,
        }
    }

    /// The type of a number; `None` for one that version 1 does not know.
    pub fn from_code(code: u8) -> Option<FrameType> {
        FrameType::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Whether the frame carries state: relayed, streamed, of any length.
    pub const fn is_state(self) -> bool {
        match self {
            FrameType::StateJson | FrameType::StateProtobuf | FrameType::StateBytes | FrameType::StateFd => {
                true
            }
            FrameType::Hello
            | FrameType::Request
            | FrameType::Resume
            | FrameType::Commit
            | FrameType::Error
            | FrameType::Finished => false,
        }
    }

    /// The name in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            FrameType::Hello => "HELLO",
            FrameType::StateJson => "STATE_JSON",
            FrameType::StateProtobuf => "STATE_PROTOBUF",
            FrameType::StateBytes => "STATE_BYTES",
            FrameType::StateFd => "STATE_FD",
            FrameType::Request => "REQUEST",
            FrameType::Resume => "RESUME",
            FrameType::Commit => "COMMIT",
            FrameType::Error => "ERROR",
            FrameType::Finished => "FINISHED",
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A frame's first twelve bytes as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// What the frame is.
    pub kind: FrameType,
    /// Bytes of its payload, `0..=u32::MAX - 8`.
    pub payload: u32,
}

impl Header {
    /// A header for a payload of so many bytes.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] if a frame of this type cannot carry that much.
    pub fn new(kind: FrameType, payload: usize) -> Result<Header, FrameError> {
        let most = if kind.is_state() { u32::MAX - COUNTED } else { MAX_CONTROL };
        match u32::try_from(payload) {
            Ok(payload) if payload <= most => Ok(Header { kind, payload }),
            _ => Err(FrameError::TooLong { kind, payload: payload as u64 }),
        }
    }

    /// Reads a header. Looks at nothing but these bytes.
    ///
    /// # Errors
    /// A length below 8, another magic, version or type, reserved bits, a control frame above
    /// [`MAX_CONTROL`]: in this order, so that something that is no SRP at all is called that.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Header, FrameError> {
        let [l0, l1, l2, l3, m0, m1, m2, m3, version, kind, r0, r1] = *bytes;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let Some(payload) = length.checked_sub(COUNTED) else {
            return Err(FrameError::TooShort(length));
        };
        let kind = FrameType::from_code(kind).ok_or(FrameError::Type(kind))?;
        let reserved = u16::from_be_bytes([r0, r1]);
        if reserved != 0 {
            return Err(FrameError::Reserved(reserved));
        }
        if !kind.is_state() && payload > MAX_CONTROL {
            return Err(FrameError::TooLong { kind, payload: u64::from(payload) });
        }
        Ok(Header { kind, payload })
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let [l0, l1, l2, l3] = (self.payload + COUNTED).to_be_bytes();
        let [m0, m1, m2, m3] = MAGIC.to_be_bytes();
        [l0, l1, l2, l3, m0, m1, m2, m3, VERSION, self.kind.code(), 0, 0]
    }
}

/// Why bytes are not SRP. Each is answered by ERROR and the end of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// `length` is below 8.
    TooShort(u32),
    /// The magic is another one.
    Magic(u32),
    /// The version is another one.
    Version(u8),
    /// The type is not known.
    Type(u8),
    /// The reserved field is not 0.
    Reserved(u16),
    /// The payload is longer than a frame of this type may have.
    TooLong {
        /// Which type.
        kind: FrameType,
        /// Bytes.
        payload: u64,
    },
    /// The payload is not the JSON that the type asks for.
    Json {
        /// Which type.
        kind: FrameType,
        /// What is wrong with it.
        why: String,
    },
    /// A frame whose payload is empty by definition has one.
    NotEmpty(FrameType),
}

impl FrameError {
    /// The `code` of the ERROR frame that says so.
    pub const fn code(&self) -> &'static str {
        match self {
            FrameError::TooShort(_) => "bad_length",
            FrameError::Magic(_) => "bad_magic",
            FrameError::Version(_) => "bad_version",
            FrameError::Type(_) => "bad_type",
            FrameError::Reserved(_) => "bad_reserved",
            FrameError::TooLong { .. } => "too_long",
            FrameError::Json { .. } => "bad_json",
            FrameError::NotEmpty(_) => "not_empty",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooShort(length) => write!(f, "a frame of length {length}: the least is {COUNTED}"),
            FrameError::Magic(magic) => write!(f, "magic {magic:#010x} instead of {MAGIC:#010x}: not SRP"),
            FrameError::Version(version) => {
                write!(f, "version {version:#04x}: only {VERSION:#04x} is known here")
            }
            FrameError::Type(kind) => write!(f, "type {kind:#04x} is not known"),
            FrameError::Reserved(bits) => write!(f, "the reserved field is {bits:#06x} instead of 0"),
            FrameError::TooLong { kind, payload } => {
                write!(f, "{kind} with {payload} bytes: too long for this type of frame")
            }
            FrameError::Json { kind, why } => write!(f, "the payload of {kind} is wrong: {why}"),
            FrameError::NotEmpty(kind) => write!(f, "{kind} has a payload; it must be empty"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests;
