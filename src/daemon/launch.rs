//! From an [`Spawn`] of the machine to a running process: environment, descriptors, user, limits.
//!
//! Main thread only: it is the one that forks.

use crate::daemon::ahead::{Ahead, Asking, Files, Wanted};
use crate::daemon::checked::Demand;
use crate::daemon::environment::{self, Facts, Handed};
use crate::daemon::limits as group_limits;
use crate::daemon::lookups;
use crate::daemon::memory;
use crate::daemon::releases::{self, Release, program_of};
use crate::daemon::roles::{command_of, gets_sockets, is_first};
use crate::daemon::shared::Shared;
use crate::daemon::spare::{Kit, Spare};
use crate::daemon::starting::Beginning;
use crate::daemon::stdio::Streams;
use crate::daemon::supervised::{GenerationShell, Supervised};
use crate::daemon::survival::Registrar;
use crate::machine::event::{Gen, Role, Spawn, SpawnFailure};
use crate::sys::cgroup::Cgroup;
use crate::sys::dir;
use crate::sys::limits;
use crate::sys::oom::GroupKills;
use crate::sys::seccomp::Listener;
use crate::sys::spawn::{self, Credentials, Plan, Register, Stage, Started, Traps};
use crate::sys::textfile;
use crate::sys::user::{self, Account};
use crate::unit::{self, Command, Input, Service, Unit};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// A process that runs, and what of it the loop must watch.
#[derive(Debug)]
pub struct Launched {
    /// Its pid.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: Option<OwnedFd>,
    /// `INVOCATION_ID` in its environment.
    pub invocation: String,
    /// Read ends of its log pipes: standard output's, standard error's.
    pub logs: [Option<OwnedFd>; 2],
    /// How far it has come.
    pub begun: Begun,
}

/// How far a start has come.
#[derive(Debug)]
pub enum Begun {
    /// Its program runs. With `InterceptBind`: where its calls come from, or why they do not.
    Running(Option<Result<Listener, i32>>),
    /// It is on its way.
    Slow(Box<Beginning>),
}

/// What came of a start.
#[derive(Debug)]
pub enum Launch {
    /// There is a process.
    Begun(Launched),
    /// It waits for these files, and is to be tried again when they are there.
    Awaits(String),
}

/// Starts a process, and waits at most about as long as `asking` says for its files, and for it to get to its program. It is
/// written down before it does anything.
///
/// # Errors
/// What could not be done, as one sentence, with the exit code that stands for it.
pub fn launch(
    unit: &mut Supervised,
    shared: &Shared,
    spawn: &Spawn,
    asking: Asking<'_>,
    register: Option<&Registrar<'_>>,
) -> Result<Launch, SpawnFailure> {
    let release = unit.release_for(shared, spawn)?;
    let (content, name) = (Arc::clone(&release.unit), unit.name.clone());
    let service = &content.service;
    let fail = |what: &str, why: &str| failure(&name, what, why, 1);
    let command = command_of(&content, spawn.role)
        .ok_or_else(|| fail("find the command", "the unit does not have it any more"))?;
    let account = account_of(service).map_err(|why| fail("find its user", &why))?;
    let who = credentials(service, account.as_ref()).map_err(|why| fail("find its groups", &why))?;
    let (patience, wanted) = (asking.patience, Wanted::of(&release, spawn.role, who.as_ref()));
    let mut ahead = match asking.for_files(&content, wanted)? {
        Files::There(ahead) => ahead,
        Files::Awaited(names) => return Ok(Launch::Awaits(names)),
    };
    let facts = facts(unit, shared, spawn, &release, account.as_ref(), &mut ahead)
        .map_err(|why| fail("prepare it", &why))?;
    let env = environment::build(service, &facts);
    let directory = release.base();
    let program = program_of(&name, &release, spawn.role, command, &env, directory.as_deref())?;
    unit.hold_program(spawn, &release, command, program.pin.as_ref().filter(|_| program.is_new));
    let demand = Demand::of(&release, shared, spawn.role, program.pin.as_ref())?.map(Arc::new);
    let handed = hand_over(unit, spawn).map_err(|why| fail("hand it its sockets", &why))?;
    let group = spawn.generation.and_then(|number| handed.generations.get(&number)?.kit.cgroup.as_ref());
    let streams = streams(spawn.role, service, handed.first, who.as_ref(), &mut ahead)
        .map_err(|why| fail("open its streams", &why))?;
    let enter = |pid: i32, pidfd: Option<BorrowedFd<'_>>| {
        register.into_iter().for_each(|register| register.enter(&facts.invocation, pid, pidfd));
    };
    let plan = Plan {
        program: c_string(program.name.as_os_str().as_encoded_bytes())
            .map_err(|why| fail("run its program", &why))?,
        pinned: program.pin.as_deref().map(|pin| Demand::pinned(demand.as_deref(), releases::pinned(pin))),
        checked: demand.as_deref().map(Demand::checked),
        argv: arguments(command, &program.argv).map_err(|why| fail("run its command", &why))?,
        env: environment_block(&env, &environment::unreadable(service, &shared.unreadable, &env))
            .map_err(|why| fail("make its environment", &why))?,
        stamp_listen_pid: !handed.fds.is_empty(),
        stamp_watchdog_pid: facts.watchdog_usec.is_some(),
        stdio: streams.borrow(),
        fds: handed.fds,
        credentials: who,
        limits: resource_limits(service, shared.original_nofile),
        umask: service.umask,
        directory: optional_text(directory).map_err(|why| fail("chdir", &why))?,
        directory_is: release.working().map(|pin| (pin.was().dev, pin.was().ino)),
        directory_optional: service.working_directory.as_ref().is_some_and(|folder| folder.optional),
        nice: service.nice,
        oom_score_adjust: memory::badness(service.oom_score_adjust, shared.badness, shared.pid1),
        oom_goes_first: spawn.goes_first,
        cpu_affinity: service.cpu_affinity.clone(),
        no_new_privileges: service.no_new_privileges,
        ignore_sigpipe: service.ignore_sigpipe,
        cgroup: group.map(Cgroup::dir_fd),
        terminal: is_first(spawn.role) && service.standard_input == Input::Inherit && shared.terminal,
        traps: if service.intercept_bind && gets_sockets(spawn.role) { Traps::Sockets } else { Traps::None },
        joins_cgroup: group.is_some_and(Cgroup::was_killed),
        register: register.map(|_| Register(&enter)),
    };
    let started = spawn::start(&plan, patience).map_err(|error| refused(&name, &plan, &error))?;
    let (pid, pidfd, begun) = begun(started, &plan, &content, demand.clone());
    Ok(Launch::Begun(Launched { pid, pidfd, invocation: facts.invocation, logs: streams.into_logs(), begun }))
}

/// Its streams. What a command of the analysis says is heard by us.
fn streams(
    role: Role,
    service: &Service,
    first: Option<BorrowedFd<'_>>,
    who: Option<&Credentials>,
    ahead: &mut Ahead,
) -> Result<Streams, String> {
    match role {
        Role::Analysis(_) => Streams::heard(who),
        _ => Streams::open(service, first, who, ahead),
    }
}

/// The process as far as it has come: its pid, its pidfd and what it still needs.
fn begun(
    started: Started,
    plan: &Plan<'_>,
    content: &Unit,
    demand: Option<Arc<Demand>>,
) -> (i32, Option<OwnedFd>, Begun) {
    match started {
        Started::Running(process) => {
            warn_of_limits(&content.name, &content.service, process.lowered);
            Demand::executed(demand.as_deref(), &content.name, &process);
            (process.pid, process.pidfd, Begun::Running(process.listener))
        }
        Started::Slow(starting) => {
            let (pid, pidfd) = (starting.pid(), starting.pidfd());
            let (plan, limit) = (plan.outline(), content.service.timeout_start);
            (pid, pidfd, Begun::Slow(Box::new(Beginning { starting, plan, limit, demand })))
        }
    }
}

/// Why a program that was looked for cannot be executed.
pub fn not_found(word: &str, directory: Option<&str>, error: &std::io::Error) -> String {
    let path = Path::new(directory.unwrap_or_default()).join(word);
    // Of a name that was looked for in PATH, nobody knows which one was meant.
    let advice = match error.kind() {
        std::io::ErrorKind::PermissionDenied if word.contains('/') => {
            spawn::why_not_executed(&path, PERMISSION_DENIED, None)
        }
        std::io::ErrorKind::NotFound if word.contains('/') => spawn::why_not_executed(&path, NOT_FOUND, None),
        std::io::ErrorKind::NotFound => Some("it is in no folder of the service's PATH".into()),
        _ => None,
    };
    let advice = advice.map_or_else(String::new, |text| format!(" ({text})"));
    format!("{}{advice}", reason(error))
}

/// EACCES.
const PERMISSION_DENIED: i32 = 13;

/// ENOENT.
const NOT_FOUND: i32 = 2;

/// What the kernel said to a start: `cannot start app: exec /srv/app/bin: Permission denied (advice)`.
pub fn refused(unit: &str, plan: &Plan<'_>, error: &spawn::SpawnError) -> SpawnFailure {
    let program = plan.program.to_string_lossy();
    let why = reason(&std::io::Error::from_raw_os_error(error.errno));
    let advice = error.advice(plan).map_or_else(String::new, |text| format!(" ({text})"));
    let text = match error.stage {
        Stage::Exec | Stage::ExecPinned => format!("exec {program}: {why}{advice}"),
        Stage::Checksum => {
            let advice = error.advice(plan).unwrap_or(why);
            format!("{} is not the program that BinarySHA256 names: {advice}", spawn::checked_name(plan))
        }
        Stage::Directory => {
            let folder =
                plan.directory.as_ref().map_or_else(String::new, |path| path.to_string_lossy().into_owned());
            format!("chdir {folder}: {why}{advice}")
        }
        _ => format!("{}: {why}{advice}", error.stage.words()),
    };
    let text = format!("cannot start {unit}: {text}");
    let exhausted = error.is_exhaustion();
    SpawnFailure { text, code: exec_code(error), exhausted, gone: false, busy: error.is_busy() }
}

/// The kernel's words for an error, as strerror(3) has them.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "No such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "Permission denied".into(),
        _ => describe(error),
    }
}

/// `cannot start app: exec /srv/app/bin: Permission denied`.
pub fn failure(unit: &str, what: &str, why: &str, code: u8) -> SpawnFailure {
    SpawnFailure {
        text: format!("cannot start {unit}: {what}: {why}"),
        code,
        exhausted: false,
        gone: false,
        busy: false,
    }
}

/// An error without "(os error 2)": the number helps nobody who reads the words.
pub fn describe(error: &std::io::Error) -> String {
    textfile::why(error)
}

/// 127 for a program that is not there, 126 for one that cannot be run, 1 for a failed preparation.
fn exec_code(error: &spawn::SpawnError) -> u8 {
    let missing = std::io::Error::from_raw_os_error(error.errno).kind() == std::io::ErrorKind::NotFound;
    match (error.stage, missing) {
        (Stage::Exec | Stage::ExecPinned, true) => 127,
        (Stage::Exec | Stage::ExecPinned | Stage::Checksum, false) => 126,
        _ => 1,
    }
}

/// The account of `User=`, if there is one.
///
/// # Errors
/// Why it cannot be found.
pub fn account_of(service: &Service) -> Result<Option<Account>, String> {
    match &service.user {
        None => Ok(None),
        Some(name) => {
            user::account(name).map(Some).map_err(|error| format!("user \"{name}\": {}", describe(&error)))
        }
    }
}

/// User, group and supplementary groups; `None` leaves everything as it is.
///
/// # Errors
/// Which group cannot be found, and why.
pub fn credentials(service: &Service, account: Option<&Account>) -> Result<Option<Credentials>, String> {
    let group =
        |name: &String| user::group(name).map_err(|error| format!("group \"{name}\": {}", describe(&error)));
    if account.is_none() && service.group.is_none() && service.supplementary_groups.is_empty() {
        return Ok(None);
    }
    let gid = match &service.group {
        Some(name) => group(name)?,
        None => account.map_or_else(user::effective_gid, |account| account.gid),
    };
    let listed = account.map(user::groups_of).transpose().map_err(|error| describe(&error))?;
    let mut groups = listed.unwrap_or_default();
    for name in &service.supplementary_groups {
        groups.push(group(name)?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(Some(Credentials {
        uid: account.map_or_else(user::effective_uid, |account| account.uid),
        gid,
        groups,
    }))
}

/// The working directory; `None` is ours.
pub fn directory(service: &Service, account: Option<&Account>) -> Option<String> {
    let folder = service.working_directory.as_ref()?;
    if folder.path == "~" {
        let home = account.map(|account| account.home.clone()).or_else(|| std::env::var("HOME").ok());
        return Some(home.unwrap_or_else(|| "/".into()));
    }
    Some(folder.path.clone())
}

/// Everything that the environment is made of.
fn facts(
    unit: &mut Supervised,
    shared: &Shared,
    spawn: &Spawn,
    release: &Release,
    account: Option<&Account>,
    ahead: &mut Ahead,
) -> Result<Facts, String> {
    let content = &release.unit;
    let service = &content.service;
    let flow_tag = unit.sockets.flow_tag(&spawn.content.unit, spawn.slot);
    let unit = &*unit;
    let shell = spawn.generation.and_then(|number| unit.generations.get(&number));
    let is_main = gets_sockets(spawn.role);
    let notifies =
        is_main || matches!(service.notify_access, unit::NotifyAccess::Exec | unit::NotifyAccess::All);
    let mut facts = Facts {
        own: shared.environment.clone(),
        account: account.map(account_variables).unwrap_or_default(),
        from_files: release.variables(ahead)?,
        release: release.name(),
        unit: unit.name.clone(),
        generation: spawn.generation.map_or(0, |Gen(number)| number),
        invocation: shell.map_or_else(|| shared.new_invocation(), |shell| shell.invocation.clone()),
        handover: spawn.handover,
        flow_tag: flow_tag.filter(|_| spawn.generation.is_some()),
        extra: spawn.environment.clone(),
        // [State] Descriptor is room for one.
        fd_store_max: service.fd_store_max.max(u32::from(content.state.descriptor)),
        ..Facts::default()
    };
    if matches!(spawn.role, Role::OnSuccess(_) | Role::OnFailure(_)) {
        facts.release_serving =
            unit.releases.get(unit.machine.content().id).and_then(|serving| serving.name());
    }
    if notifies && let Some(socket) = shell.and_then(|shell| shell.kit.notify.as_ref()) {
        facts.notify_socket = Some(socket.shown.clone());
    }
    if let Role::Main { worker, .. } = spawn.role {
        facts.worker = (service.workers > 1).then_some(worker);
        facts.watchdog_usec = (!service.watchdog.is_zero()).then(|| service.watchdog.as_micros());
    }
    if is_main && content.state.enabled {
        facts.state_socket = unit.state_socket.as_ref().map(|socket| socket.shown.clone());
    }
    if is_main {
        facts.sockets = Some(handed_names(unit, spawn, content));
        facts.stored = stored_names(unit, spawn);
    }
    if let Role::Instance(conn) = spawn.role
        && let Some((_, peer)) = unit.connections.get(&conn)
    {
        facts.remote = vec![
            ("REMOTE_ADDR".into(), peer.remote_addr.clone()),
            ("REMOTE_PORT".into(), peer.remote_port.clone()),
        ];
        facts.remote.retain(|(_, value)| !value.is_empty());
    }
    if !service.runtime_directory.is_empty() {
        let folders: Vec<String> =
            service.runtime_directory.iter().map(|name| format!("{}/{name}", shared.runtime_root)).collect();
        facts.runtime_directory = Some(folders.join(":"));
    }
    Ok(facts)
}

fn account_variables(account: &Account) -> Vec<(String, String)> {
    vec![
        ("HOME".into(), account.home.clone()),
        ("USER".into(), account.name.clone()),
        ("LOGNAME".into(), account.name.clone()),
        ("SHELL".into(), account.shell.clone()),
    ]
}

/// The sockets' names and addresses in the order of the descriptors.
fn handed_names(unit: &Supervised, spawn: &Spawn, content: &Unit) -> Vec<Handed> {
    if let Role::Instance(_) = spawn.role {
        return vec![Handed { name: "connection".into(), address: String::new() }];
    }
    content
        .listens()
        .zip(unit.sockets.bound_addresses(content))
        .map(|((socket, listen), bound)| Handed {
            name: socket.name.clone(),
            address: lookups::starter_address(listen, bound),
        })
        .collect()
}

fn stored_names(unit: &Supervised, spawn: &Spawn) -> Vec<String> {
    match spawn.role {
        Role::Main { .. } => unit.store.held().map(|stored| stored.name.clone()).collect(),
        _ => Vec::new(),
    }
}

/// What a process gets from 3 on, and what `StandardInput = "socket"` means for it.
struct Handover<'a> {
    fds: Vec<BorrowedFd<'a>>,
    first: Option<BorrowedFd<'a>>,
    generations: &'a BTreeMap<Gen, Box<GenerationShell>>,
}

fn hand_over<'a>(unit: &'a mut Supervised, spawn: &'a Spawn) -> Result<Handover<'a>, String> {
    let Supervised { sockets, store, connections, generations, .. } = unit;
    let generations: &BTreeMap<Gen, Box<GenerationShell>> = generations;
    let fds = match spawn.role {
        Role::Main { .. } => {
            let others = generations
                .iter()
                .filter(|(number, shell)| Some(**number) != spawn.generation || shell.alive > 0);
            sockets.in_use(&others.map(|(_, shell)| shell.slot).collect::<Vec<_>>());
            let lent = sockets.lend(&spawn.content.unit, spawn.slot)?;
            let mut fds: Vec<BorrowedFd<'a>> = lent.into_iter().map(|socket| socket.fd).collect();
            let first = fds.first().copied();
            fds.extend(store.held().map(|stored| stored.fd.as_fd()));
            return Ok(Handover { fds, first, generations });
        }
        Role::Instance(conn) => match connections.get(&conn) {
            Some((connection, _)) => vec![connection.as_fd()],
            None => return Err("its connection is gone".into()),
        },
        _ => Vec::new(),
    };
    Ok(Handover { first: fds.first().copied(), fds, generations })
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "there is a NUL byte in it".to_owned())
}

fn optional_text(text: Option<String>) -> Result<Option<CString>, String> {
    text.map(|text| c_string(text.as_bytes())).transpose()
}

fn arguments(command: &Command, argv: &[String]) -> Result<Vec<CString>, String> {
    let mut words: Vec<CString> =
        argv.iter().map(|word| c_string(word.as_bytes())).collect::<Result<_, _>>()?;
    if let (Some(name), Some(first)) = (&command.argv0, words.first_mut()) {
        *first = c_string(name.as_bytes())?;
    }
    Ok(words)
}

fn environment_block(env: &BTreeMap<String, String>, more: &[Vec<u8>]) -> Result<Vec<CString>, String> {
    let texts = env.iter().map(|(key, value)| format!("{key}={value}").into_bytes());
    texts.chain(more.iter().cloned()).map(|entry| c_string(&entry)).collect()
}

/// `LimitNOFILE` and the others; the limit of open files that we had ourselves, where the unit says nothing.
fn resource_limits(service: &Service, original_nofile: (u64, u64)) -> Vec<(i32, u64, u64)> {
    let nofile = limits::rlimit_number(unit::Resource::Nofile);
    let mut all = vec![(nofile, original_nofile.0, original_nofile.1)];
    for limit in &service.limits {
        let number = limits::rlimit_number(limit.resource);
        all.retain(|(have, ..)| *have != number);
        all.push((number, limit.soft, limit.hard));
    }
    all
}

/// Says which limits could not be as high as the unit wants them.
pub fn warn_of_limits(unit: &str, service: &Service, lowered: u32) {
    for limit in &service.limits {
        if lowered & (1 << limits::rlimit_number(limit.resource)) != 0 {
            let key = unit::limit_key(limit.resource);
            log::warn!(
                "{unit}: {key} is not as high as the unit says: aeternad's own hard limit is lower, and to raise it needs CAP_SYS_RESOURCE"
            );
        }
    }
}

/// Makes what a generation needs before its first process: notify socket, control group, runtime folders.
///
/// # Errors
/// What could not be made; the generation can't be launched then.
pub fn prepare_generation(
    unit: &mut Supervised,
    shared: &Shared,
    spawn: &Spawn,
    index: usize,
) -> Result<GenerationShell, String> {
    let service = &spawn.content.unit.service;
    let number = spawn.generation.unwrap_or(Gen(0));
    let account = account_of(service)?;
    let owner = credentials(service, account.as_ref())?.map(|who| (who.uid, who.gid));
    let kit = match Spare::take(unit, shared, number, service, owner) {
        Some(kit) => kit,
        None => Kit::make(shared, (&unit.name, index), number, service, owner)?,
    };
    let unenforced = group_limits::apply(&service.group_limits, kit.cgroup.as_ref(), shared);
    let kills = kit.cgroup.as_ref().and_then(|group| GroupKills::of(group.dir_fd()));
    if let Some(why) = &unenforced.why {
        log::warn!("{}: {why}", unit.name);
    }
    let shell = GenerationShell {
        kit,
        invocation: shared.new_invocation(),
        slot: spawn.slot,
        content: Some(spawn.content.id),
        goes_first: spawn.goes_first,
        unenforced,
        kills,
        owner,
        ..GenerationShell::default()
    };
    for name in &service.runtime_directory {
        let root = Path::new(&shared.runtime_root);
        dir::make_for_service(root, Path::new(name), owner).map_err(|error| {
            format!("RuntimeDirectory {}/{name}: {}", shared.runtime_root, describe(&error))
        })?;
    }
    Ok(shell)
}
