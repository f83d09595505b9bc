"""`ThreadSaver` keeps a graph's last checkpoint in the run's memory of its thread.

It works on values in the process; `stage` puts what changed into `run.memory`, which the next checkpoint,
pause or end commits in one step with the run's content, and only for the run's owner. Of each namespace the
last checkpoint is kept: no time travel, and what a thread keeps does not grow with its steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
    writes_sort_key,
)

from mainstem_shared.model import digests, jsontext
from mainstem_tasks.sdk.memory import Memory

PREFIX: Final = "graph/"
"""What the keys of graphs begin with, in a memory that may hold more."""
Typed = tuple[str, bytes]


class _Saved(NamedTuple):
    """A namespace's last checkpoint."""

    id: str
    parent: str | None
    checkpoint: Typed
    metadata: Typed


class _Write(NamedTuple):
    """What a task of a checkpoint's step has written."""

    channel: str
    path: str
    value: Typed


class ThreadSaver(BaseCheckpointSaver[int]):
    """A checkpointer of one thread, in memory until it is staged. `values`: what the thread's memory has."""

    def __init__(self, values: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self._saved: dict[str, _Saved] = {}
        self._blobs: dict[tuple[str, str, Any], Typed] = {}
        self._writes: dict[tuple[str, str, str, int], _Write] = {}
        self._kept: dict[str, bytes] = dict(values or {})
        for value in self._kept.values():
            self._read(value)

    def clear(self) -> None:
        """Forget everything; `stage` removes it from the memory."""
        self._saved.clear()
        self._blobs.clear()
        self._writes.clear()

    async def stage(self, memory: Memory) -> None:
        """Put what changed since the last time into a run's memory.

        Raises:
            MemoryTooLarge: it is more than a memory may hold.
        """
        fields = dict(self._fields())
        for key in self._kept.keys() - fields.keys():
            await memory.delete(key)
        for key, value in fields.items():
            if self._kept.get(key) != value:
                await memory.put(key, value)
        self._kept = fields

    # -- what graphs call

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the last checkpoint of a namespace; older ones are gone."""
        asked: Any = config.get("configurable", {})
        namespace, wanted = asked.get("checkpoint_ns", ""), asked.get("checkpoint_id")
        saved = self._saved.get(namespace)
        if saved is None or (wanted and wanted != saved.id):
            return None
        loads = self.serde.loads_typed
        checkpoint = loads(saved.checkpoint)
        checkpoint["channel_values"] = self._values(namespace, checkpoint["channel_versions"])
        return CheckpointTuple(
            config=_config(asked["thread_id"], namespace, saved.id),
            checkpoint=checkpoint,
            metadata=loads(saved.metadata),
            parent_config=None,
            pending_writes=[
                (task, write.channel, loads(write.value))
                for task, write in self._pending(namespace, saved.id)
            ],
        )

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - as graphs call it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield the last checkpoint of a namespace, if it is asked for."""
        found = None if config is None or before or limit == 0 else self.get_tuple(config)
        wanted = (filter or {}).items()
        if found is not None and all(found.metadata.get(name) == value for name, value in wanted):
            yield found

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint in place of its namespace's last one, and of what was below that."""
        asked: Any = config.get("configurable", {})
        namespace = asked.get("checkpoint_ns", "")
        bare: dict[str, Any] = {**checkpoint}
        values: dict[str, Any] = bare.pop("channel_values")
        dumps = self.serde.dumps_typed
        for channel, version in new_versions.items():
            if channel in values:
                self._blobs[namespace, channel, version] = dumps(values[channel])
        known = get_checkpoint_metadata(config, metadata)
        self._saved[namespace] = _Saved(
            checkpoint["id"], asked.get("checkpoint_id"), dumps(bare), dumps(known)
        )
        self._drop_what_is_over(namespace, checkpoint["channel_versions"])
        return _config(asked["thread_id"], namespace, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task has written in the step after a checkpoint; what it wrote before stands."""
        asked: Any = config.get("configurable", {})
        namespace, checkpoint_id = asked.get("checkpoint_ns", ""), asked["checkpoint_id"]
        for position, (channel, value) in enumerate(writes):
            number = WRITES_IDX_MAP.get(channel, position)
            key = (namespace, checkpoint_id, task_id, number)
            if number < 0 or key not in self._writes:
                self._writes[key] = _Write(channel, task_path, self.serde.dumps_typed(value))

    def delete_thread(self, thread_id: str) -> None:  # noqa: ARG002 - it has but one
        """Forget the thread."""
        self.clear()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the last checkpoint of a namespace."""
        return self.get_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield the last checkpoint of a namespace, if it is asked for."""
        for found in self.list(config, filter=filter, before=before, limit=limit):
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint."""
        return self.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task has written."""
        self.put_writes(config, writes, task_id, task_path)

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget the thread."""
        self.delete_thread(thread_id)

    # -- what is kept

    def _values(self, namespace: str, versions: ChannelVersions) -> dict[str, Any]:
        found = ((channel, self._blobs.get((namespace, channel, v))) for channel, v in versions.items())
        return {channel: self.serde.loads_typed(blob) for channel, blob in found if blob is not None}

    def _pending(self, namespace: str, checkpoint_id: str) -> Iterator[tuple[str, _Write]]:
        found = [
            (writes_sort_key(write.path, task, number), task, write)
            for (where, checkpoint, task, number), write in self._writes.items()
            if (where, checkpoint) == (namespace, checkpoint_id)
        ]
        for _, task, write in sorted(found, key=lambda one: one[0]):
            yield task, write

    def _drop_what_is_over(self, namespace: str, versions: ChannelVersions) -> None:
        """Forget what no checkpoint needs: older values and writes, and subgraphs of tasks that are done."""
        below = f"{namespace}|" if namespace else ""
        over = {
            ns for ns in self._saved if ns != namespace and ns.startswith(below) and ":" in ns[len(below) :]
        }
        last = self._saved[namespace].id
        self._saved = {ns: saved for ns, saved in self._saved.items() if ns not in over}
        self._blobs = {
            key: blob
            for key, blob in self._blobs.items()
            if key[0] not in over and (key[0] != namespace or versions.get(key[1]) == key[2])
        }
        self._writes = {
            key: write
            for key, write in self._writes.items()
            if key[0] not in over and (key[0] != namespace or key[1] == last)
        }

    def _fields(self) -> Iterator[tuple[str, bytes]]:
        for namespace, saved in self._saved.items():
            about = ["checkpoint", namespace, saved.id, saved.parent]
            yield _field(about[:2], about, saved.checkpoint, saved.metadata)
        for place, blob in self._blobs.items():
            yield _field(["value", *place], ["value", *place], blob)
        for place, write in self._writes.items():
            yield _field(["write", *place], ["write", *place, write.channel, write.path], write.value)

    def _read(self, value: bytes) -> None:
        match _parse(value):
            case ["checkpoint", namespace, saved_id, parent], [checkpoint, metadata]:
                self._saved[namespace] = _Saved(saved_id, parent, checkpoint, metadata)
            case ["value", namespace, channel, version], [blob]:
                self._blobs[namespace, channel, version] = blob
            case ["write", namespace, checkpoint_id, task, number, channel, path], [typed]:
                self._writes[namespace, checkpoint_id, task, number] = _Write(channel, path, typed)
            case _:
                raise ValueError("a graph's memory holds what no version of the checkpointer has put there")


def _config(thread_id: str, namespace: str, checkpoint_id: str) -> RunnableConfig:
    known = {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}
    return {"configurable": known}


def _field(place: Sequence[Any], about: Sequence[Any], *values: Typed) -> tuple[str, bytes]:
    """Return a key and its value: a line of JSON that says what it is, then the serialised values."""
    head = jsontext.dumps([list(about), [[kind, len(data)] for kind, data in values]])
    key = f"{PREFIX}{digests.of_json(list(place))}"
    return key, b"\n".join((head, b"".join(data for _, data in values)))


def _parse(value: bytes) -> tuple[Any, Any]:
    head, _, rest = value.partition(b"\n")
    about, sizes = jsontext.loads(head)
    values: list[Typed] = []
    for kind, size in sizes:
        values.append((kind, rest[:size]))
        rest = rest[size:]
    return about, values
