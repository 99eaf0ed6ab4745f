//! Nothing on the daemon's main thread lasts as long as a service likes: services that do what makes a system call
//! last, and a `status` that is answered all the same.

use crate::common;
use aeterna::proto::status::UnitState;
use common::Env;

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
