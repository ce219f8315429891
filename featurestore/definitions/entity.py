"""What a feature is about, and the key columns that identify one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.definitions.checks import check_name
from featurestore.errors import DefinitionError
from featurestore.types import DType


@dataclass(frozen=True)
class Entity:
    """What features are about, such as a plane or a route.

    Args:
        name: Name of the entity.
        join_keys: Key columns in order, each with its type; floats are refused.
        description: One sentence for people.
        owner: Who answers for it, e.g. an e-mail address.
        tags: Free labels.

    Raises:
        DefinitionError: No key, a bad name, or a key type that cannot identify anything.

    >>> Entity("route", join_keys={"origin": "string", "dest": "string"}).keys
    (('origin', 'string'), ('dest', 'string'))
    """

    name: str
    join_keys: Mapping[str, str | DType]
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("Entity", self.name)
        if not self.join_keys:
            raise DefinitionError(f"Entity '{self.name}' has no join key.", repair='Say join_keys={"id": "int64"}.')
        for key, dtype in self.join_keys.items():
            check_name("Join key", key)
            if not DType.of(dtype).is_key:
                why = "a key is one exact value" if DType.of(dtype).is_nested else "1001.7 is not 1001"
                raise DefinitionError(f"Join key '{key}' of '{self.name}' is {dtype}: {why}.")

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """(column, type name) pairs in order."""
        return tuple((key, DType.of(dtype).name) for key, dtype in self.join_keys.items())
