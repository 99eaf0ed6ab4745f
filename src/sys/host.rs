//! The machine's name: gethostname(2). Any thread.

use nix::libc;

/// Its name, as it is now; a container has one of its own. Empty if the kernel does not tell.
pub fn name() -> String {
    let mut bytes = [0_u8; 256];
    // SAFETY: writes at most the length that it is given, into `bytes`, which lives until after the call.
    let done = unsafe { libc::gethostname(bytes.as_mut_ptr().cast(), bytes.len() - 1) };
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    let name = bytes.get(..end).unwrap_or_default();
    if done == 0 { String::from_utf8_lossy(name).into_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_name_is_the_kernels() {
        let told = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(super::name(), told.trim());
    }
}
