//! A service that does to its supervisor what a hostile one would: for the tests.
//!
//! `hostile MODE…` does all of these at once, until it is stopped:
//!
//! | mode | does |
//! | --- | --- |
//! | `notify` | sd_notify(3) messages without a pause: statuses with control characters, nonsense, MAINPID= of others |
//! | `store` | descriptors for the store, and names to take out of it, before and after it is ready |
//! | `lines` | lines on standard output, most of them short |
//! | `forks` | processes that leave their parent and their session and end |
//! | `srp` | connections to the state socket: silent, broken, and with ERROR frames |
//! | `binds` | addresses that nobody has declared: TCP, Unix paths, abstract names |
//! | `control` | connections to the control socket that say nothing, or nonsense |
//! | `orders ADDRESS UNIT` | orders a reload of UNIT over HTTP, on a socket of its own and on one that it was given; says what came of it and waits |
//!
//! READY=1 comes after the first round of everything.

#![expect(unsafe_code, reason = "inherited descriptors are numbers")]
#![expect(clippy::print_stdout, reason = "it tells the test what came of it")]

use nix::sys::socket::{Shutdown, SockaddrIn, connect, shutdown};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

/// What nobody should see in a log or on a terminal.
const FORGED: &str = "x\u{1b}[2J\u{202e}forged";

fn main() -> io::Result<()> {
    let modes: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, address, unit] = modes.as_slice()
        && mode == "orders"
    {
        return orders(address, unit);
    }
    let mut floods: Vec<Box<dyn FnMut(u64) -> io::Result<()> + Send>> = Vec::new();
    for mode in &modes {
        floods.push(match mode.as_str() {
            "notify" => Box::new(notify),
            "store" => Box::new(store),
            "lines" => Box::new(lines),
            "forks" => Box::new(forks),
            "srp" => Box::new(srp),
            "binds" => Box::new(binds),
            "control" => Box::new(control),
            other => return Err(io::Error::other(format!("no such mode: {other}"))),
        });
    }
    for flood in &mut floods {
        // What is refused at the first try is refused: that is no reason to stop.
        let _ = flood(0);
    }
    say("READY=1", &[])?;
    for mut flood in floods {
        std::thread::spawn(move || {
            for round in 1.. {
                if flood(round).is_err() {
                    // The door is shut: somebody hostile would try again soon.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
    }
    loop {
        std::thread::park();
    }
}

/// Sends one message to the supervisor. Waits while its queue is full.
fn say(message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    use nix::sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
    };
    let path = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    let address = UnixAddr::new(path.as_str())?;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let attached = if raw.is_empty() { &[][..] } else { &rights[..] };
    sendmsg(
        socket.as_raw_fd(),
        &[io::IoSlice::new(message.as_bytes())],
        attached,
        MsgFlags::empty(),
        Some(&address),
    )?;
    Ok(())
}

fn notify(round: u64) -> io::Result<()> {
    // One socket for many messages: they come faster.
    let socket = UnixDatagram::unbound()?;
    socket.connect(std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?)?;
    for number in 0..50 {
        socket.send(format!("STATUS={FORGED} {round} {number}").as_bytes())?;
        socket.send(b"MAINPID=1")?;
        socket.send(b"\xff\xfe no text")?;
        socket.send(&[b'x'; 17_000])?;
    }
    Ok(())
}

fn store(round: u64) -> io::Result<()> {
    let file = std::fs::File::open("/dev/null")?;
    let fd = std::os::fd::AsFd::as_fd(&file);
    for number in 0..20 {
        say(&format!("FDSTOREREMOVE=1\nFDNAME={round}.{number}"), &[])?;
        say(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={round}.{number}"), &[fd; 20])?;
        say("X_NOTHING=1", &[fd; 100])?;
    }
    Ok(())
}

fn lines(round: u64) -> io::Result<()> {
    let mut text = format!("{FORGED} {round}\n");
    for number in 0..1000 {
        text.push_str(if number % 10 == 0 { "\n" } else { "y\n" });
    }
    io::stdout().write_all(text.as_bytes())
}

fn forks(_: u64) -> io::Result<()> {
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", "for i in 1 2 3 4 5 6 7 8; do (setsid true &); done"])
        .env_clear()
        .stdout(std::process::Stdio::null())
        .spawn()?;
    child.wait().map(drop)
}

fn srp(round: u64) -> io::Result<()> {
    let path = std::env::var("AETERNA_STATE_SOCK").map_err(io::Error::other)?;
    let mut stream = UnixStream::connect(path)?;
    match round % 3 {
        0 => stream.write_all(&[0; 64])?,
        1 => {
            let payload = format!(r#"{{"code":"x","message":"{}"}}"#, FORGED.replace('\u{1b}', "\\u001b"));
            let mut frame = (8 + payload.len() as u32).to_be_bytes().to_vec();
            frame.extend([0xae, 0x7e, 0x20, 0x24, 1, 0xfe, 0, 0]);
            frame.extend(payload.bytes());
            for _ in 0..200 {
                stream.write_all(&frame)?;
            }
        }
        _ => {}
    }
    stream.set_read_timeout(Some(Duration::from_millis(5)))?;
    // However it ends.
    let _ = stream.read(&mut [0; 4096]);
    Ok(())
}

fn binds(round: u64) -> io::Result<()> {
    // Not closed before some more have come.
    let tcp: Vec<_> = (0..8).filter_map(|_| TcpListener::bind("127.0.0.1:0").ok()).collect();
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!(
        "hostile-{}-{round}-{FORGED}",
        std::process::id()
    ))?;
    let hidden = UnixListener::bind_addr(&name);
    let path = std::env::temp_dir().join(format!("hostile-{}-{round}", std::process::id()));
    let named = UnixListener::bind(&path);
    // Nobody else knows of it.
    let _ = std::fs::remove_file(&path);
    drop((tcp, hidden, named));
    Ok(())
}

fn control(round: u64) -> io::Result<()> {
    let path = std::env::var("HOSTILE_CONTROL").map_err(io::Error::other)?;
    let mut stream = UnixStream::connect(path)?;
    if round.is_multiple_of(2) {
        stream.write_all(b"{\"command\":\"nonsense\"}\n{")?;
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

/// Orders a reload over HTTP on `stream`: the status of the answer.
fn order(stream: &mut TcpStream, address: SocketAddrV4, unit: &str) -> io::Result<String> {
    let head = format!(
        "POST /v1/units/{unit}/reload HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok(format!("{} {body}", head.split(' ').nth(1).unwrap_or("nothing")))
}

/// What came of an order on an own socket, and on one that the supervisor has made and bound.
fn orders(address: &str, unit: &str) -> io::Result<()> {
    let at: SocketAddrV4 = address.parse().map_err(io::Error::other)?;
    let mut own = TcpStream::connect(SocketAddr::V4(at))?;
    println!("own: {}", order(&mut own, at, unit)?);
    // Out of LISTEN, and then it is a socket like any other, but root has made it.
    shutdown(3, Shutdown::Both)?;
    let given = connect(3, &SockaddrIn::from(at));
    // SAFETY: descriptor 3 was handed to us, and nobody else here owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(3) };
    let said = given.map_err(io::Error::from).and_then(|()| order(&mut TcpStream::from(socket), at, unit));
    println!("given: {}", said.unwrap_or_else(|error| error.to_string()));
    // Until it is stopped.
    loop {
        std::thread::park();
    }
}
