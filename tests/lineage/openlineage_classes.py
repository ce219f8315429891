"""Checks events against the official client: its classes are generated from the published JSON schemas."""

import importlib
import pkgutil
import typing
from enum import Enum
from types import NoneType, UnionType

import attr
from openlineage.client import generated
from openlineage.client.generated.base import BaseFacet, DatasetEvent, JobEvent, RunEvent

EVENTS = {kind.__name__: kind for kind in (RunEvent, DatasetEvent, JobEvent)}


def _facet_classes():
    for found in pkgutil.iter_modules(generated.__path__):
        module = importlib.import_module(f"openlineage.client.generated.{found.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, BaseFacet):
                yield kind._get_schema(), kind


FACETS = dict(_facet_classes())


def check(event):
    """Build the official object of an event; raises where a field is unknown, missing or of another type."""
    kind = EVENTS[event["schemaURL"].rpartition("/")[2]]
    assert event["schemaURL"] == kind._get_schema()
    return build(kind, event)


def build(kind, document):
    """Build an official object from JSON, strictly."""
    if isinstance(kind, type) and issubclass(kind, BaseFacet):
        kind = facet_kind(document)
        if kind is None:
            return document
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in attr.fields(kind)}
    assert set(document) <= set(fields), f"{kind.__name__} has no {set(document) - set(fields)}"
    missing = {name for name, field in fields.items() if field.default is attr.NOTHING} - set(document)
    assert not missing, f"{kind.__name__} needs {missing}"
    given = {fields[name].alias: convert(hints[name], value) for name, value in document.items() if fields[name].init}
    return kind(**given)


def facet_kind(document):
    """Return the official class of a facet; None for one of our own, which must still say who made it."""
    url = document["_schemaURL"]
    assert document["_producer"]
    if url.startswith("https://openlineage.io/"):
        return FACETS[url]
    return None


def convert(hint, value):
    """Check a value against an annotation, and build what it describes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any or origin is typing.ClassVar:
        return value
    if origin in (typing.Union, UnionType):
        if value is None:
            assert NoneType in arguments
            return None
        return convert(next(argument for argument in arguments if argument is not NoneType), value)
    if origin is list:
        assert isinstance(value, list)
        return [convert(arguments[0], item) for item in value]
    if origin is dict:
        return {name: convert(arguments[1], item) for name, item in value.items()}
    if attr.has(hint):
        return build(hint, value)
    if issubclass(hint, Enum):
        return hint(value)
    assert isinstance(value, hint), (hint, value)
    return value
