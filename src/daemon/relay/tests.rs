use super::*;
use crate::proto::srp::{FrameType, HEADER, Hello, Message, Piece};
use crate::sys::stream::{self, Moved, Watch};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

const LONG: Span = Span::from_secs(20);

/// A transfer under way: the peers' ends, and the relay on a thread.
struct World {
    source: UnixStream,
    sink: UnixStream,
    cancel: Option<PipeWriter>,
    thread: JoinHandle<RelayOutcome>,
}

fn job(limits: (Span, u64), copying: Copying) -> (UnixStream, UnixStream, Job) {
    let (source, theirs) = UnixStream::pair().unwrap();
    let (sink, its) = UnixStream::pair().unwrap();
    for end in [&source, &sink] {
        end.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    }
    let hello = Message::Hello(Hello::Coordinator { generation: 2, predecessor: true }).to_bytes();
    let inlet = Inlet {
        stream: theirs,
        decoder: Decoder::new(),
        held: None,
        descriptors: Vec::new(),
        acks: 0,
        hello: hello.clone(),
    };
    let outlet = Outlet { stream: its, decoder: Decoder::new(), hello };
    let deadline = clock::now().after(limits.0);
    (
        source,
        sink,
        Job { source: inlet, sink: outlet, deadline, max_bytes: limits.1, returns: false, copying },
    )
}

fn spawn(job: Job) -> (PipeWriter, JoinHandle<RelayOutcome>) {
    let (rx, tx): (PipeReader, PipeWriter) = io::pipe().unwrap();
    (tx, std::thread::spawn(move || run(job, &rx)))
}

impl World {
    fn new() -> World {
        World::with((LONG, u64::MAX), FASTEST)
    }

    fn with(limits: (Span, u64), copying: Copying) -> World {
        World::after(&[], limits, copying)
    }

    /// The source has said this before the relay begins: no deadline is too short for it.
    fn after(said: &[u8], limits: (Span, u64), copying: Copying) -> World {
        let (source, sink, job) = job(limits, copying);
        (&source).write_all(said).unwrap();
        let (cancel, thread) = spawn(job);
        World { source, sink, cancel: Some(cancel), thread }
    }

    fn says(&self, bytes: &[u8]) {
        (&self.source).write_all(bytes).unwrap();
    }

    fn answers(&self, message: &Message) {
        (&self.sink).write_all(&message.to_bytes()).unwrap();
    }

    fn end(self) -> RelayOutcome {
        self.thread.join().unwrap()
    }
}

fn frame(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    [&Header::new(kind, payload.len()).unwrap().to_bytes()[..], payload].concat()
}

#[derive(Debug)]
enum Got {
    State(FrameType, Vec<u8>, Vec<OwnedFd>),
    Message(Message),
}

/// Reads one frame as a good sink does: the descriptors that have come by its end belong to it.
fn read(stream: &UnixStream) -> Option<Got> {
    let mut decoder = Decoder::new();
    let (mut payload, mut fds, mut kind) = (Vec::new(), Vec::new(), None);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let room = decoder.wanted().min(buffer.len());
        match stream::receive(stream.as_fd(), &mut buffer[..room], &mut fds).unwrap() {
            Moved::NotYet => drop(stream::wait([Watch::read(stream)], Some(clock::now() + LONG)).unwrap()),
            Moved::Ended => return None,
            Moved::Bytes(count) => {
                let mut input = &buffer[..count];
                while let Some(piece) = decoder.next(&mut input).unwrap() {
                    match piece {
                        Piece::Message(message) => return Some(Got::Message(message)),
                        Piece::State(header) => kind = Some(header.kind),
                        Piece::Body(body) => payload.extend_from_slice(body),
                        Piece::End => return Some(Got::State(kind.unwrap(), payload, fds)),
                    }
                }
            }
        }
    }
}

fn message(stream: &UnixStream) -> Message {
    match read(stream) {
        Some(Got::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn state(stream: &UnixStream) -> (FrameType, Vec<u8>, Vec<OwnedFd>) {
    match read(stream) {
        Some(Got::State(kind, payload, fds)) => (kind, payload, fds),
        other => panic!("{other:?}"),
    }
}

fn error_code(stream: &UnixStream) -> String {
    match message(stream) {
        Message::Error(complaint) => complaint.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn state_goes_through_and_the_acknowledgement_comes_back() {
    for copying in [FASTEST, Copying::Buffer(64), Copying::Buffer(256 * 1024), Copying::Splice(4096)] {
        let world = World::with((LONG, u64::MAX), copying);
        let large: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
        let (mut source, sent) = (world.source.try_clone().unwrap(), large.clone());
        let writer = std::thread::spawn(move || {
            source.write_all(&frame(FrameType::StateJson, b"{\"n\":1}")).unwrap();
            source.write_all(&frame(FrameType::StateBytes, &sent)).unwrap();
            source.write_all(&frame(FrameType::StateProtobuf, b"")).unwrap();
            source.write_all(&frame(FrameType::Finished, br#"{ "frames": 3, "mine": 1 }"#)).unwrap();
        });
        assert_eq!(state(&world.sink).1, b"{\"n\":1}");
        assert!(state(&world.sink).1 == large, "{copying:?}");
        assert_eq!(state(&world.sink).0, FrameType::StateProtobuf);
        let mut finished = [0; HEADER + 26];
        (&world.sink).read_exact(&mut finished).unwrap();
        assert_eq!(&finished[HEADER..], br#"{ "frames": 3, "mine": 1 }"#, "FINISHED goes through as it is");
        world.answers(&Message::Finished(None));
        assert_eq!(message(&world.source), Message::Finished(None));
        writer.join().unwrap();
        let outcome = world.end();
        assert_eq!(outcome.result, RelayResult::Done);
        assert_eq!((outcome.frames, outcome.bytes, outcome.descriptors), (3, 3_000_007, 0));
        assert_eq!(outcome.claimed.unwrap().frames, Some(3));
        assert!(outcome.source.unwrap().finished && outcome.sink.is_some());
    }
}

#[test]
fn descriptors_stay_with_their_frame() {
    let world = World::new();
    let pipes: Vec<_> = (0..20).map(|_| io::pipe().unwrap()).collect();
    let mut source = world.source.try_clone().unwrap();
    let copies: Vec<OwnedFd> = pipes.iter().map(|(_, tx)| tx.try_clone().unwrap().into()).collect();
    let writer = std::thread::spawn(move || {
        for (index, fd) in copies.into_iter().enumerate() {
            source.write_all(&frame(FrameType::StateBytes, &vec![7; index * 9000])).unwrap();
            let described = frame(FrameType::StateFd, format!("{{\"name\":\"{index}\"}}").as_bytes());
            let sent = stream::send(source.as_fd(), &described, &[fd.as_fd(), fd.as_fd()]);
            // A full buffer: the reader makes room.
            if sent.unwrap() == Moved::NotYet {
                stream::wait([Watch::write(&source)], None).unwrap();
                let sent = stream::send(source.as_fd(), &described, &[fd.as_fd(), fd.as_fd()]);
                assert_eq!(sent.unwrap(), Moved::Bytes(described.len()));
            }
        }
        source.write_all(&Message::Finished(None).to_bytes()).unwrap();
    });
    for (index, (mut rx, tx)) in pipes.into_iter().enumerate() {
        drop(tx);
        let (kind, payload, fds) = state(&world.sink);
        assert_eq!((kind, payload.len(), fds.len()), (FrameType::StateBytes, index * 9000, 0));
        let (kind, payload, mut fds) = state(&world.sink);
        assert_eq!((kind, payload), (FrameType::StateFd, format!("{{\"name\":\"{index}\"}}").into_bytes()));
        assert_eq!(fds.len(), 2);
        std::fs::File::from(fds.remove(0)).write_all(&[index as u8]).unwrap();
        let mut byte = [0];
        rx.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], index as u8);
    }
    assert_eq!(message(&world.sink), Message::Finished(None));
    world.answers(&Message::Finished(None));
    writer.join().unwrap();
    assert_eq!(world.end().descriptors, 40);
}

#[test]
fn a_source_that_dies_voids_what_came_before() {
    // In the middle of a frame, in the middle of a header, between frames.
    let whole = frame(FrameType::StateBytes, &[1; 1000]);
    for cut in [500, 5, 1012] {
        let world = World::new();
        world.says(&whole[..cut]);
        drop(world.source);
        if cut > HEADER {
            // The frame is filled up, so that what follows can be read.
            let (_, payload, _) = state(&world.sink);
            assert_eq!(payload.len(), 1000);
        }
        assert_eq!(error_code(&world.sink), "source_failed");
        let outcome = world.thread.join().unwrap();
        assert!(matches!(outcome.result, RelayResult::SourceFailed(_)), "{cut}");
        assert!(outcome.source.is_none() && outcome.sink.is_some());
        drop(world.cancel);
    }
}

#[test]
fn a_huge_frame_that_breaks_off_ends_the_sinks_connection() {
    let world = World::new();
    world.says(&Header { kind: FrameType::StateBytes, payload: u32::MAX - 8 }.to_bytes());
    world.says(&[1; 100_000]);
    drop(world.source);
    let mut all = Vec::new();
    (&world.sink).read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), HEADER + 100_000);
    assert!(world.thread.join().unwrap().sink.is_none());
}

#[test]
fn garbage_and_misplaced_frames_are_refused_with_a_reason() {
    let coordinators = Message::Request.to_bytes();
    let hello = Message::Hello(Hello::Sink).to_bytes();
    let reserved = [0, 0, 0, 8, 0xAE, 0x7E, 0x20, 0x24, 1, 4, 0, 1];
    for (bytes, code) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "bad_magic"),
        (&coordinators[..], "unexpected"),
        (&hello[..], "unexpected"),
        (&reserved[..], "bad_reserved"),
    ] {
        let world = World::new();
        world.says(bytes);
        assert_eq!(error_code(&world.source), code);
        assert_eq!(error_code(&world.sink), "source_failed");
        let outcome = world.end();
        assert!(outcome.source.is_none() && outcome.sink.is_some(), "{:?}", outcome.result);
    }
}

#[test]
fn descriptors_where_none_belong_are_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let body = [0; 100];
    for kind in [FrameType::StateBytes, FrameType::Finished] {
        let world = World::new();
        let bytes = frame(kind, if kind == FrameType::Finished { b"{}" } else { &body });
        stream::send(world.source.as_fd(), &bytes, &[file.as_fd()]).unwrap();
        assert_eq!(error_code(&world.source), "stray_descriptors");
        assert_eq!(error_code(&world.sink), "source_failed");
        world.end();
    }
    // Behind the first byte of a STATE_FD frame's header they would be a part of its payload.
    let world = World::new();
    let bytes = frame(FrameType::StateFd, &body);
    world.says(&bytes[..50]);
    stream::send(world.source.as_fd(), &bytes[50..], &[file.as_fd()]).unwrap();
    assert_eq!(error_code(&world.source), "stray_descriptors");
    drop(world.cancel);
}

#[test]
fn an_error_of_the_source_reaches_the_sink_and_leaves_both_usable() {
    let world = World::new();
    world.says(&frame(FrameType::StateJson, b"1"));
    world.says(&Message::error("busy", "not now").to_bytes());
    state(&world.sink);
    let Message::Error(complaint) = message(&world.sink) else { panic!() };
    assert!(complaint.message.contains("busy: not now"), "{}", complaint.message);
    let outcome = world.end();
    assert!(outcome.source.is_some() && outcome.sink.is_some());
}

#[test]
fn more_than_max_bytes_is_refused_before_it_is_copied() {
    let world = World::with((LONG, 10), FASTEST);
    world.says(&frame(FrameType::StateBytes, b"12345"));
    world.says(&Header::new(FrameType::StateBytes, 6).unwrap().to_bytes());
    assert_eq!(state(&world.sink).1, b"12345");
    assert_eq!(error_code(&world.sink), "source_failed");
    let outcome = world.end();
    assert!(outcome.result.why().contains("MaxBytes=10"), "{:?}", outcome.result);
    assert_eq!(outcome.source.unwrap().decoder.state_left(), 6);
}

#[test]
fn a_silent_source_and_a_silent_sink_are_told_apart_at_the_deadline() {
    let short = (Span::from_millis(20), u64::MAX);
    let world = World::with(short, FASTEST);
    assert_eq!(error_code(&world.sink), "source_timeout");
    assert_eq!(world.end().result, RelayResult::SourceTimedOut);

    let world = World::after(&Message::Finished(None).to_bytes(), short, FASTEST);
    assert_eq!(message(&world.sink), Message::Finished(None));
    assert_eq!(error_code(&world.sink), "sink_timeout");
    let outcome = world.end();
    assert_eq!(outcome.result, RelayResult::SinkTimedOut);
    assert!(outcome.source.unwrap().finished);
}

#[test]
fn a_time_limit_that_is_noticed_late_is_given_once_more() {
    let (_source, _sink, job) = job((LONG, u64::MAX), FASTEST);
    let (cancel, _ours) = io::pipe().unwrap();
    let mut pump = Pump::new(job, &cancel);
    assert!(!pump.once_more(), "there is time left");
    let late = |span: Span| Some(Monotime(clock::now().0 - span.0));
    pump.deadline = late(Span::from_millis(5));
    assert!(!pump.once_more(), "it has passed while somebody looked");
    pump.deadline = late(ASLEEP + Span::from_millis(1));
    assert!(pump.once_more());
    assert!(pump.deadline.unwrap().since(clock::now()) > ASLEEP, "its whole length");
    pump.deadline = late(ASLEEP + Span::from_millis(1));
    assert!(!pump.once_more(), "once");
}

#[test]
fn a_sink_that_does_not_read_stops_the_source_and_costs_no_memory() {
    let header = Header { kind: FrameType::StateBytes, payload: u32::MAX - 8 }.to_bytes();
    let said = [&header[..], &[0; 100_000]].concat();
    let (source, sink, job) = job((Span::from_millis(300), u64::MAX), FASTEST);
    // What is said before the deadline is more than the sink's socket holds: it is the sink that is waited for.
    setsockopt(&job.sink.stream, sockopt::SndBuf, &4096).unwrap();
    (&source).write_all(&said).unwrap();
    let (cancel, thread) = spawn(job);
    let world = World { source, sink, cancel: Some(cancel), thread };
    world.source.set_nonblocking(true).unwrap();
    let mut pushed = 0;
    loop {
        match stream::send(world.source.as_fd(), &[0; 65536], &[]).unwrap() {
            Moved::Bytes(count) => pushed += count,
            Moved::Ended => break,
            Moved::NotYet => {
                // Room, or the end of the relay, which closes the source's connection with its outcome.
                let soon = Some(clock::now() + Span::from_millis(50));
                let [ready] = stream::wait([Watch::write(&world.source)], soon).unwrap();
                if !ready.write && world.thread.is_finished() {
                    break;
                }
            }
        }
    }
    assert!(pushed < 4 * 1024 * 1024, "{pushed} bytes without a reader");
    let outcome = world.end();
    assert_eq!(outcome.result, RelayResult::SinkTimedOut);
    assert!(outcome.sink.is_none(), "it could not be told");
}

#[test]
fn a_sink_that_dies_complains_or_says_too_much_fails_the_transfer() {
    let world = World::new();
    drop(world.sink);
    let outcome = world.thread.join().unwrap();
    assert!(matches!(outcome.result, RelayResult::SinkFailed(_)));
    assert!(outcome.sink.is_none() && outcome.source.is_some());

    let world = World::new();
    world.says(&frame(FrameType::StateJson, b"{}"));
    state(&world.sink);
    world.answers(&Message::error("schema", "version 9 is newer than 8"));
    assert!(world.end().result.why().contains("schema: version 9"));

    let world = World::new();
    world.answers(&Message::Finished(None));
    assert!(world.end().result.why().contains("FINISHED before"));
}

#[test]
fn a_sink_that_breaks_the_protocol_is_told_what_is_wrong() {
    let mut bad_magic = Message::Finished(None).to_bytes();
    bad_magic[4] = 0;
    let file = std::fs::File::open("/dev/null").unwrap();
    for (bytes, descriptor, code) in [
        (&bad_magic[..], false, "bad_magic"),
        (&frame(FrameType::StateJson, b"{}")[..], false, "unexpected"),
        (&Message::Resume.to_bytes()[..], false, "unexpected"),
        (&Message::Finished(None).to_bytes()[..], true, "stray_descriptors"),
    ] {
        let world = World::new();
        // In the middle of a frame that it is being sent: that one is filled up first.
        world.says(&frame(FrameType::StateBytes, &[1; 1000])[..500]);
        let descriptors = if descriptor { vec![file.as_fd()] } else { Vec::new() };
        let mut header = [0; HEADER];
        (&world.sink).read_exact(&mut header).unwrap();
        stream::send(world.sink.as_fd(), bytes, &descriptors).unwrap();
        (&world.sink).read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(error_code(&world.sink), code);
        assert_eq!((&world.sink).read(&mut [0]).unwrap_or(0), 0, "closed");
        let outcome = world.thread.join().unwrap();
        assert!(matches!(outcome.result, RelayResult::SinkFailed(_)) && outcome.sink.is_none());
        assert!(outcome.source.is_some());
        drop(world.cancel);
    }
}

#[test]
fn a_source_may_leave_once_it_has_said_everything() {
    let world = World::new();
    world.says(&frame(FrameType::StateJson, b"{}"));
    world.says(&Message::Finished(None).to_bytes());
    drop(world.source);
    state(&world.sink);
    message(&world.sink);
    (&world.sink).write_all(&Message::Finished(None).to_bytes()).unwrap();
    assert_eq!(world.thread.join().unwrap().result, RelayResult::Done);
}

#[test]
fn a_late_hello_is_answered_between_frames() {
    let world = World::new();
    world.answers(&Message::Hello(Hello::Sink));
    world.says(&Message::Hello(Hello::Source).to_bytes());
    assert!(matches!(message(&world.source), Message::Hello(Hello::Coordinator { .. })));
    world.says(&frame(FrameType::StateJson, b"{}"));
    let mut hellos = 0;
    while let Some(got) = read(&world.sink) {
        match got {
            Got::Message(Message::Hello(_)) => hellos += 1,
            Got::State(..) => world.says(&Message::Finished(None).to_bytes()),
            Got::Message(Message::Finished(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    world.answers(&Message::Finished(None));
    assert_eq!(world.end().result, RelayResult::Done);
    assert!(hellos <= 1, "answered once, if it was seen in time");
}

#[test]
fn what_was_read_before_the_transfer_is_part_of_it_and_old_acknowledgements_are_not() {
    let (source, sink, mut job) = job((LONG, u64::MAX), FASTEST);
    let bytes = frame(FrameType::StateBytes, b"held");
    let mut input = &bytes[..HEADER];
    let Ok(Some(Piece::State(header))) = job.source.decoder.next(&mut input) else { panic!() };
    job.source.held = Some(Held::State(header));
    (&source).write_all(&bytes[HEADER..]).unwrap();
    (&source).write_all(&Message::Finished(None).to_bytes()).unwrap();
    let (_cancel, thread) = spawn(job);
    assert_eq!(state(&sink).1, b"held");
    assert_eq!(message(&sink), Message::Finished(None));
    (&sink).write_all(&Message::Finished(None).to_bytes()).unwrap();
    let outcome = thread.join().unwrap();
    assert_eq!((outcome.result, outcome.bytes), (RelayResult::Done, 4));

    let (source, sink, mut job) = self::job((LONG, u64::MAX), FASTEST);
    job.source.acks = 1;
    (&source).write_all(&Message::Finished(None).to_bytes()).unwrap();
    (&source).write_all(&frame(FrameType::StateJson, b"1")).unwrap();
    let (cancel, thread) = spawn(job);
    assert_eq!(state(&sink).1, b"1");
    drop(cancel);
    assert_eq!(error_code(&sink), "cancelled");
    let outcome = thread.join().unwrap();
    assert_eq!(outcome.result, RelayResult::Cancelled);
    assert!(outcome.source.is_some() && outcome.sink.is_some());
}

#[test]
fn the_outcome_is_reported_from_the_relays_own_thread() {
    let (source, sink, job) = job((LONG, u64::MAX), FASTEST);
    let (tx, rx) = std::sync::mpsc::channel();
    let canceller =
        start(job, move |outcome| tx.send((std::thread::current().id(), outcome)).unwrap()).unwrap();
    drop(canceller);
    let (thread, outcome) = rx.recv().unwrap();
    assert_ne!(thread, std::thread::current().id());
    assert_eq!(outcome.result, RelayResult::Cancelled);
    assert_eq!(error_code(&sink), "cancelled");
    drop(source);
}
