//! The runtime directory, private folders, the lock. Any thread.

use super::folder::{Folder, split};
use super::remove::Limit;
use super::walk::spot;
use crate::sys::aside;
use crate::sys::fd::{self, Lock};
use crate::sys::user::effective_uid;
use crate::time::Span;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Takes a lock that lives as long as the descriptor and its copies; the file (0600) stays. `None`: somebody holds it. A
/// lock on a file that was removed meanwhile is none. See flock(2).
///
/// # Errors
/// Those of open(2); `ELOOP` if it is a symbolic link.
pub fn lock_file(path: &Path) -> io::Result<Option<OwnedFd>> {
    lock_file_within(path, Span::ZERO)
}

/// As [`lock_file`], and waits so long for whoever holds it.
///
/// # Errors
/// As [`lock_file`].
pub fn lock_file_within(path: &Path, patience: Span) -> io::Result<Option<OwnedFd>> {
    /// How often somebody may take the file away from under us.
    const TRIES: u32 = 100;
    let (folder, name) = Folder::of(path)?;
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    for _ in 0..TRIES {
        let file = openat(&folder, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        match fd::try_lock(file.as_fd(), Lock::Exclusive) {
            Ok(()) if is_at(&file, &folder, &name) => return Ok(Some(file)),
            Ok(()) => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if patience.is_zero() => return Ok(None),
            Err(_) => {
                let copy = fd::dup(file.as_fd())?;
                let waited = aside::within(patience, move || fd::wait_for_lock(copy.as_fd()));
                match waited {
                    Some(Ok(())) if is_at(&file, &folder, &name) => return Ok(Some(file)),
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Ok(None),
                }
            }
        }
    }
    Err(io::Error::other("somebody removes it again and again"))
}

/// Holds a lock on a folder together with whoever shares it, for as long as the descriptor lives.
///
/// # Errors
/// Those of open(2) and flock(2).
pub fn share_lock(folder: &Path) -> io::Result<OwnedFd> {
    let folder = OwnedFd::from(open_folder(folder)?);
    fd::try_lock(folder.as_fd(), Lock::Shared)?;
    Ok(folder)
}

fn is_at(file: &OwnedFd, folder: &Folder, name: &OsStr) -> bool {
    fstat(file).is_ok_and(|stat| folder.inode_at(name) == Some(super::walk::inode(&stat)))
}

/// Whether an open file is still what stands at `path`.
pub fn is_still(file: &OwnedFd, path: &Path) -> bool {
    Folder::of(path).is_ok_and(|(folder, name)| is_at(file, &folder, &name))
}

/// Makes a folder of ours with exactly this mode, or gives it to one that is there. Its parent must exist.
///
/// # Errors
/// Those of mkdir(2); `NotADirectory` if it is a link or no folder; `PermissionDenied` if it is not ours.
pub fn make_private_dir(path: &Path, mode: u32) -> io::Result<()> {
    let (folder, name) = Folder::of(path)?;
    let made = folder.make_child(&name, mode & 0o700)?;
    if made.owner() != Some(effective_uid()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    made.set_mode(mode)
}

/// Makes the runtime directory if it is missing (its parents with 0755), checks that nobody else can put anything into it
/// or something else in its place, and sets its mode to 0711, so that services of other users reach their sockets in it.
///
/// # Errors
/// A text for people: "cannot use DIR: why".
pub fn check_runtime_dir(path: &Path) -> Result<(), String> {
    let text = |reason: String| format!("cannot use the runtime directory {}: {reason}", path.display());
    let of = |error: io::Error| match error.raw_os_error() {
        Some(libc::EROFS) => text(format!("{error}: choose one that can be written to with --runtime-dir")),
        _ => text(error.to_string()),
    };
    // Without a slash at the end, which would make open(2) follow a link.
    let path: PathBuf = path.components().collect();
    let (parent, name) = split(&path).map_err(of)?;
    let parent = Folder::make(parent, 0o755).map_err(of)?;
    let folder = parent.make_child(name, 0o700).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            text("it is a link or a file: remove it, or choose another".to_owned())
        }
        _ => of(error),
    })?;
    let stat = fstat(&folder).map_err(|error| of(error.into()))?;
    let (owner, us) = (stat.st_uid, effective_uid());
    if owner != us {
        return Err(text(format!(
            "it belongs to uid {owner}, aeternad is uid {us}: choose another, or give it to uid {us}"
        )));
    }
    let mode = stat.st_mode & 0o777;
    if mode & 0o022 != 0 {
        return Err(text(format!(
            "others may write to it (mode {mode:04o}): make sure that nothing strange is in it, then chmod 0711"
        )));
    }
    let place = spot(&path).map_err(of)?;
    if !place.is_safe {
        return Err(text(format!(
            "somebody else can put another in its place ({}): choose another",
            place.why
        )));
    }
    folder.set_mode(0o711).map_err(of)
}

/// Opens a folder, not a link to one.
pub(in crate::sys) fn open_folder(path: &Path) -> io::Result<File> {
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
    let (folder, name) = match Folder::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match folder.remove(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether this process may make files in a folder (access(2)).
pub fn may_write(folder: &Path) -> bool {
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK).is_ok()
}

/// Makes the folder `name` below `root` (its parts with 0755) and gives the last one to `owner`. One that is there is
/// taken over. No part may be a link.
///
/// # Errors
/// Those of mkdir(2), open(2) and chown(2); `NotADirectory` for a link or a file; `PermissionDenied` for a folder of
/// somebody else in a folder that is not ours alone.
pub fn make_for_service(root: &Path, name: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let us = effective_uid();
    let mut folder = Folder::make(root, 0o755)?;
    let mut is_open = false;
    for part in name.iter() {
        is_open |= folder.is_open_to_others(us);
        folder = folder.make_child(part, 0o755)?;
    }
    let is_known = |uid| uid == us || owner.is_some_and(|(wanted, _)| wanted == uid);
    if is_open && !folder.owner().is_some_and(is_known) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // While it is ours: afterwards that takes CAP_FOWNER.
    if folder.mode() != 0o755 {
        folder.set_mode(0o755)?;
    }
    owner.map_or(Ok(()), |(uid, gid)| folder.set_owner(Some(uid), Some(gid)))
}

/// Frees a name and removes what stood there on another thread.
fn remove_later(folder: Folder, name: &OsStr) -> io::Result<()> {
    let gone = OsString::from(format!(".aeterna-gone-{:016x}", crate::sys::random::bits()));
    folder.rename(name, &gone)?;
    // Nobody is left to be told if it cannot be done; the name is free.
    let is_queued = aside::run(move || {
        let _ = super::remove_tree(&folder, &gone, Limit::LONG);
    });
    if is_queued {
        Ok(())
    } else {
        Err(io::Error::other("too much waits to be removed; it stays under a hidden name"))
    }
}

/// Removes the folder `name` below `root` with everything in it. No part may be a link: then there is nothing to remove.
/// What cannot be done at once gets another name, and is removed on a thread of its own; never waits for long.
///
/// # Errors
/// As [`super::remove_tree`].
pub fn remove_for_service(root: &Path, name: &Path) -> io::Result<()> {
    let mut parts = name.iter();
    let Some(last) = parts.next_back() else { return Ok(()) };
    let find = || -> io::Result<Folder> {
        let mut folder = Folder::open(root)?;
        for part in parts {
            folder = folder.child(part)?;
        }
        Ok(folder)
    };
    match find() {
        Ok(folder) => match super::remove_tree(&folder, last, Limit::SHORT) {
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => remove_later(folder, last),
            other => other,
        },
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::isolated;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

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
        isolated("sys::dir::home::tests::a_lock_has_one_holder_at_a_time", || {
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
        isolated("sys::dir::home::tests::a_private_folder_has_its_mode_whatever_the_umask", || {
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
        isolated("sys::dir::home::tests::the_runtime_directory_is_made_with_its_parents", || {
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
    fn a_folder_for_a_service_is_made_and_removed_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("run"), dir.path().join("other"));
        fs::create_dir(&other).unwrap();
        fs::create_dir(other.join("b")).unwrap();
        fs::write(other.join("b/kept"), "").unwrap();
        make_for_service(&root, Path::new("a/b"), None).unwrap();
        make_for_service(&root, Path::new("a/b"), None).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        remove_for_service(&root, Path::new("a/b")).unwrap();
        assert!(root.join("a").is_dir() && !root.join("a/b").exists());
        // Too much to be waited for.
        make_for_service(&root, Path::new("a/b"), None).unwrap();
        for name in 0..3000 {
            fs::write(root.join(format!("a/b/{name}")), "").unwrap();
        }
        remove_for_service(&root, Path::new("a/b")).unwrap();
        assert!(!root.join("a/b").exists(), "the name is free at once");
        while fs::read_dir(root.join("a")).unwrap().count() > 0 {
            std::thread::yield_now();
        }
        // A part is replaced by a link.
        fs::remove_dir(root.join("a")).unwrap();
        symlink(&other, root.join("a")).unwrap();
        remove_for_service(&root, Path::new("a/b")).unwrap();
        assert!(other.join("b/kept").exists());
        assert!(make_for_service(&root, Path::new("a/b"), None).is_err());
        assert!(make_for_service(&root, Path::new("a"), None).is_err());
        remove_for_service(&root, Path::new("a")).unwrap();
        assert!(other.join("b/kept").exists() && fs::symlink_metadata(root.join("a")).is_err());
    }

    #[test]
    fn a_lock_on_a_file_that_is_gone_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock_file(&path).unwrap().unwrap();
        assert!(is_still(&held, &path));
        fs::remove_file(&path).unwrap();
        assert!(!is_still(&held, &path));
        let other = lock_file(&path).unwrap().unwrap();
        assert!(!is_still(&held, &path) && is_still(&other, &path));
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
