"""The methods of the service: request bytes in, reply bytes out, free of any transport.

A worker keeps everything a call needs in one immutable `State`; when the registry changes another one takes its place, and calls in flight
finish with theirs. Reads wait for nothing; writes are forwarded to the store's one writer, and training reads to the process for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.audit import UsageWriter
from featurestore.errors import (
    DeadlineExceededError,
    FeatureStoreError,
    InvalidArgumentError,
    ResourceExhaustedError,
    StaleSchemaError,
)
from featurestore.keys import encode_request
from featurestore.online.reader import OnlineReader, PreparedRead, schema_message
from featurestore.planning import ReadPlan, plan_read
from featurestore.refs import ViewRef
from featurestore.registry.credentials import Credentials
from featurestore.registry.snapshot import RegistrySnapshot
from featurestore.registry.storage import Registry
from featurestore.rows import CREATED, RowSchema
from featurestore.serving.access import SERVICE, Caller, Decision, Gate
from featurestore.serving.authentication import Authenticator, JwtVerifier
from featurestore.serving.call import Call, Handler, Reply, StreamHandler
from featurestore.serving.metrics import MetricsFile, read_metrics, to_prometheus
from featurestore.serving.read_metrics import ReadMetrics
from featurestore.serving.request_keys import PlainKeys, named_plan
from featurestore.serving.settings import MAX_KEYS, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, METRICS, ServeSettings
from featurestore.serving.status import Guard, ascii_safe
from featurestore.serving.tracing import tracing
from featurestore.v1 import serving_pb2 as pb

if TYPE_CHECKING:
    from featurestore.online.redis_reader import RedisReader

MAX_PLANS = 1000

Asked = tuple[str | tuple[str, ...], bool]


@dataclass(frozen=True, slots=True)
class KnownRead:
    """A plan that clients may name by its fingerprint.

    Attributes:
        asked: What was asked.
        prepared: How it is read.
        schema: Its serialized schema.
        plan_id: What usage counts it as.
        label: What was asked, as metrics name it: the service, or that references were.
        plain: How the plainest requests for it are read, if it has such.
        in_flight: Whether some of it is read in two versions.
    """

    asked: Asked
    prepared: PreparedRead
    schema: bytes
    plan_id: str
    label: str
    plain: PlainKeys | None
    in_flight: bool

    @classmethod
    def of(cls, asked: Asked, prepared: PreparedRead, schema: bytes) -> KnownRead:
        """Look up what does not change between reads."""
        label = asked[0] if isinstance(asked[0], str) else "(features)"
        plan = prepared.plan
        return cls(asked, prepared, schema, plan.plan_id, label, PlainKeys.of(plan), bool(plan.in_flight))


@dataclass(frozen=True, slots=True)
class State:
    """All that calls need to know of the registry at one moment.

    Attributes:
        snapshot: What is registered.
        gate: Who may call.
        reads: Plan fingerprint -> its read; filled as schemas are asked for.
        asked: What was asked -> its read.
    """

    snapshot: RegistrySnapshot
    gate: Gate
    reads: dict[bytes, KnownRead] = field(default_factory=dict)
    asked: dict[Asked, KnownRead] = field(default_factory=dict)


class _Read(msgspec.Struct, frozen=True, gc=False):
    """A read that is allowed, before it is answered."""

    began: int
    caller: Caller
    known: KnownRead
    decision: Decision
    keys: Sequence[Sequence[bytes]]
    columns: Sequence[pb.Column]


class FeatureHandlers:
    """The handlers of one worker.

    Args:
        settings: The server's settings.
        registry: The registry, which is only read.
        reader: Reads the online store.
        usage: Counts the reads of this worker.
        metrics: Measures its calls.
        writer: Handles a call in place of this worker: the writer process over its socket, or a writer in this process.
        write: Handles a stream of writes in its place, likewise.
        training: Reads a training set in its place, likewise.
    """

    def __init__(
        self,
        settings: ServeSettings,
        *,
        registry: Registry,
        reader: OnlineReader | RedisReader,
        usage: UsageWriter,
        metrics: MetricsFile,
        writer: Handler,
        write: StreamHandler,
        training: StreamHandler,
    ) -> None:
        self._metrics = ReadMetrics(metrics)
        self.guard = Guard(self._metrics.count, tracing())
        self._settings = settings
        self._registry = registry
        self._reader: Any = reader  # one that waits is known by its coroutine, and awaited where that is certain
        self._waits = iscoroutinefunction(reader.read)
        self._usage = usage
        self._writer = writer
        self._write = write
        self._training = training
        self._jwt = None if settings.jwt is None else JwtVerifier(settings.jwt)
        self._counter: int | None = None
        self._state = self._state_of(registry.snapshot(), registry.credentials())
        self.refresh()

    @property
    def state(self) -> State:
        """What calls that begin now are answered from."""
        return self._state

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers by method path."""
        handlers: Mapping[str, Callable[[Call, bytes], object]] = {
            "GetSchema": self.get_schema,
            "GetOnlineFeatures": self.get_online_features_later if self._waits else self.get_online_features,
            "GetWriteSchema": self.get_write_schema,
            "Write": self.write,
            "AdvanceClock": self.advance_clock,
            "GetStatus": self.get_status,
        }
        return {f"/{SERVICE}/{name}": self.guard.wrap(handle) for name, handle in handlers.items()}

    def streams(self) -> Mapping[str, StreamHandler]:
        """Return the handlers of streams by method path."""
        handlers: Mapping[str, StreamHandler] = {
            "StreamOnlineFeatures": self.stream_online_features,
            "StreamWrite": self.stream_write,
            "GetHistoricalFeatures": self.get_historical_features,
        }
        return {f"/{SERVICE}/{name}": self.guard.wrap_stream(handle) for name, handle in handlers.items()}

    def refresh(self) -> bool:
        """Take up what anybody committed to the registry since the last time; say whether there was anything.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The registry cannot be read now; the state stays as it is.
        """
        counter = self._registry.change_counter()
        new_keys = self._jwt is not None and self._jwt.refresh()
        if counter == self._counter and not new_keys:
            return False
        snapshot, credentials = self._registry.snapshot(), self._registry.credentials()
        old = self._state
        changed = new_keys or snapshot.revision != old.snapshot.revision or credentials != old.gate.credentials
        if changed:
            state = self._state_of(snapshot, credentials)
            self._carry_over(state, old)
            self._state = state
            self._carry_over(state, old)  # what was asked for meanwhile, on the thread that answers
        self._counter = counter
        return changed

    def admit(self, call: Call, body: bytes) -> Reply:
        """Say whether the caller may call, and nothing else."""
        self._admit(call, body)
        return Reply()

    def metrics(self, call: Call, body: bytes) -> Reply:
        """Return the numbers of the whole server as Prometheus reads them."""
        self._admit(call, body)
        self.collect_metrics()
        return Reply(to_prometheus(read_metrics(self._settings.store_dir / METRICS).values()).encode())

    def collect_metrics(self) -> None:
        """Bring what reads found into the metrics."""
        self._metrics.collect(known.prepared for known in tuple(self._state.reads.values()))

    def get_schema(self, call: Call, body: bytes) -> Reply:
        """Resolve a service or references, remember the plan, and return its schema."""
        state = self._admit(call, body)[0]
        request = pb.SchemaRequest.FromString(body)
        if request.service and request.features:
            raise InvalidArgumentError("Both a service and features were asked for.", place="$.features")
        asked = (request.service or tuple(request.features), request.full_feature_names)
        known = state.asked.get(asked) or self._prepare(state, asked)
        return Reply(known.schema)

    def get_online_features(self, call: Call, body: bytes) -> Reply:
        """Read the features of a known plan."""
        read = self._begin(call, body)
        return self._finish(call, read, self._reader.read(read.known.prepared, read.keys, read.columns))

    async def get_online_features_later(self, call: Call, body: bytes) -> Reply:
        """Read the features of a known plan from a store that must be waited for."""
        read = self._begin(call, body)
        return self._finish(call, read, await self._reader.read(read.known.prepared, read.keys, read.columns))

    def _begin(self, call: Call, body: bytes) -> _Read:
        """Return a read that is allowed, with everything but its answer."""
        began = time.perf_counter_ns()
        state, caller = self._admit(call, body)
        known = state.reads.get(named_plan(body))
        keys = None if known is None or known.plain is None else known.plain.read(body)
        columns: Sequence[pb.Column] = ()
        if known is None or keys is None:
            request = pb.ReadRequest.FromString(body)
            columns, known = request.columns, state.reads.get(request.plan)
            if known is None:
                raise StaleSchemaError("The server does not know this read plan.", repair="Fetch its schema again.")
        plan = known.prepared.plan
        decision = caller.decisions.get(plan.fingerprint) or state.gate.decide(caller, plan)
        refusal = caller.refusal or decision.refusal
        if refusal is not None:
            self._record(call, caller, plan, "online", "refused", 0)
            raise refusal.with_traceback(None)  # the same object each time: it must not collect tracebacks
        sets = [encode_request(columns, key_set) for key_set in plan.key_sets] if keys is None else [keys]
        if sets and len(sets[0]) > MAX_KEYS:
            raise ResourceExhaustedError(
                f"{len(sets[0])} keys in one read; at most {MAX_KEYS} are allowed.",
                place="$.keys",
                repair="Read in parts.",
            )
        return _Read(began, caller, known, decision, sets, columns)

    def _finish(self, call: Call, read: _Read, response: bytes) -> Reply:
        """Count a read that was answered, and reply."""
        if len(response) > MAX_RESPONSE_BYTES:
            raise ResourceExhaustedError(f"The answer has {len(response)} bytes.", repair="Read fewer keys at once.")
        known, caller, keys = read.known, read.caller, read.keys
        whole = ((known.plan_id, len(keys[0]) if keys else 0),)
        self._count(call, caller, known.prepared.usage(keys) if known.in_flight else whole, "online", "ok")
        self._metrics.took(known.label, caller.identity.consumer, read.began)
        warned = read.decision.warnings
        return Reply(response, trailers=_warnings(read.decision)) if warned else Reply(response)

    async def stream_online_features(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
        """Read the features of known plans, one request after the other; calls beside it get their turn in between."""
        self._admit(call, b"")
        async for body in bodies:
            if self._waits:
                yield await self.get_online_features_later(call, body)
            else:
                yield self.get_online_features(call, body)
                await asyncio.sleep(0)

    def get_write_schema(self, call: Call, body: bytes) -> Reply:
        """Return the columns that rows of a view have."""
        snapshot = self._admit(call, body)[0].snapshot
        ref = snapshot.freeze(ViewRef.parse(pb.WriteSchemaRequest.FromString(body).view))
        record = snapshot.view(ref)
        schema = RowSchema.of(record)
        undeclared = CREATED if schema.created_timestamp is None else None
        columns = [pb.KeyField(column=c.source, dtype=c.dtype.name) for c in schema.columns if c.name != undeclared]
        return Reply(pb.WriteSchema(view=str(ref), columns=columns).SerializeToString())

    async def write(self, call: Call, body: bytes) -> Reply:
        """Let the store's writer accept rows of a view that the caller may write."""
        state, caller = self._admit(call, body)
        _check_write(state, caller, body)
        return await self._ask_writer(call, body)

    async def advance_clock(self, call: Call, body: bytes) -> Reply:
        """Let the store's writer move the replay clock."""
        self._admit(call, body)
        return await self._ask_writer(call, body)

    async def _ask_writer(self, call: Call, body: bytes) -> Reply:
        reply = self._writer(call, body)
        return reply if isinstance(reply, Reply) else await reply

    async def stream_write(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
        """Let the store's writer accept rows in the order in which they come."""
        state, caller = self._admit(call, b"")

        async def checked() -> AsyncIterator[bytes]:
            async for body in bodies:
                _check_write(state, caller, body)
                yield body

        async for reply in self._write(call, checked()):
            yield reply

    async def get_historical_features(self, call: Call, bodies: AsyncIterator[bytes]) -> AsyncIterator[Reply]:
        """Check who asks and what for, let the process for training reads do it, and count the rows that were given."""
        state, caller = self._admit(call, b"")
        request = pb.TrainingRequest.FromString(await anext(bodies, b""))
        ask = request.ask
        wanted = ask.service or tuple(ask.features)
        plan = plan_read(state.snapshot, wanted, full_feature_names=ask.full_feature_names)
        for plan_id, counted in plan.usage_plans():
            self._usage.register_plan(plan_id, counted)
        decision = state.gate.decide(caller, plan)
        refusal = caller.refusal or decision.refusal
        if refusal is not None:
            self._record(call, caller, plan, "offline", "refused", 0)
            raise refusal.with_traceback(None)
        ask.revision = state.snapshot.revision
        rows = 0
        try:
            async for reply in self._training(call, _chained(request.SerializeToString(), bodies)):
                rows += pb.TrainingPart.FromString(reply.body).count
                yield msgspec.structs.replace(reply, trailers=(*reply.trailers, *_warnings(decision)))
        finally:
            self._record(call, caller, plan, "offline", "ok", rows)

    def get_status(self, call: Call, body: bytes) -> Reply:
        """Return the store's clock and revision."""
        state = self._admit(call, body)[0]
        replay = self._settings.is_replay
        now = self._reader.head().time(None if replay else time.time_ns() // 1000)
        status = pb.ServerStatus(
            clock=pb.Clock(time=now, replay=replay),
            revision=state.snapshot.revision,
            project=state.snapshot.document.project,
            environment=self._settings.environment,
            internal_errors=self.guard.unforeseen,
            stream_port=self._settings.stream_port,
        )
        return Reply(status.SerializeToString())

    def _admit(self, call: Call, body: bytes) -> tuple[State, Caller]:
        """Return the state to answer from and who calls, before anything of the body is looked at."""
        state = self._state
        caller = state.gate.admit(call)
        remaining = call.remaining
        if remaining is not None and remaining <= 0:
            raise DeadlineExceededError("The deadline had passed before the call was started.")
        if len(body) > MAX_REQUEST_BYTES:
            raise ResourceExhaustedError(
                f"The request has {len(body)} bytes; at most {MAX_REQUEST_BYTES} are allowed.",
                repair="Send it in parts.",
            )
        return state, caller

    def _state_of(self, snapshot: RegistrySnapshot, credentials: Credentials) -> State:
        _load_what_is_compiled(snapshot)
        at = self._settings
        roles = {principal: frozenset(held) for principal, held in at.roles.items()}
        authenticator = Authenticator(credentials, local=at.auth == "none", jwt=self._jwt, roles=roles)
        return State(snapshot, Gate(authenticator, snapshot, environment=at.environment))

    def _prepare(self, state: State, asked: Asked) -> KnownRead:
        features, full = asked
        plan = plan_read(state.snapshot, features, full_feature_names=full)
        schema = schema_message(plan)
        schema.stream_port = self._settings.stream_port
        known = KnownRead.of(asked, self._reader.prepare(plan), schema.SerializeToString())
        for plan_id, counted in plan.usage_plans():
            self._usage.register_plan(plan_id, counted)
        if len(state.reads) >= MAX_PLANS:  # forget the oldest: its clients fetch the schema again
            oldest = state.reads.pop(next(iter(state.reads)))
            state.asked.pop(oldest.asked, None)
        state.reads[plan.fingerprint] = state.asked[asked] = known
        return known

    def _carry_over(self, state: State, old: State) -> None:
        """Plan known reads anew; one that is impossible now is forgotten, and its clients are told when they ask."""
        for asked in [asked for asked in tuple(old.asked) if asked not in state.asked]:
            with suppress(FeatureStoreError):
                self._prepare(state, asked)

    def _record(self, call: Call, caller: Caller, plan: ReadPlan, path: str, outcome: str, rows: int) -> None:
        self._count(call, caller, plan.usage(rows), path, outcome)

    def _count(self, call: Call, caller: Caller, used: Iterable[tuple[str, int]], path: str, outcome: str) -> None:
        who = caller.identity
        for plan_id, rows in used:
            self._usage.record(plan_id, who.principal, who.consumer, who.binding, call.client, path, outcome, rows)


def _load_what_is_compiled(snapshot: RegistrySnapshot) -> None:
    """Load the compiled loops if there is a windowed view, before a call can come that would wait for it."""
    views = snapshot.document.views.values()
    if any(record.kind == "window" for view in views for record in view.versions.values()):
        from featurestore.online.windows import compile_kernels

        compile_kernels()


def _check_write(state: State, caller: Caller, body: bytes) -> None:
    if not caller.principal.may("writer"):  # else every view is allowed, and the request is left to the writer
        view = ViewRef.parse(pb.WriteRequest.FromString(body).view).view
        state.gate.check_view(caller, "writer", view)


def _warnings(decision: Decision) -> tuple[tuple[str, str], ...]:
    return tuple(("fs-warning", ascii_safe(text)) for text in decision.warnings)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for body in rest:
        yield body
