//! Unit files against golden files: what a good one means (`.show`, `.warn`), what is wrong with a bad one (`.err`).
//!
//! `UPDATE_GOLDEN=1 cargo test --test unit_files` writes the golden files anew; the diff is for a person to read.

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
                [[Reload.OnSuccess]]\nExec = '/bin/c'\n[[Reload.OnFailure]]\nExec = '/bin/d'\n";
    let mut shown = BTreeSet::new();
    for check in ["HttpGet = 'http://127.0.0.1/'", "TcpConnect = 80", "Exec = '/bin/e'"] {
        let text = format!("{text}[HealthCheck]\n{check}\n");
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_unit_or_has_errors(text in arbitrary_text()) {
        check_any(&text);
    }

    #[test]
    fn any_mutation_is_a_unit_or_has_errors(text in mutated_unit()) {
        check_any(&text);
    }
}
