//! What becomes of each option of systemd (systemd.socket(5), systemd.service(5), systemd.exec(5), systemd.kill(5)).

/// How a value is carried over. The key keeps its name unless [`Rule::Special`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A text; the last one counts, an empty one takes it back.
    Text,
    /// As text, but a whole number is a number.
    Number,
    /// `yes`, `no` and their like.
    Flag,
    /// Each assignment adds one, an empty one takes all back.
    Texts,
    /// Each assignment adds its words.
    Words,
    /// Each assignment adds commands.
    Commands,
    /// An address to listen on; an empty one takes back those of every kind.
    Listen,
    /// There is code of its own for it.
    Special,
    /// There is no equivalent: why, or what to do.
    Nothing(&'static str),
}

const SANDBOX: &str =
    "aeternad has no sandbox; run aeternad itself in one, or wrap the command (bwrap, setpriv)";
const ORDER: &str = "units do not wait for each other; what has to be there first belongs to the service that runs \
                     aeternad";
const CONDITION: &str = "a unit has no conditions; an ExecStartPre that fails keeps it from starting";
const CGROUP: &str = "of resource control there are MemoryMax, MemoryHigh, MemorySwapMax, TasksMax, CPUWeight, CPUQuota and \
                      OOMPolicy; give aeternad's own service or container the rest";
const FOLDER: &str = "aeternad makes no such folder; make it beforehand";
const NO_EQUIVALENT: &str = "aeternad has no equivalent";
const NO_SOCKET_OPTION: &str = "aeternad has no such option for a socket";
const SOCKET_COMMAND: &str =
    "sockets have no commands of their own; ExecStartPre of the service runs before it starts";

/// The rule for a key of a .service file's `[Service]`.
pub(super) fn of_service(key: &str) -> Rule {
    match key {
        "ExecStart" | "ExecStartPre" | "ExecStartPost" | "ExecStop" | "ExecStopPost" | "ExecReload" => {
            Rule::Commands
        }
        "Restart" | "RestartSec" | "RestartMaxDelaySec" | "TimeoutStartSec" | "TimeoutStopSec"
        | "WatchdogSec" | "WatchdogSignal" | "KillSignal" | "FinalKillSignal" | "NotifyAccess" | "User"
        | "Group" | "WorkingDirectory" | "UMask" => Rule::Text,
        "RestartSteps" | "Nice" | "OOMScoreAdjust" | "FileDescriptorStoreMax" => Rule::Number,
        "NonBlocking" | "SendSIGKILL" | "SendSIGHUP" | "NoNewPrivileges" | "IgnoreSIGPIPE" => Rule::Flag,
        "MemoryMax" | "MemoryHigh" | "MemorySwapMax" | "TasksMax" | "CPUQuota" => Rule::Text,
        "CPUWeight" => Rule::Number,
        "CPUAffinity" => Rule::Texts,
        "SupplementaryGroups"
        | "PassEnvironment"
        | "UnsetEnvironment"
        | "RuntimeDirectory"
        | "SuccessExitStatus"
        | "RestartPreventExitStatus"
        | "RestartForceExitStatus" => Rule::Words,
        "Type"
        | "KillMode"
        | "TimeoutSec"
        | "Environment"
        | "EnvironmentFile"
        | "ReloadSignal"
        | "StandardInput"
        | "StandardOutput"
        | "StandardError"
        | "StartLimitInterval"
        | "StartLimitIntervalSec"
        | "StartLimitBurst"
        | "BusName"
        | "OOMPolicy" => Rule::Special,
        _ if key.starts_with("Limit") => Rule::Text,
        _ => Rule::Nothing(why_not(key)),
    }
}

/// Why an option of `[Service]` has no equivalent.
fn why_not(key: &str) -> &'static str {
    match key {
        "PIDFile" => "aeternad starts the main process itself and needs no PID file",
        "RemainAfterExit" => "a unit whose process has ended is not running",
        "Sockets" => "name the .socket files on the command line",
        "ExecCondition" => CONDITION,
        "ExecSearchPath" => "programs are looked for in PATH: set it in [Service.Environment]",
        "RuntimeDirectoryMode" | "RuntimeDirectoryPreserve" => {
            "a RuntimeDirectory has the mode 0755 and belongs to the service's user"
        }
        "SyslogIdentifier"
        | "SyslogFacility"
        | "SyslogLevel"
        | "SyslogLevelPrefix"
        | "LogLevelMax"
        | "LogExtraFields"
        | "LogRateLimitIntervalSec"
        | "LogRateLimitBurst" => {
            "streams go where aeternad's own go; StandardOutput = \"log\" adds unit, generation and pid"
        }
        "Slice" | "Delegate" => CGROUP,
        "TimeoutAbortSec" => "after the watchdog's signal TimeoutStopSec counts",
        "RootDirectory" | "RootImage" => SANDBOX,
        _ if key.ends_with("Directory") || key.ends_with("DirectoryMode") => FOLDER,
        _ if is_sandbox(key) => SANDBOX,
        _ if is_cgroup(key) => CGROUP,
        _ if key.starts_with("TTY") => "aeternad gives no service a terminal",
        _ => NO_EQUIVALENT,
    }
}

fn is_sandbox(key: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "Protect",
        "Private",
        "Restrict",
        "SystemCall",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "Exec",
        "NoExec",
        "Bind",
        "Mount",
        "Capability",
        "Ambient",
        "Namespace",
        "Temporary",
        "AppArmor",
        "SELinux",
        "Smack",
        "LoadCredential",
        "SetCredential",
        "ImportCredential",
    ];
    const NAMES: &[&str] = &[
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "RemoveIPC",
        "SecureBits",
        "KeyringMode",
        "ProcSubset",
    ];
    NAMES.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

fn is_cgroup(key: &str) -> bool {
    const PREFIXES: &[&str] = &["Memory", "CPU", "IO", "BlockIO", "Tasks", "IPAddress", "Device", "Managed"];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Why an option of systemd's has no equivalent in the table that is written so; `None` of what is none of its options,
/// or nothing that there is a reason for.
pub(in crate::unit) fn reason(table: &str, key: &str) -> Option<&'static str> {
    let rule = match table {
        "[Unit]" => of_unit(key),
        "[[Socket]]" => of_socket(key),
        "[Service]" => of_service(key),
        _ => return None,
    };
    match rule {
        Rule::Nothing(why) if ![NO_EQUIVALENT, NO_SOCKET_OPTION].contains(&why) => Some(why),
        _ => None,
    }
}

/// The rule for a key of a .socket file's `[Socket]`.
pub(super) fn of_socket(key: &str) -> Rule {
    match key {
        "ListenStream" | "ListenDatagram" | "ListenSequentialPacket" | "ListenFIFO" | "ListenNetlink" => {
            Rule::Listen
        }
        "FileDescriptorName"
        | "BindToDevice"
        | "DeferAcceptSec"
        | "KeepAliveTimeSec"
        | "KeepAliveIntervalSec"
        | "SocketProtocol"
        | "TCPCongestion"
        | "SocketUser"
        | "SocketGroup"
        | "SocketMode"
        | "DirectoryMode"
        | "TriggerLimitIntervalSec" => Rule::Text,
        "Backlog"
        | "KeepAliveProbes"
        | "Priority"
        | "Mark"
        | "IPTOS"
        | "IPTTL"
        | "ReceiveBuffer"
        | "SendBuffer"
        | "PipeSize"
        | "MaxConnections"
        | "MaxConnectionsPerSource"
        | "TriggerLimitBurst" => Rule::Number,
        "ReusePort" | "FreeBind" | "Transparent" | "NoDelay" | "KeepAlive" | "PassCredentials"
        | "RemoveOnStop" | "Accept" | "FlushPending" => Rule::Flag,
        "Symlinks" => Rule::Words,
        "Service" | "BindIPv6Only" => Rule::Special,
        "ExecStartPre" | "ExecStartPost" | "ExecStopPre" | "ExecStopPost" | "TimeoutSec" => {
            Rule::Nothing(SOCKET_COMMAND)
        }
        "ListenSpecial" | "ListenMessageQueue" | "ListenUSBFunction" | "Writable" => {
            Rule::Nothing("aeternad holds sockets, FIFOs and netlink, nothing else")
        }
        "PollLimitIntervalSec" | "PollLimitBurst" => {
            Rule::Nothing("TriggerLimitIntervalSec and TriggerLimitBurst only pause here, as these do there")
        }
        _ => Rule::Nothing(NO_SOCKET_OPTION),
    }
}

/// The rule for a key of `[Unit]`. StartLimit… belongs to `[Service]` here.
pub(super) fn of_unit(key: &str) -> Rule {
    match key {
        "Description"
        | "Documentation"
        | "StartLimitInterval"
        | "StartLimitIntervalSec"
        | "StartLimitBurst" => Rule::Special,
        "After"
        | "Before"
        | "Wants"
        | "Requires"
        | "Requisite"
        | "BindsTo"
        | "PartOf"
        | "Upholds"
        | "Conflicts"
        | "DefaultDependencies"
        | "RequiresMountsFor"
        | "WantsMountsFor"
        | "PropagatesReloadTo"
        | "ReloadPropagatedFrom"
        | "PropagatesStopTo"
        | "StopPropagatedFrom"
        | "JoinsNamespaceOf"
        | "IgnoreOnIsolate"
        | "StopWhenUnneeded"
        | "RefuseManualStart"
        | "RefuseManualStop" => Rule::Nothing(ORDER),
        "OnFailure" | "OnSuccess" => {
            Rule::Nothing("[Reload] OnFailure and OnSuccess run commands, after reloads only")
        }
        "StartLimitAction" | "FailureAction" | "SuccessAction" => Rule::Nothing(
            "aeternad ends with the status of a single unit that has failed; a container sees that",
        ),
        _ if key.starts_with("Condition") || key.starts_with("Assert") => Rule::Nothing(CONDITION),
        _ => Rule::Nothing(NO_EQUIVALENT),
    }
}

/// The targets that are reached when the machine is up.
const BOOT: &[&str] =
    &["multi-user.target", "default.target", "graphical.target", "sockets.target", "basic.target"];

/// Whether one of the targets that want the unit is reached at each start.
pub(super) fn boots(key: &str, targets: &str) -> bool {
    ["WantedBy", "RequiredBy"].contains(&key)
        && targets.split_ascii_whitespace().any(|target| BOOT.contains(&target))
}

/// Whether an empty value is passed over (systemd reads these by a table of words, a number or a time): others are
/// taken back by it.
pub(super) fn keeps_what_was(key: &str) -> bool {
    key.starts_with("Limit")
        || key.ends_with("Sec")
        || [
            "Type",
            "Restart",
            "NotifyAccess",
            "KillMode",
            "KillSignal",
            "FinalKillSignal",
            "WatchdogSignal",
            "ReloadSignal",
            "RestartSteps",
            "StartLimitInterval",
            "StartLimitBurst",
            "FileDescriptorStoreMax",
            "NonBlocking",
            "SendSIGKILL",
            "SendSIGHUP",
            "IgnoreSIGPIPE",
        ]
        .contains(&key)
}

/// Why a target that wants the unit means nothing here; `None` if it means that the unit starts with aeternad.
pub(super) fn of_install(key: &str, value: &str) -> Option<&'static str> {
    match key {
        "WantedBy" | "RequiredBy" if value.split_ascii_whitespace().all(|target| BOOT.contains(&target)) => {
            None
        }
        "WantedBy" | "RequiredBy" | "UpheldBy" => {
            Some("there are no targets; a unit starts with aeternad or at the first connection (StartOn)")
        }
        "Alias" => Some("a unit has one name"),
        "Also" => Some("name the other files on the command line, or import them as units of their own"),
        _ => Some(NO_EQUIVALENT),
    }
}

/// systemd's truth values as TOML's; anything else as it is, for the parser to refuse.
pub(super) fn flag(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => "true".into(),
        "0" | "no" | "n" | "false" | "f" | "off" => "false".into(),
        _ => super::draft::toml_text(value),
    }
}
