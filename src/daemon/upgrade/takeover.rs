//! Taking over: from a stored state to a running daemon, in the process of the program before.
//!
//! Nothing here has an effect on the world before `commit`; until then an error, a panic, a fault and ten seconds without
//! an end lead back to the program before, which goes on with the same descriptors.

use super::{BACK, Done, TAKE_OVER, VERSION, own_arguments};
use crate::daemon::args;
use crate::daemon::core::Daemon;
use crate::daemon::event_loop::{self, Sources};
use crate::daemon::handover::StateSocket;
use crate::daemon::home::Home;
use crate::daemon::memory::MemoryWatch;
use crate::daemon::oom::OomWatch;
use crate::daemon::requests;
use crate::daemon::saved::{self, Head, Incoming, Restored};
use crate::daemon::setup::{self, Wishes};
use crate::daemon::starting::Slows;
use crate::daemon::supervised::{NotifySocket, Supervised};
use crate::daemon::token::Owner;
use crate::daemon::upstream::Upstream;
use crate::error::{Fatal, exit};
use crate::machine::event::{Gen, Proc};
use crate::proto::control::{Reply, UpgradeOutcome, UpgradeReply};
use crate::proto::status::EventLine;
use crate::sys::poll::{Interest, Poller};
use crate::sys::replace::{self, WayBack};
use crate::sys::signal::Signals;
use crate::sys::{clock, fd, process, wake};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::mpsc;

/// The exit status of a program that could neither take over nor give back.
const LOST: u8 = 70;

/// What the first arguments say, if they say it.
pub fn asked() -> Option<(RawFd, Option<String>)> {
    let mut words = std::env::args_os().skip(1);
    let number = words.next()?.to_str()?.strip_prefix(TAKE_OVER)?.parse().ok()?;
    let back = words.next().and_then(|word| Some(word.to_str()?.strip_prefix(BACK)?.to_owned()));
    Some((number, back))
}

/// Takes over, and runs.
///
/// # Errors
/// Exit status 2 for somebody who types the option; 70 if nobody can go on.
pub fn run(number: RawFd, back: Option<String>) -> Result<u8, Fatal> {
    let by_hand =
        |why: String| Fatal::new(exit::USAGE, format!("--take-over is what aeternad tells itself: {why}"));
    let not_sealed = |_| by_hand("there is no state on this descriptor".into());
    let bytes = if number < 3 {
        Err(by_hand("no such descriptor".into()))
    } else {
        replace::unsealed(number).map_err(not_sealed)
    }?;
    let (head, text) = saved::read(&bytes, Some(process::pid())).map_err(by_hand)?;
    let way = if back.is_none() { Some(open_way(&head, number)?) } else { None };
    match prepare(&head, text) {
        Ok(ready) => {
            if let Some(way) = way {
                let _ = std::panic::take_hook();
                way.close();
            }
            Ok(serve(ready, &head, number, back))
        }
        Err(why) if way.is_some() => WayBack::go(&why),
        Err(why) => Err(Fatal::new(LOST, format!("cannot take the state back: {why}"))),
    }
}

/// From here on everything that goes wrong goes back.
///
/// # Errors
/// The way cannot be prepared.
pub fn open_way(head: &Head, number: RawFd) -> Result<WayBack, Fatal> {
    let (name, rest) = own_arguments();
    let first = OsString::from(format!("{TAKE_OVER}{number}"));
    let words = [name, first, OsString::from(BACK)].into_iter().chain(rest).collect();
    let way = WayBack::open(head.old_program, words, 2, BACK)
        .map_err(|error| Fatal::new(LOST, format!("cannot prepare the way back: {error}")))?;
    std::panic::set_hook(Box::new(|panic| WayBack::go(&format!("it panicked: {panic}"))));
    Ok(way)
}

/// Everything that can fail, done.
struct Ready {
    daemon: Daemon,
    sources: Sources,
    from: Incoming,
    under_way: Option<Done>,
}

#[expect(clippy::too_many_lines, reason = "a list of fields")]
fn prepare(head: &Head, text: &[u8]) -> Result<Ready, String> {
    let args = args::parse(own_arguments().1).map_err(|fatal| fatal.text)?;
    let mut from = Incoming::of(head.fds.clone())?;
    let restored = saved::restore(saved::parse(text)?, &mut from)?;
    setup::start_log(&args, &wishes(&restored));
    let cannot = |what: &str, error: &std::io::Error| format!("cannot {what}: {error}");
    let signals = Signals::new().map_err(|error| cannot("make a signalfd", &error))?;
    let (waker, wakeups) = wake::self_pipe().map_err(|error| cannot("make a pipe", &error))?;
    let poller =
        Poller::new(signals.fd(), wakeups.fd()).map_err(|error| cannot("make a poll set", &error))?;
    let (reports, inbox) = mpsc::channel();
    let Restored {
        units,
        files,
        machine,
        shared,
        lock,
        control,
        control_name,
        control_again,
        clients,
        pending,
        last_req,
        orphans,
        mut web,
        upstream,
        upgrades,
        survival,
        under_way,
    } = restored;
    web.wake_by(waker.clone());
    let daemon = Daemon {
        upstream: Upstream::restored(upstream, &shared.environment, shared.pid),
        pids: pids_of(&units),
        units,
        files,
        machine,
        shared,
        poller,
        control,
        control_again,
        clients,
        pending,
        last_req,
        settling: false,
        reap_more: true,
        queue: VecDeque::new(),
        reports,
        inbox,
        waker,
        stopping: false,
        exit: None,
        orphans,
        oom: OomWatch::begin(),
        memory: MemoryWatch::begin(),
        dry_runs: Vec::new(),
        slows: Slows::default(),
        web,
        home: Home::new(control_name, lock, None),
        upgrades,
        survival,
    };
    Ok(Ready { daemon, sources: Sources { signals, wakeups }, from, under_way })
}

/// Which process of which unit a pid is.
fn pids_of(units: &[Supervised]) -> HashMap<i32, (usize, Proc)> {
    let mut pids = HashMap::new();
    for (index, unit) in units.iter().enumerate() {
        // A pid that was reaped may be somebody else's.
        let living = unit.children.iter().filter(|(_, child)| !child.gone);
        pids.extend(living.map(|(proc, child)| (child.pid, (index, *proc))));
    }
    pids
}

fn wishes(restored: &Restored) -> Wishes {
    setup::wishes_of(restored.units.iter().map(|unit| &unit.started_with))
}

/// The state is ours: closes what it came in, watches everything, says so, and runs.
fn serve(ready: Ready, head: &Head, number: RawFd, back: Option<String>) -> u8 {
    let Ready { mut daemon, sources, from, under_way } = ready;
    replace::name_ourselves();
    from.finish();
    fd::close_number(number);
    fd::close_number(head.old_program);
    if let Err(error) = fd::close_on_exec_from(3) {
        log::error!("cannot keep descriptors from services: {error}");
    }
    daemon.own_everything();
    daemon.reap();
    daemon.settle();
    daemon.tell_upgrade(head, under_way, back);
    daemon.serve_clients();
    let code = event_loop::run(&mut daemon, &sources);
    daemon.finish();
    code
}

impl Daemon {
    /// After a restoration: what is dropped is removed again, and everything is watched.
    fn own_everything(&mut self) {
        if let Some(short) = &mut self.shared.short_dir {
            short.own();
        }
        let waits = if self.control_again.is_some() { Interest::HANGUP_ONLY } else { Interest::READ };
        if let Err(error) = self.poller.add(Owner::Control.token(), self.control.as_fd(), waits) {
            log::error!("cannot watch the control socket: {error}");
        }
        for (id, wants) in self.clients.watched() {
            let interest = Interest { read: wants.read, write: wants.write };
            let Some(stream) = self.clients.stream(id) else { continue };
            if let Err(error) = self.poller.add(requests::token(id), stream.as_fd(), interest) {
                log::warn!("cannot watch a control client: {error}");
            }
        }
        for index in 0..self.units.len() {
            self.own_unit(index);
        }
        for index in 0..self.units.len() {
            self.pump_state(index);
            self.begin_put_off(index);
            // Threads have ended with the program before: what they were to find out is found out anew.
            for question in self.units[index].machine.outstanding() {
                self.perform(index, question);
            }
            let empty: Vec<Gen> = self.units[index].generations.keys().copied().collect();
            for generation in empty {
                self.check_empty(index, generation);
            }
        }
        self.settle_in();
        self.web.resume();
        self.watch_holder();
        (0..self.units.len()).for_each(|index| self.survival.touch(index));
    }

    /// What a unit that was restored waits for is waited for.
    pub fn own_unit(&mut self, index: usize) {
        if let Some(socket) = &mut self.units[index].state_socket {
            socket.own();
        }
        self.units[index].sockets.resume();
        if let Some(watch) = &mut self.units[index].watch {
            watch.watcher.resume();
        }
        self.rewatch_sockets(index);
        self.watch_stored(index);
        let numbers: Vec<Gen> = self.units[index].generations.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.watch_kills(index, number));
        let Daemon { units, poller, .. } = self;
        let unit = &units[index];
        let mut add = |what: &str, owner: Owner, fd: BorrowedFd<'_>, interest| {
            if let Err(error) = poller.add(owner.token(), fd, interest) {
                log::error!("{}: cannot watch {what}: {error}", unit.name);
            }
        };
        for (number, shell) in &unit.generations {
            for fd in shell.kit.notify.iter().flat_map(NotifySocket::fds) {
                add("a notify socket", Owner::Notify(index, number.0), fd, Interest::READ);
            }
        }
        for (id, stream) in &unit.streams {
            add("its output", Owner::Log(index, *id), stream.pipe.as_fd(), Interest::READ);
        }
        for (proc, child) in unit.children.iter().filter(|(_, child)| child.watched) {
            if let Some(pidfd) = &child.pidfd {
                add("its main process", Owner::Adopted(index, proc.0), pidfd.as_fd(), Interest::READ);
            }
        }
        for (id, filter) in unit.filters.watched() {
            add("a filter", Owner::Filter(index, id), filter, Interest::READ);
        }
        if let Some((socket, interest)) = unit.state_socket.as_ref().map(StateSocket::watched) {
            add("its state socket", Owner::StateSocket(index), socket, interest);
        }
        if let Some(watch) = &unit.watch {
            add("its WatchPaths", Owner::Paths(index), watch.watcher.fd(), Interest::READ);
        }
    }

    /// Begins a relay that was put off.
    pub fn begin_put_off(&mut self, index: usize) {
        if let Some(transfer) = self.units[index].put_off.take() {
            self.relay_state(index, transfer);
        }
    }

    /// Who asked for the upgrade hears what has come of it, and everybody else too.
    fn tell_upgrade(&mut self, head: &Head, under_way: Option<Done>, back: Option<String>) {
        let Some(Done { client, from, began, to, program }) = under_way else { return };
        let pause = clock::now().since(began).as_secs_f64();
        let milliseconds = pause * 1e3;
        let (outcome, reason, text) = match back {
            None => {
                self.upgrades.one_more();
                self.shared.program = Some(program.0);
                let text = format!(
                    "aeternad {from} → {VERSION}, pid {}, paused for {milliseconds:.0}ms",
                    self.shared.pid
                );
                log::info!("upgrade: {text}");
                (UpgradeOutcome::Done, String::new(), text)
            }
            Some(why) => {
                let text = format!("aeternad {VERSION} goes on: the new program gave back: {why}");
                log::error!("upgrade: {text}");
                (UpgradeOutcome::GaveBack, why, text)
            }
        };
        let line = EventLine {
            time: clock::unix_time(),
            unit: String::new(),
            kind: if outcome == UpgradeOutcome::Done { "upgraded" } else { "warning" }.into(),
            text,
            generation: None,
            state: None,
            lasted: None,
            pid: Some(head.pid),
            outcome: None,
        };
        self.clients.broadcast(&line);
        self.web.tell(&line);
        if let Some(client) = client {
            let to = if outcome == UpgradeOutcome::Done { VERSION.into() } else { to };
            let reply = UpgradeReply { outcome, from, to: Some(to), pause: Some(pause), reason };
            self.result(client, Reply::Upgrade(reply));
        }
    }
}
