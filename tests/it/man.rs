//! The manual says what the programs do: every option, command, key and default is there, and nothing else.

use crate::common;
use common::{AETERNACTL, AETERNAD, Env, Finished, repository, skip};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

const PAGES: [&str; 5] = ["aeternad.8", "aeternactl.1", "aeterna.unit.5", "aeterna.7", "aeterna-srp.7"];

fn page(name: &str) -> String {
    std::fs::read_to_string(repository().join("man").join(name)).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Finished {
    let env = Env::new();
    let mut command = env.command(program);
    command.args(arguments);
    env.finish(command)
}

/// Long options in a text that describes them: `--unit`.
fn long_options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let options = words.filter(|word| word.starts_with("--") && word.len() > 2);
    options.map(str::to_string).collect()
}

/// Long options that a page has an entry for: `.It Fl s , Fl -signal Ar SIGNAL`.
fn option_entries(page: &str) -> BTreeSet<String> {
    let entries = page.lines().filter(|line| line.starts_with(".It Fl"));
    let words = entries.flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('-')).map(|word| format!("-{word}")).collect()
}

/// The words after `.It MACRO`, by the page's `.Ss` and `.Sh` headings: (heading, words).
fn entries<'a>(page: &'a str, item: &str) -> Vec<(String, Vec<&'a str>)> {
    let mut heading = String::new();
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix(".Ss ").or_else(|| line.strip_prefix(".Sh ")) {
            heading = title.trim_end_matches("\\&").to_string();
        } else if let Some(rest) = line.strip_prefix(item) {
            found.push((heading.clone(), rest.split_whitespace().collect()));
        }
    }
    found
}

#[test]
fn every_option_of_aeternad_is_in_its_page_and_the_reverse() {
    let help = run(AETERNAD, &["--help"]);
    assert_eq!(help.code, 0, "{}", help.stderr);
    let described = help.stdout.split("Options:").nth(1).unwrap();
    assert_eq!(option_entries(&page("aeternad.8")), long_options(described));
}

#[test]
fn every_option_and_command_of_aeternactl_is_in_its_page_and_the_reverse() {
    let help = run(AETERNACTL, &["help"]);
    assert_eq!(help.code, 0, "{}", help.stderr);
    let list = help.stdout.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let commands: BTreeSet<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let text = page("aeternactl.1");
    let in_page: BTreeSet<&str> = entries(&text, ".It Ic ").into_iter().map(|(_, words)| words[0]).collect();
    assert_eq!(in_page, commands);
    let mut options = BTreeSet::new();
    for command in commands {
        let help = run(AETERNACTL, &["help", command]);
        let rows = help.stdout.lines().filter(|line| line.trim_start().starts_with('-'));
        // What an option does follows after two spaces, and may name others.
        options.extend(rows.flat_map(|row| long_options(row.trim().split("  ").next().unwrap())));
    }
    assert_eq!(option_entries(&text), options);
}

#[test]
fn every_exit_status_of_the_contract_is_in_the_pages() {
    for (name, statuses) in [
        ("aeternad.8", vec!["0", "1", "2", "69", "78"]),
        ("aeternactl.1", vec!["0", "1", "2", "3", "4", "5", "6", "78", "124"]),
    ] {
        let text = page(name);
        let items = entries(&text, ".It ").into_iter();
        let found: Vec<&str> = items.filter(|(h, _)| h == "EXIT STATUS").map(|(_, w)| w[0]).collect();
        assert_eq!(found, statuses, "{name}");
    }
}

#[test]
fn every_key_of_a_unit_is_in_the_manual_and_the_reverse() {
    let known: BTreeSet<(String, String)> =
        aeterna::unit::keys().into_iter().map(|(table, key)| (table.into(), key.into())).collect();
    let text = page("aeterna.unit.5");
    let listed: BTreeSet<(String, String)> =
        entries(&text, ".It Cm ").into_iter().map(|(table, words)| (table, words[0].to_string())).collect();
    let missing: Vec<_> = known.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&known).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}\nnot there: {invented:?}");
}

#[test]
fn the_manuals_defaults_are_the_defaults() {
    let env = Env::new();
    let unit = "[[Socket]]\nListenStream = 8080\n[Service]\nExecStart = '/bin/true'\n\
                [Reload]\n[HealthCheck]\nHttpGet = 'http://127.0.0.1:8080/'\n\
                [Analysis]\nHttpGet = 'http://127.0.0.1:8080/'\n[[Analysis.Check]]\nName = 'a'\nHistogram = 'b'\n";
    let path = env.unit("app", unit).display().to_string();
    let shown = env.daemon(&["--show", "--unit", &path]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let text = page("aeterna.unit.5");
    let stated: BTreeMap<(String, String), String> = entries(&text, ".It Cm ")
        .into_iter()
        .filter_map(|(table, words)| {
            let default = words.iter().position(|word| *word == "Pq").map(|at| words[at + 1..].join(" "))?;
            Some(((table, words[0].to_string()), default))
        })
        .collect();
    let real = defaults(&shown.stdout);
    assert!(real.len() > 60, "{real:?}");
    let different: Vec<_> = real
        .iter()
        .filter(|(key, value)| stated.get(key) != Some(value))
        .map(|(key, value)| format!("{key:?} is {value}, the page says {:?}", stated.get(key)))
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    let invented: Vec<_> = stated.keys().filter(|key| !real.contains_key(*key)).collect();
    assert!(invented.is_empty(), "the page gives a default to {invented:?}, which have none");
}

/// What `--show` prints of a unit that sets next to nothing: the values that nobody wrote.
fn defaults(shown: &str) -> BTreeMap<(String, String), String> {
    let written =
        ["Name", "Description", "ListenStream", "FileDescriptorName", "ExecStart", "HttpGet", "Histogram"];
    let mut table = String::new();
    let mut found = BTreeMap::new();
    for line in shown.lines() {
        if line.starts_with('[') {
            table = line.to_string();
        } else if let Some((key, value)) = line.split_once(" = ")
            && !line.starts_with('#')
            && !written.contains(&key)
        {
            let value = value.trim_matches(|c| "[]{}\"".contains(c));
            let value = if value.is_empty() { "none" } else { value };
            found.insert((table.clone(), key.to_string()), value.to_string());
        }
    }
    found
}

#[test]
fn the_pages_are_well_formed() {
    let Ok(lint) = Command::new("mandoc")
        .args(["-T", "lint"])
        .args(PAGES.map(|name| repository().join("man").join(name)))
        .output()
    else {
        return skip("mandoc is not installed");
    };
    let said = String::from_utf8_lossy(&lint.stdout);
    // Which other pages are installed is the machine's business, and so is what day it thinks it is.
    let machines = ["referenced manual not found", "date in the future"];
    let wrong: Vec<&str> =
        said.lines().filter(|line| !machines.iter().any(|about| line.contains(about))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_process_contract_names_every_variable_and_state() {
    const GIVEN: [&str; 8] =
        ["LISTEN_", "AETERNA_", "NOTIFY_", "WATCHDOG_", "SERVER_STARTER_", "EINHORN_", "NGINX", "FPM_"];
    // Given only at other launches than the one below.
    const ELSEWHERE: [&str; 6] = [
        "AETERNA_HANDOVER",
        "AETERNA_STATE_SOCK",
        "AETERNA_RELEASE_SERVING",
        "AETERNA_FD_NAME",
        "AETERNA_FD_NAME_2",
        "AETERNA_FLOW_TAG",
    ];
    let text = page("aeterna.7");
    let mut env = Env::new();
    let program = common::example("probe");
    let unit = format!(
        "[Socket]\nListenStream = '127.0.0.1:0'\nFileDescriptorName = 'http'\n\
         [Service]\nExecStart = ['{0}']\nRelease = '{0}'\nType = 'notify'\nWatchdogSec = '1h'\nWorkers = 2\n\
         SocketEnvironment = ['server-starter', 'einhorn', 'nginx', 'php-fpm']\n",
        program.display()
    );
    env.unit("app", &unit);
    env.start();
    env.wait_state("app", aeterna::proto::status::UnitState::Running);
    let report: serde_json::Value = serde_json::from_str(&env.get("app", "/report").body).unwrap();
    let names = report["env"].as_object().unwrap().keys().filter(|name| *name != "AETERNA_LOG");
    let given: BTreeSet<&str> = names
        .map(String::as_str)
        .filter(|name| GIVEN.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    assert!(given.len() > 15, "{given:?}");
    let missing: Vec<&&str> =
        given.iter().filter(|name| **name != "AETERNA_FD_http" && !text.contains(**name)).collect();
    assert!(missing.is_empty(), "aeterna(7) does not name {missing:?}");
    let words = text.lines().filter(|line| line.starts_with(".It Ev")).flat_map(str::split_whitespace);
    let listed = words.filter(|word| word.starts_with("AETERNA_") || word.starts_with("LISTEN_"));
    let invented: Vec<&str> =
        listed.filter(|word| !given.contains(word) && !ELSEWHERE.contains(word)).collect();
    assert!(invented.is_empty(), "nobody gives {invented:?}");
    for state in aeterna::proto::status::UnitState::ALL {
        assert!(text.contains(&format!(".It {}\n", state.name())), "aeterna(7) does not name {state:?}");
    }
}

#[test]
fn every_metric_is_in_the_manual_and_the_reverse() {
    // The source names each family once; /metrics leaves out what has no sample yet.
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).unwrap();
    let source = read("src/proto/metrics.rs") + &read("src/proto/metrics/used.rs");
    let names = source.split('"').filter(|text| {
        text.starts_with("aeterna_") && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    });
    let known: BTreeSet<&str> = names.collect();
    assert!(known.len() > 15, "{known:?}");
    let text = page("aeternad.8");
    let listed: BTreeSet<&str> = entries(&text, ".It Li ")
        .into_iter()
        .filter(|(heading, _)| heading == "METRICS")
        .map(|(_, words)| words[0])
        .collect();
    assert_eq!(listed, known);
}
