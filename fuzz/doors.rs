//! Every door through which bytes of others come in, as one function each: what must hold for any bytes at all.
//!
//! `fuzz_targets/` gives them to libFuzzer; `tests/it/doors.rs` gives them to a small mutator of its own, as a part of every
//! `cargo test`, because a fuzzer needs a compiler that not everybody has.

#![allow(clippy::panic, clippy::expect_used, clippy::unwrap_used, missing_docs)]

use aeterna::daemon::intercept::address;
use aeterna::proto::harmless::{harmless_bytes, is_seen};
use aeterna::proto::http::{request, route};
use aeterna::proto::srp::{Decoder, Message, Piece};
use aeterna::proto::{control, notify};
use aeterna::sys::sockdiag;
use aeterna::unit::{Context, Source, import, parse, print};

/// A name, what is tried, and texts that get somewhere.
pub(super) type Door = (&'static str, fn(&[u8]), &'static [&'static [u8]]);

/// All of them.
pub(super) const DOORS: &[Door] = &[
    ("unit", unit, UNITS),
    ("import", imported, IMPORTS),
    ("notify", notified, NOTIFY),
    ("srp", srp, SRP),
    ("control", controlled, CONTROL),
    ("http", http, HTTP),
    ("sockaddr", sockaddr, SOCKADDR),
    ("sock_diag", sock_diag, SOCK_DIAG),
    ("harmless", shown, NOTIFY),
];

/// Any text is a unit that prints as itself, or has errors.
pub(super) fn unit(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let context = Context {
        stem: "app".into(),
        file: "app.toml".into(),
        runtime_dir: "/run/aeterna".into(),
        pid1: false,
    };
    match parse(text, &context) {
        Ok(parsed) => {
            let shown = print(&parsed.unit);
            let again = parse(&shown, &context).expect("what is printed can be read");
            assert_eq!(again.unit, parsed.unit, "{shown}");
        }
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| error.line > 0)),
    }
}

const UNITS: &[&[u8]] = &[
    b"[Unit]\nDescription = \"x\"\n[[Socket]]\nListenStream = [\"0.0.0.0:80\", \"[::1]:8080\", \"/run/x\", \"@a\"]\n[Service]\nExecStart = \"/bin/x %n ${HOME}\"\nType = \"notify\"\nUser = \"www-data\"\n",
    b"[Socket]\nListenDatagram = \"vsock:2:80\"\nAccept = true\nMaxConnections = 8\n[Service]\nExecStart = [\"/bin/x\"]\nEnvironment = { A = \"b\" }\nRestart = \"on-failure\"\nRestartSec = \"500ms\"\n[Reload]\nStrategy = \"replace\"\n[[Reload.PreFlight]]\nExec = [\"/bin/true\"]\n",
    b"[Service]\nExecStart = \"-/bin/sh -c 'a \\\"b\\\"'\"\nLimitNOFILE = \"1K:2K\"\nUMask = \"0077\"\n[HealthCheck]\nHttpGet = \"http://127.0.0.1/\"\n[State]\nEnabled = true\nMaxBytes = \"4G\"\n[Daemon]\nHttp = \"127.0.0.1:9091\"\n",
];

/// Whatever is imported parses; whatever is not has a reason.
pub(super) fn imported(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let context =
        Context { stem: "app".into(), file: String::new(), runtime_dir: "/run".into(), pid1: false };
    for name in ["a.service", "a@b.service", "aeterna.yaml", "Procfile"] {
        let source = Source { file: name.into(), name: name.into(), text: text.into() };
        match import(&[source], None) {
            Ok(unit) => assert!(parse(&unit.text, &context).is_ok(), "{}", unit.text),
            Err(findings) => assert!(!findings.is_empty()),
        }
    }
}

const IMPORTS: &[&[u8]] = &[
    b"[Unit]\nDescription=x\n[Service]\nExecStart=/bin/x $A ${B} \"c d\" \\\n  -e\nUser=nobody\nRestart=always\nEnvironment=A=b \"C=d e\"\n[Install]\nWantedBy=multi-user.target\n",
    b"service:\n  name: x\n  command: [\"/bin/x\", '-a']\nsockets:\n  - address: \"127.0.0.1:80\"\n    type: tcp\n# c\n",
    b"web: bin/x -p $PORT\nworker: bin/y\n",
];

/// A message is refused as a whole, or says something that can be shown.
pub(super) fn notified(bytes: &[u8]) {
    if let Ok(message) = notify::parse(bytes) {
        if let Some(status) = &message.status {
            assert!(status.len() <= notify::MAX_STATUS + 16 && status.chars().all(is_seen), "{status:?}");
        }
        assert!(message.fd_name.as_deref().is_none_or(notify::is_fd_name));
        assert!(message.main_pid.is_none_or(|pid| pid > 0));
    }
}

const NOTIFY: &[&[u8]] = &[
    b"READY=1\nSTATUS=all is well\nMAINPID=4711\n",
    b"FDSTORE=1\nFDNAME=x\nFDPOLL=0\n",
    b"WATCHDOG=trigger\nWATCHDOG_USEC=1000\nEXTEND_TIMEOUT_USEC=5\nRELOADING=1\nMONOTONIC_USEC=7",
    b"STATUS=\x1b[2J\xe2\x80\xae\r\xc2\x85\nERRNO=2\nEXIT_STATUS=1\nBARRIER=1\0",
];

/// Everything that a stream says: messages, and state as kind and number of bytes.
fn read(bytes: &[u8], size: usize) -> (Vec<String>, bool) {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    let mut state = None;
    for mut chunk in bytes.chunks(size) {
        loop {
            match decoder.next(&mut chunk) {
                Ok(None) => break,
                Ok(Some(Piece::State(header))) => state = Some((header, 0)),
                Ok(Some(Piece::Body(body))) => {
                    let (header, count) = state.as_mut().expect("a payload has a header");
                    *count += body.len();
                    assert!(*count <= header.payload as usize);
                }
                Ok(Some(Piece::End)) => {
                    let (header, count) = state.take().expect("an end has a beginning");
                    assert_eq!(count, header.payload as usize);
                    found.push(format!("{header:?}"));
                }
                Ok(Some(Piece::Message(message))) => {
                    found.push(format!("{message:?}"));
                    round_trip(&message);
                }
                Err(error) => {
                    found.push(error.to_string());
                    return (found, false);
                }
            }
        }
    }
    (found, true)
}

fn round_trip(message: &Message) {
    let bytes = message.to_bytes();
    let read = Decoder::new().next(&mut &bytes[..]);
    match (message, read) {
        // A long complaint is cut off.
        (Message::Error(_), Ok(Some(Piece::Message(Message::Error(complaint))))) => {
            assert!(complaint.shown().chars().all(is_seen));
        }
        (_, read) => assert_eq!(read, Ok(Some(Piece::Message(message.clone())))),
    }
}

/// SRP's decoder: any bytes, in chunks of any sizes, mean the same as in one piece, and whatever is a message is
/// written and read back as itself. The first byte says how long the chunks are.
pub(super) fn srp(data: &[u8]) {
    if let [size, bytes @ ..] = data {
        assert_eq!(read(bytes, usize::from(*size).max(1)), read(bytes, bytes.len().max(1)));
    }
}

const SRP: &[&[u8]] = &[
    b"\x03\0\0\0\x19\xae\x7e\x20\x24\x01\x01\0\0{\"role\":\"source\"}\0\0\0\x08\xae\x7e\x20\x24\x01\x10\0\0",
    b"\x07\0\0\0\x0f\xae\x7e\x20\x24\x01\x02\0\0{\"n\":1}\0\0\0\x08\xae\x7e\x20\x24\x01\xff\0\0",
    b"\x01\0\0\0\x22\xae\x7e\x20\x24\x01\xfe\0\0{\"code\":\"x\",\"message\":\"y\"}\0\0\0\x08\xae\x7e\x20\x24\x01\x12\0\0",
    b"\xff\0\0\0\x0a\xae\x7e\x20\x24\x01\x05\0\0{}\0\0\0\x0a\xae\x7e\x20\x24\x01\xff\0\0{}",
];

/// A line of the control socket is a request that is written as itself, or is refused in words.
pub(super) fn controlled(bytes: &[u8]) {
    match control::parse_request(bytes) {
        Ok(request) => {
            let line = control::to_request_line(&request).expect("what was short enough is");
            assert_eq!(control::parse_request(&line), Ok(request));
        }
        Err(refusal) => assert!(!refusal.message.is_empty() && refusal.message.chars().all(is_seen)),
    }
}

const CONTROL: &[&[u8]] = &[
    b"{\"command\":\"reload\",\"units\":[\"a\"],\"reason\":\"why\",\"force\":true,\"wait\":false}",
    b"{\"command\":\"kill\",\"unit\":\"a\",\"signal\":15,\"generation\":2}\n",
    b"{\"command\":\"status\"}",
    b"{\"command\":\"stop\",\"unit\":\"a\",\"close\":true}",
];

/// The head of a request and its body mean something, or are answered with an error.
pub(super) fn http(bytes: &[u8]) {
    match request::parse_head(bytes) {
        Ok(Some((head, length))) => {
            assert!(length <= bytes.len());
            let body = bytes.get(length..).unwrap_or_default();
            match route::route(&head, body) {
                Ok(route::Call::Reload { reason, .. }) => assert!(reason.chars().all(is_seen), "{reason:?}"),
                Ok(_) => {}
                Err(response) => assert!((400..600).contains(&response.status)),
            }
        }
        Ok(None) => {}
        Err(response) => assert!((400..600).contains(&response.status)),
    }
}

const HTTP: &[&[u8]] = &[
    b"GET /v1/events?unit=a%20b&recent=5 HTTP/1.1\r\nHost: localhost:9091\r\nLast-Event-ID: 7\r\n\r\n",
    b"POST /v1/reload HTTP/1.1\r\nHost: [::1]\r\nOrigin: http://[::1]\r\nAuthorization: Bearer x\r\nContent-Length: 27\r\n\r\n{\"unit\":\"a\",\"reason\":\"\\u0007\"}",
    b"POST /v1/units/a/rollback HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
];

/// A sockaddr is an address that can be spelt harmlessly, or none.
pub(super) fn sockaddr(bytes: &[u8]) {
    let name = address::parse(bytes);
    if let Some(address) = address::address(&name, Some(std::path::Path::new("/x"))) {
        assert!(aeterna::sys::socket::spell(&address).chars().all(is_seen));
    }
}

const SOCKADDR: &[&[u8]] = &[
    b"\x02\0\x1f\x90\x7f\0\0\x01\0\0\0\0\0\0\0\0",
    b"\x0a\0\0\x50\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x07\0\0\0",
    b"\x01\0/run/x\0",
    b"\x01\0\0name \xe2\x80\xae",
];

/// An answer of sock_diag(7) is read, whatever its lengths claim.
pub(super) fn sock_diag(bytes: &[u8]) {
    let answer = sockdiag::read_answer(bytes);
    assert!(answer.rows.len() + answer.unix.len() <= bytes.len() / 8 + 1);
}

const SOCK_DIAG: &[&[u8]] = &[
    b"\x58\0\0\0\x14\0\x02\0\0\0\0\0\0\0\0\0\x02\x0a\0\0\x1f\x90\0\0\x7f\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\x30\0\0\0\x14\0\x02\0\0\0\0\0\0\0\0\0\x01\x01\x0a\0\x07\0\0\0\0\0\0\0\0\0\0\0\x0c\0\x04\0\x01\0\0\0\x80\0\0\0\x05\0\0\0\x61\0\0\0",
    b"\x14\0\0\0\x03\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x24\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\xfe\xff\xff\xff",
];

/// Nothing gets through that is not seen, and no more than was asked for.
pub(super) fn shown(bytes: &[u8]) {
    let most = bytes.len().min(64);
    let text = harmless_bytes(bytes, most);
    assert!(text.len() <= most + 16 && text.chars().all(is_seen), "{text:?}");
    assert_eq!(harmless_bytes(text.as_bytes(), usize::MAX), text, "twice is once");
}
