//! How a process or a whole generation ended.

use crate::machine::event::{Beside, Exit, SpawnFailure};
use crate::unit::{Service, ServiceType};
use serde::{Deserialize, Serialize};

/// systemd's `SERVICE_RESULT` words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    Success,
    Protocol,
    Timeout,
    ExitCode,
    Signal,
    CoreDump,
    Watchdog,
    OomKill,
    StartLimitHit,
    Resources,
    /// `resources` that may be there again in a moment.
    Exhausted,
    /// Ours: an `Always` health check failed.
    Health,
}

impl Word {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Word::Success => "success",
            Word::Protocol => "protocol",
            Word::Timeout => "timeout",
            Word::ExitCode => "exit-code",
            Word::Signal => "signal",
            Word::CoreDump => "core-dump",
            Word::Watchdog => "watchdog",
            Word::OomKill => "oom-kill",
            Word::StartLimitHit => "start-limit-hit",
            Word::Resources | Word::Exhausted => "resources",
            Word::Health => "health",
        }
    }
}

/// How a process or a whole generation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) result: Word,
    pub(crate) exit: Option<Exit>,
    /// As an exit status of aeternad.
    pub(crate) code: u8,
    /// What it did, after "generation 2 ": "exited with status 3".
    pub(crate) text: String,
    /// Whether it ended well and left others behind.
    pub(crate) forked: bool,
    /// What it was to run is gone: a restart cannot mend that.
    pub(crate) gone: bool,
    /// Somebody was just writing the program.
    pub(crate) busy: bool,
}

impl End {
    /// A main process has exited.
    pub(crate) fn of_main(exit: Exit, service: &Service) -> End {
        let extra = &service.success_exit_status;
        let oneshot = service.service_type == ServiceType::Oneshot;
        // HUP, INT, TERM and PIPE are how a service is told to end.
        let clean_signal = |signal: i32| !oneshot && matches!(signal, 1 | 2 | 13 | 15);
        let result = match exit {
            Exit::Code(0) => Word::Success,
            Exit::Code(code) if extra.codes.contains(&code) => Word::Success,
            Exit::Code(_) | Exit::Unknown => Word::ExitCode,
            Exit::Signal { signal, .. } if extra.signals.contains(&signal) => Word::Success,
            Exit::Signal { core: true, .. } => Word::CoreDump,
            Exit::Signal { signal, .. } if clean_signal(signal) => Word::Success,
            Exit::Signal { .. } => Word::Signal,
        };
        End {
            result,
            exit: Some(exit),
            code: code_of(exit),
            text: describe(exit),
            forked: false,
            gone: false,
            busy: false,
        }
    }

    /// A hook or control command has exited: only 0 is a success.
    pub(crate) fn of_command(exit: Exit) -> End {
        let result = match exit {
            Exit::Code(0) => Word::Success,
            Exit::Code(_) | Exit::Unknown => Word::ExitCode,
            Exit::Signal { core: true, .. } => Word::CoreDump,
            Exit::Signal { .. } => Word::Signal,
        };
        End {
            result,
            exit: Some(exit),
            code: code_of(exit),
            text: describe(exit),
            forked: false,
            gone: false,
            busy: false,
        }
    }

    /// With what was seen beside it.
    pub(crate) fn beside(self, beside: Beside) -> End {
        match beside {
            Beside::Nothing => self,
            Beside::OutOfMemory => {
                End { result: Word::OomKill, text: "was killed by the kernel for memory".into(), ..self }
            }
            Beside::MemoryShort => {
                let text = format!("{} (the kernel's OOM killer was at work on this machine)", self.text);
                End { text, ..self }
            }
            // A program that becomes a daemon leaves its parent so, and nobody would know why it did not work.
            Beside::Others if self.exit == Some(Exit::Code(0)) => {
                let text = format!(
                    "{} and left processes behind: a program that puts itself into the background, or starts its own \
                     successor at a signal, cannot be supervised; give it its option to stay in the foreground, and leave \
                     its replacement to aeternactl reload",
                    self.text
                );
                End { text, forked: true, ..self }
            }
            Beside::Others => self,
        }
    }

    /// There was no process.
    pub(crate) fn not_started(failure: &SpawnFailure) -> End {
        // 126 and 127 are the program's fault, as systemd's 203 is; everything else is ours.
        let result = match failure.code {
            _ if failure.exhausted => Word::Exhausted,
            1 => Word::Resources,
            _ => Word::ExitCode,
        };
        // "cannot start app: exec …": which unit it is, the reader knows.
        let why = failure.text.strip_prefix("cannot start ").and_then(|text| text.split_once(": "));
        let text = format!("could not be started: {}", why.map_or(failure.text.as_str(), |(_, why)| why));
        End {
            result,
            exit: None,
            code: failure.code.max(1),
            text,
            forked: false,
            gone: failure.gone,
            busy: failure.busy,
        }
    }

    /// It was given up on.
    pub(crate) fn given_up(result: Word, text: String) -> End {
        End { result, exit: None, code: 1, text, forked: false, gone: false, busy: false }
    }

    pub(crate) fn is_success(&self) -> bool {
        self.result == Word::Success
    }

    /// `SERVICE_RESULT`, `EXIT_CODE` and `EXIT_STATUS` for `ExecStopPost`.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![("SERVICE_RESULT".into(), self.result.text().into())];
        let (kind, status) = match self.exit {
            Some(Exit::Code(code)) => ("exited", code.to_string()),
            Some(Exit::Signal { signal, core }) => {
                (if core { "dumped" } else { "killed" }, signal_name(signal))
            }
            Some(Exit::Unknown) | None => return environment,
        };
        environment.push(("EXIT_CODE".into(), kind.into()));
        environment.push(("EXIT_STATUS".into(), status));
        environment
    }

    /// The exit status that aeternad ends with if this is the end of the one service.
    pub(crate) fn exit_status(&self) -> u8 {
        if self.is_success() { self.code } else { self.code.max(1) }
    }
}

fn code_of(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal { signal, .. } => 128u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
        Exit::Unknown => 1,
    }
}

/// What a process did, for people: "exited with status 3".
pub(crate) fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal { signal, core } => {
            let dumped = if core { " and dumped core" } else { "" };
            format!("was killed by SIG{}{dumped}", signal_name(signal))
        }
        Exit::Unknown => "ended, and nobody can say how".into(),
    }
}

/// A signal's name without SIG, as `EXIT_STATUS` has it; the number where there is none.
pub(crate) fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "POLL", "PWR", "SYS",
    ];
    match usize::try_from(signal).ok().and_then(|at| NAMES.get(at)) {
        Some(name) if !name.is_empty() => (*name).into(),
        Some(_) | None => signal.to_string(),
    }
}
