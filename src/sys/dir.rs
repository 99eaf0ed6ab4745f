//! The runtime directory, private folders, the lock. Any thread.

use super::fd::{self, Lock};
use super::user::effective_uid;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Takes a lock that lives as long as the descriptor and its copies; the file (0600) stays. `None`: somebody holds it.
/// See flock(2).
///
/// # Errors
/// Those of open(2); `ELOOP` if it is a symbolic link.
pub fn lock_file(path: &Path) -> io::Result<Option<OwnedFd>> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    match fd::try_lock(file.as_fd(), Lock::Exclusive) {
        Ok(()) => Ok(Some(file.into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a folder of ours with exactly this mode, or gives it to one that is there. Its parent must exist.
///
/// # Errors
/// Those of mkdir(2); `NotADirectory` if it is a link or no folder; `PermissionDenied` if it is not ours.
pub fn make_private_dir(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode & 0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let folder = open_folder(path)?;
    if folder.metadata()?.uid() != effective_uid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    folder.set_permissions(Permissions::from_mode(mode))
}

/// Makes the runtime directory if it is missing (its parents with 0755), checks that nobody else can put anything into it,
/// and sets its mode to 0711, so that services of other users reach their sockets in it.
///
/// # Errors
/// A text for people: "cannot use DIR: why".
pub fn check_runtime_dir(path: &Path) -> Result<(), String> {
    let text = |reason: String| format!("cannot use the runtime directory {}: {reason}", path.display());
    let of = |error: io::Error| text(error.to_string());
    // Without a slash at the end, which would make open(2) follow a link.
    let path: PathBuf = path.components().collect();
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(of)?;
    }
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(of(error)),
        _ => {}
    }
    let folder = open_folder(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            text("it is a link or a file: remove it, or choose another".to_owned())
        }
        _ => of(error),
    })?;
    let metadata = folder.metadata().map_err(of)?;
    let (owner, us) = (metadata.uid(), effective_uid());
    if owner != us {
        return Err(text(format!(
            "it belongs to uid {owner}, aeternad is uid {us}: choose another, or give it to uid {us}"
        )));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(text(format!(
            "others may write to it (mode {mode:04o}): make sure that nothing strange is in it, then chmod 0711"
        )));
    }
    folder.set_permissions(Permissions::from_mode(0o711)).map_err(of)
}

/// Opens a folder, not a link to one.
pub(super) fn open_folder(path: &Path) -> io::Result<File> {
    let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR) => io::ErrorKind::NotADirectory.into(),
        _ => error,
    })
}

/// Removes a file; that there is none is no error.
///
/// # Errors
/// Those of unlink(2) but `ENOENT`.
pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether this process may make files in a folder (access(2)).
pub fn may_write(folder: &Path) -> bool {
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::isolated;
    use super::*;
    use std::os::unix::fs::symlink;

    // A test that looks at the mode of something that was made with the umask is alone in its process: others change it for
    // the moment in which a Unix socket is bound.
    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_lock_has_one_holder_at_a_time() {
        isolated("sys::dir::tests::a_lock_has_one_holder_at_a_time", || {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("lock");
            let held = lock_file(&path).unwrap().unwrap();
            assert_eq!(mode(&path), 0o600);
            assert!(lock_file(&path).unwrap().is_none());
            drop(held);
            assert!(lock_file(&path).unwrap().is_some());
        });
    }

    #[test]
    fn a_lock_is_not_taken_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert_eq!(lock_file(&path).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_private_folder_has_its_mode_whatever_the_umask() {
        isolated("sys::dir::tests::a_private_folder_has_its_mode_whatever_the_umask", || {
            let folder = tempfile::tempdir().unwrap();
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_retain(0o077));
            let path = folder.path().join("private");
            make_private_dir(&path, 0o775).unwrap();
            assert_eq!(mode(&path), 0o775);
            make_private_dir(&path, 0o700).unwrap();
            assert_eq!(mode(&path), 0o700);
            let link = folder.path().join("link");
            symlink(&path, &link).unwrap();
            assert_eq!(make_private_dir(&link, 0o777).unwrap_err().kind(), io::ErrorKind::NotADirectory);
            assert_eq!(mode(&path), 0o700);
        });
    }

    #[test]
    fn the_runtime_directory_is_made_with_its_parents() {
        isolated("sys::dir::tests::the_runtime_directory_is_made_with_its_parents", || {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a/b/aeterna");
            check_runtime_dir(&path).unwrap();
            assert_eq!((mode(&path), mode(&folder.path().join("a"))), (0o711, 0o755));
            set_mode(&path, 0o700);
            check_runtime_dir(&path).unwrap();
            assert_eq!(mode(&path), 0o711);
        });
    }

    #[test]
    fn a_runtime_directory_that_others_can_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aeterna");
        fs::create_dir(&path).unwrap();
        for bad in [0o720, 0o702, 0o1777] {
            set_mode(&path, bad);
            let text = check_runtime_dir(&path).unwrap_err();
            assert!(text.contains("others may write") && text.contains(path.to_str().unwrap()), "{text}");
            assert_eq!(mode(&path), bad, "nothing is changed");
        }
        let link = folder.path().join("link");
        set_mode(&path, 0o700);
        symlink(&path, &link).unwrap();
        for name in [link.clone(), PathBuf::from(format!("{}/", link.display()))] {
            assert!(check_runtime_dir(&name).unwrap_err().contains("a link or a file"));
        }
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check_runtime_dir(&file).unwrap_err().contains("a link or a file"));
    }

    #[test]
    fn a_runtime_directory_of_somebody_else_is_refused() {
        if effective_uid() != 0 {
            println!("skipped: only root can make a folder of somebody else");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aeterna");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(4_242), None).unwrap();
        assert!(check_runtime_dir(&path).unwrap_err().contains("belongs to uid 4242"));
        assert_eq!(make_private_dir(&path, 0o700).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_file_that_is_not_there_is_removed_already() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        assert!(remove_file(folder.path()).is_err());
    }
}
