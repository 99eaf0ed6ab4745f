//! Programs as their makers ship them, with a configuration of their own and no word of aeternad in it: started under
//! `InterceptBind` and as `aeternad --intercept -- COMMAND`, and replaced ten times while clients come with a
//! connection per request. Nothing fails.
use crate::common;
use aeterna::proto::status::{Outcome, UnitState};
use common::hammer::{HTTP, Hammer, Talk, To};
use common::port::free_port;
use common::{Env, skip};
use std::path::{Path, PathBuf};

const RELOADS: u32 = 10;
/// A line that is started with `aeternad --intercept --` is the same program under the same filter.
const INLINE_RELOADS: u32 = 3;
/// Answers between two reloads.
const MEANWHILE: u64 = 20;

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    if found.is_none() {
        skip(&format!("there is no {program}"));
    }
    found
}

/// A unit for a command, which may not hold a `'`.
fn unit(command: &[&str], socket: &str, reload: &str) -> String {
    let words: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
    format!(
        "{socket}\n[Service]\nExecStart = [{}]\nInterceptBind = true\nStandardOutput = \"null\"\n\
         StandardError = \"null\"\n[Reload]\n{reload}\n",
        words.join(", ")
    )
}

const CANARY: &str = "SoakTime = \"100ms\"\nCanaryWeight = 50\nDrainTimeout = \"20s\"";

/// Replaces the one unit of a daemon so often under load.
pub(crate) fn under_load(env: &Env, name: &str, to: &To, talk: Talk, reloads: u32, reload: impl Fn(&Env)) {
    let hammer = Hammer::start(to, talk);
    for _ in 0..reloads {
        hammer.wait_answers(MEANWHILE);
        let mark = env.mark();
        reload(env);
        let end = env.wait_reloaded(name, mark);
        assert_eq!(end.outcome, Some(Outcome::Promoted), "{name}: {}\n{}", end.text, env.log());
    }
    hammer.wait_answers(MEANWHILE);
    let (answered, failed) = hammer.finish();
    let some = &failed[..failed.len().min(5)];
    assert!(failed.is_empty(), "{name}: {} of {answered} failed: {some:?}\n{}", failed.len(), env.log());
    assert_eq!(env.unit_status(name).generation, reloads + 1);
}

pub(crate) fn as_a_unit(name: &str, command: &[&str], socket: &str, to: &To, talk: Talk) -> Env {
    let mut env = Env::new();
    env.unit(name, &unit(command, socket, CANARY));
    env.start();
    env.wait_state(name, UnitState::Running);
    under_load(&env, name, to, talk, RELOADS, |env| {
        let done = env.ctl(&["reload", name]);
        assert_eq!(done.code, 0, "{}\n{}\n{}", done.stdout, done.stderr, env.log());
    });
    env
}

/// The same without a unit: the soak is the default's, and is ended by a person.
fn as_a_line(command: &[&str], to: &To, talk: Talk) {
    let name = Path::new(command[0]).file_name().unwrap().to_str().unwrap();
    let mut env = Env::new();
    env.start_with(&[&["--intercept", "--"][..], command].concat());
    env.wait_state(name, UnitState::Running);
    under_load(&env, name, to, talk, INLINE_RELOADS, |env| {
        let reload = env.ctl_start(&["reload", name]);
        env.wait_state(name, UnitState::Soaking);
        assert_eq!(env.ctl(&["promote", name]).code, 0);
        assert_eq!(env.finish_child(reload).code, 0);
    });
}

/// Both, for a program on a port.
fn both(name: &str, command: &[&str], port: u16, talk: Talk) {
    let to = To::Port(port);
    let env = as_a_unit(name, command, "", &to, talk);
    assert!(env.unit_status(name).sockets.iter().all(|socket| socket.sharing == "steered"));
    drop(env);
    as_a_line(command, &to, talk);
}

#[test]
fn python_http_server() {
    let port = free_port().to_string();
    let command = ["/usr/bin/python3", "-m", "http.server", &port, "--directory", "/usr/share/doc/python3"];
    both("python3", &command, port.parse().unwrap(), HTTP);
}

#[test]
fn a_shell_in_between() {
    let port = free_port();
    let script = format!("cd /usr/share/doc/python3; python3 -m http.server {port}; true");
    as_a_unit("sh", &["/bin/sh", "-c", &script], "", &To::Port(port), HTTP);
}

#[test]
fn node() {
    let Some(node) = find("node") else { return };
    let port = free_port();
    let files = Env::new();
    let script =
        files.file("app.js", "require('http').createServer((q,r)=>r.end('hi')).listen(+process.argv[2])");
    let (node, script) = (node.display().to_string(), script.display().to_string());
    both("node", &[&node, &script, &port.to_string()], port, HTTP);
}

#[test]
fn nodes_cluster() {
    let Some(node) = find("node") else { return };
    let port = free_port();
    let files = Env::new();
    let script = files.file(
        "app.js",
        "const c=require('cluster');if(c.isPrimary){c.fork();c.fork()}else require('http').createServer((q,r)=>r.end('hi')).listen(+process.argv[2])",
    );
    let (node, script) = (node.display().to_string(), script.display().to_string());
    as_a_unit("node", &[&node, &script, &port.to_string()], "", &To::Port(port), HTTP);
}

/// Builds a static Go program; the compiler's cache is everybody's.
fn go(files: &Env, source: &str) -> Option<String> {
    let go = find("go")?;
    let source = files.file("main.go", source);
    let program = files.path("server").display().to_string();
    let mut build = files.command(go);
    build.args(["build", "-o", &program]).arg(source);
    build.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    let built = files.finish(build);
    assert_eq!(built.code, 0, "{}", built.stderr);
    Some(program)
}

#[test]
fn static_go() {
    let files = Env::new();
    let source = "package main\nimport (\"net/http\"; \"os\")\nfunc main() {\n\
        \thttp.HandleFunc(\"/\", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(\"hi\")) })\n\
        \tpanic(http.ListenAndServe(\":\"+os.Args[1], nil))\n}\n";
    let Some(program) = go(&files, source) else { return };
    let port = free_port();
    both("server", &[&program, &port.to_string()], port, HTTP);
}

#[test]
fn static_gin() {
    if !Path::new("/usr/share/gocode/src/github.com/gin-gonic/gin").exists() {
        return skip("there is no golang-github-gin-gonic-gin-dev");
    }
    let files = Env::new();
    let source = "package main\nimport (\"github.com/gin-gonic/gin\"; \"os\")\nfunc main() {\n\
        \tgin.SetMode(gin.ReleaseMode)\n\tr := gin.New()\n\
        \tr.GET(\"/\", func(c *gin.Context) { c.String(200, \"hi\") })\n\
        \tpanic(r.Run(\":\" + os.Args[1]))\n}\n";
    let Some(program) = go(&files, source) else { return };
    let port = free_port();
    both("server", &[&program, &port.to_string()], port, HTTP);
}

#[test]
fn javas_http_server() {
    let (Some(java), Some(javac)) = (find("java"), find("javac")) else { return };
    let files = Env::new();
    let source = files.file(
        "Hi.java",
        "import com.sun.net.httpserver.HttpServer;\nclass Hi {\n  public static void main(String[] a) throws Exception {\n\
         \x20   HttpServer s = HttpServer.create(new java.net.InetSocketAddress(Integer.parseInt(a[0])), 0);\n\
         \x20   s.createContext(\"/\", e -> { e.sendResponseHeaders(200, 2); e.getResponseBody().write(\"hi\".getBytes()); e.close(); });\n\
         \x20   s.start();\n  }\n}\n",
    );
    let mut build = files.command(javac);
    build.arg("-d").arg(files.dir()).arg(source);
    let built = files.finish(build);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let port = free_port();
    let (java, classes) = (java.display().to_string(), files.dir().display().to_string());
    let command = [&java, "-XX:TieredStopAtLevel=1", "-cp", &classes, "Hi", &port.to_string()];
    // How a JVM ends on SIGTERM is no failure in a drain.
    both("java", &command, port, HTTP);
}

/// An nginx that listens there, with its files in the folder.
pub(crate) fn nginx(files: &Env, listen: &str) -> Option<Vec<String>> {
    let nginx = find("nginx")?;
    let dir = files.dir().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
        .concat();
    let file = files.file(
        "nginx.conf",
        &format!(
            "worker_processes 2;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 500; }}\nhttp {{ access_log off; {temporary} server {{ {listen} return 200 hi; }} }}\n"
        ),
    );
    let words = [&nginx.display().to_string(), "-c", &file.display().to_string(), "-g", "daemon off;"];
    Some(words.map(str::to_owned).to_vec())
}

pub(crate) fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

#[test]
fn nginx_with_two_addresses() {
    let (files, port) = (Env::new(), free_port());
    let Some(command) = nginx(&files, &format!("listen {port}; listen [::]:{port};")) else { return };
    let env = as_a_unit("nginx", &words(&command), "", &To::Port(port), HTTP);
    let mut sockets: Vec<String> = env.unit_status("nginx").sockets.into_iter().map(|s| s.address).collect();
    sockets.sort();
    assert_eq!(sockets, [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
    drop(env);
    as_a_line(&words(&command), &To::Port(port), HTTP);
}

/// One queue for all generations: what the old one has in its hands at its stop signal is its own affair, and an nginx
/// that is told to quit finishes it.
#[test]
fn nginx_with_a_shared_socket() {
    let (files, port) = (Env::new(), free_port());
    let Some(command) = nginx(&files, &format!("listen {port};")) else { return };
    let mut env = Env::new();
    let socket = format!("[Socket]\nListenStream = \"0.0.0.0:{port}\"\nSharing = \"shared\"");
    let text =
        unit(&words(&command), &socket, CANARY).replace("[Reload]", "KillSignal = \"SIGQUIT\"\n[Reload]");
    env.unit("nginx", &text);
    env.start();
    env.wait_state("nginx", UnitState::Running);
    let status = env.unit_status("nginx");
    assert_eq!(status.sockets[0].sharing, "shared");
    assert_eq!(status.generations[0].weight, None, "nobody decides who gets what");
    under_load(&env, "nginx", &To::Port(port), HTTP, RELOADS, |env| {
        assert_eq!(env.ctl(&["reload", "nginx"]).code, 0, "{}", env.log());
    });
}

#[test]
fn nginx_on_a_steered_unix_path_over_a_hundred_switches() {
    let files = Env::new();
    let path = files.path("web.sock");
    let Some(command) = nginx(&files, &format!("listen unix:{};", path.display())) else { return };
    let mut env = Env::new();
    let socket = format!("[Socket]\nListenStream = \"{}\"\nSharing = \"steered\"", path.display());
    let reload = "Strategy = \"immediate\"\nDrainTimeout = \"20s\"";
    env.unit("nginx", &unit(&words(&command), &socket, reload));
    env.start();
    env.wait_state("nginx", UnitState::Running);
    assert_eq!(env.unit_status("nginx").sockets[0].sharing, "steered");
    under_load(&env, "nginx", &To::Path(path), HTTP, 100, |env| {
        assert_eq!(env.ctl(&["reload", "nginx"]).code, 0, "{}", env.log());
    });
}

#[test]
fn redis() {
    let Some(redis) = find("redis-server") else { return };
    let port = free_port();
    let command =
        [&redis.display().to_string(), "--port", &port.to_string(), "--save", "", "--daemonize", "no"];
    both("redis-server", &command, port, ("PING\r\n", "+PONG"));
}

#[test]
fn memcached() {
    let Some(memcached) = find("memcached") else { return };
    let port = free_port();
    let command = [
        &memcached.display().to_string(),
        "-u",
        "nobody",
        "-p",
        &port.to_string(),
        "-U",
        "0",
        "-l",
        "0.0.0.0",
    ];
    both("memcached", &command, port, ("version\r\n", "VERSION"));
}

#[test]
fn haproxy() {
    let Some(haproxy) = find("haproxy") else { return };
    let (files, port) = (Env::new(), free_port());
    let file = files.file(
        "haproxy.cfg",
        &format!("global\n maxconn 500\ndefaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n bind :{port}\n http-request return status 200\n"),
    );
    let command = [&haproxy.display().to_string(), "-db", "-f", &file.display().to_string()];
    both("haproxy", &command, port, HTTP);
}

#[test]
fn lighttpd() {
    let Some(lighttpd) = find("lighttpd") else { return };
    let (files, port) = (Env::new(), free_port());
    let file = files.file(
        "lighttpd.conf",
        &format!("server.document-root = \"{}\"\nserver.port = {port}\n", files.dir().display()),
    );
    let command = [&lighttpd.display().to_string(), "-D", "-f", &file.display().to_string()];
    both("lighttpd", &command, port, HTTP);
}

#[test]
fn rsyslogd_over_tcp_loses_no_message() {
    use std::io::Write as _;
    let Some(rsyslogd) = find("rsyslogd") else { return };
    let (files, port) = (Env::new(), free_port());
    let messages = files.path("messages");
    let file = files.file(
        "imtcp.conf",
        &format!(
            "module(load=\"imtcp\")\ntemplate(name=\"line\" type=\"string\" string=\"%msg%\\n\")\n\
             input(type=\"imtcp\" port=\"{port}\" ruleset=\"file\")\n\
             ruleset(name=\"file\") {{ action(type=\"omfile\" file=\"{}\" template=\"line\" asyncWriting=\"off\") }}\n",
            messages.display()
        ),
    );
    let mut env = Env::new();
    let command = [&rsyslogd.display().to_string(), "-n", "-iNONE", "-f", &file.display().to_string()];
    env.unit("rsyslogd", &unit(&command, "", CANARY));
    env.start();
    env.wait_state("rsyslogd", UnitState::Running);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        // Each message on a connection of its own, as fast as they are taken.
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) && sent < 20_000 {
                let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
                let line = format!("<13>Nov 20 10:00:00 host test: message {sent}.\n");
                stream.write_all(line.as_bytes()).unwrap();
                sent += 1;
            }
            sent
        });
        for _ in 0..RELOADS {
            let old = env.main_pid("rsyslogd");
            let done = env.ctl(&["reload", "rsyslogd"]);
            assert_eq!(done.code, 0, "{done:?}\n{}", env.log());
            env.wait_gone(old);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert!(sent > 100, "{sent}");
    let mut missing = Vec::new();
    env.wait("every message", || {
        let text = std::fs::read_to_string(&messages).unwrap_or_default();
        let arrived: std::collections::HashSet<&str> = text.lines().map(str::trim).collect();
        missing = (0..sent).filter(|n| !arrived.contains(format!("message {n}.").as_str())).collect();
        missing.is_empty().then_some(())
    });
}
