//! Making the process: clone3(2), else clone(2), each in one of two ways.
//!
//! [`Memory::Shared`] is fast: the child runs on our memory, on a stack of its own, while this thread waits for it with a
//! time limit. The kernel clears a word and wakes us when the child has left our memory, by execve(2) or by its end. Who
//! is late is ended: nobody else's doing may go on in our memory for long. [`Memory::Copied`] is for them, and for what
//! cannot share: the child has a copy of everything, and may take its time.

use super::job::{self, Job};
use super::{Process, child, gate};
use crate::time::Span;
use std::cell::Cell;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whose memory a child runs on.
#[derive(Clone, Copy)]
pub(super) enum Memory<'a> {
    /// Ours, until it executes: then the kernel clears this word.
    Shared(&'a AtomicU32),
    /// Its own.
    Copied,
}

/// A way to make the process; it returns at once, or fails with an errno.
pub(super) type Way = fn(&mut Job<'_>, &mut Stack, Memory<'_>) -> Result<Process, i32>;

/// Every way, the best first. Whatever clone3 does not like, the older call says more exactly: a filter that forbids it
/// (ENOSYS, EPERM), an older kernel, a cgroup that takes no process.
pub(super) const WAYS: [Way; 2] = [by_clone3, by_clone];

/// Room for the child's few calls, in 16-byte units: 64 KiB. Only what it touches ever becomes memory.
const STACK: usize = 4096;

/// The child's stack; it is used from its end.
pub(super) type Stack = Vec<MaybeUninit<u128>>;

/// What the kernel reads for clone3(2), version 2 of the structure.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Handlers of this process cannot run in the child (clone3 only).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// The child starts in the cgroup (clone3 only).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What became of a child on our memory.
pub(super) enum Shared<'a> {
    /// It has executed or failed: `job.failure` says so.
    Left(Process, Box<Job<'a>>),
    /// It was ended, because it had not in time.
    Late,
}

/// A child that was told to end and has not left our memory yet: it waits for a disk, or for a file system that does not
/// answer. It runs nothing any more, but the kernel may still read what it was given, and whoever may trace its user
/// could write our memory through it, if this process could be dumped.
struct Leaving {
    left: Box<AtomicU32>,
    _stack: Stack,
    _job: Box<Job<'static>>,
    was_dumpable: bool,
}

// SAFETY: it is only kept and dropped; its pointers are never followed.
unsafe impl Send for Leaving {}

static LEAVING: Mutex<Vec<Leaving>> = Mutex::new(Vec::new());

/// So many of them are kept: more cannot come, as the next child gets a copy.
const MOST_LEAVING: usize = 16;

/// How long a child that was ended is waited for.
const END: Span = Span::from_millis(10);

thread_local! {
    /// The stack of the last child that shared our memory: whoever starts often touches the same pages.
    static STACK_KEPT: Cell<Stack> = const { Cell::new(Vec::new()) };
}

fn leaving() -> std::sync::MutexGuard<'static, Vec<Leaving>> {
    LEAVING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether a child may run on our memory: not too many are still on it that should not be.
pub(super) fn may_share() -> bool {
    let mut list = leaving();
    let mut restore = false;
    list.retain(|late| {
        let there = late.left.load(Ordering::Acquire) != 0;
        restore |= !there && late.was_dumpable;
        there
    });
    if let Some(other) = list.first_mut() {
        // As long as anybody is left, nobody may look into us through him.
        other.was_dumpable |= restore;
    } else if restore {
        job::make_dumpable();
    }
    list.len() < MOST_LEAVING
}

/// Makes the child, which runs `job` on our memory, by the first way that works, and waits until it has left it, at most for
/// `patience`.
///
/// # Errors
/// The errno of the last way.
pub(super) fn share<'a>(job: Job<'a>, ways: &[Way], patience: Span) -> Result<Shared<'a>, i32> {
    let left = Box::new(AtomicU32::new(1));
    let mut stack = STACK_KEPT.take();
    if stack.is_empty() {
        stack = new_stack();
    }
    // A pointer from here on: the child changes what is behind it.
    let raw = Box::into_raw(Box::new(job));
    // SAFETY: nobody else has it yet.
    let started = start(unsafe { &mut *raw }, &mut stack, ways, Memory::Shared(&left));
    let in_time = started.is_err() || wait_left(&left, patience);
    // SAFETY: it came from a box. If its child has not left then nothing in it is looked at.
    let job = unsafe { Box::from_raw(raw) };
    let process = started?;
    if in_time {
        STACK_KEPT.set(stack);
        job.restore_dumpable(leaving().is_empty());
        return Ok(Shared::Left(process, job));
    }
    // Whoever it is that holds it up: from here on it makes no step any more.
    let ended = crate::sys::process::kill(process.pid, libc::SIGKILL);
    if wait_left(&left, END) {
        job.restore_dumpable(leaving().is_empty());
        if ended.is_err() {
            // It has just become a program that we may not end.
            return Ok(Shared::Left(process, job));
        }
        bury(&process, END);
        return Ok(Shared::Late);
    }
    let was_dumpable = job.was_dumpable();
    // SAFETY: the two types differ in a lifetime only, and what it says to live long enough is never looked at again.
    let job = unsafe { std::mem::transmute::<Box<Job<'a>>, Box<Job<'static>>>(job) };
    leaving().push(Leaving { left, _stack: stack, _job: job, was_dumpable });
    Ok(Shared::Late)
}

/// Makes the child, which runs a copy of `job`, by the first way that works.
///
/// # Errors
/// The errno of the last way.
pub(super) fn copy(job: &mut Job<'_>, ways: &[Way]) -> Result<Process, i32> {
    let mut stack = new_stack();
    start(job, &mut stack, ways, Memory::Copied)
}

/// Reaps a child that is about to be dead; not one that takes longer than `patience`, because a file system does not answer
/// to the closing of its files: whoever reaps everybody reaps that too.
pub(super) fn bury(process: &Process, patience: Span) {
    use std::os::fd::AsFd;
    let dead = process.pidfd.as_ref().is_none_or(|pidfd| crate::sys::fd::readable(pidfd.as_fd(), patience));
    if dead {
        // There is nobody to tell if it cannot be reaped.
        let _ = crate::sys::wait::reap(process.pid);
    }
}

fn new_stack() -> Stack {
    let mut stack: Stack = Vec::with_capacity(STACK);
    // SAFETY: the elements may be uninitialised.
    unsafe { stack.set_len(STACK) };
    stack
}

fn start(job: &mut Job<'_>, stack: &mut Stack, ways: &[Way], memory: Memory<'_>) -> Result<Process, i32> {
    // What the child works on is not looked at once it is there.
    let (at, register) = (job.gate, job.plan.register);
    // A handler must not run in the child.
    let before = set_mask(u64::MAX);
    let mut result = Err(libc::ENOSYS);
    for way in ways {
        result = way(job, stack, memory);
        if result.is_ok() {
            break;
        }
    }
    set_mask(before);
    if let (Ok(process), Some(register), Some((_, write))) = (&result, register, at) {
        use std::os::fd::AsFd;
        (register.0)(process.pid, process.pidfd.as_ref().map(AsFd::as_fd));
        gate::open(write);
    }
    result
}

/// Waits until the kernel has cleared the word; whether it has in time.
fn wait_left(word: &AtomicU32, patience: Span) -> bool {
    let end = crate::sys::clock::now() + patience;
    while word.load(Ordering::Acquire) != 0 {
        let rest = end.since(crate::sys::clock::now());
        if rest.is_zero() {
            return false;
        }
        let time = libc::timespec {
            tv_sec: (rest.0 / 1_000_000_000) as libc::time_t,
            tv_nsec: (rest.0 % 1_000_000_000) as _,
        };
        // SAFETY: the kernel reads the word and the time. Not the private kind: that is not how it wakes us.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, 1, &raw const time) };
    }
    true
}

/// The flags that share our memory, and where the word is.
fn sharing(memory: Memory<'_>) -> (i32, *mut u32) {
    match memory {
        Memory::Shared(word) => (libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID, word.as_ptr()),
        Memory::Copied => (0, std::ptr::null_mut()),
    }
}

/// clone3(2), into the cgroup at once.
pub(super) fn by_clone3(job: &mut Job<'_>, stack: &mut Stack, memory: Memory<'_>) -> Result<Process, i32> {
    let mut pidfd: i32 = -1;
    let (sharing, word) = sharing(memory);
    let mut args = CloneArgs {
        flags: (sharing | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd).addr() as u64,
        child_tid: word.expose_provenance() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr().expose_provenance() as u64,
        stack_size: size_of_val(stack.as_slice()) as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = job.plan.cgroup.filter(|_| !job.plan.joins_cgroup) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    job.joins_cgroup = job.plan.joins_cgroup && job.plan.cgroup.is_some();
    // The kernel has dealt with the handlers; what is ignored it leaves.
    job.dispositions = job::ignored_signals();
    let pid = clone3(&raw mut args, (&raw mut *job).cast());
    if pid < 0 { Err(-pid as i32) } else { Ok(process(pid as i32, pidfd)) }
}

/// clone3(2), with the child on its stack before it can return anywhere: the pid, or an errno, negative.
#[cfg(target_arch = "x86_64")]
fn clone3(args: *mut CloneArgs, job: *mut c_void) -> isize {
    let result;
    // SAFETY: `args` is complete and its stack unused. The parent goes on behind the block with the result, every other
    // register and the stack as they were. The child, alone on its aligned stack, calls a function that never returns; what
    // it is given lives until it has left our memory.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {job}",
            "call {child}",
            "ud2",
            "2:",
            job = in(reg) job,
            child = in(reg) child::main as extern "C" fn(*mut c_void) -> i32,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<CloneArgs>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// clone3(2), with the child on its stack before it can return anywhere: the pid, or an errno, negative.
#[cfg(target_arch = "aarch64")]
fn clone3(args: *mut CloneArgs, job: *mut c_void) -> isize {
    let result;
    // SAFETY: `args` is complete and its stack unused. The parent goes on behind the block with the result, every other
    // register and the stack as they were. The child, alone on its aligned stack, calls a function that never returns.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, {job}",
            "blr {child}",
            "brk #1",
            "2:",
            job = in(reg) job,
            child = in(reg) child::main as extern "C" fn(*mut c_void) -> i32,
            in("x8") libc::SYS_clone3,
            inlateout("x0") args => result,
            in("x1") size_of::<CloneArgs>(),
        );
    }
    result
}

/// Without a way to enter the child here, clone(2) is the way.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn clone3(_args: *mut CloneArgs, _job: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}

/// clone(2); the child joins the cgroup itself.
pub(super) fn by_clone(job: &mut Job<'_>, stack: &mut Stack, memory: Memory<'_>) -> Result<Process, i32> {
    let mut pidfd: i32 = -1;
    let (sharing, word) = sharing(memory);
    let flags = sharing | libc::CLONE_PIDFD | libc::SIGCHLD;
    let none: *mut c_void = std::ptr::null_mut();
    job.joins_cgroup = job.plan.cgroup.is_some();
    job.dispositions = job::EVERY_SIGNAL;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: `top` is the aligned end of a stack that only the child uses; `pidfd` outlives the call, and `job` and `word`
    // live until the child has left our memory.
    let pid = unsafe {
        libc::clone(child::main, top.cast(), flags, (&raw mut *job).cast(), &raw mut pidfd, none, word)
    };
    if pid < 0 { Err(nix::errno::Errno::last_raw()) } else { Ok(process(pid, pidfd)) }
}

fn process(pid: i32, pidfd: i32) -> Process {
    // SAFETY: the kernel has made this descriptor for the call, close-on-exec; nobody else knows it.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Process { pid, pidfd, listener: None, lowered: 0 }
}

/// Sets the signal mask of the calling thread past the C library, which hides two signals; returns the one before.
pub(super) fn set_mask(mask: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: the kernel reads and writes 8 bytes each. It cannot fail.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            size_of::<u64>(),
        )
    };
    before
}
