//! Programs as their makers ship them that bind in ways of their own, replaced under load like those of
//! `intercept_programs`: an IPv4 address of an IPv6 socket, listeners that wait for the first byte, threads of a server
//! that poll before they bind.

use crate::common;
use crate::intercept_programs::{as_a_unit, find, nginx, words};
use common::Env;
use common::hammer::{HTTP, To};
use common::port::free_port;
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
