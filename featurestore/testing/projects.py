"""A project of one process in a folder: a registry of definitions, the offline tables, and the writer and reader of the online store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from featurestore.decoding import OnlineRows, decode
from featurestore.definitions import Definition
from featurestore.flow.write import Writer
from featurestore.keys import encode_key
from featurestore.offline.table import OfflineTable
from featurestore.online.lmdb import open_lmdb
from featurestore.online.reader import OnlineReader, schema_message
from featurestore.planning import plan_read
from featurestore.refs import ViewRef
from featurestore.registry.plan import plan_changes, switch_layout
from featurestore.registry.snapshot import Document, RegistrySnapshot
from featurestore.rows import RowSchema
from featurestore.types import DType, to_wire
from featurestore.v1 import serving_pb2 as pb


class ScratchProject(AbstractContextManager["ScratchProject"]):
    """A project whose clock the test turns by hand.

    Args:
        root: The project folder.
        definitions: What is registered from the start; a push source needs no file.
        now: Where the clock stands, microseconds; None puts the store on its replay clock.
    """

    def __init__(self, root: Path, *definitions: Definition, now: int | None = 0) -> None:
        self.root = root
        self.now = now
        self.snapshot = RegistrySnapshot(Document(project="scratch"))
        self.apply(*definitions)
        clock = self._clock
        self.writer = Writer(root, lambda: self.snapshot, clock, self.table)
        self._store = open_lmdb(root / "online")
        self.reader = OnlineReader(self._store, clock)

    @property
    def _clock(self) -> Callable[[], int] | None:
        return None if self.now is None else lambda: self.now or 0

    def apply(self, *definitions: Definition) -> None:
        """Register definitions in the place of those that were."""
        plan = plan_changes(
            self.snapshot, definitions, check_source=lambda *_: None, is_filled=lambda ref: self.table(ref).exists
        )
        self.snapshot = RegistrySnapshot(plan.document)

    def materialize(self, view: str) -> None:
        """Bring a view online and read its newest layout from then on."""
        ref = self.snapshot.freeze(ViewRef.parse(view))
        filled = self.writer.materialize(ref).layout
        self.snapshot = RegistrySnapshot(switch_layout(self.snapshot, ref, filled).document)

    def table(self, ref: ViewRef) -> OfflineTable:
        """Return the offline table of a view version."""
        frozen = self.snapshot.freeze(ref)
        record = self.snapshot.view(frozen)
        folder = self.root / "offline" / frozen.view / f"v{frozen.version}"
        return OfflineTable(folder, RowSchema.of(record), buckets=4)

    def read_bytes(
        self,
        features: str | Sequence[str],
        keys: Sequence[tuple[Any, ...]],
        request: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
    ) -> bytes:
        """Read a plan with one key set, by key tuples; request is name -> (type, values). Returns the ReadResponse."""
        plan = plan_read(self.snapshot, features)
        encoded = [[encode_key(key, key_set.dtypes) for key in keys] for key_set in plan.key_sets]
        sent = [_column(name, DType(dtype), values) for name, (dtype, values) in (request or {}).items()]
        return self.reader.read(self.reader.prepare(plan), encoded, sent)

    def read(
        self,
        features: str | Sequence[str],
        keys: Sequence[tuple[Any, ...]],
        request: Mapping[str, tuple[str, Sequence[Any]]] | None = None,
    ) -> OnlineRows:
        """Read as `read_bytes` does, and decode the answer as a client would."""
        schema = schema_message(plan_read(self.snapshot, features))
        return decode(schema, self.read_bytes(features, keys, request))

    def close(self) -> None:
        """Close the store and give the lock back."""
        self._store.close()
        self.writer.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _column(name: str, dtype: DType, values: Sequence[Any]) -> pb.Column:
    """Return values as a request column; a zero stands at each null."""
    nulls = [i for i, value in enumerate(values) if value is None]
    empty: dict[str, Any] = {"integers": 0, "doubles": 0.0, "strings": b""}
    lane = [empty[dtype.lane] if value is None else to_wire(dtype, value) for value in values]
    column = pb.Column(name=name, nulls=nulls)
    getattr(column, dtype.lane).extend(lane)
    return column
