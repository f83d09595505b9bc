"""Defines what every built-in engine of a provider takes: a conversation, tools, and bounds.

Messages and tools are chat completions' ones, whichever protocol goes to the provider: clients, histories and
adapters have one shape for all engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mainstem_shared import errors
from mainstem_tasks.sdk.policies import Policy

OURS: Final = frozenset({"extra_body", "timeout_s", "use_tools", "tool_policy", "max_iterations", "history"})
"""What the provider knows nothing of."""
_INSTRUCTIONS: Final = ("system", "developer")
"""Roles of what stands before a conversation."""
_ANSWERS: Final = frozenset({"assistant", "tool", "function"})


class Message(BaseModel):
    """One message of the conversation, in the format of chat completions."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Annotated[str, Field(min_length=1)]


class Conversing(BaseModel):
    """A conversation for a model. What the provider knows beyond these fields goes into `extra_body`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owned: ClassVar[frozenset[str]] = frozenset({"stream"})
    """Members of a request that belong to the engine."""

    messages: list[Message] = Field(default_factory=list[Message])
    history: bool = False
    """Whether the thread's earlier turns, as the server has them, stand before `messages`."""
    model: str | None = None
    """None: the deployment's."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_completion_tokens: Annotated[int, Field(gt=0)] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    use_tools: Annotated[tuple[str, ...], Field(max_length=128)] = ()
    """Tools registered with `@tool` that the model may call; they run in the worker."""
    tool_policy: Policy | None = None
    """The run's own policy; it can only tighten the deployment's."""
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 10
    """How often the model may call tools before the run fails."""
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """The provider's longest silence. None: the run's idle timeout decides."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.messages and not self.history:
            raise ValueError("messages: give at least one, or take the thread's history")
        return self

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_protocol_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted((cls.owned | cls.model_fields.keys()) & value.keys()):
            raise ValueError(f"extra_body must not contain {', '.join(taken)}")
        return value

    def model_of(self, default: str | None, *, setting: str) -> str:
        """Return the model to ask: the input's, else the deployment's, which `setting` names.

        Raises:
            InvalidInput: no model is named, neither here nor by the deployment.
        """
        if not (model := self.model or default):
            raise errors.InvalidInput(f"model: give one, or set {setting}", path="model")
        return model

    def given(self) -> dict[str, Any]:
        """Return the members that a request has from the caller, as they came; without the conversation."""
        kept = self.model_dump(exclude_unset=True, exclude_none=True, exclude={*OURS, "messages", "tools"})
        return {**self.extra_body, **kept}

    def conversation(self, earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages with the thread's earlier ones before them, and instructions before all.

        Of a client that sends the whole conversation as well, what the thread has is not said twice.
        """
        said = [message.model_dump(exclude_unset=True) for message in self.messages]
        if earlier and said and said[-1]["role"] == "user":
            answered = [n for n, message in enumerate(said) if message["role"] in _ANSWERS]
            since = answered[-1] + 1 if answered else 0
            said = [m for n, m in enumerate(said) if n >= since or m["role"] in _INSTRUCTIONS]
        first = next((n for n, message in enumerate(said) if message["role"] not in _INSTRUCTIONS), len(said))
        return [*said[:first], *earlier, *said[first:]]
