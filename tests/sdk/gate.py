"""What the gate of the Python SDK does when things go wrong. Plays aeternad's part over a socket of its own."""
import asyncio
import json
import os
import signal
import socket
import struct
import tempfile
import threading

import aeterna

HELLO, REQUEST, RESUME, COMMIT, ERROR, FINISHED = 0x01, 0x10, 0x11, 0x12, 0xFE, 0xFF
folder = tempfile.TemporaryDirectory()


class Service:
    """A counter behind a gate, and the coordinator's end of its connection."""

    number = 0

    def __init__(self, patience=0.3):
        Service.number += 1
        self.path = "%s/%d" % (folder.name, Service.number)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen()
        self.count, self.resumed = 0, threading.Event()
        self.state = aeterna.State(self.path, patience)
        self.listener = self.state.listener("http", "127.0.0.1:0")
        self.state.keep(self.save, self.resume)
        self.accept()

    def save(self):
        return [aeterna.json_frame(self.count)]

    def resume(self, frames):
        if frames:
            self.count = frames[0].json()
        self.resumed.set()

    def accept(self):
        self.wire = self.server.accept()[0]
        self.wire.settimeout(30)
        assert self.read() == (HELLO, b'{"role": "source"}')
        self.say(HELLO, b'{"role":"coordinator","generation":1,"predecessor":false}')

    def say(self, kind, payload=b""):
        self.wire.sendall(struct.pack(">IIBBH", 8 + len(payload), 0xAE7E2024, 1, kind, 0) + payload)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.wire.recv(count - len(data))
            assert part, "the service has closed the connection"
            data += part
        return data

    def read(self):
        length, _, _, kind, _ = struct.unpack(">IIBBH", self.exactly(12))
        return kind, self.exactly(length - 8)

    def expect_state(self):
        assert self.read() == (aeterna.STATE_JSON, json.dumps(self.count).encode())
        assert self.read()[0] == FINISHED

    def give_up(self, value=None):
        self.resumed.clear()
        self.say(RESUME)
        if value is not None:
            self.say(aeterna.STATE_JSON, json.dumps(value).encode())
        self.say(FINISHED)
        assert self.read() == (FINISHED, b"")
        assert self.resumed.wait(30)

    def counts(self):
        with self.state.request():
            self.count += 1

    def dial(self):
        return socket.create_connection(self.listener.getsockname())


def refused(work):
    try:
        work()
    except aeterna.HandedOver:
        return True
    return False


class Slow(threading.Thread):
    """A request that ends when it is told to; whether it was refused."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.inside, self.go, self.refused = service, threading.Event(), threading.Event(), None
        self.start()
        assert self.inside.wait(30)

    def work(self):
        with self.service.state.request():
            self.inside.set()
            self.go.wait(30)
            self.service.count += 1

    def run(self):
        self.refused = refused(self.work)

    def end(self):
        self.go.set()
        self.join(30)
        return self.refused


def a_request_in_hand_is_waited_for():
    service = Service(patience=30)
    slow = Slow(service)
    service.say(REQUEST)
    while not service.state.is_closing():
        pass
    slow.go.set()
    service.expect_state()
    assert service.count == 1
    service.give_up()
    assert not slow.end()


def one_that_never_ends_is_not_and_its_client_is_told_nothing():
    for ends, is_refused in [(lambda s: s.say(COMMIT), True), (lambda s: s.give_up(), False), (lambda s: s.give_up(7), True)]:
        service = Service()
        slow = Slow(service)
        service.say(REQUEST)
        service.expect_state()
        ends(service)
        assert slow.end() is is_refused


def nothing_begins_between_and_everything_afterwards():
    service = Service()
    service.say(REQUEST)
    service.expect_state()
    assert service.state.is_closing()
    assert refused(service.counts)
    service.give_up()
    service.counts()
    assert service.count == 1
    service.say(REQUEST)
    service.expect_state()
    service.say(COMMIT)
    assert service.state.handed_over()
    assert refused(service.counts)


def a_waiting_request_goes_on_after_resume():
    service = Service(patience=30)
    service.say(REQUEST)
    service.expect_state()
    waiting = threading.Thread(target=service.counts)
    waiting.start()
    service.give_up(41)
    waiting.join(30)
    assert service.count == 42


def connections_wait_in_the_queue():
    service = Service()
    service.listener.settimeout(30)
    service.say(REQUEST)
    service.expect_state()
    client = service.dial()
    service.listener.settimeout(0.05)
    try:
        service.listener.accept()
        raise AssertionError("accepted while the state changes hands")
    except socket.timeout:
        pass
    service.listener.setblocking(False)
    try:
        service.listener.accept()
        raise AssertionError("accepted while the state changes hands")
    except BlockingIOError:
        pass
    service.listener.setblocking(True)
    service.give_up()
    connection, _ = service.listener.accept()
    client.sendall(b"x")
    assert connection.recv(1) == b"x"


def a_thread_that_waits_in_accept_gets_none():
    service = Service()
    got = []
    acceptor = threading.Thread(target=lambda: got.append(service.listener.accept()), daemon=True)
    acceptor.start()
    service.say(REQUEST)
    service.expect_state()
    client = service.dial()
    acceptor.join(0.2)
    assert not got
    service.give_up()
    acceptor.join(30)
    assert got and client


def a_connection_is_in_hand_until_its_first_answer():
    service = Service(patience=30)
    service.dial()
    connection, _ = service.listener.accept()
    service.say(REQUEST)
    # It asks while nothing is accepted any more, and before anything was answered: that is in time.
    service.counts()
    connection.send(b"1")
    assert service.read() == (aeterna.STATE_JSON, b"1")


def resume_ends_the_waiting_for_a_request():
    service = Service(patience=30)
    slow = Slow(service)
    service.say(REQUEST)
    service.give_up()
    assert not service.state.is_closing()
    assert not slow.end(), "nothing was saved, so nothing is lost"


def a_second_request_is_answered():
    service = Service(patience=30)
    slow = Slow(service)
    service.say(REQUEST)
    service.say(REQUEST)
    threading.Timer(0.1, slow.go.set).start()
    service.count = 0
    assert service.read()[0] == aeterna.STATE_JSON
    assert service.read()[0] == FINISHED
    service.give_up()


def a_service_that_cannot_save_opens_again():
    service = Service()
    service.count = {1}  # no JSON
    service.say(REQUEST)
    assert service.read()[0] == ERROR
    service.give_up()
    service.count = 0
    service.counts()


def the_gate_opens_when_aeternad_dies():
    service = Service()
    service.say(REQUEST)
    service.expect_state()
    service.wire.close()
    assert service.resumed.wait(30)
    service.accept()
    service.counts()
    slow = Slow(service)
    service.say(REQUEST)
    service.resumed.clear()
    service.wire.close()  # while it waits for the request
    assert service.resumed.wait(30)
    service.accept()
    assert not slow.end()
    service.say(REQUEST)
    service.expect_state()


def a_stop_signal_during_the_gate_waits_for_the_word_on_it():
    service = Service()
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    service.say(REQUEST)
    service.expect_state()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Timer(0.1, service.say, (COMMIT,)).start()
    assert service.state.handed_over() and told


def a_fork_has_no_state():
    service = Service()
    child = os.fork()
    if child == 0:
        try:
            service.counts()
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    service.counts()


def asyncio_is_gated_too():
    service = Service(patience=0.3)

    async def serve(reader, writer):
        await reader.readline()
        try:
            async with service.state.request():
                service.count += 1
                number = service.count
            writer.write(b"%d\n" % number)
        except aeterna.HandedOver:
            writer.write(b"no\n")
        writer.close()

    async def ask():
        reader, writer = await asyncio.open_connection(*service.listener.getsockname())
        writer.write(b"count\n")
        line = await reader.readline()
        writer.close()
        return line

    async def main():
        server = await asyncio.start_server(serve, sock=service.listener)
        in_thread = asyncio.get_running_loop().run_in_executor
        assert await ask() == b"1\n"
        old_reader, old_writer = await asyncio.open_connection(*service.listener.getsockname())
        while service.state._gate.fresh == 0:  # accepted
            await asyncio.sleep(0.001)
        await in_thread(None, service.say, REQUEST)
        await in_thread(None, service.expect_state)
        waiting = asyncio.ensure_future(ask())
        old_writer.write(b"count\n")
        assert await old_reader.readline() == b"no\n"
        assert not waiting.done()
        # Nobody turns in circles over a queue that is not empty.
        before = os.times()
        await asyncio.sleep(0.3)
        after = os.times()
        assert after.user + after.system - before.user - before.system < 0.2
        await in_thread(None, service.give_up, 10)
        assert await waiting == b"11\n"
        server.close()

    asyncio.run(main())


tests = [test for name, test in list(globals().items()) if callable(test) and getattr(test, "__module__", "") == "__main__"
         and name[0].islower() and name != "refused"]
for test in tests:
    print(test.__name__, flush=True)
    test()
assert len(tests) == 14, len(tests)
