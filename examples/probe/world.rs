//! What the probe's threads share.

use crate::settings::Settings;
use crate::{notify, report};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The probe's state.
pub(crate) struct World {
    pub(crate) settings: Settings,
    start: Value,
    pub(crate) requests: AtomicU64,
    accepts: AtomicU64,
    pub(crate) health: AtomicU64,
    /// False: the listeners are left alone.
    pub(crate) accepting: AtomicBool,
    received: Mutex<Vec<String>>,
    signals: Mutex<BTreeMap<String, u64>>,
    holders: Mutex<Vec<std::fs::File>>,
    active: Mutex<usize>,
    idle: Condvar,
    /// Readable from the drain on.
    pub(crate) drain_rx: UnixStream,
    drain_tx: Mutex<Option<UnixStream>>,
}

/// A lock that survives a thread's panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(settings: Settings, start: Value) -> io::Result<World> {
        let (drain_rx, drain_tx) = UnixStream::pair()?;
        Ok(World {
            start,
            requests: AtomicU64::new(0),
            accepts: AtomicU64::new(0),
            health: AtomicU64::new(settings.number("health").unwrap_or(200)),
            accepting: AtomicBool::new(!settings.has("no_accept")),
            received: Mutex::default(),
            signals: Mutex::default(),
            holders: Mutex::default(),
            active: Mutex::default(),
            idle: Condvar::new(),
            drain_rx,
            drain_tx: Mutex::new(Some(drain_tx)),
            settings,
        })
    }

    /// The report of the start, and what happened since.
    pub(crate) fn report(&self) -> Value {
        let mut report = self.start.clone();
        report["requests"] = json!(self.requests.load(Ordering::Relaxed));
        report["accepts"] = json!(self.accepts.load(Ordering::Relaxed));
        report["received"] = json!(*lock(&self.received));
        report["signals"] = json!(*lock(&self.signals));
        report
    }

    /// READY=1, and what is to happen some time after it.
    pub(crate) fn ready(&self) -> io::Result<()> {
        notify::send("READY=1", &[])?;
        if let Some(ms) = self.settings.number("exit_after_ready_ms") {
            self.end_after(ms);
        }
        Ok(())
    }

    /// Ends the process as `exit_code` or `exit_signal` say.
    pub(crate) fn end_after(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
        if let Some(signal) = self.settings.get("exit_signal") {
            drop(die_of(signal));
        }
        std::process::exit(self.settings.number("exit_code").unwrap_or(1) as i32);
    }

    pub(crate) fn count_accept(&self) {
        let accepts = self.accepts.fetch_add(1, Ordering::Relaxed) + 1;
        if self.settings.number("exit_after_accepts") == Some(accepts) {
            self.end_after(0);
        }
    }

    pub(crate) fn count_signal(&self, signal: Signal) {
        *lock(&self.signals).entry(signal.as_str().to_string()).or_default() += 1;
    }

    pub(crate) fn receive(&self, text: &str) {
        lock(&self.received).push(text.to_string());
    }

    /// A connection that wants to hear of SIGTERM.
    pub(crate) fn hold(&self, connection: std::fs::File) {
        lock(&self.holders).push(connection);
    }

    pub(crate) fn tell_holders(&self) {
        for mut holder in lock(&self.holders).drain(..) {
            let _ = holder.write_all(b"term\n");
        }
    }

    pub(crate) fn begin(&self) {
        *lock(&self.active) += 1;
    }

    pub(crate) fn end(&self) {
        *lock(&self.active) -= 1;
        self.idle.notify_all();
    }

    pub(crate) fn drain(&self) {
        drop(lock(&self.drain_tx).take());
    }

    pub(crate) fn wait_idle(&self) {
        let active = lock(&self.active);
        drop(self.idle.wait_while(active, |active| *active > 0));
    }
}

/// `TERM`, `SIGTERM` or 15.
pub(crate) fn signal(name: &str) -> io::Result<Signal> {
    if let Ok(number) = name.parse::<i32>() {
        return Ok(Signal::try_from(number)?);
    }
    let long = if name.starts_with("SIG") { name.to_string() } else { format!("SIG{name}") };
    Ok(long.parse::<Signal>()?)
}

/// Ignores a signal.
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed that could run at a bad moment.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Ends this process by a signal, whatever its disposition was.
pub(crate) fn die_of(name: &str) -> io::Result<()> {
    let signal = signal(name)?;
    if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
        let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed that could run at a bad moment.
        unsafe { sigaction(signal, &action) }?;
    }
    nix::sys::signal::kill(nix::unistd::getpid(), signal)?;
    loop {
        nix::unistd::pause();
    }
}

/// Starts a grandchild (`child`, `setsid`, `double`, each with `+ignore`, `+notify`): its pid.
pub(crate) fn spawn(mode: &str) -> io::Result<String> {
    let mut words = mode.split('+');
    let how = words.next().unwrap_or("child");
    let mut command = Command::new(std::env::current_exe()?);
    command.env_remove("PROBE").env_remove("PROBE_FILE").stdin(Stdio::null()).stdout(Stdio::piped());
    let double = how == "double";
    if double {
        let rest = mode.strip_prefix("double").unwrap_or("");
        command.arg("role=daemonize").arg(format!("spawn=setsid{rest}"));
    } else {
        command.arg("role=grandchild");
        command.args((how == "setsid").then_some("setsid"));
        for word in words {
            command.arg(match word {
                "ignore" => "ignore_term",
                "notify" => "notify",
                other => return Err(io::Error::other(format!("spawn: no {other}"))),
            });
        }
    }
    let mut child = command.spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if double {
        child.wait()?;
    }
    Ok(line.trim().to_string())
}

/// The descriptors that are open now.
pub(crate) fn open_now() -> Value {
    let open: BTreeMap<String, String> =
        report::descriptors().into_iter().map(|(fd, target)| (fd.to_string(), target)).collect();
    json!(open)
}
