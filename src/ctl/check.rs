//! `aeternactl check`: unit files, without a daemon. Says what `aeternad --check` says.

use super::output::Output;
use crate::error::exit;
use crate::proto::paths::{runtime_dir, unit_runtime_root};
use crate::sys::groups::Outlook;
use crate::sys::{links, textfile};
use crate::unit::{Context, GroupLimits, Here, MAX_FILE, Unmet, Verdict};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

/// Checks files, and folders for all their `*.toml`. The exit status: 0, or 78 if something is not valid.
pub(super) fn check(files: &[PathBuf], uid: u32, json: bool, output: &mut Output) -> u8 {
    let verdict = verdict(files, uid);
    if json {
        output.json(&verdict);
    } else {
        verdict.complaints().iter().for_each(|line| output.complain(line));
        output.text(&verdict.praise());
    }
    if verdict.ok { exit::OK } else { exit::CONFIG }
}

fn verdict(files: &[PathBuf], uid: u32) -> Verdict {
    let mut verdict = Verdict::new();
    let outlook = OnceCell::new();
    let limits = |limits: &GroupLimits| unmet(limits, &outlook, uid);
    let here = Here { look: &links::look, limits: &limits };
    for path in files {
        if !path.is_dir() {
            check_file(path, uid, &here, &mut verdict);
            continue;
        }
        match textfile::in_folder(path, "toml") {
            Ok(found) if found.is_empty() => verdict.unusable(path, "no *.toml in this folder"),
            Ok(found) => found.iter().for_each(|file| check_file(file, uid, &here, &mut verdict)),
            Err(error) => verdict.unusable(path, &textfile::why(&error)),
        }
    }
    verdict.together();
    verdict
}

/// What is wrong with a text that is to become the unit of `path`.
pub(super) fn checked(copy: &Path, path: &Path, uid: u32) -> Verdict {
    let mut verdict = Verdict::new();
    let outlook = OnceCell::new();
    let limits = |limits: &GroupLimits| unmet(limits, &outlook, uid);
    let here = Here { look: &links::look, limits: &limits };
    match textfile::read(copy, MAX_FILE) {
        Ok(text) => verdict.text(&text, &Context::of_file(path, runtime_root(uid), false), &here),
        Err(error) => verdict.unusable(copy, &textfile::why(&error)),
    }
    verdict.together();
    verdict
}

/// Which of the limits an aeternad would not enforce here; it is looked at once.
fn unmet(
    limits: &GroupLimits,
    outlook: &OnceCell<Result<Vec<&'static str>, String>>,
    uid: u32,
) -> Option<Unmet> {
    let folder = || runtime_dir(None, &|name| std::env::var(name).ok(), uid);
    let missing = outlook.get_or_init(|| Outlook::of(&folder()).missing());
    limits.unmet(missing.as_deref().map_err(String::as_str))
}

fn check_file(path: &Path, uid: u32, here: &Here<'_>, verdict: &mut Verdict) {
    match textfile::read(path, MAX_FILE) {
        Ok(text) => verdict.text(&text, &Context::of_file(path, runtime_root(uid), false), here),
        Err(error) => verdict.unusable(path, &textfile::why(&error)),
    }
}

fn runtime_root(uid: u32) -> String {
    unit_runtime_root(&|name| std::env::var(name).ok(), uid)
}
