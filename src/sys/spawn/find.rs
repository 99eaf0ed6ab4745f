//! Finding a program by the service's own PATH.

use crate::sys::near;
use crate::sys::pin::Pin;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// Where a program is looked for when the service has no PATH: what systemd uses.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file that `name` means. With a `/` in it: itself, relative to `directory`. Else the first one that can be executed in
/// the folders of `path` (colons between them; `None`: the usual ones; a relative folder is relative to `directory`, an
/// empty one is `directory`). `directory: None` is our own working directory.
///
/// # Errors
/// `NotFound`; `PermissionDenied` if it is there and cannot be executed (a folder, no x bit).
pub fn find_program(name: &str, path: Option<&str>, directory: Option<&str>) -> Result<PathBuf, Error> {
    find(name, path, directory, |program| executable(program).map(|()| program.to_owned()))
}

/// The same, held: what it means now is what it means for as long as the pin lives.
///
/// # Errors
/// Those of [`find_program`].
pub fn pin_program(name: &str, path: Option<&str>, directory: Option<&str>) -> Result<Pin, Error> {
    find(name, path, directory, Pin::program)
}

fn find<T>(
    name: &str,
    path: Option<&str>,
    directory: Option<&str>,
    look: impl Fn(&Path) -> Result<T, Error>,
) -> Result<T, Error> {
    let base = match directory {
        Some(directory) => PathBuf::from(directory),
        // Where that was removed, what begins with `/` is found all the same.
        None => std::env::current_dir().unwrap_or_default(),
    };
    if name.is_empty() {
        return Err(ErrorKind::NotFound.into());
    }
    if name.contains('/') {
        return look(&base.join(name));
    }
    let mut answer = Error::from(ErrorKind::NotFound);
    for folder in path.unwrap_or(DEFAULT_PATH).split(':') {
        match look(&base.join(folder).join(name)) {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == ErrorKind::PermissionDenied || near::is_far(&error) => {
                answer = error
            }
            Err(_) => {}
        }
    }
    Err(answer)
}

/// [`find_program`] where it may be on the file system of a server or of a program: asked on another thread. One that is named
/// with a `/` and not seen in time is what its name says; execve(2) tells the rest.
///
/// # Errors
/// Those of [`find_program`]; `TimedOut`.
pub fn far_program(name: &str, path: Option<&str>, directory: Option<&str>) -> Result<PathBuf, Error> {
    let owned = (name.to_owned(), path.map(str::to_owned), directory.map(str::to_owned));
    let found = near::asked(move || {
        let (name, path, directory) = &owned;
        find(name, path.as_deref(), directory.as_deref(), |program| {
            executable_there(program).map(|()| program.to_owned())
        })
    });
    match (found, directory) {
        (Some(found), _) => found,
        (None, Some(directory)) if name.contains('/') => Ok(Path::new(directory).join(name)),
        (None, None) if name.starts_with('/') => Ok(name.into()),
        (None, _) => Err(ErrorKind::TimedOut.into()),
    }
}

/// Whether we could execute this file; the service's user may be allowed less, which execve(2) then says.
fn executable(program: &Path) -> Result<(), Error> {
    // Nobody is asked about what is near; the rest is for `far_program`.
    match near::open(None, program) {
        Err(error) if near::is_far(&error) => Err(error),
        _ => executable_there(program),
    }
}

fn executable_there(program: &Path) -> Result<(), Error> {
    let is_file = match program.metadata() {
        Ok(metadata) => metadata.is_file(),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(ErrorKind::NotFound.into()),
        Err(error) => return Err(error),
    };
    if !is_file {
        return Err(ErrorKind::PermissionDenied.into());
    }
    Ok(faccessat(AT_FDCWD, program, AccessFlags::X_OK, AtFlags::AT_EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_executable_of_the_path_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        file(&at("a/tool"), 0o644);
        fs::create_dir_all(at("b/tool")).unwrap();
        file(&at("c/tool"), 0o755);
        file(&at("d/tool"), 0o755);
        let path =
            ["a", "b", "missing", "c", "d"].map(|name| at(name).to_str().unwrap().to_owned()).join(":");
        assert_eq!(find_program("tool", Some(&path), None).unwrap(), at("c/tool"));
        assert_eq!(find_program("tool", Some("a:b:c"), folder.path().to_str()).unwrap(), at("c/tool"));
        assert_eq!(find_program("tool", Some(":x"), at("d").to_str()).unwrap(), at("d/tool"));
        let denied = find_program("tool", Some("a:b:missing"), folder.path().to_str()).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        let missing = find_program("other", Some(&path), None).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_name_with_a_slash_is_not_searched() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_str();
        file(&folder.path().join("bin/tool"), 0o755);
        file(&folder.path().join("bin/data"), 0o600);
        assert_eq!(find_program("./bin/tool", None, base).unwrap(), folder.path().join("./bin/tool"));
        assert_eq!(find_program("/bin/sh", Some("/nowhere"), base).unwrap(), Path::new("/bin/sh"));
        for (name, kind) in [
            ("bin/data", ErrorKind::PermissionDenied),
            ("./bin", ErrorKind::PermissionDenied),
            ("./nothing", ErrorKind::NotFound),
            ("./bin/tool/x", ErrorKind::NotFound),
            ("", ErrorKind::NotFound),
        ] {
            assert_eq!(find_program(name, None, base).unwrap_err().kind(), kind, "{name}");
        }
    }

    #[test]
    fn without_a_path_the_usual_folders_are_searched() {
        assert!(find_program("sh", None, None).unwrap().ends_with("bin/sh"));
    }
}
