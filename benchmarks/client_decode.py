"""The client's side of a read: the bytes of an answer to NumPy columns, beside generated protobuf on an answer as Feast gives it.

The peer's message is as Feast's: a value object for each feature of each key, with a status and an event time. Its descriptor is made here,
field for field, so that the same protobuf runtime reads both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from measuring import Claim, Effort, in_turn, seconds_of

from featurestore.decoding import Decoder
from featurestore.lanes import LaneColumn
from featurestore.online.codec import RowLayout, varint
from featurestore.types import DType
from featurestore.v1 import serving_pb2 as pb

OURS, PEER = "featurestore, decoder", "a value object each, protobuf"
KEYS, FEATURES = 100, 10
SHAPES: Mapping[str, tuple[str, ...]] = {
    "numeric": ("float64",) * 7 + ("int64",) * 3,
    "with strings": ("float64",) * 6 + ("int64",) * 3 + ("string",),
}

_FIELD = descriptor_pb2.FieldDescriptorProto


def measure(effort: Effort) -> list[Claim]:
    """Measure answers of 100 keys and 10 features, numbers alone and with a text."""
    calls = 50 if effort.small else 3_000
    claims = []
    for name, dtypes in SHAPES.items():
        columns = _columns(dtypes)
        ours, theirs = _our_answer(dtypes, columns), _their_answer(columns)
        decoder, kind = Decoder(_schema(dtypes)), _messages()["Response"]
        _demand_same(_ours(decoder, ours), _theirs(kind, theirs))
        works: dict[str, Callable[[], object]] = {
            OURS: partial(_again, partial(_ours, decoder, ours), calls),
            PEER: partial(_again, partial(_theirs, kind, theirs), max(1, calls // 20)),
        }
        runs = in_turn({who: partial(seconds_of, work) for who, work in works.items()}, effort.rounds)
        each = {OURS: [s / calls for s in runs[OURS]], PEER: [s / max(1, calls // 20) for s in runs[PEER]]}
        remarks = {who: f"{1e6 * median(done):.1f} us" for who, done in each.items()}
        claims.append(Claim(f"Answer to NumPy columns, {KEYS} keys x {FEATURES} features, {name}", "s", each, remarks))
    return claims


def _again(work: Callable[[], object], times: int) -> None:
    for _ in range(times):
        work()


def _ours(decoder: Decoder, answer: bytes) -> list[Any]:
    rows = decoder.decode(answer)
    return [rows.columns[name] for name in rows.columns]


def _theirs(kind: Any, answer: bytes) -> list[Any]:
    message = kind.FromString(answer)
    return [np.array([getattr(v, v.WhichOneof("val")) for v in column.values]) for column in message.results]


def _demand_same(ours: list[Any], theirs: list[Any]) -> None:
    if any(list(mine) != list(yours) for mine, yours in zip(ours, theirs, strict=True)):
        raise RuntimeError("The two answers differ.")


def _columns(dtypes: tuple[str, ...]) -> list[list[Any]]:
    random = np.random.default_rng(3)
    make: Mapping[str, Callable[[], list[Any]]] = {
        "float64": lambda: random.random(KEYS).tolist(),
        "int64": lambda: random.integers(-(2**62), 2**62, KEYS).tolist(),
        "string": lambda: [f"text {n}" * int(n % 4 + 1) for n in random.integers(0, 10_000, KEYS)],
    }
    return [make[dtype]() for dtype in dtypes]


def _layout(dtypes: tuple[str, ...]) -> RowLayout:
    return RowLayout.of((f"f{i}", DType(dtype)) for i, dtype in enumerate(dtypes))


def _schema(dtypes: tuple[str, ...]) -> pb.Schema:
    layout = _layout(dtypes)
    lanes = {lane: layout.count(lane) for lane in ("doubles", "integers", "strings")}
    slots = [layout.slot(f"f{i}") for i in range(len(dtypes))]
    return pb.Schema(
        views=[pb.ViewSchema(ref="view@v1", **lanes)],
        features=[
            pb.FeatureSchema(name=f"f{i}", dtype=slot.dtype.name, lane=slot.lane, index=slot.index, bit=slot.bit)
            for i, slot in enumerate(slots)
        ],
    )


def _our_answer(dtypes: tuple[str, ...], columns: list[list[Any]]) -> bytes:
    layout, there = _layout(dtypes), np.ones(KEYS, np.bool_)
    lanes = {
        f"f{i}": LaneColumn([v.encode() for v in values], there)
        if dtype == "string"
        else LaneColumn(np.array(values), there)
        for i, (dtype, values) in enumerate(zip(dtypes, columns, strict=True))
    }
    rows = b"".join(layout.encode(np.full(KEYS, 10**15), [lanes[slot.name] for slot in layout.slots]))
    return b"\x0a" + varint(len(rows)) + rows


def _their_answer(columns: list[list[Any]]) -> bytes:
    kinds = _messages()
    fields = {float: "double_val", int: "int64_val", str: "string_val"}
    results = [
        kinds["Vector"](
            values=[kinds["Value"](**{fields[type(value)]: value}) for value in values],
            statuses=[2] * KEYS,
            event_timestamps=[kinds["google.protobuf.Timestamp"](seconds=10**9)] * KEYS,
        )
        for values in columns
    ]
    answer: bytes = kinds["Response"](results=results).SerializeToString()
    return answer


def _messages() -> Mapping[str, Any]:
    """Return the messages of the peer's form: a oneof of types for each value, and vectors of them."""
    file = descriptor_pb2.FileDescriptorProto(name="peer.proto", package="peer", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="val")
    for name, number, kind in (("string_val", 2, 9), ("int64_val", 4, 3), ("double_val", 5, 1)):
        value.field.add(name=name, number=number, type=kind, label=_FIELD.LABEL_OPTIONAL, oneof_index=0)
    vector = file.message_type.add(name="Vector")
    many = _FIELD.LABEL_REPEATED
    vector.field.add(name="values", number=1, type=11, type_name=".peer.Value", label=many)
    vector.field.add(name="statuses", number=2, type=5, label=many)
    vector.field.add(name="event_timestamps", number=3, type=11, type_name=".google.protobuf.Timestamp", label=many)
    response = file.message_type.add(name="Response")
    response.field.add(name="results", number=2, type=11, type_name=".peer.Vector", label=many)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["peer.proto", "google/protobuf/timestamp.proto"], pool)
    return {name.removeprefix("peer."): kind for name, kind in found.items()}


if __name__ == "__main__":
    for claim in measure(Effort(rounds=5, small=False)):
        print(claim.name, dict(claim.remarks))
