"""What features cost in time, measured by replay: storing their columns again, and reading them from a running server.

Costs do not add up: one column less saves no round trip and no refresh of its view. So each feature is measured by itself, and each view
as a whole.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.errors import CorruptRegistryError, NotAllowedError, UnavailableError
from lineage.evaluation.cost import TimeCost, offline_files, time_cost
from lineage.evaluation.data import located
from lineage.evaluation.documents import save_document
from lineage.registry import Consumer, ViewVersion, view_of
from lineage.state import State

if TYPE_CHECKING:
    from pyarrow import Table

FOLDER = Path("costs")  # under the folder of the evaluation records
SCHEMA_VERSION = 1
ROWS = 1_000_000  # of a view that are stored again; more are scaled up
STORED_ROUNDS = 11
READ_KEYS = 100


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one feature, or one whole view, costs in time.

    Attributes:
        stored: To read its columns from the offline files and write them again, as a refresh does; None where there are no files.
        read: To read it online with everything else that the model reads; None where it was not replayed.
    """

    stored: TimeCost | None = None
    read: TimeCost | None = None


@dataclass(frozen=True, slots=True)
class ReplayedCosts:
    """What the features of a model cost in time.

    Attributes:
        model: Its key.
        at: Microseconds since 1970 UTC.
        server: Where reads were replayed; empty when they were not.
        keys: How many entities each read asked for.
        costs: Feature reference or view reference -> its cost.
        notes: What could not be measured, and why.
    """

    model: str
    at: int
    server: str = ""
    keys: int = 0
    costs: Mapping[str, Replayed] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def replay_costs(
    state: State,
    manifest: Consumer,
    *,
    now: int,
    server: str = "",
    token: str = "",
    rounds: int = 200,
    say: Callable[[str], None] = lambda _: None,
) -> ReplayedCosts:
    """Measure what the features that a model reads cost in time.

    Args:
        state: The registry, and the offline files beside it.
        manifest: Of the model.
        now: Microseconds since 1970 UTC.
        server: Address of a running server, e.g. ``http://localhost:8080``; empty replays no reads.
        token: Who reads; empty is nobody.
        rounds: Pairs of reads per feature.
        say: Gets a line per view.

    Raises:
        UnavailableError: The server does not answer.
        NotAllowedError: It refuses the read.
    """
    views = {
        view_of(ref): state.snapshot.views[view_of(ref)] for ref in sorted(manifest.features) if _known(state, ref)
    }
    stored: dict[str, TimeCost] = {}
    for ref, view in views.items():
        stored |= _stored(offline_files(state, view), view)
        say(f"stored again: {ref}")
    refs = [ref for ref in sorted(manifest.features) if _known(state, ref) and views[view_of(ref)].source]
    keys = (
        _keys(state, manifest, {column for ref in refs for column in views[view_of(ref)].join_keys}) if server else {}
    )
    asked = max(map(len, keys.values()), default=0) if keys else 0
    notes = [] if asked or not server else [f"no read was replayed: no dataset of {manifest.key} has its keys"]
    read = _read(views, refs, keys, _Server(server, token), rounds, say) if keys and asked else {}
    names = [*views, *(ref for ref in sorted(manifest.features) if _known(state, ref))]
    costs = {name: Replayed(stored.get(name), read.get(name)) for name in names}
    return ReplayedCosts(manifest.key, now, server, asked, costs, tuple(notes))


def _known(state: State, ref: str) -> bool:
    return view_of(ref) in state.snapshot.views


def _stored(paths: Sequence[Path], view: ViewVersion) -> dict[str, TimeCost]:
    """Return the cost of writing a view's columns again, of each feature and of all."""
    import pyarrow.parquet as pq

    if not paths:
        return {}
    files, rows, total = [], 0, 0
    for path in paths:
        size = pq.read_metadata(path).num_rows
        total += size
        if rows < ROWS:
            files.append(path)
            rows += size
    every = pq.read_schema(files[0]).names
    named = {feature.ref: feature.ref.partition(":")[2] for feature in view.features}
    found = {
        ref: time_cost(_rewriter(files), every, [column], rounds=STORED_ROUNDS)
        for ref, column in named.items()
        if column in every
    }
    found[view.ref] = time_cost(_rewriter(files), every, every, rounds=STORED_ROUNDS)
    return {name: cost.times(total / max(rows, 1)) for name, cost in found.items()}


def _rewriter(paths: Sequence[Path]) -> Callable[[Sequence[str]], None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rewrite(columns: Sequence[str]) -> None:
        for path in paths if columns else ():
            with pa.BufferOutputStream() as out:
                pq.write_table(pq.read_table(path, columns=list(columns)), out, compression="zstd")

    return rewrite


@dataclass(frozen=True, slots=True)
class _Server:
    """A running server, asked over HTTP."""

    address: str
    token: str

    def read(self, refs: Sequence[str], keys: Mapping[str, list[Any]]) -> None:
        """Read features once.

        Raises:
            UnavailableError: The server does not answer.
            NotAllowedError: It refuses the read, or what is asked.
        """
        body = json.dumps({"features": list(refs), "keys": keys, "full_feature_names": True}).encode()
        headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {self.token}"} if self.token else {}
        )
        request = urllib.request.Request(f"{self.address}/v1/get-online-features", body, headers)  # noqa: S310 - the user's own server
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as error:
            said = error.read(400).decode(errors="replace")
            raise NotAllowedError(f"{self.address} refused the read ({error.code}): {said}") from error
        except (urllib.error.URLError, TimeoutError) as error:
            raise UnavailableError(f"{self.address} does not answer: {error}.") from error


def _read(
    views: Mapping[str, ViewVersion],
    refs: Sequence[str],
    keys: Mapping[str, list[Any]],
    server: _Server,
    rounds: int,
    say: Callable[[str], None],
) -> dict[str, TimeCost]:
    """Return the cost of reading each feature, and all of each view, beside everything else that the model reads."""

    def read(asked: Sequence[str]) -> None:
        columns = {column for ref in asked for column in views[view_of(ref)].join_keys}
        if asked:
            server.read(asked, {column: keys[column] for column in sorted(columns)})

    read(refs)  # what the first read costs is not what reads cost
    found = {}
    for view in dict.fromkeys(map(view_of, refs)):
        mine = [ref for ref in refs if view_of(ref) == view]
        found[view] = time_cost(read, refs, mine, rounds=rounds)
        found |= {ref: time_cost(read, refs, [ref], rounds=rounds) for ref in mine}
        say(f"read again: {view}")
    return found


def _keys(state: State, manifest: Consumer, columns: set[str]) -> dict[str, list[Any]] | None:
    """Return keys of rows that the model was trained on; None where its dataset has none."""
    import pyarrow.parquet as pq

    if not manifest.dataset:
        return None
    path = located(manifest.dataset, state.path.parent.parent).path
    if not columns <= set(pq.read_schema(path).names):
        return None
    table: Table = pq.read_table(path, columns=sorted(columns)).drop_null().slice(0, READ_KEYS)
    return {name: table[name].to_pylist() for name in table.column_names}


def save_costs(folder: Path, costs: ReplayedCosts) -> Path:
    """Keep what was measured; it replaces what was measured before of the model.

    Args:
        folder: ``store/evaluations`` of the project.
        costs: What to keep.
    """
    document = {"schema_version": SCHEMA_VERSION, **costs.document()}
    return save_document(folder / FOLDER / f"{costs.model}.json", document)


def read_costs(folder: Path, model: str) -> ReplayedCosts | None:
    """Return what was measured last of a model; None when nothing was.

    Args:
        folder: ``store/evaluations`` of the project.
        model: Its key.

    Raises:
        CorruptRegistryError: It is damaged or of another schema.
    """
    path = folder / FOLDER / f"{model}.json"
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("schema_version") != SCHEMA_VERSION:
            raise CorruptRegistryError(f"The costs '{path}' are of another schema.", path=path)
        costs = {
            name: Replayed(**{k: v and TimeCost(**v) for k, v in one.items()})
            for name, one in document.pop("costs").items()
        }
        return ReplayedCosts(**{**document, "notes": tuple(document["notes"])}, costs=costs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptRegistryError(f"The costs '{path}' are damaged: {error}.", path=path) from error
