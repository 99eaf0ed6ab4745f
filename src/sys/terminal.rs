//! What a terminal says about itself, see ioctl_tty(2). Any thread.

use std::os::fd::{AsRawFd, BorrowedFd};

/// How many columns and rows the terminal behind `fd` has; `None` if it is none, or does not say.
pub fn size(fd: BorrowedFd<'_>) -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` where the pointer says, and `size` lives until after the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && size.ws_col > 0).then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
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
