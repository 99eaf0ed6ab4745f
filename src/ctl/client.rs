//! The connection to the daemon: find it, ask, read its lines. Blocks; bounded in memory.

use super::command::Place;
use super::failure::Failure;
use crate::proto::control::{Line, MAX_ANSWER, Request, parse_line, to_request_line};
use crate::proto::paths::{control_path, runtime_dir};
use crate::sys::peer::peer_credentials;
use crate::sys::{claim, dir};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an AF_UNIX address can hold without its NUL: unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// What reading gave.
#[derive(Debug)]
pub(super) enum Next {
    /// A line of the answer.
    Line(Line),
    /// A second without one ([`Client::tick_every_second`]).
    Tick,
    /// The daemon, or whoever shut the socket down on our side, has ended the connection.
    End,
}

/// Which daemon is meant, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Its control socket.
    pub(super) path: PathBuf,
    /// The user that aeternactl runs as.
    pub(super) uid: u32,
}

impl Target {
    /// The daemon of this command line and this user (contract section 2).
    pub(super) fn of(place: &Place, uid: u32) -> Target {
        let path = match &place.control {
            Some(path) => PathBuf::from(path),
            None => {
                let env = |name: &str| std::env::var(name).ok();
                control_path(&runtime_dir(place.runtime_dir.as_deref(), &env, uid))
            }
        };
        Target { path, uid }
    }
}

/// One connection, one request at a time.
#[derive(Debug)]
pub(super) struct Client {
    reader: BufReader<UnixStream>,
    /// A line that has not yet come to its end.
    partial: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Failure::NoDaemon`] or [`Failure::Denied`], with the socket that was tried and what to do.
    pub(super) fn connect(target: &Target) -> Result<Client, Failure> {
        let stream = connect(&target.path).map_err(|error| no_daemon(target, &error))?;
        check_peer(&stream, target)?;
        Ok(Client { reader: BufReader::new(stream), partial: Vec::new() })
    }

    /// Connects and sends a request.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(super) fn ask(target: &Target, request: &Request) -> Result<Client, Failure> {
        let mut client = Client::connect(target)?;
        client.send(request)?;
        Ok(client)
    }

    /// Sends a request, after the answer to the one before.
    pub(super) fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let line = to_request_line(request).map_err(Failure::Broken)?;
        match self.reader.get_mut().write_all(&line) {
            // It may have said why before it closed the connection: that is still to be read.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::Broken(format!("cannot send the request to aeternad: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// A second handle on the socket, to shut it down from elsewhere.
    pub(super) fn handle(&self) -> io::Result<UnixStream> {
        self.reader.get_ref().try_clone()
    }

    /// From now on [`Client::next`] returns every second at the latest.
    pub(super) fn tick_every_second(&self) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(Duration::from_secs(1)))
    }

    /// The next line.
    ///
    /// # Errors
    /// [`Failure::Broken`] for what no aeternad sends.
    pub(super) fn next(&mut self) -> Result<Next, Failure> {
        let room = (MAX_ANSWER + 1).saturating_sub(self.partial.len());
        match (&mut self.reader).take(room as u64).read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.ends_with(b"\n") => {
                let line = std::mem::take(&mut self.partial);
                parse_line(&line)
                    .map(Next::Line)
                    .map_err(|error| Failure::Broken(format!("aeternad: {error}")))
            }
            Ok(_) if self.partial.len() > MAX_ANSWER => Err(Failure::Broken(format!(
                "aeternad: a line of its answer is longer than {MAX_ANSWER} bytes"
            ))),
            Ok(_) if self.partial.is_empty() => Ok(Next::End),
            Ok(_) => Err(Failure::Broken("aeternad broke off in the middle of a line".into())),
            // Without a line within the read timeout; what has come of it stays in `partial`.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Next::Tick),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Next::End),
            Err(error) => Err(Failure::Broken(format!("cannot read from aeternad: {error}"))),
        }
    }

    /// Whether the next line is here already, so that [`Client::next`] does not wait.
    pub(super) fn has_line(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

/// Connects, also where the path is too long for an address.
fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(path);
    }
    let name = path.file_name().ok_or(ErrorKind::NotFound)?;
    let dir = File::open(path.parent().unwrap_or(Path::new("/")))?;
    UnixStream::connect(Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

/// Whether a daemon of uid `peer` may be believed: root's or our own. Root may talk to anybody's.
fn is_trusted(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own || own == 0
}

/// Makes sure that nobody else has put a socket where the daemon's is looked for (a folder under /tmp, say). Who listens is
/// not enough: a service may have a listener that root has made for it.
fn check_peer(stream: &UnixStream, target: &Target) -> Result<(), Failure> {
    let shown = target.path.display();
    let peer = peer_credentials(stream.as_fd())
        .map_err(|error| Failure::NoDaemon(format!("cannot tell who listens on {shown}: {error}")))?;
    let owner = std::fs::symlink_metadata(&target.path)
        .map_err(|error| Failure::NoDaemon(format!("cannot tell whose {shown} is: {error}")))?
        .uid();
    let why = if !is_trusted(peer.uid, target.uid) {
        format!(
            "whoever listens on {shown} is uid {}, and neither root nor you (uid {})",
            peer.uid, target.uid
        )
    } else if owner != peer.uid {
        format!("{shown} belongs to uid {owner}, and whoever listens on it is uid {}", peer.uid)
    } else {
        // Root looks into the folders of others; there it is enough that folder, socket and daemon are one user's.
        match dir::spot(&target.path) {
            Ok(place) if place.is_safe || target.uid == 0 => return Ok(()),
            Ok(place) => format!("somebody else could have put {shown} there ({})", place.why),
            Err(error) => format!("cannot tell who could have put {shown} there: {error}"),
        }
    };
    Err(Failure::NoDaemon(format!(
        "{why}: not trusted.\n\
         Say where your aeternad is: --control PATH, --runtime-dir DIR or AETERNA_RUNTIME_DIR."
    )))
}

/// The aeternad whose folder this is, if the kernel says that one of root or our own user is there.
pub(super) fn lives_in(folder: &Path, uid: u32) -> Option<i32> {
    let folder = std::path::absolute(folder).ok()?;
    claim::holder(&folder).filter(|who| is_trusted(who.uid, uid)).map(|who| who.pid)
}

/// Why there is nobody, and what to do about it.
fn no_daemon(target: &Target, error: &io::Error) -> Failure {
    let path = &target.path;
    let shown = path.display();
    let lost =
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::ConnectionRefused);
    if let Some(pid) = path.parent().filter(|_| lost).and_then(|folder| lives_in(folder, target.uid)) {
        return Failure::NoDaemon(format!(
            "cannot connect to {shown}: aeternad (pid {pid}) runs, but it could not make its control socket again.\n\
             Its log says why; kill -HUP {pid} lets it try again."
        ));
    }
    if error.kind() == ErrorKind::PermissionDenied {
        return Failure::Denied(format!(
            "cannot connect to {shown}: permission denied.\n\
             Only root and the user whom aeternad runs as may talk to it: try sudo."
        ));
    }
    Failure::NoDaemon(match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => format!(
            "no aeternad is there: cannot connect to {shown}: there is no such file.\n\
             Start aeternad, or say where it is: --control PATH, --runtime-dir DIR or AETERNA_RUNTIME_DIR.{}",
            root_hint(path)
        ),
        ErrorKind::ConnectionRefused => format!(
            "no aeternad is there: cannot connect to {shown}: nobody listens on it any more.\n\
             Start aeternad again; it removes the stale file itself."
        ),
        _ => format!("cannot connect to {shown}: {error}.\nIs that the control socket of an aeternad?"),
    })
}

/// The system's own aeternad is often meant when there is no personal one.
fn root_hint(tried: &Path) -> &'static str {
    let system = Path::new("/run/aeterna/control.sock");
    if tried != system && system.exists() { "\nThere is one in /run/aeterna: try sudo." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_socket_is_not_trusted() {
        for (peer, own, trusted) in
            [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1000, 0, true), (1001, 1000, false)]
        {
            assert_eq!(is_trusted(peer, own), trusted, "{peer} {own}");
        }
    }

    #[test]
    fn a_socket_that_we_may_not_use_is_not_a_missing_daemon() {
        let target = Target { path: "/d/control.sock".into(), uid: 7 };
        let denied = no_daemon(&target, &io::Error::from(ErrorKind::PermissionDenied));
        assert!(denied.text().contains("try sudo"), "{denied:?}");
        assert_eq!(denied.exit_status(), crate::error::exit::FAILURE);
        let missing = no_daemon(&target, &io::Error::from(ErrorKind::NotFound));
        assert_eq!(missing.exit_status(), crate::error::exit::NO_DAEMON);
    }

    #[test]
    fn the_socket_is_where_the_command_line_says() {
        let place = Place { control: Some("/c".into()), runtime_dir: Some("/d".into()) };
        assert_eq!(Target::of(&place, 7).path, Path::new("/c"));
        let place = Place { control: None, runtime_dir: Some("/d".into()) };
        assert_eq!(Target::of(&place, 7).path, Path::new("/d/control.sock"));
    }
}
