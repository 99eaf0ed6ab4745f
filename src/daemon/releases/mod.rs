//! A content's release: what the names in it meant when it was read. Every process of the content runs that: automatic
//! restarts, workers, instances, rescues, hooks, stop commands, and what a rollback launches. Main thread.

mod gone;
mod load;
mod program;
mod saved;
mod start;

pub use gone::Gone;
pub use program::program_of;
pub use saved::{SavedRelease, SavedReleases};

use crate::daemon::environment::{self, Facts};
use crate::daemon::launch;
use crate::daemon::shared::Shared;
use crate::machine::event::ContentId;
use crate::sys::clock;
use crate::sys::pin::{self, Identity, Kind, Pin};
use crate::sys::spawn::{self, ByDescriptor, Pinned};
use crate::unit::{self, Command, Unit};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many releases that a reload has given up are remembered of a unit.
const GIVEN_UP: usize = 8;

/// What a content's names meant.
#[derive(Debug, Clone)]
pub struct Release {
    /// The unit.
    pub unit: Arc<Unit>,
    /// `WorkingDirectory`, where it was there.
    working: Option<Arc<Pin>>,
    /// The programs of its commands that were there, by the word that names them.
    programs: BTreeMap<String, Arc<Pin>>,
    /// A hash of all of it: two releases of one text that have it in common are the same.
    identity: u64,
    /// When it was read, seconds since 1970.
    pub read_at: f64,
}

/// The releases of a unit's contents.
#[derive(Debug, Default)]
pub struct Releases {
    by_content: BTreeMap<ContentId, Arc<Release>>,
    given_up: VecDeque<GivenUp>,
    /// The content that was read last: its reload goes forward.
    pub fresh: Option<ContentId>,
    /// The content of which it was said that its program is not the newest.
    told: Option<ContentId>,
}

/// A release that a reload has launched and given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenUp {
    identity: u64,
    at: f64,
    why: String,
}

/// What the names that a launch's own `ExecStartPre` may change meant before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    working: Option<Identity>,
    programs: BTreeMap<String, Option<Identity>>,
}

/// Which part of a release a process needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The folders.
    Places,
    /// And the main programs.
    All,
}

impl Release {
    /// Looks every name of a unit up. What is not there is looked up again at its launch.
    pub fn read(unit: &Arc<Unit>, shared: &Shared) -> Release {
        let unit = Arc::clone(unit);
        let working = folder_of(&unit).filter(|path| !is_runtime_directory(&unit, shared, path));
        let working = working.and_then(|path| Pin::place(Path::new(&path)).ok()).map(Arc::new);
        let mut release =
            Release { unit, working, programs: BTreeMap::new(), identity: 0, read_at: clock::unix_time() };
        let unit = Arc::clone(&release.unit);
        let mut path = None;
        for word in words(&unit) {
            if release.programs.contains_key(word) {
                continue;
            }
            if !word.contains('/') && path.is_none() {
                path = Some(search_path(&unit, shared));
            }
            let base = release.base();
            if let Ok(pin) = spawn::pin_program(word, path.as_deref(), base.as_deref()) {
                release.programs.insert(word.to_owned(), Arc::new(pin));
            }
        }
        release.identity = release.hash();
        release
    }

    /// A hash of everything that it holds.
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// The program of a command.
    pub fn program(&self, word: &str) -> Option<&Arc<Pin>> {
        self.programs.get(word)
    }

    /// The program of `ExecStart`.
    pub fn main(&self) -> Option<&Arc<Pin>> {
        self.program(self.unit.service.exec_start.first()?.argv.first()?)
    }

    /// Where it is, for people: the working directory, or the program.
    pub fn place(&self) -> Option<&Path> {
        self.working().or_else(|| self.main().map(Arc::as_ref)).map(Pin::name)
    }

    /// The working directory, where it is held.
    pub fn working(&self) -> Option<&Pin> {
        self.working.as_deref()
    }

    /// The folder that relative names begin in: `WorkingDirectory`; `None` is our own.
    pub fn base(&self) -> Option<String> {
        match &self.working {
            Some(pin) => Some(pin.name().to_string_lossy().into_owned()),
            None => folder_of(&self.unit),
        }
    }

    /// The same with a program that was only there now.
    fn with(&self, word: &str, pin: Arc<Pin>) -> Release {
        let mut release = self.clone();
        release.programs.insert(word.to_owned(), pin);
        release.identity = release.hash();
        release
    }

    fn hash(&self) -> u64 {
        let mut hash = Sha256::new();
        let mut add = |what: &str, pin: &Pin| {
            let was = pin.was();
            for bytes in [what.as_bytes(), pin.name().as_os_str().as_encoded_bytes()] {
                hash.update(bytes.len().to_le_bytes());
                hash.update(bytes);
            }
            for number in [was.dev, was.ino, was.size] {
                hash.update(number.to_le_bytes());
            }
            hash.update(was.mtime.0.to_le_bytes());
            hash.update(was.mtime.1.to_le_bytes());
        };
        if let Some(pin) = &self.working {
            add("", pin);
        }
        for (word, pin) in &self.programs {
            add(word, pin);
        }
        hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// What of it is gone, if anything that a process needs is.
    pub fn gone(&self, part: Part) -> Option<Gone> {
        let optional = self.unit.service.working_directory.as_ref().is_some_and(|folder| folder.optional);
        if let Some(pin) = self.working.as_ref().filter(|_| !optional)
            && let Some(gone) = Gone::of_folder(pin)
        {
            return Some(gone);
        }
        if part == Part::Places {
            return None;
        }
        let commands = &self.unit.service.exec_start;
        let pins = commands.iter().filter_map(|command| self.program(command.argv.first()?));
        pins.filter_map(|pin| Gone::of_program(pin)).next()
    }

    /// What the name of a main program means now, wherever the way there leads by now.
    fn means_now(&self, word: &str) -> Option<Identity> {
        let path = match self.program(word) {
            Some(pin) if !word.contains('/') => pin.name().to_owned(),
            _ => Path::new(&folder_of(&self.unit).unwrap_or_default()).join(word),
        };
        pin::identity(&path).ok()
    }

    /// Whether the name of the main program leads to another by now; `None` if it leads nowhere, or none is held.
    pub fn newer_on_disk(&self) -> Option<bool> {
        let word = self.unit.service.exec_start.first()?.argv.first()?;
        let was = self.program(word)?.was();
        self.means_now(word).map(|now| now != was)
    }

    /// What the names mean that an `ExecStartPre` may change.
    pub fn before(&self) -> Before {
        let words = self.unit.service.exec_start.iter().filter_map(|command| command.argv.first());
        let programs = words.map(|word| (word.clone(), self.means_now(word))).collect();
        let working = folder_of(&self.unit).and_then(|path| pin::identity(Path::new(&path)).ok());
        Before { working, programs }
    }

    /// The same with what has changed since; `None` if nothing has.
    pub fn after(&self, before: &Before) -> Option<Release> {
        let now = self.before();
        if now == *before {
            return None;
        }
        let mut release = self.clone();
        if now.working != before.working {
            let folder = folder_of(&self.unit);
            release.working = folder.and_then(|path| Pin::place(Path::new(&path)).ok()).map(Arc::new);
        }
        for (word, identity) in &now.programs {
            if before.programs.get(word) != Some(identity) {
                // Looked up anew by the launch.
                release.programs.remove(word);
            }
        }
        release.identity = release.hash();
        Some(release)
    }
}

impl Releases {
    /// The release of a content.
    pub fn get(&self, content: ContentId) -> Option<&Arc<Release>> {
        self.by_content.get(&content)
    }

    /// Remembers one.
    pub fn insert(&mut self, content: ContentId, release: Arc<Release>) {
        self.by_content.insert(content, release);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_content.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_content.is_empty()
    }

    /// Lets those go that nobody needs any more.
    pub fn retain(&mut self, needed: impl Fn(ContentId) -> bool) {
        self.by_content.retain(|id, _| needed(*id));
    }

    /// A reload has given this one up.
    pub fn gave_up(&mut self, identity: u64, why: String) {
        self.absolve(identity);
        if self.given_up.len() == GIVEN_UP {
            self.given_up.pop_front();
        }
        self.given_up.push_back(GivenUp { identity, at: clock::unix_time(), why });
    }

    /// It was promoted after all.
    pub fn absolve(&mut self, identity: u64) {
        self.given_up.retain(|given_up| given_up.identity != identity);
    }

    fn given_up(&self, identity: u64) -> Option<&GivenUp> {
        self.given_up.iter().find(|given_up| given_up.identity == identity)
    }
}

/// `WorkingDirectory`; `~` is the home of the user.
pub fn folder_of(unit: &Unit) -> Option<String> {
    let account = match (&unit.service.user, &unit.service.working_directory) {
        (Some(_), Some(folder)) if folder.path == "~" => launch::account_of(&unit.service).ok().flatten(),
        _ => None,
    };
    launch::directory(&unit.service, account.as_ref())
}

/// Whether a folder is made anew with each first process of the unit.
fn is_runtime_directory(unit: &Unit, shared: &Shared, path: &str) -> bool {
    let names = &unit.service.runtime_directory;
    names.iter().any(|name| Path::new(path).starts_with(format!("{}/{name}", shared.runtime_root)))
}

/// The programs that a unit names, but those of `OnSuccess` and `OnFailure`: they go with what is there then.
fn words(unit: &Unit) -> impl Iterator<Item = &str> {
    let service = &unit.service;
    let check = unit.health.as_ref().and_then(|health| match &health.check {
        unit::Check::Exec(command) => Some(command),
        unit::Check::HttpGet(_) | unit::Check::TcpConnect(_) => None,
    });
    let lists = [
        &service.exec_start,
        &service.exec_start_pre,
        &service.exec_start_post,
        &service.exec_stop,
        &service.exec_stop_post,
        &service.exec_reload,
    ];
    let commands = lists.into_iter().flatten().chain(check);
    let commands = commands.chain(unit.reload.pre_flight.iter().map(|hook| &hook.exec));
    let binary = unit.reload.binary_path.iter().map(String::as_str);
    commands.filter_map(|command: &Command| command.argv.first()).map(String::as_str).chain(binary)
}

/// The PATH of a unit's processes.
pub fn search_path(unit: &Unit, shared: &Shared) -> String {
    let facts = Facts { own: shared.environment.clone(), ..Facts::default() };
    let path = environment::build(&unit.service, &facts).remove("PATH");
    path.unwrap_or_else(|| environment::DEFAULT_PATH.into())
}

/// Where a program is, for the one that runs it: its name as the unit has it, or where that led through a link.
pub fn own_name(word: &str, base: Option<&str>, pin: &Pin) -> String {
    let plain = |path: &Path| -> PathBuf { path.components().collect() };
    let as_written = plain(&Path::new(base.unwrap_or_default()).join(word));
    let straight =
        as_written.is_relative() || as_written.parent().map(plain) == pin.name().parent().map(plain);
    if !word.contains('/') || straight { word.to_owned() } else { pin.name().to_string_lossy().into_owned() }
}

/// How a held program is executed.
pub fn pinned(pin: &Pin) -> Pinned<'_> {
    Pinned {
        fd: pin.fd(),
        is: (pin.was().dev, pin.was().ino),
        other: pin.real().and_then(|name| CString::new(name.as_os_str().as_encoded_bytes()).ok()),
        by: if pin.kind() == Kind::Script { ByDescriptor::Never } else { ByDescriptor::WhenReplaced },
    }
}
