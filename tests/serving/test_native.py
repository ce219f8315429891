"""The native transport against what no decent client sends: malformed frames, huge headers, slow and idle connections; and its files."""

import asyncio
import gc
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import weakref
from contextlib import closing, contextmanager, suppress

import grpc
import psutil
import pytest
from certificates import Authority, pem, server_files
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_server import client_of, server, write
from test_supervise import drain_under_load

from featurestore.errors import ConfigError, FailedPreconditionError, UnavailableError
from featurestore.serving import native
from featurestore.serving.call import Reply
from featurestore.serving.native import NativeTransport, is_installed
from featurestore.testing.served import ServedProject

needs_wheel = pytest.mark.skipif(not is_installed(), reason="the native transport is not installed: run `make native`")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS, DATA, RESET, GOAWAY, PING, WINDOW, CONTINUATION = 4, 1, 0, 3, 7, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def test_without_the_wheel_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(native, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="make native"):
        NativeTransport({})


# --- frames ----------------------------------------------------------------------------------------------------------------------------


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(name, value):
    """A header that is written out: no tables, no Huffman codes."""
    return b"\x00" + integer(len(name), 7) + name + integer(len(value), 7) + value


def integer(number, bits):
    most = (1 << bits) - 1
    if number < most:
        return bytes([number])
    rest, number = [most], number - most
    while number >= 128:
        rest.append(number % 128 + 128)
        number //= 128
    return bytes([*rest, number])


def head(method, *more):
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"x")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *more]
    return b"".join(field(name, value) for name, value in fields)


def message(body):
    return b"\x00" + struct.pack(">I", len(body)) + body


def call(stream, method, body, *more):
    return frame(HEADERS, END_HEADERS, stream, head(method, *more)) + frame(DATA, END_STREAM, stream, message(body))


GREETING = PREFACE + frame(SETTINGS, 0, 0)


@contextmanager
def connected(port, greeting=GREETING):
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as raw:
        raw.sendall(greeting)
        yield raw


def frames_of(raw):
    """The frames that come, until the other side closes."""
    arrived = b""
    while True:
        while len(arrived) >= 9 and len(arrived) >= 9 + (size := int.from_bytes(arrived[:3])):
            yield arrived[3], arrived[4], int.from_bytes(arrived[5:9]), arrived[9 : 9 + size]
            arrived = arrived[9 + size :]
        try:
            piece = raw.recv(1 << 16)
        except ConnectionResetError:
            return
        if not piece:
            return
        arrived += piece


def data_of(raw, stream):
    """The first message on a stream."""
    return next(payload for kind, _, at, payload in frames_of(raw) if kind == DATA and at == stream and payload)


@contextmanager
def served(handlers, **limits):
    """Serve some handlers on an event loop in a thread; yields the port and the transport."""
    loop = NativeTransport.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(awaitable):
        return asyncio.run_coroutine_threadsafe(awaitable, loop).result(30)

    transport = NativeTransport(handlers, **limits)
    port = run(transport.start("127.0.0.1:0"))
    try:
        yield port
    finally:
        run(transport.drain(0.5))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def echo(_, body):
    return Reply(body)


def ask(port, body=b"hello", method="/t/Echo"):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary(method)(body, timeout=20)


@needs_wheel
def test_an_unread_answer_holds_back_itself_alone():
    """One unary answer of 8 MiB that the caller does not take leaves the small ones beside it alone."""
    with served({"/t/Echo": echo, "/t/Large": lambda _, __: Reply(bytes(8 << 20))}) as port, connected(port) as raw:
        raw.sendall(
            frame(WINDOW, 0, 0, struct.pack(">I", (1 << 30)))
        )  # the connection has room, the stream keeps its 64 KiB
        raw.sendall(call(1, "/t/Large", b""))
        time.sleep(0.2)
        for stream in range(3, 103, 2):
            raw.sendall(call(stream, "/t/Echo", b"small"))
            assert data_of(raw, stream) == message(b"small")


@needs_wheel
def test_an_answer_that_is_being_read_is_sent_to_its_end_by_a_server_that_leaves():
    """Who reads slowly has the time of the drain, as long as it reads."""

    async def leave():
        transport = NativeTransport({"/t/Large": lambda _, __: Reply(bytes(2 << 20))})
        port, loop = await transport.start("127.0.0.1:0"), asyncio.get_running_loop()
        with connected(port) as raw:
            raw.sendall(frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30)) + call(1, "/t/Large", b""))
            arriving = frames_of(raw)
            await loop.run_in_executor(None, lambda: next(kind for kind, *_ in arriving if kind == DATA))
            reading = loop.run_in_executor(None, read_slowly, raw, arriving)
            await transport.drain(60.0)
            return await reading

    def read_slowly(raw, arriving):
        for kind, flags, at, payload in arriving:
            if kind == DATA:
                time.sleep(0.01)
                with suppress(OSError):  # it has sent everything, and has gone
                    raw.sendall(frame(WINDOW, 0, at, struct.pack(">I", len(payload))))
            elif kind == HEADERS and flags & END_STREAM:
                return True
        return False

    with asyncio.Runner(loop_factory=NativeTransport.new_event_loop) as runner:
        assert runner.run(leave())


@needs_wheel
def test_work_whose_caller_is_gone_or_late_is_not_begun():
    """A call that waits behind another until its deadline; and one that comes while all wait, and is given up before its turn."""
    begun = []

    def slow(_, body):
        begun.append(body)
        time.sleep(0.3)
        return Reply(body)

    with served({"/t/Slow": slow, "/t/Echo": echo}) as port:
        with connected(port) as raw:
            raw.sendall(call(1, "/t/Slow", b"first") + call(3, "/t/Slow", b"late", (b"grpc-timeout", b"50m")))
            time.sleep(0.1)  # the first is in progress, and the event loop with it
            raw.sendall(call(5, "/t/Slow", b"reset") + frame(RESET, 0, 5, struct.pack(">I", 8)))
            assert data_of(raw, 1) == message(b"first")
            raw.sendall(call(7, "/t/Echo", b"still"))
            assert data_of(raw, 7) == message(b"still")
        assert begun == [b"first"]


@needs_wheel
def test_a_coroutine_ends_when_its_caller_goes_away():
    ended = threading.Event()

    async def wait(_, __):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.set()
            raise
        return Reply()

    with served({"/t/Wait": wait}) as port, connected(port) as raw:
        raw.sendall(call(1, "/t/Wait", b""))
        time.sleep(0.2)
        raw.sendall(frame(RESET, 0, 1, struct.pack(">I", 8)))
        assert ended.wait(10)


@needs_wheel
@pytest.mark.parametrize("error", [ValueError("as is said in the log"), asyncio.CancelledError()])
def test_a_coroutine_that_fails_is_answered(error, caplog):
    async def fail(_, __):
        await asyncio.sleep(0)
        raise error

    with served({"/t/Fail": fail, "/t/Echo": echo}) as port:
        with pytest.raises(grpc.RpcError) as failed:
            ask(port, method="/t/Fail")
        assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INTERNAL, "The handler failed.")
        assert ask(port) == b"hello"
    gc.collect()
    assert ("as is said in the log" in caplog.text) == isinstance(error, ValueError)


@needs_wheel
def test_a_transport_that_has_ended_leaves_nothing():
    class Handler:
        def __call__(self, _, body):
            return Reply(body)

    handler = Handler()
    loop, transport = NativeTransport.new_event_loop(), NativeTransport({"/t/Echo": handler})
    loop.run_until_complete(transport.start("127.0.0.1:0"))
    loop.run_until_complete(transport.drain(1.0))
    loop.close()
    left = [weakref.ref(thing) for thing in (handler, transport, loop)]
    del handler, transport, loop
    gc.collect()
    assert [thing() for thing in left] == [None, None, None]


@needs_wheel
def test_a_handler_that_answers_nonsense_is_an_internal_error(capfd):
    def nonsense(_, __):
        return Reply("text")

    with served({"/t/Nonsense": nonsense, "/t/Echo": echo}) as port:
        with pytest.raises(grpc.RpcError) as caught:
            ask(port, method="/t/Nonsense")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert ask(port) == b"hello"
    capfd.readouterr()


MALFORMED = {
    "not http2": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "random": random.Random(7).randbytes(5000),
    "oversized frame": GREETING + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(100),
    "data on an idle stream": GREETING + frame(DATA, 0, 5, b"x"),
    "even stream": GREETING + frame(HEADERS, 5, 2, head("/t/Echo")),
    "stray continuation": GREETING + frame(CONTINUATION, 4, 1, b""),
    "bad header block": GREETING + frame(HEADERS, 5, 1, b"\xff" * 200),
    "window of nothing": GREETING + frame(WINDOW, 0, 0, bytes(4)),
    "window overflow": GREETING + 2 * frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
    "short settings": PREFACE + frame(SETTINGS, 0, 0, b"\x00\x01"),
    "short ping": GREETING + frame(PING, 0, 0, b"x"),
}


@pytest.fixture(scope="module")
def port():
    with served({"/t/Echo": echo}, handshake=0.5, max_request_bytes=1 << 20) as port:
        yield port


@needs_wheel
@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_malformed_frames_end_their_connection_alone(port, sent):
    with connected(port, sent) as raw:
        for _ in frames_of(raw):
            pass
    assert ask(port) == b"hello"


@needs_wheel
@pytest.mark.parametrize(
    ("body", "more", "code"),
    [
        (b"", (), b"13"),
        (b"\x00\x00", (), b"13"),
        (message(b"abc")[:-1], (), b"13"),
        (message(b"abc") + message(b"abc"), (), b"12"),
        (b"\x00\xff\xff\xff\xff", (), b"8"),
        (b"\x01" + message(b"abc")[1:], (), b"13"),
        (b"\x01" + message(b"abc")[1:], ((b"grpc-encoding", b"gzip"),), b"13"),
        (b"\x01" + message(b"abc")[1:], ((b"grpc-encoding", b"br"),), b"12"),
        (b"\x07" + message(b"abc")[1:], (), b"13"),
    ],
    ids=[
        "none",
        "cut prefix",
        "cut message",
        "two",
        "huge",
        "unsaid compression",
        "no gzip",
        "unknown encoding",
        "flag",
    ],
)
def test_a_malformed_message_is_a_status(port, body, more, code):
    with connected(port) as raw:
        raw.sendall(frame(HEADERS, END_HEADERS, 1, head("/t/Echo", *more)) + frame(DATA, END_STREAM, 1, body))
        block = next(payload for kind, _, at, payload in frames_of(raw) if kind == HEADERS and at == 1)
    assert status_in(block) == code
    assert ask(port) == b"hello"


def status_in(block):
    """The grpc-status of a header block as the server writes it: a literal, or its Huffman code."""
    for name in (b"grpc-status", bytes.fromhex("9acac8b21234da8f")):  # the name, plain and by RFC 7541's Huffman code
        at = block.find(name)
        if at >= 0:
            value = block[at + len(name) :]
            text = value[1 : 1 + (value[0] & 127)]
            return HUFFMAN[text] if value[0] & 128 else text
    raise AssertionError(f"no status in {block!r}")


def _huffman(text):
    codes = {"0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "8": "011110"}
    bits = "".join(codes[c] for c in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)


HUFFMAN = {_huffman(text): text.encode() for text in ("4", "8", "12", "13", "14")}


@needs_wheel
def test_requests_of_another_kind_are_refused_by_http(port):
    with connected(port) as raw:
        raw.sendall(
            frame(
                HEADERS,
                5,
                1,
                b"".join(
                    [
                        field(b":method", b"GET"),
                        field(b":scheme", b"http"),
                        field(b":path", b"/t/Echo"),
                        field(b":authority", b"x"),
                    ]
                ),
            )
        )
        block, ended = next(
            (payload, flags & END_STREAM) for kind, flags, _, payload in frames_of(raw) if kind == HEADERS
        )
    assert b"grpc-status" not in block
    assert ended


@needs_wheel
def test_huge_headers_are_refused(port):
    with connected(port) as raw:
        raw.sendall(call(1, "/t/Echo", b"x", *((b"h%d" % i, b"v" * 1000) for i in range(12))))
        assert data_of(raw, 1) == message(b"x")
        large = head("/t/Echo", (b"large", b"v" * 60_000))
        raw.sendall(frame(HEADERS, 0, 3, large[:16000]) + frame(CONTINUATION, 0, 3, large[16000:32000]))
        with suppress(OSError):
            raw.sendall(frame(CONTINUATION, 0, 3, large[32000:48000]) + frame(CONTINUATION, 4, 3, large[48000:]))
        assert next(kind for kind, _, at, _ in frames_of(raw) if at == 3 or kind == GOAWAY) != DATA
    assert ask(port) == b"hello"


@needs_wheel
def test_a_connection_that_never_greets_is_closed(port):
    with connected(port, PREFACE[:10]) as raw:
        assert [kind for kind, *_ in frames_of(raw)][:1] in ([], [SETTINGS])


@needs_wheel
def test_floods_and_rapid_resets_leave_others_alone(port):
    """Thousands of pings, settings and resets cost one connection at most; memory stays."""
    process, before = psutil.Process(os.getpid()), psutil.Process(os.getpid()).memory_info().rss
    floods = [
        frame(PING, 0, 0, bytes(8)) * 20_000,
        frame(SETTINGS, 0, 0) * 10_000,
        b"".join(call(s, "/t/Echo", b"x") + frame(RESET, 0, s, bytes(4)) for s in range(1, 10_001, 2)),
        frame(HEADERS, 0, 1, head("/t/Echo")) + frame(CONTINUATION, 0, 1) * 20_000,
    ]
    for flood in floods:
        with connected(port) as raw, suppress(OSError):
            raw.settimeout(2)
            raw.sendall(flood)
        assert ask(port) == b"hello"
    assert process.memory_info().rss - before < 64 << 20


@needs_wheel
def test_random_frames_break_nothing(port):
    chance = random.Random(11)
    for _ in range(150):
        sent = b"".join(
            frame(
                chance.choice(range(10)),
                chance.randrange(256),
                chance.choice([0, 1, 1, 3]),
                chance.randbytes(chance.randrange(40)),
            )
            if chance.random() < 0.6
            else call(1, "/t/Echo", chance.randbytes(10))
            for _ in range(chance.randrange(1, 8))
        )
        with connected(port) as raw, suppress(OSError):
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            raw.recv(1 << 16)
    assert ask(port) == b"hello"


@needs_wheel
def test_two_thousand_idle_connections(port):
    process, before = psutil.Process(os.getpid()), psutil.Process(os.getpid()).memory_info().rss
    idle = []
    try:
        for _ in range(2000):
            idle.append(raw := socket.create_connection(("127.0.0.1", port), timeout=10))
            raw.sendall(GREETING)
        assert ask(port) == b"hello"
        assert process.memory_info().rss - before < 200 << 20
    finally:
        for raw in idle:
            raw.close()
    assert ask(port) == b"hello"


@needs_wheel
def test_connections_over_the_limit_and_idle_ones_are_closed():
    with served({"/t/Echo": echo}, max_connections=2, idle=0.3, keepalive_timeout=0.3) as port:
        with connected(port) as first, connected(port):
            for _ in frames_of(first):
                break
            with connected(port) as third:
                assert not any(kind == DATA for kind, *_ in frames_of(third))  # it is closed at once
            for _ in frames_of(first):  # it was idle for long enough
                pass
        assert ask(port) == b"hello"


@needs_wheel
def test_a_taken_port_is_said():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def start():
            await NativeTransport({}).start(f"127.0.0.1:{taken.getsockname()[1]}")

        runner = asyncio.Runner(loop_factory=NativeTransport.new_event_loop)
        with runner, pytest.raises(UnavailableError, match="cannot listen"):
            runner.run(start())


@needs_wheel
def test_another_event_loop_is_refused():
    async def start():
        await NativeTransport({}).start("127.0.0.1:0")

    with pytest.raises(FailedPreconditionError, match="NativeLoop"):
        asyncio.run(start())


SLEEPER = """
import asyncio
from featurestore.serving.native import NativeLoop

async def sleep():
    print("asleep", flush=True)
    await asyncio.sleep(600)

with asyncio.Runner(loop_factory=NativeLoop) as runner:
    runner.run(sleep())
"""


@needs_wheel
def test_an_interrupt_ends_an_event_loop_that_has_nothing_to_do():
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]


@needs_wheel
def test_the_event_loop_goes_on_while_calls_are_answered():
    """Timers, other threads and files have their turn beside calls without a pause; what a handler leaves for the loop is done."""
    done, stop = [], threading.Event()

    def leave(_, body):
        asyncio.get_running_loop().call_soon(done.append, body)
        return Reply(body)

    def crowd(port):
        while not stop.is_set():
            ask(port, b"left", "/t/Leave")

    async def tend():
        loop, transport = asyncio.get_running_loop(), NativeTransport({"/t/Leave": leave})
        port = await transport.start("127.0.0.1:0")
        crowds = [loop.run_in_executor(None, crowd, port) for _ in range(4)]
        near, far = socket.socketpair()
        with closing(near), closing(far):
            reader, _ = await asyncio.open_connection(sock=near)
            for number in range(20):
                await loop.run_in_executor(None, far.sendall, b"%d" % (number % 10))
                assert await asyncio.wait_for(reader.readexactly(1), 20) == b"%d" % (number % 10)
                assert await asyncio.sleep(0.001, "timer") == "timer"
        stop.set()
        await asyncio.gather(*crowds)
        await transport.drain(1.0)

    with asyncio.Runner(loop_factory=NativeTransport.new_event_loop) as runner:
        runner.run(tend())
    assert set(done) == {b"left"}


@needs_wheel
def test_streams_are_told_where_to_go(tmp_path):
    with ServedProject(tmp_path, NativeTransport) as project:
        answer = project.call("StreamOnlineFeatures")
        assert answer.code == "UNIMPLEMENTED"
        with project.client() as client:
            assert client.status().project == "suite"
        unknown = health_pb2_grpc.HealthStub(project.channel).Watch(
            health_pb2.HealthCheckRequest(service="x"), timeout=20
        )
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        unknown.cancel()


@needs_wheel
def test_a_whole_server_reads_writes_streams_and_drains(tmp_path):
    """Two workers share both ports; SIGTERM lets what was called finish."""
    with server(tmp_path, transport="native") as (process, ready), client_of(ready) as client:
        assert write(client, 1).accepted == 1
        assert client.get_online_features(["activity:score"], {"user_id": [1, 2]}).to_dict() == {"score": [1.0, None]}
        read = client.stream_online_features(["activity:score"], {"user_id": [1] * 5}, rows=2)
        assert [len(rows) for rows in read] == [2, 2, 1]
        failures = drain_under_load(process, ready)
    assert process.returncode == 0
    assert [failure for failure in failures if "onnect" not in failure and "CANCELLED" not in failure] == []


# --- certificates ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_environment(monkeypatch):
    monkeypatch.delenv("FEATURESTORE_TOKEN", raising=False)


def status(project, **credentials):
    with project.client(credentials=grpc.ssl_channel_credentials(**credentials), timeout=5.0) as client:
        return client.status().project


@needs_wheel
def test_a_client_certificate_is_a_principal(tmp_path, no_environment):
    ours, theirs = Authority("ours"), Authority("theirs")
    files = server_files(tmp_path, ours, client_ca=ours)
    roles = {"spiffe://prod/delay": ("reader",), "delay": ("reader",)}
    with ServedProject(tmp_path, NativeTransport, auth="required", tls=files, roles=roles) as project:
        root = pem(ours.certificate)

        def status_as(authority, *names):
            certificate, key = authority.issue("delay", *map(x509.UniformResourceIdentifier, names))
            return status(project, root_certificates=root, private_key=key, certificate_chain=certificate)

        assert status_as(ours, "spiffe://prod/delay") == "suite"
        assert status_as(ours) == "suite"
        with pytest.raises(Exception, match="spiffe://prod/other"):
            status_as(ours, "spiffe://prod/other")
        with pytest.raises(UnavailableError):
            status_as(theirs, "spiffe://prod/delay")
        with pytest.raises(UnavailableError):
            status(project, root_certificates=root)


@needs_wheel
def test_new_certificates_are_taken_up_and_broken_ones_are_not(tmp_path, no_environment):
    first, second = Authority("first"), Authority("second")
    files = server_files(tmp_path, first)
    with ServedProject(tmp_path, NativeTransport, tls=files) as project:
        assert status(project, root_certificates=pem(first.certificate)) == "suite"
        server_files(tmp_path, second)
        assert status(project, root_certificates=pem(second.certificate)) == "suite"
        with pytest.raises(UnavailableError):
            status(project, root_certificates=pem(first.certificate))
        files.key.write_text("half a file")
        assert status(project, root_certificates=pem(second.certificate)) == "suite"
        host, port = project.target.split(":")
        plain = ssl.create_default_context(cadata=pem(second.certificate).decode())
        plain.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            plain.wrap_socket(raw, server_hostname=host) as secured,
        ):
            assert secured.selected_alpn_protocol() == "h2"
