"""A server that reads from Redis: a whole one in processes of its own, with a real Redis that fails."""

from contextlib import closing, contextmanager

import pytest
from certificates import Authority, server_files
from redis_server import started_redis
from running_server import client_of, eventually, server, write

from featurestore.errors import FailedPreconditionError, UnavailableError
from featurestore.online.redis import RedisStore


def test_tls_asks_for_a_certificate_that_is_signed(tmp_path):
    authority = Authority("tests")
    files = server_files(tmp_path, authority, client_ca=authority)
    options = ["--tls-cert-file", str(files.certificate), "--tls-key-file", str(files.key)]
    options += ["--tls-ca-cert-file", str(files.client_ca)]
    with started_redis(*options, scheme="rediss") as redis:
        with closing(RedisStore(redis.address())) as store, store.read() as snapshot, pytest.raises(UnavailableError):
            snapshot.get("meta", b"head")
        known = redis.address(ca=files.client_ca, certificate=files.certificate, key=files.key)
        with closing(RedisStore(known)) as store:
            with store.write() as transaction:
                transaction.put("meta", b"k", b"v")
            with store.read() as snapshot:
                assert snapshot.get("meta", b"k") == b"v"


FEATURES = ["activity:score"]


@contextmanager
def serving(folder, redis, monkeypatch, transport="grpc_aio"):
    monkeypatch.setenv("FEATURESTORE_REDIS_URL", redis.url)
    with (
        server(folder, transport, settings='[online]\nstore = "redis"\n') as (process, ready),
        client_of(ready) as client,
    ):
        yield process, client


def first_scores(client, *users):
    """A version whose first row is logged and not in Redis yet was never filled there."""
    try:
        return scores(client, *users)
    except FailedPreconditionError:
        return None


def scores(client, *users):
    return client.get_online_features(FEATURES, {"user_id": list(users)}).to_dict()["score"]


def test_a_server_reads_from_redis_and_lives_through_its_failures(tmp_path, monkeypatch):
    """Killed, emptied and paused: reads are refused clearly or right, writes are acknowledged, and nothing has to be started again."""
    with started_redis() as redis, serving(tmp_path, redis, monkeypatch) as (process, client):
        first = write(client, 1)
        assert eventually(lambda: first_scores(client, 1) == [1.0])
        assert client.get_online_features(FEATURES, {"user_id": [1]}).position >= first.last_seq
        redis.kill()
        with pytest.raises(UnavailableError, match="Redis at localhost"):
            scores(client, 1)
        assert write(client, 2).accepted == 1  # an acknowledgement means logged
        redis.start()
        assert eventually(lambda: scores(client, 1, 2, 3) == [1.0, 2.0, None])
        with redis.paused(), pytest.raises(UnavailableError, match="Redis at localhost"):
            scores(client, 1)
        assert eventually(lambda: scores(client, 1, 2, 3) == [1.0, 2.0, None])
        assert process.poll() is None
    logs = "".join(path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.suffix in {".log", ".json"})
    assert redis.password not in logs
    registry = (tmp_path / "store" / "registry.db").read_bytes()
    assert redis.password.encode() not in registry


def test_a_stream_reads_from_redis(tmp_path, monkeypatch):
    with started_redis() as redis, serving(tmp_path, redis, monkeypatch) as (_, client):
        write(client, 5)
        assert eventually(lambda: first_scores(client, 5) == [5.0])
        answers = list(client.stream_online_features(FEATURES, {"user_id": [5, 6] * 1500}))
        assert [score for answer in answers for score in answer.to_dict()["score"]] == [5.0, None] * 1500
