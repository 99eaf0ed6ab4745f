//! A claim on a folder that does not lie in it: an abstract AF_UNIX name, unix(7). It goes with the process that holds it
//! and with nothing else, so that it is there also where the folder and the lock in it were removed.
//!
//! Anybody may take any abstract name: it is a hint, believed only if its holder is our own user.

use super::message;
use super::peer::{Peer, peer_credentials};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// How many connections are turned away at a time.
const MAX_TURN: usize = 64;

/// A claim that we hold.
#[derive(Debug)]
pub struct Claim {
    socket: OwnedFd,
}

/// What has come of an attempt to take one.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Taken(Claim),
    /// Somebody has it. `None`: the kernel does not tell who.
    Held(Option<Peer>),
}

impl Claim {
    /// Claims a folder, which need not exist.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2); `NotFound` without /proc, where no name can be made.
    pub fn take(folder: &Path) -> io::Result<Attempt> {
        let address = address(folder)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match bind(socket.as_raw_fd(), &address) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => return Ok(Attempt::Held(holder(folder))),
            Err(error) => return Err(error.into()),
        }
        super::socket::listen(socket.as_fd(), 64)?;
        Ok(Attempt::Taken(Claim { socket }))
    }

    /// Readable when somebody asks who we are: the kernel has told him.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Closes the connections of those who have asked. Never waits.
    pub fn turn_away(&self) {
        for _ in 0..MAX_TURN {
            let Ok(Some(_)) = message::accept(self.socket.as_fd()) else { return };
        }
    }
}

/// Who has claimed a folder, if anybody has and the kernel tells. Never waits.
pub fn holder(folder: &Path) -> Option<Peer> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(probe.as_raw_fd(), &address(folder).ok()?).ok()?;
    peer_credentials(probe.as_fd()).ok()
}

/// The name of a folder. The same path means another folder in another mount namespace, which may share its network, and
/// abstract names with that, with ours.
fn address(folder: &Path) -> io::Result<UnixAddr> {
    let namespace = fs::read_link("/proc/self/ns/mnt")?;
    let parent = folder.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let folder = match (parent, folder.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => folder.to_path_buf(),
    };
    let mut name = b"aeternad ".to_vec();
    name.extend(namespace.as_os_str().as_encoded_bytes());
    name.push(b' ');
    name.extend(format!("{:032x}", fingerprint(folder.as_os_str().as_encoded_bytes())).into_bytes());
    Ok(UnixAddr::new_abstract(&name)?)
}

/// FNV-1a, 128 bits: the same in each release. Who finds two folders of one name has found only a hint.
fn fingerprint(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(folder: &Path) -> Option<Claim> {
        match Claim::take(folder).unwrap() {
            Attempt::Taken(claim) => Some(claim),
            Attempt::Held(_) => None,
        }
    }

    #[test]
    fn a_folder_is_claimed_by_one_whether_it_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        assert_eq!(holder(&folder), None);
        let claim = taken(&folder).unwrap();
        let Attempt::Held(Some(who)) = Claim::take(&folder).unwrap() else { panic!("it is claimed twice") };
        assert_eq!(who.pid, std::process::id().cast_signed());
        assert_eq!(holder(&folder).map(|who| who.uid), Some(who.uid));
        fs::create_dir(&folder).unwrap();
        assert!(taken(&folder).is_none());
        assert!(taken(&dir.path().join("other")).is_some());
        // Whoever asks leaves nothing behind.
        for _ in 0..200 {
            holder(&folder);
            claim.turn_away();
        }
        assert!(holder(&folder).is_some());
        // A queue that is full keeps nobody waiting.
        let full: Vec<_> = (0..200).map(|_| holder(&folder)).collect();
        assert!(full.contains(&None) && full.contains(&Some(who)));
    }

    #[test]
    fn a_link_on_the_way_makes_no_other_folder_of_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let _claim = taken(&dir.path().join("real/run")).unwrap();
        assert!(taken(&dir.path().join("link/run")).is_none());
    }
}
