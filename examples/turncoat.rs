//! For the tests: a program that says that it can take over from aeternad, and then does what `TURNCOAT` says instead.

#![expect(clippy::panic, reason = "it is what this is for")]

use aeterna::daemon::saved;
use aeterna::daemon::upgrade::takeover;
use aeterna::sys::replace::{self, WayBack};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let Some((number, _)) = takeover::asked() else {
        // The check is passed by the one that it claims to be.
        let real = std::env::var_os("TURNCOAT_REAL").unwrap_or_default();
        // Silence is what a program says that is no aeternad.
        let _ = Command::new(real).args(std::env::args_os().skip(1)).exec();
        return ExitCode::FAILURE;
    };
    let bytes = replace::unsealed(number).unwrap_or_default();
    let Ok((head, _)) = saved::read(&bytes, None) else { return ExitCode::FAILURE };
    let Ok(_way) = takeover::open_way(&head, number) else { return ExitCode::FAILURE };
    match std::env::var("TURNCOAT").unwrap_or_default().as_str() {
        "panic" => panic!("nothing works here"),
        "abort" => std::process::abort(),
        "fault" => {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
            ExitCode::FAILURE
        }
        _ => WayBack::go("it does not like it"),
    }
}
