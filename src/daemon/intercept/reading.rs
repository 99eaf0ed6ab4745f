//! What is read of a caller: its memory, its descriptors, where its paths lead. A page of its memory, or a folder that it
//! sees, may be a program's to show (FUSE, userfaultfd), and whoever reads it waits for that program. So each call is read
//! on a thread of its own, a few of them for a filter and for all, and the loop gets what came of it. Who does not let
//! himself be read waits for himself alone: his thread ends with him.

use super::address::{self, Name, Spot};
use super::{Daemon, Level};
use crate::daemon::core::{News, Report};
use crate::daemon::token::Owner;
use crate::sys::aside::Foreign;
use crate::sys::poll::Interest;
use crate::sys::registration::{self, References};
use crate::sys::seccomp::{self, Answer, Call, What};
use crate::sys::{clock, socket, sockopt};
use crate::time::{Monotime, Span};
use crate::unit::ListenKind;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The longest sockaddr, bytes.
const SOCKADDR_MAX: u32 = 128;

/// How many calls of one filter are read at the same time; the others wait in the kernel.
const OF_FILTER: usize = 2;

/// How many calls of all are.
const OF_ALL: usize = 64;

/// How many are being read.
static READING: AtomicUsize = AtomicUsize::new(0);

/// Whether no caller is being read.
pub fn is_quiet() -> bool {
    READING.load(Ordering::Relaxed) == 0
}

/// EOPNOTSUPP.
const NOT_SUPPORTED: i32 = 95;

/// The stack of a thread, bytes.
const STACK: usize = 128 * 1024;

/// How long a call may keep us without consequences, and the share of our time that the calls of one filter may have if
/// they keep us longer: one part in so many.
const FREE: Span = Span::from_millis(20);
const SHARE: u64 = 10;

/// What was read of a caller.
#[derive(Debug)]
pub(super) struct Read {
    /// What bind(2) names, or why that cannot be read.
    pub(super) name: Result<Name, io::Error>,
    /// Where a path of bind(2) or unlink(2) leads.
    pub(super) spot: Option<Spot>,
    /// What unlink(2) would remove.
    pub(super) target: Option<(u64, u64)>,
    /// The socket, and why it cannot be copied if it cannot.
    pub(super) seen: Option<Seen>,
    pub(super) not_copied: Option<io::Error>,
    /// What else of its process refers to that.
    pub(super) known: References,
}

/// A socket of the caller, as far as we can see it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) own: Option<Foreign>,
    pub(super) kind: ListenKind,
    pub(super) v6_only: Option<bool>,
    pub(super) inode: u64,
}

/// A call whose caller was read.
#[derive(Debug)]
pub struct Called {
    filter: u32,
    call: Call,
    read: Read,
}

/// Reads what a call needs. May never return.
fn read(call: &Call) -> Read {
    let mut read = Read {
        name: Ok(Name::Other),
        spot: None,
        target: None,
        seen: None,
        not_copied: None,
        known: References::default(),
    };
    match call.what {
        What::Bind { fd, address, length } => {
            let bytes = seccomp::memory(call.tid, address, length.min(SOCKADDR_MAX) as usize);
            read.name = bytes.map(|bytes| address::parse(&bytes));
            if let Ok(Name::Path(path)) = &read.name {
                read.spot = address::resolve(call.tid, None, path);
            }
            if !matches!(read.name, Ok(Name::Other) | Err(_)) {
                see(&mut read, call.tid, fd);
            }
        }
        What::Listen { fd, .. } | What::Steer { fd } => see(&mut read, call.tid, fd),
        What::Unlink { folder, name } => {
            const AT_FDCWD: i32 = -100;
            let from = (folder != AT_FDCWD).then_some(folder);
            let path = seccomp::string(call.tid, name).map(|text| PathBuf::from(OsString::from_vec(text)));
            let spot = path.ok().and_then(|path| address::resolve(call.tid, from, &path));
            read.target = spot.and_then(|spot| spot.site.identity());
        }
        What::Other => {}
    }
    read
}

/// Looks at the caller's descriptor, if it is a socket that could be held.
fn see(read: &mut Read, tid: i32, fd: i32) {
    let Some(inode) = registration::inode_of(tid, fd) else { return };
    let is_it = |own: &Foreign| socket::inode(own.as_fd()).is_ok_and(|found| found == inode);
    let copied = seccomp::copy_fd(tid, fd).and_then(|own| {
        // A thread may have descriptors of its own, which an old kernel does not copy.
        if is_it(&own) { Ok(own) } else { Err(io::Error::from_raw_os_error(NOT_SUPPORTED)) }
    });
    match copied {
        Ok(own) => {
            let Some(nature) = sockopt::nature(own.as_fd()).ok().flatten() else { return };
            read.seen = Some(Seen { own: Some(own), kind: nature.kind, v6_only: nature.v6_only, inode });
        }
        Err(error) => {
            let kind = seccomp::protocol_name(tid, fd).ok().and_then(|name| address::kind_of(&name));
            read.not_copied = Some(error);
            let Some(kind) = kind else { return };
            read.seen = Some(Seen { own: None, kind, v6_only: None, inode });
        }
    }
    read.known = registration::of(tid, inode).unwrap_or_default();
}

impl Daemon {
    /// A call has come: it is answered when its caller was read.
    pub(super) fn read_caller(&mut self, index: usize, id: u32, call: Call) {
        let (reports, waker) = (self.reports.clone(), self.waker.clone());
        let unit = &mut self.units[index];
        let Some(filter) = unit.filters.live.get_mut(&id) else { return };
        filter.pending.push(call);
        let is_full = filter.pending.len() >= OF_FILTER;
        if call.what == What::Other {
            return self.called(index, Called { filter: id, call, read: read(&call) });
        }
        if is_full {
            self.pause(index, id, None);
        }
        let refused = if READING.fetch_add(1, Ordering::Relaxed) < OF_ALL {
            let work = move || {
                let read = read(&call);
                READING.fetch_sub(1, Ordering::Relaxed);
                let called = Box::new(Called { filter: id, call, read });
                // The daemon is ending if nobody listens.
                let _ = reports.send(Report { unit: index, news: News::Called(called) });
                waker.wake();
            };
            let thread = std::thread::Builder::new().name("caller".into()).stack_size(STACK);
            thread.spawn(work).err().map(|error| error.to_string())
        } else {
            Some(format!("{OF_ALL} others are not read through"))
        };
        if let Some(why) = refused {
            READING.fetch_sub(1, Ordering::Relaxed);
            let name = self.units[index].name.clone();
            let text = format!("what it binds cannot be read ({why}): it binds by itself");
            self.units[index].filters.say(&name, Level::Error, &text);
            self.answered(index, id, &call, Answer::Continue);
        }
    }

    /// A caller was read.
    pub fn called(&mut self, index: usize, called: Called) {
        let Called { filter: id, call, read } = called;
        let Some(unit) = self.units.get_mut(index) else { return };
        let Some(filter) = unit.filters.live.remove(&id) else { return };
        let begun = clock::now();
        let (answer, news) = self.decide(index, &filter, &call, read);
        self.units[index].filters.live.insert(id, filter);
        self.answered(index, id, &call, answer);
        let took = clock::now().since(begun);
        if took > FREE {
            // Whoever makes us look at many things has to wait for that, not the others.
            self.pause(index, id, Some(clock::now() + Span(took.0.saturating_mul(SHARE))));
        }
        if let Some((generation, address)) = news {
            self.listens(index, generation, address);
        }
    }

    fn answered(&mut self, index: usize, id: u32, call: &Call, answer: Answer) {
        let unit = &mut self.units[index];
        let Some(filter) = unit.filters.live.get_mut(&id) else { return };
        if let Err(error) = filter.listener.answer(call, answer) {
            log::error!("{}: cannot answer a system call: {error}", unit.name);
        }
        filter.pending.retain(|other| other != call);
        if filter.paused == Some(None) && filter.pending.len() < OF_FILTER {
            self.resume_filter(index, id);
        }
    }

    /// No further call of a filter is received until then, or until one of those that are read was answered.
    fn pause(&mut self, index: usize, id: u32, until: Option<Monotime>) {
        let unit = &mut self.units[index];
        let Some(filter) = unit.filters.live.get_mut(&id) else { return };
        if filter.paused.replace(until).is_none() {
            let _ = self.poller.remove(filter.listener.as_fd());
        }
    }

    fn resume_filter(&mut self, index: usize, id: u32) {
        let unit = &mut self.units[index];
        let Some(filter) = unit.filters.live.get_mut(&id) else { return };
        if filter.paused.take().is_some()
            && let Err(error) =
                self.poller.add(Owner::Filter(index, id).token(), filter.listener.as_fd(), Interest::READ)
        {
            log::error!("{}: cannot watch its system calls: {error}", unit.name);
        }
    }

    /// Filters that have waited long enough are heard again.
    pub(super) fn resume_filters(&mut self, index: usize, now: Monotime) {
        let due = |paused: &Option<Option<Monotime>>| matches!(paused, Some(Some(until)) if *until <= now);
        let filters = &self.units[index].filters.live;
        let due: Vec<u32> =
            filters.iter().filter(|(_, filter)| due(&filter.paused)).map(|(id, _)| *id).collect();
        for id in due {
            self.resume_filter(index, id);
        }
    }
}
