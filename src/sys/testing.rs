//! For tests that change what belongs to the whole process (signal masks, limits, who is reaped).

use std::process::{Command, Output, Stdio};

/// Says in the environment of a test program which one test it runs.
const ALONE: &str = "AETERNA_TEST_ALONE";

/// Runs `body` in a process of its own: this test program again, with nothing but the test `name` (its full path).
pub(crate) fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return alone(body);
    }
    check(name, &run(name));
}

/// [`isolated`], with every signal blocked from the start, in all threads. Std's `Command` hands on the mask of the thread
/// that calls it.
pub(crate) fn isolated_with_signals_blocked(name: &'static str, body: impl FnOnce()) {
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return alone(body);
    }
    let starter = std::thread::spawn(move || {
        super::signal::block_all().unwrap();
        run(name)
    });
    check(name, &starter.join().unwrap());
}

/// The umask that we have inherited may be one that another test had set just then, for the moment of a bind(2).
fn alone(body: impl FnOnce()) {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_retain(0o022));
    body();
}

/// Runs this test program again with one test.
fn run(name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn check(name: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{text}\n{errors}", output.status);
    assert!(text.contains("1 passed"), "there is no test {name}:\n{text}");
}
