//! What is longer than the terminal goes through a pager, as systemctl's does.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Ends at once if everything fits, shows colours, leaves the screen as it is, and an interrupt ends what it waits for.
const LESS: &str = "FRSXMK";

/// Shows `text` until whoever reads it has seen enough. Whether there was a pager.
pub(super) fn show(text: &str) -> bool {
    // An interrupt is the pager's: without it the shell would have the terminal back, and two would read from it.
    if signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false))).is_err() {
        return false;
    }
    let env = |name: &str| std::env::var(name).ok();
    programs(&env).iter().any(|program| run(program, is_borrowed(&env), text))
}

/// What is tried, in this order; nothing if no pager is wanted.
fn programs(env: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    // Whoever works with rights that are not his own gets no shell by way of a pager: less knows how.
    if is_borrowed(env) {
        return vec!["less".into()];
    }
    match env("AETERNA_PAGER").or_else(|| env("PAGER")) {
        Some(none) if matches!(none.trim(), "" | "cat") => Vec::new(),
        Some(program) => vec![program],
        None => vec!["less".into(), "more".into()],
    }
}

/// Whether our rights are another user's, by sudo and its like.
fn is_borrowed(env: &dyn Fn(&str) -> Option<String>) -> bool {
    ["SUDO_UID", "PKEXEC_UID"].iter().any(|name| env(name).is_some_and(|uid| uid != "0"))
        || env("DOAS_USER").is_some_and(|user| user != "root")
}

/// Whether it could be started: a shell says so of what it does not find.
fn run(program: &str, borrowed: bool, text: &str) -> bool {
    const NOT_THERE: [Option<i32>; 2] = [Some(126), Some(127)];
    let mut command = Command::new("sh");
    command.args(["-c", program]).stdin(Stdio::piped());
    command.env("LESS", LESS).env("LESSCHARSET", "utf-8");
    if borrowed {
        command.env("LESSSECURE", "1");
    }
    let Ok(mut child) = command.stderr(Stdio::null()).spawn() else { return false };
    if let Some(mut pipe) = child.stdin.take() {
        // Whoever leaves before the end has seen enough.
        let _ = pipe.write_all(text.as_bytes());
    }
    child.wait().is_ok_and(|status| !NOT_THERE.contains(&status.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Vec<String> {
        let env = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        programs(&env)
    }

    #[test]
    fn the_environment_chooses_the_pager() {
        assert_eq!(with(&[]), ["less", "more"]);
        assert_eq!(with(&[("PAGER", "most -w")]), ["most -w"]);
        assert_eq!(with(&[("PAGER", "most"), ("AETERNA_PAGER", "less -S")]), ["less -S"]);
        for none in ["", " ", "cat"] {
            assert!(with(&[("PAGER", none)]).is_empty(), "{none:?}");
        }
        assert!(with(&[("PAGER", "less"), ("AETERNA_PAGER", "")]).is_empty());
    }

    #[test]
    fn rights_of_another_user_get_no_pager_with_a_shell() {
        for name in ["SUDO_UID", "PKEXEC_UID"] {
            assert_eq!(with(&[(name, "1000"), ("PAGER", "vim -")]), ["less"]);
            assert_eq!(with(&[(name, "0"), ("PAGER", "vim -")]), ["vim -"]);
        }
        assert_eq!(with(&[("DOAS_USER", "ann"), ("PAGER", "sh")]), ["less"]);
    }

    #[test]
    fn a_pager_that_is_not_there_shows_nothing() {
        assert!(!run("/nonexistent/pager", false, "text"));
        assert!(run("cat >/dev/null", false, "text"));
        assert!(run("exit 1", false, &"text\n".repeat(100_000)), "it was there, and has seen enough");
    }
}
