//! What a path of a unit leads to, for whoever checks the unit: never on the main thread of a daemon.

use crate::unit::{Found, What};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Looks at a path, component by component.
pub fn look(path: &str) -> Found {
    let mut so_far = PathBuf::new();
    let mut link = None;
    for part in Path::new(path).components() {
        so_far.push(part);
        let is_link = fs::symlink_metadata(&so_far).is_ok_and(|about| about.is_symlink());
        if is_link && link.is_none() {
            link = so_far.to_str().map(str::to_owned);
        }
    }
    let (what, interpreter) = what(Path::new(path));
    Found { link, what, interpreter }
}

/// As much of a first line as the kernel reads, bytes: BINPRM_BUF_SIZE.
const LINE: u64 = 256;

fn what(path: &Path) -> (What, Option<String>) {
    let Ok(about) = fs::metadata(path) else { return (What::Nothing, None) };
    if about.is_dir() {
        return (What::Folder, None);
    }
    if !about.is_file() {
        return (What::Nothing, None);
    }
    let mut first = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(LINE).read_to_end(&mut first));
    let Some(line) = first.strip_prefix(b"#!").filter(|_| read.is_ok()) else { return (What::File, None) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let interpreter = std::str::from_utf8(line).unwrap_or_default().split_whitespace().next();
    (What::Script, interpreter.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_first_link_of_a_path_is_found_and_what_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let at = |name: &str| root.join(name).display().to_string();
        fs::create_dir_all(at("rels/1")).unwrap();
        fs::write(at("rels/1/run"), "#! /opt/sh -e\n").unwrap();
        fs::write(at("rels/1/app.jar"), "PK").unwrap();
        symlink("rels/1", at("current")).unwrap();
        symlink("run", at("rels/1/start")).unwrap();
        let link = Some(at("current"));
        let found = |link: &Option<String>, what| Found { link: link.clone(), what, interpreter: None };
        let script = Found { interpreter: Some("/opt/sh".into()), ..found(&link, What::Script) };
        assert_eq!(look(&at("current/start")), script);
        assert_eq!(look(&at("current")), found(&link, What::Folder));
        assert_eq!(look(&at("current/none")), found(&link, What::Nothing));
        assert_eq!(look(&at("rels/1/app.jar")), found(&None, What::File));
        assert_eq!(look("/dev/null"), found(&None, What::Nothing));
    }
}
