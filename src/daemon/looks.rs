//! The looks of a soak's analysis: the page of each generation and what the kernel says of it. One thread for each
//! generation, one report for both; nothing of it blocks the main thread.

use crate::daemon::aim;
use crate::daemon::core::{Daemon, News, Report};
use crate::machine::event::{Answer, Event, Gen, Looked, NoPage, Page, Seen, Ticket};
use crate::proto::exposition::{PageError, Scrape, Sum, Wanted};
use crate::proto::http::body::{BodyError, BodyReader};
use crate::proto::http::page_request;
use crate::proto::status::Usage;
use crate::sys::cgroup::Cgroup;
use crate::sys::clock::Effort;
use crate::sys::probe::{self, Answerer, Connection, Stream};
use crate::sys::tree::{self, Main, TreeKey};
use crate::sys::{clock, fd, usage};
use crate::time::{Monotime, Span};
use crate::unit::{Address, AnalysisKind, HttpTarget, Unit};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What is read at once, bytes.
const BUFFER: usize = 16 * 1024;
/// The stack of a look's thread, bytes.
const STACK: usize = 256 * 1024;

/// How long the memory of several processes may be counted exactly: that takes a lock that they need.
const EXACT: Span = Span::from_millis(20);

/// Everything that the thread of one generation needs.
struct Task {
    target: Option<HttpTarget>,
    wanted: Vec<Wanted>,
    timeout: Span,
    /// The first connection, whose source address is steered to the generation.
    first: Option<Connection>,
    /// Every connection reaches the generation.
    aimed: bool,
    started: Vec<Main>,
    strayed: bool,
    invocation: String,
    us: i32,
    group: Option<OwnedFd>,
    /// All its processes, where its control group has told.
    members: Option<Vec<i32>>,
    /// What is known on the main thread.
    usage: Usage,
}

/// Looks at the new generation and at the old one, if it lives; [`Answer::Looked`] follows.
pub fn start(daemon: &mut Daemon, index: usize, ticket: Ticket, at: (Gen, Option<Gen>)) {
    let (new, from_new) = task(daemon, index, at.0, at.0);
    let (old, from_old) = match at.1 {
        Some(old) => {
            let (task, from) = task(daemon, index, old, at.0);
            (Some(task), from)
        }
        None => (None, None),
    };
    let reports = daemon.reports.clone();
    let waker = daemon.waker.clone();
    let report = move |new: Seen, old: Option<Seen>| {
        let event = Event::Answered(ticket, Answer::Looked(Box::new(Looked { new, old })));
        let from = from_new.into_iter().chain(from_old).collect();
        // The daemon is ending if nobody listens.
        let _ = reports.send(Report { unit: index, news: News::Looked(event, from) });
        waker.wake();
    };
    let fallback = report.clone();
    let has_old = old.is_some();
    let both = move || {
        let seen = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("look".into()).stack_size(STACK);
            let other = old.map(|old| thread.spawn_scoped(scope, || look(old)));
            let new = look(new);
            let old = other.map(|other| match other.map(|thread| thread.join()) {
                Ok(Ok(seen)) => seen,
                Ok(Err(_)) => nothing("its thread has failed"),
                Err(error) => nothing(&format!("no thread can be started: {error}")),
            });
            (new, old)
        });
        report(seen.0, seen.1);
    };
    if let Err(error) = std::thread::Builder::new().name("look".into()).stack_size(STACK).spawn(both) {
        let seen = nothing(&format!("no thread can be started: {error}"));
        fallback(seen.clone(), has_old.then_some(seen));
    }
}

fn nothing(why: &str) -> Seen {
    Seen { page: Err(NoPage::Failed(why.into())), usage: Usage::default() }
}

/// What is to be read of a generation, by the content of the reload's new one; and the address that a probe comes from.
fn task(daemon: &mut Daemon, index: usize, number: Gen, new: Gen) -> (Task, Option<SocketAddr>) {
    let unit = &mut daemon.units[index];
    let content = unit.generations.get(&new).and_then(|shell| shell.content);
    let content = content.and_then(|id| unit.content(id)).map(|content| Arc::clone(&content.unit));
    let (mut task, from) = task_by(daemon, index, number, content.as_deref());
    let measured = daemon.units[index].sockets.measured();
    task.usage.connections = measured.and_then(|share| {
        let to_new = share.to_new?;
        if number == new { Some(to_new) } else { share.connections.map(|all| all.saturating_sub(to_new)) }
    });
    (task, from)
}

/// What is to be read of a generation by the analysis of `content`.
fn task_by(
    daemon: &mut Daemon,
    index: usize,
    number: Gen,
    content: Option<&Unit>,
) -> (Task, Option<SocketAddr>) {
    let us = daemon.shared.pid;
    let unit = &mut daemon.units[index];
    let analysis = content.and_then(|content| content.analysis.as_ref());
    let mut task = Task {
        target: analysis.and_then(|analysis| analysis.http_get.clone()).map(|target| named(target, number)),
        wanted: content.map(wanted).unwrap_or_default(),
        timeout: analysis.map_or(Span::ZERO, |analysis| analysis.timeout),
        first: None,
        aimed: false,
        started: Vec::new(),
        strayed: false,
        invocation: String::new(),
        us,
        group: None,
        members: None,
        usage: Usage::default(),
    };
    let slot = unit.generations.get(&number).map_or(0, |shell| shell.slot);
    if let Some(shell) = unit.generations.get(&number) {
        task.started.clone_from(&shell.started);
        task.strayed = shell.strayed;
        task.invocation.clone_from(&shell.invocation);
        task.group = shell.kit.cgroup.as_ref().and_then(|group| fd::dup(group.dir_fd()).ok());
        task.members = shell.kit.cgroup.as_ref().map(Cgroup::pids);
    }
    task.usage.accept_queue = Some(u64::from(unit.sockets.queued(slot)));
    let Some(target) = task.target.as_mut().filter(|_| !task.wanted.is_empty()) else {
        task.target = None;
        return (task, None);
    };
    let aimed = aim::at(unit, number, &target.to);
    target.to = aimed.to;
    task.aimed = aimed.is_sure;
    task.first = aimed.connection.ok();
    (task, aimed.from)
}

/// Looks once at the generation that serves, by the analysis of a unit that is not in use yet: for `reload --dry-run`. What it
/// has seen comes as [`News::Tried`].
pub fn try_out(daemon: &mut Daemon, index: usize, number: Gen, content: &Unit, ticket: u64) {
    let (task, from) = task_by(daemon, index, number, Some(content));
    let (reports, waker) = (daemon.reports.clone(), daemon.waker.clone());
    let report = move |seen: Seen| {
        // The daemon is ending if nobody listens.
        let _ = reports.send(Report { unit: index, news: News::Tried(ticket, Box::new(seen), from) });
        waker.wake();
    };
    let fallback = report.clone();
    let thread = std::thread::Builder::new().name("look".into()).stack_size(STACK);
    if let Err(error) = thread.spawn(move || report(look(task))) {
        fallback(nothing(&format!("no thread can be started: {error}")));
    }
}

/// `${AETERNA_GENERATION}` is the number of who is asked.
fn named(mut target: HttpTarget, number: Gen) -> HttpTarget {
    let name = |text: &str| text.replace("${AETERNA_GENERATION}", &number.0.to_string());
    target.path = name(&target.path);
    if let Address::Path(path) = &target.to {
        target.to = Address::Path(name(path));
    }
    target
}

/// A sum for each selector that is not a figure of our own, in the order of the checks.
fn wanted(unit: &Unit) -> Vec<Wanted> {
    let checks = unit.analysis.iter().flat_map(|analysis| &analysis.checks);
    checks
        .flat_map(|check| {
            let buckets = matches!(check.kind, AnalysisKind::Latency { .. });
            let paged = check.kind.selectors().into_iter().filter(|one| !one.name.starts_with('@')).cloned();
            paged.map(move |one| if buckets { Wanted::Buckets(one) } else { Wanted::Sum(one) })
        })
        .collect()
}

/// One generation, on its thread.
fn look(mut task: Task) -> Seen {
    let end = clock::now() + task.timeout;
    let key = TreeKey { mains: &task.started, invocation: &task.invocation, strayed: task.strayed };
    let pids = task.members.take().unwrap_or_else(|| tree::tree(&key, task.us));
    let mut kernel = usage::of(task.group.as_ref().map(AsFd::as_fd), &pids, Effort::whatever());
    if pids.len() > 1 && !usage::counts_memory(task.group.as_ref().map(AsFd::as_fd)) {
        // What forked processes share would count for each of them.
        kernel.memory = usage::exact_memory(&pids, clock::now() + EXACT).or(kernel.memory);
    }
    let usage =
        Usage { connections: task.usage.connections, accept_queue: task.usage.accept_queue, ..kernel };
    let first = task.first.take();
    let page = match &task.target {
        None => Err(NoPage::NotAsked),
        Some(target) => page(&task, target, first, &pids, end),
    };
    Seen { page, usage }
}

fn page(
    task: &Task,
    target: &HttpTarget,
    mut next: Option<Connection>,
    pids: &[i32],
    end: Monotime,
) -> Result<Page, NoPage> {
    // Where whoever is first accepts, several tries may be needed.
    let tries = if task.aimed { 1 } else { 2 * pids.len() + 2 };
    for _ in 0..tries {
        let mut connection = match next.take() {
            Some(connection) => connection,
            None => Connection::prepare(&target.to).map_err(|error| failed(&error))?,
        };
        if let Some(page) = attempt(task, target, &mut connection, pids, end)? {
            return Ok(page);
        }
    }
    Err(NoPage::NeverReached)
}

fn failed(error: &std::io::Error) -> NoPage {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => NoPage::TimedOut,
        _ => NoPage::Failed(crate::daemon::launch::describe(error)),
    }
}

/// One connection; `None`: another generation has accepted it.
fn attempt(
    task: &Task,
    target: &HttpTarget,
    connection: &mut Connection,
    pids: &[i32],
    end: Monotime,
) -> Result<Option<Page>, NoPage> {
    let left = |end: Monotime| end.since(clock::now());
    if left(end).is_zero() {
        return Err(NoPage::TimedOut);
    }
    let mut stream = connection.connect(left(end)).map_err(|error| failed(&error))?;
    let request = page_request(target);
    let (most, last) = request.split_at(request.len().saturating_sub(1));
    stream.write_all(most).map_err(|error| failed(&error))?;
    let key = TreeKey { mains: &task.started, invocation: &task.invocation, strayed: task.strayed };
    let answerer = probe::answerer(connection, &key, (task.us, pids), false, left(end))
        .map_err(|error| failed(&error))?;
    let process = match (answerer, pids) {
        (Answerer::Member(pid), _) => pid,
        (Answerer::Unknown | Answerer::Gone, [only]) if task.aimed => *only,
        (Answerer::Unknown, _) => return Err(NoPage::Unattributed),
        (Answerer::Nobody, _) => return Err(NoPage::TimedOut),
        (Answerer::Gone, _) if task.aimed => {
            return Err(NoPage::Failed("the connection ended before an answer".into()));
        }
        (Answerer::Other | Answerer::Gone, _) => return Ok(None),
    };
    stream.write_all(last).map_err(|error| failed(&error))?;
    let sums = read(&mut stream, &task.wanted, end)?;
    Ok(Some(Page { process, alone: pids.len() == 1, sums }))
}

/// Why reading a page has ended.
enum Ended {
    Body(BodyError),
    Page(PageError),
}

impl From<BodyError> for Ended {
    fn from(error: BodyError) -> Ended {
        Ended::Body(error)
    }
}

impl From<Ended> for NoPage {
    fn from(ended: Ended) -> NoPage {
        match ended {
            Ended::Body(BodyError::Status(status)) => NoPage::Status(status),
            Ended::Body(BodyError::Other(why)) => NoPage::Failed(why),
            Ended::Page(PageError::TooLarge) => NoPage::TooLarge,
            Ended::Page(PageError::NotText(line)) => NoPage::NotText(line),
        }
    }
}

fn read(stream: &mut Stream, wanted: &[Wanted], end: Monotime) -> Result<Vec<Sum>, NoPage> {
    let mut scrape = Scrape::new(wanted);
    let mut reader = BodyReader::default();
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        // One deadline for all of it: a byte now and then must not keep a look alive.
        stream.wait_no_longer(end.since(clock::now())).map_err(|error| failed(&error))?;
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(&error)),
        };
        if count == 0 {
            reader.end().map_err(Ended::from)?;
            break;
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        if reader.feed(bytes, |body| scrape.feed(body).map_err(Ended::Page))? {
            break;
        }
    }
    Ok(scrape.finish().map_err(Ended::Page)?)
}
