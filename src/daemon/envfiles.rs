//! `EnvironmentFile`: read when the unit is read, and kept with its content.

use crate::daemon::launch::describe;
use crate::sys::dir;
use crate::sys::near;
use crate::sys::pin::{self, Identity};
use crate::sys::spawn::Credentials;
use crate::unit::{self, EnvironmentFile};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// What a file said.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The file.
    pub path: String,
    /// Which file it was; `None`: there was none, and there need not be one.
    was: Option<Identity>,
    /// Its variables.
    pub variables: Vec<(String, String)>,
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values are nobody's business.
        write!(f, "Text({}, {} variables)", self.path, self.variables.len())
    }
}

impl Text {
    /// What a file says now. `None` if that cannot be kept: whoever launches a process reads it, and says what is wrong.
    pub fn read(file: &EnvironmentFile, who: Option<&Credentials>) -> Option<Text> {
        let path = file.path.clone();
        match pin::identity(Path::new(&path)) {
            Ok(was) => {
                let (named, owner) = (file.clone(), who.cloned());
                let variables = near::asked(move || read(&named, owner.as_ref()))?.ok()?;
                Some(Text { path, was: Some(was), variables })
            }
            Err(error) if file.optional && error.kind() == std::io::ErrorKind::NotFound => {
                Some(Text { path, was: None, variables: Vec::new() })
            }
            Err(_) => None,
        }
    }

    /// The names of the variables that have another value in `other`, are only here or only there.
    pub fn changed(&self, other: &Text) -> Vec<String> {
        let value = |text: &Text, name: &str| {
            text.variables.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let names = self.variables.iter().chain(&other.variables).map(|(name, _)| name);
        let mut changed: Vec<String> =
            names.filter(|name| value(self, name) != value(other, name)).cloned().collect();
        changed.sort_unstable();
        changed.dedup();
        changed
    }
}

/// What an `EnvironmentFile` says, read with the rights that its path deserves. Not on the main thread.
///
/// # Errors
/// That it cannot be read, and why.
pub fn read(file: &EnvironmentFile, who: Option<&Credentials>) -> Result<Vec<(String, String)>, String> {
    let path = Path::new(&file.path);
    let cannot = |why: &str| format!("EnvironmentFile {}", dir::explain(path, who, why));
    match dir::read_text(path, unit::MAX_FILE, who) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| cannot("it is not UTF-8 text"))?;
            let found = unit::parse_environment_file(&text);
            for line in found.strays {
                log::warn!("EnvironmentFile {}:{line}: this is no NAME=value; passed over", file.path);
            }
            Ok(found.variables)
        }
        Err(error) if file.optional && error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(cannot(&describe(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_what_has_changed_are_told_and_no_values() {
        let text = |variables: &[(&str, &str)]| Text {
            path: "/etc/app".into(),
            was: None,
            variables: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        let old = text(&[("A", "1"), ("B", "2"), ("B", "3"), ("C", "secret")]);
        let new = text(&[("A", "1"), ("B", "2"), ("D", "4")]);
        assert_eq!(old.changed(&new), ["B", "C", "D"]);
        assert_eq!(old.changed(&text(&[("B", "3"), ("C", "secret"), ("A", "1")])), [""; 0]);
        assert!(!format!("{old:?}").contains("secret"));
    }
}
