//! Unit files: finding, reading, parsing. What cannot be used is said with file, line and column.

use crate::daemon::launch::describe;
use crate::error::{Fatal, exit};
use crate::machine::event::{Content, ContentId};
use crate::unit::{self, Context, Unit};
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest unit file, bytes: far above any that a person writes.
const MAX_FILE: u64 = 1 << 20;

/// Where a unit comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A file, reread at each reload.
    File {
        /// As it was named on the command line, made absolute.
        path: PathBuf,
        /// `%t` and the defaults of PID 1.
        setting: Setting,
    },
    /// The command line: never changes.
    Inline(Arc<Unit>),
}

/// What parsing depends on beside the text.
#[derive(Debug, Clone)]
pub struct Setting {
    /// `%t`.
    pub runtime_root: String,
    /// Whether we are PID 1.
    pub pid1: bool,
}

/// A unit that has been read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The unit.
    pub unit: Arc<Unit>,
    /// Hash of the text.
    pub hash: u64,
    /// Lines to warn with.
    pub warnings: Vec<String>,
}

impl Source {
    /// Reads the unit (again).
    ///
    /// # Errors
    /// Every error of the file, a line each.
    pub fn load(&self) -> Result<Loaded, String> {
        self.load_beside(&[])
    }

    /// As [`Source::load`]; a text that one of `known` was parsed from is not parsed again: that is a good part of the
    /// time that a reload takes us.
    ///
    /// # Errors
    /// Those of [`Source::load`].
    pub fn load_beside(&self, known: &[Content]) -> Result<Loaded, String> {
        match self {
            Source::Inline(unit) => {
                let hash = hash_of(&unit::print(unit));
                Ok(Loaded { unit: Arc::clone(unit), hash, warnings: Vec::new() })
            }
            Source::File { path, setting } => load_file(path, setting, known),
        }
    }

    /// The file's name for people; empty for a unit without a file.
    pub fn file(&self) -> String {
        match self {
            Source::File { path, .. } => path.display().to_string(),
            Source::Inline(_) => String::new(),
        }
    }
}

fn load_file(path: &Path, setting: &Setting, known: &[Content]) -> Result<Loaded, String> {
    let shown = path.display();
    let text = read_bounded(path).map_err(|error| format!("cannot read {shown}: {}", describe(&error)))?;
    let hash = hash_of(&text);
    if let Some(same) = known.iter().find(|content| content.hash == hash) {
        return Ok(Loaded { unit: Arc::clone(&same.unit), hash, warnings: Vec::new() });
    }
    let context = Context {
        stem: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        file: shown.to_string(),
        runtime_dir: setting.runtime_root.clone(),
        pid1: setting.pid1,
    };
    match unit::parse(&text, &context) {
        Ok(parsed) => Ok(Loaded {
            unit: Arc::new(parsed.unit),
            hash,
            warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
        }),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// Reads a text file of at most [`MAX_FILE`] bytes; a FIFO or a device is no unit.
fn read_bounded(path: &Path) -> std::io::Result<String> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// A hash for people to compare; not for security.
pub fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The unit files that `--unit` names: files as they are, folders as their *.toml by name.
///
/// # Errors
/// Exit status 78 with every name that leads nowhere.
pub fn find(arguments: &[OsString]) -> Result<Vec<PathBuf>, Fatal> {
    let mut files = Vec::new();
    let mut errors = Vec::new();
    for argument in arguments {
        let path = std::path::absolute(argument).unwrap_or_else(|_| PathBuf::from(argument));
        if !path.is_dir() {
            files.push(path);
            continue;
        }
        match folder(&path) {
            Ok(found) if found.is_empty() => {
                errors.push(format!("cannot use {}: no *.toml in this folder", path.display()))
            }
            Ok(found) => files.extend(found),
            Err(error) => errors.push(format!("cannot read {}: {}", path.display(), describe(&error))),
        }
    }
    if errors.is_empty() { Ok(files) } else { Err(Fatal::new(exit::CONFIG, errors.join("\n"))) }
}

fn folder(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && file.extension().is_some_and(|end| end == "toml") {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// What several units must agree on: names and addresses of their own.
///
/// Returns a line for each clash.
pub fn clashes(units: &[&Unit]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, unit) in units.iter().enumerate() {
        for other in &units[..at] {
            found.extend(clash(other, unit));
        }
    }
    found
}

/// What two units both claim.
pub fn clash(one: &Unit, other: &Unit) -> Vec<String> {
    let mut found = Vec::new();
    if one.name == other.name {
        found.push(format!("two units are called \"{}\"; give one of them another [Unit] Name", one.name));
    }
    for (_, listen) in other.listens() {
        if one.listens().any(|(_, have)| unit::same_endpoint(have, listen) && !listen.any_port()) {
            found.push(format!(
                "the units \"{}\" and \"{}\" both listen on {}",
                one.name, other.name, listen.address
            ));
        }
    }
    found
}

/// Makes a content of what was read, with the id of an earlier one if it is the same.
pub fn content(loaded: &Loaded, known: &[Content], next: &mut u32) -> Content {
    if let Some(same) = known.iter().find(|have| have.hash == loaded.hash && have.unit == loaded.unit) {
        return same.clone();
    }
    *next += 1;
    Content { id: ContentId(*next), unit: Arc::clone(&loaded.unit), hash: loaded.hash }
}
