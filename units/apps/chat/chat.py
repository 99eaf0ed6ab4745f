#!/usr/bin/env python3
"""A chat whose clients stay connected while the program is replaced: the same as examples/chat.rs, in Python.

Lines go to everybody; the first line of a client is its name. At a reload each connection travels to the newer
generation as a descriptor, with the name and the half line that has been read from it.
"""

import os
import selectors
import signal
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../sdk/python"))
import aeterna  # noqa: E402


class Chat:
    def __init__(self, listener):
        self.selector = selectors.DefaultSelector()
        self.clients = {}  # socket -> {"kind", "name", "rest"}
        # Held by the loop while it works, and by a handover from REQUEST to COMMIT or RESUME.
        self.turn = threading.Lock()
        self.handed_over = False
        listener.setblocking(False)
        self.listener = listener
        self.selector.register(listener, selectors.EVENT_READ)
        # A byte here makes the loop look again: for the signal, and after a RESUME.
        self.wake_rx, self.wake_tx = os.pipe()
        self.selector.register(self.wake_rx, selectors.EVENT_READ)

    def join(self, connection, about):
        connection.setblocking(False)
        self.clients[connection] = about
        self.selector.register(connection, selectors.EVENT_READ)

    def leave(self, connection):
        self.selector.unregister(connection)
        about = self.clients.pop(connection)
        connection.close()
        return about["name"]

    def tell(self, text):
        for connection in list(self.clients):
            try:
                connection.sendall(text.encode() + b"\n")
            except OSError:
                self.leave(connection)

    def hear(self, connection):
        try:
            data = connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.tell("* %s has left" % self.leave(connection))
            return
        about = self.clients[connection]
        *lines, about["rest"] = (about["rest"] + data.decode(errors="replace")).split("\n")
        for line in lines:
            if about["name"]:
                self.tell("%s: %s" % (about["name"], line.strip()))
            else:
                about["name"] = line.strip()
                self.tell("* %s has come (generation %d)" % (about["name"], aeterna.generation()))

    def run(self):
        while True:
            ready = self.selector.select()
            with self.turn:
                for key, _ in ready:
                    if key.fileobj == self.wake_rx:
                        os.read(self.wake_rx, 100)
                        if stopping:
                            return
                    elif key.fileobj is self.listener and not self.handed_over:
                        try:
                            self.join(self.listener.accept()[0], {"kind": "connection", "name": "", "rest": ""})
                        except BlockingIOError:
                            pass
                    elif key.fileobj in self.clients:
                        self.hear(key.fileobj)

    # What aeternad asks of a source

    def save(self):
        self.turn.acquire()
        return [aeterna.fd_frame(about, connection) for connection, about in self.clients.items()]

    def resume(self, frames):
        if frames:
            for connection in list(self.clients):
                self.leave(connection)
            self.adopt(frames)
        self.turn.release()

    def commit(self):
        self.handed_over = True
        self.selector.unregister(self.listener)
        for connection in list(self.clients):
            self.leave(connection)  # closed here, which the client does not notice
        self.turn.release()

    def adopt(self, frames):
        for frame in frames:
            for fd in frame.fds:
                self.join(socket.socket(fileno=fd), frame.json())


stopping = False


def stop(*_):
    global stopping
    stopping = True
    os.write(chat.wake_tx, b"x")


chat = Chat(aeterna.listener(0, "127.0.0.1:" + os.environ.get("PORT", "7000")))
signal.signal(signal.SIGTERM, stop)
state = aeterna.State()
state.load(chat.adopt)
state.keep(chat.save, chat.resume, chat.commit)
aeterna.ready()
chat.run()
aeterna.stopping()
if not state.handed_over():
    chat.tell("* the chat is over")
