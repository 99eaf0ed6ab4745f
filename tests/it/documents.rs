//! What the documents show is true: every command of the README is typed, and says what stands there; every unit in a
//! document is valid; every file that is linked is there.

use crate::common;
use aeterna::unit::{Context, parse};
use common::{AETERNAD, Env, repository, skip};
use std::path::Path;
use std::process::Command;

/// The documents of the repository, by their paths in it.
fn documents() -> Vec<String> {
    let mut found: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(String::from).into();
    for entry in std::fs::read_dir(repository().join("docs")).unwrap() {
        found.push(format!("docs/{}", entry.unwrap().file_name().to_string_lossy()));
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

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
    ("podman cp ./release CONTAINER:/release/2", IN_A_CONTAINER),
    (
        "podman run --rm -v release:/release busybox sh -c 'ln -s 2 /release/next && mv -T /release/next /release/current'",
        IN_A_CONTAINER,
    ),
    ("podman exec CONTAINER aeternactl reload app", IN_A_CONTAINER),
];

/// A session of Podman is somebody's machine.
const IN_A_CONTAINER: &str = "tests/it/pid1.rs does the same in namespaces of its own";

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

/// The ports that sessions use, and the folder that their daemon has.
const PORTS: [&str; 2] = ["8080", "9091"];
const RUNTIME_DIRS: [&str; 2] = ["/tmp/aeterna-hello", "/tmp/aeterna-guide"];

/// Types the session of a document, in a folder that looks like the repository as far as a session looks at it, and
/// compares what is said with what stands there. Returns how many commands there were.
fn play(document: &str) -> usize {
    let blocks = blocks(&read(document));
    let consoles = blocks.iter().filter(|block| block.language == "console");
    let session: Vec<Step> = consoles.flat_map(|block| steps(&block.text)).collect();
    let env = Env::new();
    let built = Path::new(AETERNAD).parent().unwrap();
    let folder = env.path("repository");
    std::fs::create_dir_all(folder.join("target")).unwrap();
    std::os::unix::fs::symlink(built, folder.join("target/debug")).unwrap();
    std::os::unix::fs::symlink(repository().join("sdk"), folder.join("sdk")).unwrap();
    if session.iter().any(|step| step.command.contains("units/apps")) {
        std::os::unix::fs::symlink(repository().join("units"), folder.join("units")).unwrap();
    }
    common::example("echo");
    let ports = PORTS.map(|port| (port, common::port::free_port().to_string()));
    let runtime = env.path("hello-run").display().to_string();
    let place = folder.display().to_string();
    let placed = |text: &str| {
        let text = ports.iter().fold(text.to_string(), |text, (port, free)| text.replace(port, free));
        RUNTIME_DIRS.iter().fold(text, |text, known| text.replace(known, &runtime))
    };
    // It soaks several times, and curl waits longer each time that nobody answers yet: more than other tests may take.
    let mut bash = env.command("timeout");
    bash.args(["180", "bash", "-c", &placed(&script(&session))]);
    bash.current_dir(&folder).stdin(std::process::Stdio::null());
    let said = String::from_utf8_lossy(&bash.output().unwrap().stdout).into_owned();
    for (number, step) in session.iter().enumerate() {
        let after = said.split(&format!("@@{number}\n")).nth(1);
        let after = after.unwrap_or_else(|| panic!("{document}: $ {}\n{said}", step.command));
        let answer = after.split("@@").next().unwrap();
        let mut lines = answer.lines().map(normal);
        for shown in &step.shown {
            let shown = normal(&placed(shown).replace("/srv/aeterna", &place));
            let there = lines.any(|line| line == shown);
            assert!(there, "{document}: $ {}\n{answer}has no {shown:?}; all of it:\n{said}", step.command);
        }
    }
    session.len()
}

/// The session as a script that marks where each command begins.
fn script(session: &[Step]) -> String {
    let mut script = String::from("exec 2>&1\n");
    for (number, step) in session.iter().enumerate() {
        script += &format!("echo '@@{number}'\n");
        let asks = ["status", "reload", "rollback"].map(|word| format!("aeternactl {word}"));
        if asks.iter().any(|asked| step.command.starts_with(asked)) {
            // Whoever types by hand is slower than the first health check and than the end of a drain.
            script += "for n in $(seq 400); do aeternactl status 2>&1 | grep -q RUNNING && break; sleep 0.05; done\n";
        }
        if !not_typed(&step.command) {
            script += &format!("{}\n", step.command);
        }
    }
    script
}

#[test]
fn the_session_in_the_readme_is_typed_and_says_what_stands_there() {
    if Command::new("curl").arg("--version").output().is_err() {
        return skip("curl is not installed");
    }
    assert!(play("README.md") > 15);
}

/// One guide's session.
fn guide(name: &str) {
    for program in ["curl", "python3"] {
        if Command::new(program).arg("--version").output().is_err() {
            return skip(&format!("{program} is not installed"));
        }
    }
    let count = play(&format!("docs/{name}.md"));
    assert!(count > 2, "{count} commands");
}

#[test]
fn the_guide_for_a_server_is_typed_and_says_what_stands_there() {
    guide("server");
}

#[test]
fn the_guide_for_a_program_that_stays_as_it_is_is_typed_and_says_what_stands_there() {
    guide("unchanged");
}

#[test]
fn the_guide_for_a_soak_that_judges_is_typed_and_says_what_stands_there() {
    guide("canary");
}

#[test]
fn the_guide_for_state_is_typed_and_says_what_stands_there() {
    guide("state");
}

#[test]
fn the_guides_for_systemd_and_containers_are_typed_and_say_what_stands_there() {
    guide("systemd");
    guide("containers");
}

#[test]
fn every_guide_with_a_session_is_typed_by_a_test() {
    let typed = ["README.md", "server", "unchanged", "canary", "state", "systemd", "containers"];
    for document in documents() {
        let has_session = blocks(&read(&document)).iter().any(|block| block.language == "console");
        let name = document.trim_start_matches("docs/").trim_end_matches(".md");
        let known = typed.contains(&name) || typed.contains(&document.as_str());
        assert_eq!(has_session, known, "{document}");
    }
}

fn not_typed(command: &str) -> bool {
    NOT_TYPED.iter().any(|(known, _)| *known == command)
}

#[test]
fn every_other_command_in_a_block_is_known() {
    for document in documents() {
        for block in blocks(&read(&document)) {
            match block.language.as_str() {
                "sh" => {
                    for line in block.text.lines() {
                        assert!(not_typed(line), "{document}:{}: who types {line:?}?", block.line);
                    }
                }
                // Sessions are typed. Programs, units and drawings: other tests run those that ship.
                "console" | "toml" | "python" | "text" => {}
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
    for document in documents() {
        for block in blocks(&read(&document)).iter().filter(|block| block.language == "toml") {
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
    for document in documents() {
        let text = read(&document);
        let folder = repository().join(&document).parent().unwrap().to_owned();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let outside = target.contains("://") || target.starts_with('#');
            assert!(outside || folder.join(target).exists(), "{document}: {target}");
        }
    }
}

#[test]
fn what_the_guide_to_troubles_quotes_is_said_by_the_programs() {
    let sources = sources();
    let text = read("docs/troubleshooting.md");
    let quoted: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.split('`').next()).collect();
    assert!(quoted.len() > 10, "{quoted:?}");
    for words in quoted {
        assert!(sources.contains(words), "nothing says {words:?}");
    }
}

/// Every source of the programs and the tests, in one.
fn sources() -> String {
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
    sources
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
    let sources = sources();
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
