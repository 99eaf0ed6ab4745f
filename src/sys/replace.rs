//! One program in the place of another, in the same process: execveat(2), the state in a sealed memfd_create(2), and the
//! way back for as long as the new program has not made it its own. Main thread only.

use super::fd;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::{CString, OsString, c_char, c_int};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicPtr, Ordering};

/// No more can be written, and it stays as long as it is.
const SEALS: c_int = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// Bytes that nobody can change any more, as a descriptor.
///
/// # Errors
/// Those of memfd_create(2), write(2) and fcntl(2).
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    const NOEXEC_SEAL: libc::c_uint = 8;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Some machines allow no other; older kernels do not know it.
    let made = memfd_create(c"aeterna-state", flags | MFdFlags::from_bits_retain(NOEXEC_SEAL));
    let mut file = File::from(made.or_else(|_| memfd_create(c"aeterna-state", flags))?);
    file.write_all(bytes)?;
    // SAFETY: takes numbers only.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

/// What [`sealed`] was given. The number stays open.
///
/// # Errors
/// `EINVAL` if it is none; those of read(2).
pub fn unsealed(number: RawFd) -> io::Result<Vec<u8>> {
    // SAFETY: takes numbers only.
    let seals = unsafe { libc::fcntl(number, libc::F_GET_SEALS) };
    if seals < 0 || seals & SEALS != SEALS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let file = File::from(fd::copy_of(number)?);
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A program as a descriptor: the same file whatever becomes of its name. See open(2), `O_PATH`.
///
/// # Errors
/// Those of open(2).
pub fn program(path: &Path) -> io::Result<OwnedFd> {
    // With O_PATH the access mode is not looked at.
    Ok(File::options().read(true).custom_flags(libc::O_PATH).open(path)?.into())
}

/// Executes a program in our place, with our environment; comes back only with an error, and then nothing has changed.
/// See execveat(2).
pub fn execute(program: BorrowedFd<'_>, arguments: Vec<OsString>) -> io::Error {
    let Ok(arguments) = c_strings(arguments) else { return io::ErrorKind::InvalidInput.into() };
    let pointers = pointers(&arguments);
    become_program(program.as_raw_fd(), &pointers);
    io::Error::last_os_error()
}

fn c_strings(words: Vec<OsString>) -> Result<Vec<CString>, std::ffi::NulError> {
    words.into_iter().map(|word| CString::new(word.into_vec())).collect()
}

fn pointers(words: &[CString]) -> Vec<*const c_char> {
    words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
}

unsafe extern "C" {
    /// Our environment as it was given to us.
    static environ: *const *const c_char;
}

/// The system call; only async-signal-safe things. `arguments` ends with a null.
fn become_program(program: RawFd, arguments: &[*const c_char]) {
    // SAFETY: reading the pointer: nobody changes the environment while we do this.
    let environment = unsafe { environ };
    // SAFETY: an empty path and two arrays of terminated strings that end with null; all live until the call returns.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            arguments.as_ptr(),
            environment,
            libc::AT_EMPTY_PATH,
        )
    };
}

/// The name that ps(1) shows: after an execveat(2) of a descriptor some kernels show its number.
pub fn name_ourselves() {
    let _ = nix::sys::prctl::set_name(c"aeternad");
}

/// Faults that end a program.
const FAULTS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGSYS, libc::SIGTRAP];

/// How long, in seconds, a program may take to make a state its own.
const PATIENCE: u32 = 10;

/// The exit status of a program that has a state that is not its own, and cannot give it back.
const LOST: c_int = 70;

/// What the handlers need: made before, never changed, never freed.
struct Prepared {
    program: RawFd,
    /// What stands before a reason.
    prefix: String,
    words: Vec<CString>,
    /// Where in `words` the reason stands.
    reason: usize,
    /// A list of arguments for each fault, and the last one for the alarm.
    lists: Vec<Vec<*const c_char>>,
    _reasons: Vec<CString>,
}

static PREPARED: AtomicPtr<Prepared> = AtomicPtr::new(std::ptr::null_mut());

/// The way back to the program that was here before, until it is dropped: a fault, and more than ten seconds, lead to it.
#[derive(Debug)]
pub struct WayBack {
    before: Vec<(c_int, libc::sigaction)>,
}

impl WayBack {
    /// Opens the way. `program` is executed with `arguments`; what is at `reason` in them is replaced by the words why.
    ///
    /// # Errors
    /// An argument has a NUL byte in it; those of sigaction(2).
    pub fn open(
        program: RawFd,
        arguments: Vec<OsString>,
        reason: usize,
        prefix: &str,
    ) -> io::Result<WayBack> {
        let words = c_strings(arguments).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let texts = FAULTS
            .iter()
            .map(|fault| format!("{prefix}it ended with {}", super::signal::name(*fault)))
            .chain([format!("{prefix}it was not done after {PATIENCE}s")]);
        let reasons = c_strings(texts.map(OsString::from).collect())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let list = |text: &CString| {
            let mut list = pointers(&words);
            if let Some(place) = list.get_mut(reason) {
                *place = text.as_ptr();
            }
            list
        };
        let lists = reasons.iter().map(list).collect();
        let prefix = prefix.to_owned();
        let prepared = Box::new(Prepared { program, prefix, words, reason, lists, _reasons: reasons });
        PREPARED.store(Box::into_raw(prepared), Ordering::Release);
        let mut way = WayBack { before: Vec::new() };
        for signal in FAULTS.into_iter().chain([libc::SIGALRM]) {
            way.handle(signal)?;
        }
        set_alarm_blocked(libc::SIG_UNBLOCK);
        // SAFETY: takes a number only.
        unsafe { libc::alarm(PATIENCE) };
        Ok(way)
    }

    fn handle(&mut self, signal: c_int) -> io::Result<()> {
        if signal == libc::SIGALRM {
            // Whoever has sent one while it was blocked did not mean this.
            // SAFETY: ignoring runs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
        let handler: extern "C" fn(c_int) = go_back;
        // SAFETY: a sigaction structure may be all zeros.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: as above.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both structures are ours; the handler makes async-signal-safe calls only.
        if unsafe { libc::sigaction(signal, &raw const action, &raw mut before) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.before.push((signal, before));
        Ok(())
    }

    /// Goes back, and says why. Does not return.
    pub fn go(why: &str) -> ! {
        let prepared = PREPARED.load(Ordering::Acquire);
        // SAFETY: it is null, or was made by `open` and is never freed.
        if let Some(prepared) = unsafe { prepared.as_ref() } {
            let text =
                CString::new(format!("{}{}", prepared.prefix, why.replace('\0', " "))).unwrap_or_default();
            let mut list = pointers(&prepared.words);
            if let Some(place) = list.get_mut(prepared.reason) {
                *place = text.as_ptr();
            }
            leave(prepared.program, &list);
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(LOST) }
    }

    /// The state is ours now: there is no way back any more.
    pub fn close(self) {
        // SAFETY: takes a number only.
        unsafe { libc::alarm(0) };
        set_alarm_blocked(libc::SIG_BLOCK);
        PREPARED.store(std::ptr::null_mut(), Ordering::Release);
        for (signal, before) in self.before {
            // SAFETY: what was in force before, with nowhere to write what is now.
            unsafe { libc::sigaction(signal, &raw const before, std::ptr::null_mut()) };
        }
    }
}

fn set_alarm_blocked(how: c_int) {
    // SAFETY: a signal set may be all zeros.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours, and the number exists.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGALRM) };
    // SAFETY: the set is initialised, and nothing is written.
    unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
}

/// Executes the program before, without the alarm, which would go along.
fn leave(program: RawFd, arguments: &[*const c_char]) {
    // SAFETY: takes a number only.
    unsafe { libc::alarm(0) };
    become_program(program, arguments);
}

/// The handler: system calls on memory that was prepared.
extern "C" fn go_back(signal: c_int) {
    let prepared = PREPARED.load(Ordering::Acquire);
    // SAFETY: it is null, or was made by `open` and is never freed.
    if let Some(prepared) = unsafe { prepared.as_ref() } {
        let at = FAULTS.iter().position(|fault| *fault == signal).unwrap_or(FAULTS.len());
        if let Some(list) = prepared.lists.get(at) {
            leave(prepared.program, list);
        }
    }
    // SAFETY: ends the process; async-signal-safe.
    unsafe { libc::_exit(LOST) }
}

/// Whether anybody but `uid` and root may change a file, or its folder: its owner and mode are looked at.
///
/// # Errors
/// Those of stat(2).
pub fn is_writable_by_others(path: &Path, uid: u32) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let folder = path.parent().unwrap_or(path);
    for place in [path, folder] {
        let found = std::fs::metadata(place)?;
        let is_strange = found.uid() != 0 && found.uid() != uid;
        // In a sticky folder nobody removes what is not his.
        let sticky = found.is_dir() && found.mode() & 0o1000 != 0;
        let is_open = found.mode() & 0o002 != 0 && !sticky;
        if is_strange || is_open {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets an open descriptor through the next execve(2), or no more.
///
/// # Errors
/// Those of fcntl(2).
pub fn pass_on(numbers: impl Iterator<Item = RawFd>, closes: fd::CloseOnExec) -> io::Result<()> {
    for number in numbers {
        // SAFETY: the number is open, as the caller says, and only borrowed for this.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fd::set_close_on_exec(borrowed.as_fd(), closes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_back_and_nobody_changes_it() {
        let sealed = sealed(b"some state").unwrap();
        assert_eq!(unsealed(sealed.as_raw_fd()).unwrap(), b"some state");
        assert!(File::from(sealed.try_clone().unwrap()).write_all(b"x").is_err());
        assert!(File::from(sealed).set_len(0).is_err());
    }

    #[test]
    fn what_is_not_sealed_is_no_state() {
        let file = tempfile::tempfile().unwrap();
        assert!(unsealed(file.as_raw_fd()).is_err());
        assert!(unsealed(0).is_err());
        let open = memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(unsealed(open.as_raw_fd()).is_err());
    }

    #[test]
    fn a_program_that_others_may_change_is_seen() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, "x").unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let uid = super::super::user::effective_uid();
        mode(&path, 0o755);
        assert!(!is_writable_by_others(&path, uid).unwrap());
        mode(&path, 0o757);
        assert!(is_writable_by_others(&path, uid).unwrap());
        mode(&path, 0o755);
        mode(folder.path(), 0o777);
        assert!(is_writable_by_others(&path, uid).unwrap());
        mode(folder.path(), 0o1777);
        assert!(!is_writable_by_others(&path, uid).unwrap());
    }
}
