#!/usr/bin/env python3
"""An AI agent whose conversations survive its own replacement: the example for state without descriptors.

POST /chat?session=NAME with a text answers with the agent's reply; GET /sessions tells what it remembers. The
model here is a stand-in that shows it has the whole conversation before it; `think` is where another one goes.
What would be lost without a handover, and is not, is the context: the conversations, and what has been counted.
"""

import json
import os
import signal
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../sdk/python"))
import aeterna  # noqa: E402

VERSION = os.environ.get("AGENT_VERSION", "1")
LONGEST = 64 * 1024

sessions = {}  # name -> [{"role", "text"}]
turn = threading.Lock()


def think(conversation):
    """The agent's reply to a conversation that ends with the user's words."""
    said = [entry["text"] for entry in conversation if entry["role"] == "user"]
    name = next((text.split()[-1] for text in said if text.lower().startswith("my name is ")), None)
    if name and "my name" in said[-1].lower() and said[-1].endswith("?"):
        return "Your name is %s." % name
    return "[v%s] %d messages so far; you said: %s" % (VERSION, len(said), said[-1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/health":
            self.answer(200, {"version": VERSION})
        elif path == "/sessions":
            with turn:
                self.answer(200, {name: len(entries) for name, entries in sessions.items()})
        else:
            self.answer(404, {"error": "there are /health, /sessions and POST /chat?session=NAME"})

    def do_POST(self):
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if url.path != "/chat" or length > LONGEST:
            return self.answer(404 if url.path != "/chat" else 413, {"error": "POST /chat?session=NAME, a text"})
        text = self.rfile.read(length).decode(errors="replace").strip()
        name = parse_qs(url.query).get("session", ["default"])[0]
        try:
            with state.request(), turn:
                conversation = sessions.setdefault(name, [])
                conversation.append({"role": "user", "text": text})
                reply = think(conversation)
                conversation.append({"role": "agent", "text": reply})
        except aeterna.HandedOver:
            # It was too slow: its conversation is the newer generation's by now.
            return self.answer(503, {"error": "the agent is being replaced, ask again"})
        self.answer(200, {"reply": reply, "version": VERSION, "generation": aeterna.generation()})

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = False

    def __init__(self, listener):
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # A connection that was there may be somebody else's by the time of accept().
        listener.setblocking(False)

    def get_request(self):
        connection, address = self.socket.accept()
        connection.settimeout(10)
        return connection, address


def load(frames):
    with turn:
        sessions.clear()
        for frame in frames:
            name, conversation = frame.json()
            sessions[name] = conversation


state = aeterna.State()
server = Server(state.listener(0, "127.0.0.1:" + os.environ.get("PORT", "8080")))
state.load(load)
state.keep(save=lambda: [aeterna.json_frame(entry) for entry in sessions.items()])
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
aeterna.ready()
aeterna.status("version %s, %d conversations" % (VERSION, len(sessions)))
server.serve_forever()
aeterna.stopping()
server.server_close()
