"""Every transport passes the public suite; another one is one more name in the list."""

from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.native import NativeTransport, is_installed
from featurestore.testing.transports import TransportSuite


class TestTransports(TransportSuite):
    transports = (GrpcAioTransport, *((NativeTransport,) if is_installed() else ()))
