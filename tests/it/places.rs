//! The core of what aeternad promises, in each place where people run it: as PID 1, as an ordinary user, without a
//! capability, without /proc, on a read-only root, under a container runtime's filter of system calls, with other kinds
//! of control groups. In each cell either all of it works, or what does not is said in words that the test reads.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::hammer::{HTTP, Hammer, To, ask};
use common::port::free_port;
use common::{AETERNACTL, AETERNAD, Env, process};
use nix::sys::signal::Signal;
use std::process::Command;

/// Where aeternad runs.
struct Place {
    /// What comes before `aeternad` on the command line.
    prefix: Vec<String>,
    /// What is said of the place, in the log at the start or at the first launch.
    said: &'static [&'static str],
    /// What `aeternactl doctor` says of it there.
    doctor: &'static [&'static str],
    /// Why a program that binds by itself cannot be adopted there; empty where it can.
    unadopted: &'static str,
    /// aeternad is the only child of what was started.
    is_init: bool,
}

impl Place {
    fn behind(prefix: &[&str], doctor: &'static [&'static str]) -> Place {
        Place {
            prefix: prefix.iter().map(|part| (*part).to_owned()).collect(),
            said: &[],
            doctor,
            unadopted: "",
            is_init: false,
        }
    }

    /// Behind a shell that changes its own view of the file systems first.
    fn after(script: &str, doctor: &'static [&'static str]) -> Place {
        Place::behind(&["unshare", "-m", "sh", "-c", &format!("{script} && exec \"$@\""), "sh"], doctor)
    }

    /// The command, or `None` (with a printed reason) where this machine does not allow the place.
    fn command(&self, env: &Env) -> Option<Command> {
        let tried = env.finish(self.run(env, "true"));
        if tried.code != 0 {
            common::skip(&format!("{:?} is not possible here: {}", self.prefix, tried.stderr.trim()));
            return None;
        }
        Some(self.run(env, AETERNAD))
    }

    /// `aeternactl doctor` there.
    fn doctor_command(&self, env: &Env) -> Command {
        let mut command = self.run(env, AETERNACTL);
        command.arg("doctor");
        command
    }

    /// A program there.
    fn run(&self, env: &Env, program: &str) -> Command {
        let mut words = self.prefix.iter().map(String::as_str).chain([program]);
        let mut command = env.command(words.next().unwrap_or(program));
        command.args(words);
        command
    }
}

/// Whose sockets a unit serves: those that aeternad binds, or those that its program binds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sockets {
    Ours,
    Its(u16),
}

fn write(env: &Env, sockets: Sockets, orders: &str) {
    let (head, orders, adopts) = match sockets {
        Sockets::Ours => ("[Socket]\nListenStream = \"127.0.0.1:0\"\n", orders.to_owned(), ""),
        Sockets::Its(port) => ("", format!("bind=127.0.0.1:{port} {orders}"), "InterceptBind = true\n"),
    };
    env.unit(
        "app",
        &format!(
            "{head}[Service]\nExecStart = \"{{probe}} {orders}\"\nType = \"notify\"\nRestart = \"on-failure\"\n\
             RestartSec = \"10ms\"\n{adopts}[Reload]\nSoakTime = \"100ms\"\nDrainTimeout = \"10s\"\n"
        ),
    );
}

/// All of it, with a program that takes its sockets and with one that binds by itself.
fn works(place: impl Fn(&Env) -> Place) {
    for sockets in [Sockets::Ours, Sockets::Its(free_port())] {
        works_with(sockets, &place);
    }
}

/// Start, reload under load, a bad release, rollback, a crash, stop.
fn works_with(sockets: Sockets, place: &impl Fn(&Env) -> Place) {
    let mut env = Env::new();
    let place = place(&env);
    let Some(command) = place.command(&env) else { return };
    write(&env, sockets, "");
    let units = env.path("units").display().to_string();
    env.launch_by(command, &["--unit", &units]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    if sockets != Sockets::Ours && !place.unadopted.is_empty() {
        env.wait_log(place.unadopted);
        return;
    }
    let port = env.wait("its socket", || {
        env.unit_status("app").sockets.first().map(|s| s.address.rsplit_once(':').unwrap().1.parse().unwrap())
    });
    let hammer = Hammer::start(&To::Port(port), HTTP);
    hammer.wait_answers(10);
    let reload = |command: &[&str], outcome: Outcome| {
        let mark = env.mark();
        let done = env.ctl(command);
        let end = env.wait_reloaded("app", mark);
        assert_eq!(end.outcome, Some(outcome), "{done:?}\n{}", env.log());
        hammer.wait_answers(10);
    };
    write(&env, sockets, "note=second");
    reload(&["reload", "app"], Outcome::Promoted);
    write(&env, sockets, "exit=3");
    reload(&["reload", "app"], Outcome::RolledBack);
    reload(&["rollback", "app"], Outcome::Promoted);
    let (answered, failed) = hammer.finish();
    assert!(failed.is_empty(), "{} of {answered} failed: {:?}\n{}", failed.len(), failed.first(), env.log());
    crashes(&env, port);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0, "{}", env.log());
    env.wait_state("app", UnitState::Stopped);
    for said in place.said {
        assert!(env.log().contains(said), "{said:?} is not said in {}", env.log());
    }
    let doctor = env.finish(place.doctor_command(&env)).stdout;
    for row in place.doctor {
        assert!(doctor.contains(row), "{row:?} is not said in {doctor}");
    }
    if place.is_init {
        process::kill(process::children(env.pid())[0], Signal::SIGTERM);
        assert!(env.wait_exit().success(), "{}", env.log());
    }
}

/// A killed main process is started anew.
fn crashes(env: &Env, port: u16) {
    let mark = env.mark();
    let before = env.main_pid("app");
    let done = env.ctl(&["kill", "app", "--signal", "KILL"]);
    assert_eq!(done.code, 0, "{done:?}");
    env.wait_event(mark, "another start", |event| event.kind == "restarting");
    env.wait_unit("app", "another process", |unit| {
        unit.state == UnitState::Running && unit.generations.iter().all(|g| !g.pids.contains(&before))
    });
    ask(&To::Port(port), HTTP).unwrap();
}

fn root(test: fn()) {
    if nix::unistd::geteuid().is_root() {
        test();
    } else {
        common::skip("only root can go to this place");
    }
}

// The words of doctor.
const WITH_NO_NEW_PRIVS: &str = "seccomp notification  limited  InterceptBind works, with no_new_privs";
const NO_EBPF: &str = "eBPF steering         limited  Operation not permitted";
const NO_GROUPS: &str = "cgroups               limited  none can be made here";
const GROUPS: &str = "cgroups               ok       a group for each generation";
const NO_LIMITS: &str = "control limits        limited  the control group cannot be seen here";

/// Another user's process, of no group.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// What containers have by default.
const CONTAINER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,\
                         +sys_chroot,+mknod,+audit_write,+setfcap";

fn file(name: &str) -> String {
    common::repository().join("tests/it/places").join(name).display().to_string()
}

#[test]
fn as_who_runs_the_tests() {
    works(|_| Place::behind(&[], &[]));
}

#[test]
fn as_an_ordinary_user() {
    root(|| {
        works(|env| {
            std::os::unix::fs::chown(env.dir(), Some(65534), Some(65534)).unwrap();
            Place::behind(&NOBODY, &[WITH_NO_NEW_PRIVS, NO_EBPF])
        });
    });
}

#[test]
fn as_pid_1() {
    works(|_| Place {
        is_init: true,
        ..Place::behind(&["unshare", "-Ufpr", "--mount-proc", "--kill-child"], &[])
    });
}

#[test]
fn in_a_container() {
    root(|| {
        works(|_| Place {
            is_init: true,
            ..Place::behind(
                &[
                    "unshare",
                    "-fp",
                    "--mount-proc",
                    "--kill-child",
                    "python3",
                    &file("container.py"),
                    &file("seccomp.json"),
                    "setpriv",
                    "--bounding-set",
                    CONTAINER,
                    "--inh-caps=-all",
                ],
                &[WITH_NO_NEW_PRIVS, NO_EBPF],
            )
        });
    });
}

#[test]
fn without_proc() {
    root(|| {
        works(|_| Place {
            said: &["/proc is missing"],
            unadopted: "/proc does not show it; mount it (mount -t proc proc /proc)",
            ..Place::after(
                "mount -t tmpfs none /proc",
                &[
                    NO_GROUPS,
                    "how many watches there may be is not known",
                    "can wait on a socket is not known",
                ],
            )
        });
    });
}

#[test]
fn on_a_read_only_root() {
    root(|| {
        works(|env| {
            let dir = env.dir().display();
            Place::after(
                &format!("mount --bind {dir} {dir} && mount -o remount,bind,ro / && ! touch /x 2>/dev/null"),
                &[],
            )
        });
    });
}

#[test]
fn without_a_capability() {
    root(|| {
        for (name, doctor) in [
            ("kill", &[][..]),
            ("sys_ptrace", &[]),
            ("bpf", &[]),
            ("sys_admin", &[WITH_NO_NEW_PRIVS]),
            ("chown", &[]),
            ("net_admin", &[]),
            ("dac_override", &[]),
            ("setuid", &[]),
            ("all", &[WITH_NO_NEW_PRIVS, NO_EBPF]),
        ] {
            let without = format!("-{name}");
            works(|_| {
                Place::behind(&["setpriv", "--bounding-set", &without, "--inh-caps", &without], doctor)
            });
        }
    });
}

#[test]
fn in_a_user_namespace() {
    works(|_| Place::behind(&["unshare", "-Ur"], &[]));
}

#[test]
fn with_other_control_groups() {
    root(|| {
        for (script, doctor) in [
            ("mount -t tmpfs none /sys/fs/cgroup", &[NO_GROUPS, NO_LIMITS][..]),
            ("mount -t tmpfs none /sys/fs", &[NO_GROUPS, NO_LIMITS]),
            ("mount -t cgroup2 none /sys/fs/cgroup", &[GROUPS]),
            ("mount -t cgroup2 none /sys/fs/cgroup; mount -o remount,bind,ro /sys/fs/cgroup", &[NO_GROUPS]),
        ] {
            works(|_| Place::after(script, doctor));
        }
    });
}
