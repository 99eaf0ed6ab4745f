//! Every unit in `units/` runs as it is, but for the address: it serves, and it is replaced under load without
//! a failed request.

use crate::common;
use aeterna::proto::status::UnitState;
use common::hammer::{Hammer, To};
use common::load::{Load, Manner};
use common::players::Players;
use common::port::free_port;
use common::{Env, http, process, repository, skip};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// What each unit needs to be there besides this repository. A unit without a line here fails the test below.
const UNITS: &[(&str, &[&str])] = &[
    ("agent", &["python3"]),
    ("cache", &["python3"]),
    ("chat", &["python3"]),
    ("echo", &[]),
    ("game", &[]),
    ("gin", &["go", GO_SYSTEMD, GIN]),
    ("go", &["go", GO_SYSTEMD]),
    ("gunicorn", &["gunicorn"]),
    ("haproxy", &["haproxy"]),
    ("inetd", &[]),
    ("java", &["javac"]),
    ("nginx", &["nginx"]),
    ("node", &["node"]),
    ("php-fpm", &["php-fpm8.2"]),
    ("redis", &["redis-server"]),
    ("rsyslogd", &["rsyslogd"]),
    ("rsyslogd-tcp", &["rsyslogd"]),
    ("sshd", &["/usr/sbin/sshd"]),
    ("static", &["go"]),
    ("uvicorn", &["/usr/lib/python3/dist-packages/uvicorn"]),
];
const GO_SYSTEMD: &str = "/usr/share/gocode/src/github.com/coreos/go-systemd";
const GIN: &str = "/usr/share/gocode/src/github.com/gin-gonic/gin";

/// Whether everything that the unit needs is installed; says so if not.
fn can_run(name: &str) -> bool {
    let needs = UNITS.iter().find(|(unit, _)| *unit == name).unwrap().1;
    let folders = ["/usr/sbin", "/usr/bin", "/bin", "/usr/local/bin"].map(str::to_string);
    let path = std::env::var("PATH").unwrap_or_default();
    let folders: Vec<String> = path.split(':').map(str::to_string).chain(folders).collect();
    let there = |need: &str| {
        Path::new(need).is_absolute() && Path::new(need).exists()
            || folders.iter().any(|folder| Path::new(folder).join(need).is_file())
    };
    let missing = needs.iter().find(|need| !there(need));
    if let Some(missing) = missing {
        skip(&format!("units/{name}.toml needs {missing}"));
    }
    missing.is_none()
}

/// The unit's text with these replacements, each of which must apply.
fn changed(name: &str, replacements: &[(&str, &str)]) -> String {
    let path = repository().join("units").join(format!("{name}.toml"));
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in replacements {
        assert!(text.contains(from), "units/{name}.toml has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// Runs a web unit on another port, replaces its service under load, and looks that nothing failed.
fn serves_and_is_replaced(name: &str, port: &str, more: &[(&str, &str)], manner: Manner) {
    if can_run(name) {
        serves_at(name, port, free_port(), more, manner);
    }
}

/// As [`serves_and_is_replaced`], on a port that was chosen already.
fn serves_at(name: &str, port: &str, own: u16, more: &[(&str, &str)], manner: Manner) {
    let mut env = Env::new();
    let address = format!("127.0.0.1:{own}");
    let fixed = format!("127.0.0.1:{port}");
    let mut replacements =
        vec![(fixed.as_str(), address.as_str()), ("SoakTime = \"5s\"", "SoakTime = \"1s\"")];
    replacements.extend(more);
    env.unit(name, &changed(name, &replacements));
    env.working_directory(repository());
    env.start();
    env.wait_state(name, UnitState::Running);
    assert!(env.get(name, "/").body.contains("pid"), "it says who answers");
    let load = Load::start(&address, 2, manner);
    load.wait_answers(20);
    let reload = env.ctl(&["reload", name]);
    assert_eq!(reload.code, 0, "{reload:?}");
    env.wait_unit(name, "only the new generation is left", |unit| {
        unit.generation == 2 && unit.generations.len() == 1
    });
    load.wait_answers(20);
    let counts = load.finish();
    assert_eq!(counts.failed, [""; 0], "of {} requests", counts.ok);
    // nginx cannot tell its generation.
    let tells = counts.by_generation.contains_key(&1) && counts.by_generation.contains_key(&2);
    assert!(tells || name == "nginx", "{counts:?}");
}

/// Builds a Go program of `units/apps` and gives the replacement that makes the unit start it.
fn go_program(env: &Env, name: &str) -> String {
    let program = env.path(name).display().to_string();
    let mut build = env.command("go");
    let source = repository().join("units/apps").join(name).join("main.go");
    build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    if name == "static" {
        build.env("CGO_ENABLED", "0");
    }
    build.args(["build", "-o", &program]).arg(source);
    let built = env.finish(build);
    assert_eq!(built.code, 0, "{}", built.stderr);
    program
}

#[test]
fn every_unit_is_known_here_and_valid() {
    let folder = repository().join("units");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    let known: Vec<&str> = UNITS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known);
    let env = Env::new();
    let check = env.daemon(&["--check", "--unit", &folder.display().to_string()]);
    assert_eq!((check.code, check.stderr.as_str()), (0, ""), "{}", check.stdout);
}

#[test]
fn echo_is_replaced_without_a_failed_request() {
    let echo = format!("ExecStart = \"{}\"", common::example("echo").display());
    let program = ("ExecStart = \"./target/debug/examples/echo\"", echo.as_str());
    serves_and_is_replaced("echo", "8080", &[program], Manner::KeepAlive);
}

#[test]
fn the_game_is_replaced_and_no_player_notices() {
    if !nix::unistd::geteuid().is_root() {
        return skip("steering UDP takes CAP_BPF");
    }
    let mut env = Env::new();
    let address = format!("127.0.0.1:{}", free_port());
    let game = common::example("game").display().to_string();
    let replacements = [
        ("127.0.0.1:7777", address.as_str()),
        ("./target/debug/examples/game", game.as_str()),
        ("SoakTime = \"5s\"", "SoakTime = \"1s\""),
    ];
    env.unit("game", &changed("game", &replacements));
    env.start();
    env.wait_state("game", UnitState::Running);
    let players = Players::start(&address, 2);
    for generation in 2..=3 {
        players.wait_games(20);
        let done = env.ctl(&["reload", "game"]);
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(env.unit_status("game").generation, generation);
    }
    players.wait_games(20);
    let seen = players.finish();
    assert_eq!(seen.wrong, [""; 0], "of {} datagrams", seen.datagrams);
    assert_eq!(seen.generations.len(), 3);
}

#[test]
fn gunicorn_is_replaced_without_a_failed_request() {
    serves_and_is_replaced("gunicorn", "8081", &[], Manner::Fresh);
}

#[test]
fn a_go_server_is_replaced_without_a_failed_request() {
    if can_run("go") {
        let env = Env::new();
        let program = go_program(&env, "go");
        serves_and_is_replaced("go", "8082", &[("./target/apps/go", &program)], Manner::Fresh);
    }
}

#[test]
fn a_gin_application_is_replaced_without_a_failed_request() {
    if can_run("gin") {
        let env = Env::new();
        let program = go_program(&env, "gin");
        serves_and_is_replaced("gin", "8083", &[("./target/apps/gin", &program)], Manner::Fresh);
    }
}

#[test]
fn a_node_server_is_replaced_without_a_failed_request() {
    serves_and_is_replaced("node", "8084", &[], Manner::Fresh);
}

/// A unit with state on a port of its own, with a short soak, and its address.
fn with_state(name: &str, port: &str, more: &[(&str, &str)]) -> Option<(Env, String)> {
    if !can_run(name) {
        return None;
    }
    let mut env = Env::new();
    let fixed = format!("127.0.0.1:{port}");
    let address = format!("127.0.0.1:{}", free_port());
    let mut replacements =
        vec![(fixed.as_str(), address.as_str()), ("SoakTime = \"5s\"", "SoakTime = \"100ms\"")];
    replacements.extend(more);
    env.unit(name, &changed(name, &replacements));
    env.working_directory(repository());
    env.start();
    env.wait_state(name, UnitState::Running);
    Some((env, address))
}

/// A request with a body, and the answer's.
fn send(address: &str, method: &str, path: &str, body: &[u8]) -> String {
    let mut client = http::Client::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write(head.as_bytes()).unwrap();
    client.write(body).unwrap();
    let response = client.receive().unwrap();
    assert!((200..300).contains(&response.status), "{method} {path}: {} {}", response.status, response.body);
    response.body
}

fn reload(env: &Env, name: &str) {
    let reload = env.ctl(&["reload", name]);
    assert_eq!(reload.code, 0, "{reload:?}\n{}", env.log());
}

#[test]
fn the_agents_conversation_survives_reloads() {
    let Some((env, address)) = with_state("agent", "8095", &[]) else { return };
    assert!(send(&address, "POST", "/chat?session=1", b"my name is Ada").contains("1 messages"));
    for round in 2..5 {
        reload(&env, "agent");
        let reply = send(&address, "POST", "/chat?session=1", b"what is my name?");
        assert!(reply.contains("Your name is Ada."), "{reply}");
        assert!(reply.contains(&format!("\"generation\": {round}")), "{reply}");
    }
}

#[test]
fn the_caches_memory_changes_hands() {
    let Some((env, address)) = with_state("cache", "8099", &[]) else { return };
    let value = "v".repeat(32 << 20);
    send(&address, "PUT", "/a", value.as_bytes());
    send(&address, "PUT", "/b", b"small");
    for _ in 0..3 {
        reload(&env, "cache");
        let last = env.unit_status("cache").last_handover.unwrap();
        assert_eq!((last.descriptors, last.status.as_str()), (1, "success"));
        assert!(last.size_bytes < 100, "only the descriptor travels: {last:?}");
        assert_eq!(env.get("cache", "/b").body, "small");
    }
    assert!(env.get("cache", "/a").body == value);
}

/// Clients that stay connected over so many reloads, each of which counts what it hears.
fn clients_stay_connected(reloads: usize, more: &[(&str, &str)]) {
    let Some((env, address)) = with_state("chat", "8098", more) else { return };
    let mut clients: Vec<http::Client> = Vec::new();
    for number in 0..5 {
        clients.push(http::Client::connect(&address).unwrap());
        clients[number].write(format!("client{number}\n").as_bytes()).unwrap();
        for client in &mut clients {
            assert_eq!(client.line().unwrap(), format!("* client{number} has come (generation 1)"));
        }
    }
    let mut heard = 0;
    for round in 0..=reloads {
        for number in 0..clients.len() {
            // Half a line before the reload, half after it.
            clients[number].write(format!("{round}\nro").as_bytes()).unwrap();
            for client in &mut clients {
                let said = if round == 0 { format!("{round}") } else { format!("ro{round}") };
                assert_eq!(client.line().unwrap(), format!("client{number}: {said}"));
                heard += 1;
            }
        }
        if round < reloads {
            reload(&env, "chat");
            assert_eq!(env.unit_status("chat").last_handover.unwrap().descriptors, 5);
        }
    }
    assert_eq!(heard, 25 * (reloads + 1));
}

#[test]
fn chat_clients_stay_connected_over_ten_reloads() {
    clients_stay_connected(10, &[]);
}

#[test]
fn clients_of_the_chat_in_rust_stay_connected_over_twenty_reloads() {
    let program = format!("ExecStart = \"{}\"", common::example("chat").display());
    let python = "ExecStart = [\"python3\", \"units/apps/chat/chat.py\"]";
    clients_stay_connected(20, &[(python, &program)]);
}

#[test]
fn uvicorn_is_replaced_without_a_failed_request() {
    serves_and_is_replaced("uvicorn", "8086", &[], Manner::Fresh);
}

#[test]
fn a_java_server_is_replaced_without_a_failed_request() {
    serves_and_is_replaced("java", "8087", &[], Manner::Fresh);
}

/// A copy of `units/apps/NAME/FILE` with an address of its own, and the replacement that makes the unit use it.
fn with_own_port(env: &Env, app: &str, file: &str, port: u16, fixed: &str) -> String {
    let text = std::fs::read_to_string(repository().join("units/apps").join(app).join(file)).unwrap();
    let text = text.replace(fixed, &format!("127.0.0.1:{port}"));
    let text = text.replace("/tmp/aeterna-nginx", &env.path("nginx").display().to_string());
    env.file(file, &text).display().to_string()
}

#[test]
fn nginx_is_replaced_without_a_failed_request() {
    if !can_run("nginx") {
        return;
    }
    // The port is in two files: the configuration is written for one that is free.
    let files = Env::new();
    let port = free_port();
    let conf = with_own_port(&files, "nginx", "nginx.conf", port, "127.0.0.1:8088");
    let pids = files.path("nginx").display().to_string();
    let replacements =
        [("units/apps/nginx/nginx.conf", conf.as_str()), ("/tmp/aeterna-nginx", pids.as_str())];
    serves_at("nginx", "8088", port, &replacements, Manner::Fresh);
}

#[test]
fn haproxy_is_replaced_without_a_failed_request() {
    serves_and_is_replaced("haproxy", "8089", &[], Manner::Fresh);
}

#[test]
fn php_fpm_is_replaced_without_a_failed_request() {
    if !can_run("php-fpm") {
        return;
    }
    let mut env = Env::new();
    let port = free_port();
    let conf = with_own_port(&env, "php-fpm", "php-fpm.conf", port, "127.0.0.1:8090");
    let address = format!("127.0.0.1:{port}");
    let mut replacements = vec![
        ("127.0.0.1:8090", address.as_str()),
        ("units/apps/php-fpm/php-fpm.conf", conf.as_str()),
        ("SoakTime = \"5s\"", "SoakTime = \"infinity\""),
    ];
    let as_root = "\"--nodaemonize\", \"--allow-to-run-as-root\"";
    if nix::unistd::geteuid().is_root() {
        let text = std::fs::read_to_string(&conf).unwrap() + "user = root\ngroup = root\n";
        std::fs::write(&conf, text).unwrap();
        replacements.push(("\"--nodaemonize\"", as_root));
        replacements.push(("\"--test\"", "\"--test\", \"--allow-to-run-as-root\""));
    }
    env.unit("php-fpm", &changed("php-fpm", &replacements));
    env.working_directory(repository());
    env.start();
    env.wait_state("php-fpm", UnitState::Running);
    let script = repository().join("units/apps/php-fpm/index.php").display().to_string();
    assert!(fastcgi(&address, &script).contains("\"generation\":1"));
    let ask = || {
        let answer = fastcgi(&address, &script);
        assert!(answer.contains("\"pid\":"), "{answer}");
    };
    let reload = env.ctl_start(&["reload", "php-fpm"]);
    env.wait("the soak", || {
        ask();
        (env.unit_status("php-fpm").state == UnitState::Soaking).then_some(())
    });
    (0..20).for_each(|_| ask());
    assert_eq!(env.ctl(&["promote", "php-fpm"]).code, 0);
    env.wait("the end of the old PHP-FPM", || {
        ask();
        let unit = env.unit_status("php-fpm");
        (unit.generation == 2 && unit.generations.len() == 1).then_some(())
    });
    assert_eq!(env.finish_child(reload).code, 0);
    assert!(fastcgi(&address, &script).contains("\"generation\":2"));
}

#[test]
fn a_static_program_that_binds_by_itself_is_replaced_without_a_failed_request() {
    if !can_run("static") {
        return;
    }
    let env = Env::new();
    let program = go_program(&env, "static");
    serves_and_is_replaced("static", "8094", &[("./target/apps/static", &program)], Manner::Fresh);
}

#[test]
fn redis_is_replaced_and_refuses_nobody_meanwhile() {
    if !can_run("redis") {
        return;
    }
    let mut env = Env::new();
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let folder = env.dir().display().to_string();
    let number = format!("\"{port}\"");
    let replacements = [
        ("127.0.0.1:8092", address.as_str()),
        ("\"8092\"", number.as_str()),
        ("\"/tmp\"", &format!("\"{folder}\"")),
    ];
    env.unit("redis", &changed("redis", &replacements));
    env.start();
    env.wait_state("redis", UnitState::Running);
    assert_eq!(redis(&address, "SET kept through-it-all"), "+OK");
    let clients = Hammer::start(&To::Port(port), ("PING\r\n", "+PONG"));
    clients.wait_answers(20);
    reload(&env, "redis");
    assert_eq!(env.unit_status("redis").generation, 2);
    clients.wait_answers(20);
    // Never refused: whoever comes between the two waits. An ending Redis may close a connection that it has.
    let (_, failed) = clients.finish();
    assert!(failed.iter().all(|why| !why.starts_with("connect")), "{failed:?}");
    assert_eq!(redis(&address, "GET kept"), "$14", "its data came along");
}

/// The first line of Redis's answer to a command. A connection that an ending Redis has closed is tried again.
fn redis(address: &str, command: &str) -> String {
    for _ in 0..100 {
        let mut client = http::Client::connect(address).expect("nobody is refused");
        let line = client.write(format!("{command}\r\n").as_bytes()).and_then(|()| client.line());
        match line {
            Ok(line) if !line.is_empty() && !line.starts_with("-LOADING") => return line,
            _ => {}
        }
    }
    "no answer".into()
}

#[test]
fn rsyslogd_over_tcp_is_replaced_without_a_lost_message() {
    use std::io::Write as _;
    if !can_run("rsyslogd-tcp") {
        return;
    }
    let mut env = Env::new();
    let port = free_port();
    let conf = {
        let text = std::fs::read_to_string(repository().join("units/apps/rsyslog/imtcp.conf")).unwrap();
        env.file("imtcp.conf", &text.replace("8093", &port.to_string())).display().to_string()
    };
    let messages = env.path("messages");
    let replacements = [
        ("127.0.0.1:8093", &*format!("127.0.0.1:{port}")),
        ("units/apps/rsyslog/imtcp.conf", &conf),
        ("/tmp/aeterna-rsyslogd-tcp", &messages.display().to_string()),
        ("SoakTime = \"2s\"", "SoakTime = \"1s\""),
    ];
    env.unit("rsyslogd-tcp", &changed("rsyslogd-tcp", &replacements));
    env.start();
    env.wait_state("rsyslogd-tcp", UnitState::Running);
    let old = env.main_pid("rsyslogd-tcp");
    let say = |number: usize| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(format!("<13>Nov 20 10:00:00 host test: message {number}.\n").as_bytes()).unwrap();
    };
    let arrived = || {
        let text = std::fs::read_to_string(&messages).unwrap_or_default();
        (0..).take_while(|number| text.contains(&format!("message {number}."))).count()
    };
    (0..50).for_each(say);
    let reload = env.ctl_start(&["reload", "rsyslogd-tcp"]);
    (50..100).for_each(say);
    assert_eq!(env.finish_child(reload).code, 0);
    env.wait("the end of the old rsyslogd", || (!process::exists(old)).then_some(()));
    (100..150).for_each(say);
    env.wait("all messages", || (arrived() == 150).then_some(()));
}

/// Runs a PHP script over FastCGI: one request on a connection of its own.
fn fastcgi(address: &str, script: &str) -> String {
    use std::io::{Read, Write};
    let record = |kind: u8, content: &[u8]| {
        let length = (content.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0], content].concat()
    };
    let parameter = |name: &str, value: &str| {
        [&[name.len() as u8, value.len() as u8], name.as_bytes(), value.as_bytes()].concat()
    };
    let parameters = [
        parameter("SCRIPT_FILENAME", script),
        parameter("REQUEST_METHOD", "GET"),
        parameter("CONTENT_LENGTH", "0"),
    ]
    .concat();
    let request =
        [record(1, &[0, 1, 0, 0, 0, 0, 0, 0]), record(4, &parameters), record(4, &[]), record(5, &[])]
            .concat();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn sshd_greets_each_connection_with_a_process_of_its_own() {
    if !can_run("sshd") {
        return;
    }
    let mut env = Env::new();
    let key = env.path("host-key").display().to_string();
    let mut keygen = env.command("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    assert_eq!(env.finish(keygen).code, 0);
    let option = format!("\"-h\", \"{key}\", \"-f\", \"/dev/null\", ");
    let start = format!("[\"/usr/sbin/sshd\", {option}\"-i\"]");
    let test = format!("[\"/usr/sbin/sshd\", {option}\"-t\"]");
    let replacements = [
        ("127.0.0.1:8091", "127.0.0.1:0"),
        ("[\"/usr/sbin/sshd\", \"-i\"]", start.as_str()),
        ("[\"/usr/sbin/sshd\", \"-t\"]", test.as_str()),
    ];
    env.unit("sshd", &changed("sshd", &replacements));
    env.allow_survivors();
    env.start();
    env.wait_state("sshd", UnitState::Listening);
    let address = env.address("sshd", 0);
    let mut clients: Vec<http::Client> = (0..2).map(|_| http::Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        let banner = client.line().unwrap();
        assert!(banner.starts_with("SSH-2.0-OpenSSH"), "{banner}");
    }
}

#[test]
fn an_agent_remembers_what_was_said_before_its_replacement() {
    if !can_run("agent") {
        return;
    }
    let mut env = Env::new();
    let address = format!("127.0.0.1:{}", free_port());
    let replacements = [("127.0.0.1:8095", address.as_str()), ("SoakTime = \"5s\"", "SoakTime = \"1s\"")];
    env.unit("agent", &changed("agent", &replacements));
    env.working_directory(repository());
    env.start();
    env.wait_state("agent", UnitState::Running);
    let say = |text: &str| {
        let mut client = http::Client::connect(&address).unwrap();
        let length = text.len();
        let head = format!("POST /chat?session=s HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        client.write(format!("{head}{text}").as_bytes()).unwrap();
        client.receive().unwrap().body
    };
    assert!(say("My name is Ada").contains("1 messages so far"));
    let reload = env.ctl(&["reload", "agent"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    let answer = say("What is my name?");
    assert!(answer.contains("Your name is Ada.") && answer.contains("\"generation\": 2"), "{answer}");
}

#[test]
fn inetd_starts_a_process_for_each_connection() {
    let mut env = Env::new();
    env.unit("inetd", &changed("inetd", &[("127.0.0.1:8085", "127.0.0.1:0")]));
    env.working_directory(repository());
    env.start();
    env.wait_state("inetd", UnitState::Listening);
    let address = env.address("inetd", 0);
    let mut clients: Vec<http::Client> = (0..3).map(|_| http::Client::connect(&address).unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.line().unwrap(), "Hello 127.0.0.1, who are you?");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(format!("client {number}\n").as_bytes()).unwrap();
        assert_eq!(client.rest().unwrap(), format!("Welcome, client {number}.\n"));
    }
}

#[test]
fn rsyslogd_is_replaced_without_a_lost_message() {
    if !can_run("rsyslogd") {
        return;
    }
    let mut env = Env::new();
    let folder = env.path("syslog").display().to_string();
    let replacements =
        [("/tmp/aeterna-rsyslogd", folder.as_str()), ("SoakTime = \"2s\"", "SoakTime = \"1s\"")];
    env.unit("rsyslogd", &changed("rsyslogd", &replacements));
    env.working_directory(repository());
    env.start();
    env.wait_state("rsyslogd", UnitState::Running);
    let old = env.main_pid("rsyslogd");
    let sender = UnixDatagram::unbound().unwrap();
    let path = env.path("syslog/log");
    let say = |number: usize| {
        let text = format!("<13>Nov 20 10:00:00 test: message {number}.");
        sender.send_to(text.as_bytes(), &path).unwrap();
    };
    let messages = env.path("syslog/messages");
    let arrived = || {
        let text = std::fs::read_to_string(&messages).unwrap_or_default();
        (0..).take_while(|number| text.contains(&format!("message {number}."))).count()
    };
    (0..100).for_each(say);
    let reload = env.ctl_start(&["reload", "rsyslogd"]);
    (100..200).for_each(say);
    assert_eq!(env.finish_child(reload).code, 0);
    env.wait("the end of the old rsyslogd", || (!process::exists(old)).then_some(()));
    (200..300).for_each(say);
    env.wait("all messages", || (arrived() == 300).then_some(()));
}
