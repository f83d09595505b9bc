"""Defines what users set on a thread or a run: title, labels, metadata. What is absent is left alone."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared import errors
from mainstem_shared.model import jsontext, runs

Label = Annotated[str, Field(min_length=1, max_length=100)]


class Description(BaseModel):
    """A title, labels and metadata; null where there is none."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    title: Annotated[str | None, Field(max_length=500)] = None
    labels: Annotated[list[Label] | None, Field(max_length=50)] = None
    metadata: dict[str, Any] | None = None

    def change(self, name: str) -> bytes:
        """Return a member as the verb `describe` takes it: nothing for one that was not given.

        Raises:
            InputTooLarge: it is over the limit of a run's metadata.
        """
        if name not in self.model_fields_set:
            return b""
        data = jsontext.dumps(getattr(self, name))
        if len(data) > runs.METADATA_LIMIT:
            raise errors.InputTooLarge(what=name, size=len(data), limit=runs.METADATA_LIMIT)
        return data
