"""A WSGI application that says who answers."""

import json
import os


def app(environ, start_response):
    body = json.dumps({
        "pid": os.getpid(),
        "generation": int(os.environ.get("AETERNA_GENERATION", "0")),
    }).encode() + b"\n"
    start_response("200 OK", [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
    ])
    return [body]
