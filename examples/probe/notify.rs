//! sd_notify(3), spoken by hand, with descriptors.

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Sends one message; whether there was somebody to send it to.
pub(crate) fn send(message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(false) };
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path.as_str())?,
    };
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control[..] };
    let text = [io::IoSlice::new(message.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, control, MsgFlags::MSG_NOSIGNAL, Some(&address))?;
    Ok(true)
}

/// FDSTORE=1 with a sealed memfd; `more` are further lines of the message.
pub(crate) fn store_memfd(name: &str, content: &[u8], more: &str) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let memfd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(content)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all() - SealFlag::F_SEAL_FUTURE_WRITE))?;
    let separator = if more.is_empty() { "" } else { "\n" };
    send(&format!("FDSTORE=1\nFDNAME={name}{separator}{more}"), &[file.as_fd()])
}

/// BARRIER=1: true once everything that was sent before has been read.
pub(crate) fn barrier() -> io::Result<bool> {
    let (rx, tx) = io::pipe()?;
    if !send("BARRIER=1", &[tx.as_fd()])? {
        return Ok(false);
    }
    drop(tx);
    let timeout = nix::poll::PollTimeout::from(10_000u16);
    Ok(crate::readable(&[rx.as_fd()], timeout)?[0])
}
