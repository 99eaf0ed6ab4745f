use super::*;
use crate::proto::control::{MAX_REQUEST, Reply, parse_line};
use std::io::{BufRead, BufReader, Read};
use std::net::Shutdown;

const START: Monotime = Monotime(1_000_000_000);

/// The daemon's side, and one client's end of its socket.
struct World {
    clients: Clients,
    id: ClientId,
    peer: UnixStream,
}

impl World {
    fn new() -> World {
        let mut clients = Clients::new(1000);
        let (peer, theirs) = UnixStream::pair().unwrap();
        let id = clients.accept(theirs, 1000).unwrap();
        World { clients, id, peer }
    }

    /// What the client says arrives.
    fn says(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).unwrap();
        self.clients.on_readable(self.id, START);
    }

    fn request(&mut self) -> Option<Request> {
        self.clients.next_request(START).map(|(_, request)| request)
    }

    fn done(&mut self, note: &str) {
        self.clients.send(self.id, &Line::Result(Reply::Done { note: note.into() }));
    }

    /// The next line that the client reads.
    fn reads(&mut self) -> Line {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte[0] != b'\n' {
            assert_eq!(
                self.peer.read(&mut byte).unwrap(),
                1,
                "closed after {:?}",
                String::from_utf8_lossy(&line)
            );
            line.push(byte[0]);
        }
        parse_line(&line).unwrap()
    }

    fn refused(&mut self) -> String {
        match self.reads() {
            Line::Error(refusal) => refusal.message,
            other => panic!("{other:?}"),
        }
    }

    fn ended(&mut self) -> bool {
        !self.clients.take_ended().is_empty()
    }
}

fn event(unit: &str, text: &str) -> EventLine {
    EventLine {
        time: 7.0,
        unit: unit.into(),
        kind: "step".into(),
        text: text.into(),
        generation: None,
        state: None,
        lasted: None,
        pid: None,
        outcome: None,
    }
}

#[test]
fn who_hangs_up_before_the_answer_is_over_and_what_was_asked_is_carried_out() {
    let mut world = World::new();
    world.peer.write_all(b"{\"command\":\"version\"}\n").unwrap();
    drop(std::mem::replace(&mut world.peer, UnixStream::pair().unwrap().0));
    world.clients.on_hangup(world.id, START);
    assert!(!world.ended(), "not before it was carried out");
    assert_eq!(world.request(), Some(Request::Version));
    assert!(world.ended(), "nobody waits for the answer");
}

#[test]
fn half_a_line_waits_for_its_other_half() {
    let mut world = World::new();
    world.says(b"{\"command\":");
    assert_eq!(world.request(), None);
    assert_eq!(world.clients.deadline(), Some(START + REQUEST_TIME));
    world.says(b"\"version\"}\n");
    assert_eq!(world.request(), Some(Request::Version));
    assert_eq!(world.clients.deadline(), None);
}

#[test]
fn the_deadline_of_a_request_counts_from_its_first_byte() {
    let mut world = World::new();
    world.says(b"{");
    world.peer.write_all(b"\"command\"").unwrap();
    world.clients.on_readable(world.id, START + Span::from_secs(9));
    assert_eq!(world.clients.deadline(), Some(START + REQUEST_TIME));
    world.clients.on_deadline(START + Span::from_secs(9));
    assert!(!world.ended());
    world.clients.on_deadline(START + REQUEST_TIME);
    assert!(world.refused().contains("within 10s"));
    assert!(world.ended());
    assert_eq!(world.peer.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_says_nothing_has_no_deadline() {
    let mut world = World::new();
    world.clients.on_readable(world.id, START);
    assert_eq!(world.clients.deadline(), None);
}

#[test]
fn several_lines_in_one_read_are_answered_one_after_the_other() {
    let mut world = World::new();
    world.says(b"{\"command\":\"restart\",\"unit\":\"a\"}\nnonsense\n{\"command\":\"version\"}\n");
    assert_eq!(world.request(), Some(Request::Restart { unit: "a".into() }));
    assert_eq!(world.request(), None, "the first is not answered yet");
    assert_eq!(world.clients.deadline(), None, "and what waits behind it has time");
    world.done("one");
    assert_eq!(world.request(), Some(Request::Version));
    world.done("two");
    assert_eq!(world.reads(), Line::Result(Reply::Done { note: "one".into() }));
    assert!(world.refused().contains("not one JSON object"));
    assert_eq!(world.reads(), Line::Result(Reply::Done { note: "two".into() }));
}

#[test]
fn garbage_and_binary_are_answered_and_the_client_goes_on() {
    let mut world = World::new();
    world.says(b"\n\x00\xff\xfe\n{}\n{\"command\":\"version\"}\n");
    assert_eq!(world.request(), Some(Request::Version));
    for part in ["not one JSON object", "UTF-8", "no \"command\""] {
        let message = world.refused();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_line_that_never_ends_is_refused_and_the_connection_closed() {
    let mut world = World::new();
    world.peer.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while sent <= MAX_REQUEST {
        let count = match world.peer.write(&[b'x'; 8192]) {
            Ok(count) => count,
            Err(error) => panic!("{error} after {sent}"),
        };
        sent += count;
        world.clients.on_readable(world.id, START);
    }
    world.peer.set_nonblocking(false).unwrap();
    assert_eq!(world.request(), None);
    assert!(world.refused().contains("65536"));
    assert!(world.ended());
}

#[test]
fn the_longest_request_is_read() {
    let mut world = World::new();
    let head = "{\"command\":\"start\",\"unit\":\"";
    let unit = "u".repeat(MAX_REQUEST - head.len() - 2);
    let line = format!("{head}{unit}\"}}\n");
    assert_eq!(line.len(), MAX_REQUEST + 1);
    for part in line.as_bytes().chunks(4096) {
        world.says(part);
    }
    assert_eq!(world.request(), Some(Request::Start { unit }));
}

#[test]
fn a_client_that_only_stops_sending_is_still_answered() {
    let mut world = World::new();
    world.peer.write_all(b"{\"command\":\"version\"}").unwrap();
    world.peer.shutdown(Shutdown::Write).unwrap();
    world.clients.on_readable(world.id, START);
    assert_eq!(world.request(), Some(Request::Version), "the newline is missing, the request is whole");
    assert!(!world.ended());
    assert_eq!(world.clients.take_changes(), [(world.id, Wants { read: false, write: false })]);
    world.done("here");
    assert_eq!(world.reads(), Line::Result(Reply::Done { note: "here".into() }));
    assert!(world.ended());
}

#[test]
fn a_client_that_is_gone_ends_without_harm() {
    let mut world = World::new();
    world.says(b"{\"command\":\"version\"}\n");
    assert!(world.request().is_some());
    // Gone for good: a child that another test starts may have a copy of the descriptor for a moment.
    world.peer.shutdown(Shutdown::Both).unwrap();
    let (stay, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut world.peer, stay));
    world.done("too late");
    assert!(world.ended());
    assert!(world.clients.is_empty());
    world.done("far too late");
    world.clients.on_readable(world.id, START);
    world.clients.on_writable(world.id);
    assert_eq!(world.request(), None);
}

#[test]
fn a_slow_reader_loses_events_and_is_told_how_many() {
    let mut world = World::new();
    world.says(b"{\"command\":\"events\"}\n");
    assert_eq!(world.request(), Some(Request::Events { unit: None, lines: None, since: None, follow: true }));
    world.clients.subscribe(world.id, None);
    let text = "x".repeat(1000);
    let mut sent = 0;
    // Until the kernel's buffer and ours are full, and then three more.
    let full = |clients: &Clients| clients.clients.values().any(|c| c.is_dropping());
    while !full(&world.clients) {
        world.clients.broadcast(&event("a", &text));
        sent += 1;
        assert!(sent < 10_000);
    }
    for _ in 0..3 {
        world.clients.broadcast(&event("a", &text));
    }
    assert!(world.clients.wants_write(world.id));
    assert_eq!(world.clients.take_changes(), [(world.id, Wants { read: true, write: true })]);
    for _ in 0..sent - 1 {
        assert_eq!(world.reads(), Line::Event(event("a", &text)));
        world.clients.on_writable(world.id);
    }
    let Line::Event(notice) = world.reads() else { panic!("not an event") };
    assert_eq!((notice.kind.as_str(), notice.time), ("warning", 7.0));
    assert!(notice.text.starts_with("4 events were left out"), "{}", notice.text);
    assert!(!world.clients.wants_write(world.id));
    world.clients.broadcast(&event("a", "again"));
    assert_eq!(world.reads(), Line::Event(event("a", "again")));
}

#[test]
fn an_answer_is_never_dropped_however_long() {
    let mut world = World::new();
    world.says(b"{\"command\":\"version\"}\n{\"command\":\"version\"}\n");
    assert!(world.request().is_some());
    let note = "n".repeat(4 * MAX_QUEUE);
    world.done(&note);
    assert_eq!(world.request(), None, "nothing new for a client that does not read");
    let reader = std::thread::spawn({
        let mut peer = BufReader::new(world.peer.try_clone().unwrap());
        move || {
            let mut line = Vec::new();
            peer.read_until(b'\n', &mut line).unwrap();
            line
        }
    });
    while world.clients.wants_write(world.id) {
        world.clients.on_writable(world.id);
        std::thread::yield_now();
    }
    assert_eq!(parse_line(&reader.join().unwrap()), Ok(Line::Result(Reply::Done { note })));
    assert_eq!(world.request(), Some(Request::Version));
}

#[test]
fn events_go_to_those_who_asked_for_their_unit_until_the_answer() {
    let mut world = World::new();
    world.says(b"{\"command\":\"restart\",\"unit\":\"a\"}\n");
    assert!(world.request().is_some());
    world.clients.broadcast(&event("a", "before"));
    world.clients.subscribe(world.id, Some("a"));
    world.clients.subscribe(world.id, Some("c"));
    for unit in ["a", "b", "c", ""] {
        world.clients.broadcast(&event(unit, "while"));
    }
    world.done("");
    world.clients.broadcast(&event("a", "after"));
    assert_eq!(world.reads(), Line::Event(event("a", "while")));
    assert_eq!(world.reads(), Line::Event(event("c", "while")));
    assert_eq!(world.reads(), Line::Result(Reply::Done { note: String::new() }));
    drop(world.clients);
    assert_eq!(world.peer.read(&mut [0]).unwrap(), 0, "nothing came after the answer");
}

#[test]
fn strangers_and_the_sixty_fifth_are_sent_away_with_a_reason() {
    let mut clients = Clients::new(1000);
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    assert!(matches!(clients.accept(theirs, 1001), Err(Rejected::NotAllowed { uid: 1001 })));
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    assert!(text.contains("only root and uid 1000"), "{text}");

    let mut peers = Vec::new();
    for n in 0..MAX_CLIENTS {
        let (mut peer, theirs) = UnixStream::pair().unwrap();
        let id = clients.accept(theirs, if n % 2 == 0 { 0 } else { 1000 }).unwrap();
        // Half a request: a silent one would make room.
        peer.write_all(b"{").unwrap();
        clients.on_readable(id, Monotime(0));
        peers.push(peer);
    }
    let (mut peer, theirs) = UnixStream::pair().unwrap();
    assert!(matches!(clients.accept(theirs, 0), Err(Rejected::TooMany)));
    text.clear();
    peer.read_to_string(&mut text).unwrap();
    assert!(text.contains("64 clients"), "{text}");
    assert_eq!(clients.len(), MAX_CLIENTS);
}

#[test]
fn a_closed_client_gives_its_place_back() {
    let mut world = World::new();
    assert!(world.clients.close(world.id).is_some());
    assert!(world.clients.close(world.id).is_none());
    assert!(world.clients.stream(world.id).is_none());
    let (_peer, theirs) = UnixStream::pair().unwrap();
    assert_ne!(world.clients.accept(theirs, 0).unwrap(), world.id);
}
