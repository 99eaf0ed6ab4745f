//! The table of commands and options. Parsing, help, completions and the manual's test are all made from it.

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// `-x`.
    pub short: Option<char>,
    /// `--xyz`, without the dashes.
    pub long: &'static str,
    /// The name of its value in the help; `None` for a flag.
    pub value: Option<&'static str>,
    /// One line for the help: what it does.
    pub help: &'static str,
}

/// What stands after a command besides options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// Nothing.
    None,
    /// A unit, or nothing for all.
    MaybeUnit,
    /// One unit.
    Unit,
    /// One or more units, unless an option names all.
    Units,
    /// One or more files or folders.
    Files,
    /// The name of a shell.
    Shell,
    /// A command, or nothing.
    MaybeCommand,
    /// What is told to a supervisor, or `-` for standard input.
    Notices,
}

impl Operands {
    /// As the help writes it; empty for nothing.
    pub const fn usage(self) -> &'static str {
        match self {
            Operands::None => "",
            Operands::MaybeUnit => "[UNIT]",
            Operands::Unit => "UNIT",
            Operands::Units => "UNIT...",
            Operands::Files => "FILE...",
            Operands::Shell => "bash|zsh|fish",
            Operands::MaybeCommand => "[COMMAND]",
            Operands::Notices => "KEY=VALUE...|-",
        }
    }
}

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandSpec {
    /// Its name.
    pub name: &'static str,
    /// What it is given.
    pub operands: Operands,
    /// Its own options, besides [`global_options`].
    pub options: &'static [OptionSpec],
    /// One line for the list of commands.
    pub summary: &'static str,
    /// More, for the command's own help; whole lines.
    pub details: &'static str,
}

impl CommandSpec {
    /// `aeternactl kill UNIT [options]`.
    pub fn usage(&self) -> String {
        let options = if self.options.is_empty() { "" } else { " [options]" };
        let operands = self.operands.usage();
        let gap = if operands.is_empty() { "" } else { " " };
        format!("aeternactl {}{gap}{operands}{options}", self.name)
    }
}

const fn flag(long: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { short: None, long, value: None, help }
}

const fn with_value(long: &'static str, value: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { short: None, long, value: Some(value), help }
}

const GLOBAL: &[OptionSpec] = &[
    with_value("control", "PATH", "the daemon's control socket"),
    with_value("runtime-dir", "DIR", "the daemon's runtime dir, where control.sock is"),
    OptionSpec {
        short: Some('H'),
        long: "host",
        value: Some("HOST"),
        help: "do it on another machine, by ssh: [USER@]HOST",
    },
    flag("no-pager", "show what is longer than the terminal without a pager"),
    flag("json", "print JSON: one object, or one object a line"),
    OptionSpec { short: Some('h'), long: "help", value: None, help: "print this help" },
    OptionSpec { short: Some('V'), long: "version", value: None, help: "print the version of aeternactl" },
];

/// The options that every command takes.
pub fn global_options() -> &'static [OptionSpec] {
    GLOBAL
}

const STATUS: &[OptionSpec] =
    &[flag("watch", "show it again whenever something happens; q leaves, arrows, j and k scroll")];

const LIST: &[OptionSpec] = &[flag("failed", "only the units that have failed")];

const QUIET: &[OptionSpec] = &[OptionSpec {
    short: Some('q'),
    long: "quiet",
    value: None,
    help: "print nothing: the exit status is the answer",
}];

const RELOAD: &[OptionSpec] = &[
    flag("all", "reload every unit, and take in new and removed unit files"),
    flag("no-wait", "do not wait for the outcome"),
    with_value("wait", "WHEN", "until it is \"promoted\" (the default), or the old one has \"drained\""),
    flag("force", "first abandon a reload that is under way"),
    flag("dry-run", "print what would change, and do nothing"),
    with_value("reason", "TEXT", "why, for the history"),
    with_value("timeout", "TIME", "wait no longer than this (\"90s\", \"2min\"); the reload goes on"),
];

const ROLLBACK: &[OptionSpec] = &[
    with_value("to", "N", "to what this generation ran, as \"releases\" shows it"),
    flag("dry-run", "print what it leads to, and do nothing"),
];

const RELEASES: &[OptionSpec] = &[with_value("drop", "N", "no longer keep what this generation ran")];

const LOAD: &[OptionSpec] = &[
    flag("no-wait", "do not wait for the outcome"),
    flag("dry-run", "print what would be done, and do nothing"),
    with_value("timeout", "TIME", "wait no longer than this (\"90s\", \"2min\"); everything goes on"),
];

const LINES: OptionSpec =
    OptionSpec { short: Some('n'), long: "lines", value: Some("N"), help: "only the last N of the past" };

const SINCE: OptionSpec = with_value("since", "TIME", "only those of the last TIME (\"10min\", \"2h\")");

const LOGS: &[OptionSpec] = &[
    OptionSpec {
        short: Some('f'),
        long: "follow",
        value: None,
        help: "go on with what is written from now on",
    },
    LINES,
    SINCE,
    with_value("generation", "N", "only this generation's lines"),
];

const EVENTS: &[OptionSpec] =
    &[LINES, SINCE, flag("no-follow", "end after those of the past; all of them without -n and --since")];

const STOP: &[OptionSpec] = &[flag("close", "close the unit's sockets too")];

const KILL: &[OptionSpec] = &[
    OptionSpec {
        short: Some('s'),
        long: "signal",
        value: Some("SIGNAL"),
        help: "the signal, by name or number (default SIGTERM)",
    },
    with_value("generation", "N", "only this generation's main processes"),
];

const UPGRADE: &[OptionSpec] = &[
    with_value("program", "PATH", "the new program, if it is not where the present one was started from"),
    flag("check", "only ask the new program whether it could take over"),
    with_value("timeout", "TIME", "wait no longer than this for state on its way (default \"10s\")"),
];

const IMPORT: &[OptionSpec] =
    &[with_value("process", "NAME", "which process of a Procfile (default \"web\", else the first)")];

const fn command(
    name: &'static str,
    operands: Operands,
    options: &'static [OptionSpec],
    summary: &'static str,
    details: &'static str,
) -> CommandSpec {
    CommandSpec { name, operands, options, summary, details }
}

const COMMANDS: &[CommandSpec] = &[
    command(
        "status",
        Operands::MaybeUnit,
        STATUS,
        "show the units, or everything about one",
        "Without UNIT a table of all units, those that have failed first. With UNIT its generations, sockets and last reload, and why it is\n\
         in the state that it is in; exit status 3 if the unit does not run.",
    ),
    command(
        "list",
        Operands::None,
        LIST,
        "list the units, one line each",
        "As \"status\", without sockets and reloads. Also called list-units.",
    ),
    command(
        "is-active",
        Operands::Unit,
        QUIET,
        "ask whether a unit runs",
        "Prints active, reloading, activating, deactivating, inactive or failed. Exit status: 0 if it is one of\n\
         the first two, else 3; 4 if there is no such unit. A unit that waits for its first connection is active.",
    ),
    command(
        "is-failed",
        Operands::Unit,
        QUIET,
        "ask whether a unit has failed",
        "Prints what is-active prints. Exit status: 0 if the unit has failed, else 3; 4 if there is no such unit.",
    ),
    command(
        "is-ready",
        Operands::None,
        QUIET,
        "ask whether every unit serves and no stop is under way",
        "As /ready over HTTP, without HTTP: for the health check of a container. Prints ready, or what is\n\
         missing. Exit status: 0 or 3.",
    ),
    command(
        "reload",
        Operands::Units,
        RELOAD,
        "replace the serving generation by a new one on the same sockets",
        "Prints each phase as it begins, then the outcome. Interrupting aeternactl leaves the reload running.\n\
         Exit status: 0 promoted, 1 failed before anything was launched, 3 rolled back or ended by another\n\
         command, 4 refused because a reload is under way, 6 no such unit, 124 --timeout passed.",
    ),
    command(
        "load",
        Operands::None,
        LOAD,
        "take in new, changed and removed unit files",
        "Looks through what --unit names. A new file is started as at boot, a changed one is reloaded; what is gone\n\
         from a folder is stopped and dropped. A file that cannot be used shows as a failed unit, with its errors,\n\
         and costs no other unit anything. \"reload --all\" does the same, and reloads what has not changed too.\n\
         Exit status: as reload.",
    ),
    command(
        "promote",
        Operands::Unit,
        &[],
        "end the soak of a reload now, with success",
        "The new generation gets all new connections and the old one drains.",
    ),
    command(
        "rollback",
        Operands::Unit,
        ROLLBACK,
        "give up the reload, or go back to the release before",
        "Outside a reload this is a reload itself, to the release that was promoted before the one that serves:\n\
         its unit, programs, folder and environment. Another goes to the one before that, never forward. Files\n\
         are not touched, and the next reload reads them. Nothing is started if the release is gone.",
    ),
    command(
        "releases",
        Operands::Unit,
        RELEASES,
        "show what can be gone back to",
        "The release that serves and those that are kept for a rollback: [Reload] KeepReleases says how many.\n\
         What is kept holds its space on the disk, and its file system cannot be unmounted.",
    ),
    command(
        "start",
        Operands::Unit,
        &[],
        "start a unit",
        "Rereads the unit's file. A unit that runs is left alone.",
    ),
    command(
        "stop",
        Operands::Unit,
        STOP,
        "stop a unit; its sockets stay bound",
        "Connections that arrive meanwhile wait in the queue, and start nothing until \"start\".",
    ),
    command(
        "restart",
        Operands::Unit,
        &[],
        "stop and start a unit, without overlap",
        "Rereads the unit's file. Connections that arrive meanwhile wait in the queue.",
    ),
    command(
        "kill",
        Operands::Unit,
        KILL,
        "send a signal to the main processes",
        "What the unit does when they end, its Restart says.",
    ),
    command(
        "history",
        Operands::Unit,
        &[],
        "show the last 32 reloads of a unit",
        "Outcome, reason, time of each phase, and bytes of state.",
    ),
    command(
        "show",
        Operands::Unit,
        &[],
        "print the unit that serves, with every default",
        "As TOML that reads back to the same unit. The file may be newer: \"reload --dry-run\" says what differs.",
    ),
    command(
        "cat",
        Operands::Unit,
        &[],
        "print the unit's file as it is now",
        "Its path comes first, as a comment.",
    ),
    command(
        "edit",
        Operands::Unit,
        &[],
        "edit the unit's file, and check it before it is written",
        "Opens a copy in VISUAL, else EDITOR. What is not valid is shown with its errors and not written.\n\
         Nothing is reloaded: that is what \"reload\" is for.",
    ),
    command(
        "logs",
        Operands::Unit,
        LOGS,
        "show the last lines that a unit has written",
        "UNIT/3 or --generation 3: those of one generation. The last 1000 lines (128 KiB) of each unit are kept, if its\n\
         StandardOutput or StandardError is \"log\"; hooks are among them. Times are UTC.",
    ),
    command(
        "events",
        Operands::MaybeUnit,
        EVENTS,
        "follow what happens, as it happens",
        "One line an event, until interrupted. The last 512 events of all units are kept.",
    ),
    command(
        "check",
        Operands::Files,
        &[],
        "validate unit files, without a daemon",
        "A folder stands for all its *.toml. Prints \"FILE: ok\", or every error; exit status 78 if there is one.",
    ),
    command(
        "import",
        Operands::Files,
        IMPORT,
        "print systemd units, an aeterna.yaml or a Procfile as a unit",
        "Takes a .service and the .socket files that start it, with their drop-ins (NAME.d/*.conf), or one\n\
         aeterna.yaml, or one Procfile. The unit goes to standard output; every line that has no equivalent is\n\
         named on standard error.",
    ),
    command(
        "page",
        Operands::None,
        &[],
        "print the address of the page, with a token made for it",
        "Whoever opens it may give orders, for twelve hours and while this aeternad runs: keep it to yourself.\n\
         Needs --http or [Daemon] Http.",
    ),
    command(
        "upgrade",
        Operands::None,
        UPGRADE,
        "replace aeternad's own program, in place",
        "Sockets, services, connections, reloads under way and whoever waits for them notice nothing. The new program\n\
         is asked first whether it understands everything; if anything is wrong, then or later, the one that is\n\
         there goes on. Exit status: 0 done, 1 failed, 3 the new program gave back, 4 refused: try again.",
    ),
    command(
        "notify",
        Operands::Notices,
        &[],
        "tell the supervisor of this process something, as a service",
        "For services whose language has no datagram sockets, and for scripts: sends sd_notify(3) lines such as\n\
         READY=1 or \"STATUS=warm\" to NOTIFY_SOCKET, all in one message. With - the messages come from standard\n\
         input, each ended by a zero byte, until its end. The sender is aeternactl: NotifyAccess must be \"all\".",
    ),
    command(
        "doctor",
        Operands::None,
        &[],
        "say what this machine or container allows",
        "Needs no daemon: everything is tried with the rights of whoever asks. Says of each thing that is missing\n\
         what it costs, and how to get it.",
    ),
    command(
        "version",
        Operands::None,
        &[],
        "print the versions of aeternactl and of the daemon",
        "The daemon's is missing if none is there.",
    ),
    command("help", Operands::MaybeCommand, &[], "print help, also about one command", "As COMMAND --help."),
    command(
        "completions",
        Operands::Shell,
        &[],
        "print completions for a shell",
        "bash:  aeternactl completions bash > /usr/share/bash-completion/completions/aeternactl\n\
         zsh:   aeternactl completions zsh > /usr/share/zsh/site-functions/_aeternactl\n\
         fish:  aeternactl completions fish > /usr/share/fish/vendor_completions.d/aeternactl.fish\n\
         The scripts themselves ask \"aeternactl completions units\" for the names of the units.",
    ),
];

/// Every command, in the order of the help.
pub fn commands() -> &'static [CommandSpec] {
    COMMANDS
}

/// The command of this name, or of one that systemctl has for it.
pub fn find(name: &str) -> Option<&'static CommandSpec> {
    let name = if name == "list-units" { "list" } else { name };
    COMMANDS.iter().find(|command| command.name == name)
}
