"""A server that stops under load: every call that was begun before it is answered, also for clients that never repeat one."""

import asyncio
import threading
import time
from collections import Counter

import grpc
import pytest

from featurestore.serving.call import Reply
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.native import NativeTransport, is_installed
from featurestore.serving.ports import shared_socket

ROUNDS, CLIENTS = 3, 6
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

TRANSPORTS = [
    pytest.param(GrpcAioTransport, id="grpc_aio"),
    *([pytest.param(NativeTransport, id="native")] if is_installed() else []),
]


def work(_, body):
    time.sleep(0.001)
    return Reply(body)


async def work_later(_, body):
    await asyncio.sleep(0.02)
    return Reply(body)


HANDLERS = {"/s/Work": work, "/s/Later": work_later}


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self, transport):
        self.loop = transport.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return lambda awaitable: asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(60)

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Callers:
    """Threads that call without ever repeating: when each call began, and how it ended."""

    def __init__(self, port):
        self.port, self.ends, self._done = port, [], threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(list(HANDLERS)[i % 2],)) for i in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        while len(self.ends) < 20 * CLIENTS:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self, method):
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=OWN_CONNECTION) as channel:
            call = channel.unary_unary(method)
            while not self._done.is_set():
                began = time.monotonic()
                try:
                    assert call(b"x" * 100, timeout=100) == b"x" * 100
                    self.ends.append((began, "OK"))
                except grpc.RpcError as error:
                    self.ends.append((began, error.code().name))
                    time.sleep(0.01)


@pytest.mark.parametrize("make", TRANSPORTS)
def test_a_process_leaves_and_no_call_that_was_begun_before_fails(make):
    """Its successor is on the same port already; calls that come while it leaves find the way there."""
    with shared_socket("127.0.0.1", 0) as held, Loop(make) as leaver, Loop(make) as stayer:
        port = held.getsockname()[1]
        staying = make(HANDLERS)
        stayer(staying.start(f"127.0.0.1:{port}"))
        for _ in range(ROUNDS):
            leaving = make(HANDLERS)
            leaver(leaving.start(f"127.0.0.1:{port}"))
            with Callers(port) as callers:
                drained = time.monotonic()
                leaver(leaving.drain(20.0))
                time.sleep(0.05)
            early = Counter(end for began, end in callers.ends if began < drained)
            late = Counter(end for began, end in callers.ends if began >= drained)
            assert set(early) == {"OK"}
            assert late["OK"]
            # What met the closing port; grpc cancels what arrives in the moment in which it stops.
            assert set(late) <= {"OK", "UNAVAILABLE", "CANCELLED"}
        stayer(staying.drain(1.0))


@pytest.mark.parametrize("make", TRANSPORTS)
def test_calls_in_flight_have_the_time_that_was_given_and_no_more(make):
    with Loop(make) as server:
        transport = make({"/s/Later": lambda _, body: asyncio.sleep(float(body), Reply(b"done"))})
        port = server(transport.start("127.0.0.1:0"))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/s/Later")
            short, long = call.future(b"0.5", timeout=60), call.future(b"50", timeout=60)
            call(b"0", timeout=60)  # by now those before it have arrived
            server(transport.drain(2.0))
            assert short.result() == b"done"
            assert long.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
