"""The ports of a server: the supervisor holds them, its workers share them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from featurestore.errors import UnavailableError
from featurestore.serving.settings import ServeSettings


@contextmanager
def ports_of(settings: ServeSettings) -> Iterator[ServeSettings]:
    """Hold the server's ports, bound but not listening, and return the settings with their numbers.

    Raises:
        UnavailableError: A port is taken.
    """
    wanted = {"grpc_port": settings.grpc_port}
    if settings.transport == "native":
        wanted["stream_port"] = settings.stream_port
    if settings.http_port is not None:
        wanted["http_port"] = settings.http_port
    with ExitStack() as held:
        sockets = {name: held.enter_context(closing(_reserve(settings.host, port))) for name, port in wanted.items()}
        yield replace(settings, **{name: bound.getsockname()[1] for name, bound in sockets.items()})


def address_of(host: str, port: int) -> str:
    """Return an address as gRPC takes it.

    >>> address_of("::1", 6565)
    '[::1]:6565'
    """
    return f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"


def shared_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket on a port that the other processes of this server bind too; the kernel spreads connections."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((bare, port))
    except OSError as error:
        bound.close()
        raise UnavailableError(f"Port {port} of {host} cannot be taken: {error.strerror}.") from error
    return bound


def _reserve(host: str, port: int) -> socket.socket:
    """Bind a port for this server alone: sharing is for its own processes, so a port that somebody has is refused first."""
    if port:
        bare = host.strip("[]")
        with closing(socket.socket(socket.AF_INET6 if ":" in bare else socket.AF_INET)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bare, port))
            except OSError as error:
                raise UnavailableError(
                    f"Port {port} of {host} cannot be taken: {error.strerror}.",
                    repair="Name another, or 0 for a free one.",
                ) from error
    return shared_socket(host, port)
