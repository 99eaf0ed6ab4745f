//! A connection of either family.

use crate::time::Span;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connected stream. Shared by its thread and whoever ends it.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// A read that takes longer fails with `WouldBlock`. Not zero.
    pub fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_read_timeout(Some(time)),
        }
    }

    /// A write that takes longer fails with `WouldBlock`. Not zero.
    pub fn set_write_timeout(&self, time: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_write_timeout(Some(time)),
            Stream::Unix(stream) => stream.set_write_timeout(Some(time)),
        }
    }

    /// Ends one or both directions; wakes whoever reads or writes.
    pub fn shutdown(&self, how: Shutdown) {
        // A connection that the peer has ended already cannot be ended once more.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(how),
            Stream::Unix(stream) => stream.shutdown(how),
        };
    }

    /// Takes what has arrived unread: closing over it would reset the connection. Waits for nothing.
    pub(super) fn forget_input(&self) {
        self.shutdown(Shutdown::Write);
        let _ = match self {
            Stream::Tcp(stream) => stream.set_nonblocking(true),
            Stream::Unix(stream) => stream.set_nonblocking(true),
        };
        let mut stream = self;
        let mut bytes = [0; 4096];
        for _ in 0..32 {
            if !matches!(stream.read(&mut bytes), Ok(count) if count > 0) {
                return;
            }
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => {
                let mut stream = stream;
                stream.read(buffer)
            }
            Stream::Unix(stream) => {
                let mut stream = stream;
                stream.read(buffer)
            }
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => {
                let mut stream = stream;
                stream.write(buffer)
            }
            Stream::Unix(stream) => {
                let mut stream = stream;
                stream.write(buffer)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A span for the standard library's sockets: at least a millisecond, as zero means "without end" there.
pub(super) fn duration(span: Span) -> Duration {
    Duration::from_nanos(span.0).max(Duration::from_millis(1))
}
