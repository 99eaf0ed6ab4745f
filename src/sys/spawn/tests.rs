//! Tests of starting programs. What a child is like is read from /proc, from outside, while it waits for its input.

use super::*;
use crate::sys::pin::Pin;
use crate::sys::testing::isolated;
use crate::sys::wait;
use crate::sys::{capability, cgroup::CgroupRoot, fd, limits, process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Every way to make a process, each without the others.
const EACH: [[Way; 1]; 2] = [[clone::by_clone3], [clone::by_clone]];

fn text(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// The pipes of a child: it waits for its input, what it says comes out.
struct Pipes {
    input: (OwnedFd, OwnedFd),
    output: (OwnedFd, OwnedFd),
    null: OwnedFd,
}

impl Pipes {
    fn new() -> Pipes {
        Pipes { input: fd::pipe().unwrap(), output: fd::pipe().unwrap(), null: fd::dev_null().unwrap() }
    }

    /// A plan of a shell that runs `script`, says "up" and waits.
    fn shell(&self, script: &str) -> Plan<'_> {
        let mut plan =
            Plan::new(c"/bin/sh".into(), [self.input.0.as_fd(), self.output.1.as_fd(), self.null.as_fd()]);
        plan.argv = vec![text("sh"), text("-c"), text(&format!("{script}\necho up; read line"))];
        plan
    }

    /// Starts the plan and returns the child when it waits.
    fn start(&self, plan: &Plan<'_>, way: Way) -> Waiting {
        let process = spawn_by(plan, &[way]).unwrap();
        let child = Waiting { process };
        self.wait_up(&child);
        child
    }

    /// Waits until the child says "up".
    fn wait_up(&self, child: &Waiting) {
        let pidfd = child.process.pidfd.as_ref().unwrap();
        let mut slots = [self.output.0.as_fd(), pidfd.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut slots, PollTimeout::NONE).unwrap();
        assert_eq!(slots[0].any(), Some(true), "it has ended without a word");
        let mut line = String::new();
        BufReader::new(File::from(self.output.0.try_clone().unwrap())).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
    }
}

/// A child that waits; ended and reaped when dropped.
struct Waiting {
    process: Process,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        process::kill(self.process.pid, libc::SIGKILL).unwrap();
        wait::reap(self.process.pid).unwrap();
    }
}

impl Waiting {
    fn proc(&self, file: &str) -> String {
        let bytes = fs::read(format!("/proc/{}/{file}", self.process.pid)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn status(&self, key: &str) -> String {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn descriptors(&self) -> Vec<(i32, String)> {
        let folder = format!("/proc/{}/fd", self.process.pid);
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let target = fs::read_link(entry.path()).unwrap();
                (entry.file_name().to_str().unwrap().parse().unwrap(), target.to_string_lossy().into_owned())
            })
            .collect();
        all.sort();
        all
    }

    fn environment(&self) -> Vec<String> {
        let mut all: Vec<String> = self.proc("environ").split_terminator('\0').map(str::to_owned).collect();
        all.sort();
        all
    }
}

/// What a descriptor of ours is open on.
fn target(fd: &impl AsRawFd) -> String {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().to_string_lossy().into_owned()
}

/// Sets one disposition past the C library, which hides two signals.
fn ignore(signal: i32) {
    let action = [libc::SIG_IGN, 0, 0, 0, 0, 0, 0, 0];
    let none: *mut libc::c_void = std::ptr::null_mut();
    // SAFETY: the kernel reads one sigaction, not longer than `action`.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, none, size_of::<u64>()) };
}

#[test]
fn a_child_has_an_empty_mask_and_default_dispositions() {
    isolated("sys::spawn::tests::a_child_has_an_empty_mask_and_default_dispositions", || {
        let _saved = crate::sys::signal::block_all().unwrap();
        for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGPIPE, 32, 33, 64] {
            ignore(signal);
        }
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            let sigpipe = format!("{:016x}", 1_u64 << (libc::SIGPIPE - 1));
            for (ignored, mask) in [(false, "0000000000000000"), (true, &sigpipe)] {
                plan.ignore_sigpipe = ignored;
                let child = pipes.start(&plan, way);
                assert_eq!(child.status("SigBlk"), "0000000000000000");
                assert_eq!(child.status("SigPnd"), "0000000000000000");
                assert_eq!(child.status("SigIgn"), mask);
            }
            // Ours are as they were.
            let own = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(!own.contains("SigBlk:\t0000000000000000"), "{own}");
            let ignored = own.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
            assert!(u64::from_str_radix(ignored, 16).unwrap() & (1 << 63) != 0, "{own}");
        }
    });
}

#[test]
fn a_child_has_its_descriptors_in_order_and_nothing_else() {
    isolated("sys::spawn::tests::a_child_has_its_descriptors_in_order_and_nothing_else", || {
        // In this process 3 and above are free: the files get the very numbers that the child's are to have.
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<OwnedFd> =
            (0..6).map(|n| File::create(folder.path().join(n.to_string())).unwrap().into()).collect();
        let number = |n: usize| files[n].as_raw_fd();
        assert_eq!(number(5) - number(0), 5, "consecutive numbers");
        // One that is not close-on-exec, as another program may have left it.
        let stray = fd::dev_null().unwrap();
        fd::set_close_on_exec(stray.as_fd(), fd::CloseOnExec::No).unwrap();
        for [way] in EACH {
            let pipes = Pipes::new();
            for order in
                [vec![0, 1, 2, 3], vec![1, 0, 3, 2], vec![3, 0, 1, 2], vec![0, 0, 5, 1, 1, 2], vec![]]
            {
                let mut plan = pipes.shell("");
                plan.fds = order.iter().map(|n| files[*n].as_fd()).collect();
                let child = pipes.start(&plan, way);
                let mut expected =
                    vec![(0, target(&pipes.input.0)), (1, target(&pipes.output.1)), (2, "/dev/null".into())];
                expected.extend((3..).zip(order.iter().map(|n| target(&files[*n]))));
                assert_eq!(child.descriptors(), expected, "{order:?}");
            }
        }
    });
}

#[test]
fn standard_streams_can_be_our_own_or_exchanged_or_one() {
    isolated("sys::spawn::tests::standard_streams_can_be_our_own_or_exchanged_or_one", || {
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            // Ours: 0 is /dev/null, 1 and 2 are pipes to the test.
            let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
            plan.fds = vec![stdin.as_fd(), stderr.as_fd()];
            plan.stdio[2] = pipes.output.1.as_fd();
            let child = pipes.start(&plan, way);
            let own = [target(&stdin), target(&stderr)];
            let output = target(&pipes.output.1);
            let expected = [target(&pipes.input.0), output.clone(), output, own[0].clone(), own[1].clone()];
            assert_eq!(child.descriptors(), Vec::from_iter((0..).zip(expected)));
            drop(child);
            // src == dst: close-on-exec is cleared, nothing moves.
            fd::set_close_on_exec(stderr.as_fd(), fd::CloseOnExec::Yes).unwrap();
            plan.fds.clear();
            plan.stdio[2] = stderr.as_fd();
            let child = pipes.start(&plan, way);
            assert_eq!(child.descriptors().get(2), Some(&(2, own[1].clone())));
        }
    });
}

#[test]
fn three_hundred_descriptors_and_a_long_environment_arrive() {
    isolated("sys::spawn::tests::three_hundred_descriptors_and_a_long_environment_arrive", || {
        fd::raise_nofile().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<OwnedFd> =
            (0..300).map(|n| File::create(folder.path().join(n.to_string())).unwrap().into()).collect();
        let env: Vec<CString> = (0..1_000).map(|n| text(&format!("V{n:04}={}", "x".repeat(500)))).collect();
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            // Backwards, so that every one is in the way of another.
            plan.fds = files.iter().rev().map(|file| file.as_fd()).collect();
            plan.env = env.clone();
            // A smaller limit is for the program: it does not stop the descriptors.
            plan.limits = vec![(libc::RLIMIT_NOFILE as i32, 400, 400)];
            let child = pipes.start(&plan, way);
            let expected: Vec<_> = (3..).zip(files.iter().rev().map(target)).collect();
            assert_eq!(child.descriptors()[3..], expected);
            assert_eq!(child.environment(), env.iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>());
        }
    });
}

#[test]
fn the_childs_pid_is_in_its_environment() {
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.env = vec![text("A=1"), text("LISTEN_PID=999"), text("LISTEN_PIDX=2"), text("WATCHDOG_PID=7")];
        let child = pipes.start(&plan, way);
        assert_eq!(child.environment(), ["A=1", "LISTEN_PID=999", "LISTEN_PIDX=2", "WATCHDOG_PID=7"]);
        drop(child);
        plan.stamp_listen_pid = true;
        let child = pipes.start(&plan, way);
        let pid = child.process.pid;
        let expected =
            ["A=1".to_owned(), format!("LISTEN_PID={pid}"), "LISTEN_PIDX=2".into(), "WATCHDOG_PID=7".into()];
        assert_eq!(child.environment(), expected);
        drop(child);
        plan.stamp_watchdog_pid = true;
        let child = pipes.start(&plan, way);
        let pid = child.process.pid;
        assert!(child.environment().contains(&format!("LISTEN_PID={pid}")));
        assert!(child.environment().contains(&format!("WATCHDOG_PID={pid}")));
        assert_eq!(child.environment().len(), 4);
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.argv = ["other-name", "-c", "echo up; read line", "zero", "", "a b", "ü"].map(text).to_vec();
        let child = pipes.start(&plan, way);
        let line = child.proc("cmdline");
        assert_eq!(line, "other-name\0-c\0echo up; read line\0zero\0\0a b\0ü\0");
    }
}

/// A file with a mode.
fn program(folder: &Path, name: &str, content: &[u8], mode: u32) -> CString {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    text(path.to_str().unwrap())
}

/// The failure to start a plan; not the one that is no fault of the plan, but of another test that forks while a program
/// file is open for writing here.
fn failure(plan: &Plan<'_>, way: Way) -> SpawnError {
    loop {
        let failure = spawn_by(plan, &[way]).unwrap_err();
        if failure.errno != libc::ETXTBSY {
            return failure;
        }
    }
}

#[test]
fn a_program_that_cannot_be_executed_is_told_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let missing = text(at.join("missing").to_str().unwrap());
    for (path, errno, words) in [
        (missing, libc::ENOENT, "No such file"),
        (program(at, "data", b"#!/bin/sh\n", 0o644), libc::EACCES, "make it executable"),
        (program(at, "interpreter", b"#!/no/such/interpreter\n", 0o755), libc::ENOENT, "its interpreter /no"),
        (program(at, "nothing", b"just text\n", 0o755), libc::ENOEXEC, "#!/bin/sh"),
        (text(at.to_str().unwrap()), libc::EACCES, "it is a folder"),
    ] {
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            plan.program = path.clone();
            let failure = failure(&plan, way);
            assert_eq!(failure, SpawnError { stage: Stage::Exec, errno }, "{path:?}");
            let explained = failure.explain(&plan);
            assert!(explained.starts_with("cannot execute /") && explained.contains(words), "{explained}");
            // Nothing is left: the child's copies of the pipe are gone.
            let Pipes { output, .. } = pipes;
            drop(output.1);
            assert_eq!(File::from(output.0).read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn a_failed_child_is_reaped() {
    isolated("sys::spawn::tests::a_failed_child_is_reaped", || {
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            plan.program = text("/no/such/program");
            let before = fd::open_fds().unwrap();
            let failure = spawn_by(&plan, &[way]).unwrap_err();
            assert_eq!(failure.to_string(), "cannot execute the program: No such file or directory");
            // SAFETY: a null status is allowed.
            assert_eq!(unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) }, -1);
            assert_eq!(nix::Error::last(), nix::Error::ECHILD);
            assert_eq!(fd::open_fds().unwrap(), before);
        }
    });
}

#[test]
fn a_way_that_fails_is_followed_by_the_next() {
    fn forbidden(_: &mut Job<'_>, _: &mut clone::Stack, _: clone::Memory<'_>) -> Result<Process, i32> {
        Err(libc::EPERM)
    }
    let pipes = Pipes::new();
    let plan = pipes.shell("");
    let failure = spawn_by(&plan, &[forbidden]).unwrap_err();
    assert_eq!(failure, SpawnError { stage: Stage::Clone, errno: libc::EPERM });
    let process = spawn_by(&plan, &[forbidden, clone::by_clone]).unwrap();
    drop(Waiting { process });
}

#[test]
fn the_pidfd_is_the_childs() {
    for [way] in EACH {
        let pipes = Pipes::new();
        let plan = pipes.shell("");
        let child = pipes.start(&plan, way);
        let pidfd = child.process.pidfd.as_ref().unwrap();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
        assert_eq!(pid.trim(), child.process.pid.to_string());
        assert!(info.contains("flags:\t02000"), "close-on-exec: {info}");
    }
}

#[test]
fn a_child_leads_a_session_of_its_own() {
    for [way] in EACH {
        let pipes = Pipes::new();
        let plan = pipes.shell("");
        let child = pipes.start(&plan, way);
        let stat = process::stat(child.process.pid).unwrap();
        assert_eq!((stat.session, stat.parent), (child.process.pid, process::pid()));
        // SAFETY: takes a number.
        assert_eq!(unsafe { libc::getpgid(child.process.pid) }, child.process.pid);
    }
}

#[test]
fn umask_nice_limits_processors_and_badness_are_set() {
    isolated("sys::spawn::tests::umask_nice_limits_processors_and_badness_are_set", || {
        let own_badness = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let own_umask = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            status.lines().find(|line| line.starts_with("Umask")).unwrap().to_owned()
        };
        let before = own_umask();
        // The first that we may use: in a container it need not be number 0.
        let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let processor = (0..).find(|number| own.is_set(*number).unwrap()).unwrap() as u32;
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            plan.umask = 0o027;
            plan.nice = Some(7);
            plan.limits = vec![(libc::RLIMIT_CORE as i32, 0, 0), (libc::RLIMIT_NOFILE as i32, 123, 456)];
            plan.oom_score_adjust = Some((own_badness.trim().parse::<i32>().unwrap() + 11).min(1_000));
            plan.cpu_affinity = vec![processor];
            plan.no_new_privileges = true;
            let child = pipes.start(&plan, way);
            assert_eq!(child.status("Umask"), "0027");
            // SAFETY: takes numbers.
            assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, child.process.pid as libc::id_t) }, 7);
            let limits = child.proc("limits");
            let line = |title: &str| {
                let line = limits.lines().find(|line| line.starts_with(title)).unwrap();
                line[title.len()..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(
                (line("Max core file size"), line("Max open files")),
                ("0 0".into(), "123 456".into())
            );
            assert_eq!(child.proc("oom_score_adj").trim(), plan.oom_score_adjust.unwrap().to_string());
            assert_eq!(child.status("Cpus_allowed_list"), processor.to_string());
            assert_eq!(child.status("NoNewPrivs"), "1");
        }
        // The child shared our memory, not these.
        assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").unwrap(), own_badness);
        assert_eq!(own_umask(), before);
    });
}

#[test]
fn who_goes_first_has_the_highest_badness_and_may_have_less_again_without_a_privilege() {
    let own = crate::sys::oom_score::own().unwrap();
    let nobody = Credentials { uid: 65_534, gid: 65_534, groups: Vec::new() };
    for [way] in EACH {
        let pipes = Pipes::new();
        // The kernel says EACCES to whoever wants less than what a privileged process has raised it to.
        let mut plan = pipes.shell(
            "echo up; read line; read -r badness </proc/self/oom_score_adj; [ $badness = 1000 ] || exit 1\n\
                                    echo $own >/proc/self/oom_score_adj || exit 1",
        );
        plan.env.push(text(&format!("own={own}")));
        plan.oom_goes_first = true;
        plan.credentials = (crate::sys::user::effective_uid() == 0).then(|| nobody.clone());
        let child = pipes.start(&plan, way);
        assert_eq!(child.proc("oom_score_adj").trim(), "1000");
        nix::unistd::write(&pipes.input.1, b"\n").unwrap();
        pipes.wait_up(&child);
        assert_eq!(child.proc("oom_score_adj").trim(), own.to_string());
        assert_eq!(crate::sys::oom_score::own(), Some(own));

        let mut plan = pipes.shell("");
        plan.oom_goes_first = true;
        plan.oom_score_adjust = Some((own + 11).min(1_000));
        let child = pipes.start(&plan, way);
        assert_eq!(child.proc("oom_score_adj").trim(), "1000");
        assert_eq!(child.descriptors().len(), 3);
        assert_eq!(crate::sys::oom_score::put_back(&[child.process.pid], own + 11).unwrap(), 1);
        assert_eq!(child.proc("oom_score_adj").trim(), (own + 11).to_string());
    }
}

#[test]
fn what_is_not_in_the_plan_stays_as_ours() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    for [way] in EACH {
        let pipes = Pipes::new();
        let plan = pipes.shell("");
        let child = pipes.start(&plan, way);
        for key in ["Uid", "Gid", "Groups", "NoNewPrivs", "Cpus_allowed_list", "CapEff"] {
            let line = own.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
            assert_eq!(child.status(key), line.split_whitespace().collect::<Vec<_>>().join(" "), "{key}");
        }
        let cwd = fs::read_link(format!("/proc/{}/cwd", child.process.pid)).unwrap();
        assert_eq!(cwd, std::env::current_dir().unwrap());
        assert_eq!(child.status("Umask"), "0022");
    }
}

#[test]
fn settings_that_the_kernel_refuses_are_told_exactly() {
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.limits = vec![(libc::RLIMIT_CORE as i32, 2, 1)];
        assert_eq!(failure(&plan, way), SpawnError { stage: Stage::Limits, errno: libc::EINVAL });
        let mut plan = pipes.shell("");
        plan.cpu_affinity = vec![8_000];
        assert_eq!(failure(&plan, way), SpawnError { stage: Stage::Affinity, errno: libc::EINVAL });
        let mut plan = pipes.shell("");
        plan.oom_score_adjust = Some(5_000);
        assert_eq!(failure(&plan, way), SpawnError { stage: Stage::OomScore, errno: libc::EINVAL });
        let mut plan = pipes.shell("");
        plan.cgroup = Some(pipes.null.as_fd());
        let refused = failure(&plan, way);
        assert!(matches!(refused.stage, Stage::Cgroup | Stage::Clone), "{refused}");
    }
}

#[test]
fn a_limit_that_may_not_be_had_is_as_high_as_it_may_be() {
    isolated("sys::spawn::tests::a_limit_that_may_not_be_had_is_as_high_as_it_may_be", || {
        let (core, nofile) = (libc::RLIMIT_CORE as i32, libc::RLIMIT_NOFILE as i32);
        limits::set_limit(nofile, 300, 400).unwrap();
        if is_root() {
            nix::unistd::setresgid(3_456.into(), 3_456.into(), 3_456.into()).unwrap();
            nix::unistd::setresuid(3_456.into(), 3_456.into(), 3_456.into()).unwrap();
        }
        for [way] in EACH {
            for (soft, expected) in [(350, "350 400"), (u64::MAX, "400 400")] {
                let pipes = Pipes::new();
                let mut plan = pipes.shell("");
                plan.limits = vec![(core, 0, 0), (nofile, soft, u64::MAX)];
                let child = pipes.start(&plan, way);
                assert_eq!(child.process.lowered, 1 << nofile);
                let limits = child.proc("limits");
                let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
                let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
                assert_eq!(numbers.join(" "), expected);
            }
        }
    });
}

#[test]
fn a_cgroup_that_cannot_be_joined_is_told_as_such() {
    let pipes = Pipes::new();
    let mut plan = pipes.shell("");
    let folder: OwnedFd = File::open("/").unwrap().into();
    plan.cgroup = Some(folder.as_fd());
    let refused = spawn(&plan).unwrap_err();
    assert_eq!(refused, SpawnError { stage: Stage::Cgroup, errno: libc::ENOENT });
    assert_eq!(refused.explain(&plan), "cannot join the cgroup of /bin/sh: No such file or directory");
}

#[test]
fn a_child_starts_in_its_cgroup() {
    let Some(root) = CgroupRoot::probe("aeterna-test-spawn") else {
        println!("skipped: no cgroup can be made here");
        return;
    };
    for (name, [way]) in ["clone3", "clone"].into_iter().zip(EACH) {
        let group = root.make(name).unwrap();
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.cgroup = Some(group.dir_fd());
        let child = pipes.start(&plan, way);
        assert!(
            child.proc("cgroup").lines().any(|line| line.starts_with("0::") && line.ends_with(group.name()))
        );
        assert_eq!(group.pids(), [child.process.pid]);
        group.kill().unwrap();
        drop(child);
        while group.populated() {
            std::thread::yield_now();
        }
        // What was killed once takes processes again.
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.cgroup = Some(group.dir_fd());
        plan.joins_cgroup = group.was_killed();
        let child = pipes.start(&plan, way);
        assert_eq!(group.pids(), [child.process.pid]);
        drop(child);
        while group.populated() {
            std::thread::yield_now();
        }
        group.remove().unwrap();
    }
}

#[test]
fn the_working_directory_is_entered_or_its_failure_told() {
    let folder = tempfile::tempdir().unwrap();
    let real = fs::canonicalize(folder.path()).unwrap();
    let missing = text(real.join("missing").to_str().unwrap());
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        let cwd = |child: &Waiting| fs::read_link(format!("/proc/{}/cwd", child.process.pid)).unwrap();
        plan.directory = Some(text(real.to_str().unwrap()));
        assert_eq!(cwd(&pipes.start(&plan, way)), real);
        plan.directory = Some(missing.clone());
        let refused = failure(&plan, way);
        assert_eq!(refused, SpawnError { stage: Stage::Directory, errno: libc::ENOENT });
        let expected =
            format!("cannot change to the directory {}/missing: No such file or directory", real.display());
        assert_eq!(refused.explain(&plan), expected);
        plan.directory_optional = true;
        assert_eq!(cwd(&pipes.start(&plan, way)), std::env::current_dir().unwrap());
    }
}

fn is_root() -> bool {
    let root = crate::sys::user::effective_uid() == 0;
    if !root {
        println!("skipped: only root becomes somebody else");
    }
    root
}

#[test]
fn credentials_are_dropped_for_good_with_all_our_groups() {
    if !is_root() {
        return;
    }
    isolated("sys::spawn::tests::credentials_are_dropped_for_good_with_all_our_groups", || {
        nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(0), nix::unistd::Gid::from_raw(4)]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(3_456), Some(4_567)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for [way] in EACH {
            for (groups, listed) in [(vec![], ""), (vec![4_567, 5_678], "4567 5678")] {
                let pipes = Pipes::new();
                let mut plan = pipes.shell("");
                plan.credentials = Some(Credentials { uid: 3_456, gid: 4_567, groups });
                // Needs the old user's rights: comes before. Needs the new user's: comes after.
                plan.nice = Some(-5);
                plan.directory = Some(text(folder.path().to_str().unwrap()));
                plan.no_new_privileges = true;
                let child = pipes.start(&plan, way);
                assert_eq!(child.status("Uid"), "3456 3456 3456 3456");
                assert_eq!(child.status("Gid"), "4567 4567 4567 4567");
                assert_eq!(child.status("Groups"), listed);
                assert_eq!(child.status("CapEff"), "0000000000000000");
                assert_eq!(child.status("CapPrm"), "0000000000000000");
                drop(child);
                // Our own memory is still ours to look at.
                // SAFETY: the option takes no pointer.
                assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 1);
                assert_eq!(crate::sys::user::effective_uid(), 0);
            }
        }
    });
}

#[test]
fn a_directory_that_is_closed_to_the_user_is_told_although_we_may_enter_it() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.credentials = Some(Credentials { uid: 3_456, gid: 3_456, groups: vec![] });
        plan.directory = Some(text(folder.path().to_str().unwrap()));
        assert_eq!(failure(&plan, way), SpawnError { stage: Stage::Directory, errno: libc::EACCES });
    }
}

#[test]
fn without_root_nobody_becomes_somebody_else_but_everybody_stays_himself() {
    if !is_root() {
        return;
    }
    isolated(
        "sys::spawn::tests::without_root_nobody_becomes_somebody_else_but_everybody_stays_himself",
        || {
            nix::unistd::setgroups(&[]).unwrap();
            nix::unistd::setresgid(3_456.into(), 3_456.into(), 3_456.into()).unwrap();
            nix::unistd::setresuid(3_456.into(), 3_456.into(), 3_456.into()).unwrap();
            for [way] in EACH {
                let pipes = Pipes::new();
                let mut plan = pipes.shell("");
                let become_user = |uid, gid, groups| Some(Credentials { uid, gid, groups });
                for (credentials, stage) in [
                    (become_user(0, 3_456, vec![]), Stage::User),
                    (become_user(3_456, 0, vec![]), Stage::Group),
                    (become_user(3_456, 3_456, vec![0]), Stage::Groups),
                ] {
                    plan.credentials = credentials;
                    let refused = failure(&plan, way);
                    assert_eq!(refused, SpawnError { stage, errno: libc::EPERM });
                    assert!(refused.explain(&plan).contains("only root can become another user"));
                }
                plan.credentials = become_user(3_456, 3_456, vec![3_456]);
                assert_eq!(pipes.start(&plan, way).status("Uid"), "3456 3456 3456 3456");
            }
        },
    );
}

/// A folder with a shell of our own in it, and the pin of that.
fn own_shell() -> (tempfile::TempDir, std::path::PathBuf, Pin) {
    let folder = tempfile::tempdir().unwrap();
    let program = fs::canonicalize(folder.path()).unwrap().join("app");
    fs::copy("/bin/sh", &program).unwrap();
    let pin = Pin::program(&program).unwrap();
    (folder, program, pin)
}

fn pinned(pin: &Pin, by: ByDescriptor) -> Option<Pinned<'_>> {
    let is = (pin.was().dev, pin.was().ino);
    Some(Pinned { fd: pin.fd(), is, other: None, by })
}

/// The program of a child: what /proc says it is, and its inode.
fn exe(child: &Waiting) -> (String, u64) {
    let link = format!("/proc/{}/exe", child.process.pid);
    let name = fs::read_link(&link).unwrap().to_string_lossy().into_owned();
    (name, std::os::unix::fs::MetadataExt::ino(&fs::metadata(&link).unwrap()))
}

#[test]
fn a_held_program_runs_by_its_name_and_when_that_means_another_by_its_descriptor() {
    let (folder, program, pin) = own_shell();
    let name = program.to_str().unwrap().to_owned();
    for [way] in EACH {
        for (by, replaced) in [
            (ByDescriptor::WhenReplaced, false),
            (ByDescriptor::Always, false),
            (ByDescriptor::WhenReplaced, true),
            (ByDescriptor::Always, true),
        ] {
            let away = folder.path().join("away");
            if replaced {
                fs::rename(&program, &away).unwrap();
                fs::copy("/bin/cat", &program).unwrap();
            }
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            plan.program = text(&name);
            plan.pinned = pinned(&pin, by);
            let child = pipes.start(&plan, way);
            let (shown, inode) = exe(&child);
            assert_eq!(inode, pin.was().ino, "{by:?} {replaced}");
            assert_eq!(shown, if replaced { away.to_str().unwrap() } else { &name });
            assert_eq!(child.descriptors().len(), 3, "{:?}", child.descriptors());
            if !replaced && by == ByDescriptor::WhenReplaced {
                assert_eq!(child.status("Name"), "app");
            }
            drop(child);
            if replaced {
                fs::rename(&away, &program).unwrap();
            }
        }
    }
}

#[test]
fn a_held_program_that_is_nowhere_any_more_runs_with_low_descriptors_in_its_way() {
    isolated(
        "sys::spawn::tests::a_held_program_that_is_nowhere_any_more_runs_with_low_descriptors_in_its_way",
        || {
            let (folder, program, pin) = own_shell();
            drop(folder);
            for [way] in EACH {
                let pipes = Pipes::new();
                let mut plan = pipes.shell("");
                plan.fds = (0..24).map(|_| pipes.null.as_fd()).collect();
                assert!(pin.fd().as_raw_fd() < 27);
                plan.program = text(program.to_str().unwrap());
                plan.pinned = pinned(&pin, ByDescriptor::WhenReplaced);
                let child = pipes.start(&plan, way);
                assert_eq!(exe(&child).1, pin.was().ino);
                assert_eq!(child.descriptors().len(), 27);
            }
        },
    );
}

#[test]
fn a_held_script_runs_by_a_name_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, says: &str| {
        fs::write(at(name), format!("#!/bin/sh\necho {says}; read line")).unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("run", "up");
    let pin = Pin::program(&at("run")).unwrap();
    write("next", "wrong");
    fs::rename(at("run"), at("kept")).unwrap();
    fs::rename(at("next"), at("run")).unwrap();
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.program = text(at("run").to_str().unwrap());
        plan.pinned = pinned(&pin, ByDescriptor::Never);
        let refused = failure(&plan, way);
        assert_eq!(refused, SpawnError { stage: Stage::ExecPinned, errno: libc::ESTALE });
        if let Some(pinned) = &mut plan.pinned {
            pinned.other = Some(text(at("kept").to_str().unwrap()));
        }
        drop(pipes.start(&plan, way));
        if let Some(pinned) = &mut plan.pinned {
            (pinned.other, pinned.by) = (None, ByDescriptor::WhenReplaced);
        }
        assert_eq!(failure(&plan, way), SpawnError { stage: Stage::ExecPinned, errno: libc::ENOENT });
    }
}

#[test]
fn another_folder_of_the_same_name_is_not_entered() {
    let folder = tempfile::tempdir().unwrap();
    let (here, is) = (folder.path().join("a"), |path: &Path| {
        let about = crate::sys::pin::identity(path).unwrap();
        (about.dev, about.ino)
    });
    fs::create_dir(&here).unwrap();
    for [way] in EACH {
        let pipes = Pipes::new();
        let mut plan = pipes.shell("");
        plan.directory = Some(text(here.to_str().unwrap()));
        plan.directory_is = Some(is(&here));
        let cwd = |child: &Waiting| fs::read_link(format!("/proc/{}/cwd", child.process.pid)).unwrap();
        assert_eq!(cwd(&pipes.start(&plan, way)), fs::canonicalize(&here).unwrap());
        plan.directory_is = Some(is(folder.path()));
        assert_eq!(failure(&plan, way), SpawnError { stage: Stage::Directory, errno: libc::ESTALE });
        plan.directory_optional = true;
        assert_eq!(cwd(&pipes.start(&plan, way)), std::env::current_dir().unwrap());
    }
}

#[test]
fn every_stage_has_its_words() {
    let mut words: Vec<&str> =
        (1..=Stage::Checksum as u32).map(|number| Stage::of(number).unwrap().words()).collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), count);
}

/// Ends what may be stopped.
fn end(pid: i32) {
    process::kill(pid, libc::SIGKILL).unwrap();
    wait::reap(pid).unwrap();
}

#[test]
fn whoever_takes_his_time_is_not_waited_for_and_tells_later() {
    isolated("sys::spawn::tests::whoever_takes_his_time_is_not_waited_for_and_tells_later", || {
        for [way] in EACH {
            for patience in [Span::ZERO, Span::from_millis(5)] {
                let pipes = Pipes::new();
                let mut plan = pipes.shell("");
                plan.oom_score_adjust = (!patience.is_zero()).then_some(500);
                let mut started = start_by(&plan, &[way], patience).unwrap();
                let process = loop {
                    match started {
                        Started::Running(process) => break process,
                        Started::Slow(starting) => {
                            assert!(starting.pid() > 1);
                            fd::readable(starting.as_fd(), Span::INFINITY);
                            started = starting.settle().unwrap();
                        }
                    }
                };
                end(process.pid);
            }
        }
    });
}

#[test]
fn a_late_failure_is_as_exact_as_an_early_one() {
    isolated("sys::spawn::tests::a_late_failure_is_as_exact_as_an_early_one", || {
        for [way] in EACH {
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            plan.program = text("/no/such/program");
            let Started::Slow(starting) = start_by(&plan, &[way], Span::ZERO).unwrap() else { panic!() };
            let mut waiting = starting;
            let failure = loop {
                fd::readable(waiting.as_fd(), Span::INFINITY);
                match waiting.settle() {
                    Ok(Started::Slow(again)) => waiting = again,
                    Ok(Started::Running(_)) => panic!("it runs"),
                    Err(failure) => break failure,
                }
            };
            assert_eq!(failure, SpawnError { stage: Stage::Exec, errno: libc::ENOENT });
        }
    });
}

/// A folder that answers nobody until it is dropped, in a mount namespace of this thread. `None` where that cannot be.
struct Silent {
    server: Option<File>,
    folder: tempfile::TempDir,
}

impl Silent {
    fn new() -> Option<Silent> {
        let none: *const libc::c_char = std::ptr::null();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
        // SAFETY: null and terminated strings.
        unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) };
        let folder = tempfile::tempdir().unwrap();
        let server = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let at = text(folder.path().to_str().unwrap());
        let options =
            text(&format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", server.as_raw_fd()));
        // SAFETY: terminated strings.
        let done = unsafe {
            libc::mount(c"silent".as_ptr(), at.as_ptr(), c"fuse".as_ptr(), 0, options.as_ptr().cast())
        };
        (done == 0).then_some(Silent { server: Some(server), folder })
    }

    fn path(&self) -> CString {
        text(self.folder.path().to_str().unwrap())
    }

    /// From now on whoever waits for it, or asks it, hears that nobody is there.
    fn end(&mut self) {
        self.server = None;
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.end();
        let at = self.path();
        // SAFETY: a terminated string.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_folder_that_does_not_answer_holds_up_its_own_child_only() {
    isolated("sys::spawn::tests::a_folder_that_does_not_answer_holds_up_its_own_child_only", || {
        for [way] in EACH {
            let Some(mut silent) = Silent::new() else {
                return println!("skipped: no FUSE, or not root");
            };
            let pipes = Pipes::new();
            let mut plan = pipes.shell("");
            plan.directory = Some(silent.path());
            let other = pipes.shell("");
            for user in [None, as_user(65_534)] {
                plan.credentials = user;
                let Started::Slow(held) = start_by(&plan, &[way], Span::from_millis(20)).unwrap() else {
                    panic!("it has entered it");
                };
                let Started::Slow(held) = held.settle().unwrap() else { panic!("it has executed") };
                // Nothing of ours stays open in it but 0, 1, 2 and the pipe.
                let open = || fs::read_dir(format!("/proc/{}/fd", held.pid())).unwrap().count();
                while open() != 4 {
                    std::thread::yield_now();
                }
                assert!(nix::sys::prctl::get_dumpable().unwrap(), "nobody is left on our memory");
                // Others start meanwhile.
                drop(pipes.start(&other, way));
                process::kill(held.pid(), libc::SIGKILL).unwrap();
                fd::readable(held.as_fd(), Span::INFINITY);
                let Started::Running(process) = held.settle().unwrap() else {
                    panic!("it still prepares itself")
                };
                wait::reap(process.pid).unwrap();
            }
            let Started::Slow(mut held) = start_by(&plan, &[way], Span::from_millis(20)).unwrap() else {
                panic!()
            };
            silent.end();
            let failure = loop {
                fd::readable(held.as_fd(), Span::INFINITY);
                match held.settle() {
                    Ok(Started::Slow(again)) => held = again,
                    Ok(Started::Running(_)) => panic!("it has executed"),
                    Err(failure) => break failure,
                }
            };
            assert_eq!(failure, SpawnError { stage: Stage::Directory, errno: libc::ENOTCONN });
        }
    });
}

#[test]
fn a_child_has_a_session_keyring_of_its_own() {
    isolated("sys::spawn::tests::a_child_has_a_session_keyring_of_its_own", || {
        const JOIN: libc::c_int = 1;
        let name = format!("aeterna-test-{}", std::process::id());
        let wanted = text(&name);
        // SAFETY: a terminated string.
        if unsafe { libc::syscall(libc::SYS_keyctl, JOIN, wanted.as_ptr()) } < 0 {
            return println!("skipped: no keyrings here");
        }
        let session = |keys: &str| keys.lines().any(|line| line.contains(&name));
        assert!(session(&fs::read_to_string("/proc/keys").unwrap()), "we have it");
        for [way] in EACH {
            let (source, sink) = fd::pipe().unwrap();
            let pipes = Pipes::new();
            let mut plan = pipes.shell("cat /proc/keys >&2; exec 2>&-");
            plan.stdio[2] = sink.as_fd();
            // Another user: what is not possessed and not his is not shown to him.
            plan.credentials = as_user(65_534);
            let child = pipes.start(&plan, way);
            drop(sink);
            let mut keys = String::new();
            File::from(source).read_to_string(&mut keys).unwrap();
            assert!(!session(&keys), "{keys}");
            drop(child);
        }
    });
}

#[test]
fn inheritable_capabilities_are_not_handed_on() {
    isolated("sys::spawn::tests::inheritable_capabilities_are_not_handed_on", || {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: only root has capabilities");
        }
        let mut have = capability::Sets::ours().unwrap();
        // CAP_NET_BIND_SERVICE, ambient too.
        have.data[2] |= 1 << 10;
        let (header, data) = (&raw const have.header, &raw const have.data);
        // SAFETY: the kernel reads its header and data.
        assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header, data) }, 0);
        // SAFETY: takes numbers only.
        assert_eq!(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 10, 0, 0) }, 0);
        for [way] in EACH {
            for user in [None, as_user(65_534)] {
                let pipes = Pipes::new();
                let mut plan = pipes.shell("");
                plan.credentials = user;
                let child = pipes.start(&plan, way);
                assert_eq!(child.status("CapInh"), "0000000000000000");
                assert_eq!(child.status("CapAmb"), "0000000000000000");
            }
        }
    });
}

/// Another user without any group but its own.
fn as_user(id: u32) -> Option<Credentials> {
    Some(Credentials { uid: id, gid: id, groups: Vec::new() })
}
