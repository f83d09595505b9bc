"""Every error Mainstem raises on purpose. Each has a stable `code`, fields, and the remedy in its message.

MainstemError
├── InvalidRequest            invalid_request (also the codes given as `code=`)
│   ├── InvalidCursor         invalid_cursor
│   ├── InvalidInput          invalid_input
│   ├── InputTooLarge         input_too_large
│   ├── UnknownEngine         unknown_engine
│   ├── UndecidedCall         undecided_call
│   └── InvalidDecision       invalid_decision
├── Misconfigured             misconfigured
├── ShardsBusy                shards_busy
├── NotAuthenticated          not_authenticated
├── Forbidden                 forbidden
├── CallbackNotAllowed        callback_not_allowed
├── DecisionNotAllowed        decision_not_allowed
├── NotFound                  not_found
├── Conflict
│   ├── ThreadBusy            thread_busy
│   ├── ThreadQueueFull       thread_queue_full
│   ├── IdempotencyKeyReused  idempotency_key_reused
│   ├── NotPaused             not_paused
│   ├── StaleAction           stale_action
│   ├── DecisionConflict      decision_conflict
│   ├── RunPaused             paused
│   ├── RunNotActive          not_active
│   ├── InputQueueFull        queue_full
│   └── InputIdReused         input_id_reused
├── ActionExpired             action_expired
├── TooManyRuns               too_many_runs
├── TooManyRequests           too_many_requests
├── TooManyStreams            too_many_streams
├── BudgetReached             budget_reached
├── UnknownPrice              unknown_price
├── EngineLimit
│   ├── EventTooLarge         event_too_large
│   ├── BlobTooLarge          blob_too_large
│   ├── CheckpointTooLarge    checkpoint_too_large
│   ├── MemoryTooLarge        memory_too_large
│   ├── EffectsFull           effects_full
│   └── ContentTooLarge       content_too_large
├── EffectUnknown             effect_unknown
├── ProviderError             provider_error
├── Fenced                    fenced
├── ChannelClosed             channel_closed
└── Unavailable
    ├── StoreUnavailable      store_unavailable
    ├── ArchiveUnavailable    archive_unavailable
    ├── BrokerUnavailable     broker_unavailable
    ├── ClusterUnsupported    cluster_unsupported
    ├── KeysUnavailable       keys_unavailable
    ├── Overloaded            overloaded
    └── NewerVersion          newer_version
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ActionExpired",
    "ArchiveUnavailable",
    "BlobTooLarge",
    "BrokerUnavailable",
    "BudgetReached",
    "CallbackNotAllowed",
    "ChannelClosed",
    "CheckpointTooLarge",
    "ClusterUnsupported",
    "Conflict",
    "ContentTooLarge",
    "DecisionConflict",
    "DecisionNotAllowed",
    "EffectUnknown",
    "EffectsFull",
    "EngineLimit",
    "EventTooLarge",
    "Fenced",
    "Forbidden",
    "IdempotencyKeyReused",
    "InputIdReused",
    "InputQueueFull",
    "InputTooLarge",
    "InvalidCursor",
    "InvalidDecision",
    "InvalidInput",
    "InvalidRequest",
    "KeysUnavailable",
    "MainstemError",
    "MemoryTooLarge",
    "Misconfigured",
    "NewerVersion",
    "NotAuthenticated",
    "NotFound",
    "NotPaused",
    "Overloaded",
    "ProviderError",
    "RunNotActive",
    "RunPaused",
    "ShardsBusy",
    "StaleAction",
    "StoreUnavailable",
    "ThreadBusy",
    "ThreadQueueFull",
    "TooManyRequests",
    "TooManyRuns",
    "TooManyStreams",
    "Unavailable",
    "UndecidedCall",
    "UnknownEngine",
    "UnknownPrice",
]


class MainstemError(Exception):
    """Base of all errors raised on purpose. Fields given as keywords become attributes."""

    code: ClassVar[str] = "error"
    message: ClassVar[str] = "Something went wrong."

    def __init__(self, detail: str = "", **fields: object) -> None:
        self.detail: str = detail or self.message.format_map(fields)
        self.fields = fields
        super().__init__(self.detail)

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.detail, self.fields)


def _rebuild(kind: type[MainstemError], detail: str, fields: dict[str, object]) -> MainstemError:
    return kind(detail, **fields)


class InvalidRequest(MainstemError):
    """The request does not fit its schema."""

    code = "invalid_request"
    message = "The request does not fit its schema."


class InvalidCursor(InvalidRequest):
    """A cursor that no log can have."""

    code = "invalid_cursor"
    message = "{cursor!r} is not a cursor; send an event's id as it came, like 2-17, or 0-0 for the start."


class InvalidInput(InvalidRequest):
    """The engine's input schema refuses the input."""

    code = "invalid_input"
    message = "The input does not fit the engine's schema."


class InputTooLarge(InvalidRequest):
    """A run's input or metadata is larger than a record may hold."""

    code = "input_too_large"
    message = (
        "The {what} has {size} bytes, the limit is {limit}; store the data elsewhere and pass a reference."
    )


class UnknownEngine(InvalidRequest):
    """No worker announced this engine."""

    code = "unknown_engine"
    message = "No worker offers the engine {engine!r}; offered are: {known}."


class UndecidedCall(InvalidRequest):
    """A resume leaves one of the action's calls undecided."""

    code = "undecided_call"
    message = "Tool call {call_id!r} is not decided; a resume decides every call of its action."


class InvalidDecision(InvalidRequest):
    """A decision that means nothing: of an unknown type, an edit without an object, an empty answer."""

    code = "invalid_decision"
    message = "The decision means nothing."


class Misconfigured(MainstemError):
    """Settings that cannot work, or that would let anybody in: the process refuses to start."""

    code = "misconfigured"
    message = "The settings cannot work together."


class ShardsBusy(MainstemError):
    """Another mover changes which shard has which bucket, or has taken over: this one has stopped."""

    code = "shards_busy"
    message = "Another mover is at work on these shards: see `mainstem shards show`."


class NotAuthenticated(MainstemError):
    """The request does not prove who makes it."""

    code = "not_authenticated"
    message = "This needs authentication."


class Forbidden(MainstemError):
    """For operators only; what is another user's is NotFound."""

    code = "forbidden"
    message = "This needs the scope admin."


class CallbackNotAllowed(MainstemError):
    """A run's callback names a task, or a webhook, that the operator does not allow."""

    code = "callback_not_allowed"
    message = "The callback {target!r} is not allowed: {why}."


class DecisionNotAllowed(MainstemError):
    """The tool's policy does not allow this decision."""

    code = "decision_not_allowed"
    message = "{decision!r} is not allowed for tool call {call_id!r}; allowed are: {allowed}."


class NotFound(MainstemError):
    """The run or thread does not exist, or it is not yours."""

    code = "not_found"
    message = "No such run."


class Conflict(MainstemError):
    """The state of the run or thread does not allow this now."""

    code = "conflict"


class ThreadBusy(Conflict):
    """The thread has an active run and the start asked to be refused in that case."""

    code = "thread_busy"
    message = "Run {run_id} is active on this thread; wait for it, abort it, or start with if_active."


class ThreadQueueFull(Conflict):
    """The thread's queue of waiting runs is full."""

    code = "thread_queue_full"
    message = "Too many runs wait on this thread already."


class IdempotencyKeyReused(Conflict):
    """The idempotency key was used with another request body."""

    code = "idempotency_key_reused"
    message = "This Idempotency-Key was used for run {run_id} with another body; use a fresh key."


class NotPaused(Conflict):
    """The run waits for nobody's decision."""

    code = "not_paused"
    message = "The run is {status}; it waits for no decision."


class StaleAction(Conflict):
    """The run waits for decisions about another action."""

    code = "stale_action"
    message = "The run waits for decisions about another action by now; read it again."


class DecisionConflict(Conflict):
    """The action was decided before, and differently."""

    code = "decision_conflict"
    message = "Somebody decided this action before, and differently; the first decision stands."


class RunPaused(Conflict):
    """The run waits for a decision: input must not jump over it."""

    code = "paused"
    message = "The run waits for a decision; resume it, or send this when it runs again."


class RunNotActive(Conflict):
    """The run is over, or about to be: nobody would read the input."""

    code = "not_active"
    message = "The run is {status}; start another one on its thread."


class InputQueueFull(Conflict):
    """As many inputs wait for the engine as may, or the run was sent as many as it takes."""

    code = "queue_full"
    message = "The run takes no more input: {waiting} may wait to be read, {total} are taken in all."


class InputIdReused(Conflict):
    """Another text was accepted under this input id."""

    code = "input_id_reused"
    message = "Input {input_id!r} was accepted with another text; use a fresh id."


class ActionExpired(MainstemError):
    """The action's window is over."""

    code = "action_expired"
    message = "The time to decide this action is over."


class TooManyRuns(MainstemError):
    """The user has as many active runs as the deployment allows."""

    code = "too_many_runs"
    message = "Too many active runs; wait for one to end."


class TooManyRequests(MainstemError):
    """The user sends more requests than the deployment allows."""

    code = "too_many_requests"
    message = "Too many requests; slow down."


class TooManyStreams(MainstemError):
    """The user has as many event streams open as the deployment allows."""

    code = "too_many_streams"
    message = "Too many open streams; close one first."


class BudgetReached(MainstemError):
    """A provider call might cost more than a budget has left; it was not made."""

    code = "budget_reached"
    message = (
        "The budget of the {whose} is reached: the next provider call may cost up to {needs}, {left} is left."
    )


class UnknownPrice(MainstemError):
    """A budget in dollars applies, and nobody knows what the model costs; the call was not made."""

    code = "unknown_price"
    message = (
        "A budget in usd applies, and model {model!r} of {provider!r} has no price: "
        "add it to MAINSTEM_PRICES, or budget tokens."
    )


class EngineLimit(MainstemError):
    """An engine went past a limit of the log."""


class EventTooLarge(EngineLimit):
    """One event of an engine is larger than a log entry may be."""

    code = "event_too_large"
    message = "An event of {size} bytes is over the limit of {limit}; split it or store the data elsewhere."


class BlobTooLarge(EngineLimit):
    """A file or a result is larger than a blob may be."""

    code = "blob_too_large"
    message = "{size} bytes are over the limit of {limit} for a file or result; raise MAINSTEM_BLOB_MAX_MB."


class CheckpointTooLarge(EngineLimit):
    """An engine's state is larger than a checkpoint may be."""

    code = "checkpoint_too_large"
    message = "A checkpoint of {size} bytes is over the limit of {limit}; store the data elsewhere."


class MemoryTooLarge(EngineLimit):
    """An engine would keep more on a thread than it may."""

    code = "memory_too_large"
    message = (
        "The engine's memory of this thread would have {what}, the limit is {limit}: delete what nobody "
        "needs any more, or raise MAINSTEM_MEMORY_MAX_KB or MAINSTEM_MEMORY_MAX_KEYS."
    )


class EffectsFull(EngineLimit):
    """A run has as many effects as it may."""

    code = "effects_full"
    message = "The run has {limit} effects already; do several things in one, or start another run."


class ContentTooLarge(EngineLimit):
    """The run's whole content is larger than a run may hold."""

    code = "content_too_large"
    message = "The run's content is over {limit} bytes."


class EffectUnknown(MainstemError):
    """A worker was lost during an effect, and the engine wants to hear of that."""

    code = "effect_unknown"
    message = "Nobody knows whether effect {key!r} happened: a worker was lost while it was under way."


class ProviderError(MainstemError):
    """The model provider failed, refused or timed out; raised by engines."""

    code = "provider_error"
    message = "The model provider failed."


class Fenced(MainstemError):
    """Another owner has control of the run: stop, and write nothing more."""

    code = "fenced"
    message = "Run {run_id} belongs to another owner by now."


class ChannelClosed(MainstemError):
    """The run's log is closed to this segment: it paused, ended, or was handed over."""

    code = "channel_closed"
    message = "The run's log is closed; an engine must not emit after it returned."


class Unavailable(MainstemError):
    """A server that Mainstem needs does not answer; nothing was lost, try again."""


class StoreUnavailable(Unavailable):
    """The store (Valkey/Redis) does not answer, or refuses writes."""

    code = "store_unavailable"
    message = "The store does not answer; try again shortly."


class ArchiveUnavailable(Unavailable):
    """The archive of finished runs does not answer; what is in the store goes on."""

    code = "archive_unavailable"
    message = "The archive of finished runs does not answer; try again."


class BrokerUnavailable(Unavailable):
    """Celery's broker does not answer."""

    code = "broker_unavailable"
    message = "The broker does not answer; try again shortly."


class ClusterUnsupported(Unavailable):
    """The broker is a node of a Cluster, or the store is one and its address does not say so."""

    code = "cluster_unsupported"
    message = (
        "The store or broker is a node of a Cluster. Begin the store's address, MAINSTEM_REDIS_URL, with "
        "redis+cluster:// then; MAINSTEM_BROKER_URL has to be a single primary, or its Sentinels."
    )


class KeysUnavailable(Unavailable):
    """The keys that tokens are checked with cannot be fetched."""

    code = "keys_unavailable"
    message = "Tokens cannot be checked right now; try again shortly."


class Overloaded(Unavailable):
    """Answers that nobody reads fill what a gateway may hold in memory."""

    code = "overloaded"
    message = "This gateway holds all that it may for readers that do not read; try again shortly."


class NewerVersion(Unavailable):
    """A run of a later version of Mainstem: it can be read here, but not changed."""

    code = "newer_version"
    message = "The run is of a later version of Mainstem; its processes take care of it. Try again."
