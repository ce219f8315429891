"""The process of a server that reads training sets, so that no online read waits for one."""

from __future__ import annotations

from featurestore.flow.sockets import TRAINING
from featurestore.serving.child import Lifeline, run_child
from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.local_socket import listen, local_socket
from featurestore.serving.settings import ServeSettings
from featurestore.serving.training_handlers import TrainingHandlers
from featurestore.store import FeatureStore


async def train(settings: ServeSettings, lifeline: Lifeline) -> None:
    """Answer training reads until the lifeline says stop."""
    with FeatureStore(settings.project) as store, local_socket(settings.store_dir, TRAINING) as path:
        handlers = TrainingHandlers(store)
        transport = GrpcAioTransport({}, handlers.streams(), public=False)
        await listen(transport, path)
        lifeline.ready(socket=str(path))
        await lifeline.stop.wait()
        await transport.drain(settings.drain_seconds)
        handlers.close()


if __name__ == "__main__":
    run_child(train)
