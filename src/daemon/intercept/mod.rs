//! `InterceptBind`: sockets for programs that know nothing of socket activation (contract section 5).
//!
//! A process of such a unit is started under a filter (`sys::seccomp`) that sends its calls of bind(2),
//! listen(2) and unlink(2), and its descendants', to us; a thread reads what they want (`reading`), the loop decides and
//! answers.
//!
//! How an address becomes ours, and why so:
//!
//! * **Known**, declared by the unit or learned before: at bind(2) the socket of the generation's permanent slot
//!   is put in place of the program's own, with the options that the program has set on its own. There is no
//!   socket per generation that would have to be closed later, and closing one is what loses connections.
//! * **Not yet known**: bind(2) is made by us on the program's own socket, so that its errors can be explained;
//!   at listen(2) that very socket becomes the first slot's of a learned address, and the others are made with
//!   the same options. Waiting for listen(2) leaves alone what only binds: clients that choose their port,
//!   programs that try whether a port is free.
//! * Datagram sockets do not listen, and a client's are bound as a server's are. They are the program's own, until it is
//!   promoted or another generation binds the same address: what it has then is held from then on, and shared. What its
//!   program has closed is let go, so that nobody reads another's answers.
//! * What an address that is held overlaps (a wildcard beside it) is bound beside it, with SO_REUSEPORT and its owner.
//! * A program that has made more of its socket before bind(2) than a descriptor: see `replace`.
//! * A Unix path is made by the program itself, with its own rights; it is learned at listen(2) and shared. While
//!   it is held its removal is only pretended, or whoever comes between two generations would find nobody.
//! * A port below 1024 that the unit does not declare is bound by the program itself: it may or it may not.
//!
//! Where the program's socket cannot be had (pidfd_getfd(2) is forbidden in plain containers) a new address is
//! bound by us with nothing but the defaults. Where anything else is in the way, the call goes on as if there
//! were no filter, and the log says what to do.
//!
//! The descriptor of a filter lives until the last process under it is gone, whatever becomes of its generation:
//! without it every trapped call would fail with ENOSYS.

pub mod address;
mod call;
mod fresh;
mod held;
mod reading;
mod replace;
mod saved;

use held::{anybody_has, glance, hold_datagrams};
use reading::Read;
pub use reading::{Called, is_quiet};
pub use saved::{SavedAdopted, SavedFilters};

use crate::daemon::core::Daemon;
use crate::daemon::sockets::Wanted;
use crate::daemon::supervised::Supervised;
use crate::daemon::token::Owner;
use crate::machine::event::{Event, Gen, Missing};
use crate::sys::capability;
use crate::sys::clock::{self, Effort};
use crate::sys::poll::{Interest, Readiness};
use crate::sys::seccomp::{Answer, Call, Listener};
use crate::sys::unixpath::Site;
use crate::time::{Monotime, Span};
use crate::unit::{Listen, ListenKind, Unit};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

/// How long after bind(2) a program whose socket listens already may take to call listen(2).
const SILENT_LISTEN: Span = Span::from_millis(500);

/// How many bound sockets of a generation are remembered until they listen.
const BOUND_MAX: usize = 4096;

/// When a generation that has listened on nothing that we have seen is looked at for what we cannot see.
const FIRST_LOOK: Span = Span::from_secs(3);

/// EBUSY.
const BUSY: i32 = 16;

/// The filters of a unit's processes.
#[derive(Debug, Default)]
pub struct Filters {
    /// By number.
    live: HashMap<u32, Filter>,
    last: u32,
    /// The generation that was promoted last.
    promoted: Option<Gen>,
    /// What it listens on, or did.
    expected: Vec<Listen>,
    /// Sockets that listen already and were given out: when their programs count as listening without a word.
    given: Vec<(Monotime, Gen, Listen)>,
    /// When to look whether a generation listens without our having seen it.
    looks: Vec<(Monotime, Gen)>,
    /// Datagram addresses that are bound again and again: a client's, for a question each time.
    clients: Vec<Listen>,
    /// What was complained about, once each.
    said: Vec<String>,
    /// Why there is none, and what to do.
    refused: Option<String>,
}

/// One filter: of a main process and its descendants.
#[derive(Debug)]
struct Filter {
    listener: Listener,
    generation: Gen,
    /// Calls that were received and not answered yet.
    pending: Vec<Call>,
    /// Nothing more is received: until a time, or until one of them is answered.
    paused: Option<Option<Monotime>>,
}

/// What a generation has bound and listens on.
#[derive(Debug, Default)]
pub struct Adopted {
    /// Sockets that are bound and do not listen yet, by inode number.
    bound: HashMap<u64, Wanted>,
    /// The same for programs' own sockets, which are bound beside the one of their slot.
    own: HashMap<u64, Listen>,
    /// Datagram sockets that it has bound and that nobody else has, by inode number.
    datagrams: HashMap<u64, Wanted>,
    /// Where those of them with a name in the file system were bound.
    sites: HashMap<u64, Site>,
    /// Addresses that it listens on.
    listening: Vec<Listen>,
    /// It was refused an address that overlaps one of ours: what it lacks, it lacks because of us.
    refused: bool,
    /// While it is drained: how long what it has accepted is waited for.
    answers_until: Option<Monotime>,
}

impl Daemon {
    /// A process with a filter was started, or one that could not have it.
    pub fn adopt_filter(&mut self, index: usize, generation: Gen, listener: Result<Listener, i32>) {
        let unit = &mut self.units[index];
        let name = unit.name.clone();
        let errno = match listener {
            Ok(listener) => {
                unit.filters.last += 1;
                let id = unit.filters.last;
                match self.poller.add(Owner::Filter(index, id).token(), listener.as_fd(), Interest::READ) {
                    Ok(()) => {
                        unit.filters
                            .live
                            .insert(id, Filter { listener, generation, pending: Vec::new(), paused: None });
                        unit.filters.refused = None;
                        unit.look_later(generation);
                        if !capability::has(capability::SYS_ADMIN) {
                            unit.filters.say(&name, Level::Info, NO_NEW_PRIVS);
                        }
                        return;
                    }
                    Err(error) => error.raw_os_error().unwrap_or_default(),
                }
            }
            Err(errno) => errno,
        };
        let text = refusal(errno);
        unit.filters.say(&name, Level::Error, &text);
        unit.filters.refused = Some(text);
        // Nobody will ever tell what it listens on.
        self.queue.push_back((index, Event::Listened { generation, missing: Missing::Nothing }));
    }

    /// Something happened on a filter's descriptor.
    pub fn trapped(&mut self, index: usize, id: u32, readiness: Readiness) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let Some(filter) = unit.filters.live.get(&id) else { return };
        let mut gone = readiness.hangup && !readiness.readable;
        if readiness.readable {
            match filter.listener.receive() {
                Ok(Some(call)) => self.read_caller(index, id, call),
                // Nobody is left, or somebody who was here has gone.
                Ok(None) => gone = readiness.hangup,
                Err(error) => {
                    log::error!("{}: cannot read a system call: {error}", unit.name);
                    gone = readiness.hangup;
                }
            }
        }
        if gone && let Some(filter) = self.units[index].filters.live.remove(&id) {
            let _ = self.poller.remove(filter.listener.as_fd());
        }
    }

    /// Decides about one call: its answer, and what its generation listens on since then.
    fn decide(
        &mut self,
        index: usize,
        filter: &Filter,
        call: &Call,
        read: Read,
    ) -> (Answer, Option<(Gen, Listen)>) {
        let Daemon { units, survival, shared, .. } = self;
        let mut free = |unit: &Supervised| survival.free(unit, shared);
        let outcome = call::handle(&mut units[index], filter, call, read, &mut free);
        self.follow_sockets(index);
        if let Some(address) = outcome.given {
            let at = clock::now() + SILENT_LISTEN;
            let given = &mut self.units[index].filters.given;
            // A program may bind the same one as often as it likes.
            if !given.iter().any(|(_, number, known)| (*number, known) == (filter.generation, &address)) {
                given.push((at, filter.generation, address));
            }
        }
        if outcome.alone {
            let generation = filter.generation;
            self.queue.push_back((index, Event::Listened { generation, missing: Missing::Nothing }));
        }
        (outcome.answer, outcome.listens.map(|address| (filter.generation, address)))
    }

    /// Programs that look before they call listen(2), as HAProxy does, find that their socket listens already.
    pub fn silent_listens(&mut self, index: usize) {
        let now = clock::now();
        self.resume_filters(index, now);
        let given = &mut self.units[index].filters.given;
        let due: Vec<_> = given.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, generation, address) in due {
            self.listens(index, generation, address);
        }
        let looks: Vec<_> = self.units[index].filters.looks.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, generation) in looks {
            self.look_for_unseen(index, generation);
        }
    }

    /// A generation listens on an address: for the machine.
    fn listens(&mut self, index: usize, number: Gen, address: Listen) {
        let unit = &mut self.units[index];
        let Some(shell) = unit.generations.get_mut(&number) else { return };
        if shell.adopted.listening.contains(&address) {
            return;
        }
        shell.adopted.listening.push(address.clone());
        unit.filters.looks.retain(|(_, generation)| *generation != number);
        if unit.filters.promoted == Some(number) && !unit.filters.expected.contains(&address) {
            unit.filters.expected.push(address.clone());
        }
        log::info!("{}: generation {} listens on {}", unit.name, number.0, unit.sockets.spelt(&address));
        let missing = missing(unit, number);
        self.deliver(index, Event::Listened { generation: number, missing });
    }

    /// A generation serves from now on: what it does not listen on is not held any longer, unless it is declared.
    pub fn settle_learned(&mut self, index: usize, number: Gen) {
        let unit = &mut self.units[index];
        let Some(shell) = unit.generations.get(&number) else { return };
        unit.filters.promoted = Some(number);
        if !unit.current.unit.service.intercept_bind || shell.adopted.listening.is_empty() {
            return;
        }
        // What it has bound for a trial, or for one question, it has closed by now.
        let inodes = |address: &Listen| {
            if unit.sockets.is_learned(address) { unit.sockets.inodes_of(address) } else { Vec::new() }
        };
        let seen =
            glance(std::iter::once(&**shell), &shell.adopted.listening.iter().flat_map(inodes).collect());
        let still = |address: &&Listen| !unit.sockets.is_learned(address) || seen.may_have(&inodes(address));
        let mut expected: Vec<Listen> = shell.adopted.listening.iter().filter(still).cloned().collect();
        let clients = unit.filters.clients.clone();
        hold_datagrams(unit, |known| !clients.contains(&known.listen));
        expected.retain(|address| address.kind != ListenKind::Datagram || unit.sockets.is_held(address));
        unit.filters.expected.clone_from(&expected);
        self.follow_sockets(index);
        if self.units[index].sockets.learned() == 0 {
            return;
        }
        self.unwatch_sockets(index);
        let unit = &mut self.units[index];
        // The one before may have it open for as long as it lives.
        let content = Arc::clone(&unit.current.unit);
        unit.sockets.hide_dropped(&content, &expected);
        for address in unit.sockets.forget_learned(&expected) {
            log::info!(
                "{}: {address} is not held any more: generation {} does not listen on it",
                unit.name,
                number.0
            );
        }
        self.rewatch_sockets(index);
    }
}

/// How long a drained generation may take for the requests that it has accepted already. A program that knows
/// nothing of us often drops them at its stop signal; connections that stay idle must not hold it back.
const ANSWERING: Span = Span::from_millis(500);

impl Daemon {
    /// A generation gets no new connections any more.
    pub fn begin_answering(&mut self, index: usize, number: Gen) {
        let unit = &mut self.units[index];
        let adopted = unit.current.unit.service.intercept_bind;
        if let Some(shell) = unit.generations.get_mut(&number).filter(|_| adopted) {
            shell.adopted.answers_until = Some(clock::now() + ANSWERING);
        }
    }

    /// How many connections a drained generation still has, as long as that is waited for.
    pub fn still_answering(&self, index: usize, number: Gen) -> u32 {
        let unit = &self.units[index];
        let until = unit.generations.get(&number).and_then(|shell| shell.adopted.answers_until);
        if until.is_none_or(|until| until <= clock::now()) {
            return 0;
        }
        // Too many to be looked at are no reason to believe that there is none.
        let end = Effort::glance();
        unit.sockets.established_of(&self.members(unit, number), end).unwrap_or(1)
    }
}

/// What a generation does not listen on yet, of what the last one did.
fn missing(unit: &Supervised, number: Gen) -> Missing {
    let Some(shell) = unit.generations.get(&number) else { return Missing::Nothing };
    let content = shell.content.and_then(|id| unit.content(id)).unwrap_or(&unit.current);
    let declared: Vec<Listen> = content.unit.listens().map(|(_, listen)| listen.endpoint()).collect();
    let left: Vec<&Listen> = unit
        .filters
        .expected
        .iter()
        .filter(|address| !shell.adopted.listening.contains(address))
        .filter(|address| !unit.sockets.is_covered(address, &shell.adopted.listening))
        .filter(|address| {
            declared.contains(address)
                || (unit.sockets.is_learned(address) && unit.sockets.is_expected(address))
        })
        .collect();
    let spell = |addresses: Vec<&Listen>| {
        addresses.into_iter().map(|address| unit.sockets.spelt(address)).collect::<Vec<_>>().join(", ")
    };
    let refused = shell.adopted.refused;
    let (must, may): (Vec<&Listen>, Vec<&Listen>) =
        left.into_iter().partition(|address| refused || declared.contains(address));
    match (must.is_empty(), may.is_empty()) {
        (false, _) => Missing::Declared(spell(must)),
        (true, false) => Missing::Learned(spell(may)),
        (true, true) => Missing::Nothing,
    }
}

/// How loud something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    Warning,
    Error,
}

impl Filters {
    /// Logs a sentence about a unit, the same one only once.
    fn say(&mut self, unit: &str, level: Level, text: &str) {
        const REMEMBERED: usize = 256;
        if self.said.iter().any(|said| said == text) || self.said.len() > REMEMBERED {
            return;
        }
        self.said.push(text.to_owned());
        match level {
            Level::Info => log::info!("{unit}: {text}"),
            Level::Warning => log::warn!("{unit}: {text}"),
            Level::Error => log::error!("{unit}: {text}"),
        }
    }

    /// Whether a call has no answer yet.
    pub fn has_pending(&self) -> bool {
        self.live.values().any(|filter| !filter.pending.is_empty())
    }

    /// When [`Daemon::silent_listens`] has something to do.
    pub fn deadline(&self) -> Option<Monotime> {
        let paused = self.live.values().filter_map(|filter| filter.paused.flatten());
        self.given.iter().map(|(at, ..)| *at).chain(self.looks.iter().map(|(at, _)| *at)).chain(paused).min()
    }

    /// What the program of a unit binds by itself, whether the unit declares it or not.
    pub fn bound(&self, unit: &Unit) -> &[Listen] {
        if unit.service.intercept_bind { &self.expected } else { &[] }
    }

    /// What does not work here, or costs something, for status.
    pub fn notes(&self) -> Vec<String> {
        let costs = !self.live.is_empty() && !capability::has(capability::SYS_ADMIN);
        let costs = costs.then(|| NO_NEW_PRIVS.to_owned());
        self.refused.iter().cloned().chain(costs).collect()
    }
}

/// Said once where a filter costs no_new_privs.
const NO_NEW_PRIVS: &str = "InterceptBind without CAP_SYS_ADMIN sets no_new_privs: sudo and setuid programs fail inside the service; \
     run aeternad as root to keep them";

/// Why there is no filter, and what to do.
fn refusal(errno: i32) -> String {
    let why = crate::sys::socket::errno_text(&std::io::Error::from_raw_os_error(errno));
    let advice = match errno {
        BUSY => {
            "it runs under the filter of another supervisor already (an aeternad with InterceptBind around this one, LXD); \
             use InterceptBind in one of them only, or give the service its sockets as LISTEN_FDS"
        }
        _ => {
            "this kernel or container forbids seccomp user notification (see \"aeternactl doctor\"); \
             give the service its sockets as LISTEN_FDS, or use Strategy = \"replace\""
        }
    };
    format!("InterceptBind does not work here, the service binds its sockets itself: {why}: {advice}")
}

/// The call goes on as if there were no filter.
const GO_ON: call::Outcome =
    call::Outcome { answer: Answer::Continue, listens: None, given: None, alone: false };
