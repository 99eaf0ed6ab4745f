use super::*;
use crate::daemon::relay::{self, RelayOutcome, RelayResult};
use crate::proto::srp::{Decoder, FrameType, HEADER, Header, Hello, Piece};
use crate::sys::clock;
use crate::sys::stream::{Moved, Watch};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::mpsc;

const OLD: Gen = Gen(1);
const NEW: Gen = Gen(2);

/// The daemon's side as its loop would drive it, with a virtual clock for everything but the relay.
struct World {
    endpoint: Endpoint,
    now: Monotime,
    outcomes: (mpsc::Sender<RelayOutcome>, mpsc::Receiver<RelayOutcome>),
    polled: BTreeMap<ConnId, Wants>,
    events: Vec<SrpEvent>,
    /// Of its transfers.
    returns: bool,
}

/// A peer's end of a connection.
struct Client {
    id: ConnId,
    stream: UnixStream,
    decoder: Decoder,
}

impl World {
    fn new() -> World {
        World {
            endpoint: Endpoint::new(),
            now: Monotime(1_000_000_000),
            outcomes: mpsc::channel(),
            polled: BTreeMap::new(),
            events: Vec::new(),
            returns: false,
        }
    }

    fn connect(&mut self, generation: Gen, implied: Role) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let peer = Peer { generation, implied, predecessor: generation != OLD };
        let id = self.endpoint.accept(theirs, peer, self.now).unwrap();
        self.turn();
        Client { id, stream: ours, decoder: Decoder::new() }
    }

    /// A peer that says HELLO and has been answered.
    fn greet(&mut self, generation: Gen, role: Role) -> Client {
        let mut client = self.connect(generation, Role::Source);
        self.says(&client, &Message::Hello(role.into()).to_bytes());
        let answer = Hello::Coordinator { generation: generation.0, predecessor: generation != OLD };
        assert_eq!(client.message(), Message::Hello(answer));
        client
    }

    fn says(&mut self, client: &Client, bytes: &[u8]) {
        (&client.stream).write_all(bytes).unwrap();
        self.readable(client.id);
    }

    fn readable(&mut self, id: ConnId) {
        self.endpoint.on_readable(id, self.now);
        self.turn();
    }

    /// The rest of a turn of the loop.
    fn turn(&mut self) {
        if let Some(job) = self.endpoint.take_ready() {
            for stream in [&job.source.stream, &job.sink.stream] {
                assert!(stream.peer_addr().is_ok());
            }
            let report = self.outcomes.0.clone();
            let canceller = relay::start(job, move |outcome| report.send(outcome).unwrap()).unwrap();
            self.endpoint.started(canceller);
        }
        while let Some(event) = self.endpoint.next_event() {
            self.events.push(event);
        }
        for (id, _) in self.endpoint.take_ended() {
            self.polled.remove(&id);
        }
        for change in self.endpoint.take_changes() {
            match change {
                Change::Add(id, wants) => drop(self.polled.insert(id, wants)),
                Change::Modify(id, wants) => assert!(self.polled.insert(id, wants).is_some(), "{change:?}"),
                Change::Remove(id) => assert!(self.polled.remove(&id).is_some(), "{change:?}"),
            }
        }
    }

    fn pass(&mut self, span: Span) {
        self.now = self.now + span;
        self.endpoint.on_deadline(self.now);
        self.turn();
    }

    fn transfer(&mut self, from: Gen, to: Gen, direction: Direction) {
        let deadline = Some(clock::now() + Span::from_secs(20));
        let transfer = Transfer { from, to, direction, deadline, max_bytes: u64::MAX, returns: self.returns };
        self.endpoint.begin(transfer, self.now);
        self.turn();
    }

    /// A handover that nobody can begin: its deadline.
    fn waits_for_a_source(&mut self, limit: Span) -> Option<Monotime> {
        let deadline = Some(self.now + limit);
        let transfer = Transfer {
            from: OLD,
            to: NEW,
            direction: Direction::Handover,
            deadline,
            max_bytes: u64::MAX,
            returns: false,
        };
        self.endpoint.begin(transfer, self.now);
        deadline
    }

    /// Waits for the relay's thread.
    fn relay_ends(&mut self) -> RelayEnd {
        let outcome = self.outcomes.1.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        self.endpoint.relay_ended(outcome, self.now);
        self.turn();
        self.end()
    }

    fn end(&mut self) -> RelayEnd {
        let at = self.events.iter().position(|event| matches!(event, SrpEvent::RelayEnded(_)));
        match self.events.remove(at.expect("no transfer has ended")) {
            SrpEvent::RelayEnded(end) => end,
            other => panic!("{other:?}"),
        }
    }

    fn events(&mut self) -> Vec<SrpEvent> {
        std::mem::take(&mut self.events)
    }

    fn trouble(&mut self) -> String {
        let texts = self.events().into_iter().filter_map(|event| match event {
            SrpEvent::ProtocolError { text, .. } => Some(text),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("; ")
    }
}

impl Client {
    /// The next frame: a message, or the payload of a STATE frame as an error.
    fn frame(&mut self) -> Option<Result<Message, Vec<u8>>> {
        let mut state = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let room = self.decoder.wanted().min(buffer.len());
            match stream::receive(self.stream.as_fd(), &mut buffer[..room], &mut Vec::<OwnedFd>::new())
                .unwrap()
            {
                Moved::Ended => return None,
                Moved::NotYet => {
                    let limit = Some(clock::now() + Span::from_secs(20));
                    assert!(stream::wait([Watch::read(&self.stream)], limit).unwrap()[0].read, "silence");
                }
                Moved::Bytes(count) => {
                    let mut input = &buffer[..count];
                    while let Some(piece) = self.decoder.next(&mut input).unwrap() {
                        match piece {
                            Piece::Message(message) => return Some(Ok(message)),
                            Piece::State(_) => {}
                            Piece::Body(body) => state.extend_from_slice(body),
                            Piece::End => return Some(Err(state)),
                        }
                    }
                }
            }
        }
    }

    fn message(&mut self) -> Message {
        self.frame().expect("closed").expect("state")
    }

    fn error_code(&mut self) -> String {
        match self.message() {
            Message::Error(complaint) => complaint.code,
            other => panic!("{other:?}"),
        }
    }

    fn state(&mut self) -> Vec<u8> {
        self.frame().expect("closed").expect_err("no state")
    }

    fn is_silent(&self) -> bool {
        let got = stream::receive(self.stream.as_fd(), &mut [0; 64], &mut Vec::<OwnedFd>::new());
        got.unwrap() == Moved::NotYet
    }

    fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).unwrap();
    }
}

fn state(payload: &[u8]) -> Vec<u8> {
    let header = Header::new(FrameType::StateJson, payload.len()).unwrap();
    [&header.to_bytes()[..], payload].concat()
}

fn finished() -> Vec<u8> {
    Message::Finished(None).to_bytes()
}

fn connected(generation: Gen, role: Role) -> SrpEvent {
    match role {
        Role::Source => SrpEvent::SourceConnected { generation },
        Role::Sink => SrpEvent::SinkConnected { generation },
    }
}

/// Both there, REQUEST sent, and the state `{"n":1}` at the new generation, acknowledged.
fn handed_over() -> (World, Client, Client) {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&[state(b"{\"n\":1}"), finished()].concat());
    assert_eq!(sink.state(), b"{\"n\":1}");
    assert_eq!(sink.message(), Message::Finished(None));
    sink.send(&finished());
    assert_eq!(source.message(), Message::Finished(None));
    let end = world.relay_ends();
    assert_eq!((end.result, end.frames, end.bytes), (RelayResult::Done, 1, 7));
    (world, source, sink)
}

#[test]
fn hello_is_answered_first_and_says_who_the_peer_is() {
    let mut world = World::new();
    let _source = world.greet(OLD, Role::Source);
    let _sink = world.greet(NEW, Role::Sink);
    assert_eq!(world.events(), [connected(OLD, Role::Source), connected(NEW, Role::Sink)]);
    assert_eq!(world.endpoint.deadline(), None, "nothing is waited for");
}

#[test]
fn silence_and_another_first_frame_imply_the_role() {
    let mut world = World::new();
    let sink = world.connect(NEW, Role::Sink);
    assert_eq!(world.endpoint.deadline(), Some(world.now + SILENCE));
    world.pass(Span::from_millis(99));
    assert_eq!(world.events(), []);
    world.pass(Span::from_millis(1));
    assert_eq!(world.events(), [connected(NEW, Role::Sink)]);
    assert!(sink.is_silent(), "nobody asked for HELLO");
    let source = world.connect(OLD, Role::Source);
    world.says(&source, &state(b"early"));
    assert_eq!(world.events(), [connected(OLD, Role::Source)]);
    assert_eq!(world.polled[&source.id], Wants { read: false, write: false }, "its state waits");
}

#[test]
fn a_hello_that_nobody_has_read_yet_is_no_silence() {
    let mut world = World::new();
    let mut source = world.connect(NEW, Role::Sink);
    source.send(&Message::Hello(Hello::Source).to_bytes());
    world.pass(SILENCE);
    assert_eq!(world.events(), [connected(NEW, Role::Source)]);
    assert!(matches!(source.message(), Message::Hello(_)));
}

#[test]
fn a_source_that_sends_before_it_is_asked_loses_nothing_even_if_it_leaves() {
    let mut world = World::new();
    let source = world.connect(OLD, Role::Source);
    world.says(&source, &[state(b"early"), finished()].concat());
    source.stream.shutdown(std::net::Shutdown::Both).unwrap();
    let id = source.id;
    drop(source);
    world.readable(id);
    assert!(!world.polled.contains_key(&id), "a hang-up is not reported over and over");
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(sink.state(), b"early");
    assert_eq!(sink.message(), Message::Finished(None));
    sink.send(&finished());
    assert_eq!(world.relay_ends().result, RelayResult::Done);
}

#[test]
fn a_sink_without_a_predecessor_is_told_at_once_and_is_the_source_from_then_on() {
    let mut world = World::new();
    let mut first = world.greet(OLD, Role::Sink);
    world.endpoint.cold(OLD);
    assert_eq!(first.message(), Message::Finished(None));
    world.says(&first, &finished());
    let acknowledged = SrpEvent::Acknowledged { generation: OLD };
    assert_eq!(world.events(), [connected(OLD, Role::Sink), acknowledged, connected(OLD, Role::Source)]);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(first.message(), Message::Request);
    first.send(&finished());
    assert_eq!(sink.message(), Message::Finished(None));
}

#[test]
fn a_silent_first_generation_is_told_too_and_still_can_be_a_source() {
    let mut world = World::new();
    let mut first = world.connect(OLD, Role::Sink);
    world.pass(SILENCE);
    world.endpoint.cold(OLD);
    assert_eq!(first.message(), Message::Finished(None));
    assert!(world.endpoint.has(OLD, Role::Source), "whether it acknowledges or not");
}

#[test]
fn after_the_acknowledgement_the_sink_is_the_next_source_and_the_old_one_is_told() {
    let (mut world, mut old, mut new) = handed_over();
    assert!(world.events().contains(&connected(NEW, Role::Source)));
    assert!(world.endpoint.commit(OLD));
    assert_eq!(old.message(), Message::Commit);
    assert!(!world.endpoint.commit(OLD), "once");
    world.endpoint.resume(OLD);
    assert!(old.is_silent(), "and nothing else after it");
    let _third = world.greet(Gen(3), Role::Sink);
    world.transfer(NEW, Gen(3), Direction::Handover);
    assert_eq!(new.message(), Message::Request);
}

#[test]
fn a_rollback_gives_the_state_back() {
    let (mut world, mut old, mut new) = handed_over();
    world.transfer(NEW, OLD, Direction::GiveBack);
    assert_eq!(new.message(), Message::Request);
    assert_eq!(old.message(), Message::Resume);
    new.send(&[state(b"{\"n\":2}"), finished()].concat());
    assert_eq!(old.state(), b"{\"n\":2}");
    assert_eq!(old.message(), Message::Finished(None));
    old.send(&finished());
    assert_eq!(new.message(), Message::Finished(None));
    let end = world.relay_ends();
    assert_eq!((end.result, end.direction), (RelayResult::Done, Direction::GiveBack));
    assert!(!world.endpoint.commit(OLD), "it serves on");
    // The next reload asks it again.
    let _third = world.greet(Gen(3), Role::Sink);
    world.transfer(OLD, Gen(3), Direction::Handover);
    assert_eq!(old.message(), Message::Request);
}

#[test]
fn a_dead_new_generation_gives_nothing_back() {
    let (mut world, mut old, new) = handed_over();
    let id = new.id;
    // A child that another test starts may have a copy of it for a moment: that would not be the end yet.
    new.stream.shutdown(std::net::Shutdown::Both).unwrap();
    drop(new);
    world.readable(id);
    assert!(world.events().contains(&SrpEvent::SourceGone { generation: NEW }));
    world.transfer(NEW, OLD, Direction::GiveBack);
    assert_eq!(old.message(), Message::Resume);
    assert_eq!(old.message(), Message::Finished(None));
    assert!(matches!(world.end().result, RelayResult::SourceFailed(_)));
    world.says(&old, &finished());
    assert_eq!(world.events(), [SrpEvent::Acknowledged { generation: OLD }]);
}

#[test]
fn a_new_generation_that_dies_while_giving_back_leaves_the_old_one_its_own_state() {
    let (mut world, mut old, mut new) = handed_over();
    world.transfer(NEW, OLD, Direction::GiveBack);
    assert_eq!(new.message(), Message::Request);
    new.send(&state(b"half")[..HEADER + 2]);
    drop(new);
    assert_eq!(old.message(), Message::Resume);
    assert_eq!(old.state(), b"ha\0\0", "filled up");
    assert_eq!(old.error_code(), "source_failed");
    assert!(matches!(world.relay_ends().result, RelayResult::SourceFailed(_)));
    assert!(world.endpoint.has(OLD, Role::Source));
}

#[test]
fn a_failed_handover_lets_the_source_serve_on_and_what_it_still_sends_is_thrown_away() {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&state(b"stale")[..HEADER + 2]);
    drop(sink);
    assert!(matches!(world.relay_ends().result, RelayResult::SinkFailed(_)));
    assert_eq!(source.message(), Message::Resume);
    assert_eq!(source.message(), Message::Finished(None));
    // Its next transfer must not begin with what is left of this one.
    world.says(&source, &[&state(b"stale")[HEADER + 2..], &state(b"stale"), &finished()[..]].concat());
    world.says(&source, &finished());
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&[state(b"fresh"), finished()].concat());
    assert_eq!(sink.state(), b"fresh");
    assert_eq!(sink.message(), Message::Finished(None));
}

#[test]
fn a_source_that_has_not_answered_is_not_asked_again() {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    world.endpoint.cancel(world.now);
    assert_eq!(world.relay_ends().result, RelayResult::Cancelled);
    assert_eq!(sink.error_code(), "cancelled");
    let third = world.greet(Gen(3), Role::Sink);
    world.transfer(OLD, Gen(3), Direction::Handover);
    assert!(third.is_silent(), "what the source sends now belongs to the transfer before");
    assert!(world.endpoint.is_transferring());
    assert_eq!(source.message(), Message::Resume, "and no second REQUEST");
}

#[test]
fn a_source_that_never_comes_is_waited_for_until_the_deadline() {
    let mut world = World::new();
    let mut sink = world.greet(NEW, Role::Sink);
    let deadline = world.waits_for_a_source(Span::from_secs(5));
    assert_eq!(world.endpoint.deadline(), deadline);
    world.pass(Span::from_secs(4));
    assert!(sink.is_silent());
    world.pass(Span::from_secs(1));
    assert_eq!(world.end().result, RelayResult::SourceTimedOut);
    assert_eq!(sink.error_code(), "source_timeout");
    assert!(world.endpoint.has(NEW, Role::Source), "the cold generation can be asked next time");
    assert_eq!(world.endpoint.deadline(), None);
}

#[test]
fn a_time_limit_that_passed_while_nobody_was_awake_counts_once_more() {
    let mut world = World::new();
    let mut sink = world.greet(NEW, Role::Sink);
    world.waits_for_a_source(Span::from_secs(5));
    // Frozen for a minute, as the peers may have been.
    world.pass(Span::from_secs(60));
    assert!(sink.is_silent());
    assert_eq!(world.endpoint.deadline(), Some(world.now + Span::from_secs(5)));
    // Not again.
    world.pass(Span::from_secs(60));
    assert_eq!(world.end().result, RelayResult::SourceTimedOut);
    assert_eq!(sink.error_code(), "source_timeout");
}

#[test]
fn a_source_that_comes_in_time_is_asked() {
    let mut world = World::new();
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    let mut source = world.greet(OLD, Role::Source);
    assert_eq!(source.message(), Message::Request);
    source.send(&finished());
    assert_eq!(sink.message(), Message::Finished(None));
}

#[test]
fn a_source_that_has_died_is_heard_to_its_last_word() {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&[state(b"all"), finished()].concat());
    drop(source);
    world.endpoint.forget(OLD, world.now);
    world.turn();
    assert_eq!(sink.state(), b"all");
    assert_eq!(sink.message(), Message::Finished(None));
    sink.send(&finished());
    assert_eq!(world.relay_ends().result, RelayResult::Done);
    assert!(!world.endpoint.has(OLD, Role::Source) && world.endpoint.has(NEW, Role::Source));
}

#[test]
fn the_end_of_a_generation_ends_its_transfer() {
    let mut world = World::new();
    let source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    world.endpoint.forget(OLD, world.now);
    drop(source);
    assert!(matches!(world.relay_ends().result, RelayResult::SourceFailed(_)));
    assert_eq!(sink.error_code(), "source_failed");
    assert!(!world.endpoint.has(OLD, Role::Source));

    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    world.endpoint.forget(NEW, world.now);
    assert_eq!(world.relay_ends().result, RelayResult::Cancelled);
    assert_eq!(source.message(), Message::Resume);
    assert!(!world.endpoint.has(NEW, Role::Source) && !world.endpoint.has(NEW, Role::Sink));
    drop(sink);
}

#[test]
fn a_source_is_told_of_the_end_before_the_relay_has_stopped() {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&[state(b"all"), finished()].concat());
    assert_eq!(sink.state(), b"all");
    assert_eq!(sink.message(), Message::Finished(None));
    world.endpoint.cancel(world.now);
    // Nobody has heard of the relay's end yet.
    assert_eq!(source.message(), Message::Resume);
    assert_eq!(source.message(), Message::Finished(None));
    assert_eq!(world.relay_ends().result, RelayResult::Cancelled);
    assert!(source.is_silent(), "once");
    // Its acknowledgement is not taken for the end of the next state.
    world.says(&source, &finished());
    assert!(world.events().contains(&SrpEvent::Acknowledged { generation: OLD }));
    let mut third = world.greet(Gen(3), Role::Sink);
    world.transfer(OLD, Gen(3), Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&[state(b"next"), finished()].concat());
    assert_eq!(third.state(), b"next");
}

#[test]
fn an_acknowledgement_behind_resume_comes_too_late() {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    source.send(&finished());
    assert_eq!(sink.message(), Message::Finished(None));
    sink.send(&finished());
    let outcome = world.outcomes.1.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(outcome.result, RelayResult::Done);
    world.endpoint.cancel(world.now);
    world.endpoint.relay_ended(outcome, world.now);
    world.turn();
    assert_eq!(world.end().result, RelayResult::SinkTimedOut, "the source has its state again");
    assert!(!world.endpoint.commit(OLD));
    assert_eq!(source.message(), Message::Finished(None), "the acknowledgement was sent before");
    assert_eq!(source.message(), Message::Resume);
}

#[test]
fn a_newer_connection_replaces_the_older_one() {
    let mut world = World::new();
    let mut older = world.greet(OLD, Role::Source);
    let mut newer = world.greet(OLD, Role::Source);
    assert_eq!(older.error_code(), "replaced");
    assert!(older.frame().is_none());
    let mut sink = world.greet(NEW, Role::Sink);
    world.events();
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(newer.message(), Message::Request);
    // During the transfer too: it is given up, and can be begun again.
    newer.send(&state(b"some of it"));
    assert_eq!(sink.state(), b"some of it");
    let mut newest = world.greet(OLD, Role::Source);
    assert_eq!(world.relay_ends().result, RelayResult::Cancelled);
    assert_eq!(world.events(), [connected(OLD, Role::Source), connected(NEW, Role::Source)]);
    assert!(newest.is_silent());
    let _third = world.greet(Gen(3), Role::Sink);
    world.transfer(OLD, Gen(3), Direction::Handover);
    assert_eq!(newest.message(), Message::Request);
}

#[test]
fn a_source_that_connects_anew_is_asked_anew() {
    let mut world = World::new();
    let mut older = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(older.message(), Message::Request);
    // It has kept a connection that it does not look at, and comes with its state when it is told by a signal.
    let mut newer = world.greet(OLD, Role::Source);
    let outcome = world.outcomes.1.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    world.endpoint.relay_ended(outcome, world.now);
    world.turn();
    assert_eq!(older.error_code(), "replaced");
    assert!(older.frame().is_none(), "closed");
    assert_eq!(newer.message(), Message::Request);
    newer.send(&[state(b"all"), finished()].concat());
    assert_eq!(sink.state(), b"all");
    assert_eq!(sink.message(), Message::Finished(None));
    sink.send(&finished());
    assert_eq!(world.relay_ends().result, RelayResult::Done);
    assert!(world.endpoint.commit(OLD));
    assert_eq!(newer.message(), Message::Finished(None));
    assert_eq!(newer.message(), Message::Commit);
}

#[test]
fn a_source_that_comes_by_a_signal_may_close_its_older_connection_first() {
    for comes in [true, false] {
        let mut world = World::new();
        world.returns = true;
        let mut older = world.greet(OLD, Role::Source);
        let mut sink = world.greet(NEW, Role::Sink);
        world.transfer(OLD, NEW, Direction::Handover);
        assert_eq!(older.message(), Message::Request);
        drop(older);
        let outcome = world.outcomes.1.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        world.endpoint.relay_ended(outcome, world.now);
        world.turn();
        assert!(sink.is_silent(), "it may still come");
        if comes {
            let mut newer = world.greet(OLD, Role::Source);
            assert_eq!(newer.message(), Message::Request);
            newer.send(&[state(b"all"), finished()].concat());
            assert_eq!(sink.state(), b"all");
        } else {
            world.endpoint.forget(OLD, world.now);
            world.turn();
            assert_eq!(sink.error_code(), "source_failed");
            assert!(matches!(world.end().result, RelayResult::SourceFailed(_)));
        }
    }
}

#[test]
fn a_transfer_that_is_begun_while_another_runs_follows_it() {
    let mut world = World::new();
    let mut source = world.greet(OLD, Role::Source);
    let mut sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(source.message(), Message::Request);
    let third = world.greet(Gen(3), Role::Sink);
    world.transfer(OLD, Gen(3), Direction::Handover);
    assert_eq!(world.relay_ends().result, RelayResult::Cancelled);
    assert_eq!(sink.error_code(), "cancelled");
    assert!(third.is_silent(), "the source still owes its answer");
    assert!(world.endpoint.is_transferring());
}

#[test]
fn what_no_peer_may_say_ends_its_connection_with_a_reason() {
    let hello = |role: Role| Message::Hello(role.into()).to_bytes();
    let coordinator = Hello::Coordinator { generation: 1, predecessor: false };
    for (role, bytes, code) in [
        (Role::Source, b"GET / HTTP/1.1\r\n".to_vec(), "bad_magic"),
        (Role::Source, Message::Request.to_bytes(), "unexpected"),
        (Role::Source, Message::Commit.to_bytes(), "unexpected"),
        (Role::Source, Message::Hello(coordinator).to_bytes(), "unexpected"),
        (Role::Source, hello(Role::Sink), "unexpected"),
        (Role::Source, hello(Role::Source), "unexpected"),
        (Role::Sink, hello(Role::Source), "unexpected"),
        (Role::Sink, state(b"1"), "unexpected"),
        (Role::Sink, finished(), "unexpected"),
    ] {
        let mut world = World::new();
        let mut client = world.greet(NEW, role);
        world.says(&client, &bytes);
        assert_eq!(client.error_code(), code);
        assert!(client.frame().is_none(), "closed");
        assert!(!world.trouble().is_empty());
        assert!(world.polled.is_empty());
    }
}

#[test]
fn a_peers_own_error_is_told_and_its_connection_stays() {
    let mut world = World::new();
    let source = world.greet(OLD, Role::Source);
    world.says(&source, &Message::error("disk", "no space").to_bytes());
    assert!(world.trouble().contains("disk: no space"));
    assert!(world.endpoint.has(OLD, Role::Source));
}

#[test]
fn half_a_frame_is_not_waited_for_for_ever() {
    let mut world = World::new();
    let mut slow = world.connect(OLD, Role::Source);
    world.says(&slow, &Message::Hello(Hello::Source).to_bytes()[..5]);
    world.pass(SILENCE);
    assert_eq!(world.events(), [], "it has begun to say what it is");
    world.pass(Span::from_secs(5));
    world.says(&slow, &Message::Hello(Hello::Source).to_bytes()[5..20]);
    world.pass(Span::from_secs(5));
    assert_eq!(slow.error_code(), "timeout");
    assert!(slow.frame().is_none());
    assert!(world.trouble().contains("did not end within"));
}

#[test]
fn descriptors_outside_state_are_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let mut world = World::new();
    let mut client = world.connect(OLD, Role::Source);
    stream::send(client.stream.as_fd(), &Message::Hello(Hello::Source).to_bytes(), &[file.as_fd()]).unwrap();
    world.readable(client.id);
    assert_eq!(client.error_code(), "stray_descriptors");
    // However slowly they come, they are not collected without end.
    let mut client = world.connect(OLD, Role::Source);
    let files = [file.as_fd(); 200];
    for byte in &Message::Hello(Hello::Source).to_bytes()[..2] {
        stream::send(client.stream.as_fd(), &[*byte], &files).unwrap();
    }
    world.readable(client.id);
    assert_eq!(client.error_code(), "too_many_descriptors");
    assert!(client.frame().is_none());
}

#[test]
fn descriptors_that_come_early_reach_the_sink() {
    let (rx, tx) = std::io::pipe().unwrap();
    let mut world = World::new();
    let source = world.connect(OLD, Role::Source);
    let header = Header::new(FrameType::StateFd, 2).unwrap().to_bytes();
    stream::send(source.stream.as_fd(), &[&header[..], b"{}"].concat(), &[tx.as_fd()]).unwrap();
    drop(tx);
    world.says(&source, &finished());
    let sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    let mut got: Vec<OwnedFd> = Vec::new();
    let mut buffer = [0; HEADER];
    while stream::receive(sink.stream.as_fd(), &mut buffer, &mut got).unwrap() == Moved::NotYet {
        let limit = Some(clock::now() + Span::from_secs(20));
        assert!(stream::wait([Watch::read(&sink.stream)], limit).unwrap()[0].read);
    }
    assert_eq!(got.len(), 1);
    std::fs::File::from(got.remove(0)).write_all(b"x").unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(&mut &rx, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn a_peer_that_greets_without_end_and_never_reads_is_given_up() {
    let mut world = World::new();
    let mut client = world.connect(OLD, Role::Source);
    let hello = Message::Hello(Hello::Source).to_bytes().repeat(50);
    let mut turns = 0;
    while world.polled.contains_key(&client.id) {
        stream::send(client.stream.as_fd(), &hello, &[]).unwrap();
        world.readable(client.id);
        turns += 1;
        assert!(turns < 10_000, "it was listened to for ever");
    }
    while client.frame().is_some() {}
}

#[test]
fn there_is_room_for_so_many_and_the_next_one_is_told() {
    let mut world = World::new();
    let clients: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| world.connect(OLD, Role::Source)).collect();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = Peer { generation: OLD, implied: Role::Source, predecessor: false };
    assert!(world.endpoint.accept(theirs, peer, world.now).is_err());
    let mut refused = Client { id: ConnId(0), stream: ours, decoder: Decoder::new() };
    assert_eq!(refused.error_code(), "too_many");
    world.pass(SILENCE);
    assert_eq!(world.polled.len(), 1, "silent ones replace each other");
    drop(clients);
}

#[test]
fn how_old_a_connection_is_does_not_depend_on_when_it_speaks() {
    let mut world = World::new();
    let silent = world.connect(OLD, Role::Source);
    let mut newer = world.greet(OLD, Role::Source);
    assert_eq!(world.events(), [connected(OLD, Role::Source)]);
    // Its role is implied now, and it is the older one all the same.
    world.pass(SILENCE);
    assert!(world.events().is_empty());
    assert!(!world.polled.contains_key(&silent.id) && world.polled.contains_key(&newer.id));
    let _sink = world.greet(NEW, Role::Sink);
    world.transfer(OLD, NEW, Direction::Handover);
    assert_eq!(newer.message(), Message::Request);
    // One that says who it is only then is older too.
    let mut world = World::new();
    let late = world.connect(OLD, Role::Source);
    let newer = world.greet(OLD, Role::Source);
    world.says(&late, &Message::Hello(Role::Source.into()).to_bytes());
    assert!(world.polled.contains_key(&newer.id) && !world.polled.contains_key(&late.id));
}
