//! `aeternactl check`: unit files, without a daemon.

use super::output::Output;
use crate::error::exit;
use crate::proto::paths::unit_runtime_root;
use crate::unit::{Context, parse, sharing_notes};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was found in one file, for `--json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    file: String,
    ok: bool,
    errors: Vec<String>,
    warnings: Vec<String>,
    /// How each address will be shared, and why.
    sharing: Vec<String>,
}

/// Checks files, and folders for all their `*.toml`. The exit status: 0, or 78 if one is not valid.
pub(super) fn check(files: &[PathBuf], uid: u32, json: bool, output: &mut Output) -> u8 {
    let mut findings = Vec::new();
    for path in files {
        match unit_files(path) {
            Ok(files) => findings.extend(files.iter().map(|file| check_file(file, uid))),
            Err(error) => findings.push(failed(path, error)),
        }
    }
    let ok = findings.iter().all(|finding| finding.ok);
    if json {
        output.json(&serde_json::json!({"ok": ok, "files": findings}));
    } else {
        findings.iter().for_each(|finding| show(finding, output));
    }
    if ok { exit::OK } else { exit::CONFIG }
}

/// The file itself, or a folder's unit files by name.
fn unit_files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let cannot = |error: std::io::Error| format!("cannot read the folder: {error}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if file.extension().is_some_and(|extension| extension == "toml") {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err("there is no *.toml in this folder".into());
    }
    files.sort();
    Ok(files)
}

fn failed(path: &Path, why: String) -> Finding {
    let file = path.display().to_string();
    Finding {
        errors: vec![format!("{file}: {why}")],
        ok: false,
        warnings: Vec::new(),
        sharing: Vec::new(),
        file,
    }
}

fn check_file(path: &Path, uid: u32) -> Finding {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return failed(path, format!("cannot read: {error}")),
    };
    let file = path.display().to_string();
    let env = |name: &str| std::env::var(name).ok();
    let context = Context {
        stem: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        file: file.clone(),
        runtime_dir: unit_runtime_root(&env, uid),
        pid1: false,
    };
    let lines = |found: Vec<crate::unit::Diagnostic>| found.iter().map(ToString::to_string).collect();
    match parse(&text, &context) {
        Ok(parsed) => Finding {
            file,
            ok: true,
            errors: Vec::new(),
            warnings: lines(parsed.warnings),
            sharing: sharing_notes(&parsed.unit),
        },
        Err(errors) => {
            Finding { file, ok: false, errors: lines(errors), warnings: Vec::new(), sharing: Vec::new() }
        }
    }
}

fn show(finding: &Finding, output: &mut Output) {
    for warning in &finding.warnings {
        output.complain(&format!("{warning} (warning)"));
    }
    for error in &finding.errors {
        output.complain(error);
    }
    for note in &finding.sharing {
        output.complain(&format!("{}: {note}", finding.file));
    }
    if finding.ok {
        output.text(&format!("{}: ok\n", finding.file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stands_for_its_unit_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unit_files(dir.path()).unwrap_err().contains("no *.toml"));
        for name in ["b.toml", "a.toml", "c.txt", "toml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<PathBuf> = ["a.toml", "b.toml"].iter().map(|name| dir.path().join(name)).collect();
        assert_eq!(unit_files(dir.path()), Ok(names));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let finding = check_file(Path::new("/nowhere/at/all.toml"), 0);
        assert!(!finding.ok);
        assert!(finding.errors[0].starts_with("/nowhere/at/all.toml: cannot read: "), "{finding:?}");
    }
}
