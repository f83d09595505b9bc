"""Moves files out of inputs into blobs, and back where an engine needs them; gives large results a place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from mainstem_shared import errors
from mainstem_shared.blobs import drivers
from mainstem_shared.blobs.drivers import Driver
from mainstem_shared.model import blob_references, jsontext
from mainstem_shared.model.blob_references import Blob
from mainstem_shared.settings import Settings


class Files:
    """Stores the blobs of a deployment through its driver."""

    def __init__(self, settings: Settings, driver: Driver | None = None) -> None:
        self._driver = driver or drivers.of(settings)
        self._bound = settings.blob_min_kb * 1024
        self._limit = settings.blob_max_mb * 1024 * 1024

    async def put(self, run_id: str, data: bytes, media_type: str) -> Blob:
        """Keep bytes beside a run.

        Raises:
            BlobTooLarge: they are more than MAINSTEM_BLOB_MAX_MB.
        """
        if len(data) > self._limit:
            raise errors.BlobTooLarge(size=len(data), limit=self._limit)
        return await asyncio.to_thread(self._put, run_id, data, media_type)

    def _put(self, run_id: str, data: bytes, media_type: str) -> Blob:
        blob = blob_references.named(run_id, data, media_type)
        self._driver.put(run_id, blob.digest, data)
        return blob

    async def get(self, run_id: str, digest: str) -> bytes:
        """Return a run's blob.

        Raises:
            NotFound: there is none, or it is damaged.
        """
        return await asyncio.to_thread(self._driver.get, run_id, digest)

    async def copy(self, digest: str, *, of: str, to: str) -> None:
        """Keep a run's blob beside another run as well; one that is not there is not copied."""
        await asyncio.to_thread(self._copy, digest, of, to)

    def _copy(self, digest: str, of: str, to: str) -> None:
        with contextlib.suppress(errors.NotFound):
            self._driver.put(to, digest, self._driver.get(of, digest))

    async def digests(self, run_id: str) -> list[str]:
        """Return the digests of a run's blobs, in their order."""
        return await asyncio.to_thread(self._driver.digests, run_id)

    async def drop(self, run_id: str) -> None:
        """Remove all blobs of a run."""
        await asyncio.to_thread(self._driver.drop, run_id)

    async def taken_out(self, run_input: Mapping[str, Any], run_id: str) -> tuple[dict[str, Any], bool]:
        """Return an input whose files over the bound are references, and whether there are any.

        Raises:
            InputTooLarge: a file is more than MAINSTEM_BLOB_MAX_MB.
        """
        if not _holds(run_input, self._bound):
            return dict(run_input), False
        found: list[Blob] = []

        def change(text: str) -> str:
            if len(text) <= self._bound or (file := blob_references.decoded(text)) is None:
                return text
            data, media_type = file
            if len(data) > self._limit:
                what = "file (MAINSTEM_BLOB_MAX_MB)"
                raise errors.InputTooLarge(what=what, size=len(data), limit=self._limit)
            found.append(self._put(run_id, data, media_type))
            return str(found[-1])

        changed = await asyncio.to_thread(blob_references.replaced, dict(run_input), change)
        return changed, bool(found)

    async def put_back(self, run_input: dict[str, Any], run_id: str) -> dict[str, Any]:
        """Return an input with its own run's files in it again, as `data:` addresses.

        Raises:
            NotFound: a file is gone.
        """
        if not _refers(run_input):
            return run_input

        def change(text: str) -> str:
            blob = blob_references.parse(text) if text.startswith(blob_references.SCHEME) else None
            if blob is None or blob.run_id != run_id:
                return text
            return blob_references.encoded(self._driver.get(run_id, blob.digest), blob.media_type)

        return await asyncio.to_thread(blob_references.replaced, run_input, change)


def _holds(value: Any, bound: int) -> bool:
    """Tell whether there is a `data:` address of more characters; never in what nests too deeply."""
    found, deepest = False, 0
    for text, depth in _texts(value):
        deepest = max(deepest, depth)
        found = found or (len(text) > bound and text.startswith("data:"))
    return found and deepest <= jsontext.DEPTH


def _refers(value: Any) -> bool:
    return any(text.startswith(blob_references.SCHEME) for text, _ in _texts(value))


def _texts(value: Any) -> Iterator[tuple[str, int]]:
    """Yield every text of JSON, however deep it nests, and how deep it stands."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, str):
            yield one, depth
        elif isinstance(one, Mapping):
            members = cast("Mapping[str, Any]", one)
            waiting.extend((member, depth + 1) for member in members.values())
        elif isinstance(one, list):
            items = cast("list[Any]", one)
            waiting.extend((item, depth + 1) for item in items)
