//! The architecture, kept by reading the sources: a module uses only its own layer or a lower one, and what
//! touches the world appears only where it belongs (see CONTRIBUTING.md, "Layers").
//!
//! Comments, string literals and test code do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// No file has more lines of code than this, its tests, comments and empty lines left out.
const LONGEST_FILE: usize = 450;

/// A source file under `src/`.
struct Source {
    /// Relative to `src/`: `machine/reload.rs`.
    path: String,
    /// The module right below the crate: `machine`.
    module: String,
    /// What is there, for rules that read comments too.
    raw: String,
    /// Without tests, comments and the content of literals; the lines keep their numbers.
    code: String,
}

/// A module's layer; `None` for one that the table does not know.
fn layer(module: &str) -> Option<u8> {
    match module {
        "time" | "error" | "unit" | "proto" => Some(0),
        "machine" => Some(1),
        "sys" => Some(2),
        "daemon" | "ctl" | "sdk" => Some(3),
        // The crate's own root names every module, and the programs are three lines each.
        "lib" | "bin" => Some(4),
        _ => None,
    }
}

/// Modules of one layer that still may not use each other.
const STRANGERS: &[(&str, &str)] =
    &[("ctl", "daemon"), ("ctl", "machine"), ("sdk", "daemon"), ("sdk", "machine"), ("daemon", "ctl")];

/// What touches the world, the modules that may, and why nobody else.
const PLACES: &[(&[&str], &[&str], &str)] = &[
    (&["unsafe"], &["sys"], "unsafe code lives in sys"),
    (&["nix::", "libc::"], &["sys"], "system calls go through sys"),
    (&["Instant::now", "SystemTime", "clock_gettime"], &["sys"], "the clock is read in sys::clock"),
    (&["thread::"], &["sys", "daemon", "ctl", "sdk"], "the lower layers have no threads"),
    (&["log::"], &["daemon", "ctl"], "only the programs log"),
    (&["std::fs", "std::os::fd", "std::os::unix"], &["sys", "daemon", "ctl", "sdk"], "no files in pure code"),
    (&["std::process::Command"], &["ctl"], "processes are started by sys::spawn"),
    (&["process::exit("], &["daemon", "ctl"], "a library does not end its program"),
    (&["signal_hook"], &["ctl", "sdk"], "aeternad's signals arrive on a signalfd"),
];

#[test]
fn a_module_uses_only_its_own_layer_or_a_lower_one() {
    check(|source| {
        let mine = layer(&source.module).unwrap_or_else(|| {
            panic!("src/{}: which layer is `{}`? Add it here.", source.path, source.module)
        });
        let mut wrong = Vec::new();
        for (number, used) in uses(&source.code) {
            let stranger = STRANGERS.contains(&(source.module.as_str(), used.as_str()));
            if mine < 4 && (layer(&used).is_some_and(|other| other > mine) || stranger) {
                wrong.push((number, format!("{} may not use {used}", source.module)));
            }
        }
        wrong
    });
}

#[test]
fn what_touches_the_world_has_its_place() {
    check(|source| {
        let mut wrong = Vec::new();
        for (words, places, why) in PLACES {
            if places.contains(&source.module.as_str()) {
                continue;
            }
            for (number, line) in numbered(&source.code) {
                for word in words.iter().filter(|word| contains_word(line, word)) {
                    wrong.push((number, format!("`{word}`: {why}")));
                }
            }
        }
        wrong
    });
}

#[test]
fn pure_code_opens_no_connections() {
    // Addresses are values and belong everywhere; streams and listeners do not.
    let doors = ["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs", "UnixStream", "UnixListener"];
    check(|source| {
        let pure = layer(&source.module).is_some_and(|layer| layer < 2);
        let lines = numbered(&source.code).filter(|_| pure);
        let with = |line: &str| doors.iter().find(|door| contains_word(line, door));
        lines.filter_map(|(n, line)| with(line).map(|door| (n, format!("`{door}` in pure code")))).collect()
    });
}

#[test]
fn pure_folders_forbid_unsafe_code() {
    for folder in ["unit", "proto", "machine"] {
        let path = root().join("src").join(folder).join("mod.rs");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{}: forbid(unsafe_code) is missing",
            path.display()
        );
    }
}

/// What makes, changes or opens something by a name. Whoever may write to a folder on the way decides what that is, so
/// `sys/dir/` does it, by descriptors.
const CHANGES: &[&str] = &[
    "create_dir",
    "create_dir_all",
    "DirBuilder",
    "remove_dir",
    "remove_dir_all",
    "remove_file",
    "hard_link",
    "symlink(",
    "symlinkat",
    "set_permissions",
    "fs::rename",
    "fs::write",
    "fs::copy",
    "File::create",
    "File::open",
    "File::options",
    "OpenOptions",
    "fs::chown",
    "lchown",
    "fchownat",
    "fchmodat",
    "mkdir",
    "mkdirat",
    "mkfifo",
    "mkfifoat",
    "mknod",
    "mknodat",
    "unlink",
    "unlinkat",
    "renameat",
    "renameat2",
    "linkat",
    "fcntl::open",
    "fcntl::openat",
    "openat",
    "openat2",
    "SYS_openat2",
    "libc::open",
    "libc::openat",
    "libc::chmod",
    "libc::chown",
    "libc::rename",
    "libc::link",
    "libc::symlink",
    "libc::truncate",
    "truncate(",
    "libc::mount",
    "mount(",
    "chroot",
    "chdir",
    "execve",
    "execv",
    "UnixListener::bind",
    "UnixDatagram::bind",
    "UnixStream::connect",
    "bind_addr",
    "UnixAddr::new",
    "mkstemp",
    "mkdtemp",
    "setxattr",
];

/// What looks at something by a name: it may be another thing by the time that it is used, and its file system may not
/// answer. The kernel's own names (/proc, /sys) are nobody's.
const LOOKS: &[&str] = &[
    "fs::read",
    "fs::read_to_string",
    "fs::read_dir",
    "fs::read_link",
    "fs::metadata",
    "fs::symlink_metadata",
    "fs::canonicalize",
    "fs::exists",
    ".metadata(",
    ".symlink_metadata(",
    ".canonicalize(",
    ".read_dir(",
    ".read_link(",
    ".exists(",
    ".try_exists(",
    ".is_dir(",
    ".is_file(",
    ".is_symlink(",
    "fstatat",
    "libc::stat(",
    "libc::lstat(",
    "faccessat",
    "access(",
    "getxattr",
    "readlink",
    "readlinkat",
    "add_watch",
    "statvfs(",
    "statfs(",
];

/// Who does it all the same: where, which of the two, and why.
const BY_NAME: &[(&str, &[&str], &str)] = &[
    (
        "daemon/survival/",
        CHANGES,
        "the journal and the keeper's socket, in folders of ours that nobody else may write to",
    ),
    ("daemon/survival/", LOOKS, "the same, and the kernel's boot id"),
    ("sys/message.rs", CHANGES, "a socket of ours in the runtime dir, through its open folder"),
    ("sys/killpoint.rs", CHANGES, "a test's file, in builds for tests only"),
    ("sys/killpoint.rs", LOOKS, "the same"),
    ("sys/dir/", CHANGES, "this is the place"),
    ("sys/dir/", LOOKS, "this is the place"),
    ("ctl/", CHANGES, "runs as whoever typed it, on his own files"),
    ("ctl/", LOOKS, "runs as whoever typed it, on his own files"),
    ("sdk/", CHANGES, "runs in the service, on what its supervisor names"),
    (
        "daemon/shared.rs",
        CHANGES,
        "a folder of a random name in /tmp, which must not be there, and what is in it: ours",
    ),
    ("daemon/shared.rs", LOOKS, "the same"),
    ("daemon/http/bind.rs", CHANGES, "an abstract name is no name in a file system"),
    ("daemon/http/facts.rs", LOOKS, "names of the kernel"),
    ("daemon/http/token.rs", LOOKS, "of a file that was just read by descriptor: only to warn"),
    ("daemon/logging.rs", LOOKS, "of a descriptor"),
    ("daemon/load.rs", LOOKS, "units are named by whoever starts us"),
    ("daemon/files.rs", LOOKS, "units are named by whoever starts us"),
    ("daemon/home.rs", LOOKS, "whether to say that the runtime dir is new"),
    (
        "sys/cgroup.rs",
        CHANGES,
        "the control group file system is the kernel's; names in it are made of checked unit names",
    ),
    ("sys/cgroup.rs", LOOKS, "the same"),
    ("sys/claim.rs", LOOKS, "the name of the folder above the runtime dir, to spell an abstract name"),
    ("sys/datagram.rs", CHANGES, "NOTIFY_SOCKET of our own supervisor"),
    ("sys/fd.rs", CHANGES, "/dev/null"),
    ("sys/fifo.rs", CHANGES, "a name of one component in a folder that sys::dir has opened"),
    ("sys/groups.rs", LOOKS, "names of the kernel"),
    ("sys/held.rs", LOOKS, "names of the kernel"),
    ("sys/holder.rs", LOOKS, "names of the kernel"),
    ("sys/inotify.rs", LOOKS, "inotify takes names; only changes are heard there, nothing is read or made"),
    ("sys/limits.rs", LOOKS, "names of the kernel"),
    ("sys/links.rs", CHANGES, "two bytes are read, to warn of a script; never on the daemon's main thread"),
    ("sys/links.rs", LOOKS, "what a path leads to, to warn of it; the same"),
    ("sys/near.rs", CHANGES, "opens for nothing, to find out whose the file system is"),
    ("sys/nest.rs", CHANGES, "names of the kernel"),
    ("sys/nest.rs", LOOKS, "inotify takes names; what was heard is looked at by sys::dir"),
    ("sys/delegation.rs", CHANGES, "a group of the kernel's, below what is delegated to us"),
    ("sys/delegation.rs", LOOKS, "names of the kernel"),
    ("sys/memory.rs", LOOKS, "names of the kernel"),
    ("sys/oom.rs", LOOKS, "names of the kernel"),
    ("sys/oom_score.rs", CHANGES, "a process's oom_score_adj in /proc"),
    ("sys/spawn/badness.rs", CHANGES, "the child's own oom_score_adj in /proc"),
    ("sys/pin.rs", CHANGES, "by the descriptor of a pin, through /proc"),
    ("sys/pin.rs", LOOKS, "the same; a name only to show it, where /proc does not tell it"),
    ("sys/probe.rs", CHANGES, "whom a health check asks: on a thread, with its time limit"),
    ("sys/procfs.rs", CHANGES, "/proc"),
    ("sys/registration.rs", LOOKS, "names of the kernel"),
    ("sys/replace.rs", CHANGES, "a descriptor is executed"),
    (
        "sys/replace.rs",
        LOOKS,
        "of a descriptor; and the program that root wants to have executed, to refuse others' files",
    ),
    ("sys/seccomp.rs", CHANGES, "the numbers of calls"),
    ("sys/seccomp.rs", LOOKS, "names of the kernel, on a thread"),
    ("sys/sockdiag.rs", LOOKS, "names of the kernel"),
    ("sys/spawn/child.rs", CHANGES, "the child, as the service's user"),
    ("sys/spawn/child.rs", LOOKS, "the child, as the service's user"),
    ("sys/spawn/find.rs", LOOKS, "whether a program is there: the kernel decides again when it is executed"),
    ("sys/spawn/reasons.rs", LOOKS, "words for an error that was; on a thread"),
    ("sys/terminal.rs", CHANGES, "/dev/console"),
    ("sys/textfile.rs", LOOKS, "units are named by whoever starts us"),
    ("sys/tree.rs", LOOKS, "names of the kernel"),
    (
        "sys/unixpath.rs",
        CHANGES,
        "bind(2) and connect(2) take names: short ones through the open folder, and what came of it is checked",
    ),
    ("sys/unixpath.rs", LOOKS, "of a descriptor, through /proc"),
    ("sys/usage.rs", CHANGES, "a file of a control group, below its descriptor"),
    ("sys/usage.rs", LOOKS, "names of the kernel"),
    ("sys/user.rs", LOOKS, "/etc/nsswitch.conf and the socket of nscd"),
];

/// Functions of nix that take a name, by their modules: to import one is to use it.
const IMPORTED: &[(&str, &[&str], &[&str])] = &[
    ("nix::fcntl::", &["open", "openat", "openat2", "renameat", "renameat2"], CHANGES),
    ("nix::fcntl::", &["readlink", "readlinkat"], LOOKS),
    (
        "nix::unistd::",
        &[
            "unlink",
            "unlinkat",
            "linkat",
            "symlinkat",
            "mkdir",
            "mkfifo",
            "mkfifoat",
            "chown",
            "fchownat",
            "chdir",
        ],
        CHANGES,
    ),
    ("nix::unistd::", &["access", "faccessat"], LOOKS),
    ("nix::sys::stat::", &["mkdirat", "mknod", "mknodat", "fchmodat", "utimensat"], CHANGES),
    ("nix::sys::stat::", &["stat", "lstat", "fstatat"], LOOKS),
];

/// Every use of a name in a file: line, word, and which of the two.
fn uses_of_names(source: &Source) -> Vec<(usize, String, &'static [&'static str])> {
    let mut found = Vec::new();
    for (prefix, names, words) in IMPORTED {
        let imported = uses_below(&source.code, prefix).into_iter();
        let imported = imported.filter(|(_, name)| names.contains(&name.as_str()));
        found.extend(imported.map(|(number, name)| (number, name, *words)));
    }
    let raw: Vec<&str> = source.raw.lines().collect();
    for (number, line) in numbered(&source.code) {
        let of_kernel = ["\"/proc/", "\"/sys/"].iter().any(|name| raw[number - 1].contains(name));
        let is_use = ["use ", "pub use "].iter().any(|word| line.trim_start().starts_with(word));
        // Outside sys some words are no calls of the kernel's: nobody there has nix or libc.
        let ours = |word: &&&str| source.module == "sys" || !["unlink", "mount("].contains(*word);
        for (words, harmless) in [(CHANGES, is_use), (LOOKS, is_use || of_kernel)] {
            let word = words.iter().filter(ours).find(|word| has_call(line, word));
            found.extend(word.filter(|_| !harmless).map(|word| (number, (*word).to_owned(), words)));
        }
    }
    found
}

#[test]
fn names_in_the_file_system_are_used_in_one_place() {
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| layer(&source.module).is_some_and(|layer| layer > 1)) {
        for (number, word, words) in uses_of_names(source) {
            let is_it = |(place, kind, _): &(&str, &[&str], &str)| {
                source.path.starts_with(place) && kind.first() == words.first()
            };
            match BY_NAME.iter().position(is_it) {
                Some(entry) => drop(used.insert(entry)),
                None => wrong.push(format!(
                    "src/{}:{number}: `{word}`: sys::dir does that by descriptor",
                    source.path
                )),
            }
        }
    }
    let stale = (0..BY_NAME.len()).filter(|entry| !used.contains(entry));
    wrong.extend(stale.map(|entry| format!("nobody needs this exception any more: {}", BY_NAME[entry].0)));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whether a line of code has this word: a method with its dot, a function with its parenthesis, or a name as a whole.
fn has_call(line: &str, word: &str) -> bool {
    if word.starts_with('.') {
        return line.contains(word);
    }
    contains_word(line, word)
}

/// Folders whose files use each other in one direction only.
const NO_CIRCLES: &[&str] = &["machine"];

#[test]
fn no_circle_of_files() {
    for folder in NO_CIRCLES {
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for source in sources().iter().filter(|source| source.module == *folder) {
            let file = part_below(&source.path, folder);
            let own = source.path.matches('/').count() == 1;
            let mut used = uses_below(&source.code, &format!("crate::{folder}::"));
            if own && file != "mod" {
                used.extend(uses_below(&source.code, "super::"));
            }
            uses.entry(file).or_default().extend(used.into_iter().map(|(_, name)| name));
        }
        let files: BTreeSet<String> = uses.keys().cloned().collect();
        for (file, used) in &mut uses {
            used.retain(|other| other != file && files.contains(other));
        }
        // What uses nothing that is left is taken away, until nothing is left or the rest goes in circles.
        while let Some(free) = uses.iter().find(|(_, used)| used.is_empty()).map(|(file, _)| file.clone()) {
            uses.remove(&free);
            uses.values_mut().for_each(|used| used.retain(|other| *other != free));
        }
        assert!(uses.is_empty(), "src/{folder}: these files use each other in a circle: {uses:#?}");
    }
}

/// `machine/model/stop.rs` is part of `model` of the folder `machine`.
fn part_below(path: &str, folder: &str) -> String {
    path.trim_start_matches(folder).trim_start_matches('/').split(['/', '.']).next().unwrap().to_string()
}

#[test]
fn files_are_short() {
    check(|source| {
        let lines = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        let long = lines > LONGEST_FILE;
        Vec::from_iter(
            long.then(|| {
                (lines, format!("{lines} lines of code; {LONGEST_FILE} are enough: split it by job"))
            }),
        )
    });
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    // Spelled in parts, so that this file passes its own test.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let places = ["home", "root", "Users", "work"].map(|name| format!("/{name}/"));
    let mut wrong = Vec::new();
    for path in own_files() {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (number, line) in numbered(&text) {
            for word in words.iter().filter(|word| contains_word(line, word)) {
                wrong.push(format!("{}:{number}: {word}: open an issue instead", path.display()));
            }
            for place in places.iter().filter(|place| names_place(line, place)) {
                wrong.push(format!("{}:{number}: {place}… is a path of one machine", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_sees_code_and_nothing_else() {
    let text = r####"
//! use nix::unistd;
fn f<'a>(c: char) -> &'a str { /* libc:: /* nested */ */ if c == '"' { "thread::\" no" } else { r#"un"safe"# } }
use crate::{sys::clock, unit};
#[cfg(test)]
mod tests { use std::fs; }
"####;
    let code = code_of(text);
    for hidden in ["nix::", "libc::", "nested", "thread::", "safe", "std::fs"] {
        assert!(!code.contains(hidden), "{hidden} in:\n{code}");
    }
    assert!(code.contains("fn f<'a>(c: char) -> &'a str {"), "{code}");
    let used: Vec<String> = uses(&code).into_iter().map(|(_, module)| module).collect();
    assert_eq!(used, ["sys", "unit"]);
    assert!(contains_word("unsafe { x }", "unsafe") && !contains_word("unsafe_code", "unsafe"));
}

/// Runs a rule over every source file and fails with all that it found: line number and text.
fn check(rule: impl Fn(&Source) -> Vec<(usize, String)>) {
    let sources = sources();
    assert!(sources.len() > 10, "where are the sources?");
    let found: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            rule(source).into_iter().map(|(line, text)| format!("src/{}:{line}: {text}", source.path))
        })
        .collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the program, its test modules in files of their own left out.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut sources = Vec::new();
    for path in files(&src) {
        let relative = path.strip_prefix(&src).unwrap().display().to_string();
        let is_test = relative.ends_with("tests.rs") || relative.contains("/tests/");
        if !relative.ends_with(".rs") || is_test || test_only(&path) {
            continue;
        }
        let raw = std::fs::read_to_string(&path).unwrap();
        let module = relative.split('/').next().unwrap().trim_end_matches(".rs").to_string();
        sources.push(Source { code: code_of(&raw), module, path: relative, raw });
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources.retain(|source| !source.raw.is_empty());
    sources
}

/// Whether the file's parent declares it under `#[cfg(test)]`.
fn test_only(path: &Path) -> bool {
    let folder = path.parent().unwrap();
    let name = path.file_stem().unwrap().to_string_lossy();
    let parents = [folder.join("mod.rs"), folder.with_extension("rs")];
    parents.iter().filter_map(|parent| std::fs::read_to_string(parent).ok()).any(|text| {
        let declared = text.lines().position(|line| line.trim().ends_with(&format!("mod {name};")));
        let before = declared.and_then(|at| text.lines().nth(at.checked_sub(1)?));
        before.is_some_and(|line| line.contains("cfg(test)"))
    })
}

/// The files of the repository that we wrote, as git would list them.
fn own_files() -> Vec<PathBuf> {
    let parts = [
        "src",
        "tests",
        "examples",
        "benches",
        "units",
        "man",
        "sdk",
        "fuzz",
        ".ci",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "Cargo.toml",
    ];
    parts.iter().flat_map(|part| files(&root().join(part))).collect()
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.ends_with("target")).flat_map(|path| files(&path)).collect()
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Whether `word` stands in the line as a word: no part of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let open = word.ends_with([':', '(']);
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        !part(before) && (open || !part(after))
    })
}

/// Whether `place` begins a path here; in the middle of one it is no place.
fn names_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-{}$~)".contains(c))
    })
}

/// The modules of this crate that the code names, with the line: `crate::sys`, `crate::{sys, unit::x}`.
fn uses(code: &str) -> Vec<(usize, String)> {
    uses_below(code, "crate::")
}

/// The names that follow a prefix, with the line: `super::model::End` names `model`.
fn uses_below(code: &str, prefix: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push((line, name(rest)));
            continue;
        };
        let mut depth = 1;
        let mut start = 0;
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (depth == 1 && c == ',') || depth == 0 {
                used.push((line, name(group[start..index].trim())));
                start = index + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    used.retain(|(_, module)| !module.is_empty());
    used
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The code without comments, literals' contents and everything from the file's own test module on.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = skipped(rest, &code);
        if length > 0 {
            code.extend(rest[..length].chars().filter(|c| *c == '\n'));
            rest = &rest[length..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    let tests = code.match_indices("#[cfg(test)]").find(|(at, _)| {
        let after = code[at + "#[cfg(test)]".len()..].trim_start();
        after.starts_with("mod ") && !after[..after.find(['{', ';']).unwrap_or(0) + 1].ends_with(';')
    });
    code.truncate(tests.map_or(code.len(), |(at, _)| at));
    code
}

/// How many bytes of `rest` are a comment or a literal; 0 for code.
fn skipped(rest: &str, before: &str) -> usize {
    let in_name = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'));
    if let Some(raw) = raw.filter(|_| !in_name) {
        let hashes = raw.chars().take_while(|c| *c == '#').count();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let opening = rest.len() - raw.len() + hashes + 1;
            return rest[opening..].find(&end).map_or(rest.len(), |at| opening + at + end.len());
        }
    }
    match rest.chars().next() {
        Some('"') => quoted(rest, '"'),
        // A lifetime has no closing quote right after its first character.
        Some('\'') if rest[1..].starts_with('\\') || rest[1..].chars().nth(1) == Some('\'') => {
            quoted(rest, '\'')
        }
        _ => 0,
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + c.len_utf8();
        }
        escaped = !escaped && c == '\\';
    }
    rest.len()
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}
