//! What the child does. It runs on our memory while we wait, or on a copy: system calls only, in an order that matters. No
//! allocation, no lock, no panic, no log, and no function of the C library that knows threads (setuid and its kin).

use super::job::{Job, SIGNALS};
use super::{ByDescriptor, Pinned, SpawnError, Stage, badness, clone, gate};
use crate::sys::limits::Pair;
use crate::sys::pin::Stamp;
use crate::sys::seccomp;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::ffi::{CStr, c_long, c_void};
use std::os::fd::AsRawFd;

/// A step that has worked, or the child's end.
pub(super) type Step = Result<(), SpawnError>;

/// Runs the [`Job`] that `job` points to. Never returns: the program replaces it, or it ends.
pub(super) extern "C" fn main(job: *mut c_void) -> i32 {
    // SAFETY: `clone` passes a job that is ours alone until we execute or end.
    let job: &mut Job<'_> = unsafe { &mut *job.cast() };
    if let Some(numbers) = job.gate {
        gate::pass(numbers);
    }
    let Err(failure) = run(job);
    tell(job, Some(failure));
    job.failure = Some(failure);
    // SAFETY: ends this process without running anything of our parent's.
    unsafe { libc::_exit(127) }
}

/// Every step, in order. What needs privileges comes before the user; what the user must be allowed to do, after.
fn run(job: &mut Job<'_>) -> Result<Infallible, SpawnError> {
    default_dispositions(job)?;
    new_session()?;
    join_cgroup(job)?;
    badness::set(job)?;
    set_nice(job)?;
    set_affinity(job)?;
    check_sum(job)?;
    // Before the limits: a limit on descriptors is for the program, not for this.
    move_aside(job)?;
    place_descriptors(&mut job.sources)?;
    take_terminal(job);
    close_others(job);
    set_limits(job)?;
    set_umask(job.plan.umask);
    // As long as it may be installed without no_new_privs; nothing of what follows is trapped.
    install_filter(job)?;
    leave_keyring();
    drop_inheritable(job);
    become_user(job)?;
    badness::raise(job);
    enter_directory(job)?;
    forbid_new_privileges(job)?;
    stamp_pid(job);
    tell(job, None);
    // Signals that were sent to us meanwhile have their default effect now.
    clone::set_mask(0);
    execute(job)
}

/// The failure of the system call that has just returned.
fn failed(stage: Stage) -> SpawnError {
    SpawnError { stage, errno: nix::errno::Errno::last_raw() }
}

fn check(stage: Stage, result: c_long) -> Step {
    if result < 0 { Err(failed(stage)) } else { Ok(()) }
}

/// Default for every signal, also those that the C library keeps for itself; SIGPIPE as wanted. Ignored ones would survive
/// execve, the handlers of our parent must not run here.
fn default_dispositions(job: &Job<'_>) -> Step {
    for signal in 1..=SIGNALS {
        if signal == libc::SIGPIPE && job.plan.ignore_sigpipe {
            set_disposition(signal, libc::SIG_IGN)?;
        } else if job.dispositions & (1 << (signal - 1)) != 0 {
            set_disposition(signal, libc::SIG_DFL)?;
        }
    }
    Ok(())
}

fn set_disposition(signal: i32, handler: usize) -> Step {
    // `struct sigaction` of the kernel: the handler first, then zeros for flags, restorer and mask, 8 words at most.
    let action = [handler, 0, 0, 0, 0, 0, 0, 0];
    let none: *mut c_void = std::ptr::null_mut();
    // SAFETY: the kernel reads one of its sigaction structures, which is not longer than `action`.
    let done =
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, none, size_of::<u64>()) };
    check(Stage::Signals, done)
}

fn new_session() -> Step {
    // SAFETY: takes nothing.
    check(Stage::Session, unsafe { libc::setsid() }.into())
}

fn join_cgroup(job: &Job<'_>) -> Step {
    match job.plan.cgroup {
        Some(cgroup) if job.joins_cgroup => {
            write_file(cgroup.as_raw_fd(), c"cgroup.procs", b"0", Stage::Cgroup)
        }
        _ => Ok(()),
    }
}

/// Writes a small file of the kernel.
pub(super) fn write_file(directory: i32, path: &CStr, text: &[u8], stage: Stage) -> Step {
    // SAFETY: the path is a terminated string.
    let fd = unsafe { libc::openat(directory, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(stage, fd.into())?;
    // SAFETY: `text` is readable for its length.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    let result = check(stage, written as c_long);
    // SAFETY: opened above, used by nobody else.
    unsafe { libc::close(fd) };
    result
}

fn set_nice(job: &Job<'_>) -> Step {
    match job.plan.nice {
        // SAFETY: takes numbers only.
        Some(nice) => check(Stage::Nice, unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }.into()),
        None => Ok(()),
    }
}

/// Reads a file through that has to have a sum. Before the service's user has any power over us.
fn check_sum(job: &mut Job<'_>) -> Step {
    let Some(checked) = &job.plan.checked else { return Ok(()) };
    let Some(file) = checked.file.map(|file| file.as_raw_fd()) else { return Ok(()) };
    let mut hash = Sha256::new();
    let mut at: libc::off_t = 0;
    loop {
        let (room, length) = (job.buffer.as_mut_ptr(), job.buffer.len());
        // SAFETY: `room` is writable for its length.
        let count = unsafe { libc::pread(file, room.cast(), length, at) };
        if count == 0 {
            break;
        }
        check(Stage::Checksum, count as c_long)?;
        hash.update(job.buffer.get(..count as usize).unwrap_or_default());
        at += count as libc::off_t;
        // Who was told to end does not read on: signals are blocked, and have their default effect here.
        clone::set_mask(0);
        clone::set_mask(u64::MAX);
    }
    if hash.finalize()[..] != checked.sum {
        return Err(SpawnError { stage: Stage::Checksum, errno: WRONG_SUM });
    }
    still_unchanged(&checked.stamp, file)
}

/// EKEYREJECTED: what was read is not what was wanted.
pub(super) const WRONG_SUM: i32 = 129;

/// Whether an open file is as it was when it was read. Nobody can set the time of its last change back.
fn still_unchanged(stamp: &Stamp, fd: i32) -> Step {
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel's answer has room in `about`.
    check(Stage::Checksum, unsafe { libc::fstat(fd, &raw mut about) }.into())?;
    let now = (about.st_ctime as i64, about.st_ctime_nsec as i64);
    if (now, about.st_size as u64) == (stamp.ctime, stamp.identity.size) {
        return Ok(());
    }
    Err(SpawnError { stage: Stage::Checksum, errno: libc::ESTALE })
}

fn set_affinity(job: &Job<'_>) -> Step {
    if job.processors.is_empty() {
        return Ok(());
    }
    let bytes = size_of_val(job.processors.as_slice());
    // SAFETY: the kernel reads `bytes` bytes of the mask.
    let done = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, bytes, job.processors.as_ptr()) };
    check(Stage::Affinity, done)
}

/// Makes the n-th source descriptor n, for all of them, and leaves nothing else to the program.
fn place_descriptors(sources: &mut [i32]) -> Step {
    let above = sources.len() as i32;
    // First everything out of the way that stands where another one goes.
    for (target, source) in (0..).zip(sources.iter_mut()) {
        if *source < above && *source != target {
            // SAFETY: takes numbers only.
            *source = unsafe { libc::fcntl(*source, libc::F_DUPFD_CLOEXEC, above) };
            check(Stage::Descriptors, (*source).into())?;
        }
    }
    for (target, source) in (0..).zip(sources.iter()) {
        let done = if *source == target {
            // dup2 of a descriptor to itself would leave close-on-exec set.
            // SAFETY: takes numbers only.
            unsafe { libc::fcntl(target, libc::F_SETFD, 0) }
        } else {
            // SAFETY: takes numbers only.
            unsafe { libc::dup3(*source, target, 0) }
        };
        check(Stage::Descriptors, done.into())?;
    }
    // An old kernel or a filter may not know it: then close-on-exec, which all our descriptors have, is enough.
    let last = libc::c_uint::MAX;
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, above, last, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint) };
    Ok(())
}

/// The session gets the terminal on descriptor 0. Not if it is another session's: the program then does without.
fn take_terminal(job: &Job<'_>) {
    if job.plan.terminal {
        // SAFETY: takes numbers only.
        unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    }
}

/// Moves our ends of socket pair and pipe, the program's own descriptor and that of the badness, out of the way of the program's descriptors.
fn move_aside(job: &mut Job<'_>) -> Step {
    let above = job.sources.len() as i32;
    for place in [&mut job.channel, &mut job.report, &mut job.program, &mut job.badness] {
        if let Some(fd) = place.filter(|fd| *fd < above) {
            // SAFETY: takes numbers only.
            let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, above) };
            check(Stage::Descriptors, moved.into())?;
            *place = Some(moved);
        }
    }
    Ok(())
}

/// Whoever may take his time keeps nothing of ours open meanwhile: neither a lock nor a listener nor the end of a pipe.
fn close_others(job: &Job<'_>) {
    if job.report.is_none() {
        return;
    }
    let kept = [job.channel, job.report, job.program, job.badness];
    let mut kept = kept.map(|fd| fd.map_or(libc::c_uint::MAX, i32::cast_unsigned));
    kept.sort_unstable();
    let mut first = job.sources.len() as libc::c_uint;
    for next in kept {
        let last = next.saturating_sub(1);
        if first <= last {
            // SAFETY: takes numbers only. Where it is not known, they are closed at execve(2).
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = next.saturating_add(1);
    }
    if first < libc::c_uint::MAX {
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    }
}

/// A child with memory of its own: what could not be as asked, and why it failed if it has. See [`super::Report`].
fn tell(job: &Job<'_>, failure: Option<SpawnError>) {
    let Some(report) = job.report else { return };
    let (stage, errno) =
        failure.map_or((0, 0), |failure| (failure.stage as u32, failure.errno.cast_unsigned()));
    let words = [stage, errno, job.lowered, job.refused.unwrap_or(0).cast_unsigned()];
    // SAFETY: `words` is readable for its length. There is always room for them in the pipe.
    unsafe { libc::write(report, words.as_ptr().cast(), size_of_val(&words)) };
}

/// A session keyring of its own: in ours may be keys that are for us. Where there are no keyrings there is none to leave.
fn leave_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous: *const c_void = std::ptr::null();
    // SAFETY: a null name is allowed.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
}

/// Capabilities that we were given as inheritable or ambient are ours, not the services'.
fn drop_inheritable(job: &Job<'_>) {
    if let Some(capabilities) = &job.capabilities {
        // SAFETY: the kernel reads a header of two numbers and data of six. To drop them is always allowed.
        unsafe {
            libc::syscall(libc::SYS_capset, &raw const capabilities.header, &raw const capabilities.data)
        };
    }
}

/// Installs the filter and sends its descriptor to our parent, who reads it when we have executed. Without a
/// filter the program runs all the same.
fn install_filter(job: &mut Job<'_>) -> Step {
    let Some(channel) = job.channel else { return Ok(()) };
    let mut installed = seccomp::install();
    if installed == Err(libc::EACCES) {
        no_new_privileges()?;
        installed = seccomp::install();
    }
    match installed {
        Ok(listener) => check(Stage::Descriptors, send_descriptor(channel, listener)),
        Err(errno) => {
            job.refused = Some(errno);
            Ok(())
        }
    }
}

/// sendmsg(2) of one byte and one descriptor.
fn send_descriptor(channel: i32, fd: i32) -> c_long {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // A `cmsghdr` and one descriptor, as CMSG_SPACE lays them out: length, level and type, the number.
    let mut control = [0_usize; 3];
    // SAFETY: takes a number.
    let length = unsafe { libc::CMSG_LEN(size_of::<i32>() as u32) };
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = length as _;
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    let start: *mut libc::cmsghdr = control.as_mut_ptr().cast();
    // SAFETY: `control` is aligned for the header and longer than it.
    unsafe { start.write(header) };
    // SAFETY: the data begin behind the header, within `control`.
    let data = unsafe { start.add(1) };
    // SAFETY: `control` has room for an int there.
    unsafe { data.cast::<i32>().write(fd) };
    // SAFETY: a structure of integers and pointers, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = start.cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in `message` is to a local that is valid for the length beside it.
    unsafe { libc::sendmsg(channel, &raw const message, libc::MSG_NOSIGNAL) as c_long }
}

/// Sets each limit; one that is above our own hard limit and not ours to raise, as near as we may.
fn set_limits(job: &mut Job<'_>) -> Step {
    let plan = job.plan;
    for (resource, soft, hard) in &plan.limits {
        let mut wanted = Pair { soft: *soft, hard: *hard };
        let mut set = set_limit(*resource, &wanted);
        let refused = set.err().is_some_and(|failure| failure.errno == libc::EPERM);
        if refused && let Some(most) = hard_limit(*resource).filter(|most| *most < wanted.hard) {
            wanted = Pair { soft: wanted.soft.min(most), hard: most };
            set = set_limit(*resource, &wanted);
            job.lowered |= 1 << resource;
        }
        set?;
    }
    Ok(())
}

fn set_limit(resource: i32, pair: &Pair) -> Step {
    let none: *mut c_void = std::ptr::null_mut();
    // SAFETY: the kernel reads two 64-bit numbers.
    let done =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, std::ptr::from_ref::<Pair>(pair), none) };
    check(Stage::Limits, done)
}

fn hard_limit(resource: i32) -> Option<u64> {
    let mut own = Pair { soft: 0, hard: 0 };
    let none: *const c_void = std::ptr::null();
    // SAFETY: the kernel writes two 64-bit numbers, for which there is room.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut own) };
    (done == 0).then_some(own.hard)
}

fn set_umask(umask: u32) {
    // SAFETY: takes a number, cannot fail.
    unsafe { libc::umask(umask as libc::mode_t) };
}

#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgroups, SYS_setresgid, SYS_setresuid};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{
    SYS_setgroups32 as SYS_setgroups, SYS_setresgid32 as SYS_setresgid, SYS_setresuid32 as SYS_setresuid,
};

/// Supplementary groups first, the user last: each needs a privilege that the next one takes away.
fn become_user(job: &Job<'_>) -> Step {
    if let Some(groups) = &job.identity.groups {
        // SAFETY: the kernel reads `len` 32-bit numbers.
        let done = unsafe { libc::syscall(SYS_setgroups, groups.len(), groups.as_ptr()) };
        check(Stage::Groups, done)?;
    }
    if let Some(gid) = job.identity.gid {
        // SAFETY: takes numbers only.
        check(Stage::Group, unsafe { libc::syscall(SYS_setresgid, gid, gid, gid) })?;
    }
    if let Some(uid) = job.identity.uid {
        // SAFETY: takes numbers only.
        check(Stage::User, unsafe { libc::syscall(SYS_setresuid, uid, uid, uid) })?;
    }
    Ok(())
}

fn enter_directory(job: &Job<'_>) -> Step {
    let Some(directory) = &job.plan.directory else {
        return Ok(());
    };
    // Looked at before: whoever may stay where he is must not be left in another folder.
    let entered = match job.plan.directory_is {
        Some(is) if leads_to(directory, is) == Ok(false) => {
            Err(SpawnError { stage: Stage::Directory, errno: libc::ESTALE })
        }
        // SAFETY: the path is a terminated string.
        _ => check(Stage::Directory, unsafe { libc::chdir(directory.as_ptr()) }.into()),
    };
    if job.plan.directory_optional { Ok(()) } else { entered }
}

fn forbid_new_privileges(job: &Job<'_>) -> Step {
    if job.plan.no_new_privileges { no_new_privileges() } else { Ok(()) }
}

fn no_new_privileges() -> Step {
    // The kernel wants the unused arguments to be 0 in their whole width.
    let (set, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: the option takes numbers only.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, set, unused, unused, unused) };
    check(Stage::NoNewPrivileges, done.into())
}

/// Our own pid, as we see it: from outside a pid namespace it may look different.
fn stamp_pid(job: &mut Job<'_>) {
    // SAFETY: takes nothing. Not through the C library: an old one remembers its parent's.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    for stamp in &mut job.stamps {
        stamp.write(pid as u32);
    }
}

fn execute(job: &Job<'_>) -> Result<Infallible, SpawnError> {
    match &job.plan.pinned {
        None => Err(execute_name(job, &job.plan.program)),
        Some(pinned) if pinned.by == ByDescriptor::Always => {
            if let Some(checked) = &job.plan.checked {
                still_unchanged(&checked.stamp, job.program.unwrap_or(-1))?;
            }
            execute_checked(job, pinned)
        }
        Some(pinned) => execute_pinned(job, pinned),
    }
}

/// By its name while that is it.
fn execute_pinned(job: &Job<'_>, pinned: &Pinned<'_>) -> Result<Infallible, SpawnError> {
    match leads_to(&job.plan.program, pinned.is) {
        Ok(false) | Err(libc::ENOENT | libc::ENOTDIR) => {}
        // Whoever may not look may not execute either, and hears why.
        Ok(true) | Err(_) => return Err(execute_name(job, &job.plan.program)),
    }
    if let Some(other) = pinned.other.as_ref().filter(|name| leads_to(name, pinned.is) == Ok(true)) {
        return Err(execute_name(job, other));
    }
    if pinned.by == ByDescriptor::Never {
        return Err(SpawnError { stage: Stage::ExecPinned, errno: libc::ESTALE });
    }
    Err(execute_descriptor(job))
}

/// By its descriptor, which was checked; by a name only where that cannot be done at all.
fn execute_checked(job: &Job<'_>, pinned: &Pinned<'_>) -> Result<Infallible, SpawnError> {
    let failure = execute_descriptor(job);
    // A script or an emulated program cannot open a descriptor that is closed; a filter may not know the call.
    if matches!(failure.errno, libc::ENOENT | libc::ENOSYS | libc::EPERM)
        && leads_to(&job.plan.program, pinned.is) == Ok(true)
    {
        return Err(execute_name(job, &job.plan.program));
    }
    Err(failure)
}

fn execute_name(job: &Job<'_>, name: &CStr) -> SpawnError {
    // SAFETY: terminated strings in lists that end with a null, all alive until the program has replaced us.
    unsafe { libc::execve(name.as_ptr(), job.argv.as_ptr(), job.env.as_ptr()) };
    failed(Stage::Exec)
}

fn execute_descriptor(job: &Job<'_>) -> SpawnError {
    let fd = job.program.unwrap_or(-1);
    let (argv, env) = (job.argv.as_ptr(), job.env.as_ptr());
    // SAFETY: terminated strings in lists that end with a null, all alive until the program has replaced us.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv, env, libc::AT_EMPTY_PATH) };
    failed(Stage::ExecPinned)
}

/// Whether a name leads to this file, or the errno of looking.
fn leads_to(name: &CStr, is: (u64, u64)) -> Result<bool, i32> {
    // SAFETY: a structure of integers, for which zeroes are valid.
    let mut about: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a terminated string, the kernel's answer has room in `about`.
    let done = unsafe { libc::fstatat(libc::AT_FDCWD, name.as_ptr(), &raw mut about, 0) };
    if done < 0 {
        return Err(nix::errno::Errno::last_raw());
    }
    Ok((about.st_dev as u64, about.st_ino as u64) == is)
}
