"""What HTTP bodies look like: the requests that are read and the answers that are written, described field by field."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

Value = str | int | float | bool | list[Any] | dict[str, Any] | None
Columns = dict[str, list[Value]]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request as JSON; an unknown field is refused."""

    example: ClassVar[Mapping[str, Any]] = {}


class SchemaBody(Body, frozen=True):
    """What to read: a service, or references."""

    service: Annotated[str, Meta(description="Name of a feature service.")] = ""
    features: Annotated[tuple[str, ...], Meta(description="References such as `weather@v1:temp`, in its place.")] = ()
    full_feature_names: Annotated[bool, Meta(description="Name outputs `view__feature`.")] = False

    example = {"features": ["weather@v1:temp"]}


class ReadBody(SchemaBody, frozen=True):
    """What to read, and for which keys."""

    keys: Annotated[Columns, Meta(description="Key column -> values, all of one length, at most 1,000.")] = {}
    request: Annotated[Columns, Meta(description="Request column -> values, for on-demand features.")] = {}

    example = {"features": ["weather@v1:temp"], "keys": {"origin": ["JFK", "LGA"]}}


class WriteSchemaBody(Body, frozen=True):
    """The view whose columns are asked for."""

    view: Annotated[str, Meta(description="`view` or `view@v2`.")]

    example = {"view": "weather@v1"}


class WriteBody(WriteSchemaBody, frozen=True):
    """Rows of a view."""

    rows: Annotated[Columns, Meta(description="Column -> values under the source's names, all of one length.")]
    write_id: Annotated[str, Meta(description="Makes a repeat harmless for seven days.")] = ""

    example = {
        "view": "weather@v1",
        "rows": {"origin": ["JFK"], "event_timestamp": ["2024-01-01T00:00:00Z"], "temp": [40.5]},
    }


class ClockBody(Body, frozen=True):
    """The instant to move the replay clock to."""

    time: Annotated[str | int, Meta(description="ISO 8601, or microseconds since 1970 UTC.")]

    example = {"time": "2024-01-01T00:00:00Z"}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as JSON."""


class Column(Answer, frozen=True):
    """A column and its type."""

    column: str
    dtype: str


class KeySet(Answer, frozen=True):
    """The key columns of an entity."""

    entity: str
    columns: list[Column]


class Output(Answer, frozen=True):
    """A column of answers, and the feature that it is."""

    name: str
    ref: str
    dtype: str


class SchemaAnswer(Answer, frozen=True):
    """The shape of a read."""

    fingerprint: Annotated[str, Meta(description="Of the read plan, in hexadecimal.")]
    revision: Annotated[int, Meta(description="Of the registry.")]
    keys: list[KeySet]
    request: list[Column]
    features: list[Output]


class RowsAnswer(Answer, frozen=True, omit_defaults=True):
    """The rows that were read, one for each position of the keys."""

    features: Annotated[Columns, Meta(description="Output -> values; null where there is none.")]
    statuses: Annotated[dict[str, list[str]], Meta(description="Output -> PRESENT, NULL, NOT_FOUND or EXPIRED.")]
    event_times: Annotated[dict[str, list[datetime | int | None]], Meta(description="Output -> event time of the row.")]
    time: Annotated[datetime | int, Meta(description="The instant that ttl and windows used.")]
    position: Annotated[int, Meta(description="Sequence number of the last pushed row that this answer has seen.")]
    versions: Annotated[
        dict[str, list[str]], Meta(description="Output -> view version of each key; while a canary is under way.")
    ] = {}


class WriteSchemaAnswer(Answer, frozen=True):
    """The columns that rows of a view have."""

    view: str
    columns: list[Column]


class WriteAnswer(Answer, frozen=True):
    """What became of written rows; those that were accepted are durable and visible."""

    accepted: int
    repeated: Annotated[int, Meta(description="Rows equal to a stored one, not accepted again.")]
    parked: Annotated[int, Meta(description="Accepted rows dated after now; they become visible when they come due.")]
    first_seq: int
    last_seq: int
    warnings: list[str]


class ClockAnswer(Answer, frozen=True):
    """The store's clock."""

    time: Annotated[
        datetime | int, Meta(description="ISO 8601; microseconds since 1970 UTC outside of the years 1 to 9999.")
    ]
    replay: bool


class StatusAnswer(Answer, frozen=True):
    """How the server sees itself."""

    clock: ClockAnswer
    revision: int
    project: str
    environment: str
    internal_errors: int


class ErrorFacts(Answer, frozen=True, omit_defaults=True):
    """What went wrong."""

    code: Annotated[str, Meta(description="The gRPC status code by name.")]
    message: str
    place: Annotated[str, Meta(description="Where in the request, such as `$.keys.origin[3]`.")] = ""
    nearest: Annotated[str, Meta(description="The nearest name that there is.")] = ""
    repair: Annotated[str, Meta(description="What to do about it.")] = ""


class ErrorAnswer(Answer, frozen=True):
    """An answer that is none."""

    error: ErrorFacts


BODIES: Mapping[str, type[Body]] = {
    "GetSchema": SchemaBody,
    "GetOnlineFeatures": ReadBody,
    "GetWriteSchema": WriteSchemaBody,
    "Write": WriteBody,
    "AdvanceClock": ClockBody,
}
ANSWERS: Mapping[str, type[Answer]] = {
    "GetSchema": SchemaAnswer,
    "GetOnlineFeatures": RowsAnswer,
    "GetWriteSchema": WriteSchemaAnswer,
    "Write": WriteAnswer,
    "AdvanceClock": ClockAnswer,
    "GetStatus": StatusAnswer,
}
