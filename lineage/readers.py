"""Who a recorded read belongs to: a consumer where that is known, else the principal, or nobody.

The record says how the consumer was established when the read happened. A principal that was bound only later, to exactly one
consumer, counts as that consumer from the first read on, so that the repair `featurestore token bind` also settles the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lineage.graph import Node
from lineage.registry import Binding, Snapshot
from lineage.usage import Reads

Identity = Literal["consumer", "unbound", "ambiguous", "anonymous"]
ANONYMOUS = Node("principal", "anonymous")


@dataclass(frozen=True, slots=True)
class Reader:
    """Who read.

    Attributes:
        node: The consumer or the principal.
        identity: ``consumer``, or why there is none: ``unbound`` (no binding), ``ambiguous`` (several, none named), ``anonymous``.
        candidates: The consumers that the principal may run, where there is more than one.
    """

    node: Node
    identity: Identity
    candidates: tuple[str, ...] = ()

    def may_be(self, consumer: str) -> bool:
        """Say whether the reads of this reader may be those of a consumer."""
        match self.identity:
            case "consumer":
                return self.node.name == consumer
            case "ambiguous":
                return consumer in self.candidates
            case _:
                return True


def candidates_of(bindings: Iterable[Binding], snapshot: Snapshot) -> Mapping[str, tuple[str, ...]]:
    """Return principal -> the consumers it may run; ``model@*`` stands for the versions that have a manifest.

    Args:
        bindings: The bindings as recorded.
        snapshot: The registry, for the versions of a model.
    """
    versions: dict[str, set[str]] = {}
    for key, consumer in snapshot.consumers.items():
        if consumer.version:
            versions.setdefault(f"{key.removesuffix(consumer.version)}*", set()).add(key)
    found: dict[str, set[str]] = {}
    for binding in bindings:
        found.setdefault(binding.principal, set()).update(versions.get(binding.consumer, {binding.consumer}))
    return {principal: tuple(sorted(consumers)) for principal, consumers in found.items()}


def identify(read: Reads, candidates: Mapping[str, tuple[str, ...]]) -> Reader:
    """Say who a recorded read belongs to.

    Args:
        read: A recorded read.
        candidates: As from `candidates_of`.
    """
    if read.consumer and read.binding in ("bound", "local"):
        return Reader(Node("consumer", read.consumer), "consumer")
    if read.binding == "anonymous" or not read.principal:
        return Reader(ANONYMOUS, "anonymous")
    bound = candidates.get(read.principal, ())
    principal = Node("principal", read.principal)
    if not bound:
        return Reader(principal, "unbound")
    if len(bound) == 1 and not bound[0].endswith("@*"):
        return Reader(Node("consumer", bound[0]), "consumer")
    return Reader(principal, "ambiguous", bound)
