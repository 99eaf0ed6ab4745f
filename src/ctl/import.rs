//! `aeternactl import`: units of other systems, without a daemon.

use super::failure::Failure;
use super::output::Output;
use crate::error::exit;
use crate::unit::{Diagnostic, Imported, Source, import as convert};
use serde_json::json;
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
    // systemd.unit(5): a template's drop-ins count for its instances, the instance's own come last.
    let folders: Vec<String> = template.into_iter().chain([name.clone()]).collect();
    for folder in folders {
        for drop_in in drop_ins(&file.with_file_name(format!("{folder}.d")))? {
            sources.push(read(&drop_in, &name)?);
        }
    }
    Ok(sources)
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

/// The `*.conf` of a folder by name; none if it is not there.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", folder.display());
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if file.extension().is_some_and(|extension| extension == "conf") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path, name: &str) -> Result<Source, String> {
    let file = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            Ok(Source { file, name: name.to_string(), text })
        }
        Err(error) => Err(format!("cannot read {file}: {error}")),
    }
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
    fn drop_ins_follow_their_unit_those_of_the_template_first() {
        let dir = folder(&[
            ("a@.service", "t"),
            ("a@.service.d/2.conf", "t2"),
            ("a@x.service.d/1.conf", "x1"),
            ("a@x.service.d/no.txt", "no"),
        ]);
        let sources = sources_of(&dir.path().join("a@x.service")).unwrap();
        let texts: Vec<&str> = sources.iter().map(|source| source.text.as_str()).collect();
        assert_eq!(texts, ["t", "t2", "x1"]);
        assert!(sources.iter().all(|source| source.name == "a@x.service"));
        let drop_in = sources_of(&dir.path().join("a@x.service.d/1.conf")).unwrap();
        assert_eq!(drop_in[0].name, "a@x.service");
        assert!(sources_of(&dir.path().join("b.service")).unwrap_err().contains("cannot read"));
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
