//! What the documents show is true: every command of the README is typed, and says what stands there; every unit in a
//! document is valid; every file that is linked is there.

use crate::common;
use aeterna::unit::{Context, parse};
use common::{AETERNAD, Env, repository, skip};
use std::path::Path;
use std::process::Command;

const DOCUMENTS: [&str; 4] = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];

/// Commands that no test types, and why. Everything else in a fenced block is typed.
const NOT_TYPED: &[(&str, &str)] = &[
    ("cargo build --bins --examples", "the test's own build has done it"),
    ("cargo install --path .", "it is the same build again, optimised"),
    (
        "cargo build --bins --examples && target/debug/aeternad --unit units/echo.toml",
        "tests/it/example_units.rs runs that unit",
    ),
    (
        "target/debug/aeternad --intercept -- python3 -m http.server 8000",
        "tests/it/intercept_programs.rs starts and replaces it, on another port",
    ),
    ("cargo test --no-fail-fast", "it would run this test"),
];

/// A fenced block: its language, what is in it, the line it begins on.
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository().join(name)).unwrap()
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => blocks.push(block),
            (Some(language), None) => {
                open = Some(Block { language: language.into(), text: String::new(), line: index + 1 });
            }
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is never closed");
    blocks
}

/// A command of a session and what is shown below it.
#[derive(Debug)]
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The steps of a console block; a here-document belongs to its command.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            steps.last_mut().expect("a block begins with a command").shown.push(line.into());
            continue;
        };
        let mut command = command.to_string();
        if command.contains("<<'END'") {
            for line in lines.by_ref() {
                command += &format!("\n{line}");
                if line == "END" {
                    break;
                }
            }
        }
        steps.push(Step { command, shown: Vec::new() });
    }
    steps
}

/// A line without what differs from one time to the next: numbers, units of time, width of columns.
fn normal(line: &str) -> String {
    let line = line.trim();
    if line.starts_with("status ") {
        return line.into();
    }
    let mut out = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if !c.is_ascii_digit() {
            if !(c == ' ' && out.ends_with(' ')) {
                out.push(c);
            }
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest = &rest[end..];
        for unit in ["us", "ms", "s"] {
            rest = rest.strip_prefix(unit).unwrap_or(rest);
        }
        out.push('#');
    }
    out
}

#[test]
fn the_session_in_the_readme_is_typed_and_says_what_stands_there() {
    let readme = read("README.md");
    let blocks = blocks(&readme);
    let session: Vec<Step> = blocks
        .iter()
        .filter(|block| block.language == "console")
        .flat_map(|block| steps(&block.text))
        .collect();
    assert!(session.len() > 15, "{session:?}");
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl is not installed");
    }
    let env = Env::new();
    // The folder of the session is the repository as far as the session looks at it.
    let built = Path::new(AETERNAD).parent().unwrap();
    std::fs::create_dir(env.path("target")).unwrap();
    std::os::unix::fs::symlink(built, env.path("target/debug")).unwrap();
    common::example("echo");
    let port = common::port::free_port().to_string();
    let mut script = String::from("exec 2>&1\n");
    for (number, step) in session.iter().enumerate() {
        script += &format!("echo '@@{number}'\n");
        if ["status", "reload", "rollback"]
            .iter()
            .any(|word| step.command.starts_with(&format!("aeternactl {word}")))
        {
            // Whoever types by hand is slower than the first health check and than the end of a drain.
            script +=
                "for n in $(seq 400); do aeternactl status | grep -q RUNNING && break; sleep 0.05; done\n";
        }
        if !not_typed(&step.command) {
            script += &format!("{}\n", step.command);
        }
    }
    let runtime = env.path("hello-run").display().to_string();
    let folder = env.dir().display().to_string();
    let script = script.replace("8080", &port).replace("/tmp/aeterna-hello", &runtime);
    // It soaks three times, and curl waits longer each time that nobody answers yet: more than other tests may take.
    let mut bash = env.command("timeout");
    bash.args(["120", "bash", "-c", &script]).stdin(std::process::Stdio::null());
    let said = String::from_utf8_lossy(&bash.output().unwrap().stdout).into_owned();
    for (number, step) in session.iter().enumerate() {
        let mark = format!("@@{number}\n");
        let after = said.split(&mark).nth(1).unwrap_or_else(|| panic!("{said}"));
        let said = after.split("@@").next().unwrap();
        let mut lines = said.lines().map(normal);
        for shown in &step.shown {
            let shown = normal(&shown.replace("8080", &port).replace("/srv/aeterna", &folder));
            assert!(lines.any(|line| line == shown), "$ {}\n{said}has no {shown:?}", step.command);
        }
    }
}

fn not_typed(command: &str) -> bool {
    NOT_TYPED.iter().any(|(known, _)| *known == command)
}

#[test]
fn every_other_command_in_a_block_is_known() {
    for document in DOCUMENTS {
        for block in blocks(&read(document)) {
            match block.language.as_str() {
                "sh" => {
                    for line in block.text.lines() {
                        assert!(not_typed(line), "{document}:{}: who types {line:?}?", block.line);
                    }
                }
                "console" => assert_eq!(document, "README.md"),
                // Programs and units: other tests run those that ship.
                "toml" | "python" => {}
                other => panic!("{document}:{}: what is a block of {other:?}?", block.line),
            }
        }
    }
}

/// A unit, or a part of one, is valid.
fn valid(text: &str, place: &str) {
    let mut text = text.to_string();
    if !text.contains("[Service]") {
        text += "[Service]\nExecStart = \"/bin/true\"\n";
    }
    if !text.contains("ExecStart") {
        text = text.replace("[Service]\n", "[Service]\nExecStart = \"/bin/true\"\n");
    }
    let context = Context { stem: "app".into(), file: place.into(), runtime_dir: "/run".into(), pid1: false };
    match parse(&text, &context) {
        Ok(parsed) => assert_eq!(parsed.warnings, [], "{place}"),
        Err(errors) => panic!("{place}: {errors:?}\n{text}"),
    }
}

#[test]
fn every_unit_in_a_document_is_valid() {
    let mut seen = 0;
    for document in DOCUMENTS {
        for block in blocks(&read(document)).iter().filter(|block| block.language == "toml") {
            valid(&block.text, &format!("{document}:{}", block.line));
            seen += 1;
        }
    }
    for page in std::fs::read_dir(repository().join("man")).unwrap() {
        let name = page.unwrap().file_name().to_string_lossy().into_owned();
        let text = read(&format!("man/{name}"));
        for example in text.split(".Bd -literal").skip(1) {
            let example = example.split_once('\n').unwrap().1.split(".Ed").next().unwrap();
            let example =
                example.replace("\\(dq", "\"").replace("\\(aq", "'").replace("\\-", "-").replace("\\e", "\\");
            if example.lines().any(|line| line.starts_with("[Service]") || line.starts_with("[[Socket]]")) {
                valid(&example, &format!("man/{name}"));
                seen += 1;
            }
        }
    }
    assert!(seen > 2, "{seen}");
}

#[test]
fn every_link_leads_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let outside = target.contains("://") || target.starts_with('#');
            assert!(outside || repository().join(target).exists(), "{document}: {target}");
        }
    }
}

/// Everything in backticks in the last cell of a table's row.
fn shown_by(row: &str) -> Vec<&str> {
    let cell = row.trim_end().trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_promise_of_security_has_a_test_that_exists() {
    let text = std::fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let (_, promises) = text.split_once("## Promises").unwrap();
    let (promises, _) = promises.split_once("## What is not promised").unwrap();
    let mut sources = String::new();
    let mut todo = vec![repository().join("src"), repository().join("tests")];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let is_test = |name: &str| {
        let declared = format!("fn {name}(");
        sources.match_indices(&declared).any(|(at, _)| {
            let before = sources[..at].trim_end();
            // Other attributes may stand between.
            before
                .lines()
                .rev()
                .take_while(|line| line.trim_start().starts_with("#["))
                .any(|line| line.contains("#[test]"))
        })
    };
    let rows = promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut count = 0;
    for row in rows.filter(|row| !row.starts_with("| ---")) {
        let names = shown_by(row);
        assert!(!names.is_empty(), "no test shows: {row}");
        for name in names {
            assert!(is_test(name), "SECURITY.md names {name}, which is no test: {row}");
        }
        count += 1;
    }
    assert!(count >= 20, "{count} promises");
}
