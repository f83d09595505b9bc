"""`Field` declares one field of a stored hash: what it means, who writes it, how it is parsed.

A class whose attributes are fields is both the schema and the typed reader of the hash (`model.record`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, Self, TypeVar, cast, overload

T = TypeVar("T")
_REQUIRED: Final = object()


class Reader(Protocol):
    """Holds the values that were read of a hash's fields."""

    def value(self, field: Field[T]) -> T:
        """Return a field's value."""
        ...


class Field(Generic[T]):
    """One field: read from an instance, its value; from the class, the declaration.

    A name that ends in `*` declares a family; `of` names one of it.
    """

    def __init__(
        self,
        name: str,
        parse: Callable[[bytes], T],
        *,
        meaning: str,
        written_by: str,
        deleted_by: str = "",
        unit: str = "",
        since: int = 1,
        default: Any = _REQUIRED,
        large: bool = False,
    ) -> None:
        """Declare a field.

        Args:
            name: what it is stored under.
            parse: turns what is stored into what readers get; may raise what damaged records raise.
            meaning: what it says, for readers of records.
            written_by: the verbs that set it, separated by spaces.
            deleted_by: the verbs that remove it.
            unit: of numbers; the format of texts.
            since: version of the record that has it first.
            default: what its absence means; a field without one is in every record.
            large: may hold many kilobytes.
        """
        self.name = name
        self.attribute = name
        self.meaning = meaning
        self.written_by = tuple(written_by.split())
        self.deleted_by = tuple(deleted_by.split())
        self.unit = unit
        self.since = since
        self.large = large
        self._parse = parse
        self._default = default

    def __set_name__(self, owner: type, attribute: str) -> None:
        self.attribute = attribute

    @overload
    def __get__(self, record: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, record: Reader, owner: type[Any]) -> T: ...
    def __get__(self, record: Reader | None, owner: type[Any]) -> Self | T:
        return self if record is None else record.value(self)

    def of(self, suffix: str) -> Field[T]:
        """Return the field of a family that this suffix names."""
        one = Field(
            self.name.removesuffix("*") + suffix,
            self._parse,
            meaning=self.meaning,
            written_by=" ".join(self.written_by),
            deleted_by=" ".join(self.deleted_by),
            unit=self.unit,
            since=self.since,
            default=self._default,
            large=self.large,
        )
        one.attribute = self.attribute
        return one

    def parsed(self, stored: bytes | None) -> T:
        """Return a stored value as readers get it.

        Raises:
            KeyError: a field is missing that every record has.
            ValueError: the value is damaged, or of a later version.
        """
        if stored is not None:
            return self._parse(stored)
        if self._default is _REQUIRED:
            raise KeyError(f"record without {self.name!r}")
        return cast("T", self._default)
