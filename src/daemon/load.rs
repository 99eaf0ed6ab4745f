//! Unit files: finding, reading, parsing. What cannot be used is said with file, line and column.

use crate::error::{Fatal, exit};
use crate::machine::event::{Content, ContentId};
use crate::sys::textfile;
use crate::unit::{self, Context, Unit};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

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
        match self {
            Source::File { path, setting } => load_file(path, setting, &[], unit::Diagnostic::with_line),
            Source::Inline(_) => self.load_beside(&[]),
        }
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
            Source::File { path, setting } => load_file(path, setting, known, |error, _| error.to_string()),
        }
    }

    /// Where the file is; nothing for a unit without one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File { path, .. } => Some(path),
            Source::Inline(_) => None,
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

fn load_file(
    path: &Path,
    setting: &Setting,
    known: &[Content],
    show: fn(&unit::Diagnostic, &str) -> String,
) -> Result<Loaded, String> {
    let cannot = |error| format!("cannot read {}: {}", path.display(), textfile::why(&error));
    let text = textfile::read(path, unit::MAX_FILE).map_err(cannot)?;
    let hash = hash_of(&text);
    if let Some(same) = known.iter().find(|content| content.hash == hash) {
        return Ok(Loaded { unit: Arc::clone(&same.unit), hash, warnings: Vec::new() });
    }
    match unit::parse(&text, &Context::of_file(path, setting.runtime_root.clone(), setting.pid1)) {
        Ok(parsed) => Ok(Loaded {
            unit: Arc::new(parsed.unit),
            hash,
            warnings: parsed.warnings.iter().map(ToString::to_string).collect(),
        }),
        Err(errors) => Err(errors.iter().map(|error| show(error, &text)).collect::<Vec<_>>().join("\n")),
    }
}

/// A hash for people to compare, the same in every release: one aeternad recognises the contents of another. Not for
/// security.
pub fn hash_of(text: &str) -> u64 {
    let mut start = [0; 8];
    for (to, from) in start.iter_mut().zip(Sha256::digest(text.as_bytes())) {
        *to = from;
    }
    u64::from_be_bytes(start)
}

/// A path that can be read again whatever becomes of the working directory: what stands before it is taken off with the `..`
/// in front. Links and `..` further on are followed whenever it is read.
pub fn whole(path: &Path) -> PathBuf {
    let Ok(mut base) = std::env::current_dir() else { return path.to_owned() };
    let mut parts = path.components().peekable();
    // getcwd(2) names no link: the folder above is called as it is without its last part.
    while let Some(part @ (Component::CurDir | Component::ParentDir)) = parts.peek() {
        if *part == Component::ParentDir {
            base.pop();
        }
        parts.next();
    }
    // From the root, if it begins there.
    base.extend(parts);
    base
}

/// The unit files that `--unit` names: files as they are named, folders as their *.toml by name.
///
/// # Errors
/// Exit status 78 with every folder that cannot be used.
pub fn find(arguments: &[OsString]) -> Result<Vec<PathBuf>, Fatal> {
    let mut files = Vec::new();
    let mut errors = Vec::new();
    for path in arguments.iter().map(Path::new) {
        match files_of(path) {
            Ok(found) => files.extend(found),
            Err(why) => errors.push(format!("cannot use {}: {why}", path.display())),
        }
    }
    if errors.is_empty() { Ok(files) } else { Err(Fatal::new(exit::CONFIG, errors.join("\n"))) }
}

/// The file itself, or a folder's unit files.
///
/// # Errors
/// Why the folder cannot be used.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    match textfile::in_folder(path, "toml") {
        Ok(found) if found.is_empty() => Err("no *.toml in this folder".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(textfile::why(&error)),
    }
}

/// Makes a content of what was read, with the id of an earlier one if that is the same: the text, and what its names mean.
pub fn content(loaded: &Loaded, release: u64, known: &[Content], next: &mut u32) -> Content {
    let same =
        |have: &&Content| have.hash == loaded.hash && have.release == release && have.unit == loaded.unit;
    if let Some(same) = known.iter().find(same) {
        return same.clone();
    }
    *next += 1;
    Content { id: ContentId(*next), unit: Arc::clone(&loaded.unit), hash: loaded.hash, release }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_whose_names_mean_something_else_is_another_content() {
        let context = Context::of_file(Path::new("/a.toml"), String::from("/run"), false);
        let parsed = unit::parse("[Service]\nExecStart = \"/bin/true\"\n", &context).unwrap();
        let loaded = Loaded { unit: Arc::new(parsed.unit), hash: 1, warnings: Vec::new() };
        let mut next = 0;
        let first = content(&loaded, 7, &[], &mut next);
        let known = [first.clone()];
        assert_eq!(content(&loaded, 7, &known, &mut next).id, first.id);
        assert_eq!(content(&loaded, 8, &known, &mut next).id, ContentId(2));
        let other = Loaded { hash: 2, ..loaded };
        assert_eq!(content(&other, 7, &known, &mut next).id, ContentId(3));
    }
}
