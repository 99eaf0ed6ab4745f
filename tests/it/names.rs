//! Names in folders that a service's own user can write: whatever he puts there, nothing else is touched, and nothing
//! waits. As root, with services of another user.

use crate::common;
use aeterna::proto::status::UnitState;
use common::hammer::{HTTP, To, ask};
use common::{Env, skip};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

const NOBODY: u32 = 65_534;

/// A bench whose folder all may pass, with a folder `app` of nobody's and a secret file of root; `None` if we are not
/// root.
fn bench() -> Option<(Env, PathBuf, PathBuf)> {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can start a service as another user");
        return None;
    }
    let env = Env::new();
    fs::set_permissions(env.dir(), Permissions::from_mode(0o755)).unwrap();
    let app = env.path("app");
    fs::create_dir(&app).unwrap();
    chown(&app, Some(NOBODY), Some(NOBODY)).unwrap();
    let secret = env.file("secret", "SECRET=of-root\n");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    Some((env, app, secret))
}

fn is_untouched(secret: &Path) {
    let about = fs::metadata(secret).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o7777, about.nlink()), (0, 0o600, 1));
    assert_eq!(fs::read_to_string(secret).unwrap(), "SECRET=of-root\n");
}

#[test]
fn files_are_opened_with_the_services_rights() {
    let Some((mut env, app, secret)) = bench() else { return };
    symlink(&secret, app.join("link")).unwrap();
    let link = app.join("link").display().to_string();
    for (name, key) in [
        ("out", format!("StandardOutput = \"append:{link}\"")),
        ("file", format!("StandardError = \"file:{link}\"")),
        ("input", format!("StandardInput = \"file:{link}\"")),
        ("env", format!("EnvironmentFile = \"{link}\"")),
    ] {
        env.unit(name, &format!("[Service]\nExecStart = \"{{probe}}\"\nUser = \"nobody\"\n{key}\n"));
    }
    // What only root could have named is opened by root, as ever.
    let log = env.path("log-of-root");
    env.unit(
        "good",
        &format!(
            "[Service]\nExecStart = \"/bin/sh -c 'echo $SECRET; exec sleep 1000'\"\nUser = \"nobody\"\n\
             EnvironmentFile = \"{}\"\nStandardOutput = \"append:{}\"\n",
            secret.display(),
            log.display()
        ),
    );
    env.start();
    for name in ["out", "file", "input", "env"] {
        let why = env.wait_state(name, UnitState::Failed).why;
        assert!(why.contains("Permission denied") && why.contains("opened as uid 65534"), "{name}: {why}");
    }
    env.wait_state("good", UnitState::Running);
    env.wait("its line", || (fs::read_to_string(&log).ok()? == "of-root\n").then_some(()));
    is_untouched(&secret);
}

#[test]
fn a_fifo_or_an_endless_file_holds_nobody_up() {
    let mut env = Env::new();
    let fifo = env.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = fifo.display();
    for (name, key) in [
        ("out", format!("StandardOutput = \"append:{fifo}\"")),
        ("input", format!("StandardInput = \"file:{fifo}\"")),
        ("env", format!("EnvironmentFile = \"{fifo}\"")),
        ("zero", "EnvironmentFile = \"/dev/zero\"".to_owned()),
    ] {
        env.unit(name, &format!("[Service]\nExecStart = \"{{probe}}\"\nType = \"notify\"\n{key}\n"));
    }
    env.start();
    for name in ["out", "input"] {
        env.wait_state(name, UnitState::Running);
    }
    for name in ["env", "zero"] {
        let why = env.wait_state(name, UnitState::Failed).why;
        assert!(why.contains("not a regular file"), "{name}: {why}");
    }
}

/// An intercepted service of nobody's that does what a script says.
fn intercepted(env: &Env, script: &str) -> String {
    let file = env.file(
        "app.py",
        &format!(
            "import os, socket, sys\ndef say(text): os.write(1, (text + chr(10)).encode())\ndef serve(s):\n  while True:\n    c, _ = s.accept(); c.recv(999); c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + os.environ['AETERNA_GENERATION'].encode()); c.close()\n{script}\n"
        ),
    );
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    format!(
        "[Service]\nExecStart = \"/usr/bin/python3 -u {}\"\nInterceptBind = true\n[Reload]\nSoakTime = \"100ms\"\n",
        file.display()
    )
}

#[test]
fn a_path_that_leads_elsewhere_since_it_was_bound_is_not_held() {
    let Some((mut env, app, _)) = bench() else { return };
    let roots = env.path("roots");
    fs::create_dir(&roots).unwrap();
    fs::write(roots.join("shadow"), "of root").unwrap();
    let script = format!(
        "os.chdir('{}')
os.mkdir('sub'); s = socket.socket(socket.AF_UNIX); s.bind('sub/shadow')
os.rename('sub', 'sub2'); os.symlink('{}', 'sub')
s.listen(5); say('listens')
t = socket.socket(socket.AF_UNIX); t.bind('sub2/other'); os.unlink('sub2/other'); open('sub2/other', 'w').close()
t.listen(5); say('listens too'); serve(s)",
        app.display(),
        roots.display()
    );
    let unit = intercepted(&env, &script).replace("[Reload]", "User = \"nobody\"\n[Reload]");
    env.unit("app", &unit);
    env.start();
    env.wait_log("listens too");
    env.wait_log("the name stands for something else than the socket");
    assert_eq!(env.ctl(&["stop", "--close", "app"]).code, 0);
    let left: Vec<_> = fs::read_dir(&roots).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["shadow"], "nothing was made and nothing removed");
    assert_eq!(fs::read_to_string(roots.join("shadow")).unwrap(), "of root");
    assert_eq!(fs::metadata(roots.join("shadow")).unwrap().nlink(), 1);
}

#[test]
fn a_path_below_another_root_stays_over_a_reload() {
    let Some((mut env, ..)) = bench() else { return };
    let jail = env.path("jail");
    fs::create_dir_all(jail.join("run")).unwrap();
    let script = format!(
        "os.chroot('{}'); os.chdir('/')
try: os.unlink('/run/app.sock')
except OSError: pass
s = socket.socket(socket.AF_UNIX); s.bind('/run/app.sock'); s.listen(5); serve(s)",
        jail.display()
    );
    let unit = intercepted(&env, &script);
    env.unit("app", &unit);
    env.start();
    env.wait_state("app", UnitState::Running);
    let to = To::Path(jail.join("run/app.sock"));
    ask(&to, HTTP).unwrap();
    let reloaded = env.ctl(&["reload", "app"]);
    assert_eq!(reloaded.code, 0, "{}", reloaded.stdout);
    ask(&to, HTTP).unwrap();
}

#[test]
fn a_path_in_another_mount_namespace_is_said_not_to_be_held() {
    let Some((mut env, ..)) = bench() else { return };
    let folder = env.path("private");
    fs::create_dir(&folder).unwrap();
    let script = format!(
        "s = socket.socket(socket.AF_UNIX); s.bind('{}/app.sock'); s.listen(5); say('listens'); serve(s)",
        folder.display()
    );
    let unit = intercepted(&env, &script).replace(
        "\"/usr/bin/python3",
        &format!(
            "\"/usr/bin/unshare -m /bin/sh -c 'mount -t tmpfs none {} && exec \\\"$@\\\"' sh /usr/bin/python3",
            folder.display()
        )
        .replace("\\\"", "\\\\\\\""),
    );
    env.unit("app", &unit);
    env.start();
    env.wait_log("in a mount namespace of its own: it binds by itself there");
    env.wait_state("app", UnitState::Running);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}
