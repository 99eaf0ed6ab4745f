//! A stored state as bytes.
//!
//! ```text
//! AETERNA-STATE 1 <bytes of the rest> <sha256 of the rest>
//! {"program":"aeternad","version":"0.1.0","format":1,"pid":812,…}
//! {"daemon":{…},"units":[…]}
//! ```
//!
//! The first line is the same for ever; the second says who has written the third, and where the descriptors are.

use super::{Key, SavedDaemon};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::os::fd::RawFd;

/// The version of the third line. Another field, or another meaning of one, is another format.
pub const FORMAT: u32 = 1;

/// How every stored state begins.
const MAGIC: &str = "AETERNA-STATE 1";

/// Who has stored a state, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// `aeternad`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// [`FORMAT`].
    pub format: u32,
    /// Its pid, which whoever takes over has too.
    pub pid: i32,
    /// The number of an `O_PATH` descriptor of its program: the way back.
    pub old_program: RawFd,
    /// The effective capabilities that it had.
    pub capabilities: u64,
    /// The numbers of the descriptors.
    pub fds: BTreeMap<Key, RawFd>,
}

/// The bytes.
///
/// # Errors
/// Something cannot be stored as text.
pub fn write(head: &Head, state: &SavedDaemon) -> Result<Vec<u8>, String> {
    let cannot = |error: serde_json::Error| format!("its state cannot be stored: {error}");
    let mut rest = serde_json::to_vec(head).map_err(cannot)?;
    rest.push(b'\n');
    rest.extend(serde_json::to_vec(state).map_err(cannot)?);
    let mut bytes = format!("{MAGIC} {} {}\n", rest.len(), hex(&rest)).into_bytes();
    bytes.extend(rest);
    Ok(bytes)
}

/// What [`write()`] has written: who, and the text of the state, for [`parse`]. `pid` is whose it must be.
///
/// # Errors
/// It is not whole, not of this pid, or of a format that is not known here: for people.
pub fn read(bytes: &[u8], pid: Option<i32>) -> Result<(Head, &[u8]), String> {
    let wrong = || "this is no stored state of an aeternad".to_owned();
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(wrong)?;
    let (first, rest) = bytes.split_at(end);
    let rest = rest.get(1..).ok_or_else(wrong)?;
    let first = std::str::from_utf8(first).map_err(|_| wrong())?;
    let (length, sum) = first
        .strip_prefix(MAGIC)
        .and_then(|line| line.strip_prefix(' ')?.split_once(' '))
        .ok_or_else(wrong)?;
    if length.parse() != Ok(rest.len()) || sum != hex(rest) {
        return Err("the stored state is damaged".into());
    }
    let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(wrong)?;
    let (head, text) = rest.split_at(end);
    let text = text.get(1..).ok_or_else(wrong)?;
    let said: Said = serde_json::from_slice(head).map_err(|error| format!("its first line: {error}"))?;
    if said.format != FORMAT {
        return Err(format!(
            "aeternad {} has stored its state in format {}; aeternad {} reads format {FORMAT} only",
            said.version,
            said.format,
            env!("CARGO_PKG_VERSION")
        ));
    }
    let head: Head = serde_json::from_slice(head).map_err(|error| format!("its first line: {error}"))?;
    if pid.is_some_and(|pid| head.pid != pid) {
        return Err(format!("the stored state is that of process {}", head.pid));
    }
    Ok((head, text))
}

/// The state itself.
///
/// # Errors
/// Something is there that is not known here, or is not there.
pub fn parse(text: &[u8]) -> Result<SavedDaemon, String> {
    serde_json::from_slice(text).map_err(|error| format!("the stored state: {error}"))
}

/// What every format says of itself.
#[derive(Deserialize)]
struct Said {
    version: String,
    format: u32,
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
