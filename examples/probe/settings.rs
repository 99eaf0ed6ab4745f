//! How the probe is told to behave at its start.
//!
//! | key | meaning |
//! | --- | --- |
//! | `ready` | `now` (default), a number of milliseconds, `order` (GET /ready), `never` |
//! | `exit`, `signal` | end at once, before ready, with this code or signal |
//! | `sleep_ms` | first of all wait this long (hooks) |
//! | `exit_after_start_ms`, `exit_after_ready_ms`, `exit_after_accepts` | end then, with `exit_code` (default 1) or `exit_signal` |
//! | `term` | on SIGTERM: `drain` (default), `drop`, `ignore`, `hang`, `exit:CODE` |
//! | `handle` | more signals to count, comma separated: `HUP,USR1` |
//! | `hup` | `reload`: answer SIGHUP with RELOADING=1 and READY=1 |
//! | `no_accept` | never accept |
//! | `no_serve` | leave the sockets alone |
//! | `shutdown_listener`, `unlink_path`, `close_fds` | at the start, misuse what was lent |
//! | `spawn` | grandchildren, comma separated: `child`, `setsid`, `double`, each with `+ignore`, `+notify` |
//! | `stdout`, `stderr`, `notify` | lines and messages at the start (`\n` separates lines) |
//! | `fdstore` | `NAME:CONTENT`: store a memfd |
//! | `watchdog` | WATCHDOG=1 every so many milliseconds |
//! | `body`, `status`, `health` | what `/` answers; the status of `/`, of `/health` |
//! | `report_file` | write the report there |
//! | `append`, `note`, `show` | append a line with `note` and these variables to a file (hooks) |
//! | `orders` | a private Unix socket for orders; `%g` is the generation, `%p` the pid |
//! | `bind` | bind this TCP address oneself |
//! | `stdin` | `http`: serve the connection (or listener) on descriptor 0 |
//! | `leak` | leave what was lent open for grandchildren |
//! | `role`, `setsid`, `ignore_term` | for the probe's own children |

use std::collections::BTreeMap;
use std::io;

const KEYS: &[&str] = &[
    "ready",
    "exit",
    "signal",
    "sleep_ms",
    "exit_after_start_ms",
    "exit_after_ready_ms",
    "exit_after_accepts",
    "exit_code",
    "exit_signal",
    "term",
    "handle",
    "hup",
    "no_accept",
    "no_serve",
    "shutdown_listener",
    "unlink_path",
    "close_fds",
    "spawn",
    "stdout",
    "stderr",
    "notify",
    "fdstore",
    "watchdog",
    "body",
    "status",
    "health",
    "report_file",
    "append",
    "note",
    "show",
    "orders",
    "bind",
    "stdin",
    "leak",
    "role",
    "setsid",
    "ignore_term",
];

/// The settings of this start; later sources win: `PROBE`, the file, the arguments.
#[derive(Debug)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    pub(crate) fn read() -> io::Result<Settings> {
        let mut settings = Settings(BTreeMap::new());
        settings.add(&std::env::var("PROBE").unwrap_or_default())?;
        if let Ok(path) = std::env::var("PROBE_FILE") {
            settings.add(&std::fs::read_to_string(path).unwrap_or_default())?;
        }
        for argument in std::env::args().skip(1) {
            settings.one(&argument)?;
        }
        Ok(settings)
    }

    fn add(&mut self, text: &str) -> io::Result<()> {
        text.split([';', '\n']).try_for_each(|word| self.one(word))
    }

    fn one(&mut self, word: &str) -> io::Result<()> {
        let word = word.trim();
        if word.is_empty() {
            return Ok(());
        }
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if !KEYS.contains(&key) {
            return Err(io::Error::other(format!("no such order: {word}")));
        }
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        debug_assert!(KEYS.contains(&key), "{key}");
        self.0.get(key).map(String::as_str)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(|text| text.parse().ok())
    }
}
