"""Where the value of a request-time expression comes from, read off the parsed tree that the registry keeps beside its SQL.

The tree is complete in itself, so no SQL is parsed for a question; `resolve_expression` says the same of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Names:
    """The columns that an expression reads.

    Attributes:
        direct: Those whose values flow into the result.
        deciding: Those that decide which value is taken; a column may be both.
    """

    direct: frozenset[str] = frozenset()
    deciding: frozenset[str] = frozenset()

    def __or__(self, other: Names) -> Names:
        return Names(self.direct | other.direct, self.deciding | other.deciding)

    def conditional(self) -> Names:
        """Return the same columns as those that decide alone."""
        return Names(deciding=self.direct | self.deciding)


def names_in_tree(tree: Mapping[str, Any]) -> Names:
    """Return the columns that a tree reads, as docs/reference/registry-json.md describes trees.

    Args:
        tree: One node with everything below it.

    Raises:
        ValueError: It is no node.

    >>> tree = {"case": [[{"column": "a"}, {"column": "b"}]], "otherwise": {"literal": None}}
    >>> names = names_in_tree(tree)
    >>> sorted(names.direct), sorted(names.deciding)
    (['b'], ['a'])
    """
    match tree:
        case {"column": name}:
            return Names(frozenset((name,)))
        case {"literal": _}:
            return Names()
        case {"cast": operand}:
            return names_in_tree(operand)
        case {"call": _, "arguments": arguments}:
            return _united(names_in_tree(argument) for argument in arguments)
        case {"case": branches, "otherwise": otherwise}:
            conditions = _united(names_in_tree(condition) for condition, _ in branches)
            results = _united(names_in_tree(result) for _, result in branches)
            return conditions.conditional() | results | names_in_tree(otherwise)
    raise ValueError(f"'{str(tree)[:80]}' is no node of an expression")


def _united(parts: Any) -> Names:
    found = Names()
    for part in parts:
        found |= part
    return found
