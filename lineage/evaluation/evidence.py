"""Evaluation records as the findings of a project read them: one report per model, on its newest rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lineage.errors import InvalidQuestionError, NotFoundError
from lineage.evaluation.data import Data, read_data
from lineage.evaluation.record import FOLDER, Record, newest, read_records
from lineage.evaluation.verdicts import Judgement
from lineage.registry import Consumer, without_alias
from lineage.state import State


@dataclass(frozen=True, slots=True)
class Report:
    """What was evaluated of a model, judged together.

    Attributes:
        model: Its key.
        records: The newest of everything it was trained without, on one dataset with one trainer.
        judgements: One per record, in the same order.
        stale: Why the records say nothing about the model of now; empty when they do.
    """

    model: str
    records: tuple[Record, ...]
    judgements: tuple[Judgement, ...]
    stale: str = ""

    def record_of(self, judgement: Judgement) -> Record:
        """Return the record of a judgement."""
        return self.records[self.judgements.index(judgement)]

    def about(self, ref: str) -> Judgement | None:
        """Return the judgement on one feature alone; None when it was not evaluated."""
        alone = frozenset({ref})
        return next((j for r, j in zip(self.records, self.judgements, strict=True) if r.dropped_refs == alone), None)


def records_of(state: State, *, model: str = "") -> tuple[Record, ...]:
    """Return every evaluation record that was there at the moment of a state."""
    return read_records(state.path.parent / FOLDER.name, model=model, until=state.now)


def reports_of(state: State, *, model: str = "") -> Iterator[Report]:
    """Yield one report per model with records.

    Args:
        state: The registry, and the records beside it.
        model: Only of this model; empty is all.
    """
    found = newest(tuple(r for r in records_of(state, model=model) if r.stage != "group"))
    for key in sorted({of for of, _ in found}):
        mine = [record for (of, _), record in found.items() if of == key]
        last = mine[-1]
        yield _report(state.snapshot.consumers.get(key), [r for r in mine if _comparable(r, last)])


def data_of(state: State, manifest: Consumer) -> Data | None:
    """Return the rows that a model was evaluated on last, else those its manifest names; None when they are not there.

    Its features are those that the model reads, or all of the file where it has no references.
    """
    records = records_of(state, model=manifest.key)
    dataset = records[-1].dataset if records else manifest.dataset
    label = records[-1].label if records else manifest.label
    if not dataset or not label:
        return None
    try:
        data = read_data(
            dataset, label=label, project=state.path.parent.parent, features=records[-1].features if records else ()
        )
    except (NotFoundError, InvalidQuestionError):
        return None
    refs = {column: without_alias(ref) for column, ref in data.refs.items()}
    read = tuple(column for column in data.features if not refs or refs.get(column) in manifest.features)
    return replace(data, features=read, refs=refs)


def _comparable(record: Record, last: Record) -> bool:
    same = (record.digest, record.trainer, record.features, record.label) == (
        last.digest,
        last.trainer,
        last.features,
        last.label,
    )
    return same and record.epsilon == last.epsilon


def _report(manifest: Consumer | None, records: list[Record]) -> Report:
    from lineage.evaluation.running import judge_records

    judgements = judge_records(records, records[-1].epsilon)
    return Report(records[-1].model, tuple(records), judgements, _stale(manifest, records[-1]))


def _stale(manifest: Consumer | None, record: Record) -> str:
    if manifest is None:
        return "the model has no manifest any more"
    if not record.refs:
        return ""
    if added := sorted(manifest.features - record.feature_refs):
        others = f" and {len(added) - 1} more" if len(added) > 1 else ""
        return f"the model reads {added[0]}{others} since, which the evaluation did not have"
    return ""
