#!/usr/bin/env python3
"""A service that speaks SRP as its plan says: DIR/plan-GENERATION, JSON; it tells what happens in DIR/said.

`state`  what it has if it is given nothing, text; `size` so many bytes instead, in frames of `chunk`
`sink`   hello (default), silent, none, noack, stall, again; die:connect, die:header, die:state, die:ack; error;
         raw:HEX; back: it keeps no connection behind its ACK
`source` hello (default), silent, signal, none
`give`   all (default), hang, half, error, more (again and again), raw:HEX, fds:COUNT; die:request, die:half,
         die:state, die:finished
`memfd`  with its state it gives a memfd of so many bytes
`store`  text that it has stored by FDSTORE=1, under the name aeterna-state or as [name, text]; `unstore` names
`raws`   connections that send these bytes, HEX, and are told what is wrong; `flood` so many connections
`ready`  after (default) the state is there, before
"""

import array
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../sdk/python"))
import aeterna  # noqa: E402

HELLO, REQUEST, RESUME, COMMIT, ERROR, FINISHED = 0x01, 0x10, 0x11, 0x12, 0xFE, 0xFF
NAMES = {HELLO: "hello", REQUEST: "request", RESUME: "resume", COMMIT: "commit", ERROR: "error", FINISHED: "ack"}
FOLDER = sys.argv[1]
GENERATION = aeterna.generation()
BLOCK = hashlib.sha256(b"x").digest() * (32 * 1024)

try:
    with open("%s/plan-%d" % (FOLDER, GENERATION)) as file:
        plan = json.load(file)
except FileNotFoundError:
    plan = {}

state = plan.get("state", "fresh").encode()
size = plan.get("size")
said = os.open(FOLDER + "/said", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
committed = False
channel = None


def say(what, **more):
    os.write(said, json.dumps({"g": GENERATION, "what": what, **more}).encode() + b"\n")


def die(point, where):
    if where == "die:" + point:
        say("dies", at=point)
        os.kill(os.getpid(), signal.SIGKILL)


def wait_file(name):
    while not os.path.exists(FOLDER + "/" + name):
        time.sleep(0.01)


def greet(role):
    greeting = json.dumps({"role": role}).encode()
    opened = aeterna._Channel(os.environ["AETERNA_STATE_SOCK"])
    die("connect", plan.get(role, ""))
    # HELLO comes before anything that takes time: 100 ms later the role would be implied.
    greets = plan.get(role, "hello") not in ("silent", "signal")
    if greets:
        opened.write(HELLO, greeting)
    say("connected", role=role, path=os.environ["AETERNA_STATE_SOCK"])
    if greets:
        kind, payload, _ = opened.read()
        say(NAMES.get(kind, str(kind)), **json.loads(payload))
    return opened


def misbehave():
    """Bytes that are no SRP, each on a connection of its own, and more connections than anybody needs."""
    for raw in plan.get("raws", []):
        opened = aeterna._Channel(os.environ["AETERNA_STATE_SOCK"])
        opened._socket.sendall(bytes.fromhex(raw))
        kind, payload = HELLO, b""
        while kind != ERROR:
            kind, payload, _ = opened.read()
        say("answered", **json.loads(payload))
        opened.close()
    opened, codes = [], set()
    for _ in range(plan.get("flood", 0)):
        channel = aeterna._Channel(os.environ["AETERNA_STATE_SOCK"])
        try:
            # The beginning of a frame: none of them is taken for a silent source that a newer one replaces.
            channel._socket.sendall(struct.pack(">I", 20))
        except OSError:
            pass
        opened.append(channel)
    unheard = [channel._socket for channel in opened]
    while opened and not codes:
        # Whoever is refused is told at once; of the others one that was slow to send is told that there is no state.
        for socket_ in select.select(unheard, [], [])[0]:
            unheard.remove(socket_)
            answer = socket_.recv(4096)
            if answer[9:10] == bytes([ERROR]):
                codes.add(json.loads(answer[12:])["code"])
    for channel in opened:
        channel.close()
    # One more is let in as soon as the daemon has seen that they are gone.
    while opened and is_refused():
        pass
    if opened:
        say("flooded", codes=sorted(codes))


def is_refused():
    """Whether the daemon says that there are too many connections, before it has heard a word."""
    one = aeterna._Channel(os.environ["AETERNA_STATE_SOCK"])
    try:
        one._socket.sendall(bytes(16))
        kind, payload = HELLO, b""
        while kind != ERROR:
            kind, payload, _ = one.read()
        return json.loads(payload)["code"] == "too_many"
    except OSError:
        return True
    finally:
        one.close()


def take(opened, how):
    """Frames up to FINISHED: whether there were any; None after ERROR."""
    global state, size
    digest, count, frames, descriptors, first = hashlib.sha256(), 0, 0, 0, b""
    while True:
        if how == "die:header":
            opened._exactly(12, [])
            die("header", how)
        kind, payload, fds = opened.read()
        if kind == FINISHED:
            break
        if kind == ERROR:
            say("error", **json.loads(payload))
            return None
        if kind == HELLO:
            continue
        frames, count, descriptors = frames + 1, count + len(payload), descriptors + len(fds)
        digest.update(payload)
        first = first or payload[:4096]
        for fd in fds:
            say("descriptor", size=os.fstat(fd).st_size)
            os.close(fd)
        die("state", how)
        if how == "stall":
            say("stalls")
            signal.pause()
    if frames:
        state, size = first, None if count <= 4096 else count
    say("took", frames=frames, bytes=count, descriptors=descriptors, sha=digest.hexdigest())
    return frames > 0


def sink():
    global channel, state
    how = plan.get("sink", "hello")
    if how == "none":
        return
    opened = greet("sink")
    if how.startswith("raw:"):
        opened._socket.sendall(bytes.fromhex(how[4:]))
    if how == "again":
        wait_file("again")
        say("leaves")
        newer = greet("sink")
        opened = newer
    if how == "error":
        opened.read()
        opened.write(ERROR, json.dumps({"code": "load_failed", "message": "it does not like it"}).encode())
        say("refused")
        opened.close()
        return
    taken = take(opened, how)
    if taken is None:
        opened.close()
        return
    if how == "noack":
        say("silent")
        signal.pause()
    die("ack", how)
    if taken and size is None:
        state += b"+%d" % GENERATION
    opened.write(FINISHED)
    if how == "back":
        opened.close()
    else:
        channel = opened


def give(how):
    die("request", how)
    if how == "hang":
        return
    if how == "error":
        return channel.write(ERROR, b'{"code":"no_memory","message":"cannot save"}')
    if how.startswith("raw:"):
        return channel._socket.sendall(bytes.fromhex(how[4:]))
    if how in ("half", "die:half"):
        channel._socket.sendall(struct.pack(">IIBBH", 108, 0xAE7E2024, 1, 4, 0) + b"x" * 50)
        return die("half", how)
    if how.startswith("fds:"):
        files = [os.open("/dev/null", os.O_RDONLY) for _ in range(int(how[4:]))]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
        channel._socket.sendmsg([struct.pack(">IIBBH", 10, 0xAE7E2024, 1, 5, 0) + b"{}"], rights)
        for file in files:
            os.close(file)
    digest, chunk, sent, frames = hashlib.sha256(), plan.get("chunk", 1 << 20), 0, 0
    total = len(state) if size is None else size
    while frames == 0 or sent < total or how == "more":
        part = min(chunk, total - sent) if how != "more" else chunk
        piece = state[sent : sent + part] if size is None else (BLOCK * (part // len(BLOCK) + 1))[:part]
        channel.write(aeterna.STATE_BYTES, piece)
        digest.update(piece)
        sent, frames = sent + part, frames + 1
    if "memfd" in plan:
        memory = os.memfd_create("state")
        os.ftruncate(memory, plan["memfd"])
        frame = aeterna.fd_frame({"kind": "memfd"}, memory)
        channel.write(frame.kind, frame.payload, frame.fds)
        os.close(memory)
        sent, frames = sent + len(frame.payload), frames + 1
    die("state", how)
    channel.write(FINISHED, json.dumps({"frames": frames, "bytes": sent}).encode())
    say("gave", frames=frames, bytes=sent, sha=digest.hexdigest())
    die("finished", how)


def serve():
    """What comes on the source's connection."""
    global channel, committed
    # A stop signal between reading COMMIT and noting it would be reported as if it had come before.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        kind, payload, _ = channel.read()
        committed = committed or kind == COMMIT
    except aeterna.Error as error:
        say("gone", why=str(error))
        channel = None
        return
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    more = json.loads(payload) if kind == ERROR else {}
    say(NAMES.get(kind, str(kind)), **more)
    if kind == REQUEST:
        # Once ready it is a newer generation's predecessor, or it is asked to give its state back.
        try:
            give(plan.get("give", "all"))
        except OSError as error:
            say("gone", why=str(error))
    elif kind == RESUME:
        taken = take(channel, "")
        if taken is not None:
            channel.write(FINISHED)
        say("resumed", state=state.decode(errors="replace"))


def on_term(*_):
    waiting = array.array("i", [0])
    if channel:
        fcntl.ioctl(channel._socket, termios.FIONREAD, waiting)
    say("term", committed=committed or waiting[0] > 0)
    os._exit(0)


def on_signal(*_):
    global channel
    say("signalled")
    channel = greet("source")


signal.signal(signal.SIGTERM, on_term)
signal.signal(signal.SIGUSR1, on_signal)
wake, tx = os.pipe()
os.set_blocking(tx, False)
signal.set_wakeup_fd(tx)
if plan.get("ready") == "before":
    aeterna.ready()
def store(text, name="aeterna-state"):
    """FDSTORE=1, where nothing else is said under the name that [State] Descriptor looks for."""
    memory = os.memfd_create("state")
    os.write(memory, text.encode())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))]
        message = b"FDSTORE=1\nFDNAME=%s\nFDPOLL=0" % name.encode()
        notify.sendmsg([message], rights, 0, os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
    os.close(memory)


def leave(*_):
    """A draining generation has one more wish."""
    store("too late", "late")
    on_term()


if plan.get("late"):
    signal.signal(signal.SIGTERM, leave)
for name, fd in aeterna.listeners():
    if name == "aeterna-state":
        say("stored", text=os.pread(fd, 100, 0).decode())
say("given", names=[name for name, _ in aeterna.listeners()], handover="AETERNA_HANDOVER" in os.environ)
for text in plan.get("store", []):
    store(*([text] if isinstance(text, str) else reversed(text)))
for name in plan.get("unstore", []):
    aeterna.notify("FDSTOREREMOVE=1\nFDNAME=" + name)
misbehave()
sink()
say("begins", state=state.decode(errors="replace"))
if channel is None and plan.get("source", "hello") in ("hello", "silent"):
    channel = greet("source")
if plan.get("ready") != "before":
    aeterna.ready()
while True:
    ready, _, _ = select.select([wake] + ([channel._socket] if channel else []), [], [])
    if wake in ready:
        os.read(wake, 100)
    if channel and channel._socket in ready:
        serve()
