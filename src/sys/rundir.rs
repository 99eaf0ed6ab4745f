//! `RuntimeDirectory`: a folder that belongs to the service's user. Main thread only.

use nix::unistd::{Gid, Uid, fchown};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes the folder (mode 0755, its parents too) and gives it to `owner`. One that is there is taken over; a link
/// is not followed.
///
/// # Errors
/// Those of mkdir(2), open(2) and fchown(2); `NotADirectory` for a link or a file.
pub fn make(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)?;
    if let Some((uid, gid)) = owner {
        fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    folder.set_permissions(Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        make(&folder.path().join("a/b"), None).unwrap();
        assert!(folder.path().join("a/b").is_dir());
        make(&folder.path().join("a/b"), None).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(make(&link, None).is_err());
    }
}
