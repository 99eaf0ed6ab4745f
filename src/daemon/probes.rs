//! Health checks over a socket: one thread a probe, as it must block (contract section 6, "Probes").
//!
//! A probe connects to the real address. With steered sockets its source port sends it to the generation that
//! it is meant for; with a shared socket it counts only when the connection was accepted by a process of that
//! generation. The last byte of the request is held back until that is known, so that no other generation ever
//! answers a probe.

use crate::daemon::core::{Daemon, News, Report};
use crate::daemon::{aim, lookups};
use crate::machine::event::{Answer, Event, Gen, ProbeKind, ProbeResult, Ticket};
use crate::proto::http;
use crate::sys::clock;
use crate::sys::probe::{self, Answerer, Connection, Stream};
use crate::sys::tree::{Main, TreeKey};
use crate::time::{Monotime, Span};
use crate::unit::{Address, Check, HealthCheck, Unit};
use std::io::{Read, Write};
use std::sync::Arc;

/// The largest answer head that is read, bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How long a probe of [`ProbeKind::Accepts`] waits to be accepted.
const ACCEPT_PATIENCE: Span = Span::from_secs(1);

/// Everything that a probe's thread needs.
struct Task {
    to: Address,
    /// The request, for HTTP.
    request: Option<Vec<u8>>,
    expect: Vec<(u16, u16)>,
    timeout: Span,
    /// The processes that were started for the generation that is meant: its tree is below them.
    started: Vec<Main>,
    strayed: bool,
    /// Its `INVOCATION_ID`.
    invocation: String,
    /// Our own pid.
    us: i32,
    /// Whether an answer of somebody else must be told apart: during a reload.
    attribute: bool,
    /// It comes from an address that is steered to the generation.
    aimed: bool,
}

/// Starts a probe; its result comes as [`Answer::Probed`].
pub fn start(daemon: &mut Daemon, index: usize, ticket: Ticket, generation: Gen, kind: ProbeKind) {
    let unit = &mut daemon.units[index];
    let content = unit
        .generations
        .get(&generation)
        .and_then(|shell| shell.content)
        .and_then(|id| unit.content(id))
        .map(|content| Arc::clone(&content.unit));
    let several = unit.generations.len() > 1;
    let listening = unit.generations.get(&generation).map_or(&[][..], |shell| shell.adopted.listening());
    let task = content.and_then(|content| {
        task_of(&content, kind, lookups::probe_address(&unit.sockets, &content, listening))
    });
    let Some(mut task) = task else {
        if kind == ProbeKind::Accepts {
            // Nothing that can be connected to is steered here after all: its listens were enough.
            return daemon.found_out(index, ticket, Answer::Probed { generation, result: ProbeResult::Pass });
        }
        let result = ProbeResult::Fail("there is nothing to connect to".into());
        return daemon.found_out(index, ticket, Answer::Probed { generation, result });
    };
    task.attribute = several;
    task.us = daemon.shared.pid;
    if let Some(shell) = unit.generations.get(&generation) {
        task.started.clone_from(&shell.started);
        task.strayed = shell.strayed;
        task.invocation.clone_from(&shell.invocation);
    }
    let aimed = aim::at(&mut daemon.units[index], generation, &task.to);
    let (connection, from) = (aimed.connection, aimed.from);
    task.aimed = aimed.is_sure;
    let reports = daemon.reports.clone();
    let waker = daemon.waker.clone();
    let report = move |result| {
        let event = Event::Answered(ticket, Answer::Probed { generation, result });
        // The daemon is ending if nobody listens.
        let _ = reports.send(Report { unit: index, news: News::Probed(event, from) });
        waker.wake();
    };
    let fallback = report.clone();
    let spawned = std::thread::Builder::new().name("probe".into()).stack_size(128 * 1024).spawn(move || {
        report(connection.map_or_else(|error| failed(&error), |connection| run(&task, connection)))
    });
    if let Err(error) = spawned {
        fallback(ProbeResult::NotMade(format!("cannot start a thread for it: {error}")));
    }
}

fn task_of(unit: &Unit, kind: ProbeKind, own: Option<Address>) -> Option<Task> {
    let base = Task {
        to: Address::Port(0),
        request: None,
        expect: Vec::new(),
        timeout: ACCEPT_PATIENCE,
        started: Vec::new(),
        strayed: false,
        invocation: String::new(),
        us: 0,
        attribute: true,
        aimed: false,
    };
    if kind == ProbeKind::Accepts {
        return Some(Task { to: own?, ..base });
    }
    let HealthCheck { check, timeout, expect_status, .. } = unit.health.as_ref()?;
    match check {
        Check::HttpGet(target) => Some(Task {
            to: target.to.clone(),
            request: Some(http::request(target)),
            expect: expect_status.clone(),
            timeout: *timeout,
            ..base
        }),
        Check::TcpConnect(to) => Some(Task { to: to.clone(), timeout: *timeout, ..base }),
        Check::Exec(_) => None,
    }
}

/// The blocking part, on the probe's own thread.
fn run(task: &Task, mut connection: Connection) -> ProbeResult {
    match probe(task, &mut connection) {
        Ok(result) => result,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock) =>
        {
            ProbeResult::TimedOut
        }
        Err(error) => failed(&error),
    }
}

/// What aeternad or the machine has too little of says nothing of the service.
fn failed(error: &std::io::Error) -> ProbeResult {
    let why = crate::daemon::launch::describe(error);
    if probe::is_exhaustion(error) { ProbeResult::NotMade(why) } else { ProbeResult::Fail(why) }
}

fn probe(task: &Task, connection: &mut Connection) -> std::io::Result<ProbeResult> {
    // One deadline for all of it: a service that sends a byte now and then must not keep a probe alive.
    let end = clock::now() + task.timeout;
    let mut stream = connection.connect(task.timeout)?;
    let held_back = match &task.request {
        None => &[][..],
        Some(request) => {
            let (most, last) = request.split_at(request.len().saturating_sub(1));
            stream.write_all(most)?;
            last
        }
    };
    let mut unattributed = false;
    if task.attribute || task.request.is_none() {
        let tree = TreeKey { mains: &task.started, invocation: &task.invocation, strayed: task.strayed };
        match probe::answerer(
            connection,
            &tree,
            (task.us, &[]),
            task.request.is_none(),
            end.since(clock::now()),
        )? {
            Answerer::Member(_) => {}
            // Only the generation that a steered probe is aimed at can have accepted it, or the only one there is.
            Answerer::Gone if task.aimed || !task.attribute => {}
            Answerer::Gone | Answerer::Other => return Ok(ProbeResult::NeverReached),
            Answerer::Nobody => return Ok(ProbeResult::TimedOut),
            Answerer::Unknown => unattributed = true,
        }
    }
    if task.request.is_some() {
        stream.write_all(held_back)?;
        if let Some(why) = wrong_answer(&mut stream, &task.expect, end)? {
            return Ok(ProbeResult::Fail(why));
        }
    }
    Ok(if unattributed { ProbeResult::Unattributed } else { ProbeResult::Pass })
}

/// Reads the status; `Some` says what is wrong with it.
fn wrong_answer(
    stream: &mut Stream,
    expect: &[(u16, u16)],
    end: Monotime,
) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut buffer = [0_u8; 1024];
    loop {
        stream.wait_no_longer(end.since(clock::now()))?;
        let count = stream.read(&mut buffer)?;
        head.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match http::response_status(&head) {
            Ok(Some(status)) => {
                let good = expect.iter().any(|(from, to)| (*from..=*to).contains(&status));
                return Ok((!good).then(|| format!("status {status}")));
            }
            Ok(None) if count == 0 => return Ok(Some("the connection ended before an answer".into())),
            Ok(None) if head.len() > MAX_HEAD => return Ok(Some("the answer's head is too long".into())),
            Ok(None) => {}
            Err(why) => return Ok(Some(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_service_that_answers_a_byte_at_a_time_is_too_late() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Address::Inet(listener.local_addr().unwrap());
        let service = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for byte in b"HTTP/1.1 200 ".iter().chain(std::iter::repeat(&b'K')) {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let task = Task {
            to: to.clone(),
            request: Some(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
            expect: vec![(200, 200)],
            timeout: Span::from_millis(300),
            started: Vec::new(),
            strayed: false,
            invocation: String::new(),
            us: 0,
            attribute: false,
            aimed: false,
        };
        assert_eq!(run(&task, Connection::prepare(&to).unwrap()), ProbeResult::TimedOut);
        service.join().unwrap();
    }
}
