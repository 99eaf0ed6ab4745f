//! `aeternactl` as a person at a terminal has it: the pager, the keys of `status --watch`, the progress line; and what is
//! expected by habit.

use crate::common;
use crate::terminal::Terminal;
use aeterna::proto::status::{Outcome, UnitState};
use common::app::{APP, App, LONG_SOAK};
use common::{AETERNACTL, Env, process};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};

/// aeternactl at a terminal, in a session of its own as below a login.
fn at(env: &Env, terminal: &Terminal, arguments: &[&str]) -> Command {
    let mut command = env.command("setsid");
    command.args(["--ctty", AETERNACTL, "--runtime-dir"]).arg(env.runtime_dir()).args(arguments);
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("PAGER").env_remove("AETERNA_PAGER");
    for name in ["SUDO_UID", "PKEXEC_UID", "DOAS_USER"] {
        command.env_remove(name);
    }
    terminal.attach(&mut command);
    command
}

fn code(mut child: Child) -> i32 {
    process::code(child.wait().unwrap())
}

#[test]
fn the_keys_of_watch_scroll_and_leave_and_the_terminal_is_as_it_was() {
    let env = APP.start();
    let mut terminal = Terminal::new();
    terminal.resize(&env, 24, 100);
    let child = at(&env, &terminal, &["status", "--watch"]).spawn().unwrap();
    terminal.sees("\x1b[?1049h");
    terminal.sees("RUNNING");
    terminal.sees("q leaves");
    assert!(!terminal.is_as_before(), "keys come one by one");
    terminal.resize(&env, 4, 100);
    terminal.sees("more below: j and k scroll");
    terminal.types("j");
    terminal.sees("1 above");
    terminal.types("\x1b[A");
    terminal.sees("more below");
    terminal.types("G");
    terminal.sees("more above");
    terminal.types("q");
    terminal.sees("\x1b[?1049l");
    assert_eq!(code(child), 0);
    assert!(terminal.is_as_before());
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let env = APP.start();
    for end in [Signal::SIGTERM, Signal::SIGINT] {
        let mut terminal = Terminal::new();
        terminal.resize(&env, 24, 100);
        let mut child = at(&env, &terminal, &["status", "--watch"]).spawn().unwrap();
        terminal.sees("q leaves");
        process::kill(child.id() as i32, end);
        terminal.sees("\x1b[?1049l");
        assert_eq!(child.wait().unwrap().signal(), Some(end as i32));
        assert!(terminal.is_as_before());
    }
}

#[test]
fn what_is_longer_than_the_terminal_goes_through_a_pager() {
    let env = APP.start();
    let paged = env.path("paged");
    let pager = format!("cat > {}", paged.display());
    let run = |rows: u16, pager: Option<&str>, arguments: &[&str]| {
        let terminal = Terminal::new();
        terminal.resize(&env, rows, 100);
        let mut command = at(&env, &terminal, arguments);
        if let Some(pager) = pager {
            command.env("PAGER", pager);
        }
        assert_eq!(code(command.spawn().unwrap()), 0);
        (std::fs::read_to_string(&paged).ok(), terminal)
    };
    let (text, mut terminal) = run(200, Some(&pager), &["status", "app"]);
    assert_eq!(text, None, "everything fits");
    terminal.sees("Generations");
    let (text, _) = run(5, Some(&pager), &["status", "app"]);
    assert!(text.unwrap().contains("\x1b[1mGenerations\x1b[0m"));
    std::fs::remove_file(&paged).unwrap();
    for (pager, arguments) in [
        (Some(pager.as_str()), &["status", "app", "--no-pager"][..]),
        (Some("cat"), &["status", "app"]),
        (Some("/nonexistent/pager"), &["help"]),
        // What goes on has no end that a pager could show.
        (Some(pager.as_str()), &["reload", "app"]),
    ] {
        let (text, mut terminal) = run(5, pager, arguments);
        assert_eq!(text, None, "{arguments:?}");
        terminal.sees(if arguments[0] == "help" { "Usage" } else { "app" });
    }
}

#[test]
fn the_progress_line_says_how_far_a_soak_has_come() {
    let env = App { reload: "SoakTime = \"50min\"\nDrainTimeout = \"10s\"", ..APP }.start();
    let mut terminal = Terminal::new();
    terminal.resize(&env, 24, 120);
    let child = at(&env, &terminal, &["reload", "app"]).spawn().unwrap();
    terminal.sees("app: SOAKING ");
    terminal.sees(" of 50min");
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    terminal.sees("promoted");
    assert_eq!(code(child), 0);
}

#[test]
fn a_reload_can_be_waited_for_until_the_old_one_is_gone() {
    let env = App { reload: "Strategy = \"immediate\"\nDrainTimeout = \"50min\"", ..APP }.start();
    let (held, generation) = env.hold();
    assert_eq!(generation, 1);
    let late = env.ctl(&["reload", "app", "--wait=drained", "--timeout", "1500ms"]);
    assert_eq!(late.code, 124, "{late:?}");
    assert!(late.stdout.contains("app: promoted after"), "{late:?}");
    assert!(late.stderr.contains("the drain of app has not ended within 1s 500ms"), "{late:?}");
    let (second, generation) = env.hold();
    assert_eq!(generation, 2);
    let mark = env.mark();
    let mut child = env.ctl_start(&["reload", "app", "--wait=drained"]);
    env.wait_reloaded("app", mark);
    env.wait("the second drain", || env.generations().contains(&(2, "draining".into())).then_some(()));
    assert!(child.try_wait().unwrap().is_none(), "two still drain");
    drop(second);
    // The first one was there before this reload, and its drain is waited for too.
    env.wait("one is left", || (!env.generations().iter().any(|(number, _)| *number == 2)).then_some(()));
    assert!(child.try_wait().unwrap().is_none(), "one still drains");
    drop(held);
    let done = env.finish_child(child);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.contains("app: drained after"), "{done:?}");
    // One that is promoted while nothing drains, and one that fails, are over at once.
    assert_eq!(env.ctl(&["reload", "app", "--wait=drained"]).code, 0);
    env.next_start("exit=1");
    assert_eq!(env.ctl(&["reload", "app", "--wait=drained"]).code, 3);
}

#[test]
fn a_rollback_can_be_asked_for_what_it_would_do() {
    let env = App { more: "[Unit]\nDescription = \"first\"", ..APP }.start();
    let none = env.ctl(&["rollback", "app", "--dry-run"]);
    assert_eq!(none.code, 1, "{none:?}");
    assert!(none.stderr.contains("no earlier release"), "{none:?}");
    App { more: "[Unit]\nDescription = \"second\"", reload: LONG_SOAK, ..APP }.write(&env);
    env.reload_until(UnitState::Soaking);
    let under_way = env.ctl(&["rollback", "app", "--dry-run"]);
    assert_eq!(under_way.code, 0, "{under_way:?}");
    assert!(under_way.stdout.contains("is given up; generation 1 goes on"), "{under_way:?}");
    assert_eq!(env.unit_status("app").state, UnitState::Soaking, "nothing was done");
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.wait_state("app", UnitState::Running);
    let back = env.ctl(&["rollback", "app", "--dry-run"]);
    assert_eq!(back.code, 0, "{back:?}");
    for part in
        ["to what generation 1 ran", "[Unit] Description: \"second\" → \"first\"", "[Reload] SoakTime"]
    {
        assert!(back.stdout.contains(part), "{part}: {back:?}");
    }
    let by_number = env.ctl(&["rollback", "app", "--dry-run", "--to", "7", "--json"]);
    assert_eq!(by_number.code, 1, "{by_number:?}");
    assert!(by_number.stdout.contains("no release of generation 7"), "{by_number:?}");
    assert_eq!(env.unit_status("app").generation, 2);
    let changes = env.ctl(&["rollback", "app", "--dry-run", "--json"]).stdout;
    assert!(changes.contains("\"Description\""), "{changes}");
    assert_eq!(env.last_reload().outcome, Outcome::Promoted, "nothing was done");
}

#[test]
fn a_unit_is_edited_and_only_what_is_valid_is_written() {
    let env = APP.start();
    let file = env.path("units/app.toml");
    let real = env.path("units/real.txt");
    std::fs::rename(&file, &real).unwrap();
    std::os::unix::fs::symlink("real.txt", &file).unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    let text = || std::fs::read_to_string(&real).unwrap();
    let before = text();
    let edit = |editor: &str| {
        let mut command = env.command(AETERNACTL);
        command.args(["edit", "app", "--runtime-dir"]).arg(env.runtime_dir());
        command.env("EDITOR", editor).env_remove("VISUAL").env("TMPDIR", env.dir());
        env.finish(command)
    };
    let copies = || {
        let all = std::fs::read_dir(env.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        all.filter(|name| name.to_string_lossy().starts_with("aeterna-edit-")).count()
    };
    let same = edit("true");
    assert!(same.code == 0 && same.stdout.contains("nothing has changed"), "{same:?}");
    let broken = edit("false");
    assert!(broken.code == 1 && broken.stderr.contains("nothing was written"), "{broken:?}");
    assert_eq!((text(), copies()), (before.clone(), 0));

    let bad = edit("sed -i s/SoakTime/SaokTime/");
    assert_eq!(bad.code, 78, "{bad:?}");
    assert!(
        bad.stderr.contains("did you mean \"SoakTime\"?") && bad.stderr.contains("is as it was"),
        "{bad:?}"
    );
    assert_eq!((text(), copies()), (before.clone(), 1));
    let kept = bad.stderr.trim().rsplit(' ').next().unwrap();
    assert!(std::fs::read_to_string(Path::new(kept)).unwrap().contains("SaokTime"), "{bad:?}");

    let while_edited = format!("sed -i s/50ms/70ms/ \"$1\"; echo '# other' >> {}; :", real.display());
    let raced = edit(&while_edited);
    assert!(raced.code == 1 && raced.stderr.contains("was changed meanwhile"), "{raced:?}");
    assert!(text().ends_with("# other\n") && !text().contains("70ms"));

    let good = edit("sed -i s/50ms/60ms/");
    assert_eq!(good.code, 0, "{good:?}");
    assert!(good.stdout.contains("[Reload] SoakTime: \"50ms\" → \"60ms\""), "{good:?}");
    assert!(good.stdout.contains("aeternactl reload app"), "{good:?}");
    assert!(text().contains("SoakTime = \"60ms\""));
    assert!(std::fs::symlink_metadata(&file).unwrap().is_symlink(), "the link is a link");
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(env.unit_status("app").generation, 1, "nothing was reloaded");
}

#[test]
fn units_are_listed_a_line_each() {
    let mut env = Env::new();
    env.unit("good", "[Service]\nExecStart = \"/bin/sleep 1000\"\n[Unit]\nDescription = \"Sleeps\"\n");
    env.unit("bad", "[Service]\nExecStart = \"/bin/false\"\n");
    env.start();
    env.wait_state("bad", UnitState::Failed);
    env.wait_state("good", UnitState::Running);
    for command in ["list", "list-units"] {
        let all = env.ctl(&[command]);
        let lines: Vec<&str> = all.stdout.lines().collect();
        assert!(lines[1].starts_with("bad") && lines[1].contains("FAILED"), "{all:?}");
        assert!(lines[2].starts_with("good") && lines[2].ends_with("Sleeps"), "{all:?}");
        assert_eq!(lines.last(), Some(&"2 units"));
    }
    let failed = env.ctl(&["list", "--failed"]);
    assert!(!failed.stdout.contains("good") && failed.stdout.contains("1 unit\n"), "{failed:?}");
    let json: serde_json::Value =
        serde_json::from_str(&env.ctl(&["list", "--json", "--failed"]).stdout).unwrap();
    assert_eq!(json["units"][0]["name"], "bad");
}

#[test]
fn another_machine_is_asked_by_ssh() {
    let env = APP.start();
    let bin = env.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(AETERNACTL, bin.join("aeternactl")).unwrap();
    let asked = env.path("asked");
    // What sshd does with the last word.
    let script = format!(
        "#!/bin/sh\nprintf '%s|' \"$@\" >> {}\nfor last; do :; done\n\
         case $3 in gone) exit 255;; esac\nexec sh -c \"$last\"\n",
        asked.display()
    );
    std::fs::write(bin.join("ssh"), script).unwrap();
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = |arguments: &[&str]| {
        let mut command = env.command(AETERNACTL);
        command.env("PATH", &path).env("AETERNA_RUNTIME_DIR", env.runtime_dir()).args(arguments);
        env.finish(command)
    };
    let there = run(&["-H", "root@web1", "status", "app", "--json"]);
    assert_eq!(there.code, 0, "{there:?}");
    let status: serde_json::Value = serde_json::from_str(&there.stdout).unwrap();
    assert_eq!(status["units"][0]["name"], "app");
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), "-T|--|root@web1|aeternactl status --json -- app|");
    let why = "it's $(touch /nonexistent/x) \"new\"";
    let reload = run(&["reload", "app", "--reason", why, "--host=web1"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    assert!(env.ctl(&["history", "app", "--json"]).stdout.contains("it's $(touch /nonexistent/x)"));
    assert_eq!(run(&["-Hweb1", "status", "nosuch"]).code, 6, "its exit status is ours");
    let gone = run(&["-H", "gone", "status"]);
    assert!(gone.code == 5 && gone.stderr.contains("gone could not be asked"), "{gone:?}");
    let units = run(&["--host=web1", "completions", "units"]);
    assert_eq!(units.stdout, "app\n", "{units:?}");
    assert!(std::fs::read_to_string(&asked).unwrap().contains("BatchMode=yes"));
}
