//! Seccomp user notification: a filter that lets us answer some system calls of other processes.
//! seccomp(2), seccomp_unotify(2), pidfd_getfd(2).
//!
//! The filter is installed by a child that is about to execute ([`super::spawn`]); the descriptor that its
//! notifications come through reaches us over a socket pair. It must live as long as any process under the
//! filter: without it the trapped calls fail with `ENOSYS`. When the last such process is gone it hangs up.
//!
//! Everything that is read from a process is only true while [`Listener::is_valid`] says so afterwards: its
//! number may already be somebody else's.

use super::aside::Foreign;
use nix::libc;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// One instruction of classic BPF, as `struct sock_filter`.
type Instruction = libc::sock_filter;

const LOAD_WORD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
/// An architecture that nobody has: nothing is trapped where the numbers are not known.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: u32 = 0;

/// Whether the numbers of this architecture are known.
pub const SUPPORTED: bool = NATIVE != 0;

#[cfg(target_arch = "x86_64")]
const TRAPPED: [i64; 4] = [libc::SYS_bind, libc::SYS_listen, libc::SYS_unlinkat, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const TRAPPED: [i64; 3] = [libc::SYS_bind, libc::SYS_listen, libc::SYS_unlinkat];

/// Options of setsockopt(2) by which a program steers between the members of a group: they are for us, too.
const STEERING: [i32; 3] =
    [libc::SO_ATTACH_REUSEPORT_CBPF, libc::SO_ATTACH_REUSEPORT_EBPF, SO_DETACH_REUSEPORT_BPF];
/// asm-generic/socket.h, since Linux 5.3.
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
/// The lower halves of the second and third argument, in `struct seccomp_data` of little-endian machines.
const LEVEL: u32 = 24;
const OPTION: u32 = 32;

const INSTRUCTIONS: usize = TRAPPED.len() + STEERING.len() + 9;

/// The filter: bind(2), listen(2), unlink(2) and unlinkat(2) of native programs are for us, and setsockopt(2) with one of
/// [`STEERING`]; all else goes on.
static FILTER: [Instruction; INSTRUCTIONS] = filter();

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// Goes on with the next instruction if the value is this one.
const fn or_allow(at: usize, k: u32) -> Instruction {
    Instruction { code: IF_EQUAL, jt: 0, jf: (INSTRUCTIONS - 2 - at - 1) as u8, k }
}

const fn filter() -> [Instruction; INSTRUCTIONS] {
    let mut out = [plain(RETURN, libc::SECCOMP_RET_ALLOW); INSTRUCTIONS];
    let allow = INSTRUCTIONS - 2;
    out[0] = plain(LOAD_WORD, ARCHITECTURE);
    out[1] = Instruction { code: IF_EQUAL, jt: 0, jf: (allow - 2) as u8, k: NATIVE };
    out[2] = plain(LOAD_WORD, NUMBER);
    let mut at = 0;
    while at < TRAPPED.len() {
        let skip = (INSTRUCTIONS - 1 - (3 + at) - 1) as u8;
        out[3 + at] = Instruction { code: IF_EQUAL, jt: skip, jf: 0, k: TRAPPED[at] as u32 };
        at += 1;
    }
    at += 3;
    out[at] = or_allow(at, libc::SYS_setsockopt as u32);
    out[at + 1] = plain(LOAD_WORD, LEVEL);
    out[at + 2] = or_allow(at + 2, libc::SOL_SOCKET as u32);
    out[at + 3] = plain(LOAD_WORD, OPTION);
    at += 4;
    let mut option = 0;
    while option < STEERING.len() {
        let skip = (INSTRUCTIONS - 1 - at - 1) as u8;
        out[at] = Instruction { code: IF_EQUAL, jt: skip, jf: 0, k: STEERING[option] as u32 };
        (at, option) = (at + 1, option + 1);
    }
    out[INSTRUCTIONS - 1] = plain(RETURN, libc::SECCOMP_RET_USER_NOTIF);
    out
}

/// Once received, a call is interrupted by fatal signals only (Linux 5.19): else Go's own signals repeat it.
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// Installs the filter in this process. The number of the descriptor for notifications, or an errno. Called by
/// a child between fork and execve: nothing but system calls.
///
/// `EACCES`: needs no_new_privs or CAP_SYS_ADMIN. `EBUSY`: a filter of another supervisor is there already.
pub(super) fn install() -> Result<RawFd, i32> {
    let program =
        libc::sock_fprog { len: INSTRUCTIONS as u16, filter: (&raw const FILTER).cast_mut().cast() };
    let mut result = Err(libc::EINVAL);
    for flags in
        [libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER]
    {
        // SAFETY: the kernel reads `program` and the instructions that it points to.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if fd >= 0 {
            return Ok(fd as RawFd);
        }
        result = Err(nix::errno::Errno::last_raw());
        // An older kernel does not know the first flag.
        if result != Err(libc::EINVAL) {
            break;
        }
    }
    result
}

/// A system call that waits for our answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    id: u64,
    /// The thread that makes it.
    pub tid: i32,
    /// What it wants.
    pub what: What,
}

/// What a trapped call wants. Numbers are the caller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// bind(2).
    Bind {
        /// The caller's descriptor.
        fd: i32,
        /// Where the address is in its memory.
        address: u64,
        /// How long it is, bytes.
        length: u32,
    },
    /// listen(2).
    Listen {
        /// The caller's descriptor.
        fd: i32,
        /// As the caller asked.
        backlog: i32,
    },
    /// unlink(2) or unlinkat(2) of what is no folder.
    Unlink {
        /// The folder's descriptor, or `AT_FDCWD`.
        folder: i32,
        /// Where the name is in its memory.
        name: u64,
    },
    /// setsockopt(2) with a program that steers between sockets of one address, or without one any more.
    Steer {
        /// The caller's descriptor.
        fd: i32,
    },
    /// Something else.
    Other,
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out, as if there were no filter.
    Continue,
    /// It has succeeded.
    Done,
    /// It has failed with this errno.
    Failed(i32),
}

const fn ioctl_number(direction: u32, number: u32, size: usize) -> u64 {
    ((direction << 30) | ((size as u32) << 16) | ((b'!' as u32) << 8) | number) as u64
}

const WRITE: u32 = 1;
const READ: u32 = 2;
const NOTIF_RECV: u64 = ioctl_number(READ | WRITE, 0, size_of::<libc::seccomp_notif>());
const NOTIF_SEND: u64 = ioctl_number(READ | WRITE, 1, size_of::<libc::seccomp_notif_resp>());
const NOTIF_ID_VALID: u64 = ioctl_number(WRITE, 2, size_of::<u64>());
const NOTIF_ADDFD: u64 = ioctl_number(WRITE, 3, size_of::<libc::seccomp_notif_addfd>());

/// Where a filter's notifications come from: readable when there is one, hangs up when nobody is left.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// From the descriptor that a child's `install` made.
    pub fn new(fd: OwnedFd) -> Listener {
        Listener { fd }
    }

    fn ioctl<T>(&self, number: u64, argument: *mut T) -> io::Result<()> {
        // SAFETY: `argument` is the structure that the number's size says, valid for reading and writing.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), number as _, argument) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next call, if one waits. Call it only when the descriptor is readable.
    ///
    /// # Errors
    /// Those of ioctl(2). A caller that died meanwhile is `None`.
    pub fn receive(&self) -> io::Result<Option<Call>> {
        // SAFETY: a structure of integers, which the kernel wants zeroed.
        let mut raw: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
        match self.ioctl(NOTIF_RECV, &raw mut raw) {
            Ok(()) => Ok(Some(call(&raw))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the caller still waits: what was read from it was its own then.
    pub fn is_valid(&self, call: &Call) -> bool {
        let mut id = call.id;
        self.ioctl(NOTIF_ID_VALID, &raw mut id).is_ok()
    }

    /// Answers a call. A caller that is gone is no error.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn answer(&self, call: &Call, answer: Answer) -> io::Result<()> {
        let mut raw = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
        match answer {
            Answer::Continue => raw.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Done => {}
            Answer::Failed(errno) => raw.error = -errno,
        }
        match self.ioctl(NOTIF_SEND, &raw mut raw) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Puts a copy of `socket` in place of the caller's descriptor `fd`; what was there is closed.
    ///
    /// # Errors
    /// `ENOENT` if the caller is gone; `EBADF` if its number is beyond its limit.
    pub fn replace(&self, call: &Call, fd: i32, socket: BorrowedFd<'_>, flags: FdFlags) -> io::Result<()> {
        let mut raw = libc::seccomp_notif_addfd {
            id: call.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: socket.as_raw_fd() as u32,
            newfd: fd as u32,
            newfd_flags: if flags.close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        self.ioctl(NOTIF_ADDFD, &raw mut raw)
    }
}

fn call(raw: &libc::seccomp_notif) -> Call {
    let [a, b, c, ..] = raw.data.args;
    let number = i64::from(raw.data.nr);
    let what = match number {
        libc::SYS_bind => What::Bind { fd: a as i32, address: b, length: c as u32 },
        libc::SYS_listen => What::Listen { fd: a as i32, backlog: b as i32 },
        libc::SYS_setsockopt => What::Steer { fd: a as i32 },
        libc::SYS_unlinkat if c as i32 & libc::AT_REMOVEDIR == 0 => {
            What::Unlink { folder: a as i32, name: b }
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => What::Unlink { folder: libc::AT_FDCWD, name: a },
        _ => What::Other,
    };
    Call { id: raw.id, tid: raw.pid as i32, what }
}

/// Flags of another process's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FdFlags {
    /// It is closed by execve(2).
    pub close_on_exec: bool,
    /// Its open file description has `O_NONBLOCK`.
    pub non_blocking: bool,
}

/// The flags of a thread's descriptor, from /proc.
///
/// # Errors
/// What reading `fdinfo` says; `InvalidData` if it says nothing of flags.
pub fn fd_flags(tid: i32, fd: i32) -> io::Result<FdFlags> {
    let text = fs::read_to_string(format!("/proc/{tid}/fdinfo/{fd}"))?;
    let field = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let bits = field.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
    let bits = bits.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(FdFlags { close_on_exec: bits & libc::O_CLOEXEC != 0, non_blocking: bits & libc::O_NONBLOCK != 0 })
}

/// Bytes of a thread's memory, at most `length`; fewer where its mapping ends.
///
/// # Errors
/// `EACCES` where we may not look.
pub fn memory(tid: i32, address: u64, length: usize) -> io::Result<Vec<u8>> {
    let file = fs::File::open(format!("/proc/{tid}/mem"))?;
    let mut bytes = vec![0; length];
    let count = file.read_at(&mut bytes, address)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// A terminated string of a thread's memory: a path.
///
/// # Errors
/// As [`memory`]; `InvalidData` if it does not end within 4096 bytes.
pub fn string(tid: i32, address: u64) -> io::Result<Vec<u8>> {
    const PAGE: u64 = 4096;
    let mut text = Vec::new();
    // Page by page: the one behind the string may not be there.
    while text.len() < PAGE as usize {
        let from = address + text.len() as u64;
        let part = memory(tid, from, (PAGE - from % PAGE) as usize)?;
        if part.is_empty() {
            break;
        }
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            text.extend_from_slice(part.get(..end).unwrap_or_default());
            return Ok(text);
        }
        text.extend(part);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The process that a thread belongs to.
///
/// # Errors
/// What reading /proc says.
pub fn process_of(tid: i32) -> io::Result<i32> {
    let number = status_field(tid, "Tgid:")?;
    number.parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether a thread has CAP_NET_BIND_SERVICE.
///
/// # Errors
/// What reading /proc says.
pub fn may_bind_low_ports(tid: i32) -> io::Result<bool> {
    const CAP_NET_BIND_SERVICE: u32 = 10;
    let bits = u64::from_str_radix(&status_field(tid, "CapEff:")?, 16);
    bits.map(|bits| bits & (1 << CAP_NET_BIND_SERVICE) != 0).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn status_field(tid: i32, name: &str) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{tid}/status"))?;
    let field = text.lines().find_map(|line| line.strip_prefix(name));
    field.map(|value| value.trim().to_owned()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A copy of a thread's descriptor, close-on-exec: the same open file description. Before Linux 6.9 it is one of the
/// thread's process, whose table of descriptors a thread need not share (CLONE_FILES).
///
/// # Errors
/// `EPERM` where ptrace(2) would not be allowed or a container's filter forbids it; `ENOSYS` before Linux 5.6.
pub fn copy_fd(tid: i32, fd: i32) -> io::Result<Foreign> {
    let pidfd = match super::process::pidfd_of_thread(tid) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            super::process::pidfd_open(process_of(tid).unwrap_or(tid))?
        }
        opened => opened?,
    };
    // SAFETY: takes numbers only.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us; nobody else knows its number.
    let copy = unsafe { OwnedFd::from_raw_fd(raw as RawFd) };
    Ok(copy.into())
}

/// The protocol of a thread's socket as `system.sockprotoname` spells it (`TCP`, `TCPv6`, `UNIX-STREAM`…): what
/// can be seen where [`copy_fd`] is forbidden.
///
/// # Errors
/// Those of getxattr(2).
pub fn protocol_name(tid: i32, fd: i32) -> io::Result<String> {
    let path = std::ffi::CString::new(format!("/proc/{tid}/fd/{fd}"))?;
    let mut bytes = [0_u8; 64];
    // SAFETY: two terminated strings, and a buffer of the length that is given.
    let count = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"system.sockprotoname".as_ptr(),
            bytes.as_mut_ptr().cast(),
            bytes.len(),
        )
    };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    let text = bytes.get(..count as usize).unwrap_or_default();
    Ok(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Whether this process is under a filter itself, of a container or of systemd: some calls may be refused, or end us.
pub fn is_filtered() -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP) > 0 }
}

/// Whether the kernel knows user notification.
pub fn available() -> bool {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads one number.
    let known =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    known == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says to a call.
    fn verdict(architecture: u32, number: i64) -> u32 {
        let (mut at, mut word) = (0, 0);
        loop {
            let step = FILTER[at];
            at += 1;
            match step.code {
                LOAD_WORD if step.k == NUMBER => word = number as u32,
                LOAD_WORD => word = architecture,
                IF_EQUAL => at += usize::from(if word == step.k { step.jt } else { step.jf }),
                RETURN => return step.k,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn the_filter_traps_what_it_names_and_nothing_else() {
        for number in 0..600 {
            let trapped = TRAPPED.contains(&number);
            let expected = if trapped { libc::SECCOMP_RET_USER_NOTIF } else { libc::SECCOMP_RET_ALLOW };
            assert_eq!(verdict(NATIVE, number), expected, "{number}");
            assert_eq!(verdict(0x4000_0003, number), libc::SECCOMP_RET_ALLOW, "another architecture");
        }
        assert_eq!(verdict(NATIVE, libc::SYS_bind | 0x4000_0000), libc::SECCOMP_RET_ALLOW, "x32");
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(NOTIF_RECV, 0xc050_2100);
        assert_eq!(NOTIF_SEND, 0xc018_2101);
        assert_eq!(NOTIF_ID_VALID, 0x4008_2102);
        assert_eq!(NOTIF_ADDFD, 0x4018_2103);
    }

    #[test]
    fn our_own_strings_can_be_read() {
        let text = std::ffi::CString::new(vec![b'x'; 3000]).unwrap();
        let tid = super::super::process::pid();
        assert_eq!(string(tid, text.as_ptr().expose_provenance() as u64).unwrap(), text.as_bytes());
        assert!(string(tid, 8).is_err());
    }

    #[test]
    fn descriptors_of_a_process_can_be_seen() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tid = super::super::process::pid();
        let fd = socket.as_raw_fd();
        assert_eq!(protocol_name(tid, fd).unwrap(), "TCP");
        assert_eq!(fd_flags(tid, fd).unwrap(), FdFlags { close_on_exec: true, non_blocking: false });
        socket.set_nonblocking(true).unwrap();
        assert!(fd_flags(tid, fd).unwrap().non_blocking);
        let copy = copy_fd(tid, fd).unwrap();
        assert_eq!(
            super::super::sockopt::cookie(copy.as_fd()).unwrap(),
            super::super::sockopt::cookie(socket.as_fd()).unwrap()
        );
        assert_eq!(process_of(tid).unwrap(), tid);
    }
}
