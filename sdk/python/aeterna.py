"""Aeterna for services in Python (3.9 or later, standard library only).

    import aeterna

    listener = aeterna.listener("http", "127.0.0.1:8080")
    count = 0

    def apply(frames):
        global count
        count = frames[0].json()["count"]

    state = aeterna.State()
    state.load(apply)
    state.keep(save=lambda: [aeterna.json_frame({"count": count})])
    aeterna.ready()

Everything works without aeternad too: sockets are then bound here, notices go nowhere, and there is no state.
A state that cannot be loaded is no state and a line on standard error that begins with "[Aeterna-SDK]".
The protocol is described in aeterna-srp(7).
"""

import array
import json
import os
import socket
import struct
import sys
import threading
import time

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


class State:
    """This generation's connection to aeternad's SRP socket."""

    def __init__(self, path=None):
        self._path = path or os.environ.get("AETERNA_STATE_SOCK")
        self._channel = None
        self._standing = "mine"  # "asked" from REQUEST on, then "mine" again or "theirs"
        self._changed = threading.Condition()

    def handed_over(self):
        """Whether the state is a newer generation's for good: to be asked when the stop signal has come, before
        anything is stored or said to clients. aeternad's word on it precedes the signal on another way, so this
        waits, if the state was asked for, until that has been read."""
        with self._changed:
            self._changed.wait_for(lambda: self._standing != "asked")
            return self._standing == "theirs"

    def _set(self, standing):
        with self._changed:
            self._standing = standing
            self._changed.notify_all()

    def load(self, apply=None):
        """Takes the older generation's state over; blocks until it is there. Returns its frames.

        `apply(frames)` may refuse them by raising; the state is acknowledged only if it does not. It is not
        called if there is nothing. If the state cannot be had, the list is empty and the log says why.
        """
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

        `save()` returns frames: a newer generation is about to take over, so accept nothing more and change
        nothing. If it raises, nothing is handed over. `resume(frames)`: the handover was given up; serve on, with
        these frames if they are not None.
        `commit()`: the state is the newer generation's for good, do not store it when the stop signal comes.
        """
        if self._path:
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
        while True:
            kind, payload, _ = channel.read()
            if kind == _REQUEST:
                self._set("asked")
                try:
                    frames = list(save())
                except Exception as error:  # RESUME will follow
                    log("the state cannot be saved: %s" % (str(error) or type(error).__name__))
                    channel.write(_ERROR, _json({"code": "save_failed", "message": str(error)[:1000]}))
                    continue
                channel.give(frames)
            elif kind == _RESUME:
                frames = []
                try:
                    frames = channel.receive()
                    channel.write(_FINISHED)
                except Error as error:
                    log("nothing was given back: %s" % error)
                if resume:
                    resume(frames or None)
                self._set("mine")
            elif kind == _COMMIT:
                if commit:
                    commit()
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
    kind, payload, _ = channel.read()
    if kind != _HELLO or json.loads(payload).get("role") != "coordinator":
        raise Error("HELLO was answered by type 0x%02x: %s" % (kind, payload.decode(errors="replace")))
    return channel


class _Channel:
    """Frames over a connection, blocking."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)

    def close(self):
        self._socket.close()

    def read(self):
        """The next frame: (type, payload, descriptors). Reads no byte of the one after it, because its
        descriptors would come along."""
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
