//! A content's release: what the names in it meant when it was read. Every process of the content runs that: automatic
//! restarts, workers, instances, rescues, hooks, stop commands, and what a rollback launches. Main thread.

mod before;
mod gone;
mod load;
mod program;
mod saved;
mod start;
mod told;

pub use before::Before;
pub use gone::Gone;
pub use program::program_of;
pub use saved::{SavedRelease, SavedReleases};

use crate::daemon::ahead::Ahead;
use crate::daemon::envfiles::Text;
use crate::daemon::environment::{self, Facts};
use crate::daemon::launch;
use crate::daemon::shared::Shared;
use crate::machine::event::{ContentId, Gen};
use crate::machine::gone::AllGivenUp;
use crate::sys::clock;
use crate::sys::near;
use crate::sys::pin::{self, Kind, Pin};
use crate::sys::spawn::{self, ByDescriptor, Pinned};
use crate::unit::{self, Command, Unit};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a content's names meant.
#[derive(Debug, Clone)]
pub struct Release {
    /// The unit as it was parsed.
    plain: Arc<Unit>,
    /// The same with what `Release` led to in the place of its name: what is run.
    pub unit: Arc<Unit>,
    /// What `Release` led to.
    named: Named,
    /// `WorkingDirectory`, where it was there.
    working: Option<Arc<Pin>>,
    /// The programs of its commands that were there, by the word that names them.
    programs: BTreeMap<String, Arc<Pin>>,
    /// The program of `ExecStart` or the working directory that cannot be held: somebody else shows it. Known at its load.
    far: Option<String>,
    /// The texts of its environment files that could be read.
    texts: Vec<Text>,
    /// A hash of all of it: two releases of one text that have it in common are the same.
    identity: u64,
    /// When it was read, seconds since 1970.
    pub read_at: f64,
}

/// What `Release` led to.
#[derive(Debug, Clone)]
enum Named {
    /// The unit does not say it.
    Nothing,
    /// A folder or a file.
    Held(Arc<Pin>),
    /// It cannot be held, for this reason: its name is used.
    Unheld(String),
    /// Nothing: why.
    Missing(String),
}

/// The releases of a unit's contents.
#[derive(Debug, Default)]
pub struct Releases {
    by_content: BTreeMap<ContentId, Arc<Release>>,
    /// What a reload has given up.
    pub given_up: AllGivenUp,
    /// The content that was read last: its reload goes forward.
    pub fresh: Option<ContentId>,
    /// What was given up last and still is what the names mean: for people.
    pub still_there: Option<String>,
    /// The content of which it was said that its program is not the newest.
    told: Option<ContentId>,
    /// The contents of which it was said that they are gone.
    gone: BTreeSet<ContentId>,
    /// What is to be said of them.
    losses: Vec<(Option<Gen>, String)>,
    /// The content that was read a moment ago: nothing has been waited for since.
    just_read: Option<ContentId>,
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
    pub fn read(plain: &Arc<Unit>, shared: &Shared) -> Release {
        let named = named_by(plain);
        let unit = bound(plain, &named);
        let working = folder_of(&unit).filter(|path| !is_runtime_directory(&unit, shared, path));
        let (working, mut far) = match working.map(|path| (Pin::place(Path::new(&path)), path)) {
            Some((Ok(pin), _)) => (Some(Arc::new(pin)), None),
            Some((Err(error), path)) => (None, near::is_far(&error).then_some(path)),
            None => (None, None),
        };
        let mut release = Release {
            plain: Arc::clone(plain),
            unit: Arc::clone(&unit),
            named,
            working,
            programs: BTreeMap::new(),
            far: None,
            texts: texts_of(&unit),
            identity: 0,
            read_at: clock::unix_time(),
        };
        let mut path = None;
        for word in words(&unit) {
            if release.programs.contains_key(word) {
                continue;
            }
            if !word.contains('/') && path.is_none() {
                path = Some(release.search_path(shared));
            }
            let base = release.base();
            match spawn::pin_program(word, path.as_deref(), base.as_deref()) {
                Ok(pin) => drop(release.programs.insert(word.to_owned(), Arc::new(pin))),
                Err(error) if near::is_far(&error) && is_main(&unit, word) => far = Some(word.to_owned()),
                // The launch says what is wrong with it.
                Err(_) => {}
            }
        }
        release.far = far;
        release.identity = release.hash();
        release
    }

    /// Whether the names of this unit, which it was read of, mean what it holds: then nobody has deployed anything.
    fn is_still(&self, plain: &Arc<Unit>, shared: &Shared) -> bool {
        if !Arc::ptr_eq(plain, &self.plain) {
            return false;
        }
        let place = |path: &str, held: &Pin| {
            let path = Path::new(path);
            held.is_still_at(path) || Pin::place(path).is_ok_and(|now| now.is_as(held))
        };
        let named = match (&self.named, &plain.service.release) {
            (Named::Nothing, None) => true,
            (Named::Held(held), Some(name)) => place(name, held),
            _ => false,
        };
        let folder = || match (folder_of(&self.unit), &self.working) {
            (Some(path), Some(held)) => place(&path, held),
            (None, None) => true,
            _ => false,
        };
        named && folder() && self.has_its_programs(shared) && texts_of(&self.unit) == self.texts
    }

    fn has_its_programs(&self, shared: &Shared) -> bool {
        let base = self.base();
        let mut path = None;
        let is_there = |word: &str| {
            let Some(held) = self.programs.get(word) else { return false };
            if word.starts_with('/') && held.is_still_at(Path::new(word)) {
                return true;
            }
            if !word.contains('/') && path.is_none() {
                path = Some(self.search_path(shared));
            }
            spawn::pin_program(word, path.as_deref(), base.as_deref()).is_ok_and(|now| now.is_as(held))
        };
        let mut known: Vec<&str> = words(&self.unit).collect();
        known.sort_unstable();
        known.dedup();
        known.len() == self.programs.len() && known.into_iter().all(is_there)
    }

    /// Why nothing can be launched: `Release` leads nowhere.
    pub fn missing(&self) -> Option<&str> {
        match &self.named {
            Named::Missing(why) => Some(why),
            Named::Nothing | Named::Held(_) | Named::Unheld(_) => None,
        }
    }

    /// Why what `Release` leads to, the program or its folder cannot be held, if so.
    pub fn unheld(&self) -> Option<String> {
        match (&self.named, &self.far) {
            (Named::Unheld(why), _) => Some(why.clone()),
            (Named::Nothing | Named::Held(_) | Named::Missing(_), Some(far)) => {
                Some(format!("{far} is {SHOWN_BY_OTHERS}"))
            }
            (Named::Nothing | Named::Held(_) | Named::Missing(_), None) => None,
        }
    }

    /// What `Release` led to.
    pub fn named(&self) -> Option<&Pin> {
        match &self.named {
            Named::Held(pin) => Some(pin),
            Named::Nothing | Named::Unheld(_) | Named::Missing(_) => None,
        }
    }

    /// `AETERNA_RELEASE`: absent without the key.
    pub fn name(&self) -> Option<String> {
        match &self.named {
            Named::Held(pin) => Some(pin.name().to_string_lossy().into_owned()),
            Named::Unheld(_) => self.plain.service.release.clone(),
            Named::Nothing | Named::Missing(_) => None,
        }
    }

    /// Whether the text of an environment file was read and is held.
    pub fn has_text(&self, path: &str) -> bool {
        self.texts.iter().any(|text| text.path == path)
    }

    /// The variables of its environment files: as they were, or where that could not be read, as they are.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub fn variables(&self, ahead: &mut Ahead) -> Result<Vec<(String, String)>, String> {
        let mut all = Vec::new();
        for file in &self.unit.service.environment_file {
            match self.texts.iter().find(|text| text.path == file.path) {
                Some(text) => all.extend(text.variables.iter().cloned()),
                None => {
                    let unread = || Err(format!("EnvironmentFile {}: it was not read", file.path));
                    all.extend(ahead.text(&file.path).unwrap_or_else(unread)?);
                }
            }
        }
        Ok(all)
    }

    /// The PATH of its processes.
    pub fn search_path(&self, shared: &Shared) -> String {
        let from_files = self.texts.iter().flat_map(|text| text.variables.iter().cloned()).collect();
        let facts = Facts { own: shared.environment.clone(), from_files, ..Facts::default() };
        let path = environment::build(&self.unit.service, &facts).remove("PATH");
        path.unwrap_or_else(|| environment::DEFAULT_PATH.into())
    }

    /// What is to be named for people if the names of the unit still lead to it.
    pub fn still_there(&self, shared: &Shared) -> Option<String> {
        let now = Release::read(&self.plain, shared);
        if now.identity != self.identity {
            return None;
        }
        match &self.plain.service.release {
            Some(name) => Some(name.clone()),
            None => self.written(),
        }
    }

    /// The program of `ExecStart` as the unit has it.
    fn written(&self) -> Option<String> {
        let word = self.unit.service.exec_start.first()?.argv.first()?;
        let folder = folder_of(&self.unit).filter(|_| word.contains('/')).unwrap_or_default();
        Some(Path::new(&folder).join(word).display().to_string())
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

    /// Where it is, for people: what `Release` led to, the working directory, or the program.
    pub fn place(&self) -> Option<&Path> {
        self.named().or(self.working()).or_else(|| self.main().map(Arc::as_ref)).map(Pin::name)
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
        if let Some(pin) = self.named() {
            add("/", pin);
        }
        if let Some(pin) = &self.working {
            add("", pin);
        }
        for (word, pin) in &self.programs {
            add(word, pin);
        }
        let mut text = |text: &str| {
            hash.update(text.len().to_le_bytes());
            hash.update(text);
        };
        for file in &self.texts {
            text(&file.path);
            for (name, value) in &file.variables {
                text(name);
                text(value);
            }
        }
        hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// What of it is gone, if anything that a process needs is.
    pub fn gone(&self, part: Part) -> Option<Gone> {
        if let Some(gone) = self.named().and_then(Gone::of_place) {
            return Some(gone);
        }
        let optional = self.unit.service.working_directory.as_ref().is_some_and(|folder| folder.optional);
        if let Some(pin) = self.working.as_ref().filter(|_| !optional)
            && let Some(gone) = Gone::of_place(pin)
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

    /// Whether the name of the main program leads to another by now; `None` if it leads nowhere, or none is held.
    pub fn newer_on_disk(&self) -> Option<bool> {
        if let (Some(held), Some(name)) = (self.named(), &self.plain.service.release) {
            let now = pin::identity(Path::new(name)).ok()?;
            if now != held.was() {
                return Some(true);
            }
        }
        let word = self.unit.service.exec_start.first()?.argv.first()?;
        let was = self.program(word)?.was();
        self.means_now(word).map(|now| now != was)
    }
}

impl Releases {
    /// The release of a content.
    pub fn get(&self, content: ContentId) -> Option<&Arc<Release>> {
        self.by_content.get(&content)
    }

    /// Remembers one.
    pub fn insert(&mut self, content: ContentId, release: Arc<Release>) {
        self.gone.remove(&content);
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
        let there = &self.by_content;
        self.gone.retain(|id| there.contains_key(id));
    }

    /// Something of a release is gone: said once.
    fn lost(&mut self, content: ContentId, generation: Option<Gen>, gone: &Gone) {
        if self.gone.insert(content) {
            self.losses.push((generation, gone.told(generation)));
        }
    }

    /// Whether something was read, and nothing has been waited for since.
    pub fn is_just_read(&self) -> bool {
        self.just_read.is_some()
    }

    /// Something is about to be waited for.
    pub fn rest(&mut self) {
        self.just_read = None;
    }

    /// What is to be said of what is gone.
    pub fn take_losses(&mut self) -> Vec<(Option<Gen>, String)> {
        std::mem::take(&mut self.losses)
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
    let judges = unit.analysis.iter().flat_map(|analysis| &analysis.checks);
    let commands = commands.chain(judges.filter_map(|check| match &check.kind {
        unit::AnalysisKind::Exec(command) => Some(command),
        _ => None,
    }));
    let binary = unit.reload.binary_path.iter().map(String::as_str);
    commands.filter_map(|command: &Command| command.argv.first()).map(String::as_str).chain(binary)
}

/// What is said of a file that is not held.
const SHOWN_BY_OTHERS: &str = "on a file system that a server or another program shows (NFS, FUSE), and is used by its \
                               name: a restart runs what it leads to then, and rollback cannot bring it back";

/// Whether a word names a program of `ExecStart`.
fn is_main(unit: &Unit, word: &str) -> bool {
    unit.service.exec_start.iter().any(|command| command.argv.first().is_some_and(|first| first == word))
}

/// What `Release` leads to.
fn named_by(unit: &Unit) -> Named {
    let Some(name) = &unit.service.release else { return Named::Nothing };
    match Pin::place(Path::new(name)) {
        Ok(pin) if pin.name().to_str().is_some() => Named::Held(Arc::new(pin)),
        Ok(pin) => Named::Missing(format!(
            "Release {name} leads to {}, which is no UTF-8 text",
            pin.name().display()
        )),
        Err(error) if near::is_far(&error) => Named::Unheld(format!("Release {name} is {SHOWN_BY_OTHERS}")),
        Err(error) => Named::Missing(format!("Release {name}: {}", launch::reason(&error))),
    }
}

/// The unit as it is run.
fn bound(plain: &Arc<Unit>, named: &Named) -> Arc<Unit> {
    match (named, &plain.service.release) {
        (Named::Held(pin), Some(name)) => Arc::new(unit::bind(plain, name, &pin.name().to_string_lossy())),
        _ => Arc::clone(plain),
    }
}

/// What its environment files say, as far as that can be read.
fn texts_of(unit: &Unit) -> Vec<Text> {
    let service = &unit.service;
    if service.environment_file.is_empty() {
        return Vec::new();
    }
    let Ok(who) =
        launch::account_of(service).and_then(|account| launch::credentials(service, account.as_ref()))
    else {
        return Vec::new();
    };
    service.environment_file.iter().filter_map(|file| Text::read(file, who.as_ref())).collect()
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
