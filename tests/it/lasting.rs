//! Nothing on the daemon's main thread lasts as long as a service likes: services that do what makes a system call
//! last, and a `status` that is answered all the same.

use crate::common;
use crate::intercept::{intercepted, python};
use aeterna::proto::status::UnitState;
use common::Env;
use common::port::free_port;

/// A socket that lingers for an hour with data that nobody reads, and ways to hand it to aeternad.
const LINGERING: &str = r#"
import array, os, socket, struct, sys, time

def lingering():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    far.detach()
    near.setblocking(False)
    try:
        while True: near.send(b"x" * 65536)
    except BlockingIOError: pass
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    return near

def rights(near):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [near.fileno()]))]

notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])

def tell(message):
    near = lingering()
    notify.sendmsg([message], rights(near))
    near.close()

def state(frame):
    near = lingering()
    door = socket.socket(socket.AF_UNIX)
    door.connect(os.environ["AETERNA_STATE_SOCK"])
    door.sendmsg([frame], rights(near))
    near.close()
    return door
"#;

/// Runs a service whose Python says READY=1 after `doors`, and has `status` answered afterwards.
fn linger(unit: &str, doors: &str) {
    let mut env = Env::new();
    env.file("hostile.py", &format!("{LINGERING}\n{doors}\nnotify.send(b'READY=1')\ntime.sleep(1000)\n"));
    env.unit("app", &unit.replace("PROGRAM", "[\"/usr/bin/python3\", \"{dir}/hostile.py\"]"));
    env.start();
    env.wait_state("app", UnitState::Running);
    assert_eq!(env.ctl(&["stop", "app"]).code, 0);
    env.wait_state("app", UnitState::Stopped);
}

#[test]
fn a_lingering_socket_that_nobody_stores_holds_nobody_up() {
    linger(
        "[Service]\nExecStart = PROGRAM\nType = \"notify\"\n",
        "for _ in range(12): tell(b'FDSTORE=1\\nFDNAME=x'); tell(b'STATUS=x'); tell(b'NONSENSE'); tell(b'x' * 20000)",
    );
}

#[test]
fn a_lingering_socket_in_the_store_holds_nobody_up() {
    linger(
        "[Service]\nExecStart = PROGRAM\nType = \"notify\"\nFileDescriptorStoreMax = 10\n",
        "for name in b'ab': tell(b'FDSTORE=1\\nFDNAME=%d' % name)\ntell(b'FDSTOREREMOVE=1\\nFDNAME=%d' % b'a'[0])",
    );
}

#[test]
fn a_lingering_socket_on_the_state_socket_holds_nobody_up() {
    linger(
        "[Service]\nExecStart = PROGRAM\nType = \"notify\"\n[State]\nEnabled = true\n",
        "doors = [state(b'nonsense that is no frame'), state(b'SRP')]\ndoors[1].close()",
    );
}

#[test]
fn a_listener_that_has_become_a_lingering_connection_holds_nobody_up() {
    linger(
        "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nExecStart = PROGRAM\nType = \"notify\"\n",
        r#"
import ctypes
mine = socket.socket(fileno=3)
other = socket.socket()
other.bind(("127.0.0.1", 0))
other.listen(1)
# aeternad makes it listen again as soon as it sees this: whoever is quicker wins.
while True:
    ctypes.CDLL(None).connect(3, bytes(16), 16)
    try: mine.connect(other.getsockname()); break
    except OSError: pass
far, _ = other.accept()
mine.setblocking(False)
try:
    while True: mine.send(b"x" * 65536)
except BlockingIOError: pass
mine.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
"#,
    );
}

/// A folder that answers nobody as long as the descriptor is open. `None` where that cannot be.
fn silent(folder: &std::path::Path) -> Option<std::fs::File> {
    std::fs::create_dir_all(folder).unwrap();
    let server = std::fs::File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let script = "import ctypes, sys; sys.exit(ctypes.CDLL(None).mount(b'silent', sys.argv[1].encode(), b'fuse', 0, \
                  b'fd=0,rootmode=40000,user_id=0,group_id=0,allow_other') != 0)";
    let mounted = std::process::Command::new("/usr/bin/python3")
        .args(["-c", script, &folder.display().to_string()])
        .stdin(server.try_clone().unwrap())
        .status()
        .ok()?;
    mounted.success().then_some(server)
}

#[test]
fn a_folder_that_does_not_answer_holds_up_its_own_unit_only() {
    let mut env = Env::new();
    let folder = env.path("silent");
    let Some(server) = silent(&folder) else {
        return common::skip("no FUSE, or not root");
    };
    env.unit(
        "held",
        "[Service]\nExecStart = \"{probe}\"\nWorkingDirectory = \"{dir}/silent\"\nRestart = \"no\"\n\
         TimeoutStopSec = \"1s\"\nType = \"notify\"\nWorkers = 3\n",
    );
    env.unit("late", "[Service]\nExecStart = [\"/bin/sleep\", \"1000\"]\nWorkingDirectory = \"{dir}/silent\"\nRestart = \"no\"\n");
    env.unit("good", "[Service]\nExecStart = [\"/bin/sleep\", \"1000\"]\n");
    env.start();
    env.wait_state("good", UnitState::Running);
    assert_eq!(env.unit_status("held").state, UnitState::Starting);
    assert_eq!(env.ctl(&["restart", "good"]).code, 0);
    // It can be stopped where it is.
    assert_eq!(env.ctl(&["stop", "held"]).code, 0);
    env.wait_state("held", UnitState::Stopped);
    // And fails with the reason as soon as the kernel knows one.
    drop(server);
    env.wait_log("cannot start late: chdir");
    env.wait_state("late", UnitState::Failed);
    assert!(std::process::Command::new("umount").arg(&folder).status().unwrap().success());
    // What was late is not waited for any more: it is told later that it runs, and before anything that it says.
    for _ in 0..3 {
        assert_eq!(env.ctl(&["restart", "held"]).code, 0);
        env.wait_state("held", UnitState::Running);
    }
}

/// A program with a file system of its own (fuse(4)), in a mount namespace of its own, with one file that it never lets
/// anybody read; eight threads name their addresses and paths in its mapping. As soon as somebody wants to read that, there
/// is a file `argv[1]`. `argv[2]` is an empty folder.
const UNSHOWN: &str = "
import ctypes, mmap, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000): sys.exit(9)
libc.mount(None, b'/', None, 0x44000, None)
device = os.open('/dev/fuse', os.O_RDWR)
options = b'fd=%d,rootmode=40000,user_id=0,group_id=0' % device
if libc.mount(b'unshown', sys.argv[2].encode(), b'fuse', 0, options): sys.exit(9)
SIZE = 8 * 4096
def about(node):
  mode, size = (0o40755, 0) if node == 1 else (0o100644, SIZE)
  return struct.pack('<6Q10I', node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def server():
  while True:
    request = os.read(device, 1 << 20)
    _, kind, unique, node = struct.unpack_from('<IIQQ', request)
    if kind == 15: open(sys.argv[1], 'w').close()
    if kind in (2, 15): continue
    answers = {
      26: struct.pack('<4I2H2I2H8I', 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *[0] * 8),
      1: struct.pack('<4Q2I', 2, 0, 9999, 9999, 0, 0) + about(2),
      3: struct.pack('<Q2I', 9999, 0, 0) + about(node),
      14: struct.pack('<Q2I', 1, 0, 0), 18: b'', 25: b'',
    }
    body = answers.get(kind)
    error, body = (0, body) if body is not None else (-38, b'')
    os.write(device, struct.pack('<IiQ', 16 + len(body), error, unique) + body)
# Not in this memory: it cannot be changed while somebody waits for a page of it.
if os.fork() == 0: server()
# Who has both ends cannot be ended: he waits for himself.
os.close(device)
libc.mmap.restype = ctypes.c_void_p
fd = os.open(sys.argv[2] + '/file', os.O_RDONLY)
at = libc.mmap(None, ctypes.c_size_t(SIZE), 1, 2, fd, ctypes.c_long(0))
def work(number):
  where, mine = ctypes.c_void_p(at + 4096 * number), socket.socket()
  if number < 6: libc.bind(mine.fileno(), where, 16)
  else: libc.unlink(where)
";

#[test]
#[ignore = "whoever reads the environment of all processes waits for it, the tests beside it too: .ci/run runs it alone"]
fn memory_that_nobody_can_read_holds_up_its_own_unit_only() {
    if !nix::unistd::geteuid().is_root() || std::fs::File::open("/dev/fuse").is_err() {
        return common::skip("no FUSE, or not root");
    }
    let mut env = Env::new();
    std::fs::create_dir(env.path("unshown")).unwrap();
    let (good, bad) = (free_port(), free_port());
    let program = format!(
        "{UNSHOWN}
s = tcp(); s.bind(('127.0.0.1', {bad})); s.listen(9)
for number in range(8): threading.Thread(target=work, args=[number], daemon=True).start()
serve(s)"
    );
    let command = python(&env, &program);
    env.unit("bad", &intercepted(&format!("{command} {{dir}}/wanted {{dir}}/unshown")));
    let script = "import socket, sys\ns = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                  s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(9)\nwhile True: s.accept()[0].close()\n";
    let file = env.file("good.py", script);
    env.unit("good", &intercepted(&format!("/usr/bin/python3 {} {good}", file.display())));
    env.start();
    env.wait_state("good", UnitState::Running);
    let wanted = || env.path("wanted").exists().then_some(());
    env.wait("somebody to read its memory", wanted);
    // aeternad answers, and reads the others' calls.
    for _ in 0..3 {
        assert_eq!(env.ctl(&["reload", "good"]).code, 0, "{}", env.log());
    }
    // A thread that waits like this cannot be ended: execve(2) would wait for it.
    let refused = env.ctl(&["upgrade", "--timeout", "1s"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stdout.contains("bad: what it binds is being read"), "{refused:?}");
    // And who has hung can be ended, and begin again.
    std::fs::remove_file(env.path("wanted")).unwrap();
    assert_eq!(env.ctl(&["restart", "bad"]).code, 0, "{}", env.log());
    env.wait("somebody to read its memory", wanted);
    assert_eq!(env.unit_status("good").state, UnitState::Running);
    assert_eq!(env.ctl(&["stop", "bad"]).code, 0, "{}", env.log());
    env.wait_state("bad", UnitState::Stopped);
    assert_eq!(env.ctl(&["upgrade"]).code, 0, "{}", env.log());
    assert_eq!(env.ctl(&["reload", "good"]).code, 0, "{}", env.log());
}

/// A program with such a file system that answers everything but the closing of its file, hands that over, and writes
/// `argv[1]` when it is asked to close it.
const UNCLOSED: &str = "
fd = os.open(sys.argv[2] + '/file', os.O_RDONLY)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); notify.connect(os.environ['NOTIFY_SOCKET'])
socket.send_fds(notify, [b'X_NOTHING=1'], [fd])
notify.send(b'READY=1')
while True: time.sleep(1000)
";

#[test]
fn a_file_that_does_not_close_holds_nobody_up_and_no_upgrade_hangs_on_it() {
    if !nix::unistd::geteuid().is_root() || std::fs::File::open("/dev/fuse").is_err() {
        return common::skip("no FUSE, or not root");
    }
    let mut env = Env::new();
    std::fs::create_dir(env.path("unshown")).unwrap();
    let (server, _) = UNSHOWN.split_once("libc.mmap.restype").unwrap();
    // 25 is FLUSH: close(2) waits for it.
    let server =
        server.replace("kind == 15:", "kind == 25:").replace("(2, 15)", "(2, 25)").replace(", 25: b''", "");
    let command = python(&env, &format!("{server}{UNCLOSED}"));
    env.unit(
        "bad",
        &format!("[Service]\nExecStart = \"{command} {{dir}}/wanted {{dir}}/unshown\"\nType = \"notify\"\nNotifyAccess = \"all\"\n"),
    );
    env.start();
    env.wait_state("bad", UnitState::Running);
    env.wait("somebody to close its file", || env.path("wanted").exists().then_some(()));
    let refused = env.ctl(&["upgrade", "--timeout", "1s"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stdout.contains("its file system (FUSE, NFS) does not answer"), "{refused:?}");
    assert_eq!(env.ctl(&["stop", "bad"]).code, 0, "{}", env.log());
    assert_eq!(env.ctl(&["upgrade"]).code, 0, "{}", env.log());
}

#[test]
fn streams_and_environment_files_that_do_not_answer_hold_up_their_own_unit_only() {
    let mut env = Env::new();
    let folder = env.path("silent");
    let Some(server) = silent(&folder) else {
        return common::skip("no FUSE, or not root");
    };
    let sleeps = "[Service]\nExecStart = [\"/bin/sleep\", \"1000\"]\nRestart = \"no\"\n";
    let output = "StandardOutput = \"append:{dir}/silent/log\"\n";
    env.unit("stopped", &format!("{sleeps}{output}"));
    env.unit("failed", &format!("{sleeps}{output}"));
    env.unit("timed", &format!("{sleeps}{output}TimeoutStartSec = \"1s\"\n"));
    env.unit("file", &format!("{sleeps}EnvironmentFile = \"{{dir}}/silent/env\"\n"));
    env.unit("input", &format!("{sleeps}StandardInput = \"file:{{dir}}/silent/in\"\nWorkers = 2\n"));
    // Others than these have the time that one may take.
    env.unit("good", &format!("{sleeps}StandardOutput = \"append:{{dir}}/log\"\n"));
    env.start();
    env.wait_state("good", UnitState::Running);
    for unit in ["stopped", "failed", "file", "input"] {
        assert_eq!(env.unit_status(unit).state, UnitState::Starting, "{unit}");
    }
    assert_eq!(env.ctl(&["restart", "good"]).code, 0);
    env.wait_log("cannot start timed: open its files: ");
    let told = env.wait_log("/silent/log: the file system had not answered when it was told to end, after ");
    assert!(told.contains("cannot start timed"), "{told}");
    // What has not begun can be stopped, and then nothing of it comes.
    assert_eq!(env.ctl(&["stop", "stopped"]).code, 0);
    env.wait_state("stopped", UnitState::Stopped);
    let refused = env.ctl(&["upgrade", "--timeout", "1s"]);
    assert!(refused.code != 0 && refused.stdout.contains("still on its way"), "{refused:?}");
    // The kernel knows a reason as soon as the server is gone.
    drop(server);
    env.wait_log("cannot start failed: open its streams: ");
    env.wait_log("cannot start file: prepare it: EnvironmentFile ");
    for unit in ["failed", "file", "input"] {
        env.wait_state(unit, UnitState::Failed);
    }
    assert!(std::process::Command::new("umount").arg(&folder).status().unwrap().success());
    std::fs::write(env.path("silent/env"), "A=b\n").unwrap();
    std::fs::write(env.path("silent/in"), "").unwrap();
    for unit in ["stopped", "failed", "file", "input"] {
        assert_eq!(env.ctl(&["start", unit]).code, 0, "{unit}: {}", env.log());
        env.wait_state(unit, UnitState::Running);
    }
    assert_eq!(env.ctl(&["upgrade"]).code, 0, "{}", env.log());
}

/// With [`UNSHOWN`]'s file system, served by a thread of its own process, and a file that it waits for: only the end of the
/// file system can end it.
const BOTH_ENDS: &str = "
threading.Thread(target=server, daemon=True).start()
fd = os.open(sys.argv[2] + '/file', os.O_RDONLY)
threading.Thread(target=lambda: os.read(fd, 1), daemon=True).start()
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); notify.connect(os.environ['NOTIFY_SOCKET'])
notify.send(b'READY=1')
while True: time.sleep(1000)
";

#[test]
fn whoever_holds_both_ends_of_what_he_waits_for_is_told_of_with_what_ends_him() {
    if !nix::unistd::geteuid().is_root() || std::fs::File::open("/dev/fuse").is_err() {
        return common::skip("no FUSE, or not root");
    }
    let mut env = Env::new();
    std::fs::create_dir(env.path("unshown")).unwrap();
    let control = env.path("control");
    std::fs::create_dir(&control).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "fusectl", "none"]).arg(&control).status().unwrap();
    if !mounted.success() {
        return common::skip("no fusectl");
    }
    let (server, _) = UNSHOWN.split_once("# Not in this memory").unwrap();
    let command = python(&env, &format!("{server}{BOTH_ENDS}"));
    env.unit(
        "bad",
        &format!(
            "[Service]\nExecStart = \"{command} {{dir}}/wanted {{dir}}/unshown\"\nType = \"notify\"\nTimeoutStopSec = \"20s\"\n\
             FinalKillSignal = \"KILL\"\nKillSignal = \"KILL\"\n"
        ),
    );
    env.start();
    env.wait_state("bad", UnitState::Running);
    let stopping = env.ctl_start(&["stop", "bad"]);
    // Long before it is given up, with what to do.
    let told = env.wait_log("was killed and has not ended yet: process ");
    let (_, which) = told.split_once("/sys/fs/fuse/connections/").unwrap_or_else(|| panic!("{told}"));
    let (number, _) = which.split_once("/abort").unwrap();
    assert!(told.contains("state D") && !number.contains(|c: char| !c.is_ascii_digit()), "{told}");
    std::fs::write(control.join(number).join("abort"), "1").unwrap();
    let stopped = env.finish_child(stopping);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(
        stopped.stdout.contains("has not ended yet") || stopped.stderr.contains("has not ended yet"),
        "{stopped:?}"
    );
    env.wait_state("bad", UnitState::Stopped);
    assert!(!env.log().contains("is left alone"), "{}", env.log());
    assert!(std::process::Command::new("umount").arg(&control).status().unwrap().success());
}

/// Fills its pipe with a mebibyte of lines when it is told to, and says so.
const FILLS: &str = "
import fcntl, os, signal, socket, sys
fcntl.fcntl(1, 1031, 1 << 20)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); notify.connect(os.environ['NOTIFY_SOCKET'])
notify.send(b'READY=1')
signal.sigwait([signal.SIGUSR1])
os.write(1, b'a line\\n' * 140000 + b'the last line\\n')
open(sys.argv[1], 'w').close()
signal.pause()
";

#[test]
fn a_turn_of_reading_is_bounded_and_who_asks_is_answered_between_two() {
    use std::io::{BufRead, Write};
    let mut env = Env::new();
    env.arguments(&["--log-level", "info"]);
    let file = env.file("fills.py", FILLS);
    env.unit(
        "app",
        &format!(
            "[Service]\nExecStart = \"/usr/bin/python3 {} {{dir}}/written\"\nType = \"notify\"\nStandardOutput = \"log\"\n",
            file.display()
        ),
    );
    env.start();
    env.wait_state("app", UnitState::Running);
    let app = env.main_pid("app");
    // All of it is there before aeternad looks at anything, and so is the question.
    env.signal(nix::sys::signal::Signal::SIGSTOP);
    common::process::kill(app, nix::sys::signal::Signal::SIGUSR1);
    env.wait("a full pipe", || env.path("written").exists().then_some(()));
    let mut stream = std::os::unix::net::UnixStream::connect(env.runtime_dir().join("control.sock")).unwrap();
    stream.write_all(b"{\"command\":\"status\",\"unit\":\"app\"}\n").unwrap();
    env.signal(nix::sys::signal::Signal::SIGCONT);
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("a line") && !answer.contains("the last line"), "{answer}");
    env.wait_log("the last line");
}
