//! Who the kernel's out-of-memory killer takes first: what the child writes to its own oom_score_adj.

use super::child::{Step, write_file};
use super::{Stage, job::Job};

/// What a process that is to go before all others has.
const FIRST: &[u8] = b"1000";

/// Sets the plan's value, as long as we may lower it, and opens the file for [`raise`], as long as it is ours. A child on
/// our memory has inherited what it is to have.
pub(super) fn set(job: &mut Job<'_>) -> Step {
    if let Some(text) = job.oom_score.as_ref().filter(|_| job.report.is_some()) {
        write_file(libc::AT_FDCWD, c"/proc/self/oom_score_adj", text.as_bytes(), Stage::OomScore)?;
    }
    // Who shares our memory shares this: the parent sets it when the program runs.
    if job.plan.oom_goes_first && job.report.is_some() {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        // SAFETY: the path is a terminated string. Without /proc nobody can raise it: no reason not to start.
        let fd = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), flags) };
        job.badness = (fd >= 0).then_some(fd);
    }
    Ok(())
}

/// Goes first. After the change of user: the kernel takes what somebody with CAP_SYS_RESOURCE writes for the least that
/// the process may have from then on, and it is to be put back later.
pub(super) fn raise(job: &mut Job<'_>) {
    let Some(fd) = job.badness.take() else { return };
    // SAFETY: the text is readable for its length.
    unsafe { libc::write(fd, FIRST.as_ptr().cast(), FIRST.len()) };
    // SAFETY: opened in `set`, used by nobody else.
    unsafe { libc::close(fd) };
}
