"""A grpc.aio server that does nothing: it answers each method with the bytes of a file. What is slower than this is not the transport's."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc.aio


class _Files(grpc.GenericRpcHandler):
    """Answers /echo/NAME with the bytes of a file NAME."""

    def __init__(self, folder: Path) -> None:
        self._methods = {f"/echo/{path.name}": _constant(path.read_bytes()) for path in folder.iterdir()}

    def service(self, handler_call_details: Any) -> Any:
        return self._methods.get(handler_call_details.method)


def _constant(payload: bytes) -> Any:
    async def answer(_request: bytes, _context: Any) -> bytes:
        return payload

    return grpc.unary_unary_rpc_method_handler(answer)


async def main(folder: Path, address: str) -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Files(folder),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
