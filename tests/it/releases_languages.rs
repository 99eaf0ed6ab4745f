//! Releases of programs that are more than one file: a Python environment, Node.js, a JVM. Each behind a link that `Release`
//! names, each replaced, restarted and rolled back under load.

use crate::common::load::{Load, Manner};
use crate::common::{Env, skip};
use crate::releases::{kill, reload_well, settled, shell};
use aeterna::proto::status::UnitState;
use std::process::{Command, Stdio};

/// A server in a language: it answers with the number in the file `version` beside it.
struct Language {
    /// What must be installed.
    needs: &'static [&'static str],
    /// Its source, as a file below the release.
    source: (&'static str, &'static str),
    /// What else a deployment does, in the release's folder.
    build: &'static str,
    /// `ExecStart` and what goes with it.
    service: &'static str,
}

const PYTHON: Language = Language {
    needs: &["python3"],
    source: (
        "app.py",
        r#"
import http.server, os, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        # Imported at the first request: from this release, whatever the link means by then.
        import said
        body = f"{said.VERSION} {os.path.basename(os.path.dirname(sys.prefix))}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.server_address = server.socket.getsockname()
server.server_name, server.server_port = "localhost", 0
import signal, threading
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.05)
server.server_close()
"#,
    ),
    build: "python3 -m venv --without-pip venv; echo \"VERSION = '$(cat version)'\" > said.py",
    service: "ExecStart = [\"{dir}/current/venv/bin/python3\", \"{dir}/current/app.py\"]",
};

const NODE: Language = Language {
    needs: &["node"],
    source: (
        "app.js",
        r#"
const http = require("http"), fs = require("fs"), path = require("path");
const server = http.createServer((_, answer) => {
  const version = fs.readFileSync(path.join(__dirname, "version"), "utf8").trim();
  answer.end(version + " " + path.basename(__dirname));
});
server.listen({ fd: 3 });
process.on("SIGTERM", () => server.close());
"#,
    ),
    build: "true",
    service: "ExecStart = [\"node\", \"{dir}/current/app.js\"]",
};

const JAVA: Language = Language {
    needs: &["java", "javac"],
    source: (
        "App.java",
        r#"
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
public class App {
    public static void main(String[] words) throws Exception {
        ServerSocketChannel server = (ServerSocketChannel) System.inheritedChannel();
        server.configureBlocking(true);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> { try { server.close(); } catch (Exception e) { } }));
        while (true) {
            SocketChannel client;
            try { client = server.accept(); } catch (ClosedChannelException e) { return; }
            if (client == null) continue;
            ByteBuffer asked = ByteBuffer.allocate(4096);
            client.read(asked);
            // A class that is loaded at the first request.
            String body = Said.version(words[0]);
            client.write(ByteBuffer.wrap(("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + body.length() + "\r\n\r\n" + body).getBytes()));
            client.close();
        }
    }
}
class Said {
    static String version(String folder) throws Exception {
        return Files.readString(Path.of(folder, "version")).trim() + " " + Path.of(folder).getFileName();
    }
}
"#,
    ),
    build: "javac App.java",
    service: "ExecStart = [\"java\", \"-Xshare:auto\", \"-XX:TieredStopAtLevel=1\", \"-cp\", \"{dir}/current\", \"App\", \"{dir}/current\"]\n\
              StandardInput = \"socket\"\nSuccessExitStatus = 143",
};

impl Language {
    fn is_there(&self) -> bool {
        let missing = self.needs.iter().find(|need| {
            let tried =
                Command::new(need).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            !tried.is_ok_and(|status| status.success())
        });
        if let Some(missing) = missing {
            skip(&format!("a release in this language needs {missing}"));
        }
        missing.is_none()
    }

    fn deploy(&self, env: &Env, number: u32) {
        let (file, source) = self.source;
        env.file(&format!("rels/{number}/{file}"), source);
        let build = self.build;
        shell(
            env,
            &format!(
                "cd rels/{number}; echo {number} > version; {build}; cd ../..; ln -sfn rels/{number} next; mv -T next current"
            ),
        );
    }

    fn lives(&self) {
        if !self.is_there() {
            return;
        }
        let mut env = Env::new();
        self.deploy(&env, 1);
        let service = self.service;
        env.unit(
            "app",
            &format!(
                "[Socket]\nListenStream = \"127.0.0.1:0\"\n[Service]\nRelease = \"{{dir}}/current\"\n{service}\nRestart = \"always\"\nRestartSec = 0\n\
                 [Reload]\nSoakTime = \"100ms\"\nDrainTimeout = \"20s\"\n"
            ),
        );
        env.start();
        env.wait_state("app", UnitState::Running);
        let says = |env: &Env| env.get("app", "/").body;
        assert_eq!(says(&env), "1 1");
        let load = Load::start(&env.address("app", 0), 2, Manner::Fresh);
        self.deploy(&env, 2);
        assert_eq!(says(&env), "1 1", "what runs is of one release");
        reload_well(&env);
        assert_eq!(says(&env), "2 2");
        let back = env.ctl(&["rollback", "app"]);
        assert_eq!(back.code, 0, "{back:?}");
        settled(&env);
        assert_eq!(says(&env), "1 1");
        load.wait_answers(20);
        let counts = load.finish();
        assert!(counts.failed.is_empty(), "{:?}", counts.failed);
        kill(&env);
        assert_eq!(says(&env), "1 1", "a restart is what was promoted");
    }
}

#[test]
fn a_python_environment_is_one_release() {
    PYTHON.lives();
}

#[test]
fn a_node_server_is_one_release() {
    NODE.lives();
}

#[test]
fn a_jvm_is_one_release() {
    JAVA.lives();
}
