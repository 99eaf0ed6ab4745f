//! What `aeternad --check` and `aeternactl check` say of unit files.

use super::keepable::advice;
use super::value::{SHARINGS, word_of};
use super::{Context, Diagnostic, Found, GroupLimits, Unit, clashes, parse, sharing};
use serde::Serialize;
use std::path::Path;

/// What was found in several files, which are to run under one aeternad.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether there is no error.
    pub ok: bool,
    /// Each file by itself.
    pub files: Vec<FileVerdict>,
    /// What the files cannot all have: names, addresses, settings of the daemon.
    pub errors: Vec<String>,
    #[serde(skip)]
    units: Vec<Unit>,
}

/// Limits that would not be enforced, and why.
pub type Unmet = (Vec<&'static str>, String);

/// What surrounds a unit where it is checked.
pub struct Here<'a> {
    /// What is at a path.
    pub look: &'a dyn Fn(&str) -> Found,
    /// Which of these limits would not be enforced here, and why.
    pub limits: &'a dyn Fn(&GroupLimits) -> Option<Unmet>,
}

impl std::fmt::Debug for Here<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Here")
    }
}

/// A finding about a text that stands somewhere in the file.
fn placed(text: &str, context: &Context, at: &str, message: String) -> Diagnostic {
    let found = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    let mut places = found.filter_map(|(number, line)| {
        let before = line.get(..line.find(at)?)?;
        Some((number + 1, before.chars().count() + 1))
    });
    let (line, column) = places.next().unwrap_or_default();
    Diagnostic { file: context.file.clone(), line, column, message }
}

/// What was found in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileVerdict {
    /// The file as it was named.
    pub file: String,
    /// Whether it has no error.
    pub ok: bool,
    /// Every error, with its place.
    pub errors: Vec<String>,
    /// What is valid and probably not meant.
    pub warnings: Vec<String>,
    /// How each address is shared between generations.
    pub sockets: Vec<SocketVerdict>,
    /// Warnings and errors as people see them, with the lines that they are about.
    #[serde(skip)]
    shown: Vec<String>,
}

/// How an address is shared between generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SocketVerdict {
    /// The descriptor's name.
    pub name: String,
    /// The address.
    pub address: String,
    /// `steered` or `shared`.
    pub sharing: &'static str,
    /// Why.
    pub why: &'static str,
}

impl Verdict {
    /// Nothing is wrong with no files.
    pub fn new() -> Verdict {
        Verdict { ok: true, ..Verdict::default() }
    }

    /// Adds a file with this text.
    pub fn text(&mut self, text: &str, context: &Context, here: &Here<'_>) {
        let lines = |found: Vec<Diagnostic>| found.iter().map(ToString::to_string).collect();
        let file = context.file.clone();
        let found = match parse(text, context) {
            Err(errors) => {
                let shown = errors.iter().map(|error| error.with_line(text)).collect();
                FileVerdict { file, errors: lines(errors), shown, ..FileVerdict::default() }
            }
            Ok(mut parsed) => {
                let mut advice = advice(&parsed.unit, here.look);
                if let Some((keys, why)) = (here.limits)(&parsed.unit.service.group_limits) {
                    let first = keys.first().copied().unwrap_or_default().to_owned();
                    let verb = if keys.len() == 1 { "is" } else { "are" };
                    advice.push((first, format!("{} {verb} not enforced: {why}", keys.join(", "))));
                }
                parsed
                    .warnings
                    .extend(advice.into_iter().map(|(at, message)| placed(text, context, &at, message)));
                let sockets = sockets(&parsed.unit);
                self.units.push(parsed.unit);
                let mark = |warning: &Diagnostic| {
                    let shown = warning.with_line(text);
                    match shown.split_once('\n') {
                        Some((first, rest)) => format!("{first} (warning)\n{rest}"),
                        None => format!("{shown} (warning)"),
                    }
                };
                let shown = parsed.warnings.iter().map(mark).collect();
                let warnings = lines(parsed.warnings);
                FileVerdict { file, ok: true, warnings, sockets, shown, errors: Vec::new() }
            }
        };
        self.add(found);
    }

    /// Adds a unit without a file.
    pub fn unit(&mut self, name: &str, unit: &Unit) {
        self.add(FileVerdict {
            file: name.into(),
            ok: true,
            sockets: sockets(unit),
            ..FileVerdict::default()
        });
        self.units.push(unit.clone());
    }

    /// Adds a file or folder that cannot be read.
    pub fn unusable(&mut self, path: &Path, why: &str) {
        let file = path.display().to_string();
        let errors = vec![format!("cannot read {file}: {why}")];
        self.add(FileVerdict { file, errors, ..FileVerdict::default() });
    }

    fn add(&mut self, found: FileVerdict) {
        self.ok &= found.ok;
        self.files.push(found);
    }

    /// Looks at all files together, once all have been added.
    pub fn together(&mut self) {
        self.errors = clashes(&self.units);
        self.ok &= self.errors.is_empty();
    }

    /// `FILE: ok` and how its addresses are shared, for each file without an error: whole lines.
    pub fn praise(&self) -> String {
        let mut text = String::new();
        for found in self.files.iter().filter(|found| found.ok) {
            text.push_str(&format!("{}: ok\n", found.file));
            for socket in &found.sockets {
                let SocketVerdict { name, address, sharing, why } = socket;
                text.push_str(&format!("  {name} {address}: {sharing} ({why})\n"));
            }
        }
        text
    }

    /// Every warning and every error: a line each, and below it the line of the file and carets below the place.
    pub fn complaints(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for found in &self.files {
            if found.shown.is_empty() {
                lines.extend(found.warnings.iter().map(|warning| format!("{warning} (warning)")));
                lines.extend(found.errors.iter().cloned());
            }
            lines.extend(found.shown.iter().cloned());
        }
        lines.extend(self.errors.iter().cloned());
        lines
    }
}

fn sockets(unit: &Unit) -> Vec<SocketVerdict> {
    let row = |(socket, listen)| {
        let (way, why) = sharing(unit, socket, listen);
        SocketVerdict {
            name: socket.name.clone(),
            address: listen.address.to_string(),
            sharing: word_of(SHARINGS, &way),
            why,
        }
    };
    unit.listens().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::*;

    fn context(file: &str) -> Context {
        Context { stem: "a".into(), file: file.into(), runtime_dir: "/run".into(), pid1: false }
    }

    fn nothing(_: &str) -> Found {
        Found::default()
    }

    const NOTHING: Here<'static> = Here { look: &nothing, limits: &|_| None };

    #[test]
    fn limits_that_nobody_enforces_are_said_where_the_first_stands() {
        let mut verdict = Verdict::new();
        let none = |limits: &GroupLimits| limits.unmet(Err("the reason, as seen from here"));
        let here = Here { look: &nothing, limits: &none };
        let text = "[Service]\nExecStart = '/bin/a'\nTasksMax = 5\nMemoryMax = '1G'\n";
        verdict.text(text, &context("a.toml"), &here);
        verdict.text("[Service]\nExecStart = '/bin/a'\n", &context("b.toml"), &here);
        assert!(verdict.ok);
        assert_eq!(
            verdict.files[0].warnings,
            ["a.toml:4:1: MemoryMax, TasksMax are not enforced: the reason, as seen from here"]
        );
        assert_eq!(verdict.files[1].warnings, [""; 0]);
        let few = |limits: &GroupLimits| limits.unmet(Ok(&["pids"]));
        let mut verdict = Verdict::new();
        verdict.text(text, &context("a.toml"), &Here { look: &nothing, limits: &few });
        assert_eq!(
            verdict.files[0].warnings,
            ["a.toml:3:1: TasksMax is not enforced: there is no controller pids"]
        );
    }

    #[test]
    fn what_cannot_be_brought_back_is_said_where_it_stands() {
        let mut verdict = Verdict::new();
        let text =
            "[Service]\n# /srv/current/app.py\nExecStart = [\"/usr/bin/python3\", \"/srv/current/app.py\"]\n";
        let look = |path: &str| Found {
            link: Some("/srv/current".into()),
            what: if path.ends_with("py") { What::File } else { What::Folder },
            interpreter: None,
        };
        verdict.text(text, &context("a.toml"), &Here { look: &look, limits: &|_| None });
        let said = &verdict.files[0].warnings[0];
        assert!(
            said.starts_with("a.toml:3:35: ExecStart names /srv/current/app.py through the symlink"),
            "{said}"
        );
    }

    #[test]
    fn good_files_are_praised_and_bad_ones_complained_of() {
        let mut verdict = Verdict::new();
        let text = "[Socket]\nListenStream = [80, '/run/x']\nPipeSize = 5\n[Service]\nExecStart = '/bin/a'\n";
        verdict.text(text, &context("a.toml"), &NOTHING);
        verdict.together();
        assert!(verdict.ok);
        assert_eq!(
            verdict.praise(),
            "a.toml: ok\n  a 80: steered (TCP is steered unless the unit says otherwise)\n  a /run/x: shared \
             (only TCP is steered unless the unit says otherwise)\n"
        );
        assert_eq!(verdict.complaints().len(), 1);
        assert!(verdict.complaints()[0].ends_with("(warning)\n 3 | PipeSize = 5\n   | ^^^^^^^^"));
        verdict.text(text, &context("b.toml"), &NOTHING);
        verdict.text("[Servic]", &context("c.toml"), &NOTHING);
        verdict.unusable(Path::new("d.toml"), "it is not there");
        verdict.together();
        assert!(!verdict.ok);
        let complaints = verdict.complaints().join("\n");
        for part in
            ["c.toml:1:1: unknown table", "cannot read d.toml: it is not there", "two units are called \"a\""]
        {
            assert!(complaints.contains(part), "{complaints}");
        }
        assert!(verdict.praise().contains("b.toml: ok"));
    }
}
