//! bpf(2): maps, programs, and whether we may have them.
//!
//! What is made here is close-on-exec, and ends with its last descriptor: a program that is attached to a socket lives, with
//! its maps, for as long as the socket does. Any thread; nothing waits.

pub mod assembler;
#[cfg(test)]
pub mod interpreter;

use super::seccomp;
use assembler::Step;
use nix::libc;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_UPDATE: libc::c_int = 2;
const MAP_DELETE: libc::c_int = 3;
const PROGRAM_LOAD: libc::c_int = 5;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;

/// The program type of a filter on a socket.
pub const SOCKET_FILTER: u32 = 1;
/// The program type of a choice between the members of an SO_REUSEPORT group.
pub const SK_REUSEPORT: u32 = 21;
/// `BPF_SK_REUSEPORT_SELECT`.
const SELECT: u32 = 39;

/// What a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys of any bytes; full is full.
    Hash,
    /// Numbers from 0, all there from the beginning, all 0.
    Array,
    /// Keys of any bytes; full forgets what was not used for long.
    Lru,
    /// Numbers to sockets of SO_REUSEPORT groups.
    Sockets,
}

/// Of which size a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Which kind.
    pub kind: Kind,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Entries at most.
    pub entries: u32,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    unused: u32,
    key: *const u8,
    value: *mut u8,
    flags: u64,
}

#[repr(C)]
struct Batch {
    from: *const u8,
    to: *mut u8,
    keys: *mut u8,
    values: *mut u8,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    count: u32,
    code: *const Step,
    license: *const libc::c_char,
    log_level: u32,
    log_size: u32,
    log: *mut u8,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// bpf(2). What the pointers in `argument` point to must be alive and as large as the command says.
unsafe fn bpf<T>(command: libc::c_int, argument: &mut T) -> io::Result<RawFd> {
    // SAFETY: `argument` is as long as is said; the caller answers for what it points to.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(argument), size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as RawFd) }
}

fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: bpf(2) has just made it for us, close-on-exec; nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// A map. Dropping it ends it once no program uses it.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    shape: Shape,
}

impl Map {
    /// Makes one. A [`Kind::Hash`] takes memory only for what is in it, a [`Kind::Lru`] all at once.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF, `ENOSYS`, `ENOMEM`.
    pub fn new(shape: Shape) -> io::Result<Map> {
        const NO_PREALLOC: u32 = 1;
        let (map_type, flags) = match shape.kind {
            Kind::Hash => (1, NO_PREALLOC),
            Kind::Array => (2, 0),
            Kind::Lru => (9, 0),
            Kind::Sockets => (20, 0),
        };
        let Shape { key, value, entries, .. } = shape;
        let mut argument =
            MapCreate { map_type, key_size: key, value_size: value, max_entries: entries, flags };
        // SAFETY: nothing is pointed to.
        let raw = unsafe { bpf(MAP_CREATE, &mut argument) }?;
        Ok(Map { fd: own(raw), shape })
    }

    /// One that a program before this one has made.
    pub fn restored(fd: OwnedFd, shape: Shape) -> Map {
        Map { fd, shape }
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Map> {
        Ok(Map { fd: self.fd.try_clone()?, shape: self.shape })
    }

    fn fits(&self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let right = key.len() == self.shape.key as usize
            && value.is_none_or(|value| value.len() == self.shape.value as usize);
        if right { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
    }

    fn element(&self, key: &[u8], value: *mut u8) -> Element {
        Element { map: self.fd.as_raw_fd() as u32, unused: 0, key: key.as_ptr(), value, flags: 0 }
    }

    /// Sets an entry.
    ///
    /// # Errors
    /// `E2BIG` if it is full; `EINVAL`, `EBUSY` for a socket that cannot be in it.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.fits(key, Some(value))?;
        let mut argument = self.element(key, value.as_ptr().cast_mut());
        // SAFETY: key and value are alive and of the map's sizes, and are only read.
        unsafe { bpf(MAP_UPDATE, &mut argument) }.map(drop)
    }

    /// Reads an entry into `value`.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        self.fits(key, Some(value))?;
        let mut argument = self.element(key, value.as_mut_ptr());
        // SAFETY: key and value are alive and of the map's sizes.
        unsafe { bpf(MAP_LOOKUP, &mut argument) }.map(drop)
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for an array.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.fits(key, None)?;
        let mut argument = self.element(key, std::ptr::null_mut());
        // SAFETY: the key is alive and of the map's size; no value is used.
        unsafe { bpf(MAP_DELETE, &mut argument) }.map(drop)
    }

    /// Sets many entries: `count` keys one after the other, and as many values. How many were set.
    ///
    /// # Errors
    /// Those of [`Map::set`]; what came before the entry that failed is set.
    pub fn set_all(&self, keys: &[u8], values: &[u8], count: usize) -> io::Result<()> {
        let right = keys.len() == count * self.shape.key as usize
            && values.len() == count * self.shape.value as usize;
        if !right {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if count == 0 {
            return Ok(());
        }
        let mut argument = Batch {
            from: std::ptr::null(),
            to: std::ptr::null_mut(),
            keys: keys.as_ptr().cast_mut(),
            values: values.as_ptr().cast_mut(),
            count: count as u32,
            map: self.fd.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values are alive and as many as is said, and are only read.
        unsafe { bpf(MAP_UPDATE_BATCH, &mut argument) }.map(drop)
    }

    /// Calls `each` with every entry of a hash. What is changed meanwhile may be missing, or come twice.
    ///
    /// # Errors
    /// `EINVAL` before Linux 5.6; `ENOSPC` for a bucket that is larger than a batch: then not all of it was seen.
    pub fn walk(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        const AT_ONCE: usize = 2048;
        let (key, value) = (self.shape.key as usize, self.shape.value as usize);
        let (mut keys, mut values) = (vec![0_u8; key * AT_ONCE], vec![0_u8; value * AT_ONCE]);
        // The place where a walk goes on is as long as a key, and at least four bytes.
        let (mut from, mut to) = (vec![0_u8; key.max(4)], vec![0_u8; key.max(4)]);
        let mut is_first = true;
        loop {
            let mut argument = Batch {
                from: if is_first { std::ptr::null() } else { from.as_ptr() },
                to: to.as_mut_ptr(),
                keys: keys.as_mut_ptr(),
                values: values.as_mut_ptr(),
                count: AT_ONCE as u32,
                map: self.fd.as_raw_fd() as u32,
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: there is room for as many keys and values as is said, and for a place.
            let done = unsafe { bpf(MAP_LOOKUP_BATCH, &mut argument) };
            let is_last = match done {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => return Err(error),
            };
            let count = (argument.count as usize).min(AT_ONCE);
            for (key, value) in keys.chunks_exact(key).zip(values.chunks_exact(value)).take(count) {
                each(key, value);
            }
            if is_last {
                return Ok(());
            }
            std::mem::swap(&mut from, &mut to);
            is_first = false;
        }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Loads a program; `name` is what other tools show (at most 15 bytes).
///
/// # Errors
/// `EPERM` without CAP_BPF; `EINVAL`, `EACCES` for a program that the verifier refuses.
pub fn load(program_type: u32, name: &str, code: &[Step]) -> io::Result<OwnedFd> {
    load_with(program_type, name, code, &mut [])
}

/// As [`load`], with what the verifier says about the program in `log`, up to its first 0.
fn load_with(program_type: u32, name: &str, code: &[Step], log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut named = [0; 16];
    for (to, from) in named.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let mut argument = ProgramLoad {
        program_type,
        count: code.len() as u32,
        code: code.as_ptr(),
        license: c"MIT OR Apache-2.0".as_ptr(),
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log: if log.is_empty() { std::ptr::null_mut() } else { log.as_mut_ptr() },
        kernel_version: 0,
        flags: 0,
        name: named,
        interface: 0,
        attach_type: if program_type == SK_REUSEPORT { SELECT } else { 0 },
    };
    // SAFETY: the code is alive and as long as is said, the license is terminated, and so long is the log.
    unsafe { bpf(PROGRAM_LOAD, &mut argument) }.map(own)
}

/// As [`load`], with the verifier's words in the error.
#[cfg(test)]
pub fn load_or_explain(program_type: u32, name: &str, code: &[Step]) -> OwnedFd {
    let mut log = vec![0; 1 << 20];
    match load_with(program_type, name, code, &mut log) {
        Ok(program) => program,
        Err(error) => {
            let text = String::from_utf8_lossy(&log);
            let text = text.trim_end_matches('\0');
            panic!("{error}\n{}", &text[text.len().saturating_sub(4000)..]);
        }
    }
}

/// Whether maps and programs of our kind can be had, found out once, by trying.
///
/// # Errors
/// `EPERM` without CAP_BPF, or where a seccomp filter forbids it; `ENOSYS`, `EINVAL` on a kernel that is too old.
pub fn available() -> io::Result<()> {
    static ERROR: OnceLock<i32> = OnceLock::new();
    match *ERROR.get_or_init(probe) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// The error number that a try ends with, or 0. A filter may end who makes a call that it does not name: there a child
/// tries.
fn probe() -> i32 {
    if cfg!(target_endian = "big") {
        // The programs read the halves of words.
        return libc::ENOSYS;
    }
    if !seccomp::is_filtered() {
        return attempt();
    }
    // SAFETY: the child only makes system calls with what is on its stack, and ends by _exit(2).
    match unsafe { libc::fork() } {
        0 => {
            let number = attempt();
            // SAFETY: _exit(2) does not return, and runs nothing of ours.
            unsafe { libc::_exit(number.clamp(0, 255)) }
        }
        child if child > 0 => {
            let mut status = 0;
            loop {
                // SAFETY: the status is alive.
                let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
                if reaped == child && libc::WIFEXITED(status) {
                    return libc::WEXITSTATUS(status);
                }
                if reaped == child || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                    return libc::EPERM;
                }
            }
        }
        _ => libc::EAGAIN,
    }
}

/// Makes what steering takes, in small. No allocation: it may run in a child.
fn attempt() -> i32 {
    fn tried() -> io::Result<()> {
        let table = Map::new(Shape { kind: Kind::Lru, key: 4, value: 4, entries: 64 })?;
        drop(Map::new(Shape { kind: Kind::Sockets, key: 4, value: 8, entries: 1 })?);
        let (mut place, mut room) = ([0_u8; 8], [0_u8; 8]);
        let mut argument = Batch {
            from: std::ptr::null(),
            to: place.as_mut_ptr(),
            keys: room.as_mut_ptr(),
            values: room.as_mut_ptr(),
            count: 1,
            map: table.fd.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: there is room for one key, one value and a place.
        match unsafe { bpf(MAP_LOOKUP_BATCH, &mut argument) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            Ok(_) | Err(_) => {}
        }
        load(SK_REUSEPORT, "aeterna_try", &assembler::TRIVIAL).map(drop)
    }
    tried().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_holds_what_is_put_in_and_is_walked_whole() {
        if let Err(error) = available() {
            return println!("skipped: {error}");
        }
        let map = Map::new(Shape { kind: Kind::Lru, key: 4, value: 8, entries: 20_000 }).unwrap();
        let keys: Vec<u8> = (0..5000_u32).flat_map(u32::to_ne_bytes).collect();
        let values: Vec<u8> = (0..5000_u64).flat_map(|n| (n * 3).to_ne_bytes()).collect();
        map.set_all(&keys, &values, 5000).unwrap();
        map.remove(&7_u32.to_ne_bytes()).unwrap();
        let mut found = std::collections::BTreeMap::new();
        map.walk(|key, value| {
            let key = u32::from_ne_bytes(key.try_into().unwrap());
            found.insert(key, u64::from_ne_bytes(value.try_into().unwrap()));
        })
        .unwrap();
        assert_eq!(found.len(), 4999);
        assert!(found.iter().all(|(key, value)| *value == u64::from(*key) * 3));
        let mut value = [0; 8];
        assert_eq!(map.get(&7_u32.to_ne_bytes(), &mut value).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(map.set(&[0; 3], &[0; 8]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_filter_that_kills_who_asks_kills_only_the_child() {
        // A child of the test's own, under a filter that ends a process at bpf(2).
        // SAFETY: the child makes system calls only, and ends by _exit(2).
        let child = unsafe { libc::fork() };
        if child == 0 {
            let filter = [
                libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
                libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_bpf as u32 },
                libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS },
                libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
            ];
            let program = libc::sock_fprog { len: 4, filter: filter.as_ptr().cast_mut() };
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            // SAFETY: the filter is alive, and the kernel copies it.
            let end =
                unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
            let number = if end == 0 { probe() } else { 99 };
            // SAFETY: as above.
            unsafe { libc::_exit(number) }
        }
        let mut status = 0;
        // SAFETY: the status is alive.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status), "{status:#x}");
        assert_eq!(libc::WEXITSTATUS(status), libc::EPERM);
    }
}
