"""What a client in another language sees: grpc-js, installed by npm as its users install it, against every transport."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from certificates import Authority, pem, server_files
from cryptography import x509
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2

from featurestore.serving.grpc_aio import GrpcAioTransport
from featurestore.serving.native import NativeTransport, is_installed
from featurestore.testing.served import ECHO, ServedProject

HERE = Path(__file__).parent / "node"
ROOT = HERE.parents[2]

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="node and npm are missing: run tests/components.sh"
)

TRANSPORTS = [GrpcAioTransport, *([NativeTransport] if is_installed() else [])]


@pytest.fixture(scope="module", params=TRANSPORTS, ids=lambda transport: transport.name)
def transport(request):
    return request.param


@pytest.fixture(scope="session")
def modules(tmp_path_factory):
    """The folder of the installed packages, kept from run to run for as long as the lock file stays the same."""
    lock = (HERE / "package-lock.json").read_bytes()
    kept = ROOT / ".cache" / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not kept.exists():
        fresh = tmp_path_factory.mktemp("node")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, fresh)
        install = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=fresh, check=True, capture_output=True, timeout=150)
        kept.parent.mkdir(exist_ok=True)
        draft = kept.with_name(f"{kept.name}.{os.getpid()}")  # another process may install at the same time
        shutil.copytree(fresh, draft)
        try:
            draft.rename(kept)
        except OSError:
            shutil.rmtree(draft)
    return kept / "node_modules"


def use(served, modules, folder, tls=()):
    """Run the client, and return what it saw."""
    health = folder / "health.desc"
    file = descriptor_pb2.FileDescriptorProto.FromString(health_pb2.DESCRIPTOR.serialized_pb)
    health.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    told = {
        "modules": str(modules.parent),
        "protos": str(ROOT / "proto"),
        "health": str(health),
        "target": served.target,
        "streamTarget": served.stream_target,
        "echo": ECHO,
        "tls": [str(path) for path in tls] or None,
    }
    done = subprocess.run(
        ["node", HERE / "client.js", json.dumps(told)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def saw(transport, modules, tmp_path_factory):
    with ServedProject(tmp_path_factory.mktemp("node-served"), transport) as served:
        served.fill()
        return use(served, modules, tmp_path_factory.mktemp("told"))


def test_reads_writes_and_streams(saw):
    assert saw["read"] == {"code": "OK", "rows": [[0, [0.25]], [0, [0.5]], [1, [0]]], "names": ["score"]}
    assert saw["write"] == {"code": "OK", "accepted": "1"}
    assert saw["stream"] == {"code": "OK", "value": [2, 2]}


def test_errors_come_with_their_facts(saw):
    unknown, bad, failed = saw["unknownName"], saw["badKey"], saw["failed"]
    assert (unknown["code"], unknown["trailers"]["fs-error"]) == ("NOT_FOUND", "NotFoundError")
    assert unknown["trailers"]["fs-nearest"] == "weather"
    assert (bad["code"], bad["trailers"]["fs-place"]) == ("INVALID_ARGUMENT", "$.keys.user_id[0]")
    assert "Wetter_für_%_\N{SNOWFLAKE}" in saw["textOfAnyAlphabet"]["details"]
    assert failed["code"] == "INTERNAL"
    assert "password" not in failed["details"]


def test_a_late_and_a_cancelled_call_leave_the_connection_in_use(saw):
    assert (saw["late"], saw["cancelled"], saw["afterwards"]) == ("DEADLINE_EXCEEDED", "CANCELLED", "still here")


def test_metadata_and_trailers_pass(saw):
    assert saw["metadata"]["metadata"]["featurestore-consumer"] == "m@3"
    assert saw["metadata"]["metadata"]["user-agent"].startswith("grpc-node-js/")
    assert 0 < saw["metadata"]["remaining"] < 21
    assert saw["trailers"] == "2"


def test_gzip(saw):
    assert saw["gzip"] == {"code": "OK", "same": True}


def test_health(saw):
    assert (saw["health"], saw["watch"], saw["unknownHealth"]) == ("SERVING", "SERVING", "NOT_FOUND")


def test_a_client_certificate_over_tls(transport, modules, tmp_path):
    authority = Authority("ours")
    files = server_files(tmp_path, authority, client_ca=authority)
    certificate, key = authority.issue("delay", x509.DNSName("node-client"))
    paths = [tmp_path / name for name in ("root.pem", "client-key.pem", "client.pem")]
    for path, content in zip(paths, (pem(authority.certificate), key, certificate), strict=True):
        path.write_bytes(content)
    secured = grpc.ssl_channel_credentials(pem(authority.certificate), key, certificate)
    with ServedProject(tmp_path, transport, tls=files) as served:
        with served.client(credentials=secured) as client:
            client.write("activity", {"user_id": [1001, -1], "event_timestamp": [1, 1], "score": [0.25, 0.5]})
        seen = use(served, modules, tmp_path, tls=paths)
    assert (seen["health"], seen["afterwards"]) == ("SERVING", "still here")
    assert seen["read"]["rows"][:2] == [[0, [0.25]], [0, [0.5]]]
    assert seen["stream"]["value"] == [2, 2]
