#!/usr/bin/env python3
"""Measures aeternad against a floor (benches/floor.c, a supervisor that does nothing else) and against the
peers that are installed, in one run on one machine. Absolute times differ from machine to machine and from
hour to hour: the ratio to the floor is what counts.

    benches/run.py [--quick] [--aeternad PATH] [MEASURE...]      --list names the measures

Needs gcc and a C library to link statically. Subjects take turns within a measure, so that a slow minute of
the machine hits all of them. The figures are medians.
"""

import argparse
import os
import pathlib
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "target" / "bench"
STATIC = ROOT / "target" / "x86_64-unknown-linux-gnu" / "release" / "aeternad"
PORT = 21000
MANY_PORTS = 22000
MS = 1e6

ECHO, FLOOR, METER = (str(BUILD / name) for name in ("echo", "floor", "meter"))


class Bench:
    """The subjects, as command lines, and a folder for their files."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = pathlib.Path(folder)
        # In memory, as /run is: creating a socket's name on a disk takes longer than starting a process.
        self.run_folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-run", dir=memory_folder(folder)))
        self.aeternad = str(options.aeternad)
        self.rows = []

    def quick(self, full, quick):
        return quick if self.options.quick else full

    def file(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def aeterna(self, name, ports=(PORT,), echo=("drain",), service="", strategy="immediate"):
        """The command line of an aeternad with one unit."""
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
        command = ", ".join(f'"{word}"' for word in (ECHO, *echo))
        unit = self.file(f"{name}.toml", f"""
[Socket]
ListenStream = [{addresses}]
[Service]
ExecStart = [{command}]
Type = "notify"
{service}
[Reload]
Strategy = "{strategy}"
""")
        return self.daemon(unit)

    def daemon(self, units):
        return [self.aeternad, "--runtime-dir", str(self.run_folder), "--log-level", "error", "--unit", units]

    def nginx(self, ports=(PORT,)):
        listen = "\n".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
        (self.folder / "logs").mkdir(exist_ok=True)
        config = self.file("nginx.conf", f"""
daemon off; master_process on; worker_processes 1; error_log /dev/null crit; pid {self.folder}/nginx.pid;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {self.folder}/b; proxy_temp_path {self.folder}/p;
    fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
    server {{ {listen} location / {{ default_type text/plain; return 200 "pid=$pid\\n"; }} }}
}}
""")
        return peer("nginx", "-p", str(self.folder), "-c", config)

    def gunicorn(self):
        self.file("app.py", """
import os
def app(environ, start):
    body = b"pid=%d\\n" % os.getpid()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
""")
        return peer("gunicorn", "--chdir", str(self.folder), "-b", f"127.0.0.1:{PORT}", "--log-level", "critical",
                    "app:app")

    def haproxy(self):
        config = self.file("haproxy.cfg", f"""
defaults
    mode http
    timeout client 5s
    timeout connect 5s
    timeout server 5s
frontend web
    bind 127.0.0.1:{PORT}
    http-request return status 200 content-type text/plain lf-string "pid=%pid\\n"
""")
        return peer("haproxy", "-W", "-f", config)

    def server_starter(self, ports=(PORT,), echo=()):
        asked = [f"--port=127.0.0.1:{port}" for port in ports]
        return peer("start_server", *asked, "--interval=0", "--", ECHO, *echo)

    def row(self, measure, subject, value, floor, unit):
        ratio = f"{value / floor:8.2f}" if floor else "       -"
        self.rows.append((measure, subject, value))
        print(f"{measure:34} {subject:26} {value:12.3f} {unit:6} {ratio}", flush=True)

    def compare(self, measure, subjects, sample, rounds, scale=MS, unit="ms"):
        """Samples every subject in turn and prints the medians; the first subject is the floor."""
        values = {name: [] for name, command in subjects if command}
        for _ in range(rounds):
            for name, command in subjects:
                if command:
                    try:
                        values[name] += sample(command)
                    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:
                        print(f"{measure:34} {name:26} {error}", flush=True)
        medians = {name: statistics.median(v) for name, v in values.items() if v}
        floor = medians.get(subjects[0][0])
        for name, value in medians.items():
            self.row(measure, name, value / scale, floor / scale if floor else None, unit)


def memory_folder(fallback):
    """A folder whose file system is memory, or `fallback`."""
    mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    folders = [mount[1] for mount in mounts if mount[2] == "tmpfs" and mount[1] in ("/run", "/dev/shm")]
    return next((folder for folder in folders if os.access(folder, os.W_OK)), fallback)


def peer(name, *arguments):
    """The command line of a peer, or None where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return [path, *arguments] if path else None


def meter(*arguments):
    """Runs the stopwatch: one list of integers a line."""
    text = subprocess.run([METER, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=600, check=False)
    if text.returncode != 0:
        raise RuntimeError(text.stderr.strip() or f"exit status {text.returncode}")
    lines = [line.split() for line in text.stdout.splitlines()]
    # What it measures may write there too.
    figures = [words for words in lines if words and all(word.lstrip("-").isdigit() for word in words)]
    return [[int(word) for word in words] for words in figures]


def firsts(*arguments):
    return [line[0] for line in meter(*arguments)]


class Running:
    """A supervisor in the background, answering on a port."""

    def __init__(self, command, port=PORT, wait=True):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        self.pid = self.process.pid
        limit = time.monotonic() + 20
        while wait and not answers(port):
            if time.monotonic() > limit or self.process.poll() is not None:
                self.__exit__()
                raise RuntimeError("it does not answer")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return bool(connection.recv(4096))
    except OSError:
        return False


def status_number(pid, key):
    """A number of /proc/PID/status."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def switches(pid):
    """Context switches of all threads so far."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])
    return total


# --- the measures: each is chosen by its name ---------------------------------------------------------------


def start(bench):
    """Program start -> first answer."""
    subjects = [
        ("floor", [FLOOR, "-p", str(PORT), ECHO]),
        ("aeternad", bench.aeterna("start")),
        ("nginx", bench.nginx()),
        ("systemd-socket-activate", peer("systemd-socket-activate", "-l", f"127.0.0.1:{PORT}", ECHO)),
        ("Server::Starter", bench.server_starter()),
    ]
    n = bench.quick(10, 3)
    bench.compare("start to first answer", subjects, lambda c: firsts("start", n, PORT, *c), bench.quick(4, 2))


def first(bench):
    """First connection -> answer, the service not running."""
    subjects = [
        ("floor", [FLOOR, "-l", "-p", str(PORT), ECHO]),
        ("aeternad", bench.aeterna("first", service='StartOn = "connection"')),
        ("systemd-socket-activate", peer("systemd-socket-activate", "-l", f"127.0.0.1:{PORT}", ECHO)),
    ]
    n = bench.quick(10, 3)
    bench.compare("first connection to answer", subjects, lambda c: firsts("first", n, PORT, *c), bench.quick(4, 2))


def idle(bench):
    """Private memory and context switches of a supervisor that has nothing to do."""
    subjects = [
        ("floor", [FLOOR, "-p", str(PORT), ECHO]),
        ("aeternad", bench.aeterna("idle")),
        ("Server::Starter", bench.server_starter()),
    ]
    seconds = bench.quick(10, 2)
    floor = None
    for name, command in subjects:
        if not command:
            continue
        with Running(command) as running:
            time.sleep(1)
            memory, before = status_number(running.pid, "RssAnon"), switches(running.pid)
            time.sleep(seconds)
            woken = switches(running.pid) - before
        floor = floor or memory
        bench.row("idle private memory", name, memory, floor, "kB")
        bench.row(f"context switches in {seconds} s", name, woken, None, "")


def size(bench):
    """The program, static and stripped."""
    floor = None
    for name, path in (("floor", FLOOR), ("aeternad", bench.aeternad)):
        stripped = bench.folder / "stripped"
        subprocess.run(["strip", "-o", stripped, path], check=True)
        megabytes = stripped.stat().st_size / 1e6
        floor = floor or megabytes
        bench.row("program, stripped", name, megabytes, floor, "MB")
        kind = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
        if "not a dynamic" not in kind.stdout + kind.stderr and "statically" not in kind.stdout:
            print(f"{'':34} {name} is linked dynamically: its size does not compare")


def orphans(bench):
    """Orphans reaped as PID 1 of a namespace."""
    n = bench.quick(10000, 2000)
    inner = [METER, "orphans", str(n)]
    own = [bench.aeternad, "--runtime-dir", str(bench.run_folder), "--log-level", "error", "--", *inner]
    subjects = [
        ("floor", [FLOOR, "-i", *inner]),
        ("aeternad", own),
        ("tini", peer("tini", "--", *inner)),
        ("catatonit", peer("catatonit", "--", *inner)),
        ("dumb-init", peer("dumb-init", *inner)),
    ]

    def sample(command):
        run = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", *command], capture_output=True,
                             text=True, timeout=120, check=False)
        numbers = [int(line) for line in run.stdout.splitlines() if line.isdigit()]
        if not numbers:
            raise RuntimeError(run.stderr.strip().splitlines()[-1:] or "no figure")
        return numbers

    bench.compare(f"{n} orphans reaped as PID 1", subjects, sample, bench.quick(7, 3))


def sockets(bench):
    """A thousand sockets in a unit: start -> first answer, and memory."""
    n = bench.quick(1000, 200)
    ports = range(MANY_PORTS, MANY_PORTS + n)
    subjects = [
        ("floor", [FLOOR, "-n", str(n), "-p", str(MANY_PORTS), ECHO]),
        ("aeternad", bench.aeterna("sockets", ports)),
        ("nginx", bench.nginx(ports)),
        ("Server::Starter", bench.server_starter(ports)),
    ]
    last = MANY_PORTS + n - 1
    bench.compare(f"{n} sockets to first answer", subjects, lambda c: firsts("start", 5, last, *c),
                  bench.quick(3, 1))
    memory = []
    for name, count in (("one", 1), ("many", n)):
        with Running(bench.aeterna(name, ports[-count:]), last) as running:
            memory.append(status_number(running.pid, "RssAnon"))
    bench.row("memory a socket", "aeternad", (memory[1] - memory[0]) * 1024 / (n - 1), None, "bytes")


def units(bench):
    """Five hundred units: start of all -> READY=1, memory a unit, idle, status."""
    n = bench.quick(500, 50)
    for count in (1, n):
        for i in range(count):
            bench.file(f"units-{count}/u{i}.toml",
                       f'[Service]\nExecStart = ["{ECHO}", "pause"]\nType = "notify"\n')
    own = bench.daemon(str(bench.folder / f"units-{n}"))
    floor = [FLOOR, "-p", str(PORT), "-u", str(n), ECHO, "pause"]
    subjects = [("floor", (1, floor)), ("aeternad", (1, own)), *((name, (n, command)) for name, command
                in supervisors(bench, n) if command)]
    bench.compare(f"{n} units started", subjects, lambda c: firsts("ready", 2, c[0], *c[1]), bench.quick(3, 1))
    memory = []
    for count in (1, n):
        with Running(bench.daemon(str(bench.folder / f"units-{count}")), wait=False) as running:
            time.sleep(bench.quick(5, 3))
            memory.append(status_number(running.pid, "RssAnon"))
            before = switches(running.pid)
            time.sleep(2)
            woken = switches(running.pid) - before
            times = [status_time(bench.run_folder / "control.sock") for _ in range(20)]
    bench.row("memory a unit", "aeternad", (memory[1] - memory[0]) / (n - 1), None, "kB")
    bench.row(f"context switches in 2 s, {n} units", "aeternad", woken, None, "")
    bench.row(f"status of {n} units", "aeternad", statistics.median(times) / MS, None, "ms")


def supervisors(bench, n):
    """Supervisors that hold no sockets, with as many services; each service says READY=1 itself."""
    for kind in ("s6", "runit"):
        for i in range(n):
            script = bench.file(f"{kind}/u{i}/run", f"#!/bin/sh\nexec {ECHO} pause\n")
            os.chmod(script, 0o755)
    programs = "".join(f"[program:u{i}]\ncommand={ECHO} pause\nstartsecs=0\n" for i in range(n))
    supervisord = bench.file("supervisord.conf", f"""
[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile={bench.folder}/supervisord.pid
minfds=8192
{programs}""")
    return [
        ("s6", peer("s6-svscan", "-c", str(2 * n + 10), str(bench.folder / "s6"))),
        ("runit", peer("runsvdir", str(bench.folder / "runit"))),
        ("supervisord", peer("supervisord", "-c", supervisord)),
    ]


def status_time(path):
    """One status over the control socket, nanoseconds."""
    began = time.monotonic_ns()
    status_text(path)
    return time.monotonic_ns() - began


def status_text(path):
    """The status as the control socket gives it."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(path))
        control.sendall(b'{"command":"status"}\n')
        answer = b""
        while not answer.endswith(b"\n"):
            piece = control.recv(1 << 20)
            if not piece:
                raise RuntimeError("no status")
            answer += piece
    return answer


def reload(bench):
    """Trigger -> first answer of the new generation, its first instruction, the end of the old one."""
    subjects = [
        ("floor", [FLOOR, "-p", str(PORT), ECHO]),
        ("aeternad", bench.aeterna("reload")),
        ("aeternad, shared socket", shared(bench)),
        ("Server::Starter", bench.server_starter()),
        ("nginx", bench.nginx()),
        ("gunicorn", bench.gunicorn()),
        ("haproxy", bench.haproxy()),
    ]
    figures = {name: [] for name, command in subjects if command}
    for _ in range(bench.quick(4, 2)):
        for name, command in subjects:
            if command:
                try:
                    with Running(command) as running:
                        figures[name] += meter("reload", bench.quick(25, 5), PORT, running.pid)
                except RuntimeError as error:
                    print(f"{'reload':34} {name:26} {error}", flush=True)
    titles = ("trigger to first new answer", "trigger to first instruction", "trigger to old one gone")
    for column, title in enumerate(titles):
        floor = None
        for name, lines in figures.items():
            values = [line[column] for line in lines if len(line) == 3 and line[column] > 0]
            if values:
                median = statistics.median(values) / MS
                floor = floor or (median if name == "floor" else None)
                bench.row(title, name, median, floor, "ms")


def shared(bench):
    """An aeternad whose generations accept from one socket."""
    command = bench.aeterna("shared")
    path = bench.folder / "shared.toml"
    path.write_text(path.read_text().replace("[Socket]", '[Socket]\nSharing = "shared"'))
    return command


def load(bench):
    """Failed requests over reloads at full load, and the latency around a reload."""
    subjects = [
        ("floor", [FLOOR, "-p", str(PORT), ECHO]),
        ("aeternad", bench.aeterna("load")),
        ("aeternad, shared socket", shared(bench)),
        ("aeternad, service drops all", bench.aeterna("drop", echo=("drop",))),
        ("floor, service drops all", [FLOOR, "-p", str(PORT), ECHO, "drop"]),
        ("Server::Starter", bench.server_starter()),
        ("nginx", bench.nginx()),
    ]
    for name, command in subjects:
        if command:
            # A service that drops everything can't keep connections open without losing them.
            kept = 0 if "drops" in name else 8
            try:
                loaded(bench, name, command, kept)
            except RuntimeError as error:
                print(f"{'load':34} {name:26} {error}", flush=True)


def lossless(bench):
    """Failed requests of half a million and more, each on its own connection, over a hundred reloads."""
    subjects = [
        ("aeternad", bench.aeterna("lossless")),
        ("aeternad, four workers", bench.aeterna("workers", service="Workers = 4")),
        ("aeternad, shared socket", shared(bench)),
    ]
    reloads = bench.quick(100, 5)
    for name, command in subjects:
        loaded(bench, name, command, 8, reloads, bench.quick(1.05, 0.3), max(bench.options.rate, 5000))


def loaded(bench, name, command, kept, reloads=None, pause=0.3, rate=None):
    reloads, rate = reloads or bench.quick(20, 5), rate or bench.options.rate
    records = bench.folder / "load.bin"
    seconds = 2 + reloads * pause
    with Running(command) as running:
        clients = subprocess.Popen([METER, "load", str(PORT), str(rate), str(kept), str(seconds), str(records)])
        time.sleep(1)
        triggers = []
        for _ in range(reloads):
            triggers.append(time.monotonic_ns())
            os.kill(running.pid, signal.SIGHUP)
            time.sleep(pause)
        if clients.wait(seconds + 60) != 0:
            raise RuntimeError("the load generator failed")
    around, steady, failed = [], [], 0
    rows = list(struct.iter_unpack("=qqq", records.read_bytes()))
    for began, latency, good in rows:
        failed += not good
        near = any(t <= began < t + 100e6 for t in triggers)
        near_by = near or any(t - 20e6 <= began < t + 200e6 for t in triggers)
        if near:
            around.append(latency)
        elif not near_by:
            steady.append(latency)
    bench.row(f"failed of {len(rows)}, {reloads} reloads", name, failed, None, "")
    bench.row("p99.9 around a reload", name, quantile(around) / MS, quantile(steady) / MS, "ms/steady")


def quantile(values, q=0.999):
    values = sorted(values)
    return values[min(int(len(values) * q), len(values) - 1)] if values else 0


def steering(bench):
    """The share of new connections that a canary really gets, for three weights."""
    n = bench.quick(50000, 2000)
    for weight in (1, 10, 50):
        command = bench.aeterna("steering", strategy="canary")
        unit = bench.folder / "steering.toml"
        unit.write_text(unit.read_text() + f'CanaryWeight = {weight}\nSoakTime = "10min"\n')
        with Running(command) as running:
            old = answering_pid(PORT)
            os.kill(running.pid, signal.SIGHUP)
            wait_for_soak(bench.run_folder / "control.sock")
            new = sum(answering_pid(PORT) != old for _ in range(n))
        bench.row(f"share at {weight} % of {n}", "aeternad", 100 * new / n, None, "%")


def answering_pid(port):
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(4096).partition(b"pid=")[2].split()[0]


def wait_for_soak(path):
    """Until the first unit soaks: its events tell."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(20)
        control.connect(str(path))
        control.sendall(b'{"command":"events"}\n')
        seen = b""
        while b"SOAKING" not in seen and b"SOAKING" not in status_text(path):
            seen += control.recv(65536)


def interception(bench):
    """Requests a second of a busy nginx, a connection for each, with its sockets adopted and steered and without."""
    plain = bench.nginx()
    if not plain or not shutil.which("wrk"):
        raise RuntimeError("needs nginx and wrk")
    own = [bench.aeternad, "--runtime-dir", str(bench.run_folder), "--log-level", "error", "--intercept", "--", *plain]
    rates = {"nginx alone": [], "nginx below aeternad": []}
    for _ in range(bench.quick(6, 2)):
        for name, command in zip(rates, (plain, own)):
            with Running(command):
                rates[name].append(requests_a_second(bench.quick(4, 1)))
    floor = statistics.median(rates["nginx alone"])
    for name, values in rates.items():
        bench.row("requests a second", name, statistics.median(values), floor, "")


def requests_a_second(seconds):
    text = subprocess.run(["wrk", "-t2", "-c16", f"-d{seconds}s", "-H", "Connection: close",
                           f"http://127.0.0.1:{PORT}/"], capture_output=True, text=True, check=True).stdout
    return float(next(line for line in text.splitlines() if line.startswith("Requests/sec")).split()[1])


def relay(bench):
    """State through the relay, against a direct hop and socat (a benchmark of its own: cargo bench)."""
    subprocess.run(["cargo", "bench", "--quiet", "--bench", "relay"], cwd=ROOT, check=True)


MEASURES = (start, first, reload, load, lossless, idle, size, orphans, sockets, units, steering, interception, relay)


def build(options):
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("echo", "floor", "meter"):
        source, program = ROOT / "benches" / f"{name}.c", BUILD / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["gcc", "-O2", "-static", "-o", program, source, "-lpthread"], check=True)
    if options.aeternad is None:
        options.aeternad = STATIC
        environment = dict(os.environ, RUSTFLAGS="-C target-feature=+crt-static")
        subprocess.run(["cargo", "build", "--release", "--bins", "--target", "x86_64-unknown-linux-gnu"], cwd=ROOT,
                       env=environment, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="which; all without")
    parser.add_argument("--quick", action="store_true", help="fewer samples: shows that it works")
    parser.add_argument("--list", action="store_true", help="name the measures")
    parser.add_argument("--rate", type=int, default=2000, help="connections a second under load (default 2000)")
    parser.add_argument("--aeternad", type=pathlib.Path, help="the program; built statically without this")
    options = parser.parse_args()
    names = {measure.__name__: measure for measure in MEASURES}
    if options.list:
        for name, measure in names.items():
            print(f"{name:10} {measure.__doc__}")
        return 0
    unknown = [name for name in options.measures if name not in names]
    if unknown:
        parser.error(f"no such measure: {', '.join(unknown)}; --list names them")
    if options.aeternad is not None:
        options.aeternad = options.aeternad.resolve()
    build(options)
    print(f"{'measure':34} {'subject':26} {'median':>12} {'':6} {'x floor':>8}")
    for name, measure in names.items():
        if not options.measures or name in options.measures:
            with tempfile.TemporaryDirectory(prefix="bench") as folder:
                os.chmod(folder, 0o755)
                bench = Bench(options, folder)
                try:
                    measure(bench)
                except (RuntimeError, OSError) as error:
                    print(f"{name}: {error}", flush=True)
                shutil.rmtree(bench.run_folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
