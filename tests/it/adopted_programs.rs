//! Programs as their makers ship them that bind in ways of their own, replaced under load like those of
//! `intercept_programs`: an IPv4 address of an IPv6 socket, listeners that wait for the first byte, threads of a server
//! that poll before they bind.

use crate::common;
use crate::intercept_programs::{as_a_unit, find, nginx, under_load, words};
use aeterna::proto::status::UnitState;
use common::hammer::{HTTP, To};
use common::port::free_port;
use common::{Env, http};
use std::path::Path;

#[test]
fn a_jvm_on_an_ipv4_address() {
    let (Some(java), Some(javac)) = (find("java"), find("javac")) else { return };
    let files = Env::new();
    // Blocking and by a selector: each is another way into the kernel.
    let source = files.file(
        "Four.java",
        "import java.net.*;\nimport java.nio.*;\nimport java.nio.channels.*;\nclass Four {\n\
         \x20 public static void main(String[] a) throws Exception {\n\
         \x20   ServerSocketChannel s = ServerSocketChannel.open(); s.configureBlocking(false);\n\
         \x20   Selector sel = Selector.open(); s.register(sel, SelectionKey.OP_ACCEPT);\n\
         \x20   s.bind(new InetSocketAddress(\"127.0.0.1\", Integer.parseInt(a[0])), 50);\n\
         \x20   for (;;) { sel.select(); sel.selectedKeys().clear(); SocketChannel c;\n\
         \x20     while ((c = s.accept()) != null) { c.configureBlocking(true); c.read(ByteBuffer.allocate(999));\n\
         \x20       c.write(ByteBuffer.wrap(\"HTTP/1.0 200 OK\\r\\n\\r\\nhi\".getBytes())); c.close(); } }\n  }\n}\n",
    );
    let mut build = files.command(javac);
    build.arg("-d").arg(files.dir()).arg(source);
    let built = files.finish(build);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let port = free_port();
    let (java, classes) = (java.display().to_string(), files.dir().display().to_string());
    let command = [&java, "-XX:TieredStopAtLevel=1", "-cp", &classes, "Four", &port.to_string()];
    for declared in [String::new(), format!("[Socket]\nListenStream = \"127.0.0.1:{port}\"")] {
        let env = as_a_unit("java", &command, &declared, &To::Port(port), HTTP);
        let sockets = env.unit_status("java").sockets;
        assert_eq!((sockets.len(), sockets[0].sharing.as_str()), (1, "steered"));
    }
}

#[test]
fn nginx_that_waits_for_the_first_byte() {
    let (files, port) = (Env::new(), free_port());
    let Some(command) = nginx(&files, &format!("listen {port} deferred;")) else { return };
    as_a_unit("nginx", &words(&command), "", &To::Port(port), HTTP);
}

#[test]
fn nginx_with_a_socket_for_each_worker() {
    let (files, port) = (Env::new(), free_port());
    let Some(command) = nginx(&files, &format!("listen {port} reuseport;")) else { return };
    let env = as_a_unit("nginx", &words(&command), "", &To::Port(port), HTTP);
    assert_eq!(env.unit_status("nginx").sockets.len(), 1);
}

#[test]
fn apache_as_it_comes() {
    let Some(apache) = find("apache2") else { return };
    let (files, port) = (Env::new(), free_port());
    let dir = files.dir().display();
    let modules = "/usr/lib/apache2/modules";
    let file = files.file(
        "apache.conf",
        &format!(
            "ServerRoot {dir}\nLoadModule mpm_event_module {modules}/mod_mpm_event.so\n\
             LoadModule authz_core_module {modules}/mod_authz_core.so\nPidFile {dir}/pid-${{AETERNA_GENERATION}}\n\
             Listen 127.0.0.1:{port}\nServerName x\nErrorLog {dir}/error.log\nDocumentRoot {dir}\nUser nobody\n\
             Group nogroup\nStartServers 1\n"
        ),
    );
    let (apache, file) = (apache.display().to_string(), file.display().to_string());
    as_a_unit("apache2", &[&apache, "-f", &file, "-DFOREGROUND"], "", &To::Port(port), HTTP);
}

#[test]
fn puma() {
    let Some(puma) = find("puma") else { return };
    let (files, port) = (Env::new(), free_port());
    let file = files.file("app.ru", "run ->(env) { [200, {}, ['hi']] }\n");
    let bind = format!("tcp://127.0.0.1:{port}");
    let (puma, file) = (puma.display().to_string(), file.display().to_string());
    assert!(Path::new(&file).exists());
    as_a_unit("puma", &[&puma, "-b", &bind, "-e", "production", &file], "", &To::Port(port), HTTP);
}

/// HAProxy on a Unix path, bound as `bind` says.
fn haproxy(files: &Env, bind: &str) -> Option<[String; 4]> {
    let haproxy = find("haproxy")?;
    let file = files.file(
        "haproxy.cfg",
        &format!(
            "global\n maxconn 500\ndefaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
             frontend f\n bind {bind}\n http-request return status 200\n"
        ),
    );
    Some([haproxy.display().to_string(), "-db".into(), "-f".into(), file.display().to_string()])
}

#[test]
fn haproxy_on_a_unix_path_that_it_is_given() {
    let files = Env::new();
    let path = files.path("front.sock");
    let Some(command) = haproxy(&files, "fd@3") else { return };
    let words: Vec<String> = command.iter().map(|word| format!("\"{word}\"")).collect();
    let mut env = Env::new();
    // Its soft stop answers what it has accepted.
    env.unit(
        "haproxy",
        &format!(
            "[Socket]\nListenStream = \"{}\"\n[Service]\nExecStart = [{}]\nKillSignal = \"SIGUSR1\"\n\
             [Reload]\nStrategy = \"immediate\"\n",
            path.display(),
            words.join(", ")
        ),
    );
    env.start();
    env.wait_state("haproxy", UnitState::Running);
    under_load(&env, "haproxy", &To::Path(path), HTTP, 10, |env| {
        let done = env.ctl(&["reload", "haproxy"]);
        assert_eq!(done.code, 0, "{}\n{}\n{}", done.stdout, done.stderr, env.log());
    });
}

#[test]
fn haproxy_that_renames_its_path_before_it_listens_is_told_of_the_gap() {
    let files = Env::new();
    let path = files.path("front.sock");
    let at = path.display().to_string();
    let Some(command) = haproxy(&files, &at) else { return };
    let words: Vec<String> = command.iter().map(|word| format!("\"{word}\"")).collect();
    let mut env = Env::new();
    env.unit(
        "haproxy",
        &format!(
            "[Service]\nExecStart = [{}]\nInterceptBind = true\n[Reload]\nStrategy = \"immediate\"\n",
            words.join(", ")
        ),
    );
    env.start();
    env.wait_state("haproxy", UnitState::Running);
    for generation in 1..=3 {
        let sockets = env.unit_status("haproxy").sockets;
        assert_eq!(sockets.iter().map(|socket| &socket.address).collect::<Vec<_>>(), [&at]);
        assert_eq!(http::get(&at, "/").unwrap().status, 200);
        assert_eq!(env.unit_status("haproxy").generation, generation);
        assert_eq!(env.ctl(&["reload", "haproxy"]).code, 0, "{}", env.log());
        env.wait_state("haproxy", UnitState::Running);
    }
    env.wait_log("bind fd@3");
    drop(env);
    // Neither ours nor its own names of the moment are left.
    let left = std::fs::read_dir(files.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("front.sock")).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
}
