//! Every SDK against the golden bytes and against a coordinator that plays aeternad's part.

use crate::common;
use aeterna::daemon::relay::{self, Inlet, Job, Outlet, RelayResult};
use aeterna::proto::srp::{Decoder, FrameType, Header, Hello, Message, Piece, Totals};
use aeterna::sys::clock;
use aeterna::sys::stream::{self, Moved, Watch};
use aeterna::time::Span;
use common::{Env, example, repository, skip};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Whether a language can send and receive descriptors.
#[derive(Clone, Copy, PartialEq)]
enum Descriptors {
    Yes,
    No,
}

/// The echo program of one language.
struct Sdk {
    env: Env,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    descriptors: Descriptors,
}

impl Sdk {
    fn new(program: impl Into<PathBuf>, arguments: &[&str], descriptors: Descriptors) -> Sdk {
        let arguments = arguments.iter().map(|a| (*a).to_string()).collect();
        Sdk { env: Env::new(), program: program.into(), arguments, variables: Vec::new(), descriptors }
    }
}

/// A program under test and the coordinator's end of its connection.
struct Talk<'a> {
    sdk: &'a Sdk,
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    listener: UnixListener,
    notices: UnixDatagram,
    stream: UnixStream,
    decoder: Decoder,
}

#[derive(Debug, PartialEq)]
enum Got {
    Message(Message),
    /// Type, payload, number of descriptors.
    State(u8, Vec<u8>, usize),
    End,
}

fn hello(predecessor: bool) -> Message {
    Message::Hello(Hello::Coordinator { generation: 2, predecessor })
}

impl<'a> Talk<'a> {
    /// Starts the program, and answers its HELLO.
    fn start(sdk: &'a Sdk) -> Talk<'a> {
        Talk::greeted(sdk, true)
    }

    /// Starts the program, and answers its HELLO or does not.
    fn greeted(sdk: &'a Sdk, answers: bool) -> Talk<'a> {
        let (path, notify) = (sdk.env.path("srp.sock"), sdk.env.path("notify.sock"));
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_file(&notify);
        let listener = UnixListener::bind(&path).unwrap();
        let notices = UnixDatagram::bind(&notify).unwrap();
        notices.set_read_timeout(Some(common::WAIT)).unwrap();
        let mut child =
            command(sdk).env("AETERNA_STATE_SOCK", &path).env("NOTIFY_SOCKET", &notify).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let stream = accept(&listener);
        let mut talk = Talk { sdk, child, lines, listener, notices, stream, decoder: Decoder::new() };
        assert_eq!(talk.next(), Got::Message(Message::Hello(Hello::Sink)));
        if answers {
            talk.say(&hello(true));
        }
        talk
    }

    /// The program connects again, as a source, and is greeted.
    fn accept_again(&mut self) {
        self.stream = accept(&self.listener);
        self.decoder = Decoder::new();
        assert_eq!(self.next(), Got::Message(Message::Hello(Hello::Source)));
        self.say(&hello(false));
    }

    fn say(&self, message: &Message) {
        self.send(&message.to_bytes());
    }

    fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).unwrap();
    }

    /// A frame with a descriptor on its first byte, if the language can have it; with how many.
    fn send_descriptor(&self, bytes: &[u8]) -> usize {
        if self.sdk.descriptors == Descriptors::No {
            self.send(bytes);
            return 0;
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let sent = stream::send(self.stream.as_fd(), bytes, &[file.as_fd()]).unwrap();
        assert_eq!(sent, Moved::Bytes(bytes.len()));
        1
    }

    /// What the program says next.
    fn next(&mut self) -> Got {
        let (mut state, mut kind) = (Vec::new(), 0);
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let room = self.decoder.wanted().min(buffer.len());
            let moved = stream::receive(self.stream.as_fd(), &mut buffer[..room], &mut descriptors).unwrap();
            let count = match moved {
                Moved::Ended => return Got::End,
                Moved::NotYet => {
                    let limit = Some(clock::now() + Span::from_secs(common::WAIT.as_secs()));
                    let [ready] = stream::wait([Watch::read(&self.stream)], limit).unwrap();
                    assert!(ready.read, "the program says nothing");
                    continue;
                }
                Moved::Bytes(count) => count,
            };
            let mut input = &buffer[..count];
            while let Some(piece) = self.decoder.next(&mut input).unwrap() {
                match piece {
                    Piece::Message(message) => return Got::Message(message),
                    Piece::State(header) => kind = header.kind.code(),
                    Piece::Body(body) => state.extend_from_slice(body),
                    Piece::End => return Got::State(kind, state, descriptors.len()),
                }
            }
        }
    }

    fn expect_ack(&mut self) {
        assert_eq!(self.next(), Got::Message(Message::Finished(None)));
    }

    fn error_code(&mut self) -> String {
        match self.next() {
            Got::Message(Message::Error(complaint)) => complaint.code,
            other => panic!("{other:?}"),
        }
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn notice(&self) -> String {
        let mut buffer = [0; 200];
        let count = self.notices.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    /// Ends the program by the end of its input: its log.
    fn log(mut self) -> String {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        drop(self.child.stdin.take());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        self.child.wait().unwrap();
        log
    }
}

fn command(sdk: &Sdk) -> Command {
    let mut command = sdk.env.command(&sdk.program);
    command.args(&sdk.arguments).envs(sdk.variables.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("AETERNA_STATE_SOCK");
    command
}

fn accept(listener: &UnixListener) -> UnixStream {
    let limit = Some(clock::now() + Span::from_secs(common::WAIT.as_secs()));
    assert!(stream::wait([Watch::read(listener)], limit).unwrap()[0].read, "the program does not connect");
    listener.accept().unwrap().0
}

struct Vector {
    bytes: Vec<u8>,
    word: String,
    payload: Vec<u8>,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// The golden frames of one part: `type` or `code`, and the bytes.
fn vectors(part: &str) -> Vec<Vector> {
    let path = repository().join("tests/vectors/srp.json");
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or_default().to_string();
    let vector = |v: &serde_json::Value| Vector {
        bytes: hex(&text(v, "frame")),
        word: text(v, "type") + &text(v, "code"),
        payload: hex(&text(v, "payload")),
    };
    all[part].as_array().unwrap().iter().map(vector).collect()
}

/// Everything that every SDK must do.
fn play(sdk: &Sdk) {
    state_goes_in_and_comes_out_as_it_was(sdk);
    what_is_no_srp_is_answered_by_its_name(sdk);
    a_state_that_breaks_off_is_no_state(sdk);
    a_hello_that_is_answered_late_is_no_harm(sdk);
    a_service_may_refuse_a_state(sdk);
    a_service_that_cannot_save_serves_on(sdk);
    a_source_serves_on_when_aeternad_dies(sdk);
    without_aeternad_there_is_no_state(sdk);
}

fn state_goes_in_and_comes_out_as_it_was(sdk: &Sdk) {
    let mut talk = Talk::start(sdk);
    let states: Vec<Vector> =
        vectors("valid").into_iter().filter(|vector| vector.word.starts_with("STATE")).collect();
    let mut expected = Vec::new();
    let mut line = "loaded".to_string();
    for Vector { bytes, word, payload } in states {
        let count = if word == "STATE_FD" { talk.send_descriptor(&bytes) } else { 0 };
        if word != "STATE_FD" {
            talk.send(&bytes);
        }
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        line += &format!(" {:02x}:{hex}:{count}", bytes[9]);
        expected.push(Got::State(bytes[9], payload, count));
    }
    talk.say(&Message::Finished(Some(Totals { frames: Some(7), bytes: None })));
    talk.expect_ack();
    assert_eq!(talk.line(), line);
    assert_eq!(talk.notice(), "READY=1");
    assert_eq!(talk.notice(), "STATUS=loaded");
    let bytes: usize =
        expected.iter().map(|got| if let Got::State(_, p, _) = got { p.len() } else { 0 }).sum();
    let totals = Totals { frames: Some(expected.len() as u64), bytes: Some(bytes as u64) };
    let request = |talk: &mut Talk<'_>| {
        talk.say(&Message::Request);
        for got in &expected {
            assert_eq!(&talk.next(), got);
        }
        assert_eq!(talk.next(), Got::Message(Message::Finished(Some(totals))));
        talk.say(&Message::Finished(None));
    };
    request(&mut talk);
    talk.say(&Message::Resume);
    talk.send(&[&Header::parse(&expected_json()).unwrap().to_bytes()[..], b"{}"].concat());
    talk.say(&Message::Finished(None));
    talk.expect_ack();
    assert_eq!(talk.line(), "resumed 02:7b7d:0");
    request(&mut talk);
    talk.say(&Message::Resume);
    talk.say(&Message::Finished(None));
    talk.expect_ack();
    assert_eq!(talk.line(), "resumed");
    request(&mut talk);
    talk.say(&Message::Commit);
    assert_eq!(talk.line(), "committed");
    assert!(talk.child.wait().unwrap().success());
}

/// The header of `{}` as STATE_JSON.
fn expected_json() -> [u8; 12] {
    [0, 0, 0, 10, 0xAE, 0x7E, 0x20, 0x24, 1, 2, 0, 0]
}

fn what_is_no_srp_is_answered_by_its_name(sdk: &Sdk) {
    let mut seen = Vec::new();
    for Vector { bytes, word, .. } in vectors("invalid") {
        // What is wrong with a header; payloads that no sink is sent are none of an SDK's business.
        if word == "bad_json" || word == "not_empty" || seen.contains(&word) {
            continue;
        }
        let mut talk = Talk::start(sdk);
        talk.send(&bytes);
        match talk.next() {
            Got::Message(Message::Error(complaint)) => assert_eq!(complaint.code, word),
            other => panic!("{word}: {other:?}"),
        }
        assert_eq!(talk.line(), "loaded");
        let log = talk.log();
        assert!(log.contains("[Aeterna-SDK] no state was taken over"), "{word}: {log}");
        seen.push(word);
    }
    assert_eq!(seen.len(), 6);
}

fn a_state_that_breaks_off_is_no_state(sdk: &Sdk) {
    let whole = [&expected_json()[..], b"{}"].concat();
    let error = Message::error("source_failed", "it died").to_bytes();
    for (bytes, says) in
        [(whole[..5].to_vec(), ""), (whole[..13].to_vec(), ""), ([whole, error].concat(), "it died")]
    {
        let mut talk = Talk::start(sdk);
        talk.send(&bytes);
        talk.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(talk.line(), "loaded");
        // The service lives, and offers itself as a source for the next time.
        talk.stream = accept(&talk.listener);
        talk.decoder = Decoder::new();
        assert_eq!(talk.next(), Got::Message(Message::Hello(Hello::Source)));
        talk.say(&hello(true));
        talk.say(&Message::Request);
        let none = Totals { frames: Some(0), bytes: Some(0) };
        assert_eq!(talk.next(), Got::Message(Message::Finished(Some(none))));
        let log = talk.log();
        assert!(log.contains("[Aeterna-SDK] no state was taken over") && log.contains(says), "{log}");
    }
}

/// A whole state of one STATE_JSON frame.
fn one_frame(payload: &str) -> Vec<u8> {
    let header = Header::new(FrameType::StateJson, payload.len()).unwrap();
    [&header.to_bytes()[..], payload.as_bytes(), &Message::Finished(None).to_bytes()].concat()
}

/// On a busy machine a program may connect, and be taken for a silent one before its HELLO comes.
fn a_hello_that_is_answered_late_is_no_harm(sdk: &Sdk) {
    for later in [false, true] {
        let mut talk = Talk::greeted(sdk, false);
        let whole = [&expected_json()[..], b"{}"].concat();
        talk.send(&whole);
        if !later {
            talk.say(&hello(true));
        }
        talk.send(&whole);
        talk.say(&Message::Finished(None));
        talk.expect_ack();
        assert_eq!(talk.line(), "loaded 02:7b7d:0 02:7b7d:0");
        if later {
            talk.say(&hello(true));
        }
        talk.say(&Message::Request);
        assert!(matches!(talk.next(), Got::State(..)));
    }
}

fn a_service_may_refuse_a_state(sdk: &Sdk) {
    // By an error, or by what is worse in its language.
    for payload in ["refuse me", "choke on me"] {
        let mut talk = Talk::start(sdk);
        talk.send(&one_frame(payload));
        assert_eq!(talk.error_code(), "load_failed");
        assert_eq!(talk.line(), "loaded");
        assert!(talk.log().contains("[Aeterna-SDK] no state was taken over"));
    }
}

fn a_service_that_cannot_save_serves_on(sdk: &Sdk) {
    let mut talk = Talk::start(sdk);
    talk.send(&one_frame("lose me"));
    talk.expect_ack();
    assert_eq!(talk.line(), "loaded 02:6c6f7365206d65:0");
    for _ in 0..2 {
        talk.say(&Message::Request);
        assert_eq!(talk.error_code(), "save_failed");
        talk.say(&Message::Resume);
        talk.say(&Message::Finished(None));
        talk.expect_ack();
        assert_eq!(talk.line(), "resumed");
    }
}

fn a_source_serves_on_when_aeternad_dies(sdk: &Sdk) {
    let mut talk = Talk::start(sdk);
    talk.say(&Message::Finished(None));
    talk.expect_ack();
    assert_eq!(talk.line(), "loaded");
    talk.say(&Message::Request);
    assert!(matches!(talk.next(), Got::Message(Message::Finished(_))));
    talk.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(talk.line(), "resumed");
    // The next aeternad gets the state as if nothing had been.
    for _ in 0..2 {
        talk.accept_again();
        talk.say(&Message::Request);
        assert!(matches!(talk.next(), Got::Message(Message::Finished(_))));
        talk.say(&Message::Resume);
        talk.say(&Message::Finished(None));
        talk.expect_ack();
        assert_eq!(talk.line(), "resumed");
        talk.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }
    talk.accept_again();
    // One whose place somebody else has does not fight for it.
    talk.say(&Message::error("replaced", "a newer connection has its place"));
    assert_eq!(talk.next(), Got::End);
}

fn without_aeternad_there_is_no_state(sdk: &Sdk) {
    let mut child = command(sdk).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "loaded\n");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log, "", "nothing is wrong with that");
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a toolchain is there; says so if it is not.
fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        skip(&format!("{program} is not installed"));
    }
    found.is_ok()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn rust() {
    play(&Sdk::new(example("sdk_echo"), &[], Descriptors::Yes));
}

#[test]
fn python() {
    if has("python3") {
        let program = repository().join("tests/sdk/echo.py");
        let mut sdk = Sdk::new("python3", &["-B", &program.display().to_string()], Descriptors::Yes);
        sdk.variables.push(("PYTHONPATH".into(), repository().join("sdk/python").display().to_string()));
        play(&sdk);
    }
}

#[test]
fn go() {
    if !has("go") {
        return;
    }
    let mut sdk = Sdk::new("", &[], Descriptors::Yes);
    let module = format!(
        "module echo\n\ngo 1.19\n\nrequire example.invalid/aeterna/sdk/go v0.1.0\n\n\
         replace example.invalid/aeterna/sdk/go => {}\n",
        repository().join("sdk/go").display()
    );
    sdk.env.file("echo/go.mod", &module);
    std::fs::copy(repository().join("tests/sdk/echo.go"), sdk.env.path("echo/main.go")).unwrap();
    sdk.program = sdk.env.path("echo/echo");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&sdk.program).arg(".").current_dir(sdk.env.path("echo"));
    run(build.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off").env("CGO_ENABLED", "0"));
    play(&sdk);
}

#[test]
fn java() {
    if !has("javac") {
        return;
    }
    let mut sdk = Sdk::new("java", &[], Descriptors::No);
    let classes = sdk.env.path("classes").display().to_string();
    let mut build = Command::new("javac");
    build.args(["-Xlint:all", "-Werror", "--release", "16", "-d", &classes]);
    run(build
        .arg(repository().join("sdk/java/src/main/java/invalid/example/aeterna/Aeterna.java"))
        .arg(repository().join("tests/sdk/Echo.java")));
    sdk.arguments = vec!["-Xshare:auto".into(), "-cp".into(), classes, "Echo".into()];
    play(&sdk);
}

#[test]
fn node() {
    if has("node") {
        let (echo, library) =
            (repository().join("tests/sdk/echo.js"), repository().join("sdk/node/aeterna.js"));
        let arguments = [&echo.display().to_string()[..], &library.display().to_string()];
        play(&Sdk::new("node", &arguments, Descriptors::No));
    }
}

/// The one header, as the language that the compiler is asked for.
fn compiled(compiler: &str, arguments: &[&str]) {
    if !has(compiler) {
        return;
    }
    let mut sdk = Sdk::new("", &[], Descriptors::Yes);
    sdk.program = sdk.env.path("echo");
    let mut build = Command::new(compiler);
    build.args(arguments).args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread", "-I"]);
    build
        .arg(repository().join("sdk/c"))
        .arg(repository().join("tests/sdk/echo.c"))
        .arg("-o")
        .arg(&sdk.program);
    run(&mut build);
    play(&sdk);
}

#[test]
fn c() {
    compiled("gcc", &["-std=c99", "-x", "c"]);
}

#[test]
fn cpp() {
    compiled("g++", &["-std=c++11", "-x", "c++"]);
}

/// One generation of an example program, and the coordinator's end of its SRP connection.
struct Generation {
    child: Child,
    stream: UnixStream,
    /// Kept open: a service may say more than the test reads.
    _notices: UnixDatagram,
}

impl Generation {
    /// Starts it on the listener, as a supervisor would, and reads its HELLO.
    fn start(env: &Env, number: u32, listener: &TcpListener, program: &[String]) -> Generation {
        let (path, notify) = (env.path(&format!("srp{number}")), env.path(&format!("notify{number}")));
        let srp = UnixListener::bind(&path).unwrap();
        let notices = UnixDatagram::bind(&notify).unwrap();
        let mut command = env.command("/bin/sh");
        command.args(["-c", "exec 3<&0 0</dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\""]).args(program);
        command.stdin(OwnedFd::from(listener.try_clone().unwrap())).env("LISTEN_FDS", "1");
        command.env("AETERNA_STATE_SOCK", path).env("NOTIFY_SOCKET", notify);
        command.env("AETERNA_GENERATION", number.to_string()).env("AETERNA_MANAGED", "1");
        let child = command.spawn().unwrap();
        let mut stream = accept(&srp);
        stream.set_read_timeout(Some(common::WAIT)).unwrap();
        let mut hello = vec![0; Message::Hello(Hello::Sink).to_bytes().len()];
        // Languages write their JSON with and without a space: its length comes first.
        stream.read_exact(&mut hello[..12]).unwrap();
        let mut payload = vec![0; Header::parse(hello[..12].try_into().unwrap()).unwrap().payload as usize];
        stream.read_exact(&mut payload).unwrap();
        stream.write_all(&self::hello(number > 1).to_bytes()).unwrap();
        if number == 1 {
            let finished = Message::Finished(None).to_bytes();
            stream.write_all(&finished).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            notices.set_read_timeout(Some(common::WAIT)).unwrap();
            notices.recv(&mut [0; 100]).unwrap();
        }
        Generation { child, stream, _notices: notices }
    }

    /// Hands its state over to `to`, with the daemon's relay; tells it so; stops it.
    fn hand_over(mut self, to: &Generation) {
        self.stream.write_all(&Message::Request.to_bytes()).unwrap();
        let inlet = Inlet {
            stream: self.stream.try_clone().unwrap(),
            decoder: Decoder::new(),
            held: None,
            descriptors: Vec::new(),
            acks: 0,
            hello: Vec::new(),
        };
        let outlet =
            Outlet { stream: to.stream.try_clone().unwrap(), decoder: Decoder::new(), hello: Vec::new() };
        let (cancel, _tx) = std::io::pipe().unwrap();
        let deadline = Some(clock::now() + Span::from_secs(common::WAIT.as_secs()));
        let job = Job {
            source: inlet,
            sink: outlet,
            deadline,
            max_bytes: u64::MAX,
            returns: false,
            copying: relay::FASTEST,
        };
        assert_eq!(relay::run(job, &cancel).result, RelayResult::Done);
        self.stream.set_nonblocking(false).unwrap();
        self.stream.write_all(&Message::Commit.to_bytes()).unwrap();
        common::process::kill(self.child.id() as i32, nix::sys::signal::Signal::SIGTERM);
        assert_eq!(common::process::code(self.child.wait().unwrap()), 0);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two clients of a chat talk before, during and after its replacement, on the connections that they have.
fn chat(program: &[String]) {
    let env = Env::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let old = Generation::start(&env, 1, &listener, program);
    let join = |name: &str| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(common::WAIT)).unwrap();
        (&stream).write_all(format!("{name}\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        assert!(line(&mut reader).starts_with(&format!("* {name} has come")));
        reader
    };
    let mut alice = join("alice");
    let mut bob = join("bob");
    assert!(line(&mut alice).starts_with("* bob has come (generation 1)"));
    // Half a line before, the other half while nobody reads.
    alice.get_ref().write_all(b"hal").unwrap();
    bob.get_ref().write_all(b"hello\n").unwrap();
    assert_eq!((line(&mut alice), line(&mut bob)), ("bob: hello".into(), "bob: hello".into()));
    let new = Generation::start(&env, 2, &listener, program);
    old.hand_over(&new);
    alice.get_ref().write_all(b"f a line\n").unwrap();
    assert_eq!(
        (line(&mut alice), line(&mut bob)),
        ("alice: half a line".into(), "alice: half a line".into())
    );
    let mut carol = join("carol");
    assert!(line(&mut bob).contains("carol has come (generation 2)"));
    bob.get_ref().write_all(b"welcome\n").unwrap();
    assert_eq!(line(&mut carol), "bob: welcome");
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().to_string()
}

#[test]
fn clients_of_the_chat_stay_connected() {
    chat(&[example("chat").display().to_string()]);
}

fn python_app(path: &str) -> Vec<String> {
    vec!["python3".into(), "-B".into(), repository().join(path).display().to_string()]
}

#[test]
fn clients_of_the_python_chat_stay_connected() {
    if has("python3") {
        chat(&python_app("units/apps/chat/chat.py"));
    }
}

#[test]
fn the_agent_remembers_its_conversations() {
    if !has("python3") {
        return;
    }
    let (env, program) = (Env::new(), python_app("units/apps/agent/agent.py"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let say = |text: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = text.len();
        let head = format!("POST /chat?session=s HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{text}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let old = Generation::start(&env, 1, &listener, &program);
    assert!(say("My name is Ada").contains("1 messages so far"));
    let new = Generation::start(&env, 2, &listener, &program);
    old.hand_over(&new);
    let answer = say("What is my name?");
    assert!(answer.contains("Your name is Ada.") && answer.contains("\"generation\": 2"), "{answer}");
}

#[test]
fn the_cache_changes_hands_as_a_memfd() {
    if !has("python3") {
        return;
    }
    let (env, program) = (Env::new(), python_app("units/apps/cache/cache.py"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let old = Generation::start(&env, 1, &listener, &program);
    assert!(ask("PUT /k HTTP/1.0\r\nContent-Length: 5\r\n\r\nvalue").contains("201"));
    let new = Generation::start(&env, 2, &listener, &program);
    old.hand_over(&new);
    assert!(ask("GET /k HTTP/1.0\r\n\r\n").ends_with("value"));
    assert!(ask("GET /other HTTP/1.0\r\n\r\n").contains("404"));
}
