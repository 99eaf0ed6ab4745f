//! Standard input, output and error of a process that is about to be started.

use crate::daemon::launch::describe;
use crate::sys::fd;
use crate::unit::{Input, Output, Service};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Standard input, output and error of a process, and the read ends of its log pipes.
#[derive(Debug)]
pub struct Streams {
    input: OwnedFd,
    output: OwnedFd,
    error: OwnedFd,
    logs: [Option<OwnedFd>; 2],
}

impl Streams {
    /// Hooks have no socket: what would be it is /dev/null for them.
    ///
    /// # Errors
    /// What cannot be opened, and why.
    pub fn open(service: &Service, socket: Option<BorrowedFd<'_>>) -> Result<Streams, String> {
        let say = |what: &str, error: &std::io::Error| format!("{what}: {}", describe(error));
        let null = || fd::dev_null().map_err(|error| say("/dev/null", &error));
        let copy = |from: BorrowedFd<'_>| fd::dup(from).map_err(|error| say("a copy", &error));
        let input = match &service.standard_input {
            Input::Null => null()?,
            Input::Inherit => copy(std::io::stdin().as_fd())?,
            Input::File(path) => std::fs::File::open(path).map_err(|error| say(path, &error))?.into(),
            Input::Socket => socket.map_or_else(null, copy)?,
        };
        let mut logs = [None, None];
        let output = match &service.standard_output {
            Output::Inherit => copy(std::io::stdout().as_fd())?,
            Output::Log => log_pipe(&mut logs[0])?,
            other => opened(other, socket)?.map_or_else(null, Ok)?,
        };
        let error = match &service.standard_error {
            // As systemd: what standard output got, unless that is ours too.
            Output::Inherit if service.standard_output == Output::Inherit => copy(std::io::stderr().as_fd())?,
            Output::Inherit => copy(output.as_fd())?,
            Output::Log => log_pipe(&mut logs[1])?,
            other => opened(other, socket)?.map_or_else(null, Ok)?,
        };
        Ok(Streams { input, output, error, logs })
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

fn log_pipe(keep: &mut Option<OwnedFd>) -> Result<OwnedFd, String> {
    let (source, sink) = fd::pipe().map_err(|error| format!("a log pipe: {}", describe(&error)))?;
    fd::set_blocking(source.as_fd(), fd::Blocking::No).map_err(|error| describe(&error))?;
    *keep = Some(source);
    Ok(sink)
}

/// Opens a file for output, or copies the socket; `None` for /dev/null.
fn opened(output: &Output, socket: Option<BorrowedFd<'_>>) -> Result<Option<OwnedFd>, String> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true);
    let (path, options) = match output {
        Output::File(path) => (path, options.write(true)),
        Output::Append(path) => (path, options.append(true)),
        Output::Socket => {
            return socket.map(fd::dup).transpose().map_err(|error| format!("a copy: {}", describe(&error)));
        }
        Output::Null | Output::Inherit | Output::Log => return Ok(None),
    };
    options.open(path).map(|file| Some(file.into())).map_err(|error| format!("{path}: {}", describe(&error)))
}
