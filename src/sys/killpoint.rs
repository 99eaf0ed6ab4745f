//! Dying on purpose, for tests: at the N-th of the places that are marked with [`here`], as if by SIGKILL. Only in builds
//! with debug assertions; in others nothing is looked at.
//!
//! `AETERNA_KILL_AT` names a file. When it is there, the number in it is read, the file is removed, and the counting begins.

/// A place to die at.
#[cfg(not(debug_assertions))]
pub fn here() {}

/// A place to die at.
#[cfg(debug_assertions)]
pub fn here() {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    static LEFT: AtomicI64 = AtomicI64::new(0);
    let Some(file) = FILE.get_or_init(|| std::env::var_os("AETERNA_KILL_AT").map(PathBuf::from)) else {
        return;
    };
    if LEFT.load(Ordering::Relaxed) == 0 {
        let Some(number) = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok())
        else {
            return;
        };
        let _ = super::dir::remove_file(file);
        LEFT.store(number, Ordering::Relaxed);
    }
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        // It does not return.
        let _ = super::process::kill(super::process::pid(), libc::SIGKILL);
    }
}
