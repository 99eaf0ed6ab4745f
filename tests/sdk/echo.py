"""Prints the state that it gets, and gives the same when it is asked."""
import os
import sys

import aeterna


def show(word, frames):
    parts = ["%02x:%s:%d" % (f.kind, f.payload.hex(), len(f.fds)) for f in frames]
    print(" ".join([word] + parts), flush=True)


def apply(frames):
    if frames[0].payload in (b"refuse me", b"choke on me"):
        raise ValueError("not this one")


def commit():
    print("committed", flush=True)
    os._exit(0)


def save():
    if frames and frames[0].payload == b"lose me":
        raise KeyError("not this one")
    return frames


state = aeterna.State()
frames = state.load(apply)
show("loaded", frames)
aeterna.ready()
aeterna.status("loaded")
state.keep(save=save, resume=lambda f: show("resumed", f or []), commit=commit)
sys.stdin.read()
