//! `aeternactl import`: units of other systems, without a daemon.

use super::failure::Failure;
use super::output::Output;
use crate::error::exit;
use crate::sys::links;
use crate::unit::{Diagnostic, Imported, Source, import as convert};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Prints the unit that the files make, and names what it leaves out. The exit status.
pub(super) fn import(
    files: &[PathBuf],
    process: Option<&str>,
    json: bool,
    output: &mut Output,
) -> Result<u8, Failure> {
    let mut sources = Vec::new();
    for file in files {
        sources.extend(sources_of(file).map_err(Failure::Broken)?);
    }
    let companion = companion(files, &sources);
    if let Some(service) = &companion {
        sources.extend(sources_of(service).map_err(Failure::Broken)?);
    }
    match convert(&sources, process) {
        Ok(mut unit) => {
            unit.warnings.extend(left_beside(&sources));
            unit.suggest_release(&links::look);
            show(&unit, json, output);
            Ok(exit::OK)
        }
        Err(findings) => {
            if json {
                output.json(&json!({"ok": false, "errors": lines(&findings)}));
            } else {
                findings.iter().for_each(|finding| output.complain(&finding.to_string()));
            }
            Ok(exit::FAILURE)
        }
    }
}

fn show(unit: &Imported, json: bool, output: &mut Output) {
    if json {
        let warnings: Vec<_> = unit
            .warnings
            .iter()
            .map(|one| json!({"file": one.file, "line": one.line, "message": one.message}))
            .collect();
        output.json(&json!({"ok": true, "name": unit.name, "unit": unit.text, "warnings": warnings}));
        return;
    }
    for warning in &unit.warnings {
        output.complain(&format!("{warning} (warning)"));
    }
    output.text(&unit.text);
}

fn lines(findings: &[Diagnostic]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

/// The file and, for a unit of systemd, the drop-ins that stand beside it.
fn sources_of(file: &Path) -> Result<Vec<Source>, String> {
    let name = unit_name(file);
    let (path, template) = existing(file, &name);
    let mut sources = vec![read(&path, &name)?];
    if !name.ends_with(".service") && !name.ends_with(".socket") {
        return Ok(sources);
    }
    let parent = file.parent().unwrap_or(Path::new(""));
    for drop_in in drop_ins(&places(parent), &drop_in_folders(&name, template.as_deref()))? {
        sources.push(read(&drop_in, &name)?);
    }
    Ok(sources)
}

/// The folders of systemd's units, the first the one that overrides the others.
const PLACES: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];

/// Where drop-ins of a unit in `parent` may be: where systemd looks for them, if it is one of those folders.
fn places(parent: &Path) -> Vec<PathBuf> {
    for (place, kind) in PLACES.iter().flat_map(|place| [(place, "system"), (place, "user")]) {
        let suffix = Path::new(place).join("systemd").join(kind);
        if parent.ends_with(&suffix) {
            let root: PathBuf =
                parent.components().take(parent.components().count() - suffix.components().count()).collect();
            return PLACES.iter().map(|place| root.join(place).join("systemd").join(kind)).collect();
        }
    }
    vec![parent.to_path_buf()]
}

/// The names of a unit's drop-in folders, the first the one that overrides the others (systemd.unit(5)): its own, its
/// template's, those of the names that it begins with up to a dash, that of its kind.
fn drop_in_folders(name: &str, template: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = vec![name.to_string()];
    names.extend(template.map(str::to_string));
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let prefix = stem.split('@').next().unwrap_or_default();
    let dashes = prefix.match_indices('-').map(|(at, _)| at + 1).filter(|at| *at < stem.len());
    let mut begins: Vec<String> = dashes.map(|at| format!("{}.{kind}", &prefix[..at])).collect();
    begins.reverse();
    names.extend(begins);
    names.push(kind.to_string());
    names.iter().map(|name| format!("{name}.d")).collect()
}

/// The name of the unit that a file is, or that a drop-in belongs to.
fn unit_name(file: &Path) -> String {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parent = file.parent().map(name).unwrap_or_default();
    match parent.strip_suffix(".d").filter(|_| file.extension().is_some_and(|e| e == "conf")) {
        Some(unit) => unit.to_string(),
        None => name(file),
    }
}

/// The file itself, or the template that it is an instance of, with the template's name.
fn existing(file: &Path, name: &str) -> (PathBuf, Option<String>) {
    let template = name.split_once('@').and_then(|(prefix, rest)| {
        let (instance, kind) = rest.rsplit_once('.')?;
        (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
    });
    match template {
        Some(template) if !file.exists() => (file.with_file_name(&template), Some(template)),
        template => (file.to_path_buf(), template),
    }
}

/// The `*.conf` of all these folders by their names, wherever they are; of one name the first counts.
fn drop_ins(places: &[PathBuf], folders: &[String]) -> Result<Vec<PathBuf>, String> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in folders.iter().flat_map(|folder| places.iter().map(move |place| place.join(folder))) {
        let cannot = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).map_err(cannot)? {
            let file = entry.map_err(cannot)?.path();
            if file.extension().is_some_and(|extension| extension == "conf") {
                found.entry(file.file_name().unwrap_or_default().to_os_string()).or_insert(file);
            }
        }
    }
    Ok(found.into_values().collect())
}

fn read(path: &Path, name: &str) -> Result<Source, String> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {file}: {error}"))?;
    let text = text_of(&bytes).map_err(|line| {
        format!("cannot read {file}: line {line} is not UTF-8, and a character that is guessed would be another; write it anew")
    })?;
    Ok(Source { file, name: name.to_string(), text })
}

/// The text of a file in UTF-8, or the line that is in another encoding. In comments it does not matter.
fn text_of(bytes: &[u8]) -> Result<String, usize> {
    let mut text = String::with_capacity(bytes.len());
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let is_comment =
            line.trim_ascii_start().starts_with(b"#") || line.trim_ascii_start().starts_with(b";");
        match str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(_) if is_comment => text.push_str(&String::from_utf8_lossy(line)),
            Err(_) => return Err(index + 1),
        }
    }
    Ok(text)
}

/// The .service beside sockets that were named alone: what they start.
fn companion(files: &[PathBuf], sources: &[Source]) -> Option<PathBuf> {
    if sources.iter().any(|source| !source.name.ends_with(".socket")) {
        return None;
    }
    let socket = files.first()?;
    let stem = unit_name(socket).strip_suffix(".socket")?.to_string();
    let named = sources.iter().rev().flat_map(|source| source.text.lines().rev()).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "Service" && !value.trim().is_empty()).then(|| value.trim().to_string())
    });
    let names = named.into_iter().chain([format!("{stem}.service"), format!("{stem}@.service")]);
    names.map(|name| socket.with_file_name(name)).find(|path| path.exists())
}

/// A remark on the .socket that stands beside a service which was named alone.
fn left_beside(sources: &[Source]) -> Option<Diagnostic> {
    let service = sources.first().filter(|source| source.file.ends_with(".service"))?;
    let socket = Path::new(&service.file).with_extension("socket");
    let alone = sources.iter().all(|source| source.name == service.name);
    (alone && socket.exists()).then(|| Diagnostic {
        file: socket.display().to_string(),
        line: 0,
        column: 0,
        message: "stands beside the service; name it too, so that its sockets are held".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn drop_ins_follow_their_unit_by_name() {
        let dir = folder(&[
            ("a@.service", "t"),
            ("a@.service.d/2.conf", "t2"),
            ("a@x.service.d/1.conf", "x1"),
            ("a@x.service.d/no.txt", "no"),
        ]);
        let sources = sources_of(&dir.path().join("a@x.service")).unwrap();
        let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["t", "x1", "t2"]);
        assert!(sources.iter().all(|source| source.name == "a@x.service"));
        let drop_in = sources_of(&dir.path().join("a@x.service.d/1.conf")).unwrap();
        assert_eq!(drop_in[0].name, "a@x.service");
        assert!(sources_of(&dir.path().join("b.service")).unwrap_err().contains("cannot read"));
    }

    #[test]
    fn drop_ins_are_wherever_systemd_looks_for_them() {
        let dir = folder(&[
            ("usr/lib/systemd/system/a-b.service", "unit"),
            ("usr/lib/systemd/system/a-b.service.d/1.conf", "masked"),
            ("etc/systemd/system/a-b.service.d/1.conf", "1"),
            ("run/systemd/system/a-b.service.d/4.conf", "4"),
            ("usr/local/lib/systemd/system/a-.service.d/3.conf", "3"),
            ("etc/systemd/system/a-.service.d/1.conf", "masked by the longer name"),
            ("lib/systemd/system/service.d/2.conf", "2"),
            ("etc/systemd/system/b.service.d/0.conf", "another's"),
        ]);
        let sources = sources_of(&dir.path().join("usr/lib/systemd/system/a-b.service")).unwrap();
        let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["unit", "1", "2", "3", "4"]);
    }

    #[test]
    fn other_encodings_are_refused_with_their_line() {
        assert_eq!(text_of(b"# caf\xe9\nA=1\n").unwrap(), "# caf\u{fffd}\nA=1\n");
        assert_eq!(text_of(b"A=1\nB=caf\xe9\n"), Err(2));
    }

    #[test]
    fn a_socket_brings_the_service_that_it_starts() {
        let dir = folder(&[
            ("a.socket", ""),
            ("a@.service", ""),
            ("b.socket", "Service=c.service"),
            ("c.service", ""),
        ]);
        for (socket, service) in [("a.socket", "a@.service"), ("b.socket", "c.service")] {
            let file = dir.path().join(socket);
            let sources = sources_of(&file).unwrap();
            assert_eq!(companion(&[file], &sources), Some(dir.path().join(service)));
        }
    }
}
