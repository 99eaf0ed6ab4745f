//! The program of a command: what its release holds, or what is there now.

use super::{Release, own_name};
use crate::daemon::launch::{failure, not_found};
use crate::machine::event::{Role, SpawnFailure};
use crate::sys::near;
use crate::sys::pin::Pin;
use crate::sys::spawn;
use crate::unit::{self, Command};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A program to execute.
pub struct Program {
    /// Its name.
    pub name: PathBuf,
    /// Its arguments, variables replaced.
    pub argv: Vec<String>,
    /// The file, where it is held.
    pub pin: Option<Arc<Pin>>,
    /// Whether it was not held before.
    pub is_new: bool,
}

/// The program to execute and its arguments.
///
/// # Errors
/// It is not there, or cannot be executed.
pub fn program_of(
    unit: &str,
    release: &Release,
    role: Role,
    command: &Command,
    env: &BTreeMap<String, String>,
    directory: Option<&str>,
) -> Result<Program, SpawnFailure> {
    let mut argv = unit::expand_command(command, &|name| env.get(name).cloned());
    let Some(word) = argv.first().filter(|word| !word.is_empty()) else {
        return Err(failure(unit, "run its command", "it is empty after its variables were replaced", 127));
    };
    let missing = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
        failure(unit, &format!("exec {word}"), &not_found(word, directory, &error), code)
    };
    let path = env.get("PATH").map(String::as_str);
    if matches!(role, Role::OnSuccess(_) | Role::OnFailure(_)) {
        // What they do is no part of a release: they may want to move its name.
        let name = spawn::find_program(word, path, directory);
        let name = match name {
            Err(error) if near::is_far(&error) => spawn::far_program(word, path, directory),
            name => name,
        };
        let name = name.map_err(missing)?;
        return Ok(Program { name, argv, pin: None, is_new: false });
    }
    let held = release.program(word).cloned();
    let is_new = held.is_none();
    let pin = match held {
        Some(pin) => pin,
        None => match spawn::pin_program(word, path, directory) {
            // What a server or a program shows is not held: whoever looks at it may wait for ever.
            Err(error) if near::is_far(&error) => {
                let name = spawn::far_program(word, path, directory).map_err(missing)?;
                return Ok(Program { name, argv, pin: None, is_new: false });
            }
            pinned => Arc::new(pinned.map_err(missing)?),
        },
    };
    let own_name = own_name(word, directory, &pin);
    if let Some(first) = argv.first_mut() {
        *first = own_name;
    }
    Ok(Program { name: pin.name().to_owned(), argv, pin: Some(pin), is_new })
}
