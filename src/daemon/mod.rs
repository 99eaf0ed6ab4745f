//! The supervisor's shell: turns readiness into events and actions into system calls. Takes no decision that
//! needs a test table: those are the machines'.

#![forbid(unsafe_code)]

pub mod ahead;
pub mod aim;
pub mod announce;
pub mod args;
pub mod checked;
pub mod complaints;
pub mod control;
pub mod core;
pub mod dry;
pub mod effects;
pub mod envfiles;
pub mod environment;
pub mod event_loop;
pub mod fdstore;
pub mod files;
pub mod finish;
pub mod handover;
pub mod home;
pub mod http;
pub mod inherit;
pub mod intercept;
pub mod launch;
pub mod limits;
pub mod linelog;
pub mod listening;
pub mod load;
pub mod logging;
pub mod logpipe;
pub mod logsink;
pub mod looks;
pub mod lookups;
pub mod mainpid;
pub mod memory;
pub mod notifications;
pub mod oom;
pub mod preflight;
pub mod probes;
pub mod relay;
pub mod releases;
pub mod requests;
pub mod roles;
pub mod saved;
pub mod settling;
pub mod setup;
pub mod shared;
pub mod signals;
pub mod snapshot;
pub mod sockets;
pub mod spare;
pub mod srp;
pub mod starting;
pub mod stdio;
pub mod stopping;
pub mod strays;
pub mod streams;
pub mod supervised;
pub mod survival;
pub mod token;
pub mod upgrade;
pub mod upstream;
pub mod used;
pub mod watching;

use crate::error::{Fatal, exit};
use crate::machine::event::Event;
use crate::sys::{fd, keeper, signal};
use crate::unit::Verdict;
use args::Mode;
use inherit::Inherited;
use std::io::Write;
use std::process::ExitCode;

/// Runs `aeternad`.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == upgrade::check::OPTION) {
        return upgrade::check::main();
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == keeper::OPTION) {
        return ExitCode::from(keeper::main());
    }
    let ended = run();
    logging::finish();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(fatal) => {
            // Standard error may be closed: the exit status says it too.
            // What is wrong with a unit begins with its file, as compilers say it.
            let who = if fatal.code == exit::CONFIG { "" } else { "aeternad: " };
            let _ = writeln!(std::io::stderr(), "{who}{fatal}");
            ExitCode::from(fatal.code)
        }
    }
}

fn run() -> Result<u8, Fatal> {
    let broken =
        |what: &str, error: std::io::Error| Fatal::new(exit::FAILURE, format!("cannot {what}: {error}"));
    // Before anything else: a signal that comes now waits for the signalfd, and 0, 1 and 2 are nobody else's.
    fd::secure_std_fds().map_err(|error| broken("open /dev/null", error))?;
    signal::block_all().map_err(|error| broken("block signals", error))?;
    if let Some((number, back)) = upgrade::takeover::asked() {
        return upgrade::takeover::run(number, back);
    }
    let args = args::parse(std::env::args_os().skip(1))?;
    match args.mode {
        Mode::Run => supervise(&args),
        Mode::Help => print(args::HELP),
        Mode::Version => print(concat!("aeternad ", env!("CARGO_PKG_VERSION"), "\n")),
        Mode::Check => check(&setup::check(&args)?),
        Mode::Show => print(&setup::show(&args)?),
    }
}

/// What is good goes to standard output, what is not to standard error.
fn check(verdict: &Verdict) -> Result<u8, Fatal> {
    let complaints: String = verdict.complaints().iter().map(|line| format!("{line}\n")).collect();
    // Nobody is left to be told that this cannot be written.
    let _ = std::io::stderr().write_all(complaints.as_bytes());
    let code = print(&verdict.praise())?;
    Ok(if verdict.ok { code } else { exit::CONFIG })
}

/// Prints to standard output. Whoever closed it has seen enough.
fn print(text: &str) -> Result<u8, Fatal> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(exit::OK),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::OK),
        Err(error) => Err(Fatal::new(exit::FAILURE, format!("cannot print: {error}"))),
    }
}

fn supervise(args: &args::Args) -> Result<u8, Fatal> {
    // Before we open anything: what we open would be taken for what we were promised and not given.
    let inherited = Inherited::take();
    let (units, unusable) = setup::read_usable(args)?;
    let wishes = setup::wishes(&units);
    setup::start_log(args, &wishes);
    let setup::Ready { mut daemon, sources, found } =
        setup::prepare(args, units, unusable, &wishes, inherited)?;
    log::info!(
        "aeternad {} runs, pid {}, {}, control socket {}",
        env!("CARGO_PKG_VERSION"),
        daemon.shared.pid,
        match daemon.units.len() {
            1 => "1 unit".to_owned(),
            count => format!("{count} units"),
        },
        daemon.home.control.path.display()
    );
    daemon.settle_in();
    for unusable in &daemon.files.unusable {
        log::error!("{}", unusable.why);
    }
    daemon.name_unusable();
    daemon.hold_releases();
    for index in 0..daemon.units.len() {
        if !found.contains_key(&index) {
            daemon.rewatch_sockets(index);
            daemon.watch_paths(index);
        }
    }
    for index in 0..daemon.units.len() {
        if let Some(found) = found.get(&index) {
            daemon.go_on(index, found);
            continue;
        }
        // What is shared although the unit asks for slots: inherited sockets, a kernel without steering.
        let unit = &daemon.units[index];
        let steered = unit.sockets.steered(&unit.current.unit);
        daemon.deliver(index, Event::Sockets { steered });
        daemon.deliver(index, Event::Boot);
    }
    daemon.begin_to_survive();
    let code = event_loop::run(&mut daemon, &sources);
    daemon.finish();
    Ok(code)
}
