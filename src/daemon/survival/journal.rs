//! The journal: what the next aeternad needs, in the runtime dir.
//!
//! ```text
//! DIR/journal/daemon.0, daemon.1        what is above the units
//! DIR/journal/u-NAME.0, u-NAME.1        a unit each
//! DIR/journal/spawn                     the process that was started last
//!
//! AETERNA-JOURNAL 1 <sequence> <bytes of the rest> <sum of the rest>
//! {"version":"0.1.0","format":1,"fds":{…}}
//! {…}
//! ```
//!
//! A process is named in `spawn` before it does anything (see [`crate::sys::spawn::Register`]): until its unit is written the
//! next time, this is how it is found.
//!
//! The two files of a name are written in turn, each by one write, so one of them is always whole: who reads takes the
//! newest that is. Nothing is flushed to the disk: only a process dies, and after a crash of the machine nobody lives whom
//! the journal could tell of; the boot id says so.

use super::holder::Held;
use crate::daemon::launch::describe;
use crate::daemon::saved::{self, Key, SavedUnit, StoredPath};
use crate::daemon::shared::Shared;
use crate::daemon::supervised::Supervised;
use crate::machine::event::Proc;
use crate::sys::{clock, dir, pidfd, process, user};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its folder in the runtime dir.
const FOLDER: &str = "journal";

/// How every file begins.
const MAGIC: &str = "AETERNA-JOURNAL 1";

/// The longest file that is read, bytes.
const LONGEST: u64 = 256 * 1024 * 1024;

/// The name of what is above the units.
const CORE: &str = "daemon";

/// The name of the process that was started last.
const SPAWN: &str = "spawn";

/// Requests have numbers; so many more may have been given than were written.
const REQUESTS: u64 = 1000;

/// In which life of which kernel something was written, and who was there to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Era {
    boot: String,
    pids: String,
    user: u32,
}

impl Era {
    /// Now.
    ///
    /// # Errors
    /// /proc does not tell.
    pub fn now() -> Result<Era, String> {
        let read = |path: &str| {
            let text = fs::read_to_string(path);
            text.map_err(|error| format!("{path}: {}", describe(&error)))
        };
        let link = |path: &str| {
            let to = fs::read_link(path).map_err(|error| format!("{path}: {}", describe(&error)))?;
            Ok::<_, String>(to.to_string_lossy().into_owned())
        };
        Ok(Era {
            boot: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            pids: link("/proc/self/ns/pid")?,
            user: user::effective_uid(),
        })
    }
}

/// What is above the units.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// When and by whom it was written.
    pub era: Era,
    /// The pid of the aeternad that has written it.
    pub pid: i32,
    /// The units, in their order.
    pub units: Vec<String>,
    /// Requests and connections have numbers below this.
    pub last_req: u64,
    /// The short way to the runtime dir, which services have in their environment.
    pub short_dir: Option<(StoredPath, StoredPath)>,
}

/// A process that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its unit.
    pub unit: String,
    /// What the unit's machine calls it.
    pub proc: Proc,
    /// The mark in its environment.
    pub invocation: String,
    /// Its pid.
    pub pid: i32,
    /// The inode of its pidfd, where that is one process's for ever.
    pub inode: Option<u64>,
    /// When it was started, where the inode tells nothing.
    pub start_time: Option<u64>,
}

/// The second line of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: String,
    format: u32,
    fds: BTreeMap<Key, Held>,
}

/// A unit as it was written.
#[derive(Debug)]
pub struct Page {
    /// Its descriptors, and what the holder calls them.
    pub fds: BTreeMap<Key, Held>,
    /// The rest.
    pub unit: SavedUnit,
}

/// Units as they were written, by name, or why they cannot be read.
pub type Pages = BTreeMap<String, Result<Page, String>>;

/// The journal of a daemon that runs.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    era: Era,
    /// Which of the two files of a name is written next.
    next: BTreeMap<String, bool>,
    /// Requests below this number are written.
    requests: u64,
    /// Where the process that was started last is named.
    spawn: OnceCell<File>,
    /// Units that are named in what is above them.
    named: BTreeSet<String>,
    failed: bool,
}

impl Journal {
    /// A journal in this runtime dir.
    ///
    /// # Errors
    /// It cannot be written there, or nobody could tell whether it is of this life.
    pub fn open(runtime_dir: &Path) -> Result<Journal, String> {
        let folder = runtime_dir.join(FOLDER);
        dir::make_private_dir(&folder, 0o700)
            .map_err(|error| format!("{}: {}", folder.display(), describe(&error)))?;
        Journal::reopen(runtime_dir)
    }

    /// The journal that a program before this one writes in this process. Nothing is looked at in the runtime dir.
    ///
    /// # Errors
    /// Nobody could tell whether it is of this life.
    pub fn reopen(runtime_dir: &Path) -> Result<Journal, String> {
        let folder = runtime_dir.join(FOLDER);
        Ok(Journal {
            folder,
            era: Era::now()?,
            next: BTreeMap::new(),
            requests: 0,
            spawn: OnceCell::new(),
            named: BTreeSet::new(),
            failed: false,
        })
    }

    /// A process was made, and has done nothing yet.
    pub fn enter(&self, unit: &str, proc: Proc, invocation: &str, pid: i32, pidfd: Option<BorrowedFd<'_>>) {
        let inode = pidfd.and_then(pidfd::inode);
        let entry = Entry {
            unit: unit.to_owned(),
            proc,
            invocation: invocation.to_owned(),
            pid,
            inode,
            start_time: if inode.is_none() { process::start_time(pid) } else { None },
        };
        if let Err(why) = self.write_entry(&entry) {
            log::warn!("{unit}: process {pid} cannot be named in the journal: {why}");
        }
    }

    fn write_entry(&self, entry: &Entry) -> Result<(), String> {
        let text = serde_json::to_vec(entry).map_err(|error| error.to_string())?;
        let path = self.folder.join(SPAWN);
        let write = || {
            let file = match self.spawn.get() {
                Some(file) => file,
                None => {
                    let file = open_private(&path)?;
                    self.spawn.get_or_init(|| file)
                }
            };
            file.write_all_at(&framed(&text), 0)
        };
        write().map_err(|error| format!("{}: {}", path.display(), describe(&error)))
    }

    /// Nobody is looked for by what was named last.
    fn forget_entry(&mut self, unit: &str) {
        if entry(&self.folder).is_some_and(|entry| entry.unit == unit) {
            let _ = dir::remove_file(&self.folder.join(SPAWN));
            self.spawn = OnceCell::new();
        }
    }

    /// Whether its folder is there.
    pub fn is_there(&self) -> bool {
        self.folder.is_dir()
    }

    /// Makes its folder again; nothing is written then.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn renew(&mut self) -> Result<(), String> {
        dir::make_private_dir(&self.folder, 0o700)
            .map_err(|error| format!("{}: {}", self.folder.display(), describe(&error)))?;
        self.next.clear();
        self.spawn = OnceCell::new();
        Ok(())
    }

    /// The folder that it is in.
    pub fn runtime_dir(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    /// Writes a unit.
    ///
    /// # Errors
    /// For people: no room, most likely.
    pub fn write_unit(
        &mut self,
        name: &str,
        fds: &BTreeMap<Key, Held>,
        unit: &SavedUnit,
    ) -> Result<(), String> {
        self.write(&file_of(name), fds, unit)
    }

    /// Writes what is above the units.
    ///
    /// # Errors
    /// As [`Journal::write_unit`].
    pub fn write_core(&mut self, shared: &Shared, units: &[Supervised], last_req: u64) -> Result<(), String> {
        let short = shared.short_dir.as_ref().map(|short| {
            let (folder, link) = short.parts();
            (StoredPath(folder.to_owned()), StoredPath(link.to_owned()))
        });
        self.requests = last_req + REQUESTS;
        self.named = units.iter().map(|unit| unit.name.clone()).collect();
        let core = Core {
            era: self.era.clone(),
            pid: shared.pid,
            units: units.iter().map(|unit| unit.name.clone()).collect(),
            last_req: self.requests,
            short_dir: short,
        };
        self.write(CORE, &BTreeMap::new(), &core)
    }

    /// Whether a unit of this name is looked for by whoever comes after us.
    pub fn names(&self, unit: &str) -> bool {
        self.named.contains(unit)
    }

    /// Whether more requests have numbers than were written.
    pub fn lacks(&self, last_req: u64) -> bool {
        last_req >= self.requests
    }

    fn write(&mut self, name: &str, fds: &BTreeMap<Key, Held>, state: &impl Serialize) -> Result<(), String> {
        let cannot = |error: serde_json::Error| format!("its state cannot be stored: {error}");
        let head =
            Head { version: env!("CARGO_PKG_VERSION").into(), format: saved::FORMAT, fds: fds.clone() };
        let mut rest = serde_json::to_vec(&head).map_err(cannot)?;
        rest.push(b'\n');
        rest.extend(serde_json::to_vec(state).map_err(cannot)?);
        let second = match self.next.get(name) {
            Some(second) => *second,
            // Somebody before us has written: not over his newest.
            None => newest(&self.folder, name).is_some_and(|(second, ..)| !second),
        };
        let path = path_of(&self.folder, name, second);
        let written = open_private(&path).and_then(|file| file.write_all_at(&framed(&rest), 0));
        written.map_err(|error| format!("{}: {}", path.display(), describe(&error)))?;
        self.next.insert(name.to_owned(), !second);
        Ok(())
    }

    /// Something could not be written: whether that is news.
    pub fn has_failed(&mut self) -> bool {
        !std::mem::replace(&mut self.failed, true)
    }

    /// Something was written: whether that is news.
    pub fn is_well_again(&mut self) -> bool {
        std::mem::replace(&mut self.failed, false)
    }

    /// Whether what was to be written last is written.
    pub fn is_well(&self) -> bool {
        !self.failed
    }

    /// Forgets a unit.
    pub fn forget(&mut self, unit: &str) {
        let name = file_of(unit);
        for second in [false, true] {
            let _ = dir::remove_file(&path_of(&self.folder, &name, second));
        }
        self.next.remove(&name);
        self.forget_entry(unit);
    }

    /// There is nothing left to come back to: removes it.
    pub fn remove(self) {
        remove(&self.folder);
    }
}

/// Removes the journal in a runtime dir.
pub fn forget(runtime_dir: &Path) {
    remove(&runtime_dir.join(FOLDER));
}

fn remove(folder: &Path) {
    // What is above the units goes first: without it there is no journal.
    for second in [false, true] {
        let _ = dir::remove_file(&path_of(folder, CORE, second));
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = dir::remove_file(&entry.path());
    }
    let _ = fs::remove_dir(folder);
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A text with its first line.
fn framed(text: &[u8]) -> Vec<u8> {
    let sequence = clock::now().0;
    let mut bytes = format!("{MAGIC} {sequence} {} {:016x}\n", text.len(), sum(sequence, text)).into_bytes();
    bytes.extend(text);
    bytes
}

/// The process that was started last.
fn entry(folder: &Path) -> Option<Entry> {
    let (_, text) = whole(&folder.join(SPAWN))?;
    serde_json::from_slice(&text).ok()
}

/// What an aeternad that is gone has written.
#[derive(Debug)]
pub struct Read {
    /// What is above the units.
    pub core: Core,
    /// Those that can be read.
    pub pages: Pages,
    /// The process that was started last.
    pub entry: Option<Entry>,
}

/// What an aeternad that is gone has left in a runtime dir. `None` if there is nothing.
///
/// # Errors
/// There is something, and it cannot be used: why, for people.
pub fn read(runtime_dir: &Path) -> Result<Option<Read>, String> {
    let folder = runtime_dir.join(FOLDER);
    let Some((.., bytes)) = newest(&folder, CORE) else { return Ok(None) };
    let (_, core): (_, Core) = parse(&bytes)?;
    if core.era != Era::now()? {
        // Of another boot, of another container: nobody of it lives here.
        return Ok(None);
    }
    let mut pages = BTreeMap::new();
    for name in &core.units {
        // One that was never written had nothing to lose.
        let Some((.., bytes)) = newest(&folder, &file_of(name)) else { continue };
        let page = parse(&bytes).map(|(fds, unit)| Page { fds, unit });
        pages.insert(name.clone(), page);
    }
    Ok(Some(Read { entry: entry(&folder), core, pages }))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<(BTreeMap<Key, Held>, T), String> {
    /// What every format says of itself.
    #[derive(Deserialize)]
    struct Said {
        version: String,
        format: u32,
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has one line only")?;
    let (head, text) = bytes.split_at(end);
    let said: Said = serde_json::from_slice(head).map_err(|error| format!("its first line: {error}"))?;
    if said.format != saved::FORMAT {
        return Err(format!(
            "aeternad {} has written it in format {}; aeternad {} reads format {} only",
            said.version,
            said.format,
            env!("CARGO_PKG_VERSION"),
            saved::FORMAT
        ));
    }
    let head: Head = serde_json::from_slice(head).map_err(|error| format!("its first line: {error}"))?;
    let state = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok((head.fds, state))
}

fn file_of(unit: &str) -> String {
    format!("u-{unit}")
}

fn path_of(folder: &Path, name: &str, second: bool) -> PathBuf {
    folder.join(format!("{name}.{}", u8::from(second)))
}

/// The newest whole file of a name: which one, its sequence, and what stands below its first line.
fn newest(folder: &Path, name: &str) -> Option<(bool, u64, Vec<u8>)> {
    let read = |second: bool| {
        let (sequence, bytes) = whole(&path_of(folder, name, second))?;
        Some((second, sequence, bytes))
    };
    [false, true].into_iter().filter_map(read).max_by_key(|(_, sequence, _)| *sequence)
}

/// A file that is whole: its sequence, and what stands below its first line.
fn whole(path: &Path) -> Option<(u64, Vec<u8>)> {
    let mut file: File = File::open(path).ok()?;
    let found = file.metadata().ok()?;
    if !found.is_file() || found.uid() != user::effective_uid() || found.len() > LONGEST {
        return None;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let first = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let mut words = first.strip_prefix(MAGIC)?.split_ascii_whitespace();
    let sequence: u64 = words.next()?.parse().ok()?;
    let length: usize = words.next()?.parse().ok()?;
    let expected = words.next()?;
    // An older, longer text may go on behind it.
    let rest = bytes.get(end + 1..)?.get(..length)?;
    (expected == format!("{:016x}", sum(sequence, rest))).then(|| (sequence, rest.to_vec()))
}

/// FNV-1a over eight bytes at a time: what was torn is seen, and nobody has to be kept from forging it.
fn sum(sequence: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(PRIME).rotate_left(23);
    let mut chunks = bytes.chunks_exact(8);
    let whole = chunks.by_ref().fold(step(0xcbf2_9ce4_8422_2325, sequence), |sum, chunk| {
        step(sum, chunk.try_into().map_or(0, u64::from_le_bytes))
    });
    chunks.remainder().iter().fold(whole, |sum, byte| step(sum, u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(dir: &Path) -> Journal {
        std::fs::create_dir_all(dir).unwrap();
        Journal::open(dir).unwrap()
    }

    fn write(journal: &mut Journal, text: &str) {
        journal.write("u-x", &BTreeMap::new(), &text).unwrap();
    }

    fn read_text(dir: &Path) -> Option<String> {
        let (.., bytes) = newest(&dir.join(FOLDER), "u-x")?;
        parse::<String>(&bytes).ok().map(|(_, text)| text)
    }

    #[test]
    fn what_was_written_last_is_read_and_longer_texts_before_it_do_not_show() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(dir.path());
        for text in ["a long text at first", "b", &"c".repeat(10_000), "d", "e", ""] {
            write(&mut journal, text);
            assert_eq!(read_text(dir.path()).as_deref(), Some(text));
        }
    }

    #[test]
    fn wherever_a_write_is_torn_the_one_before_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(dir.path());
        write(&mut journal, "the first");
        write(&mut journal, "the second");
        let path = path_of(&dir.path().join(FOLDER), "u-x", true);
        let whole_text = std::fs::read(&path).unwrap();
        for at in 0..whole_text.len() {
            std::fs::write(&path, &whole_text[..at]).unwrap();
            assert_eq!(read_text(dir.path()).as_deref(), Some("the first"), "cut at {at}");
            let mut torn = whole_text.clone();
            torn[at] ^= 0x10;
            std::fs::write(&path, &torn).unwrap();
            assert_ne!(read_text(dir.path()).as_deref(), Some("the seco.d"), "{at}");
            let read = read_text(dir.path()).unwrap();
            assert!(read == "the first" || read == "the second", "{read} at {at}");
        }
    }

    #[test]
    fn who_comes_after_does_not_write_over_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = journal(dir.path());
        write(&mut first, "one");
        write(&mut first, "two");
        write(&mut first, "three");
        let mut second = journal(dir.path());
        write(&mut second, "four");
        let path = path_of(&dir.path().join(FOLDER), "u-x", true);
        std::fs::write(path, "torn").unwrap();
        assert_eq!(read_text(dir.path()).as_deref(), Some("three"));
    }

    #[test]
    fn another_boot_another_container_and_another_user_have_no_journal_here() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal(dir.path());
        let shared = Shared::of_this_process(dir.path().to_owned(), "/run".into());
        journal.write_core(&shared, &[], 7).unwrap();
        let Read { core, pages, entry } = read(dir.path()).unwrap().unwrap();
        assert_eq!((core.last_req, pages.len(), entry), (7 + REQUESTS, 0, None));
        for era in [
            Era { boot: "another".into(), ..core.era.clone() },
            Era { pids: "pid:[1]".into(), ..core.era.clone() },
            Era { user: core.era.user + 1, ..core.era.clone() },
        ] {
            journal.era = era;
            journal.write_core(&shared, &[], 7).unwrap();
            assert!(read(dir.path()).unwrap().is_none());
        }
        forget(dir.path());
        assert!(!dir.path().join(FOLDER).exists());
    }
}
