//! Standard input, output and error of a process that is about to be started.

use crate::daemon::ahead::Ahead;
use crate::daemon::launch::describe;
use crate::sys::aside::Foreign;
use crate::sys::fd;
use crate::sys::spawn::Credentials;
use crate::unit::{Input, Output, Service};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Standard input, output and error of a process, and the read ends of its log pipes.
#[derive(Debug)]
pub struct Streams {
    input: End,
    output: End,
    error: End,
    logs: [Option<OwnedFd>; 2],
}

/// One of them.
#[derive(Debug)]
enum End {
    /// Nobody else decides how long closing it takes.
    Own(OwnedFd),
    /// A copy of a socket that the service has too.
    Socket(Foreign),
    /// A file, whose file system is asked when it is closed.
    File(Foreign),
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Own(fd) => fd.as_fd(),
            End::Socket(fd) | End::File(fd) => fd.as_fd(),
        }
    }
}

impl Streams {
    /// Hooks have no socket: what would be it is /dev/null for them. Files were opened `ahead`; log pipes are the service's
    /// user's, `who`.
    ///
    /// # Errors
    /// What cannot be opened, and why.
    pub fn open(
        service: &Service,
        socket: Option<BorrowedFd<'_>>,
        who: Option<&Credentials>,
        ahead: &mut Ahead,
    ) -> Result<Streams, String> {
        let owner = who.map(|who| (who.uid, who.gid));
        let say = |what: &str, error: &std::io::Error| format!("{what}: {}", describe(error));
        let null = || fd::dev_null().map(End::Own).map_err(|error| say("/dev/null", &error));
        let copy = |from: BorrowedFd<'_>| fd::dup(from).map(End::Own).map_err(|error| say("a copy", &error));
        // Not our own way into it: a service could change its offset and mode, and truncate what we have written there.
        let ours =
            |from: BorrowedFd<'_>| fd::reopen_to_append(from).map(End::Own).map_or_else(|| copy(from), Ok);
        let shared = |from| copy_of(from).map(End::Socket);
        let input = match &service.standard_input {
            Input::Null => null()?,
            Input::Inherit => copy(std::io::stdin().as_fd())?,
            Input::File(path) => file(path, 0, ahead)?,
            Input::Socket => socket.map_or_else(null, shared)?,
        };
        let mut logs = [None, None];
        let output = match &service.standard_output {
            Output::Inherit => ours(std::io::stdout().as_fd())?,
            Output::Log => End::Own(log_pipe(&mut logs[0], owner)?),
            other => opened(other, socket, 1, ahead)?.map_or_else(null, Ok)?,
        };
        let error = match &service.standard_error {
            // As systemd: what standard output got, unless that is ours too.
            Output::Inherit if service.standard_output == Output::Inherit => ours(std::io::stderr().as_fd())?,
            Output::Inherit if matches!(output, End::Socket(_)) => shared(output.as_fd())?,
            Output::Inherit => copy(output.as_fd())?,
            Output::Log => End::Own(log_pipe(&mut logs[1], owner)?),
            other => opened(other, socket, 2, ahead)?.map_or_else(null, Ok)?,
        };
        Ok(Streams { input, output, error, logs })
    }

    /// Of a command whose words are wanted, wherever those of the service go.
    ///
    /// # Errors
    /// As [`Streams::open`].
    pub fn heard(who: Option<&Credentials>) -> Result<Streams, String> {
        let owner = who.map(|who| (who.uid, who.gid));
        let mut logs = [None, None];
        let null = fd::dev_null().map_err(|error| format!("/dev/null: {}", describe(&error)))?;
        let output = End::Own(log_pipe(&mut logs[0], owner)?);
        let error = End::Own(log_pipe(&mut logs[1], owner)?);
        Ok(Streams { input: End::Own(null), output, error, logs })
    }

    /// Descriptors 0, 1 and 2.
    pub fn borrow(&self) -> [BorrowedFd<'_>; 3] {
        [self.input.as_fd(), self.output.as_fd(), self.error.as_fd()]
    }

    /// The read ends of the log pipes: standard output's, standard error's. Closes the rest.
    pub fn into_logs(self) -> [Option<OwnedFd>; 2] {
        self.logs
    }
}

fn copy_of(socket: BorrowedFd<'_>) -> Result<Foreign, String> {
    fd::dup(socket).map(Foreign::from).map_err(|error| format!("a copy: {}", describe(&error)))
}

fn log_pipe(keep: &mut Option<OwnedFd>, owner: Option<(u32, u32)>) -> Result<OwnedFd, String> {
    let (source, sink) = fd::pipe().map_err(|error| format!("a log pipe: {}", describe(&error)))?;
    if let Some((uid, gid)) = owner {
        // So that it can open /dev/stdout, as many programs do. Without CAP_CHOWN only that does not work.
        let _ = fd::give_to(sink.as_fd(), uid, gid);
    }
    fd::set_blocking(source.as_fd(), fd::Blocking::No).map_err(|error| describe(&error))?;
    *keep = Some(source);
    Ok(sink)
}

/// A file for output, or a copy of the socket; `None` for /dev/null.
fn opened(
    output: &Output,
    socket: Option<BorrowedFd<'_>>,
    number: usize,
    ahead: &mut Ahead,
) -> Result<Option<End>, String> {
    match output {
        Output::File(path) | Output::Append(path) => file(path, number, ahead).map(Some),
        Output::Socket => socket.map(copy_of).transpose().map(|copy| copy.map(End::Socket)),
        Output::Null | Output::Inherit | Output::Log => Ok(None),
    }
}

fn file(path: &str, number: usize, ahead: &mut Ahead) -> Result<End, String> {
    let opened = ahead.stream(number).unwrap_or_else(|| Err(format!("{path}: it was not opened")));
    opened.map(End::File)
}
