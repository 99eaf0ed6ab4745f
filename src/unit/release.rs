//! `[Service] Release`: the name of what is deployed, and the places in a unit that say it.

use super::{AnalysisKind, Check, Command, Unit};

/// A place in a unit that names a file which is not a command's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The key that says it.
    pub key: &'static str,
    /// The whole word.
    pub word: String,
    /// The absolute path in it.
    pub path: String,
    /// Whether it is an argument of `ExecStart`.
    pub is_argument: bool,
}

/// The unit with `real` wherever its commands, `WorkingDirectory`, `Environment`, `EnvironmentFile` and `BinaryPath` say
/// `name`. Addresses, `WatchPaths`, streams, `OnSuccess` and `OnFailure` keep the name.
pub fn bind(unit: &Unit, name: &str, real: &str) -> Unit {
    let mut bound = unit.clone();
    let service = &mut bound.service;
    let lists = [
        &mut service.exec_start,
        &mut service.exec_start_pre,
        &mut service.exec_start_post,
        &mut service.exec_stop,
        &mut service.exec_stop_post,
        &mut service.exec_reload,
    ];
    let hooks = bound.reload.pre_flight.iter_mut().map(|hook| &mut hook.exec);
    let health = bound.health.as_mut().and_then(|health| match &mut health.check {
        Check::Exec(command) => Some(command),
        Check::HttpGet(_) | Check::TcpConnect(_) => None,
    });
    let checks = bound.analysis.iter_mut().flat_map(|analysis| analysis.checks.iter_mut());
    let checks = checks.filter_map(|check| match &mut check.kind {
        AnalysisKind::Exec(command) => Some(command),
        AnalysisKind::Share { .. } | AnalysisKind::Latency { .. } | AnalysisKind::Value { .. } => None,
    });
    for command in lists.into_iter().flatten().chain(hooks).chain(health).chain(checks) {
        bind_command(command, name, real);
    }
    if let Some(folder) = &mut service.working_directory {
        put(&mut folder.path, name, real);
    }
    for (_, value) in &mut service.environment {
        // Nothing in the real name stands for a variable.
        put(value, name, &real.replace("${", "$${"));
    }
    for file in &mut service.environment_file {
        put(&mut file.path, name, real);
    }
    if let Some(path) = &mut bound.reload.binary_path {
        put(path, name, real);
    }
    bound
}

fn bind_command(command: &mut Command, name: &str, real: &str) {
    let plain = real.replace('$', "$$");
    for (index, word) in command.argv.iter_mut().enumerate() {
        put(word, name, if command.expand && index > 0 { &plain } else { real });
    }
    if let Some(own) = &mut command.argv0 {
        put(own, name, real);
    }
}

fn put(text: &mut String, name: &str, real: &str) {
    if let Some(bound) = replaced(text, name, real) {
        *text = bound;
    }
}

/// The text with `real` for each `name` that is a whole path or the beginning of one; `None` if there is none.
fn replaced(text: &str, name: &str, real: &str) -> Option<String> {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let mut out = String::new();
    let mut done = 0;
    for (at, _) in text.match_indices(name) {
        let end = at + name.len();
        let before = text[..at].chars().next_back().is_some_and(|c| part(c) || c == '/');
        let after = text[end..].chars().next().is_some_and(part);
        if at < done || before || after {
            continue;
        }
        out.push_str(&text[done..at]);
        out.push_str(real);
        done = end;
    }
    if done == 0 {
        return None;
    }
    out.push_str(&text[done..]);
    Some(out)
}

/// The files that the arguments of `ExecStart` and the values of `Environment` name by absolute paths.
pub fn named_files(unit: &Unit) -> Vec<Named> {
    let mut found = Vec::new();
    let mut add = |key, word: &str, is_argument| {
        for path in paths(word) {
            found.push(Named { key, word: word.to_owned(), path: path.to_owned(), is_argument });
        }
    };
    for command in &unit.service.exec_start {
        command.argv.iter().skip(1).for_each(|word| add("ExecStart", word, true));
    }
    for (_, value) in &unit.service.environment {
        add("Environment", value, false);
    }
    found
}

/// The absolute paths in a word: those that begin it, or that follow one of `=:,;"'` or white space.
fn paths(word: &str) -> Vec<&str> {
    let between = |c: char| c.is_whitespace() || "=:,;\"'()".contains(c);
    word.split(between)
        .filter(|part| part.starts_with('/') && part.len() > 1 && !part.contains('$'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Context, parse, print};
    use super::*;

    #[test]
    fn a_name_is_replaced_where_it_is_whole_components() {
        for (text, expected) in [
            ("/srv/app/current", "/r/41"),
            ("/srv/app/current/bin/app", "/r/41/bin/app"),
            ("--conf=/srv/app/current/x", "--conf=/r/41/x"),
            ("/srv/app/current/a.jar:/srv/app/current/b.jar", "/r/41/a.jar:/r/41/b.jar"),
            ("cd /srv/app/current && ./run", "cd /r/41 && ./run"),
            ("'/srv/app/current'", "'/r/41'"),
            ("@/srv/app/current/x", "@/r/41/x"),
        ] {
            assert_eq!(replaced(text, "/srv/app/current", "/r/41").as_deref(), Some(expected), "{text}");
        }
        for text in [
            "/srv/app/current.old",
            "/srv/app/current-2/x",
            "/srv/app/currently",
            "/srv/app/currenté",
            "/mnt/srv/app/current",
            "x/srv/app/current",
            "/srv/app//current",
            "",
        ] {
            assert_eq!(replaced(text, "/srv/app/current", "/r/41"), None, "{text}");
        }
        assert_eq!(replaced("/a/a", "/a", "/b").as_deref(), Some("/b/a"));
    }

    const UNIT: &str = r#"
[[Socket]]
ListenStream = "/srv/app/current/sock"
[Service]
Release = "/srv/app/current/"
ExecStart = ["/srv/app/current/bin/app", "-c", "/srv/app/current/conf"]
ExecStartPre = "/srv/app/current/pre"
ExecStartPost = "/srv/app/current/post"
ExecStop = "/srv/app/current/stop"
ExecStopPost = "@/srv/app/current/after /srv/app/current/own /srv/app/current/word"
ExecReload = ":/bin/kill /srv/app/current/x"
WorkingDirectory = "/srv/app/current"
EnvironmentFile = ["/srv/app/current/env", "-/etc/app"]
Environment = { ROOT = "/srv/app/current", HOME = "/srv/app" }
StandardOutput = "append:/srv/app/current/log"
[State]
Enabled = true
SocketPath = "/srv/app/current/state"
[Reload]
PreFlight = { Exec = "/srv/app/current/check" }
OnSuccess = { Exec = "/srv/app/current/ok" }
OnFailure = { Exec = "/srv/app/current/bad" }
WatchPaths = ["/srv/app/current"]
BinaryPath = "/srv/app/current/bin/app"
[HealthCheck]
Exec = "/srv/app/current/health"
[Analysis]
Check = { Name = "a", Exec = "/srv/app/current/judge" }
"#;

    fn unit(text: &str) -> Unit {
        let context =
            Context { stem: "app".into(), file: String::new(), runtime_dir: "/run/a".into(), pid1: false };
        parse(text, &context).unwrap().unit
    }

    #[test]
    fn what_is_run_is_bound_and_what_others_look_at_is_not() {
        let plain = unit(UNIT);
        assert_eq!(plain.service.release.as_deref(), Some("/srv/app/current"));
        let bound = print(&bind(&plain, "/srv/app/current", "/r/4$1"));
        let kept: Vec<&str> =
            bound.lines().filter(|line| line.contains("/srv/app/current")).map(str::trim).collect();
        let keys: Vec<&str> = kept.iter().filter_map(|line| line.split(" = ").next()).collect();
        assert_eq!(
            keys,
            ["ListenStream", "Release", "StandardOutput", "WatchPaths", "Exec", "Exec", "SocketPath"],
            "{bound}"
        );
        assert_eq!(bound.matches("/r/4").count(), 16, "{bound}");
        // A dollar in a real name is none of a variable.
        let bound = bind(&plain, "/srv/app/current", "/r/4$1");
        assert_eq!(bound.service.exec_start[0].argv, ["/r/4$1/bin/app", "-c", "/r/4$$1/conf"]);
        assert_eq!(bound.service.exec_reload[0].argv, ["/bin/kill", "/r/4$1/x"]);
    }

    #[test]
    fn files_that_arguments_and_values_name_are_found() {
        let found = named_files(&unit(
            "[Service]\nExecStart = ['/usr/bin/java', '-cp', '/a/x.jar:/b/y.jar', '--conf=/c/d', '${ROOT}/e', 'f']\n\
             Environment = { ROOT = '/g', N = 'http://h/i' }\n",
        ));
        let paths: Vec<(&str, &str, bool)> =
            found.iter().map(|one| (one.key, one.path.as_str(), one.is_argument)).collect();
        assert_eq!(
            paths,
            [
                ("ExecStart", "/a/x.jar", true),
                ("ExecStart", "/b/y.jar", true),
                ("ExecStart", "/c/d", true),
                ("Environment", "/g", false),
                ("Environment", "//h/i", false),
            ]
        );
    }
}
