#!/usr/bin/env python3
"""A cache of any size that changes hands in no time: it lives in a memfd, and only the descriptor travels.

GET /KEY and PUT /KEY over HTTP. `[State] Enabled = true` hands the memfd over in a STATE_FD frame; with
`[State] Descriptor = true` (and `FileDescriptorStoreMax = 1`) it needs no protocol at all: it is kept under the name
aeterna-state and comes with the sockets. Entries are appended; the index is rebuilt from the memfd.
"""

import array
import os
import signal
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../sdk/python"))
import aeterna  # noqa: E402

ENTRY = struct.Struct("=II")  # lengths of key and value, which follow
# Held by each request from its accept to its end, and by a handover from REQUEST to COMMIT or RESUME.
turn = threading.Lock()
handed_over = False


class Cache:
    def __init__(self):
        self.fd, self.end, self.index = os.memfd_create("cache", os.MFD_CLOEXEC), 0, {}

    def adopt(self, fd):
        os.close(self.fd)
        self.fd, self.end, self.index = fd, 0, {}
        size = os.fstat(fd).st_size
        while self.end < size:
            key, value = ENTRY.unpack(os.pread(fd, ENTRY.size, self.end))
            at = self.end + ENTRY.size
            self.index[os.pread(fd, key, at)] = (at + key, value)
            self.end = at + key + value

    def get(self, key):
        place = self.index.get(key)
        return place and os.pread(self.fd, place[1], place[0])

    def put(self, key, value):
        entry = ENTRY.pack(len(key), len(value)) + key + value
        os.pwrite(self.fd, entry, self.end)
        self.index[key] = (self.end + ENTRY.size + len(key), len(value))
        self.end += len(entry)


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        value = cache.get(self.path.encode())
        self.answer(404 if value is None else 200, value or b"")

    def do_PUT(self):
        value = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cache.put(self.path.encode(), value)
        self.answer(201, b"")

    def log_message(self, *_):
        pass


class Server(TCPServer):
    def __init__(self, listener):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)

    def get_request(self):
        turn.acquire()
        try:
            if handed_over:
                time.sleep(0.01)  # what waits is for the newer generation; the stop signal is on its way
                raise OSError("handed over")
            connection, address = self.socket.accept()
        except OSError:
            turn.release()
            raise
        connection.settimeout(2)
        return connection, address

    def shutdown_request(self, request):
        super().shutdown_request(request)
        turn.release()


def store():
    """FDSTORE=1 under the name that [State] Descriptor looks for."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if os.environ.get("FDSTORE") and path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [cache.fd]))]
            s.sendmsg([b"FDSTORE=1\nFDNAME=aeterna-state\nFDPOLL=0"], rights, 0, path.replace("@", "\0", 1))


def save():
    turn.acquire()
    return [aeterna.fd_frame({"kind": "memfd", "name": "cache"}, cache.fd)]


def load(frames):
    cache.adopt(frames[0].fds[0])


def resume(frames):
    if frames:
        load(frames)
    turn.release()


def commit():
    global handed_over
    handed_over = True
    turn.release()


cache = Cache()
listener = aeterna.listener(0, "127.0.0.1:" + os.environ.get("PORT", "8080"))
for name, fd in aeterna.listeners():
    if name == "aeterna-state":
        cache.adopt(fd)
state = aeterna.State()
state.load(load)
state.keep(save, resume, commit)
store()
server = Server(listener)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
aeterna.ready()
server.serve_forever()
aeterna.stopping()
