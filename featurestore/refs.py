"""References: ``view@v2:feature`` and ``view@v2``; the only parser and the only printer.

A reference without a version means the view's `current` one; it is resolved and frozen when a definition is applied. A reference
through an alias, ``dest_weather=weather@v1:temp``, reads the same features for another role of the entity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from featurestore.errors import InvalidArgumentError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NAME = NAME.pattern
_REF = re.compile(rf"(?:({_NAME})=)?({_NAME})(?:@v([1-9]\d{{0,8}}))?(?::({_NAME}))?")


@dataclass(frozen=True, slots=True, order=True)
class ViewRef:
    """A feature view, with its version or without (the current one).

    >>> str(ViewRef.parse("weather@v2"))
    'weather@v2'
    """

    view: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ViewRef:
        """Read ``view`` or ``view@v2``; raises InvalidArgumentError for anything else."""
        match = _REF.fullmatch(text)
        if match is None or match[4]:
            raise InvalidArgumentError(f"'{text}' is not a view reference.", repair="Write view or view@v2.")
        return cls(match[2], int(match[3]) if match[3] else None, match[1])

    def feature(self, name: str) -> FeatureRef:
        """Return the reference of one feature of this view."""
        return FeatureRef(self.view, self.version, name, self.alias)

    def __str__(self) -> str:
        return _print(self.alias, self.view, self.version)


@dataclass(frozen=True, slots=True, order=True)
class FeatureRef:
    """One feature of a view version.

    Attributes:
        view: Name of the feature view.
        version: Its version from 1 on, or None for the current one.
        feature: Name of the feature.
        alias: The role under which the view is read, or None.

    >>> FeatureRef.parse("weather@v2:temp")
    FeatureRef(view='weather', version=2, feature='temp', alias=None)
    >>> str(FeatureRef.parse("weather:temp"))
    'weather:temp'
    """

    view: str
    version: int | None
    feature: str
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> FeatureRef:
        """Read ``view:feature`` or ``view@v2:feature``; raises InvalidArgumentError for anything else."""
        match = _REF.fullmatch(text) if isinstance(text, str) else None
        if match is None or not match[4]:
            raise InvalidArgumentError(
                f"{text!r} is not a feature reference.", repair="Write view:feature or view@v2:feature."
            )
        return cls(match[2], int(match[3]) if match[3] else None, match[4], match[1])

    @property
    def view_ref(self) -> ViewRef:
        """The view this feature belongs to."""
        return ViewRef(self.view, self.version, self.alias)

    def at(self, version: int) -> FeatureRef:
        """Return the same reference frozen to a version."""
        return replace(self, version=version)

    def plain(self) -> FeatureRef:
        """Return the reference without its alias: what lineage and usage count."""
        return replace(self, alias=None)

    def __str__(self) -> str:
        return f"{_print(self.alias, self.view, self.version)}:{self.feature}"


def _print(alias: str | None, view: str, version: int | None) -> str:
    role = f"{alias}=" if alias else ""
    return f"{role}{view}" + (f"@v{version}" if version else "")
