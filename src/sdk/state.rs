//! State that outlives a reload: taken from the older generation at the start, given to the newer one when it
//! asks (aeterna-srp(7)).

use super::channel::{Channel, Incoming, Wait};
use super::log;
use crate::proto::srp::{FrameType, Hello, Message, Role, Totals};
use crate::sys::clock;
use crate::time::Span;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Json,
    /// Protobuf.
    Protobuf,
    /// Whatever the service makes of it.
    Bytes,
    /// JSON about the descriptors that come with the frame.
    Descriptors,
}

impl Kind {
    pub(super) const fn frame_type(self) -> FrameType {
        match self {
            Kind::Json => FrameType::StateJson,
            Kind::Protobuf => FrameType::StateProtobuf,
            Kind::Bytes => FrameType::StateBytes,
            Kind::Descriptors => FrameType::StateFd,
        }
    }

    /// The kind of a STATE frame; anything else would be bytes.
    pub(super) const fn of(kind: FrameType) -> Kind {
        match kind {
            FrameType::StateJson => Kind::Json,
            FrameType::StateProtobuf => Kind::Protobuf,
            FrameType::StateFd => Kind::Descriptors,
            _ => Kind::Bytes,
        }
    }
}

/// A piece of state: up to 4 GiB - 9 bytes, with up to 253 descriptors.
#[derive(Debug)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// The payload.
    pub payload: Vec<u8>,
    /// The descriptors of a [`Kind::Descriptors`] frame; another kind has none.
    pub descriptors: Vec<OwnedFd>,
}

impl Frame {
    /// State as JSON text.
    pub fn json(text: impl Into<String>) -> Frame {
        Frame { kind: Kind::Json, payload: text.into().into_bytes(), descriptors: Vec::new() }
    }

    /// State that only the service understands.
    pub fn bytes(payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind: Kind::Bytes, payload: payload.into(), descriptors: Vec::new() }
    }

    /// Descriptors (connections, memfds…) and the JSON that says what they are:
    /// `{"kind":"connection","name":"…"}`.
    pub fn descriptors(about: impl Into<String>, descriptors: Vec<OwnedFd>) -> Frame {
        Frame { kind: Kind::Descriptors, payload: about.into().into_bytes(), descriptors }
    }

    /// The payload as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> io::Result<&str> {
        std::str::from_utf8(&self.payload).map_err(io::Error::other)
    }
}

/// Whoever has the state while the service runs. Called on a thread of its own ([`State::keep`]).
pub trait Keeper: Send + 'static {
    /// A newer generation is about to take over: accept nothing more, change nothing any more, and give the
    /// state. Descriptors are given as duplicates, so that the service can go on if the reload fails.
    fn save(&mut self) -> Vec<Frame>;

    /// The handover was given up: serve on. With `Some`, with this state, which the newer generation gave
    /// back; with `None`, with one's own, which [`Keeper::save`] has left untouched.
    fn resume(&mut self, state: Option<Vec<Frame>>);

    /// The state is the newer generation's for good: do not store it anywhere when the stop signal comes.
    fn committed(&mut self) {}
}

/// This generation's connection to aeternad's SRP socket.
#[derive(Debug)]
pub struct State {
    path: Option<PathBuf>,
    channel: Option<Channel>,
}

impl State {
    /// The socket that `AETERNA_STATE_SOCK` names; without one there is no state and nobody to keep it for.
    pub fn connect() -> State {
        State { path: std::env::var_os("AETERNA_STATE_SOCK").map(PathBuf::from), channel: None }
    }

    /// A socket by its path.
    pub fn at(path: &Path) -> State {
        State { path: Some(path.to_path_buf()), channel: None }
    }

    /// Takes the older generation's state over. Blocks until it is there.
    ///
    /// `apply` turns the frames (at least one) into what the service works with; the state is acknowledged only
    /// if it can. `None` if there is no older generation, or its state cannot be had: then a line on standard
    /// error says why, and the service begins afresh.
    pub fn load<T, E: std::fmt::Display>(
        &mut self,
        apply: impl FnOnce(Vec<Frame>) -> Result<T, E>,
    ) -> Option<T> {
        let path = self.path.clone()?;
        match self.try_load(&path, apply) {
            Ok(state) => state,
            Err(error) => {
                log(&format!("no state was taken over, beginning with none: {error}"));
                None
            }
        }
    }

    fn try_load<T, E: std::fmt::Display>(
        &mut self,
        path: &Path,
        apply: impl FnOnce(Vec<Frame>) -> Result<T, E>,
    ) -> io::Result<Option<T>> {
        let mut channel = greet(path, Role::Sink)?;
        let frames = receive(&mut channel)?;
        let state = if frames.is_empty() {
            None
        } else {
            match guarded(|| apply(frames)).map(|applied| applied.map_err(|error| error.to_string())) {
                Ok(Ok(state)) => Some(state),
                Ok(Err(why)) | Err(why) => {
                    channel.say(&Message::error("load_failed", why.clone()))?;
                    return Err(io::Error::other(why));
                }
            }
        };
        channel.say(&Message::Finished(None))?;
        self.channel = Some(channel);
        Ok(state)
    }

    /// Gives the state to whoever asks for it, on a thread of its own. If the connection ends it connects again, until
    /// the state is a newer generation's. Does nothing without aeternad.
    pub fn keep(self, mut keeper: impl Keeper) -> Kept {
        let kept = Kept { standing: Arc::default() };
        let Some(path) = self.path else { return kept };
        let theirs = kept.clone();
        let work = move || keep_connected(&path, self.channel, &mut keeper, &theirs);
        if let Err(error) = std::thread::Builder::new().name("aeterna-state".into()).spawn(work) {
            log(&format!("no state will be handed over: cannot start a thread: {error}"));
        }
        kept
    }
}

/// Whose the state is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Mine,
    /// It was asked for; COMMIT or RESUME will come.
    Asked,
    Theirs,
}

/// What has become of a state that is kept for a newer generation.
#[derive(Debug, Clone)]
pub struct Kept {
    standing: Arc<(Mutex<Standing>, Condvar)>,
}

impl Kept {
    /// Whether the state is a newer generation's for good: to be asked when the stop signal has come, before
    /// anything is stored or said to clients. aeternad's word on it precedes the signal on another way, so
    /// this waits, if the state was asked for, until that has been read; not on the keeper's own thread.
    pub fn is_handed_over(&self) -> bool {
        let (standing, changed) = &*self.standing;
        let mut standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
        while *standing == Standing::Asked {
            standing = changed.wait(standing).unwrap_or_else(PoisonError::into_inner);
        }
        *standing == Standing::Theirs
    }

    fn is(&self, what: Standing) -> bool {
        *self.standing.0.lock().unwrap_or_else(PoisonError::into_inner) == what
    }

    fn set(&self, what: Standing) {
        *self.standing.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.standing.1.notify_all();
    }
}

/// Connects and says HELLO; aeternad's answer is the first frame.
fn greet(path: &Path, role: Role) -> io::Result<Channel> {
    let mut channel = Channel::connect(path)
        .map_err(|error| io::Error::other(format!("cannot connect to {}: {error}", path.display())))?;
    channel.say(&Message::Hello(role.into()))?;
    match channel.read(Wait::Soon)? {
        Incoming::Message(Message::Hello(Hello::Coordinator { .. })) => Ok(channel),
        Incoming::Message(Message::Error(complaint)) => Err(io::Error::other(complaint.message)),
        Incoming::Message(Message::Hello(other)) => {
            Err(io::Error::other(format!("HELLO was answered by {other:?}")))
        }
        // aeternad has taken the role for granted meanwhile: its HELLO comes later.
        early => {
            channel.unread(early);
            Ok(channel)
        }
    }
}

/// Frames up to FINISHED. aeternad's own deadline ends the waiting: it then says ERROR.
fn receive(channel: &mut Channel) -> io::Result<Vec<Frame>> {
    let mut frames = Vec::new();
    loop {
        match channel.read(Wait::Idle)? {
            Incoming::State(frame) => frames.push(frame),
            Incoming::Message(Message::Hello(_)) => {}
            Incoming::Message(Message::Finished(_)) => return Ok(frames),
            Incoming::Message(Message::Error(complaint)) => return Err(io::Error::other(complaint.message)),
            Incoming::Message(other) => {
                return Err(io::Error::other(format!("{} among the state", other.kind())));
            }
        }
    }
}

/// Answers aeternad, and connects again whenever the connection ends without COMMIT: aeternad may be about to be started
/// again, and without a source every later reload would begin with no state.
fn keep_connected(path: &Path, channel: Option<Channel>, keeper: &mut impl Keeper, kept: &Kept) {
    let mut channel = channel;
    // One line for each time that aeternad is away.
    let mut quiet = false;
    loop {
        let began = clock::now();
        let connected = channel.take().map_or_else(|| greet(path, Role::Source), Ok);
        let is_connected = connected.is_ok();
        let end = match connected {
            Ok(channel) => {
                if std::mem::take(&mut quiet) {
                    log("connected to aeternad again");
                }
                guarded(|| serve(channel, keeper, kept)).unwrap_or_else(io::Error::other)
            }
            Err(error) => error,
        };
        // Nobody can say any more that the newer generation has it for good.
        if kept.is(Standing::Asked) {
            if let Err(why) = guarded(|| keeper.resume(None)) {
                log(&format!("the service could not resume: {why}"));
            }
            kept.set(Standing::Mine);
        }
        if kept.is(Standing::Theirs) || end.kind() == io::ErrorKind::AlreadyExists {
            return;
        }
        if !std::mem::replace(&mut quiet, true) {
            log(&format!("the connection to aeternad is over, connecting again: {end}"));
        }
        // Somebody may end every connection at once.
        let was_long = is_connected && clock::now().since(began) > Span::from_secs(1);
        std::thread::sleep(Duration::from_millis(if was_long { 100 } else { 1000 }));
    }
}

/// Answers aeternad until the connection ends, and says why it did: [`io::ErrorKind::AlreadyExists`] if a newer one has
/// its place.
fn serve(mut channel: Channel, keeper: &mut impl Keeper, kept: &Kept) -> io::Error {
    loop {
        let said = match channel.read(Wait::Idle) {
            Ok(said) => said,
            Err(error) => return error,
        };
        let done = match said {
            Incoming::Message(Message::Request) => {
                kept.set(Standing::Asked);
                match guarded(|| keeper.save()) {
                    Ok(frames) => give(&channel, &frames),
                    Err(why) => {
                        // RESUME will follow.
                        log(&format!("the state cannot be saved: {why}"));
                        channel.say(&Message::error("save_failed", why))
                    }
                }
            }
            Incoming::Message(Message::Resume) => {
                let frames = receive(&mut channel);
                let acknowledged = match &frames {
                    Ok(_) => channel.say(&Message::Finished(None)),
                    Err(_) => Ok(()),
                };
                keeper.resume(frames.ok().filter(|frames| !frames.is_empty()));
                kept.set(Standing::Mine);
                acknowledged
            }
            Incoming::Message(Message::Commit) => {
                keeper.committed();
                kept.set(Standing::Theirs);
                Ok(())
            }
            // The acknowledgement; COMMIT or RESUME will follow.
            Incoming::Message(Message::Finished(_)) => Ok(()),
            // A late one.
            Incoming::Message(Message::Hello(Hello::Coordinator { .. })) => Ok(()),
            Incoming::Message(Message::Error(complaint)) if complaint.code == "replaced" => {
                Err(io::Error::new(io::ErrorKind::AlreadyExists, complaint.message))
            }
            Incoming::Message(Message::Error(complaint)) => {
                log(&format!("aeternad reports {}: {}", complaint.code, complaint.message));
                Ok(())
            }
            Incoming::Message(Message::Hello(_)) | Incoming::State(_) => {
                Err(io::Error::other("a frame that does not belong here"))
            }
        };
        if let Err(error) = done {
            return error;
        }
    }
}

/// Makes an error of a panic of the service's: a state that cannot be had is no reason to die, and whoever waits
/// for it must be told.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
    })
}

fn give(channel: &Channel, frames: &[Frame]) -> io::Result<()> {
    for frame in frames {
        channel.send(frame)?;
    }
    let bytes = frames.iter().map(|frame| frame.payload.len() as u64).sum();
    channel.say(&Message::Finished(Some(Totals { frames: Some(frames.len() as u64), bytes: Some(bytes) })))
}
