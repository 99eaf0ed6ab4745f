//! Making the process: clone3(2), else clone(2). Both share the memory with the child and suspend this thread until the
//! child has executed or ended, so the child needs a stack of its own and nothing else.

use super::job::{self, Job};
use super::{Process, child};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A way to make the process; it returns when the child has executed or ended, or fails with an errno.
pub(super) type Way = fn(&mut Job<'_>, &mut Stack) -> Result<Process, i32>;

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

/// Makes the child, which runs `job`, by the first way that works. Returns when it has executed or failed: then
/// `job.failure` says so.
///
/// # Errors
/// The errno of the last way.
pub(super) fn start(job: &mut Job<'_>, ways: &[Way]) -> Result<Process, i32> {
    let mut stack: Stack = Vec::with_capacity(STACK);
    // SAFETY: the elements may be uninitialised.
    unsafe { stack.set_len(STACK) };
    // A handler must not run in the child, on our memory.
    let before = set_mask(u64::MAX);
    let mut result = Err(libc::ENOSYS);
    for way in ways {
        result = way(job, &mut stack);
        if result.is_ok() {
            break;
        }
    }
    set_mask(before);
    result
}

/// clone3(2), into the cgroup at once.
pub(super) fn by_clone3(job: &mut Job<'_>, stack: &mut Stack) -> Result<Process, i32> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd).addr() as u64,
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
    // register and the stack as they were. The child, alone on its aligned stack, calls a function that never returns.
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
pub(super) fn by_clone(job: &mut Job<'_>, stack: &mut Stack) -> Result<Process, i32> {
    let mut pidfd: i32 = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    job.joins_cgroup = job.plan.cgroup.is_some();
    job.dispositions = job::EVERY_SIGNAL;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: `top` is the aligned end of a stack that only the child uses; `job` and `pidfd` outlive the call, and this
    // thread is suspended while the child uses them.
    let pid = unsafe { libc::clone(child::main, top.cast(), flags, (&raw mut *job).cast(), &raw mut pidfd) };
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
