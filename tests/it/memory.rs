//! A new generation may not take the machine's memory, and the old one with it.

use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::{Env, hammer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Answers on descriptor 3. After READY=1 it takes memory as `LEAK` says: `all` until somebody stops it, a folder until
/// little is left of that control group's.
const SERVICE: &str = r##"
import os, socket, threading
def leak():
    kept, wanted = [], os.environ["LEAK"]
    def read(*names):
        for name in names:
            try:
                return int(open(os.path.join(wanted, name)).read())
            except OSError:
                pass
    def left():
        return read("memory.max", "memory.limit_in_bytes") - read("memory.current", "memory.usage_in_bytes")
    while wanted and (wanted == "all" or left() > 5 << 20):
        kept.append(bytearray(b"x") * (1 << 20))
    threading.Event().wait()
listener = socket.socket(fileno=3)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
s.send(b"READY=1")
threading.Thread(target=leak, daemon=True).start()
while True:
    c, _ = listener.accept()
    try:
        c.recv(65536)
        c.sendall(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        c.shutdown(socket.SHUT_WR)
        c.recv(1)
    except OSError:
        pass
    c.close()
"##;

/// A control group with a memory limit, of whichever version has the controller here.
struct Group {
    path: PathBuf,
}

impl Group {
    fn new(name: &str, limit: u64) -> Option<Group> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let found = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let has = |file: &str| {
                fs::read_to_string(Path::new(point).join(file)).is_ok_and(|text| text.contains("memory"))
            };
            match kind {
                "cgroup" if options.split(',').any(|option| option == "memory") => {
                    Some((point, "memory.limit_in_bytes"))
                }
                "cgroup2" if has("cgroup.subtree_control") => Some((point, "memory.max")),
                _ => None,
            }
        });
        let (point, file) = found?;
        let path = Path::new(point).join(format!("aeterna-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Group { path };
        fs::write(group.path.join(file), limit.to_string()).ok()?;
        // Swap would put off what the test is about.
        for (file, none) in [("memory.swap.max", "0"), ("memory.swappiness", "0")] {
            let _ = fs::write(group.path.join(file), none);
        }
        Some(group)
    }

    /// A command that runs aeternad in it.
    fn command(&self, env: &Env) -> Command {
        let mut command = env.command("sh");
        command.args(["-c", "echo $$ >\"$0\"/cgroup.procs && exec \"$@\""]);
        command.arg(&self.path).arg(common::AETERNAD);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn write(env: &Env, leak: &str, more: &str) {
    env.unit(
        "app",
        &format!(
            "[[Socket]]\nListenStream = \"127.0.0.1:0\"\n\
             [Service]\nExecStart = [\"python3\", \"{{dir}}/app.py\"]\nType = \"notify\"\n\
             Environment = {{ LEAK = \"{leak}\" }}\n{more}\n\
             [Reload]\nSoakTime = \"10min\"\nDrainTimeout = \"5s\"\n"
        ),
    );
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// A group, and the old generation that serves in it.
fn serving_in_a_group(name: &str, limit: u64) -> Option<(Group, Env)> {
    let Some(group) = Group::new(name, limit) else {
        common::skip("no control group with a memory limit can be made here");
        return None;
    };
    let mut env = Env::new();
    env.file("app.py", SERVICE);
    write(&env, "", "");
    let units = env.path("units");
    let command = group.command(&env);
    env.launch_by(command, &["--unit", units.to_str().unwrap()]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    Some((group, env))
}

#[test]
fn a_leaking_newcomer_is_killed_for_memory_and_the_old_one_answers_every_request() {
    let Some((_group, env)) = serving_in_a_group("leak", 128 << 20) else { return };
    let old = env.main_pid("app");
    let clients = hammer::Hammer::start(&hammer::To::Port(port(&env.address("app", 0))), hammer::HTTP);
    write(&env, "all", "");
    let done = env.ctl(&["reload", "app"]);
    assert_eq!(done.code, 3, "{done:?}");
    // Whichever is noticed first: the end, the kernel's count, or that little is left.
    let said = ["was killed by the kernel for memory", "to the kernel's OOM killer", "memory runs out"];
    assert!(said.iter().any(|words| done.stdout.contains(words)), "{done:?}");
    env.wait_unit("app", "the old one alone", |u| u.state == UnitState::Running && u.generations.len() == 1);
    assert_eq!(env.main_pid("app"), old);
    let (answered, failed) = clients.finish();
    assert!(failed.is_empty() && answered > 0, "{answered} {failed:?}");
}

#[test]
fn a_newcomer_is_rolled_back_before_the_kernel_has_to_choose() {
    let Some((group, env)) = serving_in_a_group("little", 256 << 20) else { return };
    let old = env.main_pid("app");
    write(&env, group.path.to_str().unwrap(), "");
    let mark = env.mark();
    let reload = env.ctl_start(&["reload", "app"]);
    let end = env.wait_reloaded("app", mark);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    let done = env.finish_child(reload);
    assert!(
        done.stdout.contains("memory runs out: ") && done.stdout.contains(" of the control group /"),
        "{done:?}"
    );
    assert_eq!(env.main_pid("app"), old);
}

#[test]
fn a_service_that_the_kernel_has_killed_for_memory_is_told_so() {
    let Some(group) = Group::new("result", 96 << 20) else {
        return common::skip("no control group with a memory limit can be made here");
    };
    let mut env = Env::new();
    env.file("app.py", SERVICE);
    env.unit("bystander", "[Service]\nExecStart = [\"sleep\", \"1000\"]\n");
    write(&env, "all", "ExecStopPost = [\"sh\", \"-c\", \"echo $SERVICE_RESULT >{dir}/result\"]");
    let units = env.path("units");
    let command = group.command(&env);
    env.launch_by(command, &["--unit", units.to_str().unwrap()]);
    env.wait_control();
    let failed = env.wait_state("app", UnitState::Failed);
    assert!(failed.why.contains("was killed by the kernel for memory"), "{}", failed.why);
    assert_eq!(fs::read_to_string(env.path("result")).unwrap(), "oom-kill\n");
}

/// The badness of a process.
fn badness(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default().trim().to_owned()
}

#[test]
fn a_newcomer_goes_first_until_it_is_promoted_its_children_too() {
    let mut env = Env::new();
    let own = badness(std::process::id().cast_signed()).parse::<i32>().unwrap();
    let asked = (own + 7).min(1000);
    // A child that was forked, and one that has chosen for itself.
    let text = format!(
        "[Service]\nExecStart = [\"sh\", \"-c\", \"sleep 1000 & (echo 999 >/proc/self/oom_score_adj; exec sleep 1001) & exec sleep 1002\"]\n\
         OOMScoreAdjust = {asked}\n[Reload]\nSoakTime = \"10min\"\n"
    );
    env.unit("app", &text);
    env.start();
    env.wait_state("app", UnitState::Running);
    let of = |env: &Env, generation: u32| {
        let status = env.unit_status("app");
        let main = status.generations.iter().find(|one| one.number == generation).unwrap().pids[0];
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap());
        let mut all: Vec<String> = [main].into_iter().chain(children).map(badness).collect();
        all.sort();
        all
    };
    let asked = asked.to_string();
    let mut usual = vec![asked.clone(), asked, "999".to_owned()];
    usual.sort();
    env.wait("the first generation's values", || (of(&env, 1) == usual).then_some(()));
    let waiting = env.ctl_start(&["reload", "app"]);
    env.wait_state("app", UnitState::Soaking);
    env.wait("the newcomer's values", || (of(&env, 2) == ["1000", "1000", "999"]).then_some(()));
    assert_eq!(of(&env, 1), usual);
    assert_eq!(env.ctl(&["promote", "app"]).code, 0);
    env.finish_child(waiting);
    env.wait("the values of who serves", || (of(&env, 2) == usual).then_some(()));
}

#[test]
fn a_service_does_not_inherit_aeternads_own_protection() {
    let mut env = Env::new();
    env.unit("app", "[Service]\nExecStart = [\"sleep\", \"1000\"]\n");
    let mut command = env.command("sh");
    command.args([
        "-c",
        "echo -900 >/proc/self/oom_score_adj || exit 9; exec \"$@\"",
        "sh",
        common::AETERNAD,
    ]);
    if fs::write("/proc/thread-self/oom_score_adj", "-1").is_err() {
        // A right that root of a container lacks is nothing that .ci/run could install.
        eprintln!("skipped: nobody may lower a badness here (CAP_SYS_RESOURCE)");
        return;
    }
    fs::write("/proc/thread-self/oom_score_adj", "0").unwrap();
    let units = env.path("units");
    env.launch_by(command, &["--unit", units.to_str().unwrap()]);
    env.wait_control();
    env.wait_state("app", UnitState::Running);
    assert_eq!(badness(env.pid()), "-900");
    assert_eq!(badness(env.main_pid("app")), "0");
}
