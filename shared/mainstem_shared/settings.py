"""Settings are read once at the edge of a process and passed in; nothing else reads the environment.

Names and defaults are part of the external contract: `MAINSTEM_<FIELD>`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

UNARCHIVED_MS: Final = 365 * 86_400_000
"""How long runs wait in the store for an unavailable archive."""
LONGEST_S: Final = 100 * 366 * 86_400
"""A hundred years: longer waits are mistakes, and calendars end after a few thousand."""
Seconds = Annotated[float, Field(gt=0, le=LONGEST_S)]


class WriteProfile(StrEnum):
    """How long the event writer may wait to merge tokens.

    `latency` widens its window only under load (0 to 30 ms); `economy` always waits, for fewer commands
    and bytes per token.
    """

    LATENCY = "latency"
    ECONOMY = "economy"


class Settings(BaseSettings):
    """Mainstem's configuration. Frozen: a process runs with what it was started with."""

    # An empty variable is an unset one: compose files and service units pass optional ones on as "".
    model_config = SettingsConfigDict(
        env_prefix="MAINSTEM_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    # Processes
    host: str = "127.0.0.1"
    """The gateway's address; anything but loopback wants authentication."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The gateway's port; 0: any free one."""
    flower_port: Annotated[int, Field(ge=0, le=65535)] = 5555
    """Flower's port, for `mainstem up` and `mainstem flower`."""
    data_dir: Path = Path(".mainstem")
    """Where the embedded Valkey keeps its data, its password and its log."""
    redis_url: SecretStr | None = None
    """The store. None: the embedded server of `data_dir`, database 0."""
    broker_url: SecretStr | None = None
    """Celery's broker. None: the embedded server of `data_dir`, database 1."""
    queue: Annotated[str, Field(min_length=1)] = "celery"
    """The broker's queue for runs. Name one of its own if other workers must not take them."""
    engine_queues: dict[str, Annotated[str, Field(min_length=1)]] | None = None
    """Queues of engines, as JSON by engine; the others have `queue`. The same in all processes."""
    queue_type: Literal["classic", "quorum", "declared"] = "classic"
    """How workers declare that queue to RabbitMQ; `declared`: not at all, somebody else has."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Servers of the embedded store of `mainstem up`; each has its share of the runs (docs/scaling.md)."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Worker processes of `mainstem up`."""
    concurrency: Annotated[int, Field(ge=1)] = 1000
    """Runs one worker process executes at once."""

    metrics_host: str = "127.0.0.1"
    """Where workers listen for Prometheus. Nobody is asked who they are: let only Prometheus reach it."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Its port, or the next free one. 0: any; none: workers serve no metrics."""

    log_format: Literal["text", "json"] = "text"
    """How `mainstem worker` and `mainstem gateway` log; `json` needs python-json-logger."""

    # Ownership and recovery
    lease_s: Seconds = 15
    """How long a process's lease lives without renewal: after it, the process counts as dead."""
    sweep_s: Seconds = 5
    """How often workers and gateways look for what nobody else takes care of."""

    # Runs
    max_run_s: Seconds = 3600
    """Longest execution of a run; it ends as `timed_out`."""
    idle_timeout_s: Seconds = 300
    """Longest silence of an engine; its run ends as `timed_out`."""
    max_queue_s: Seconds = 3600
    """Longest wait for a worker; the run ends as `no_worker`."""
    retention_s: Seconds = 604_800
    """How long an ended run and its log are kept."""
    approval_window_s: Seconds = 86_400
    """How long a paused run waits for people, unless its engine says otherwise."""
    event_lookback_s: Seconds = 86_400
    """How long an event is kept for runs that wait for it later, unless 100 newer ones of its key came."""
    drain_s: Annotated[float, Field(ge=0)] = 10
    """How long a worker that is told to stop lets its runs go on before it hands them over."""
    recycle_after_s: Annotated[float, Field(ge=0)] = 0
    """Age at which a worker process stops in order, to be started anew; up to a fifth earlier. 0: never."""
    recycle_rss_mb: Annotated[float, Field(ge=0)] = 0
    """Resident memory in MB at which it does; not in its first minute. 0: never."""
    max_active_runs_per_user: Annotated[int, Field(ge=0)] = 0
    """Unfinished runs of one user; 0: any number."""
    fair_share: bool = False
    """Whether users get equal shares of busy workers (docs/fairness.md). The same in all processes."""
    fair_share_weights: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """Shares of users by their tenant, as JSON, `*`: the others. None: all have the same."""
    fair_share_classes: dict[Literal["interactive", "batch"], Annotated[float, Field(gt=0)]] | None = None
    """Weights of classes of runs, as JSON. None: 1 for interactive runs, 0.25 for batch."""
    default_engine: str = ""
    """The engine of runs that name none."""
    engines: str = ""
    """Modules, comma-separated, that workers import for the engines in them, beside the entry points'."""
    input_guards: str = "mainstem_shared.guards.plain"
    """Functions, comma-separated, that judge what users say; see `guards`."""
    tool_policy: dict[str, Any] | None = None
    """The deployment's tool policy, as JSON (`mainstem_tasks.sdk.policies`). Engines, runs may tighten it."""
    write_profile: WriteProfile = WriteProfile.LATENCY
    """How the writer merges tokens: `latency` soon, `economy` in fewer commands."""
    archive_url: SecretStr | None = None
    """The SQL database that finished runs go to: `postgresql://…`, `sqlite:///…`, or `none`."""
    archive_hot_s: Annotated[float, Field(ge=0)] = 600
    """How long a run that the archive has stays in the store as well."""
    archive_retention_days: dict[str, Annotated[float, Field(gt=0)]] | None = None
    """How long the archive keeps runs after their end, as JSON by tenant, `*`: the others. None: for ever."""
    compact_after_s: Annotated[float, Field(ge=0)] = 60
    """How long after its end a run's deltas stay readable one by one; then only the final event is kept."""

    memory_max_kb: Annotated[int, Field(ge=1, le=512 * 1024)] = 4096
    """The most that one engine may keep on one thread (`run.memory`), keys included."""
    memory_max_keys: Annotated[int, Field(ge=1, le=3000)] = 1000
    """The most keys that it may have there; one commit changes no more, and a script takes so many."""

    blocking_threads: Annotated[int, Field(ge=1, le=4096)] = 64
    """Threads of a worker for what blocks (`asyncio.to_thread`, plain tools of frameworks); others wait."""

    # Callbacks
    on_run_end: str = ""
    """Who is told of every run's end: Celery tasks (`name`, `name@queue`) and webhooks, comma-separated."""
    callback_tasks: str = ""
    """Tasks, comma-separated, that a run's own callback may name; `name@queue` gives one its queue."""
    callback_hosts: str = ""
    """Hosts, comma-separated, that it may have webhooks on: `example.com`, `*.example.com:8443`; `*`: all."""
    callback_http: bool = False
    """Whether such a webhook may be plain http."""
    callback_networks: str = ""
    """Networks, comma-separated, beside the public ones that such a webhook may lie in: `10.1.0.0/16`."""
    webhook_secrets: SecretStr | None = None
    """What webhooks are signed with: `whsec_…`, two while rotating; `host=whsec_…` for one host."""

    # Files
    blob_url: str | None = None
    """Where files and large results lie: `file:///path`, or `s3://bucket/prefix`. None: in `data_dir`."""
    blob_min_kb: Annotated[int, Field(ge=1)] = 64
    """Files in an input that are larger, as `data:` addresses, go there; the others stay in the input."""
    blob_max_mb: Annotated[int, Field(ge=1)] = 32
    """The largest file or result that may go there."""
    max_body_mb: Annotated[int, Field(ge=1)] = 32
    """The largest body of a request: a run's input with its files."""

    # Money
    prices: str = ""
    """What models cost: the path of a JSON file, or JSON; on top of the packaged table (docs/usage.md)."""
    user_budget_per_day: dict[str, Any] | None = None
    """What one user's runs may spend on a day (UTC), as JSON: `usd`, `tokens`, or both."""
    tenant_budget_per_day: dict[str, Any] | None = None
    """What all runs of a tenant may spend on a day (UTC), as JSON: `usd`, `tokens`, or both."""
    reserved_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Longest answer of a provider call under a budget whose request does not bound it."""

    provider_limits: dict[str, Any] | None = None
    """What all workers may ask of providers in a minute, as JSON by provider or model (docs/fairness.md)."""

    # Web tier
    auth: Literal["none", "jwt", "proxy"] = "none"
    """`none` is for one user on one machine: the gateway then refuses to listen anywhere but on loopback."""
    jwt_secret: SecretStr | None = None
    """HS256: at least 32 bytes. Exactly one of `jwt_secret`, `jwt_public_key` and `jwt_jwks` is given."""
    jwt_public_key: str | None = None
    """RS256: a PEM file, or the PEM itself."""
    jwt_jwks: str | None = None
    """Keys of an identity provider: an https address, or a file."""
    jwt_issuer: str | None = None
    """What a token's `iss` must be, if given."""
    jwt_audience: str | None = None
    """What a token's `aud` must contain, if given."""
    jwt_leeway_s: Annotated[float, Field(ge=0, le=300)] = 30
    """How far the clocks of whoever issues tokens and of the gateway may be apart."""
    proxy_peers: str = ""
    """Addresses and networks, comma-separated, whose connections may say who the user is."""
    proxy_user_header: str = "X-Forwarded-User"
    """The header in which a listed peer names the user."""
    proxy_tenant_header: str = ""
    """The header in which it names the tenant; empty: there is one tenant."""
    proxy_scope_header: str = ""
    """A header with scopes, `admin` among them; empty: nobody is an admin."""
    token: SecretStr | None = None
    """The bearer token that the command line shows to a gateway."""
    stream_token_s: Seconds = 900
    """Lifetime of a stream token: an EventSource that was reset reconnects with the one it has."""
    max_requests_per_minute: Annotated[int, Field(ge=0)] = 0
    """Of one user, at one gateway; 0: any number. So many may also come at once."""
    max_streams_per_user: Annotated[int, Field(ge=0)] = 0
    """Open event streams of one user, at one gateway; 0: any number."""
    max_unread_mb: Annotated[int, Field(ge=1)] = 256
    """Megabytes of large answers that may wait for their readers at one gateway, all together."""
    cors_origins: str = ""
    """Origins, comma-separated, whose pages may use the gateway from other addresses; `*`: all."""
    heartbeat_s: Seconds = 15
    """Silence after which an SSE stream carries a comment, so that proxies keep it open."""
    stream_max_s: Annotated[float, Field(ge=0)] = 540
    """Age at which event streams are reset for their readers to reconnect; 0: never. Proxies cut at 600 s."""
    flower_url: str = ""
    """Where people's browsers reach Flower; the operator's view links to it. `make run` sets it."""

    # Engines
    openai_base_url: str | None = None
    """Where the `openai` engine finds its provider; by default the client library's."""
    openai_api_key: SecretStr | None = None
    """The key it shows there."""
    openai_model: str | None = None
    """The model of runs whose input names none; the chat page offers the engine once it is set."""
    openai_continuous_usage: bool = False
    """Whether the `openai` engine asks for counts of tokens with every chunk; vLLM and SGLang give them."""
    openai_api: Literal["chat", "responses"] = "chat"
    """What the `openai` engine speaks to its provider: chat completions, which most know, or Responses."""
    anthropic_base_url: str | None = None
    """Where the `anthropic` engine finds its provider; by default Anthropic's own address."""
    anthropic_api_key: SecretStr | None = None
    """The key it shows there."""
    anthropic_model: str | None = None
    """The model of runs whose input names none; the chat page offers the engine once it is set."""
    anthropic_max_tokens: Annotated[int, Field(ge=1)] = 8192
    """Tokens that an answer may have whose input does not say; Anthropic's protocol demands a bound."""

    def queue_of(self, engine: str) -> str:
        """Return the broker's queue for an engine's runs."""
        return (self.engine_queues or {}).get(engine, self.queue)

    @property
    def queues(self) -> tuple[str, ...]:
        """The broker's queues for runs, that of most engines first."""
        return tuple(dict.fromkeys((self.queue, *(self.engine_queues or {}).values())))

    def has_model(self, engine: str) -> bool:
        """Tell whether an engine can be asked without naming a model; those that need none can."""
        default = {"openai": self.openai_model, "anthropic": self.anthropic_model}
        return engine not in default or bool(default[engine])

    @property
    def live_ttl_ms(self) -> int:
        """Lifetime of an unfinished run's keys.

        The longest run, wait for a worker and approval window together, plus an hour for recovery.
        """
        return int((self.max_run_s + self.max_queue_s + self.approval_window_s + 3600) * 1000)

    @property
    def thread_ttl_ms(self) -> int:
        """Lifetime of a thread's own keys: as long as any of its runs may be kept."""
        return self.live_ttl_ms + self.retention_ms

    @property
    def archive_address(self) -> str | None:
        """The archive's address; beside an embedded store the one that `mainstem up` made, if it did."""
        if self.archive_url is not None:
            given = self.archive_url.get_secret_value()
            return None if given == "none" else given
        if self.redis_url is not None:
            return None  # asked at the end of each run: without a look at the disk
        made = self.embedded_archive
        return f"sqlite:///{made}" if made.exists() else None

    @property
    def embedded_archive(self) -> Path:
        """The archive's file beside the embedded store."""
        return self.data_dir.resolve() / "archive.db"

    @property
    def retention_ms(self) -> int:
        """Lifetime of a finished run's keys, counted from the terminal event; the archive shortens it."""
        return int(self.retention_s * 1000) if self.archive_address is None else UNARCHIVED_MS

    def environment(self) -> dict[str, str]:
        """Return the variables that give another process the same settings: those that were set at all."""
        values = {name: getattr(self, name) for name in sorted(self.model_fields_set)}
        return {
            f"MAINSTEM_{name.upper()}": _plain(value) for name, value in values.items() if value is not None
        }


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
