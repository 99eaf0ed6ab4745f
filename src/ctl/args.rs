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
    with_value("runtime-dir", "DIR", "the daemon's runtime directory, which holds control.sock"),
    OptionSpec {
        short: Some('H'),
        long: "host",
        value: Some("HOST"),
        help: "run the command on another machine, over ssh: [USER@]HOST",
    },
    flag("no-pager", "do not use a pager for long output"),
    flag("json", "print JSON: one object, or one object per line"),
    OptionSpec { short: Some('h'), long: "help", value: None, help: "print this help" },
    OptionSpec { short: Some('V'), long: "version", value: None, help: "print the version of aeternactl" },
];

/// The options that every command takes.
pub fn global_options() -> &'static [OptionSpec] {
    GLOBAL
}

const STATUS: &[OptionSpec] =
    &[flag("watch", "update whenever something happens; q quits, arrows, j and k scroll")];

const LIST: &[OptionSpec] = &[flag("failed", "only the units that have failed")];

const QUIET: &[OptionSpec] = &[OptionSpec {
    short: Some('q'),
    long: "quiet",
    value: None,
    help: "print nothing; only the exit status tells",
}];

const RELOAD: &[OptionSpec] = &[
    flag("all", "reload every unit, and take in new and removed unit files"),
    flag("no-wait", "do not wait for the outcome"),
    with_value(
        "wait",
        "WHEN",
        "wait until it is \"promoted\" (the default) or the old generation has \"drained\"",
    ),
    flag("force", "first abort a reload that is under way"),
    flag("dry-run", "print what would change, and do nothing"),
    with_value("reason", "TEXT", "the reason, for the history"),
    with_value("timeout", "TIME", "wait no longer than this (\"90s\", \"2min\"); the reload continues"),
];

const ROLLBACK: &[OptionSpec] = &[
    with_value("to", "N", "go back to what generation N ran, as listed by \"releases\""),
    flag("dry-run", "print what would change, and do nothing"),
];

const RELEASES: &[OptionSpec] = &[with_value("drop", "N", "stop keeping what generation N ran")];

const LOAD: &[OptionSpec] = &[
    flag("no-wait", "do not wait for the outcome"),
    flag("dry-run", "print what would be done, and do nothing"),
    with_value("timeout", "TIME", "wait no longer than this (\"90s\", \"2min\"); everything continues"),
];

const LINES: OptionSpec =
    OptionSpec { short: Some('n'), long: "lines", value: Some("N"), help: "begin with the last N" };

const SINCE: OptionSpec = with_value("since", "TIME", "begin TIME ago (\"10min\", \"2h\")");

const LOGS: &[OptionSpec] = &[
    OptionSpec {
        short: Some('f'),
        long: "follow",
        value: None,
        help: "continue with new lines as they are written",
    },
    LINES,
    SINCE,
    with_value("generation", "N", "only this generation's lines"),
];

const EVENTS: &[OptionSpec] =
    &[LINES, SINCE, flag("no-follow", "exit after past events; print all of them without -n and --since")];

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
    with_value("program", "PATH", "the new program, if it is not at the path of the running one"),
    flag("check", "only ask the new program whether it could take over"),
    with_value("timeout", "TIME", "how long to wait for a state transfer under way (default \"10s\")"),
];

const IMPORT: &[OptionSpec] =
    &[with_value("process", "NAME", "the process of a Procfile to import (default \"web\", else the first)")];

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
        "show all units, or the details of one",
        "Without UNIT, show a table of all units, failed ones first. With UNIT, show its generations, sockets and last\n\
         reload, and the reason for its current state. Exit status 3 if the unit is not running.",
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
        "check whether a unit is running",
        "Prints active, reloading, activating, deactivating, inactive or failed. Exit status: 0 for the first two,\n\
         otherwise 3; 4 if there is no such unit. A unit that waits for its first connection is active.",
    ),
    command(
        "is-failed",
        Operands::Unit,
        QUIET,
        "check whether a unit has failed",
        "Prints the same words as is-active. Exit status: 0 if the unit has failed, otherwise 3; 4 if there is no\n\
         such unit.",
    ),
    command(
        "is-ready",
        Operands::None,
        QUIET,
        "check whether every unit serves and no stop is under way",
        "The same check as /ready over HTTP, for the health check of a container. Prints ready, or what is missing.\n\
         Exit status: 0 or 3.",
    ),
    command(
        "reload",
        Operands::Units,
        RELOAD,
        "replace the serving generation by a new one on the same sockets",
        "Prints each phase as it begins, then the outcome. Interrupting aeternactl does not interrupt the reload.\n\
         Exit status: 0 promoted, 1 failed before anything was launched, 3 rolled back or ended by another\n\
         command, 4 refused because a reload is under way, 6 no such unit, 124 --timeout passed.",
    ),
    command(
        "load",
        Operands::None,
        LOAD,
        "take in new, changed and removed unit files",
        "Looks through the files and directories of aeternad --unit again. A new file is started as at boot, a changed\n\
         one is reloaded. A unit whose file is gone from a directory is stopped and dropped. A file that is not usable\n\
         shows as a failed unit with its errors, and does not affect other units. \"reload --all\" does the same, and\n\
         also reloads unchanged units. Exit status: as for reload.",
    ),
    command(
        "promote",
        Operands::Unit,
        &[],
        "end the soak now, with success",
        "The new generation gets all new connections and the old one drains.",
    ),
    command(
        "rollback",
        Operands::Unit,
        ROLLBACK,
        "give up the reload, or go back to the previous release",
        "Outside a reload, starts one to the release that was promoted before the serving one: its unit, programs,\n\
         working directory and environment. Repeating the command goes back one release further, never forward.\n\
         Files are not changed; the next reload reads them again. If the release is gone, nothing is started.",
    ),
    command(
        "releases",
        Operands::Unit,
        RELEASES,
        "show the releases that rollback can return to",
        "Shows the serving release and those that are kept for rollback; [Reload] KeepReleases sets how many.\n\
         Kept releases use disk space, and their file systems cannot be unmounted.",
    ),
    command(
        "start",
        Operands::Unit,
        &[],
        "start a unit",
        "Reads the unit's file again. A unit that is running is left alone.",
    ),
    command(
        "stop",
        Operands::Unit,
        STOP,
        "stop a unit; its sockets stay bound",
        "Connections wait in the queue and start nothing until \"start\".",
    ),
    command(
        "restart",
        Operands::Unit,
        &[],
        "stop and start a unit, without overlap",
        "Reads the unit's file again. Connections that arrive meanwhile wait in the queue.",
    ),
    command(
        "kill",
        Operands::Unit,
        KILL,
        "send a signal to the main processes",
        "If they end, the unit's Restart setting applies.",
    ),
    command(
        "history",
        Operands::Unit,
        &[],
        "show the last 32 reloads of a unit",
        "Shows outcome, reason, duration of each phase, and bytes of state.",
    ),
    command(
        "show",
        Operands::Unit,
        &[],
        "print the unit that is running, with every default",
        "Prints TOML that parses back to the same unit. The file may be newer: \"reload --dry-run\" shows the difference.",
    ),
    command(
        "cat",
        Operands::Unit,
        &[],
        "print the unit's current file",
        "The file is preceded by its path in a comment.",
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
        "UNIT/3 or --generation 3 selects one generation. The last 1000 lines (128 KiB) of each unit are kept if its\n\
         StandardOutput or StandardError is \"log\", including the output of hooks. Times are UTC.",
    ),
    command(
        "events",
        Operands::MaybeUnit,
        EVENTS,
        "follow events as they happen",
        "Prints one line per event, until interrupted. The last 512 events of all units are kept.",
    ),
    command(
        "check",
        Operands::Files,
        &[],
        "validate unit files, without a daemon",
        "A directory stands for all *.toml files in it. Prints \"FILE: ok\", or every error; exit status 78 if there is one.",
    ),
    command(
        "import",
        Operands::Files,
        IMPORT,
        "convert systemd units, an aeterna.yaml or a Procfile to a unit",
        "Takes a .service and the .socket files that start it, with their drop-ins (NAME.d/*.conf), or one\n\
         aeterna.yaml, or one Procfile. Prints the unit on standard output, and reports every line that has no\n\
         equivalent on standard error.",
    ),
    command(
        "page",
        Operands::None,
        &[],
        "print the address of the HTTP page, with a token made for it",
        "Anyone who has the address can control the daemon, for twelve hours and while this aeternad runs: keep it\n\
         secret. Needs --http or [Daemon] Http.",
    ),
    command(
        "upgrade",
        Operands::None,
        UPGRADE,
        "replace aeternad's own program, in place",
        "Sockets, services, connections and reloads under way are not affected. The new program is first asked whether\n\
         it understands the complete state; if anything goes wrong, then or later, the old program continues.\n\
         Exit status: 0 done, 1 failed, 3 the new program gave back, 4 refused: try again.",
    ),
    command(
        "notify",
        Operands::Notices,
        &[],
        "from within a service, send a notification to its supervisor",
        "For scripts, and for languages without datagram sockets: sends sd_notify(3) assignments such as READY=1 or\n\
         \"STATUS=warm\" to NOTIFY_SOCKET, all in one message. With -, reads messages from standard input until its end,\n\
         each terminated by a zero byte. The sender is aeternactl, so NotifyAccess must be \"all\".",
    ),
    command(
        "doctor",
        Operands::None,
        &[],
        "show what this machine or container allows",
        "Needs no daemon: everything is tried with the permissions of the caller. For each missing feature, shows what\n\
         it costs and how to get it.",
    ),
    command(
        "version",
        Operands::None,
        &[],
        "print the versions of aeternactl and of the daemon",
        "Without a daemon, prints only that of aeternactl.",
    ),
    command(
        "help",
        Operands::MaybeCommand,
        &[],
        "print help, optionally for one command",
        "The same as COMMAND --help.",
    ),
    command(
        "completions",
        Operands::Shell,
        &[],
        "print completions for a shell",
        "bash:  aeternactl completions bash > /usr/share/bash-completion/completions/aeternactl\n\
         zsh:   aeternactl completions zsh > /usr/share/zsh/site-functions/_aeternactl\n\
         fish:  aeternactl completions fish > /usr/share/fish/vendor_completions.d/aeternactl.fish\n\
         The scripts call \"aeternactl completions units\" for the names of the units.",
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
