//! Unit files against golden files: what a good one means (`.show`, `.warn`), what is wrong with a bad one (`.err`).
//!
//! `UPDATE_GOLDEN=1 cargo test --test it unit_files` writes the golden files anew; the diff is for a person to read.

use aeterna::unit::{Context, Diagnostic, keys, parse, print};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The context of a golden file; one whose stem ends with `-pid1` is read as PID 1 reads it.
fn context(path: &Path) -> Context {
    let stem = path.file_stem().unwrap().to_str().unwrap().to_string();
    let pid1 = stem.ends_with("-pid1");
    let file = path.file_name().unwrap().to_str().unwrap().to_string();
    Context { stem, file, runtime_dir: "/run/aeterna".into(), pid1 }
}

fn unit_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unit").join(folder);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

fn lines(findings: &[Diagnostic]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// Compares with the golden file; an empty text has none.
fn golden(path: &Path, extension: &str, found: &str, failures: &mut Vec<String>) {
    let golden = path.with_extension(extension);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if found.is_empty() {
            let _ = fs::remove_file(&golden);
        } else {
            fs::write(&golden, found).unwrap();
        }
        return;
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    if expected != found {
        failures.push(format!("{}:\n--- expected\n{expected}--- found\n{found}", golden.display()));
    }
}

#[test]
fn good_units_mean_what_their_golden_files_say() {
    let mut failures = Vec::new();
    let files = unit_files("good");
    assert!(files.len() >= 12, "{} good units", files.len());
    for path in files {
        let context = context(&path);
        let parsed = parse(&fs::read_to_string(&path).unwrap(), &context)
            .unwrap_or_else(|errors| panic!("{}:\n{}", path.display(), lines(&errors)));
        let shown = print(&parsed.unit);
        golden(&path, "show", &shown, &mut failures);
        golden(&path, "warn", &lines(&parsed.warnings), &mut failures);
        let again = parse(&shown, &context)
            .unwrap_or_else(|errors| panic!("{}:\n{}", path.display(), lines(&errors)));
        assert_eq!(again.unit, parsed.unit, "{}", path.display());
        assert_eq!(print(&again.unit), shown, "{}", path.display());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn bad_units_get_exactly_their_messages() {
    let mut failures = Vec::new();
    let files = unit_files("bad");
    assert!(files.len() >= 40, "{} bad units", files.len());
    for path in files {
        match parse(&fs::read_to_string(&path).unwrap(), &context(&path)) {
            Ok(parsed) => failures.push(format!("{}: is good:\n{}", path.display(), print(&parsed.unit))),
            Err(errors) => golden(&path, "err", &lines(&errors), &mut failures),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn no_golden_file_is_left_over() {
    for (folder, extensions) in [("good", vec!["show", "warn"]), ("bad", vec!["err"])] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unit").join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().unwrap().to_str().unwrap();
            assert!(extension == "toml" || extensions.contains(&extension), "{}", path.display());
            assert!(path.with_extension("toml").exists(), "{} has no unit", path.display());
        }
    }
}

/// A valid unit that has `line` under the heading of `table`.
fn with_line(table: &str, line: &str) -> String {
    let mut text = String::from("[[Socket]]\nListenStream = 8080\n\n[Service]\nExecStart = \"/bin/app\"\n\n");
    match table {
        "[Service]" => text.push_str(&format!("{line}\n")),
        "[[Socket]]" => text = text.replace("8080\n", &format!("8080\n{line}\n")),
        _ => text.push_str(&format!("{table}\n{line}\n")),
    }
    text
}

#[test]
fn every_key_refuses_what_it_cannot_read() {
    for (table, key) in keys() {
        // No key of any table takes a date.
        let line = format!("{key} = 1979-05-27");
        let text = with_line(table, &line);
        let at = text.lines().position(|candidate| candidate == line).unwrap() + 1;
        let errors = parse(&text, &context(Path::new("app.toml"))).expect_err(&text);
        let here: Vec<&Diagnostic> =
            errors.iter().filter(|error| error.line == at && error.column == key.len() + 4).collect();
        let duplicate = errors.iter().any(|error| error.message.contains("there twice"));
        assert!(!here.is_empty() || duplicate, "{table} {key}:\n{}", lines(&errors));
        for error in here {
            assert!(error.message.contains("1979-05-27"), "{table} {key}: {error}");
        }
    }
}

#[test]
fn printing_shows_every_key_there_is() {
    let text = "[[Socket]]\nListenStream = 1\nListenDatagram = 2\nListenSequentialPacket = '/s'\nListenFIFO = '/f'\n\
                ListenNetlink = 'route'\n[Service]\nExecStart = '/bin/a'\n[[Reload.PreFlight]]\nExec = '/bin/b'\n\
                [[Reload.OnSuccess]]\nExec = '/bin/c'\n[[Reload.OnFailure]]\nExec = '/bin/d'\n[State]\nEnabled = true\n";
    let mut shown = BTreeSet::new();
    let kinds = [
        ("HttpGet = 'http://127.0.0.1/'", "Bad = 'a'\nOf = 'b'"),
        ("TcpConnect = 80", "Histogram = 'a'"),
        ("Exec = '/bin/e'", "Value = '@tasks'\nMax = 3"),
        ("Exec = '/bin/e'", "Exec = '/bin/f'"),
    ];
    for (check, judged) in kinds {
        let text = format!(
            "{text}[HealthCheck]\n{check}\n[Analysis]\nHttpGet = 'http://127.0.0.1/'\n[[Analysis.Check]]\nName = 'a'\n{judged}\n"
        );
        let unit = parse(&text, &context(Path::new("app.toml"))).unwrap().unit;
        let mut table = String::new();
        for line in print(&unit).lines() {
            if line.starts_with('[') {
                table = line.to_string();
            } else if let Some(key) =
                line.trim_start_matches("# ").split(' ').next().filter(|key| !key.is_empty())
            {
                shown.insert((table.clone(), key.to_string()));
            }
        }
    }
    // Hooks that are there stand in tables of their own.
    for key in ["PreFlight", "OnSuccess", "OnFailure"] {
        shown.insert(("[Reload]".into(), key.into()));
    }
    shown.insert(("[Analysis]".into(), "Check".into()));
    let known: BTreeSet<(String, String)> =
        keys().into_iter().map(|(table, key)| (table.to_string(), key.to_string())).collect();
    assert_eq!(shown, known);
    assert_eq!(known.len(), keys().len(), "a key is there twice");
}

/// Some text that looks like a unit file, or like anything.
fn arbitrary_text() -> impl Strategy<Value = String> {
    let tables = keys().into_iter().map(|(table, _)| table.to_string()).collect::<Vec<_>>();
    let names = keys().into_iter().map(|(_, key)| key.to_string()).collect::<Vec<_>>();
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        "[ -~]{0,20}".prop_map(|text| format!("'{}'", text.replace('\'', ""))),
        "\"[a-zA-Z0-9:/%@$ \\[\\]._-]{0,20}\"",
        "\\[\"[a-z/%-]{0,6}\", [0-9]{1,4}\\]",
        "\\{ [A-Za-z]{1,8} = [0-9]{1,3} \\}",
        any::<String>(),
    ];
    let line = prop_oneof![
        3 => (prop::sample::select(names), value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => prop::sample::select(tables),
        1 => any::<String>(),
    ];
    prop::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

/// A golden unit with a few characters changed.
fn mutated_unit() -> impl Strategy<Value = String> {
    let texts: Vec<String> = ["good", "bad"]
        .iter()
        .flat_map(|f| unit_files(f))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let edit = (
        any::<prop::sample::Index>(),
        prop_oneof!["[\"'\\[\\]{}=%$\\\\\n0-9a-zé]{0,3}", any::<String>()],
        0..4usize,
    );
    (prop::sample::select(texts), prop::collection::vec(edit, 0..4)).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (index, insert, remove) in edits {
            let at = index.index(chars.len() + 1);
            let end = (at + remove).min(chars.len());
            chars.splice(at..end, insert.chars());
        }
        chars.into_iter().collect()
    })
}

/// What holds for any text: it is a unit that prints as itself, or has errors in order and inside the text.
fn check_any(text: &str) {
    let context = context(Path::new("app.toml"));
    match parse(text, &context) {
        Ok(parsed) => {
            let shown = print(&parsed.unit);
            let again = parse(&shown, &context)
                .unwrap_or_else(|errors| panic!("{text}\n{shown}\n{}", lines(&errors)));
            assert_eq!(again.unit, parsed.unit, "{shown}");
            if parsed.warnings.is_empty() {
                assert!(again.warnings.is_empty(), "{shown}\n{}", lines(&again.warnings));
            }
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            let places: Vec<(usize, usize)> = errors.iter().map(|error| (error.line, error.column)).collect();
            assert!(places.is_sorted(), "{places:?}");
            for error in errors {
                assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}");
                let line =
                    text.split('\n').nth(error.line - 1).unwrap_or_else(|| panic!("{error} in {text:?}"));
                assert!(error.column >= 1 && error.column <= line.chars().count() + 1, "{error} in {text:?}");
            }
        }
    }
}

/// Values that each key takes; together they are valid in any combination.
const VALUES: &[(&str, &str, &[&str])] = &[
    ("[Unit]", "Name", &["'app'", "'a@b'"]),
    ("[Unit]", "Description", &[TEXT]),
    (
        "[[Socket]]",
        "ListenStream",
        &["8080", "['127.0.0.1:1', '[::1]:2', '[fe80::1]:3%eth0', 'vsock:1:2']", "'@a%%b'"],
    ),
    ("[[Socket]]", "ListenDatagram", &["9090", "['/run/d', '[::]:7']"]),
    ("[[Socket]]", "ListenSequentialPacket", &["'/run/s'", "'@s'"]),
    ("[[Socket]]", "ListenFIFO", &["'/run/f'"]),
    ("[[Socket]]", "ListenNetlink", &["'route'", "'kobject-uevent 3'"]),
    ("[[Socket]]", "FileDescriptorName", &["'web'", "'a b%%c'"]),
    ("[[Socket]]", "Backlog", &["0", "4294967295"]),
    ("[[Socket]]", "BindIPv6Only", &["'default'", "'both'", "'ipv6-only'"]),
    ("[[Socket]]", "ReusePort", FLAG),
    ("[[Socket]]", "FreeBind", FLAG),
    ("[[Socket]]", "Transparent", FLAG),
    ("[[Socket]]", "BindToDevice", &["'eth0'"]),
    ("[[Socket]]", "NoDelay", FLAG),
    ("[[Socket]]", "DeferAcceptSec", &["0", "'1s'", "2147483647"]),
    ("[[Socket]]", "KeepAlive", FLAG),
    ("[[Socket]]", "KeepAliveTimeSec", &["'1ns'", "32767"]),
    ("[[Socket]]", "KeepAliveIntervalSec", &["75"]),
    ("[[Socket]]", "KeepAliveProbes", &["1", "127"]),
    ("[[Socket]]", "Priority", &["0", "2147483647"]),
    ("[[Socket]]", "Mark", &["0xffffffff"]),
    ("[[Socket]]", "IPTOS", &["0", "255", "'low-cost'"]),
    ("[[Socket]]", "IPTTL", &["1", "255"]),
    ("[[Socket]]", "ReceiveBuffer", &["1", "'64K'"]),
    ("[[Socket]]", "SendBuffer", &["2147483647"]),
    ("[[Socket]]", "PipeSize", &["'1M'"]),
    ("[[Socket]]", "SocketProtocol", &["'mptcp'", "'sctp'"]),
    ("[[Socket]]", "TCPCongestion", &["'bbr'"]),
    ("[[Socket]]", "PassCredentials", FLAG),
    ("[[Socket]]", "SocketUser", &["'root'", "0"]),
    ("[[Socket]]", "SocketGroup", &["'root'", "'0'"]),
    ("[[Socket]]", "SocketMode", &["'0'", "'7777'", "0o600"]),
    ("[[Socket]]", "DirectoryMode", &["'0750'"]),
    ("[[Socket]]", "Symlinks", &["[]"]),
    ("[[Socket]]", "RemoveOnStop", FLAG),
    ("[[Socket]]", "Accept", &["false"]),
    ("[[Socket]]", "MaxConnections", &["1", "4294967295"]),
    ("[[Socket]]", "MaxConnectionsPerSource", &["0", "5"]),
    ("[[Socket]]", "FlushPending", FLAG),
    ("[[Socket]]", "TriggerLimitIntervalSec", TIME),
    ("[[Socket]]", "TriggerLimitBurst", &["0", "7"]),
    ("[[Socket]]", "Sharing", &["'auto'", "'shared'"]),
    ("[[Socket]]", "FlowBy", &["'address'", "'tag'"]),
    ("[[Socket]]", "FlowTimeoutSec", &["'1s'", "3600"]),
    ("[[Socket]]", "FlowsMax", &["1024", "1048576"]),
    ("[Service]", "ExecStart", &["'/bin/a'", "['/bin/a', 'b c', '', '%%', '$$']", "'@-:a b c'"]),
    ("[Service]", "ExecStartPre", COMMANDS),
    ("[Service]", "ExecStartPost", COMMANDS),
    ("[Service]", "ExecStop", COMMANDS),
    ("[Service]", "ExecStopPost", COMMANDS),
    ("[Service]", "ExecReload", COMMANDS),
    ("[Service]", "Type", &["'simple'", "'exec'", "'notify'", "'notify-reload'"]),
    ("[Service]", "NotifyAccess", &["'none'", "'main'", "'exec'", "'all'"]),
    ("[Service]", "StartOn", &["'boot'", "'connection'"]),
    ("[Service]", "StopWhenIdleSec", &["'infinity'"]),
    ("[Service]", "Workers", &["1", "4096"]),
    ("[Service]", "SocketEnvironment", &["'nginx'", "['einhorn', 'php-fpm', 'server-starter']"]),
    ("[Service]", "InterceptBind", FLAG),
    ("[Service]", "NonBlocking", FLAG),
    ("[Service]", "FileDescriptorStoreMax", &["0", "100"]),
    (
        "[Service]",
        "Restart",
        &["'no'", "'always'", "'on-success'", "'on-failure'", "'on-abnormal'", "'on-abort'", "'on-watchdog'"],
    ),
    ("[Service]", "RestartSec", TIME),
    ("[Service]", "RestartSteps", &["0", "9"]),
    ("[Service]", "RestartMaxDelaySec", TIME),
    ("[Service]", "StartLimitIntervalSec", TIME),
    ("[Service]", "StartLimitBurst", &["0", "1"]),
    ("[Service]", "SuccessExitStatus", STATUS),
    ("[Service]", "RestartPreventExitStatus", STATUS),
    ("[Service]", "RestartForceExitStatus", STATUS),
    ("[Service]", "TimeoutStartSec", &["0", "'1min'", "'infinity'"]),
    ("[Service]", "TimeoutStopSec", TIME),
    ("[Service]", "WatchdogSec", TIME),
    ("[Service]", "WatchdogSignal", SIGNAL),
    ("[Service]", "KillMode", &["'control-group'", "'mixed'", "'process'"]),
    ("[Service]", "KillSignal", SIGNAL),
    ("[Service]", "FinalKillSignal", SIGNAL),
    ("[Service]", "SendSIGKILL", FLAG),
    ("[Service]", "SendSIGHUP", FLAG),
    ("[Service]", "User", &["'app'", "1000"]),
    ("[Service]", "Group", &["'app'"]),
    ("[Service]", "SupplementaryGroups", &["[]", "'a'", "['a', 5]"]),
    ("[Service]", "Release", &["'/srv/app/current'", "'/x y//'"]),
    ("[Service]", "WorkingDirectory", &["'~'", "'-~'", "'/x y'", "'-/x'"]),
    ("[Service]", "UMask", &["'0777'", "'0'"]),
    ("[Service]", "RuntimeDirectory", &["'a b/c'", "[]"]),
    ("[Service]", "Environment", &["{}", "{ A = 1, B = TEXT }", "'A=b \"C=d e\"'", "['A=b c', 'A=d']"]),
    ("[Service]", "EnvironmentFile", &["'/a'", "['-/a', '/b%%']"]),
    ("[Service]", "PassEnvironment", &["[]", "'A B'"]),
    ("[Service]", "UnsetEnvironment", &["['A', 'B=c d']"]),
    ("[Service]", "StandardInput", &["'null'", "'inherit'", "'socket'", "'file:/a%%b'"]),
    ("[Service]", "StandardOutput", &["'inherit'", "'null'", "'log'", "'file:/a b'"]),
    ("[Service]", "StandardError", &["'append:/%n'"]),
    ("[Service]", "LimitCPU", &["'1min:infinity'", "3"]),
    ("[Service]", "LimitFSIZE", LIMIT),
    ("[Service]", "LimitDATA", LIMIT),
    ("[Service]", "LimitSTACK", LIMIT),
    ("[Service]", "LimitCORE", LIMIT),
    ("[Service]", "LimitRSS", LIMIT),
    ("[Service]", "LimitNOFILE", LIMIT),
    ("[Service]", "LimitAS", LIMIT),
    ("[Service]", "LimitNPROC", LIMIT),
    ("[Service]", "LimitMEMLOCK", LIMIT),
    ("[Service]", "LimitLOCKS", LIMIT),
    ("[Service]", "LimitSIGPENDING", LIMIT),
    ("[Service]", "LimitMSGQUEUE", LIMIT),
    ("[Service]", "LimitNICE", &["'-5'", "'+19'", "40"]),
    ("[Service]", "LimitRTPRIO", LIMIT),
    ("[Service]", "LimitRTTIME", &["5", "'1s'"]),
    ("[Service]", "Nice", &["-20", "19"]),
    ("[Service]", "OOMScoreAdjust", &["-1000", "1000"]),
    ("[Service]", "MemoryMax", &["'512M'", "1073741824", "'25%'", "'infinity'"]),
    ("[Service]", "MemoryHigh", &["'12.5%'"]),
    ("[Service]", "MemorySwapMax", &["0", "'0'"]),
    ("[Service]", "TasksMax", &["512", "'10%'", "'infinity'"]),
    ("[Service]", "CPUWeight", &["1", "10000"]),
    ("[Service]", "CPUQuota", &["'150%'", "'0.5%'"]),
    ("[Service]", "OOMPolicy", &["'continue'", "'stop'", "'kill'"]),
    ("[Service]", "CPUAffinity", &["0", "'0-3,5'", "[1, '3-4']", "[]"]),
    ("[Service]", "NoNewPrivileges", FLAG),
    ("[Service]", "IgnoreSIGPIPE", FLAG),
    ("[Reload]", "Strategy", &["'canary'", "'immediate'", "'replace'", "'signal'"]),
    (
        "[Reload]",
        "PreFlight",
        &[
            "[]",
            "{ Exec = '-/bin/a %%' }",
            "[{ Name = TEXT, Exec = ['a'], Timeout = 1, BlockOnFail = false }]",
        ],
    ),
    ("[Reload]", "WarmupDelay", &["'1ms'", "0"]),
    ("[Reload]", "SoakTime", TIME),
    ("[Reload]", "CanaryWeight", &["0", "100", "[1, 10, 50]", "[10]"]),
    ("[Reload]", "CanaryBy", &["'client'", "'connection'"]),
    ("[Reload]", "DrainTimeout", TIME),
    ("[Reload]", "ReloadSignal", SIGNAL),
    ("[Reload]", "OnSuccess", &["[{ Exec = '/a' }, { Exec = '/b' }]"]),
    ("[Reload]", "OnFailure", &["[{ Exec = ['/a', TEXT] }]"]),
    ("[Reload]", "WatchPaths", &["[]", "'/a'", "['/a', '/%%']"]),
    ("[Reload]", "WatchDebounce", TIME),
    ("[Reload]", "KeepReleases", &["0", "32"]),
    ("[Reload]", "BinaryPath", &["'/a'"]),
    ("[Reload]", "BinarySHA256", &["'ABCDEFabcdef00000000000000000000000000000000000000000000000000ff'"]),
    (
        "[Analysis]",
        "HttpGet",
        &["'http://127.0.0.1:9100/metrics'", "'unix:/run/m-${AETERNA_GENERATION}.sock:/metrics'"],
    ),
    ("[Analysis]", "HttpHost", &["'shop.example:8080'"]),
    ("[Analysis]", "Interval", &["'100ms'", "5"]),
    ("[Analysis]", "Timeout", &["'500ms'"]),
    ("[Analysis]", "FailureThreshold", &["1", "7"]),
    ("[Analysis]", "Inconclusive", &["'promote'", "'rollback'"]),
    ("[Analysis]", "SoakTimeMax", &["'infinity'"]),
    (
        "[Analysis]",
        "Check",
        &[
            "{ Name = 'a', Exec = '/bin/a' }",
            "[{ Name = 'a', Value = '@cpu_seconds / @connections', MaxRelative = 3 }, { Name = 'b', Value = '@tasks', Max = 1.5, InitialDelay = 0, BlockOnFail = false }]",
        ],
    ),
    ("[HealthCheck]", "HttpHost", &["'shop.example'", "'[::1]:80'"]),
    ("[HealthCheck]", "Interval", &["1", "'1ms'"]),
    ("[HealthCheck]", "Timeout", &["'infinity'"]),
    ("[HealthCheck]", "InitialDelay", &["'100ms'"]),
    ("[HealthCheck]", "SuccessThreshold", &["1", "9"]),
    ("[HealthCheck]", "FailureThreshold", &["1"]),
    ("[HealthCheck]", "ExpectStatus", &["200", "['200-299', 404]", "'100-599'"]),
    ("[HealthCheck]", "Always", FLAG),
    ("[State]", "Enabled", FLAG),
    ("[State]", "SocketPath", &["'/run/a.sock'", "'%t/b%%'"]),
    ("[State]", "Timeout", &["'10s'", "1"]),
    ("[State]", "Required", FLAG),
    ("[State]", "MaxBytes", &["1", "'16M'", "'8G'"]),
    ("[State]", "Descriptor", FLAG),
    ("[State]", "Signal", SIGNAL),
    ("[Daemon]", "Http", &["'127.0.0.1:9091'", "'9091'", "'/run/a%%b.sock'"]),
    ("[Daemon]", "HttpTokenFile", &["'/a%%b'"]),
    ("[Daemon]", "LogLevel", &["'error'", "'warn'", "'info'", "'debug'", "'trace'"]),
    ("[Daemon]", "LogFormat", &["'text'", "'json'"]),
    ("[Daemon]", "StopDelaySec", TIME),
];
/// Stands for any text.
const TEXT: &str = "TEXT";
const FLAG: &[&str] = &["true", "false"];
const TIME: &[&str] = &["0", "5", "'1min 30s'", "'1500us'", "'infinity'", "'3w 1ns'"];
const SIGNAL: &[&str] = &["'SIGTERM'", "'INT'", "64", "'RTMIN+2'", "33"];
const LIMIT: &[&str] = &["0", "'infinity'", "'1:2'", "'1:infinity'"];
const STATUS: &[&str] = &["0", "'TEMPFAIL SIGTERM 3'", "[1, 'KILL', 'RTMAX']", "[]"];
const COMMANDS: &[&str] =
    &["[]", "'-/bin/a \"b c\" %n'", "[['a', 'b'], '@c d e']", "[['-a', 'b'], [':/c', '$d']]"];

/// What a `[HealthCheck]` checks: one of these.
const CHECKS: &[&str] = &[
    "HttpGet = 'http://localhost:1/%20'",
    "HttpGet = 'unix:%t/a:/b%%'",
    "TcpConnect = '[::1]:3'",
    "TcpConnect = '/a%%b'",
    "Exec = ['a', '%%']",
];

/// A text that is a valid unit, with any subset of the keys.
fn valid_unit() -> impl Strategy<Value = String> {
    let rows: Vec<_> = VALUES
        .iter()
        .map(|(_, _, values)| prop::option::weighted(0.4, prop::sample::select(*values)))
        .collect();
    let text = any::<String>().prop_map(|text| {
        let text: String = text.chars().filter(|c| *c != '\0').collect();
        let escaped: String =
            text.replace('%', "%%").chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
        format!("\"x{escaped}\"")
    });
    let check = prop::option::of(prop::sample::select(CHECKS));
    (rows, text, check).prop_map(|(rows, text, check)| {
        let mut out = String::new();
        let mut heading = "";
        for ((table, key, _), value) in VALUES.iter().zip(rows) {
            if *table == "[HealthCheck]" && check.is_none() {
                continue;
            }
            if *table != heading {
                heading = table;
                out.push_str(&format!("{table}\n"));
                out.push_str(
                    &check
                        .filter(|_| *table == "[HealthCheck]")
                        .map(|c| format!("{c}\n"))
                        .unwrap_or_default(),
                );
            }
            let needed = match *key {
                "ExecStart" => Some("'/bin/a'"),
                "ListenStream" => Some("8081"),
                "Check" => Some("{ Name = 'a', Exec = ['/bin/a'] }"),
                _ => None,
            };
            if let Some(value) = value.or(needed) {
                out.push_str(&format!("{key} = {}\n", value.replace(TEXT, &text)));
            }
        }
        out
    })
}

#[test]
fn every_key_has_values_to_try() {
    let tried: BTreeSet<(&str, &str)> = VALUES.iter().map(|(table, key, _)| (*table, *key)).collect();
    let kinds = ["HttpGet", "TcpConnect", "Exec"].map(|key| ("[HealthCheck]", key));
    let known: BTreeSet<(&str, &str)> = keys()
        .into_iter()
        .filter(|(table, _)| !table.starts_with("[[Reload.") && !table.starts_with("[[Analysis."))
        .collect();
    assert_eq!(tried.into_iter().chain(kinds).collect::<BTreeSet<_>>(), known);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_unit_or_has_errors(text in arbitrary_text()) {
        check_any(&text);
    }

    #[test]
    fn any_valid_unit_prints_as_itself(text in valid_unit()) {
        if let Err(errors) = parse(&text, &context(Path::new("app.toml"))) {
            panic!("{text}\n{}", lines(&errors));
        }
        check_any(&text);
    }

    #[test]
    fn any_mutation_is_a_unit_or_has_errors(text in mutated_unit()) {
        check_any(&text);
    }
}
