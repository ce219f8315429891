"""A subject: some keys of one entity, and which rows are theirs, whatever else the key of a row has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import InvalidArgumentError
from featurestore.keys import encode_columns, key_parts
from featurestore.rows import may_become
from featurestore.types import DType, to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

JoinKeys = tuple[tuple[str, str], ...]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Subject:
    """Some keys of one entity.

    Args:
        entity: Name of the entity.
        join_keys: (column, type) of its join keys.
        values: One column for each join key, of its type and without nulls; one row for each key.
    """

    entity: str
    join_keys: JoinKeys
    values: pa.Table

    @classmethod
    def of(cls, entity: str, join_keys: Sequence[tuple[str, str]], keys: pa.Table) -> Subject:
        """Check keys as a user gives them; other columns are ignored.

        Raises:
            InvalidArgumentError: There is no key, a column is missing, or holds a null or a value that is not of its type.

        >>> import pyarrow as pa
        >>> len(Subject.of("user", [("user_id", "int64")], pa.table({"user_id": [7, 8, 7]})).keys)
        2
        """
        import pyarrow as pa

        columns = [_column(keys, name, DType(dtype)) for name, dtype in join_keys]
        if not len(keys):
            raise InvalidArgumentError("There is no key to erase.", place="$.keys")
        return cls(entity, tuple(join_keys), pa.table(columns, names=[name for name, _ in join_keys]))

    @cached_property
    def keys(self) -> frozenset[bytes]:
        """The keys as featurestore.keys encodes them."""
        return frozenset(encode_columns(self.values.columns, self._dtypes))

    @cached_property
    def parts(self) -> frozenset[tuple[bytes, ...]]:
        """The keys as the encoded columns of each."""
        return frozenset(map(key_parts, self.keys))

    def places(self, join_keys: Sequence[tuple[str, str]]) -> tuple[int, ...] | None:
        """Return where a view's join keys have those of the entity, by name and type; None when it lacks one of them.

        >>> import pyarrow as pa
        >>> user = Subject.of("user", [("user_id", "int64")], pa.table({"user_id": [7]}))
        >>> user.places([("item_id", "int64"), ("user_id", "int64")]), user.places([("user_id", "string")])
        ((1,), None)
        """
        there = list(map(tuple, join_keys))
        return tuple(map(there.index, self.join_keys)) if all(key in there for key in self.join_keys) else None

    def mask(self, columns: Sequence[pa.ChunkedArray]) -> Mask:
        """Return bool[n]: which rows have one of the keys in some columns, given in the order of the entity's join keys.

        Args:
            columns: Of the types of the join keys, or of others that can hold them; a null is no key.
        """
        import pyarrow.compute as pc

        typed = [_fitting(column, value.type) for column, value in zip(columns, self.values.columns, strict=True)]
        alike = [
            np.asarray(pc.is_in(column, value.combine_chunks()))
            for column, value in zip(typed, self.values.columns, strict=True)
        ]
        found: Mask = reduce(np.logical_and, alike)
        if len(alike) > 1 and found.any():
            keys = encode_columns([column.filter(found) for column in typed], self._dtypes)
            found[found] = [key in self.keys for key in keys]
        return found

    def digests_input(self) -> list[bytes]:
        """Return what the keyed digest of each key is made of, in the order of `values`."""
        return digest_inputs(self.join_keys, self.values.columns)

    @property
    def _dtypes(self) -> list[DType]:
        return [DType(dtype) for _, dtype in self.join_keys]


def digest_inputs(join_keys: JoinKeys, columns: Sequence[Any]) -> list[bytes]:
    """Return bytes that tell apart the keys of all entities: the names and types of the join keys, and the encoded key of each row."""
    names = ",".join(f"{name}:{dtype}" for name, dtype in join_keys).encode() + b"|"
    return [names + key for key in encode_columns(columns, [DType(dtype) for _, dtype in join_keys])]


def any_of(masks: Iterable[Mask], rows: int) -> Mask:
    """Return bool[rows]: where any of some masks holds."""
    return reduce(np.logical_or, masks, np.zeros(rows, np.bool_))


def _column(keys: pa.Table, name: str, dtype: DType) -> pa.ChunkedArray:
    import pyarrow as pa

    place = f"$.keys.{name}"
    if name not in keys.column_names:
        raise InvalidArgumentError(f"Key column '{name}' is missing.", place=place)
    column = keys[name]
    if column.null_count:
        raise InvalidArgumentError(f"A key '{name}' is null.", place=place)
    if not may_become(column.type, dtype):
        raise InvalidArgumentError(f"Column '{name}' is {column.type}, declared {dtype}.", place=place)
    try:
        return column.cast(to_arrow(dtype), safe=True)
    except pa.ArrowInvalid as error:
        raise InvalidArgumentError(f"Column '{name}' does not fit {dtype}: {error}.", place=place) from error


def _fitting(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column in another type; a value that has none there becomes a null, for it is no key."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == kind:
        return column
    try:
        return column.cast(kind, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    return pa.chunked_array([pa.array([_or_none(value, kind) for value in column.to_pylist()], kind)])


def _or_none(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
