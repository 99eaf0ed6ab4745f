//! Orders by HTTP.
//!
//! | path | does |
//! | --- | --- |
//! | `/` | pid, generation, counter (or `body`, with `status`) |
//! | `/report`, `/fds` | what was found at the start; the descriptors that are open now |
//! | `/health`, `/set-health?code=N` | answers with that status |
//! | `/hold` | keeps the connection until the client closes it; SIGTERM is told with a line `term` |
//! | `/slow?ms=N` | answers after that time |
//! | `/exit?code=N`, `/signal?signal=S` | answers, then ends |
//! | `/ready` | READY=1 |
//! | `/notify?TEXT` | any message; `%0A` separates lines |
//! | `/fdstore?name=N&content=C&more=LINE` | FDSTORE=1 with a memfd; `listener=1` stores a new listener |
//! | `/barrier` | BARRIER=1; answers when it is acknowledged |
//! | `/spawn?mode=M` | a grandchild: answers its pid |
//! | `/stdout?TEXT`, `/stderr?TEXT` | a line |
//! | `/stop-accepting`, `/accept-again` | |
//! | `/shutdown?fd=N`, `/unlink?fd=N`, `/close?fd=N` | misuses what was lent |
//! | `/read?fd=N` | the content of a stored memfd |

use crate::world::{self, World};
use crate::{borrowed, notify, serve};
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::json;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is to happen once the answer has been written.
pub(crate) enum After {
    Nothing,
    Exit(i32),
    Die(String),
}

/// The answer to an order.
pub(crate) struct Answer {
    pub(crate) status: u64,
    pub(crate) body: String,
    pub(crate) after: After,
}

fn ok(body: impl Into<String>) -> Answer {
    Answer { status: 200, body: body.into(), after: After::Nothing }
}

/// Carries one order out.
pub(crate) fn obey(world: &World, target: &str) -> Answer {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match order(world, path, query) {
        Ok(answer) => answer,
        Err(error) => Answer { status: 500, body: format!("{path}: {error}\n"), after: After::Nothing },
    }
}

fn order(world: &World, path: &str, query: &str) -> io::Result<Answer> {
    let text = decode(query);
    Ok(match path {
        "/" => front(world),
        "/report" => ok(world.report().to_string()),
        "/fds" => ok(world::open_now().to_string()),
        "/health" => Answer { status: world.health.load(Ordering::Relaxed), ..ok("health\n") },
        "/set-health" => {
            world.health.store(number(query, "code")?, Ordering::Relaxed);
            ok("set\n")
        }
        "/slow" => {
            std::thread::sleep(Duration::from_millis(number(query, "ms")?));
            front(world)
        }
        "/exit" => Answer { after: After::Exit(number(query, "code")? as i32), ..ok("bye\n") },
        "/signal" => Answer { after: After::Die(value(query, "signal")?), ..ok("bye\n") },
        "/ready" => ok(world.ready().map(|()| "said\n")?),
        "/notify" => ok(format!("{}\n", notify::send(&text, &[])?)),
        "/fdstore" => ok(format!("{}\n", store(query)?)),
        "/barrier" => ok(format!("{}\n", notify::barrier()?)),
        "/spawn" => ok(world::spawn(&value(query, "mode")?)?),
        "/stdout" => ok(writeln!(io::stdout(), "{text}").map(|()| "said\n")?),
        "/stderr" => ok(writeln!(io::stderr(), "{text}").map(|()| "said\n")?),
        _ => return misuse(world, path, query),
    })
}

fn misuse(world: &World, path: &str, query: &str) -> io::Result<Answer> {
    match path {
        "/stop-accepting" => world.accepting.store(false, Ordering::Relaxed),
        "/accept-again" => world.accepting.store(true, Ordering::Relaxed),
        "/shutdown" => shutdown(number(query, "fd")? as i32, Shutdown::Both)?,
        "/unlink" => serve::unlink(number(query, "fd")? as i32)?,
        "/close" => drop(crate::owned(number(query, "fd")? as i32)),
        "/read" => {
            let file = std::fs::File::from(borrowed(number(query, "fd")? as i32).try_clone_to_owned()?);
            let mut bytes = vec![0; file.metadata()?.len() as usize];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
            return Ok(ok(String::from_utf8_lossy(&bytes)));
        }
        _ => return Ok(Answer { status: 404, ..ok("no such order\n") }),
    }
    Ok(ok("done\n"))
}

fn front(world: &World) -> Answer {
    let count = world.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let status = world.settings.number("status").unwrap_or(200);
    let generation = crate::report::variable("AETERNA_GENERATION");
    let worker = crate::report::variable("AETERNA_WORKER");
    let fresh =
        json!({"pid": std::process::id(), "generation": generation, "worker": worker, "count": count});
    let body = world.settings.get("body").map_or_else(|| fresh.to_string(), str::to_string);
    Answer { status, ..ok(body) }
}

fn store(query: &str) -> io::Result<bool> {
    let name = value(query, "name")?;
    let more = value(query, "more").unwrap_or_default();
    if value(query, "listener").is_ok() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        return notify::send(&format!("FDSTORE=1\nFDNAME={name}\n{more}"), &[listener.as_fd()]);
    }
    notify::store_memfd(&name, value(query, "content")?.as_bytes(), &more)
}

fn value(query: &str, key: &str) -> io::Result<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| decode(value));
    found.ok_or_else(|| io::Error::other(format!("?{key}= is missing")))
}

fn number(query: &str, key: &str) -> io::Result<u64> {
    let text = value(query, key)?;
    text.parse().map_err(|_| io::Error::other(format!("{key}={text} is not a number")))
}

/// Undoes percent-encoding; `+` is left alone.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if bytes[index] == b'%' => {
                decoded.push(byte);
                index += 3;
            }
            _ => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
