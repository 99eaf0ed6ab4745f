//! `HttpTokenFile`: read at each POST, so that a new token needs no restart.

use crate::sys::dir;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The longest token, bytes.
const MAX_TOKEN: u64 = 4096;

/// The token in a file, without the blanks and line breaks around it.
///
/// # Errors
/// Why there is none: for people.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let why = |error: &str| format!("cannot read the HTTP token file {}: {error}", path.display());
    let bytes = dir::read_text(path, MAX_TOKEN, None).map_err(|error| why(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| why("it is not UTF-8 text"))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(why("it is empty; write a long random text to it"));
    }
    if token.chars().any(char::is_control) {
        return Err(why(&format!("it is not one line of at most {MAX_TOKEN} bytes")));
    }
    Ok(token.to_owned())
}

/// Everybody who can read the token is as good as aeternad's own user.
pub(super) fn warn_if_open(path: &Path) {
    if let Ok(data) = path.metadata()
        && data.permissions().mode() & 0o007 != 0
    {
        log::warn!("the HTTP token file {} can be read by every user; use chmod o-rwx", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(read(&path).unwrap_err().contains("No such file"));
        for (text, token) in
            [("s3cret\n", Some("s3cret")), ("  a b\r\n", Some("a b")), ("\n", None), ("a\nb", None)]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).ok().as_deref(), token, "{text:?}");
        }
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(read(&path).unwrap_err().contains("larger than 4 KiB"));
    }
}
