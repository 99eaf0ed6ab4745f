//! The daemon's whole state as text, for the program that takes its place (aeternad(8), REPLACING AETERNAD).
//!
//! Beside each owner stands what is stored of it (`saved.rs`): a structure of values, in which descriptors are named by
//! [`Key`]s, `save`, and `restore`, which has no effect on the world: nothing is sent, removed, signalled or watched by
//! it, so that whoever has read half of it can still leave everything to the other program. Every `save` takes its owner
//! apart field by field: a new field does not compile until somebody has said what becomes of it.
//!
//! What a program does not know it refuses: it never drops a part of the state in silence.

mod daemon;
mod generation;
mod unit;
mod wire;

pub use daemon::{Restored, SavedDaemon, restore, save};
pub use unit::{SavedUnit, restore as restore_unit, save as save_unit};
pub use wire::{FORMAT, Head, parse, read, write};

use crate::sys::fd;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The name of a descriptor in a stored state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The descriptors of a state that is being stored: their numbers by their names.
#[derive(Debug, Default)]
pub struct Outgoing {
    numbers: BTreeMap<Key, RawFd>,
    prefix: String,
    purpose: Purpose,
}

/// What a state is stored for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Another program is about to go on with all of it.
    #[default]
    Upgrade,
    /// Somebody may have to go on with it after our death: what is under way between two processes is cut then.
    Journal,
}

impl Outgoing {
    /// For the journal.
    pub fn for_journal() -> Outgoing {
        Outgoing { purpose: Purpose::Journal, ..Outgoing::default() }
    }

    /// What the state is stored for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// As [`Outgoing::put`], of what is made anew after our death, or is then no more worth anything.
    ///
    /// # Errors
    /// As [`Outgoing::put`].
    pub fn put_short_lived(&mut self, name: impl Display, fd: BorrowedFd<'_>) -> Result<Key, String> {
        match self.purpose {
            Purpose::Upgrade => self.put(name, fd),
            Purpose::Journal => Ok(Key(format!("{}{name}", self.prefix))),
        }
    }

    /// What is put from now on belongs to this unit.
    pub fn of_unit(&mut self, unit: &str) {
        self.prefix = format!("{unit}/");
    }

    /// Names a descriptor.
    ///
    /// # Errors
    /// The name is taken: a mistake in the program.
    pub fn put(&mut self, name: impl Display, fd: BorrowedFd<'_>) -> Result<Key, String> {
        let key = Key(format!("{}{name}", self.prefix));
        match self.numbers.insert(key.clone(), fd.as_raw_fd()) {
            None => Ok(key),
            Some(_) => Err(format!("two descriptors are called {}", key.0)),
        }
    }

    /// Number by name.
    pub fn numbers(&self) -> &BTreeMap<Key, RawFd> {
        &self.numbers
    }
}

/// The descriptors of a state that is being restored.
#[derive(Debug)]
pub struct Incoming {
    from: From,
}

#[derive(Debug)]
enum From {
    /// They are open here under these numbers, and stay open until [`Incoming::finish`]: the program before this one may
    /// have to go on with them.
    Numbers(BTreeMap<Key, RawFd>),
    /// Somebody has held them for us, as far as he had them.
    Held(BTreeMap<Key, OwnedFd>),
    /// There are none: whether the state can be understood is all that is asked.
    Nowhere(OwnedFd),
}

impl Incoming {
    /// Those of a state that is taken over.
    ///
    /// # Errors
    /// One of them is not open.
    pub fn of(numbers: BTreeMap<Key, RawFd>) -> Result<Incoming, String> {
        for (key, number) in &numbers {
            if !fd::is_open(*number) {
                return Err(format!("descriptor {number} ({}) is not open", key.0));
            }
        }
        Ok(Incoming { from: From::Numbers(numbers) })
    }

    /// Those that were held for us; others may be missing.
    pub fn held(all: BTreeMap<Key, OwnedFd>) -> Incoming {
        Incoming { from: From::Held(all) }
    }

    /// None: each is played by /dev/null.
    ///
    /// # Errors
    /// There is no /dev/null.
    pub fn pretended() -> Result<Incoming, String> {
        let null = fd::dev_null().map_err(|error| format!("cannot open /dev/null: {error}"))?;
        Ok(Incoming { from: From::Nowhere(null) })
    }

    /// The descriptor of this name; a copy.
    ///
    /// # Errors
    /// It is not there, or there is no room for another one.
    pub fn take(&mut self, key: &Key) -> Result<OwnedFd, String> {
        let copied = match &mut self.from {
            From::Nowhere(null) => fd::dup(null.as_fd()),
            From::Held(all) => match all.remove(key) {
                Some(fd) => Ok(fd),
                None => return Err(format!("there is no descriptor called {}", key.0)),
            },
            From::Numbers(numbers) => match numbers.get(key) {
                Some(number) => fd::copy_of(*number),
                None => return Err(format!("there is no descriptor called {}", key.0)),
            },
        };
        copied.map_err(|error| format!("cannot copy the descriptor {}: {error}", key.0))
    }

    /// The descriptor of this name, if it was not lost.
    ///
    /// # Errors
    /// As [`Incoming::take`], of what cannot be lost.
    pub fn take_if_there(&mut self, key: &Key) -> Result<Option<OwnedFd>, String> {
        match &mut self.from {
            From::Held(all) => Ok(all.remove(key)),
            _ => self.take(key).map(Some),
        }
    }

    /// The descriptor of this name; where it was lost, another one.
    ///
    /// # Errors
    /// As [`Incoming::take`]; no other one can be made.
    pub fn take_or(
        &mut self,
        key: &Key,
        make: impl FnOnce() -> std::io::Result<OwnedFd>,
    ) -> Result<OwnedFd, String> {
        match self.take_if_there(key)? {
            Some(fd) => Ok(fd),
            None => make().map_err(|error| format!("cannot make {} anew: {error}", key.0)),
        }
    }

    /// The state is ours now: closes what the copies were made of. Nothing else may be done with the numbers after this.
    pub fn finish(self) {
        if let From::Numbers(numbers) = self.from {
            // One may have several names.
            let numbers: BTreeSet<RawFd> = numbers.into_values().collect();
            numbers.into_iter().for_each(fd::close_number);
        }
    }
}

/// Paths as text, and as bytes where they are none.
pub mod path {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Text(String),
        Bytes(Vec<u8>),
    }

    /// Stores one.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => Stored::Text(text.to_owned()),
            None => Stored::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
        .serialize(to)
    }

    /// Reads one.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Stored::deserialize(from)? {
            Stored::Text(text) => PathBuf::from(text),
            Stored::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}

/// A path in a list, or one that need not be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredPath(#[serde(with = "path")] pub std::path::PathBuf);
