"""Aeterna for services in Python (3.9 or later, standard library only).

    import aeterna

    counts = {}
    state = aeterna.State()
    listener = state.listener("http", "127.0.0.1:8080")       # accepts nothing while the state changes hands
    state.load(lambda frames: counts.update(frames[0].json()))
    state.keep(save=lambda: [aeterna.json_frame(counts)])
    aeterna.ready()
    ...
    with state.request():                                     # around what changes the state; then answer
        counts["n"] = counts.get("n", 0) + 1

Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
A state that cannot be loaded is no state and a line on standard error that begins with "[Aeterna-SDK]".
The protocol is described in aeterna-srp(7).
"""

import array
import errno
import json
import os
import select
import socket
import struct
import sys
import threading
import time

__version__ = "0.1.0"

STATE_JSON, STATE_PROTOBUF, STATE_BYTES, STATE_FD = 0x02, 0x03, 0x04, 0x05

_HELLO, _REQUEST, _RESUME, _COMMIT, _ERROR, _FINISHED = 0x01, 0x10, 0x11, 0x12, 0xFE, 0xFF
_STATES = (STATE_JSON, STATE_PROTOBUF, STATE_BYTES, STATE_FD)
_CONTROLS = (_HELLO, _REQUEST, _RESUME, _COMMIT, _ERROR, _FINISHED)
_HEADER = struct.Struct(">IIBBH")
_MAGIC = 0xAE7E2024
_MAX_CONTROL = 64 * 1024
_MAX_FDS = 253


def log(text):
    """A line for whoever runs the service."""
    try:
        print("[Aeterna-SDK] %s" % text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # nobody reads it any more
        pass


# Sockets


def is_managed():
    """Whether aeternad has started this program."""
    return os.environ.get("AETERNA_MANAGED") == "1"


def generation():
    """1 for the first launch, one more for each; 0 without aeternad."""
    return int(os.environ.get("AETERNA_GENERATION", "0"))


def listeners():
    """What was inherited, as a list of (name, descriptor): the unit's sockets, then stored descriptors."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (count - len(names))
    for fd in range(3, 3 + count):
        os.set_inheritable(fd, False)
    return list(zip(names, range(3, 3 + count)))


def listener(which, fallback):
    """The listening socket of that name or (an int) at that place in the unit.

    Without aeternad one that is bound to `fallback`: "HOST:PORT", "[::1]:PORT", or the path of a Unix socket.
    """
    inherited = listeners()
    for index, (name, fd) in enumerate(inherited):
        if which in (index, name):
            return socket.socket(fileno=fd)
    if inherited or is_managed():
        raise LookupError("no socket %r in the unit; its sockets are %r" % (which, [n for n, _ in inherited]))
    if "/" in fallback:
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.bind(fallback)
    else:
        host, _, port = fallback.rpartition(":")
        host = host.strip("[]")
        own = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind((host, int(port)))
    own.listen(4096)
    return own


# Notices: sd_notify(3)


def notify(message):
    """KEY=value lines to the supervisor; whether they have reached one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    if path.startswith("@"):
        path = "\0" + path[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.sendto(message.encode(), path)
    except OSError as error:  # a supervisor that is gone is no reason to stop serving
        log("cannot tell %s: %s" % (message.split("=")[0], error))
        return False
    return True


def ready():
    """The service serves."""
    return notify("READY=1")


def stopping():
    """The service is about to end."""
    return notify("STOPPING=1")


def reloading():
    """The service rereads its configuration by itself; ready() ends that."""
    return notify("RELOADING=1\nMONOTONIC_USEC=%d" % (time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))


def status(text):
    """One line for `aeternactl status`."""
    return notify("STATUS=" + text.replace("\n", " "))


# State


class Frame:
    """A piece of state: `kind` (STATE_JSON…), `payload` (bytes), `fds` (a list of descriptors)."""

    def __init__(self, kind, payload, fds=()):
        self.kind, self.payload, self.fds = kind, bytes(payload), list(fds)

    def json(self):
        """The payload of a STATE_JSON or STATE_FD frame as a value."""
        return json.loads(self.payload)


def json_frame(value):
    """State as JSON."""
    return Frame(STATE_JSON, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def bytes_frame(payload):
    """State that only the service understands."""
    return Frame(STATE_BYTES, payload)


def fd_frame(about, *fds):
    """Descriptors (sockets, memfds: ints or objects with fileno()) and a value that says what they are,
    such as {"kind": "connection", "name": "alice"}. They stay open here."""
    fds = [fd if isinstance(fd, int) else fd.fileno() for fd in fds]
    return Frame(STATE_FD, json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode(), fds)


class Error(Exception):
    """The state could not be had, or the other side is no aeternad."""


# The gate


class HandedOver(Exception):
    """The state is being handed over, or is a newer generation's: what was asked for was not done, or is not known to
    be in what was handed over. Do not tell the client that it was done; end the connection, or answer 503."""


class _Overruled(Exception):
    """aeternad has said something while the gate waited for requests."""


class _Gate:
    """Whether requests may begin, which are in hand, and which listeners accept.

    A connection that was accepted is in hand until its first answer or its end, for it may be about to ask for
    something; a request is from its beginning to its end.
    """

    GRACE = 0.5  # seconds for connections that say nothing

    def __init__(self, patience):
        self.patience = patience
        self.pid = os.getpid()
        self.changed = threading.Condition()
        self.phase = "open"  # "closing": accepts nothing more; "closed": no request begins; "gone": for good
        self.fresh = self.requests = 0
        # How often the state has been saved, and up to which time what was done since is not in it any more.
        self.saves = self.replaced = 0
        self.listeners = []
        self.tasks = []  # of asyncio, which wait for another phase
        self.nudge = None  # a pipe to whoever waits for the requests

    def set(self, phase):
        with self.changed:
            self.phase = phase
            for listener in self.listeners:
                listener._switch(phase == "open")
            self.wake()

    def wake(self):
        self.changed.notify_all()
        for loop, future in self.tasks:
            try:
                loop.call_soon_threadsafe(lambda future=future: future.done() or future.set_result(None))
            except RuntimeError:  # the loop is closed
                pass
        self.tasks.clear()

    def less(self, fresh=0, requests=0):
        with self.changed:
            self.fresh -= fresh
            self.requests -= requests
            if self.nudge and (self.fresh == 0 or self.requests == 0):
                try:
                    os.write(self.nudge[1], b"!")
                except BlockingIOError:  # there are nudges enough
                    pass
            return self.saves

    def close(self, channel):
        """Accepts nothing more, lets what is in hand end, and lets no other request begin."""
        with self.changed:
            if self.nudge is None:
                self.nudge = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        until = time.monotonic() + self.patience
        self.set("closing")
        self.wait(channel, lambda: self.fresh == 0, min(until, time.monotonic() + self.GRACE))
        self.set("closed")
        self.wait(channel, lambda: self.requests == 0, until)
        with self.changed:
            self.saves += 1
            if self.requests:
                log("not ended within %g s: requests, %d; what they do is not handed over"
                    % (self.patience, self.requests))

    def wait(self, channel, is_over, until):
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        poll.register(self.nudge[0], select.POLLIN)
        while True:
            with self.changed:
                left = until - time.monotonic()
                if is_over() or left <= 0:
                    return
            ready = [fd for fd, _ in poll.poll(left * 1000 + 1)]
            if channel.fileno() in ready:
                raise _Overruled()
            if ready:
                os.read(self.nudge[0], 4096)

    def open(self, replaced=False):
        with self.changed:
            if replaced:
                self.replaced = self.saves
        self.set("open")

    # A request: may it begin, and may its client be told? True, False, or None for: not decided yet.

    def may_begin(self):
        if os.getpid() != self.pid:
            raise RuntimeError("the state is kept by process %d, and this is another" % self.pid)
        if self.phase in ("open", "closing"):
            self.requests += 1
            return True
        return False if self.phase == "gone" else None

    def was_kept(self, began, ended):
        if ended == began:
            return True
        if self.phase == "closed":
            return None
        return self.phase != "gone" and self.replaced <= began


class _Request:
    """What State.request() returns."""

    def __init__(self, gate):
        self._gate, self._began = gate, None

    def _wait(self, question):
        gate, until = self._gate, time.monotonic() + self._gate.patience
        with gate.changed:
            while True:
                answer, left = question(), until - time.monotonic()
                if answer is not None or left <= 0:
                    return answer, gate.saves
                gate.changed.wait(left)

    async def _wait_async(self, question):
        import asyncio  # only for those who use it: it is large

        gate, until = self._gate, time.monotonic() + self._gate.patience
        while True:
            with gate.changed:
                answer, left = question(), until - time.monotonic()
                if answer is not None or left <= 0:
                    return answer, gate.saves
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                gate.tasks.append((loop, future))
            await asyncio.wait([future], timeout=left)

    def _begin(self, answered):
        answer, self._began = answered
        if not answer:
            raise HandedOver("a newer generation has the state")

    def _end(self, failed, answered):
        if not failed and not answered[0]:
            raise HandedOver("the request took too long: what it did may not be in the state that was handed over")

    def __enter__(self):
        self._begin(self._wait(self._gate.may_begin))

    def __exit__(self, kind, *_):
        ended = self._gate.less(requests=1)
        self._end(kind, kind or self._wait(lambda: self._gate.was_kept(self._began, ended)))

    async def __aenter__(self):
        self._begin(await self._wait_async(self._gate.may_begin))

    async def __aexit__(self, kind, *_):
        ended = self._gate.less(requests=1)
        self._end(kind, kind or await self._wait_async(lambda: self._gate.was_kept(self._began, ended)))


class _Fresh:
    """A connection from which nothing was answered yet; over at the latest when nobody has it any more."""

    def __init__(self, gate):
        self._gate = gate

    def over(self):
        gate, self._gate = self._gate, None
        if gate:
            gate.less(fresh=1)

    __del__ = over


class Connection(socket.socket):
    """An accepted connection: a socket that tells its gate when the first answer has gone out."""

    _fresh = None

    def send(self, *arguments):
        sent = super().send(*arguments)
        self._answers()
        return sent

    def sendall(self, *arguments):
        super().sendall(*arguments)
        self._answers()

    def sendmsg(self, *arguments):
        sent = super().sendmsg(*arguments)
        self._answers()
        return sent

    def detach(self):
        self._answers()
        return super().detach()

    def _real_close(self, *arguments):
        super()._real_close(*arguments)
        self._answers()

    def _answers(self):
        fresh, self._fresh = self._fresh, None
        if fresh:
            fresh.over()


class Listener(socket.socket):
    """A listening socket that gives no connection while the state changes hands: they wait in its queue.

    accept() keeps its timeout and its way of blocking. fileno() is a descriptor to poll (it is readable when there is
    a connection that may be accepted), not the socket itself. Other processes have the same queue, so the socket
    itself never blocks.
    """

    def __init__(self, fd, gate):
        super().__init__(fileno=fd)
        super().setblocking(False)
        self._gate, self._timeout, self._poll, self._is_on = gate, None, select.epoll(), False
        with gate.changed:
            gate.listeners.append(self)
            self._switch(gate.phase == "open")

    def _switch(self, on):
        if on and not self._is_on:
            self._poll.register(super().fileno(), select.EPOLLIN)
        elif self._is_on and not on:
            self._poll.unregister(super().fileno())
        self._is_on = on

    def fileno(self):
        return -1 if self._poll.closed else self._poll.fileno()

    def settimeout(self, seconds):
        self._timeout = seconds

    def gettimeout(self):
        return self._timeout

    timeout = property(gettimeout)

    def setblocking(self, flag):
        self._timeout = None if flag else 0.0

    def getblocking(self):
        return self._timeout != 0

    def accept(self):
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            with self._gate.changed:
                if self._is_on:
                    try:
                        fd, address = self._accept()
                    except (BlockingIOError, ConnectionAbortedError):
                        pass
                    else:
                        connection = Connection(self.family, self.type, self.proto, fileno=fd)
                        self._gate.fresh += 1
                        connection._fresh = _Fresh(self._gate)
                        return connection, address
            left = None if until is None else until - time.monotonic()
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, "no connection waits, or the state changes hands")
            if left is not None and left <= 0:
                raise socket.timeout("timed out")
            self._poll.poll(left)

    def _real_close(self, *arguments):
        with self._gate.changed:
            if self in self._gate.listeners:
                self._gate.listeners.remove(self)
            self._poll.close()
        super()._real_close(*arguments)

    def detach(self):
        fd = super().fileno()
        self._gate.listeners.remove(self)
        self._poll.close()
        super().detach()
        return fd


class State:
    """This generation's connection to aeternad's SRP socket, and the gate in front of the state.

    When a newer generation asks for the state, the listeners that came from listener() accept nothing more, and what
    is in hand may end, for `patience` seconds at most; below `Timeout` of `[State]`, which is 5 s. Then it is saved.
    The process that makes a State keeps it; its forks have none.
    """

    def __init__(self, path=None, patience=3.0):
        self._path = path or os.environ.get("AETERNA_STATE_SOCK")
        self._channel = None
        self._apply = None
        self._gate = _Gate(patience)
        self._standing = "mine"  # "asked" from REQUEST on, then "mine" again or "theirs"
        self._changed = threading.Condition()

    def handed_over(self):
        """Whether the state is a newer generation's for good: to be asked when the stop signal has come, before
        anything is stored or said to clients. aeternad's word on it precedes the signal on another way, so this
        waits, if the state was asked for, until that has been read."""
        with self._changed:
            self._changed.wait_for(lambda: self._standing != "asked")
            return self._standing == "theirs"

    def listener(self, which, fallback):
        """As listener() of this module, but with a gate: it gives no connection from the time when the state is asked
        for until the handover is given up. The connections that it gives are in hand until their first answer."""
        return Listener(listener(which, fallback).detach(), self._gate)

    def request(self):
        """For `with` and `async with` around what changes the state, not nested. The answer to the client belongs
        behind it.

        While the state changes hands it does not begin; after `patience` it raises HandedOver. It also does at its
        end if the state was handed over without it.
        """
        return _Request(self._gate)

    def is_closing(self):
        """Whether the state was asked for: a server may then ask its clients to connect again (Connection: close)."""
        return self._gate.phase != "open"

    def _set(self, standing):
        with self._changed:
            self._standing = standing
            self._changed.notify_all()

    def load(self, apply=None):
        """Takes the older generation's state over; blocks until it is there. Returns its frames.

        `apply(frames)` may refuse them by raising; the state is acknowledged only if it does not. It is not
        called if there is nothing. If the state cannot be had, the list is empty and the log says why. It is also
        called with what comes back from a newer generation that is rolled back, if keep() is given no `resume`: so it
        replaces what there is.
        """
        self._apply = apply
        if not self._path:
            return []
        channel, frames = None, []
        try:
            channel = _greet(self._path, "sink")
            frames = channel.receive()
            if frames and apply:
                try:
                    apply(frames)
                except Exception as error:
                    channel.write(_ERROR, _json({"code": "load_failed", "message": str(error)[:1000]}))
                    raise
            channel.write(_FINISHED)
            self._channel = channel
            return frames
        except Exception as error:  # a failed load is an empty state, whatever went wrong
            log("no state was taken over, beginning with none: %s" % (str(error) or type(error).__name__))
            for fd in [fd for frame in frames for fd in frame.fds]:
                try:
                    os.close(fd)
                except OSError:
                    pass
            if channel:
                channel.close()
            return []

    def keep(self, save, resume=None, commit=None):
        """Gives the state to whoever asks for it, on a daemon thread.

        `save()` returns frames: a newer generation is about to take over. The gate is closed; what does not go
        through it must change nothing any more. If it raises, nothing is handed over. `resume(frames)`: the handover
        was given up; serve on, with these frames if they are not None. The gate opens afterwards. Without it, what
        load() was given takes the frames.
        `commit()`: the state is the newer generation's for good, do not store it when the stop signal comes.
        """
        if self._path:
            apply = self._apply
            if resume is None and apply:
                def resume(frames):
                    if frames:
                        apply(frames)

            work = threading.Thread(target=self._serve, args=(save, resume, commit), daemon=True)
            work.start()

    def _serve(self, save, resume, commit):
        quiet = False  # one line for each time that aeternad is away
        while True:
            channel, began = self._channel, time.monotonic()
            self._channel = None
            try:
                channel = channel or _greet(self._path, "source")
                if quiet:
                    log("connected to aeternad again")
                quiet = False
                self._answer(channel, save, resume, commit)
            except Exception as failed:  # the service goes on
                error = failed
            if channel:
                channel.close()  # whoever waits for the state learns that it does not come
            if self._standing == "asked":
                try:
                    if resume:
                        resume(None)
                except Exception as failed:
                    log("the service could not resume: %s" % failed)
                finally:
                    self._gate.open()
                    self._set("mine")
            if self._standing == "theirs" or isinstance(error, _Replaced):
                return
            if not quiet:
                log("the connection to aeternad is over, connecting again: %s" % error)
            quiet = True
            # aeternad may be about to be started again, or somebody may end every connection at once.
            time.sleep(0.1 if channel and time.monotonic() - began > 1 else 1)

    def _answer(self, channel, save, resume, commit):
        """Answers aeternad until the connection ends: raises then."""
        unanswered = False
        while True:
            kind, payload, _ = channel.read()
            if kind == _HELLO and not unanswered:
                continue
            if kind == _REQUEST or kind == _HELLO:
                unanswered = False
                self._set("asked")
                try:
                    self._gate.close(channel)
                    frames = list(save())
                except _Overruled:  # RESUME is there already, or nobody any more
                    unanswered = True
                    continue
                except Exception as error:  # RESUME will follow
                    log("the state cannot be saved: %s" % (str(error) or type(error).__name__))
                    channel.write(_ERROR, _json({"code": "save_failed", "message": str(error)[:1000]}))
                    continue
                channel.give(frames)
            elif kind == _RESUME:
                unanswered, frames = False, []
                try:
                    frames = channel.receive()
                    channel.write(_FINISHED)
                except Error as error:
                    log("nothing was given back: %s" % error)
                try:
                    if resume:
                        resume(frames or None)
                finally:
                    self._gate.open(replaced=bool(frames))
                    self._set("mine")
            elif kind == _COMMIT:
                self._gate.set("gone")
                try:
                    if commit:
                        commit()
                finally:
                    self._set("theirs")
            elif kind == _ERROR:
                if _code(payload) == "replaced":
                    raise _Replaced()
                log("aeternad reports %s" % payload.decode(errors="replace"))
            elif kind != _FINISHED:  # the acknowledgement; COMMIT or RESUME will follow
                raise Error("a frame of type 0x%02x does not belong here" % kind)


class _Replaced(Exception):
    """A newer connection of this generation has its place."""


def _code(payload):
    try:
        return json.loads(payload).get("code")
    except (ValueError, AttributeError):
        return None


def _json(value):
    return json.dumps(value).encode()


def _greet(path, role):
    channel = _Channel(path)
    channel.write(_HELLO, _json({"role": role}))
    channel.early = channel.read()
    kind, payload, _ = channel.early
    if kind == _ERROR or kind == _HELLO and json.loads(payload).get("role") != "coordinator":
        raise Error("HELLO was answered by type 0x%02x: %s" % (kind, payload.decode(errors="replace")))
    return channel  # aeternad's HELLO comes later if it has taken the role for granted meanwhile


class _Channel:
    """Frames over a connection, blocking."""

    early = None  # a frame that has been read already

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)

    def close(self):
        self._socket.close()

    def fileno(self):
        return self._socket.fileno()

    def read(self):
        """The next frame: (type, payload, descriptors). Reads no byte of the one after it, because its
        descriptors would come along."""
        if self.early:
            early, self.early = self.early, None
            return early
        fds = []
        try:
            length, magic, version, kind, reserved = _HEADER.unpack(self._exactly(_HEADER.size, fds))
            wrong = None
            if magic != _MAGIC:
                wrong = ("bad_magic", "magic 0x%08x" % magic)
            elif version != 1:
                wrong = ("bad_version", "version %d" % version)
            elif length < 8:
                wrong = ("bad_length", "length %d" % length)
            elif kind not in _STATES and kind not in _CONTROLS:
                wrong = ("bad_type", "type 0x%02x" % kind)
            elif reserved:
                wrong = ("bad_reserved", "reserved bits 0x%04x" % reserved)
            elif kind in _CONTROLS and length - 8 > _MAX_CONTROL:
                wrong = ("too_long", "a control frame of %d bytes" % length)
            if wrong:
                self.write(_ERROR, _json({"code": wrong[0], "message": wrong[1]}))
                raise Error("this is no SRP: " + wrong[1])
            return kind, self._exactly(length - 8, fds), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _exactly(self, count, fds):
        """So many bytes; memory grows with what has come, not with what was announced."""
        data = bytearray()
        space = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        while len(data) < count:
            part, ancillary, flags, _ = self._socket.recvmsg(
                min(count - len(data), 1 << 18), space, socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    numbers = array.array("i")
                    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                    fds.extend(numbers)
            if flags & socket.MSG_CTRUNC:
                raise Error("descriptors were lost: this process can have no more (LimitNOFILE)")
            if not part:
                raise Error("aeternad closed the connection")
            data += part
        return bytes(data)

    def write(self, kind, payload=b"", fds=()):
        """One frame; the descriptors go with its first byte."""
        header = _HEADER.pack(8 + len(payload), _MAGIC, 1, kind, 0)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self._socket.sendmsg([header], rights)
        self._socket.sendall(header[sent:])
        self._socket.sendall(payload)

    def receive(self):
        """Frames up to FINISHED."""
        frames = []
        try:
            while True:
                kind, payload, fds = self.read()
                if kind in _STATES:
                    frames.append(Frame(kind, payload, fds))
                elif kind == _HELLO:
                    continue
                elif kind == _FINISHED:
                    return frames
                elif kind == _ERROR:
                    raise Error("aeternad reports %s" % payload.decode(errors="replace"))
                else:
                    raise Error("a frame of type 0x%02x among the state" % kind)
        except BaseException:
            for fd in [fd for frame in frames for fd in frame.fds]:
                os.close(fd)
            raise

    def give(self, frames):
        """State frames and FINISHED."""
        for frame in frames:
            self.write(frame.kind, frame.payload, frame.fds)
        self.write(_FINISHED, _json({"frames": len(frames), "bytes": sum(len(f.payload) for f in frames)}))
