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
    Found { link, what: what(Path::new(path)) }
}

fn what(path: &Path) -> What {
    let Ok(about) = fs::metadata(path) else { return What::Nothing };
    if about.is_dir() {
        return What::Folder;
    }
    if !about.is_file() {
        return What::Nothing;
    }
    let mut first = [0; 2];
    let opened = fs::File::open(path);
    let read = opened.and_then(|mut file| file.read_exact(&mut first));
    if read.is_ok() && first == *b"#!" { What::Script } else { What::File }
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
        fs::write(at("rels/1/run"), "#!/bin/sh\n").unwrap();
        fs::write(at("rels/1/app.jar"), "PK").unwrap();
        symlink("rels/1", at("current")).unwrap();
        symlink("run", at("rels/1/start")).unwrap();
        let link = Some(at("current"));
        assert_eq!(look(&at("current/start")), Found { link: link.clone(), what: What::Script });
        assert_eq!(look(&at("current")), Found { link: link.clone(), what: What::Folder });
        assert_eq!(look(&at("current/none")), Found { link, what: What::Nothing });
        assert_eq!(look(&at("rels/1/app.jar")), Found { link: None, what: What::File });
        assert_eq!(look("/dev/null"), Found { link: None, what: What::Nothing });
    }
}
