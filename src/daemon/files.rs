//! Unit files while aeternad runs. What `--unit` names is looked through again when somebody asks for it (`load`,
//! `reload --all`, SIGHUP): what is new becomes a unit, what has changed is reloaded, and what is gone from a folder is
//! stopped and dropped. A file that cannot be used is a failure of its own, shown as a failed unit: it costs no other
//! unit anything.
//!
//! | what is found | what is done |
//! | --- | --- |
//! | a new file | its sockets are bound, it starts as at boot |
//! | a new file with the name of a unit whose file is gone | the unit's file was renamed: it is read from there now |
//! | a file that a leaving unit is in the way of (an address) | the same, once that has gone |
//! | a file is gone from a folder | the unit is stopped, its sockets are closed, its place is free |
//! | a file, a folder cannot be read; a folder is empty | it is said; nothing is stopped for it |

mod saved;
mod taking;

pub use saved::SavedFiles;
pub use taking::How;

use crate::daemon::core::Daemon;
use crate::daemon::load::{Setting, Source};
use crate::daemon::supervised::{Standing, Supervised};
use crate::machine::event::{Command, Req};
use crate::proto::status::{EventLine, UnitState, UnitStatus};
use crate::sys::{clock, textfile};
use crate::time::Monotime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The unit files of a daemon.
#[derive(Debug)]
pub struct Files {
    /// What `--unit` names, absolute; nothing for a unit of the command line.
    roots: Vec<PathBuf>,
    /// What parsing depends on beside a text.
    setting: Setting,
    /// Files and folders that cannot be used.
    pub unusable: Vec<Unusable>,
    /// What waits until units whose files are gone have gone too.
    waiting: Vec<Waiting>,
}

/// A file or folder that cannot be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unusable {
    /// The name of the unit that it would be, or the path where another unit has that name.
    pub name: String,
    /// Where it is.
    #[serde(with = "crate::daemon::saved::path")]
    pub path: PathBuf,
    /// Every error, in whole lines; below each the line of the file.
    pub why: String,
    /// Since when.
    pub since: Monotime,
}

impl Unusable {
    /// What cannot be used, from now on.
    pub fn new(path: &Path, why: String) -> Unusable {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Unusable { name, path: path.to_owned(), why, since: clock::now() }
    }

    /// The errors without the lines of the file that they are about.
    fn errors(&self) -> impl Iterator<Item = &str> {
        self.why.lines().filter(|line| !line.starts_with(' '))
    }

    fn status(&self) -> UnitStatus {
        let mut errors = self.errors().map(str::to_owned);
        UnitStatus {
            name: self.name.clone(),
            description: String::new(),
            file: self.path.display().to_string(),
            state: UnitState::Failed,
            reloading: false,
            why: errors.next().unwrap_or_default(),
            since: clock::now().since(self.since).as_secs_f64(),
            generation: 0,
            main_pids: Vec::new(),
            generations: Vec::new(),
            sockets: Vec::new(),
            last_reload: None,
            last_handover: None,
            soak_ends_in: None,
            restarts: 0,
            restart_in: None,
            stored_descriptors: 0,
            pending: Vec::new(),
            notes: errors.collect(),
            analysis: Vec::new(),
            last_lines: Vec::new(),
            releases: Vec::new(),
        }
    }
}

/// What waits until leaving units have gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiting {
    /// Who hears of it.
    req: Req,
    what: Arrival,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Arrival {
    /// A file that becomes a unit.
    File(#[serde(with = "crate::daemon::saved::path")] PathBuf),
    /// A reload of a unit, by its number.
    Reload(usize, Reason),
}

/// A reload that is remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    force: bool,
    remember: bool,
    reason: String,
}

impl Reason {
    fn command(&self) -> Command {
        Command::Reload { force: self.force, remember: self.remember, reason: self.reason.clone() }
    }
}

/// What `--unit` names now.
struct Scan {
    /// Every file, once.
    files: Vec<PathBuf>,
    /// The folders that could be looked through.
    folders: BTreeSet<PathBuf>,
    /// Those that could not, and why.
    errors: Vec<(PathBuf, String)>,
}

impl Files {
    /// Those of a command line.
    pub fn new(roots: Vec<PathBuf>, setting: Setting, unusable: Vec<Unusable>) -> Files {
        Files { roots, setting, unusable, waiting: Vec::new() }
    }

    /// The file as a source.
    fn source(&self, path: PathBuf) -> Source {
        Source::File { path, setting: self.setting.clone() }
    }

    /// Looks through what `--unit` names. `known`: the paths of units that are there.
    fn scan(&self, known: &[&Path]) -> Scan {
        let mut scan = Scan { files: Vec::new(), folders: BTreeSet::new(), errors: Vec::new() };
        for root in &self.roots {
            // A folder that is gone is no file that is gone.
            let was_folder = || known.iter().any(|path| path.parent() == Some(root));
            if !root.is_dir() && !was_folder() {
                scan.files.push(root.clone());
                continue;
            }
            match textfile::in_folder(root, "toml") {
                Ok(found) if found.is_empty() => {
                    // It may be a file system that is not mounted.
                    let why =
                        "no *.toml in this folder; nothing is stopped for that, \"aeternactl stop\" does it";
                    scan.errors.push((root.clone(), format!("cannot use {}: {why}", root.display())));
                }
                Ok(found) => {
                    scan.files.extend(found);
                    scan.folders.insert(root.clone());
                }
                Err(error) => {
                    let why = textfile::why(&error);
                    scan.errors.push((root.clone(), format!("cannot use {}: {why}", root.display())));
                }
            }
        }
        let mut seen = BTreeSet::new();
        scan.files.retain(|path| seen.insert(path.clone()));
        scan
    }
}

impl Daemon {
    /// The units that are there, those that leave included.
    pub fn units_here(&self) -> impl Iterator<Item = (usize, &Supervised)> {
        self.units.iter().enumerate().filter(|(_, unit)| unit.standing != Standing::Gone)
    }

    /// Whether a unit stays.
    fn stays(&self, index: usize) -> bool {
        self.units.get(index).is_some_and(|unit| unit.standing == Standing::Here)
    }

    /// Every unit that stays, by its number.
    pub fn staying(&self) -> Vec<usize> {
        (0..self.units.len()).filter(|index| self.stays(*index)).collect()
    }

    /// The file or folder of this name that cannot be used.
    pub fn unusable(&self, name: &str) -> Option<&Unusable> {
        self.files.unusable.iter().find(|unusable| unusable.name == name)
    }

    /// What cannot be used, as failed units; of one name, or all.
    pub fn unusable_status(&self, only: Option<&str>) -> Vec<UnitStatus> {
        let wanted = |unusable: &&Unusable| only.is_none_or(|name| unusable.name == name);
        self.files.unusable.iter().filter(wanted).map(Unusable::status).collect()
    }

    /// Names nobody twice: a file whose name a unit has goes by its path. And tells the machine how many there are.
    pub fn name_unusable(&mut self) {
        let taken: BTreeSet<String> = self.units_here().map(|(_, unit)| unit.name.clone()).collect();
        let mut seen = taken;
        for unusable in &mut self.files.unusable {
            unusable.name = Unusable::new(&unusable.path, String::new()).name;
            if !seen.insert(unusable.name.clone()) {
                unusable.name = unusable.path.display().to_string();
            }
        }
        let count = self.files.unusable.len();
        self.machine_event(crate::machine::daemon::DaemonEvent::Unusable(count));
    }

    /// Something about a unit's file, for the log and for whoever follows.
    fn tell_of_file(&mut self, unit: &str, kind: &str, text: String) {
        if kind == "warning" {
            log::error!("{unit}: {text}");
        } else {
            log::info!("{unit}: {text}");
        }
        let line = EventLine {
            time: clock::unix_time(),
            unit: unit.to_owned(),
            kind: kind.to_owned(),
            text,
            generation: None,
            state: None,
            lasted: None,
            pid: None,
            outcome: None,
        };
        self.clients.broadcast(&line);
        self.web.tell(&line);
    }
}
