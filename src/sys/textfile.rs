//! Text files of a bounded size, and folders of them.

use super::dir;
use std::ffi::OsStr;
use std::io::{Error, Read, Result};
use std::path::{Path, PathBuf};

/// Reads a text of at most `most` bytes. A FIFO or a device is no such file: opening one might wait.
///
/// # Errors
/// Those of the file system, and what kind of file it is, or that it is too large.
pub fn read(path: &Path, most: u64) -> Result<String> {
    let mut bytes = Vec::new();
    dir::open_regular(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::other(format!("it is larger than {} KiB", most / 1024)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(std::io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// The files of a folder that end in `.extension`, by name; hidden ones are an editor's.
///
/// # Errors
/// Those of the file system.
pub fn in_folder(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && file.extension() == Some(OsStr::new(extension)) {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// Why, without the number that Rust adds.
pub fn why(error: &Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_short_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "1234").unwrap();
        assert_eq!(read(&file, 4).unwrap(), "1234");
        assert!(read(&file, 3).unwrap_err().to_string().contains("larger than"));
        assert!(read(dir.path(), 3).unwrap_err().to_string().contains("not a regular file"));
        assert!(read(Path::new("/dev/null"), 3).is_err());
        std::fs::write(&file, [0xff]).unwrap();
        assert!(read(&file, 3).is_err());
        assert_eq!(why(&read(&dir.path().join("b"), 3).unwrap_err()), "No such file or directory");
    }

    #[test]
    fn a_folders_files_come_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "c.txt", "toml", ".d.toml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = in_folder(dir.path(), "toml").unwrap();
        assert_eq!(found, [dir.path().join("a.toml"), dir.path().join("b.toml")]);
    }
}
