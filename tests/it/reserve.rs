//! The last descriptors are for orders and for starts, whoever else wants them; and what one unit can teach aeternad is
//! bounded.

use crate::common::http::Client;
use crate::common::{Env, process};
use crate::intercept::{intercepted, python};
use aeterna::proto::status::UnitState;

/// How many descriptors the daemon may have from now on.
fn limit(env: &Env, most: usize) {
    let mut command = env.command("prlimit");
    command.arg("--pid").arg(env.pid().to_string()).arg(format!("--nofile={most}:"));
    assert_eq!(env.finish(command).code, 0);
}

/// A service that gives what it has when it gets SIGUSR1, and says so.
fn giver(env: &Env, gives: &str) -> String {
    let script = format!(
        "import os, signal, socket, sys, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
         notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); notify.connect(os.environ['NOTIFY_SOCKET'])\n\
         notify.send(b'READY=1')\nsignal.sigwait([signal.SIGUSR1])\n{gives}\nnotify.send(b'STATUS=given')\nsignal.pause()\n"
    );
    env.file("giver.py", &script).display().to_string()
}

#[test]
fn the_last_descriptors_are_for_orders_and_starts() {
    const MOST: usize = 256;
    let mut env = Env::new();
    env.arguments(&["--http", "127.0.0.1:0"]);
    let gives = "for number in range(400):\n fd = os.open('/dev/null', os.O_RDONLY)\n \
                 socket.send_fds(notify, [b'FDSTORE=1\\nFDPOLL=0\\nFDNAME=%d' % number], [fd]); os.close(fd)\n\
                 door = os.environ['AETERNA_STATE_SOCK']; kept = []\n\
                 for number in range(60):\n s = socket.socket(socket.AF_UNIX); s.connect(door); kept.append(s)";
    let file = giver(&env, gives);
    env.unit(
        "taker",
        &format!(
            "[Service]\nExecStart = \"/usr/bin/python3 {file}\"\nType = \"notify\"\nFileDescriptorStoreMax = 1000\n[State]\nEnabled = true\n"
        ),
    );
    env.unit(
        "each",
        "[Socket]\nListenStream = \"127.0.0.1:0\"\nAccept = true\nMaxConnections = 1000\n[Service]\n\
         ExecStart = [\"/bin/cat\"]\nStandardInput = \"socket\"\nStandardOutput = \"socket\"\n",
    );
    env.unit(
        "good",
        "[Service]\nExecStart = \"{probe}\"\nType = \"notify\"\n[Reload]\nStrategy = \"immediate\"\n",
    );
    env.start();
    env.wait_state("good", UnitState::Running);
    env.wait_state("taker", UnitState::Running);
    let line = env.wait_log("http: listening on ");
    let http = line.rsplit(' ').next().unwrap().trim_matches('"').to_owned();
    limit(&env, MOST);
    process::kill(env.main_pid("taker"), nix::sys::signal::Signal::SIGUSR1);
    env.wait_unit("taker", "what it gives", |unit| {
        unit.generations.iter().any(|generation| generation.status_text.as_deref() == Some("given"))
    });
    env.wait_log("its descriptors are not stored: aeternad has hardly any left");
    env.wait_log("a connection about its state is refused: aeternad has hardly any descriptors left");
    // Nobody else gets one of the last either.
    let mut client = Client::connect(&http).unwrap();
    client.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let refused = client.receive().unwrap();
    assert_eq!(refused.status, 503, "{refused:?}");
    let mut waiting = std::net::TcpStream::connect(env.address("each", 0)).unwrap();
    env.wait_log("each: cannot accept a connection: aeternad has hardly any descriptors left");
    // They are enough for whoever gives orders, many at a time, and for starts.
    let asking: Vec<_> = (0..16).map(|_| env.ctl_start(&["status"])).collect();
    for asked in asking {
        assert_eq!(env.finish_child(asked).code, 0);
    }
    for order in ["restart", "reload", "stop", "start"] {
        let done = env.ctl(&[order, "good"]);
        assert_eq!(done.code, 0, "{order}: {done:?}");
    }
    // And as soon as there are some again, who has waited is served.
    assert_eq!(env.ctl(&["stop", "taker"]).code, 0);
    std::io::Write::write_all(&mut waiting, b"x").unwrap();
    std::io::Read::read_exact(&mut waiting, &mut [0]).unwrap();
}

#[test]
fn a_unit_teaches_so_many_addresses_and_no_more() {
    const MOST: usize = 1024;
    let mut env = Env::new();
    env.arguments(&["--log-level", "warn"]);
    let program = format!(
        "
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
kept = []
for number in range({MOST} + 40):
  s = socket.socket(socket.AF_UNIX); s.bind('\\0aeterna-%d-%d' % (os.getpid(), number)); s.listen(1); kept.append(s)
  if number % 64 == 0: open(sys.argv[1] + str(number), 'w').close()
open(sys.argv[1], 'w').close()
while True: time.sleep(1000)"
    );
    let command = python(&env, &program);
    env.unit("binder", &intercepted(&format!("{command} {{dir}}/bound")));
    env.start();
    // Each is known in a time of its own on a busy machine, and all of them in a long one.
    for number in (0..MOST).step_by(64) {
        env.wait("more addresses", || env.path(&format!("bound{number}")).exists().then_some(()));
    }
    env.wait("all addresses", || env.path("bound").exists().then_some(()));
    env.wait_log("it binds more than 1024 addresses that the unit does not declare");
    let held = env.unit_status("binder").sockets.len();
    assert_eq!(held, MOST);
    assert!(process::descriptors(env.pid()) < 2 * MOST + 200, "{}", process::descriptors(env.pid()));
    assert_eq!(env.ctl(&["stop", "binder"]).code, 0);
}
