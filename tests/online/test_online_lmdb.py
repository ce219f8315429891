"""The LMDB store: the suite of every store, and what is special about a file."""

import os
import subprocess
import sys
from contextlib import closing

import lmdb
import pytest

from featurestore.errors import CorruptionError, FailedPreconditionError
from featurestore.online.lmdb import open_lmdb
from featurestore.testing.stores import IsolatedStoreSuite


class TestLmdbStore(IsolatedStoreSuite):
    factories = (open_lmdb,)


def put(directory, key=b"k", value=b"v"):
    with closing(open_lmdb(directory)) as store, store.write() as transaction:
        transaction.put("rows", key, value)


def test_a_reader_of_nothing_is_told_what_to_run(tmp_path):
    with pytest.raises(FailedPreconditionError, match="featurestore materialize"):
        open_lmdb(tmp_path, readonly=True)


def test_a_read_only_store_sees_what_another_process_writes(tmp_path):
    put(tmp_path)
    with closing(open_lmdb(tmp_path, readonly=True)) as store:
        code = (
            "import sys; from pathlib import Path; from featurestore.online.lmdb import open_lmdb\n"
            "with open_lmdb(Path(sys.argv[1])).write() as t: t.put('rows', b'k', b'new')"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
        with store.read() as snapshot:
            assert snapshot.get("rows", b"k") == b"new"
        with pytest.raises(FailedPreconditionError, match="reading only"), store.write():
            pass


def test_one_process_opens_an_environment_once(tmp_path):
    first, second = open_lmdb(tmp_path), open_lmdb(tmp_path)
    with first.write() as transaction:
        transaction.put("rows", b"k", b"v")
    first.close()
    with second.read() as snapshot:
        assert snapshot.get("rows", b"k") == b"v"
    second.close()
    with pytest.raises(FailedPreconditionError, match="closed"):
        second.read()


def test_a_process_that_only_reads_cannot_also_write(tmp_path):
    put(tmp_path)
    with (
        closing(open_lmdb(tmp_path, readonly=True)),
        pytest.raises(FailedPreconditionError, match="open for reading only"),
    ):
        open_lmdb(tmp_path)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_refused(tmp_path):
    store = open_lmdb(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            store.read()
        except FailedPreconditionError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with store.write() as transaction:
        transaction.put("rows", b"k", b"v")
    store.close()


def test_a_foreign_environment_is_named(tmp_path):
    put(tmp_path)
    with lmdb.open(str(tmp_path / "env-1"), max_dbs=8) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(meta, write=True) as transaction:
            transaction.put(b"format", b"featurestore-online/99")
    with pytest.raises(
        CorruptionError, match=r"featurestore-online/99; this program reads featurestore-online/1.*data.mdb"
    ):
        open_lmdb(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    put(tmp_path)
    (tmp_path / "env-1" / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(CorruptionError, match=r"damaged.*data.mdb"):
        open_lmdb(tmp_path)


def test_a_pointer_to_nothing_is_named(tmp_path):
    put(tmp_path)
    (tmp_path / "CURRENT").write_text("env-2\n")
    with pytest.raises(CorruptionError, match=r"names 'env-2'.*CURRENT"):
        open_lmdb(tmp_path)
