//! The frames that are not state, as values.

use super::{FrameError, FrameType, HEADER, Header, MAX_CONTROL};
use crate::proto::harmless::{LONGEST, harmless};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The end of a transfer that a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has the state and gives it.
    Source,
    /// It takes the state.
    Sink,
}

/// The payload of HELLO. Members that are not known are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Hello {
    /// A peer that has the state.
    Source,
    /// A peer that takes it.
    Sink,
    /// aeternad's answer.
    Coordinator {
        /// The peer's own generation.
        generation: u32,
        /// Whether an earlier generation has state for it.
        predecessor: bool,
    },
}

impl From<Role> for Hello {
    fn from(role: Role) -> Hello {
        match role {
            Role::Source => Hello::Source,
            Role::Sink => Hello::Sink,
        }
    }
}

/// The payload of ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// A word for programs; a number that a peer sends is kept as its digits.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The payload of a source's FINISHED: what it believes to have sent. Either may be left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// STATE frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// Bytes of their payloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A frame that is not state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who a peer is.
    Hello(Hello),
    /// Send your state now.
    Request,
    /// The handover was given up.
    Resume,
    /// The handover is for good.
    Commit,
    /// What came before is void.
    Error(Complaint),
    /// The end of the state (`None`: without totals), or the acknowledgement (always `None`).
    Finished(Option<Totals>),
}

impl Complaint {
    /// What a peer reports, for people: as one harmless line.
    pub fn shown(&self) -> String {
        format!("it reports {}: {}", harmless(&self.code, 64), harmless(&self.message, LONGEST))
    }
}

impl Message {
    /// A complaint as an ERROR frame: `code` for programs, `message` for people.
    pub fn error(code: &str, message: impl Into<String>) -> Message {
        Message::Error(Complaint { code: code.into(), message: message.into() })
    }

    /// The frame's type.
    pub const fn kind(&self) -> FrameType {
        match self {
            Message::Hello(_) => FrameType::Hello,
            Message::Request => FrameType::Request,
            Message::Resume => FrameType::Resume,
            Message::Commit => FrameType::Commit,
            Message::Error(_) => FrameType::Error,
            Message::Finished(_) => FrameType::Finished,
        }
    }

    /// The whole frame as bytes. An ERROR text that no frame can hold is cut off.
    pub fn to_bytes(&self) -> Vec<u8> {
        let payload = match self {
            Message::Hello(hello) => json_of(hello),
            Message::Request | Message::Resume | Message::Commit | Message::Finished(None) => Vec::new(),
            Message::Finished(Some(totals)) => json_of(totals),
            Message::Error(complaint) => json_of(&serde_json::json!({
                "code": cut(&complaint.code),
                "message": cut(&complaint.message),
            })),
        };
        // A payload that we have made fits: its texts are cut.
        let length = u32::try_from(payload.len()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&Header { kind: self.kind(), payload: length }.to_bytes());
        bytes.extend_from_slice(&payload);
        bytes
    }

    /// Reads the payload of a control frame.
    ///
    /// # Errors
    /// [`FrameError::Json`], [`FrameError::NotEmpty`]; [`FrameError::Type`] for a STATE frame.
    pub fn parse(kind: FrameType, payload: &[u8]) -> Result<Message, FrameError> {
        let empty = |message| if payload.is_empty() { Ok(message) } else { Err(FrameError::NotEmpty(kind)) };
        match kind {
            FrameType::Hello => from_json(kind, payload).map(Message::Hello),
            FrameType::Request => empty(Message::Request),
            FrameType::Resume => empty(Message::Resume),
            FrameType::Commit => empty(Message::Commit),
            FrameType::Error => Ok(Message::Error(complaint(payload))),
            FrameType::Finished if payload.is_empty() => Ok(Message::Finished(None)),
            FrameType::Finished => from_json(kind, payload).map(|totals| Message::Finished(Some(totals))),
            FrameType::StateJson | FrameType::StateProtobuf | FrameType::StateBytes | FrameType::StateFd => {
                Err(FrameError::Type(kind.code()))
            }
        }
    }
}

/// A control frame with this payload, as bytes: for tests and for peers that do not use [`Message`].
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn control_frame(kind: FrameType, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Header::new(kind, payload.len())?.to_bytes().to_vec();
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// An ERROR ends things whatever it says, so its payload is read as well as it can be and is never refused.
fn complaint(payload: &[u8]) -> Complaint {
    let text = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) if !value.is_null() => value.to_string(),
        _ => String::new(),
    };
    match serde_json::from_slice::<Value>(payload) {
        Ok(Value::Object(object)) => {
            Complaint { code: text(object.get("code")), message: text(object.get("message")) }
        }
        _ => Complaint { code: String::new(), message: String::from_utf8_lossy(payload).into_owned() },
    }
}

/// What is left of a text so that a frame surely holds it, escaped at its worst.
fn cut(text: &str) -> &str {
    let most = MAX_CONTROL as usize / 16;
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn json_of(value: &impl Serialize) -> Vec<u8> {
    // Plain structs with text keys always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

fn from_json<'a, T: Deserialize<'a>>(kind: FrameType, payload: &'a [u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|error| FrameError::Json { kind, why: error.to_string() })
}
