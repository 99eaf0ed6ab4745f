use super::*;
use crate::proto::http::guard::Holders;
use crate::time::Monotime;
use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

/// The clock stands still: on a busy machine no test is too slow for the server.
fn now() -> Monotime {
    Monotime(1_000_000_000)
}

fn outside(peer_uid: fn(&Stream) -> Result<Option<u32>, String>) -> (Outside, mpsc::Receiver<()>) {
    let (wake, woken) = mpsc::channel();
    let wake = Arc::new(move || wake.send(()).unwrap_or_default());
    (Outside { wake, now, first_event: 0, peer_uid, holders: one_of_root, own_pid: 500 }, woken)
}

/// One process of root's has the connection.
fn one_of_root(_: &Stream) -> Result<Holders, String> {
    Ok(Holders { found: vec![Holder { pid: 400, started: 1, uids: [0; 4] }], hidden: Vec::new() })
}

fn root(_: &Stream) -> Result<Option<u32>, String> {
    Ok(Some(0))
}

/// A server whose main loop answers every call with its name.
struct Bench {
    address: String,
    stop: mpsc::Sender<EventLine>,
    done: Option<JoinHandle<()>>,
}

impl Bench {
    fn new(
        address: &str,
        token: Option<&Path>,
        peer_uid: fn(&Stream) -> Result<Option<u32>, String>,
    ) -> Bench {
        let (outside, woken) = outside(peer_uid);
        let server = HttpServer::start(address, token, outside, 0).unwrap();
        let address = server.address().to_owned();
        let (stop, events) = mpsc::channel();
        let done = thread::spawn(move || {
            loop {
                while let Ok(call) = server.calls().try_recv() {
                    let text = format!("{:?}", call.call);
                    let _ = call.reply.send(Response::ok("text/plain", text));
                }
                match events.try_recv() {
                    Ok(event) => server.broadcast(&event),
                    Err(mpsc::TryRecvError::Disconnected) => return server.stop(),
                    Err(mpsc::TryRecvError::Empty) => {}
                }
                let _ = woken.recv_timeout(Duration::from_millis(5));
            }
        });
        Bench { address, stop, done: Some(done) }
    }

    fn local() -> Bench {
        Bench::new("127.0.0.1:0", None, root)
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        BufReader::new(stream)
    }

    /// Sends bytes on a connection of its own; everything that comes back.
    fn send(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.get_mut().write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str, fields: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n"))
    }

    fn post(&self, path: &str, fields: &str, body: &str) -> String {
        let length = body.len();
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{fields}Connection: close\r\n\r\n{body}"
        ))
    }

    fn event(&self, unit: &str, text: &str) {
        let line = EventLine {
            time: 1.5,
            unit: unit.into(),
            kind: "step".into(),
            text: text.into(),
            generation: None,
            state: None,
            lasted: None,
            pid: None,
            outcome: None,
        };
        self.stop.send(line).unwrap();
    }

    fn stop(mut self) {
        let done = self.done.take().unwrap();
        drop(self.stop);
        done.join().unwrap();
    }
}

/// Reads one answer with a length: its head and its body.
fn answer(stream: &mut impl BufRead) -> (String, String) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "the stream ends after {head:?}");
    }
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[track_caller]
fn expect(answer: &str, status: u16, text: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text), "{answer}");
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let bench = Bench::local();
    let mut stream = bench.connect();
    stream
        .get_mut()
        .write_all(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD /ready HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .unwrap();
    assert_eq!(answer(&mut stream).1, "Health");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        stream.read_line(&mut head).unwrap();
    }
    assert!(head.contains("Content-Length: 5\r\n"), "{head}");
    let body = r#"{"unit":"a","reason":"b","force":true}"#;
    write!(
        stream.get_mut(),
        "POST /v1/reload HTTP/1.1\r\nHost: [::1]:1\r\nContent-Length: {}\r\n",
        body.len()
    )
    .unwrap();
    stream.get_mut().write_all(b"Expect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream).0, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.get_mut().write_all(body.as_bytes()).unwrap();
    assert_eq!(answer(&mut stream).1, r#"Reload { unit: Some("a"), reason: "b", force: true }"#);
    stream.get_mut().write_all(b"GET /v1/status HTTP/1.0\r\n\r\n").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Connection: close\r\n") && rest.ends_with("\r\n\r\nStatus"), "{rest}");
    bench.stop();
}

#[test]
fn every_refusal_has_its_status() {
    let bench = Bench::local();
    expect(&bench.get("/nothing", ""), 404, "\"hint\"");
    expect(&bench.post("/metrics", "", ""), 405, "Allow: GET, HEAD\r\n");
    expect(&bench.get("/v1/reload", ""), 405, "Allow: POST\r\n");
    expect(&bench.get("/health", "Origin: http://evil.example\r\n"), 403, "origin");
    expect(&bench.get("/health", "Origin: http://localhost\r\n"), 200, "Health");
    expect(
        &bench.send("GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
        403,
        "Host",
    );
    expect(&bench.post("/v1/reload", "", "what"), 400, "JSON");
    expect(&bench.send("\x16\x03\x01\x02\n\n"), 400, "HTTP/1");
    expect(&bench.send(&format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(20_000))), 413, "16384");
    let long = bench.post("/v1/reload", "", &"x".repeat(200_000));
    expect(&long, 413, "65536");
    bench.stop();
}

#[test]
fn without_a_token_only_the_own_user_and_root_may_post() {
    let bench = Bench::new("127.0.0.1:0", None, |_| Ok(Some(0)));
    expect(&bench.post("/v1/reload", "", ""), 200, "Reload");
    bench.stop();
    let bench = Bench::new("127.0.0.1:0", None, |_| Ok(Some(8)));
    expect(&bench.post("/v1/reload", "", ""), 403, "uid 8");
    expect(&bench.get("/health", ""), 200, "Health");
    bench.stop();
    let bench = Bench::new("127.0.0.1:0", None, |_| Ok(None));
    expect(&bench.post("/v1/reload", "", "{\"force\":true}"), 403, "hint");
    bench.stop();
}

#[test]
fn with_a_token_file_the_token_is_asked_for_and_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let refused = HttpServer::start("127.0.0.1:0", Some(&path), outside(root).0, 7).unwrap_err();
    assert!(refused.contains("cannot read the HTTP token file"), "{refused}");
    std::fs::write(&path, "first\n").unwrap();
    let bench = Bench::new("127.0.0.1:0", Some(&path), |_| panic!("the token decides"));
    expect(&bench.post("/v1/units/a/promote", "", ""), 401, "WWW-Authenticate: Bearer");
    expect(&bench.post("/v1/units/a/promote", "Authorization: Bearer second\r\n", ""), 401, "not the token");
    expect(&bench.post("/v1/units/a/promote", "Authorization: Bearer first\r\n", ""), 200, "Promote");
    std::fs::write(&path, "second\n").unwrap();
    expect(&bench.post("/v1/units/a/promote", "Authorization: Bearer second\r\n", ""), 200, "Promote");
    std::fs::remove_file(&path).unwrap();
    expect(&bench.post("/v1/units/a/promote", "Authorization: Bearer second\r\n", ""), 503, "token file");
    expect(&bench.get("/health", ""), 200, "Health");
    bench.stop();
}

#[test]
fn a_unix_path_serves_too_and_is_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let bench = Bench::new(path.to_str().unwrap(), None, root);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream
        .write_all(b"POST /v1/units/a/rollback HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    expect(&text, 200, "Rollback { unit: \"a\", to: None }");
    bench.stop();
    assert!(!path.exists());
}

#[test]
fn whoever_keeps_places_without_asking_makes_room_and_the_others_are_not_disturbed() {
    let bench = Bench::local();
    let mut slow: Vec<BufReader<TcpStream>> = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = bench.connect();
        // An answered request: this one is in its place for sure. Half of the next: it stays there.
        stream.get_mut().write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he").unwrap();
        answer(&mut stream);
        slow.push(stream);
    }
    assert!(bench.get("/health", "").starts_with("HTTP/1.1 200"));
    // The one that came first had to go; a reset, or the end of the stream.
    assert!(!matches!(slow[0].read(&mut [0; 64]), Ok(1..)));
    slow[3].get_mut().write_all(b"alth HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(answer(&mut slow[3]).1, "Health");
    bench.stop();
}

#[test]
fn whoever_is_being_served_stays_and_one_more_is_turned_away() {
    let registry = Arc::new(Registry::default());
    let enter = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Registry::enter(&registry, &Arc::new(Stream::Unix(ours))), theirs)
    };
    let members: Vec<(Slot, UnixStream)> =
        (0..MAX_CONNECTIONS).map(|_| enter()).map(|(slot, theirs)| (slot.unwrap(), theirs)).collect();
    members.iter().for_each(|(slot, _)| slot.is_at(registry::At::Served));
    assert!(enter().0.is_none());
    members[2].0.is_at(registry::At::Idle);
    let (slot, _kept) = enter();
    assert!(slot.is_some() && (&members[2].1).read(&mut [0; 1]).unwrap() == 0);
    drop(members);
    assert!(enter().0.is_some());
}

#[test]
fn a_crowd_waits_for_the_threads_of_those_who_had_to_make_room() {
    let registry = Arc::new(Registry::default());
    let enter = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Registry::enter(&registry, &Arc::new(Stream::Unix(ours))), theirs)
    };
    // Half of them had to make room already, and their threads have not run yet.
    let mut crowd: Vec<_> = (0..2 * MAX_CONNECTIONS).map(|_| enter()).collect();
    assert!(crowd.iter().all(|(slot, _)| slot.is_some()));
    std::thread::scope(|scope| {
        let next = scope.spawn(enter);
        crowd.remove(0);
        assert!(next.join().unwrap().0.is_some());
    });
}

#[test]
fn followers_get_what_concerns_them_and_what_they_missed() {
    let bench = Bench::local();
    let mut all = bench.connect();
    all.get_mut().write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let head = answer(&mut all).0;
    assert!(head.contains("Content-Type: text/event-stream\r\n"), "{head}");
    let mut line = String::new();
    while line != ": aeternad\n" {
        line.clear();
        all.read_line(&mut line).unwrap();
    }
    bench.event("a", "one\ntwo");
    bench.event("b", "three");
    let mut text = String::new();
    while !text.contains("three") {
        all.read_line(&mut text).unwrap();
    }
    assert!(
        text.contains(
            "id: 1\ndata: {\"time\":1.5,\"unit\":\"a\",\"kind\":\"step\",\"text\":\"one\\ntwo\"}\n\n"
        ),
        "{text}"
    );

    for (query, fields, first) in
        [("?recent=1", "", "id: 2"), ("?unit=a&recent=9", "", "id: 1"), ("", "Last-Event-ID: 1\r\n", "id: 2")]
    {
        let mut other = bench.connect();
        write!(other.get_mut(), "GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").unwrap();
        let mut text = String::new();
        while !text.contains("data: ") {
            assert!(other.read_line(&mut text).unwrap() > 0);
        }
        let id = text.lines().find(|line| line.starts_with("id: ")).unwrap();
        assert_eq!(id, first, "{query} {fields}");
    }
    // The end of the server is the end of the stream, after everything that was sent.
    bench.event("a", "last words");
    bench.stop();
    let mut rest = String::new();
    all.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("last words"), "{rest}");
}

#[test]
fn a_follower_who_does_not_read_loses_events_and_is_told_how_many() {
    let followers = Followers::new(1000);
    let following = followers.follow(followers::Wish { unit: None, recent: 0, after: None }).unwrap();
    let event = EventLine {
        time: 0.0,
        unit: "a".into(),
        kind: "step".into(),
        text: String::new(),
        generation: None,
        state: None,
        lasted: None,
        pid: None,
        outcome: None,
    };
    for _ in 0..300 {
        followers.broadcast(&event);
    }
    assert_eq!(following.lines.try_iter().count() as u64 + following.take_lost(), 300);
    followers.broadcast(&event);
    assert_eq!((following.lines.try_iter().count(), following.take_lost()), (1, 0));
    followers.forget(following);
    // Whoever comes back goes on where it was, and hears what nobody remembers any more.
    for (after, told, lost) in [(1300, 1, 0), (1101, 200, 0), (1001, 200, 100), (7, 200, 0), (9999, 200, 0)] {
        let wish = followers::Wish { unit: None, recent: 0, after: Some(after) };
        let again = followers.follow(wish).unwrap();
        assert_eq!((again.lines.try_iter().count(), again.take_lost()), (told, lost), "{after}");
        followers.forget(again);
    }
    let many: Vec<_> = (0..MAX_FOLLOWERS)
        .map(|_| followers.follow(followers::Wish { unit: None, recent: 0, after: None }).unwrap())
        .collect();
    assert!(followers.follow(followers::Wish { unit: None, recent: 0, after: None }).is_none());
    drop(many);
}

#[test]
fn stopping_ends_connections_that_wait() {
    let (outside, woken) = outside(root);
    // An address of its own: nobody else can have the port in the end.
    let server = HttpServer::start("127.0.0.77:0", None, outside, 7).unwrap();
    let mut waits = BufReader::new(TcpStream::connect(server.address()).unwrap());
    waits.get_mut().write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    woken.recv_timeout(Duration::from_secs(60)).unwrap();
    let mut silent = TcpStream::connect(server.address()).unwrap();
    let address = server.address().to_owned();
    server.stop();
    let (head, body) = answer(&mut waits);
    expect(&head, 503, "");
    assert!(body.contains("stopping"), "{body}");
    // The silent one may have been in the accept queue still: then it is reset.
    let _ = silent.read_to_end(&mut Vec::new());
    let _ = silent.shutdown(Shutdown::Both);
    assert!(TcpStream::connect(address).is_err());
}
