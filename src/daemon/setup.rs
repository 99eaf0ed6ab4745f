//! Start-up: from a command line to a daemon whose sockets are bound. Everything that can be wrong is said here,
//! before anything runs.

use crate::daemon::args::{Args, Mode};
use crate::daemon::control::Clients;
use crate::daemon::core::Daemon;
use crate::daemon::event_loop::Sources;
use crate::daemon::files::{Files, Unusable};
use crate::daemon::home::{self, Home, Place};
use crate::daemon::http::web::Web;
use crate::daemon::inherit::Inherited;
use crate::daemon::load::{self, Loaded, Setting, Source};
use crate::daemon::memory::MemoryWatch;
use crate::daemon::oom::OomWatch;
use crate::daemon::shared::{MAX_SUN_PATH, Shared, ShortDir};
use crate::daemon::sockets::ListenSet;
use crate::daemon::starting::Slows;
use crate::daemon::supervised::Supervised;
use crate::daemon::survival::recover::{self, Fate, Left, Recovered};
use crate::daemon::token::Owner;
use crate::daemon::upgrade::Upgrades;
use crate::daemon::upstream::Upstream;
use crate::daemon::{environment, launch::describe, logging};
use crate::error::{Fatal, exit};
use crate::machine::UnitMachine;
use crate::machine::daemon::DaemonMachine;
use crate::machine::event::{Content, ContentId};
use crate::proto::paths;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::groups::Outlook;
use crate::sys::poll::{Interest, Poller};
use crate::sys::procfs::{self, Proc};
use crate::sys::signal::Signals;
use crate::sys::wake::Waker;
use crate::sys::{fd, links, message, process, terminal, textfile, tree, user, wake};
use crate::time::Span;
use crate::unit::{self, Context, DaemonSettings, GroupLimits, Here, Input, Verdict};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

/// A unit that was read, and where from.
pub struct Read {
    /// Where from.
    pub source: Source,
    /// What was read.
    pub loaded: Loaded,
}

/// Reads every unit of the command line.
///
/// # Errors
/// Exit status 78 with every error of every file; 2 if it is the command line that makes no unit.
pub fn read_units(args: &Args) -> Result<Vec<Read>, Fatal> {
    let setting = setting();
    let sources: Vec<Source> = if args.command.is_empty() {
        let files = load::find(&args.units)?;
        let file = |path: PathBuf| Source::File { path: load::whole(&path), setting: setting.clone() };
        files.into_iter().map(file).collect()
    } else {
        vec![inline(args, &setting)?]
    };
    let mut units = Vec::new();
    let mut errors = Vec::new();
    for source in sources {
        match source.load() {
            Ok(loaded) => units.push(Read { source, loaded }),
            Err(text) => errors.push(text),
        }
    }
    errors.extend(unit::clashes(units.iter().map(|read: &Read| read.loaded.unit.as_ref())));
    if errors.is_empty() { Ok(units) } else { Err(Fatal::new(exit::CONFIG, errors.join("\n"))) }
}

/// Reads every unit of the command line that can be used; and what cannot, which costs the others nothing. Of two that
/// want the same, the first has it.
///
/// # Errors
/// Exit status 78 with every error of every file if none can be used; 2 if it is the command line that makes no unit.
pub fn read_usable(args: &Args) -> Result<(Vec<Read>, Vec<Unusable>), Fatal> {
    if !args.command.is_empty() {
        return Ok((read_units(args)?, Vec::new()));
    }
    let (mut units, mut unusable): (Vec<Read>, Vec<Unusable>) = (Vec::new(), Vec::new());
    let setting = setting();
    for root in roots(args) {
        let files = match load::files_of(&root) {
            Ok(files) => files,
            Err(why) => {
                unusable.push(Unusable::new(&root, format!("cannot use {}: {why}", root.display())));
                continue;
            }
        };
        for path in files {
            let is_there = |read: &Read| read.source.path() == Some(path.as_path());
            if units.iter().any(is_there) || unusable.iter().any(|one| one.path == path) {
                continue;
            }
            let source = Source::File { path: path.clone(), setting: setting.clone() };
            let agrees = |loaded: Loaded| {
                let others = units.iter().map(|read| read.loaded.unit.as_ref());
                let clashes = unit::clashes_of(&loaded.unit, others);
                if clashes.is_empty() { Ok(loaded) } else { Err(clashes.join("\n")) }
            };
            match source.load().and_then(agrees) {
                Ok(loaded) => units.push(Read { source, loaded }),
                Err(why) => unusable.push(Unusable::new(&path, why)),
            }
        }
    }
    if units.is_empty() { Err(none_left(exit::CONFIG, &unusable)) } else { Ok((units, unusable)) }
}

/// Nothing can be run: why.
fn none_left(code: u8, unusable: &[Unusable]) -> Fatal {
    Fatal::new(code, unusable.iter().map(|one| one.why.as_str()).collect::<Vec<_>>().join("\n"))
}

/// What `--unit` names.
fn roots(args: &Args) -> Vec<PathBuf> {
    args.units.iter().map(|path| load::whole(Path::new(path))).collect()
}

fn setting() -> Setting {
    Setting { runtime_root: runtime_root(), pid1: process::is_pid1() }
}

fn inline(args: &Args, setting: &Setting) -> Result<Source, Fatal> {
    let context = Context {
        stem: String::new(),
        file: "command line".into(),
        runtime_dir: setting.runtime_root.clone(),
        pid1: setting.pid1,
    };
    let sockets = if args.intercept { unit::Sockets::Intercepted } else { unit::Sockets::Handed };
    match unit::inline(args.command.clone(), &args.listen, sockets, &context) {
        Ok(unit) => Ok(Source::Inline(Arc::new(unit))),
        Err(errors) => {
            let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            // There is no file in which anything could be wrong.
            let code = if args.mode == Mode::Check { exit::CONFIG } else { exit::USAGE };
            Err(Fatal::new(code, text))
        }
    }
}

/// `%t`.
fn runtime_root() -> String {
    paths::unit_runtime_root(&|name| std::env::var(name).ok(), user::effective_uid())
}

/// What the units ask of the daemon, after they were found to agree.
#[derive(Debug, Default)]
pub struct Wishes {
    /// `Http`.
    pub http: Option<String>,
    /// `HttpTokenFile`.
    pub http_token_file: Option<String>,
    /// `LogLevel`.
    pub log_level: Option<String>,
    /// `LogFormat`.
    pub log_format: Option<String>,
    /// `StopDelaySec`.
    pub stop_delay: Option<Span>,
}

/// Collects `[Daemon]` of every unit; that they agree has been checked.
pub fn wishes(units: &[Read]) -> Wishes {
    wishes_of(units.iter().map(|read| &read.loaded.unit.daemon))
}

/// Collects `[Daemon]` of every unit.
pub fn wishes_of<'a>(units: impl Iterator<Item = &'a DaemonSettings>) -> Wishes {
    let mut all = Wishes::default();
    for daemon in units.cloned() {
        all.http = all.http.or(daemon.http);
        all.http_token_file = all.http_token_file.or(daemon.http_token_file);
        all.log_level = all.log_level.or(daemon.log_level);
        all.log_format = all.log_format.or(daemon.log_format);
        all.stop_delay = all.stop_delay.or(daemon.stop_delay);
    }
    all
}

/// Starts the log as the command line, the environment and the units want it, in this order.
pub fn start_log(args: &Args, wishes: &Wishes) {
    let level = args.log_level.as_deref().or(wishes.log_level.as_deref()).unwrap_or("info");
    let json = args.log_format.as_deref().or(wishes.log_format.as_deref()) == Some("json");
    let format = if json { logging::Format::Json } else { logging::Format::Text };
    let filter = std::env::var("AETERNA_LOG").ok().filter(|_| args.log_level.is_none());
    logging::start(level, filter.as_deref(), format);
}

/// A daemon whose sockets are bound and whose services are not yet started.
pub struct Ready {
    /// The daemon.
    pub daemon: Daemon,
    /// What the loop waits on.
    pub sources: Sources,
    /// Units that go on, by their numbers, and what has become of their processes.
    pub found: GoingOn,
}

/// Binds everything.
///
/// # Errors
/// 69 for a socket that cannot be bound, 1 for what else is missing.
pub fn prepare(
    args: &Args,
    units: Vec<Read>,
    mut unusable: Vec<Unusable>,
    wishes: &Wishes,
    inherited: Result<Inherited, String>,
) -> Result<Ready, Fatal> {
    let fatal = |what: &str, error: &std::io::Error| {
        Fatal::new(exit::FAILURE, format!("cannot {what}: {}", describe(error)))
    };
    let original_nofile =
        fd::raise_nofile().map_err(|error| fatal("raise the limit of open files", &error))?;
    look_around();
    let Place { dir, control: control_path, lock, claim } = Place::take(args)?;
    let mut inherited = inherited.map_err(|why| Fatal::new(exit::FAILURE, why))?;
    // What else we were given is not for services.
    fd::close_on_exec_from(3).map_err(|error| fatal("keep stray descriptors from services", &error))?;
    let mut left = recover::look(&dir).map_err(|why| Fatal::new(exit::UNAVAILABLE, why))?;
    let (supervised, found) = bind(units, &mut unusable, &mut inherited, left.as_mut())?;
    let (survival, last_req, short_dir) = recover::begin(&dir, left);
    for warning in inherited.close() {
        log::warn!("{warning}");
    }
    let (control, control_name) = message::listen_private(&control_path)
        .map_err(|error| fatal(&format!("listen on {}", control_path.display()), &error))?;
    let signals = Signals::new().map_err(|error| fatal("make a signalfd", &error))?;
    let (waker, wakeups) = wake::self_pipe().map_err(|error| fatal("make a pipe", &error))?;
    let mut poller =
        Poller::new(signals.fd(), wakeups.fd()).map_err(|error| fatal("make a poll set", &error))?;
    poller
        .add(Owner::Control.token(), control.as_fd(), Interest::READ)
        .map_err(|error| fatal("watch the control socket", &error))?;
    let shared =
        Shared { terminal: hand_terminal_on(&supervised), ..shared(&dir, original_nofile, short_dir) };
    let (reports, inbox) = mpsc::channel();
    let web = web(args, wishes, &waker)?;
    let daemon = Daemon {
        slows: Slows::default(),
        upstream: Upstream::from_environment(&shared.environment, shared.pid),
        machine: DaemonMachine::new(supervised.len(), wishes.stop_delay.unwrap_or(Span::ZERO)),
        units: supervised,
        files: Files::new(roots(args), setting(), unusable),
        shared,
        poller,
        control,
        control_again: None,
        clients: Clients::new(user::effective_uid()),
        pending: Vec::new(),
        last_req,
        pids: HashMap::new(),
        settling: false,
        queue: VecDeque::new(),
        reports,
        inbox,
        waker,
        stopping: false,
        exit: None,
        reap_more: false,
        orphans: 0,
        oom: OomWatch::begin(),
        memory: MemoryWatch::begin(),
        dry_runs: Vec::new(),
        web,
        home: Home::new(control_name, lock, claim),
        upgrades: Upgrades::default(),
        survival,
    };
    Ok(Ready { daemon, sources: Sources { signals, wakeups }, found })
}

/// What a supervisor needs of its surroundings, and can do without.
fn look_around() {
    if let Err(error) = process::become_subreaper() {
        log::warn!("cannot become a subreaper, orphans of services go to init: {error}");
    }
    look_for_proc();
}

/// Without /proc only what we start ourselves can be found and ended. An init may mount it.
fn look_for_proc() {
    const LOST: &str = "only main processes and their process groups can be ended, nothing else of a service";
    match procfs::look() {
        Proc::Ours => {}
        Proc::Missing if process::is_pid1() => match procfs::mount() {
            Ok(()) => log::info!("mounted /proc, which was missing"),
            Err(error) => {
                let why = describe(&error);
                log::warn!(
                    "/proc is missing and cannot be mounted: {why}; {LOST}. Mount it, or grant CAP_SYS_ADMIN"
                );
            }
        },
        Proc::Missing => log::warn!("/proc is missing; {LOST}. Mount it (mount -t proc proc /proc)"),
        Proc::Foreign => log::warn!(
            "/proc shows another pid namespace; {LOST}. Mount this one's (mount -t proc proc /proc, unshare --mount-proc)"
        ),
    }
}

/// A terminal on standard input is for the one service that reads from it: its session gets it, with Ctrl-C, job control
/// and changes of the window. Whether there is one.
fn hand_terminal_on(units: &[Supervised]) -> bool {
    let [only] = units else { return false };
    let input = std::io::stdin();
    if only.current.unit.service.standard_input != Input::Inherit || !terminal::is_terminal(input.as_fd()) {
        return false;
    }
    terminal::let_go(input.as_fd());
    true
}

/// HTTP, if somebody wants it. Calls wait until the loop runs.
fn web(args: &Args, wishes: &Wishes, waker: &Waker) -> Result<Web, Fatal> {
    let mut web = Web::default();
    if let Some(address) = args.http.as_ref().or(wishes.http.as_ref()) {
        let token_file = wishes.http_token_file.as_deref().map(Path::new);
        web.start(address, token_file, waker.clone()).map_err(|why| Fatal::new(exit::UNAVAILABLE, why))?;
    }
    Ok(web)
}

fn shared(dir: &Path, original_nofile: (u64, u64), short_dir: Option<ShortDir>) -> Shared {
    // Room for "u499.4294967295.notify" behind it.
    let too_long = dir.as_os_str().len() + "/u999.4294967295.notify".len() > MAX_SUN_PATH;
    let made = || if too_long { ShortDir::make(dir).ok() } else { None };
    let short_dir = short_dir.or_else(made);
    Shared {
        short_dir,
        original_nofile,
        cgroups: CgroupRoot::probe("aeterna"),
        born_with: tree::own_children(),
        program: std::fs::read_link("/proc/self/exe").ok(),
        ..Shared::of_this_process(dir.to_owned(), runtime_root())
    }
}

/// Binds every unit's sockets; says of every address what is wrong with it, not only of the first. A unit whose sockets
/// cannot be bound cannot be used. Units that an aeternad before us has left go on as they are, also those that nobody
/// names any more.
///
/// # Errors
/// Exit status 69 if there is no other.
fn bind(
    units: Vec<Read>,
    unusable: &mut Vec<Unusable>,
    inherited: &mut Inherited,
    mut left: Option<&mut Left>,
) -> Result<Bound, Fatal> {
    let mut bound = Vec::with_capacity(units.len());
    let mut going_on = BTreeMap::new();
    for read in units {
        let Read { source, loaded } = read;
        match left.as_mut().and_then(|left| left.take(&loaded.unit.name)) {
            None => {}
            Some(Err(why)) => {
                let path = source.path().unwrap_or(Path::new(&loaded.unit.name));
                unusable.push(Unusable::new(path, why));
                continue;
            }
            Some(Ok(Recovered { mut unit, found })) => {
                unit.source = source;
                unit.started_with = loaded.unit.daemon.clone();
                going_on.insert(bound.len(), found);
                bound.push(*unit);
                continue;
            }
        }
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let root = home::check_root(&loaded.unit, &runtime_root()).map_err(|why| vec![why]);
        match root.and_then(|()| ListenSet::open(&loaded.unit, inherited)) {
            Err(errors) => {
                let path = source.path().unwrap_or(Path::new(&loaded.unit.name));
                unusable.push(Unusable::new(path, errors.join("\n")));
            }
            Ok((sockets, warnings)) => {
                for warning in warnings {
                    log::warn!("{}: {warning}", loaded.unit.name);
                }
                let content = Content { id: ContentId(1), unit: loaded.unit, hash: loaded.hash, release: 0 };
                let machine = UnitMachine::new(content.clone());
                bound.push(Supervised::new(source, content, sockets, machine));
            }
        }
    }
    let forgotten = left.as_ref().map(|left| left.units()).unwrap_or_default();
    for name in forgotten {
        match left.as_mut().and_then(|left| left.take(&name)) {
            None => {}
            Some(Err(why)) => unusable.push(Unusable::new(Path::new(&name), why)),
            Some(Ok(Recovered { unit, found })) => {
                log::warn!("{name}: not configured any more; it goes on until it is stopped");
                going_on.insert(bound.len(), found);
                bound.push(*unit);
            }
        }
    }
    if bound.is_empty() { Err(none_left(exit::UNAVAILABLE, unusable)) } else { Ok((bound, going_on)) }
}

/// Units whose sockets are bound, and which of them go on.
type Bound = (Vec<Supervised>, GoingOn);

/// Units that go on, by their numbers, and what has become of their processes.
pub type GoingOn = BTreeMap<usize, Fate>;

/// `--check`: what is good for standard output, or every error.
///
/// # Errors
/// Exit status 78; the good files are in the text beside the errors.
pub fn check(args: &Args) -> Result<Verdict, Fatal> {
    let mut verdict = Verdict::new();
    let env = |name: &str| std::env::var(name).ok();
    let runtime_dir = paths::runtime_dir(args.runtime_dir.as_deref(), &env, user::effective_uid());
    let outlook = OnceCell::new();
    let limits = |limits: &GroupLimits| {
        let missing = outlook.get_or_init(|| Outlook::of(&runtime_dir).missing());
        limits.unmet(missing.as_deref().map_err(String::as_str))
    };
    let here = Here { look: &links::look, limits: &limits };
    for argument in args.units.iter().map(Path::new) {
        match load::files_of(argument) {
            Ok(files) => files.iter().for_each(|file| check_file(file, &here, &mut verdict)),
            Err(why) => verdict.unusable(argument, &why),
        }
    }
    if !args.command.is_empty() {
        for read in read_units(args)? {
            verdict.unit("command line", &read.loaded.unit);
        }
    }
    verdict.together();
    Ok(verdict)
}

fn check_file(path: &Path, here: &Here<'_>, verdict: &mut Verdict) {
    match textfile::read(path, unit::MAX_FILE) {
        Ok(text) => {
            verdict.text(&text, &Context::of_file(path, runtime_root(), process::is_pid1()), here);
        }
        Err(error) => verdict.unusable(path, &textfile::why(&error)),
    }
}

/// `--show`: every unit with every default.
pub fn show(args: &Args) -> Result<String, Fatal> {
    let units = read_units(args)?;
    Ok(units.iter().map(|read| unit::print(&read.loaded.unit)).collect::<Vec<_>>().join("\n"))
}

/// Whether a command line asks for a text only.
pub fn only_prints(mode: &Mode) -> bool {
    !matches!(mode, Mode::Run)
}

/// Our environment without what is meant for us alone, for programs that aren't services.
pub fn is_private(name: &str) -> bool {
    environment::is_ours(name)
}
