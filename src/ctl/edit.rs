//! `aeternactl edit UNIT`: the unit's file, in an editor; what is not valid is not written.

use super::check::checked;
use super::client::{Client, Target};
use super::failure::Failure;
use super::output::Output;
use super::show::{ask_status, file_of};
use super::wait::lines;
use crate::error::exit;
use crate::proto::control::{Line, Reply, Request};
use crate::sys::{random, textfile};
use crate::unit::MAX_FILE;
use serde_json::json;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Edits a copy, and puts it in the place of the file if it is valid.
pub(super) fn edit(target: &Target, unit: &str, json: bool, output: &mut Output) -> Result<u8, Failure> {
    let status = ask_status(&mut Client::ask(target, &Request::Status { unit: Some(unit.into()) })?)?;
    let (file, path) = file_of(&status, unit)?;
    // The link stays a link.
    let path = fs::canonicalize(&path).map_err(|error| cannot("find", &file, &error))?;
    let before = textfile::read(&path, MAX_FILE).map_err(|error| cannot("read", &file, &error))?;
    let copy = Copy::new(&path, &before).map_err(|error| cannot("copy", &file, &error))?;
    let text = loop {
        run_editor(&copy.path)?;
        let text = textfile::read(&copy.path, MAX_FILE)
            .map_err(|error| cannot("read the copy of", &file, &error))?;
        if text == before {
            return Ok(say(unit, &file, false, "nothing has changed", json, output));
        }
        let verdict = checked(&copy.path, &path, target.uid);
        verdict.complaints().iter().for_each(|line| output.complain(line));
        if verdict.ok {
            break text;
        }
        if !again() {
            let kept = copy.keep();
            return Err(Failure::Invalid(format!(
                "{file} is as it was; what you wrote is in {}",
                kept.display()
            )));
        }
    };
    if textfile::read(&path, MAX_FILE).ok().as_deref() != Some(before.as_str()) {
        let kept = copy.keep();
        let why =
            format!("{file} was changed meanwhile, and not by you: it is as it is; what you wrote is in ");
        return Err(Failure::Broken(why + &kept.display().to_string()));
    }
    if let Err(error) = replace(&path, &text) {
        let kept = copy.keep();
        return Err(Failure::Broken(format!(
            "cannot write {file}: {error}; what you wrote is in {}",
            kept.display()
        )));
    }
    let mut note = format!("{file} is written; \"aeternactl reload {unit}\" puts it into effect");
    if let Some(changes) = changes(target, unit).filter(|_| !json) {
        note = format!("{changes}\n{note}");
    }
    Ok(say(unit, &file, true, &note, json, output))
}

fn say(unit: &str, file: &str, changed: bool, text: &str, json: bool, output: &mut Output) -> u8 {
    if json {
        output.json(&json!({"unit": unit, "file": file, "changed": changed}));
    } else {
        output.text(&lines(text));
    }
    exit::OK
}

fn cannot(what: &str, file: &str, error: &io::Error) -> Failure {
    Failure::Broken(format!("cannot {what} {file}: {}", textfile::why(error)))
}

/// What a reload would change by now, in words; nothing if that cannot be said.
fn changes(target: &Target, unit: &str) -> Option<String> {
    let request = Request::DryRun { units: vec![unit.into()], all: false };
    let mut client = Client::ask(target, &request).ok()?;
    match client.next().ok()? {
        super::client::Next::Line(Line::Result(Reply::Changes { text, .. })) => {
            Some(text.trim_end().to_owned())
        }
        _ => None,
    }
}

/// A copy in a folder of its own, whose name no one else can choose.
struct Copy {
    path: PathBuf,
    kept: bool,
}

impl Copy {
    fn new(of: &Path, text: &str) -> io::Result<Copy> {
        let folder = std::env::temp_dir().join(format!("aeterna-edit-{:016x}", random::bits()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        // Editors go by the name.
        let path = folder.join(of.file_name().unwrap_or_default());
        let copy = Copy { path, kept: false };
        fs::write(&copy.path, text)?;
        Ok(copy)
    }

    fn keep(mut self) -> PathBuf {
        self.kept = true;
        self.path.clone()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(folder) = self.path.parent().filter(|_| !self.kept) {
            // Whatever the editor has left beside it, too. It is our own folder below a temporary one.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Runs the editor on it, to its end.
fn run_editor(path: &Path) -> Result<(), Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let wanted = set("VISUAL").or_else(|| set("EDITOR"));
    let all = match wanted {
        Some(one) => vec![one],
        None => ["editor", "nano", "vim", "vi"].map(String::from).to_vec(),
    };
    for editor in &all {
        let mut command = Command::new("sh");
        let status = command.args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path).status();
        let status = status.map_err(|error| Failure::Broken(format!("cannot start a shell: {error}")))?;
        match status.code() {
            Some(0) => return Ok(()),
            Some(126 | 127) if all.len() > 1 => {}
            _ => return Err(Failure::Broken(format!("{editor} ended with {status}: nothing was written"))),
        }
    }
    Err(Failure::Broken("there is no editor; set EDITOR".into()))
}

/// Whether whoever sits there wants to go on.
fn again() -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    let _ = io::stderr().write_all(b"Edit it again? [Y/n] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer).unwrap_or(0);
    read > 0 && !answer.trim().to_lowercase().starts_with('n')
}

/// The text in the place of the file, all at once, with its owner and mode.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A hidden file is no unit.
    let fresh = path.with_file_name(format!(".{name}.{:016x}", random::bits()));
    let written = write_new(&fresh, text, &meta).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn write_new(path: &Path, text: &str, like: &fs::Metadata) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        std::os::unix::fs::fchown(&file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
