//! What a terminal says about itself, see ioctl_tty(2). Any thread.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// How many columns and rows the terminal behind `fd` has; `None` if it is none, or does not say.
pub fn size(fd: BorrowedFd<'_>) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` where the pointer says, and `size` lives until after the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_col > 0).then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// Whether a descriptor is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    nix::unistd::isatty(fd).unwrap_or(false)
}

/// Whether we lead our session: nobody can have stopped us from a shell, and could let us go on.
pub fn leads_session() -> bool {
    // SAFETY: takes a number only; 0 is ourselves.
    unsafe { libc::getsid(0) == super::process::pid() }
}

/// A terminal that hands on each key at once and shows none, until this is dropped: see termios(3).
pub struct Raw {
    fd: OwnedFd,
    before: libc::termios,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raw({})", self.fd.as_raw_fd())
    }
}

impl Raw {
    /// Keys that make signals go on to make them.
    ///
    /// # Errors
    /// `ENOTTY` if it is no terminal, or another process group has it: changing it then would stop us.
    pub fn begin(fd: BorrowedFd<'_>) -> std::io::Result<Raw> {
        let raw = fd.as_raw_fd();
        // SAFETY: takes a number only.
        let foreground = unsafe { libc::tcgetpgrp(raw) };
        // SAFETY: takes nothing.
        let own = unsafe { libc::getpgrp() };
        if foreground != own {
            return Err(std::io::Error::from_raw_os_error(libc::ENOTTY));
        }
        // SAFETY: termios is plain data: all zeroes is a valid one.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: writes one `termios` where the pointer says, and `before` lives until after the call.
        if unsafe { libc::tcgetattr(raw, &raw mut before) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let mut keys = before;
        keys.c_lflag &= !(libc::ICANON | libc::ECHO);
        keys.c_cc[libc::VMIN] = 1;
        keys.c_cc[libc::VTIME] = 0;
        let fd = fd.try_clone_to_owned()?;
        // SAFETY: reads one `termios`, which lives until after the call.
        if unsafe { libc::tcsetattr(raw, libc::TCSADRAIN, &raw const keys) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Raw { fd, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        // SAFETY: reads one `termios`, which lives until after the call.
        unsafe { libc::tcsetattr(self.fd.as_raw_fd(), libc::TCSADRAIN, &raw const self.before) };
    }
}

/// Gives our controlling terminal up, if it is the one behind `fd` and we lead its session: another session can then have
/// it. Its foreground group, which we are mostly alone in, gets SIGHUP; ours is thrown away. Before anything is started.
pub fn let_go(fd: BorrowedFd<'_>) {
    let mut session: libc::pid_t = 0;
    // SAFETY: TIOCGSID writes one number where the pointer says, and `session` lives until after the call.
    let known = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGSID, &raw mut session) } == 0;
    if !known || session != super::process::pid() {
        return;
    }
    // SAFETY: takes numbers only.
    unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCNOTTY) };
    for disposition in [libc::SIG_IGN, libc::SIG_DFL] {
        // A signal that waits is thrown away when it is ignored.
        // SAFETY: neither disposition runs code of ours.
        unsafe { libc::signal(libc::SIGHUP, disposition) };
    }
}

/// Both ends of a new pseudo-terminal.
#[cfg(test)]
pub struct Pair {
    /// The end of whoever shows it.
    pub master: OwnedFd,
    /// The terminal.
    pub slave: OwnedFd,
}

/// A new pseudo-terminal, which becomes nobody's controlling terminal.
///
/// # Errors
/// Those of posix_openpt(3).
#[cfg(test)]
pub fn pair() -> std::io::Result<Pair> {
    use std::os::fd::{AsFd, FromRawFd};
    use std::os::unix::fs::OpenOptionsExt;
    let open = |path: &str| {
        let flags = libc::O_NOCTTY | libc::O_CLOEXEC;
        std::fs::File::options().read(true).write(true).custom_flags(flags).open(path).map(OwnedFd::from)
    };
    let master = open("/dev/ptmx")?;
    let (unlock, raw) = (0_i32, master.as_fd().as_raw_fd());
    // SAFETY: reads one int.
    unsafe { libc::ioctl(raw, libc::TIOCSPTLCK, &raw const unlock) };
    // SAFETY: takes numbers only.
    let slave =
        unsafe { libc::ioctl(raw, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    if slave < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(Pair { master, slave: unsafe { OwnedFd::from_raw_fd(slave) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_is_no_terminal() {
        assert_eq!(size(std::fs::File::open("/dev/null").unwrap().as_fd()), None);
    }
}
