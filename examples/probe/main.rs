//! The test service that obeys orders.
//!
//! What it does at its start is told by arguments and by `PROBE` (`key=value;key;…`, one word of an argument
//! list each) and by the file that `PROBE_FILE` names: read at each start, so that a test can make the next
//! generation behave badly. What it does later is told over HTTP on the sockets that it was lent, and on a
//! private one (`orders=PATH`). See [`settings`] for the keys and [`orders`] for the paths.
//!
//! There is no Rust runtime before `main`: std's would change the disposition of SIGPIPE, and the report
//! must show what was inherited.

#![no_main]
#![expect(unsafe_code, reason = "inherited descriptors are numbers, and main is C's")]

mod notify;
mod orders;
mod report;
mod serve;
mod settings;
mod world;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use settings::Settings;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use world::World;

/// C's entry: what comes back is the exit status.
// SAFETY: this program has no other symbol `main`, and `no_main` keeps rustc from making one.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: i32, _arguments: *const *const std::ffi::c_char) -> i32 {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "probe: {error}");
            2
        }
    }
}

fn run() -> io::Result<i32> {
    // Before anything else: the report tells what was inherited.
    let start = report::at_start();
    let settings = Settings::read()?;
    match settings.get("role") {
        Some("grandchild") => return grandchild(&settings),
        Some("daemonize") => {
            let line = world::spawn(settings.get("spawn").unwrap_or("setsid"))?;
            writeln!(io::stdout(), "{line}")?;
            return Ok(0);
        }
        Some(other) => return Err(io::Error::other(format!("no role {other}"))),
        None => {}
    }
    let world = Arc::new(World::new(settings, start)?);
    speak(&world)?;
    if let Some(ms) = world.settings.number("sleep_ms") {
        std::thread::sleep(Duration::from_millis(ms));
    }
    if let Some(code) = world.settings.number("exit") {
        return Ok(code as i32);
    }
    if let Some(signal) = world.settings.get("signal") {
        world::die_of(signal)?;
    }
    let signals = handle_signals(&world)?;
    serve::everything(&world)?;
    later(&world);
    become_ready(&world)?;
    wait(&world, signals)
}

/// What is said at the start: lines, a report, messages, descriptors for the store, processes.
fn speak(world: &World) -> io::Result<()> {
    let settings = &world.settings;
    if let Some(path) = settings.get("append") {
        let mut line = settings.get("note").unwrap_or("started").to_string();
        for name in settings.get("show").unwrap_or("").split(',').filter(|name| !name.is_empty()) {
            line += &format!(" {name}={}", std::env::var(name).unwrap_or_default());
        }
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
    }
    if let Some(text) = settings.get("stdout") {
        writeln!(io::stdout(), "{}", text.replace("\\n", "\n"))?;
    }
    if let Some(text) = settings.get("stderr") {
        writeln!(io::stderr(), "{}", text.replace("\\n", "\n"))?;
    }
    if let Some(path) = settings.get("report_file") {
        let fresh = format!("{path}.fresh");
        std::fs::write(&fresh, world.report().to_string())?;
        std::fs::rename(&fresh, path)?;
    }
    if let Some(text) = settings.get("notify") {
        notify::send(&text.replace("\\n", "\n"), &[])?;
    }
    if let Some((name, content)) = settings.get("fdstore").and_then(|text| text.split_once(':')) {
        notify::store_memfd(name, content.as_bytes(), "")?;
    }
    for mode in settings.get("spawn").unwrap_or("").split(',').filter(|mode| !mode.is_empty()) {
        world::spawn(mode)?;
    }
    Ok(())
}

/// Ends that are set by the clock: threads that sleep and then act.
fn later(world: &Arc<World>) {
    if let Some(ms) = world.settings.number("exit_after_start_ms") {
        let world = Arc::clone(world);
        std::thread::spawn(move || world.end_after(ms));
    }
    if let Some(ms) = world.settings.number("watchdog") {
        std::thread::spawn(move || {
            loop {
                let _ = notify::send("WATCHDOG=1", &[]);
                std::thread::sleep(Duration::from_millis(ms));
            }
        });
    }
}

/// `ready`: now, after some milliseconds, on order, never.
fn become_ready(world: &Arc<World>) -> io::Result<()> {
    match world.settings.get("ready").unwrap_or("now") {
        "now" => world.ready(),
        "order" | "never" => Ok(()),
        ms => {
            let ms = ms.parse().map_err(|_| io::Error::other(format!("ready={ms}?")))?;
            let world = Arc::clone(world);
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(ms));
                drop(world.ready());
            });
            Ok(())
        }
    }
}

/// The read ends of the signals that are handled.
fn handle_signals(world: &World) -> io::Result<Vec<(Signal, UnixStream)>> {
    let mut wanted = vec!["TERM"];
    wanted.extend(world.settings.get("handle").unwrap_or("").split(',').filter(|name| !name.is_empty()));
    if world.settings.get("hup").is_some() {
        wanted.push("HUP");
    }
    let mut streams = Vec::new();
    for name in wanted {
        let signal = world::signal(name)?;
        if signal == Signal::SIGTERM && world.settings.get("term") == Some("ignore") {
            world::ignore(signal)?;
            continue;
        }
        let (rx, tx) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal as i32, tx)?;
        streams.push((signal, rx));
    }
    Ok(streams)
}

/// The main thread's life: signals, until one of them ends it.
fn wait(world: &Arc<World>, mut signals: Vec<(Signal, UnixStream)>) -> io::Result<i32> {
    loop {
        let mut ready = Vec::new();
        {
            let fds: Vec<BorrowedFd<'_>> = signals.iter().map(|(_, stream)| stream.as_fd()).collect();
            ready.extend(readable(&fds, PollTimeout::NONE)?);
        }
        for (index, (signal, stream)) in signals.iter_mut().enumerate() {
            if !ready[index] {
                continue;
            }
            let mut bytes = [0; 64];
            let _ = stream.read(&mut bytes)?;
            world.count_signal(*signal);
            if *signal == Signal::SIGHUP && world.settings.get("hup") == Some("reload") {
                let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
                let now = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000;
                notify::send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"), &[])?;
                notify::send("READY=1", &[])?;
            }
            if *signal == Signal::SIGTERM
                && let Some(code) = on_term(world)
            {
                return Ok(code);
            }
        }
    }
}

/// `term`: drain (the default), drop everything at once, hang, or `exit:CODE`.
fn on_term(world: &Arc<World>) -> Option<i32> {
    let mode = world.settings.get("term").unwrap_or("drain");
    if mode == "drop" {
        return Some(0);
    }
    if let Some(code) = mode.strip_prefix("exit:") {
        return Some(code.parse().unwrap_or(1));
    }
    world.tell_holders();
    if mode == "hang" {
        return None;
    }
    world.drain();
    world.wait_idle();
    Some(0)
}

/// A process that a test looks for after the service has gone: it says its pid and waits for ever.
fn grandchild(settings: &Settings) -> io::Result<i32> {
    if settings.get("setsid").is_some() {
        nix::unistd::setsid()?;
    }
    if settings.get("ignore_term").is_some() {
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            world::ignore(signal)?;
        }
    }
    if settings.get("notify").is_some() {
        notify::send("STATUS=a grandchild speaks", &[])?;
    }
    writeln!(io::stdout(), "{}", nix::unistd::getpid())?;
    // Whoever reads our pid may wait for the end of the file.
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    loop {
        nix::unistd::pause();
    }
}

/// Waits until one of these can be read (or has ended), or until the time is over.
fn readable(fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> io::Result<Vec<bool>> {
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    while let Err(error) = poll(&mut set, timeout) {
        if error != nix::errno::Errno::EINTR {
            return Err(error.into());
        }
    }
    Ok(set.iter().map(|fd| fd.any().unwrap_or(false)).collect())
}

/// A descriptor that was lent, as a thing that can be asked.
fn borrowed(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: the callers take the number from the list of what was lent, and the operations done on it
    // fail with EBADF where a test has closed it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Takes a descriptor that was lent for good.
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: only `serve::everything` and the order `/close` take a number, each number once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
