//! Units of other systems as TOML: systemd's .socket and .service files, an `aeterna.yaml`, a Procfile.
//!
//! Text goes in, text comes out, and every line that has no equivalent is named in a warning. What comes out always
//! parses: a line whose value [`super::parse()`] refuses is left out and becomes a warning too.
//!
//! | module | owns |
//! | --- | --- |
//! | `lines` | systemd.syntax(7): sections, continued lines, comments |
//! | `rules` | what becomes of each of systemd's options |
//! | `specifiers` | systemd.unit(5), SPECIFIERS |
//! | `systemd`, `streams` | the walk over .socket and .service files |
//! | `yaml` | the part of YAML that configuration files use |
//! | `manifest` | `aeterna.yaml` |
//! | `procfile` | Procfiles |
//! | `draft` | the TOML that grows, line by line with its origins |

mod draft;
mod lines;
mod manifest;
mod procfile;
mod rules;
mod specifiers;
mod streams;
mod systemd;
#[cfg(test)]
mod tests;
mod yaml;

use super::keepable::{Found, release_of};
use super::{Diagnostic, parse};
use draft::Origin;
pub(super) use rules::reason;

/// A text to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file as messages name it.
    pub file: String,
    /// The name that says what it is: `ssh.socket`, `aeterna.yaml`, `Procfile`. A drop-in has the name of the unit
    /// that it belongs to, and stands behind it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// A unit that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The unit's name; the file to put it in is `NAME.toml`.
    pub name: String,
    /// The unit as TOML.
    pub text: String,
    /// What was not carried over or means something else here, in the order of the sources.
    pub warnings: Vec<Diagnostic>,
}

impl Imported {
    /// Writes a line about `Release` where the service is behind a link that deployments move; as a comment, because only
    /// the deployment knows. `look` tells of a path.
    pub fn suggest_release(&mut self, look: &dyn Fn(&str) -> Found) {
        let Ok(parsed) = parse(&self.text, &draft::context(&self.name)) else { return };
        let Some(link) = release_of(&parsed.unit, look) else { return };
        let shown = link.replace(char::is_control, " ");
        let name = draft::toml_text(&link.replace('%', "%%"));
        let comment = format!(
            "# If each deployment moves {shown}, a restart and a rollback run all files of the\n\
             # release that was promoted with this line (RELEASES in aeterna.unit(5)):\n\
             # Release = {name}\n"
        );
        let lines = self.text.split_inclusive('\n');
        self.text =
            lines.flat_map(|line| [line, if line == "[Service]\n" { &comment } else { "" }]).collect();
    }
}

/// Makes one unit of `sources`: of systemd's units one .service and any number of .socket files, or one
/// `aeterna.yaml`, or one Procfile, of which `process` names the line (without it the one called `web`, else the
/// first). Touches no file.
///
/// # Errors
/// What makes it impossible, one or more findings: nothing to start, several services, a text of an unknown kind.
pub fn import(sources: &[Source], process: Option<&str>) -> Result<Imported, Vec<Diagnostic>> {
    let Some(first) = sources.first() else {
        return Err(vec![Finding::of_no_file("nothing to import").located(sources)]);
    };
    let mut work = Work { sources, warnings: Vec::new() };
    let made = match Kind::of(&first.name) {
        Some(Kind::Systemd) => systemd::import(&mut work),
        Some(Kind::Yaml) => only(sources).and_then(|()| manifest::import(&mut work)),
        Some(Kind::Procfile) => only(sources).and_then(|()| procfile::import(&mut work, process)),
        None => Err(Finding::at_file(
            0,
            "is nothing that can be imported: name .socket and .service files, a .yaml file, or a Procfile",
        )),
    };
    let settled = made.and_then(|(name, draft)| {
        let text = draft.settle(&name, &mut work.warnings)?;
        Ok((name, text))
    });
    match settled {
        Err(finding) => {
            let mut all = located(work.warnings, sources);
            all.push(finding.located(sources));
            Err(all)
        }
        Ok((name, text)) => Ok(Imported { name, text, warnings: located(work.warnings, sources) }),
    }
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Systemd,
    Yaml,
    Procfile,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match extension {
            "service" | "socket" => Some(Kind::Systemd),
            "yaml" | "yml" => Some(Kind::Yaml),
            _ if name.starts_with("Procfile") || extension == "procfile" => Some(Kind::Procfile),
            _ => None,
        }
    }
}

/// What an importer works on.
struct Work<'a> {
    sources: &'a [Source],
    warnings: Vec<Finding>,
}

impl Work<'_> {
    fn warn(&mut self, origin: Origin, message: impl Into<String>) {
        self.warnings.push(Finding { origin: Some(origin), message: message.into() });
    }
}

/// Something to say about a line, or about everything.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    origin: Option<Origin>,
    message: String,
}

impl Finding {
    fn of_no_file(message: impl Into<String>) -> Finding {
        Finding { origin: None, message: message.into() }
    }

    fn at_file(source: usize, message: impl Into<String>) -> Finding {
        Finding { origin: Some(Origin { source, line: 0 }), message: message.into() }
    }

    fn at(origin: Origin, message: impl Into<String>) -> Finding {
        Finding { origin: Some(origin), message: message.into() }
    }

    fn located(self, sources: &[Source]) -> Diagnostic {
        let (source, line) = self.origin.map_or((0, 0), |origin| (origin.source, origin.line));
        let file = sources.get(source).map_or(String::new(), |source| source.file.clone());
        Diagnostic { file, line, column: usize::from(line > 0), message: self.message }
    }
}

/// Findings in the order of the sources, those about everything last.
fn located(mut findings: Vec<Finding>, sources: &[Source]) -> Vec<Diagnostic> {
    findings.sort_by_key(|finding| finding.origin.map_or((usize::MAX, 0), |o| (o.source, o.line)));
    findings.dedup();
    findings.into_iter().map(|finding| finding.located(sources)).collect()
}

/// One file of this kind makes one unit.
fn only(sources: &[Source]) -> Result<(), Finding> {
    match sources.len() {
        1 => Ok(()),
        _ => Err(Finding::at_file(1, "is one file too many: such a file is imported alone")),
    }
}
