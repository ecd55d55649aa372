"""Logs by their size, so that a large one is found without a look at all of them."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

# Sizes are told apart as powers of two of so many bytes.
_SIZE_BITS: Final = 12


class Sized(Protocol):
    """What has a log: a key of dictionaries, by identity."""

    # Where `Sizes` has it; None for nowhere, as at the beginning.
    _size_number: int | None


_Sized = TypeVar("_Sized", bound=Sized)


class Sizes(Generic[_Sized]):
    """Those that could do with less, by how much they have."""

    __slots__ = ("_by_number",)

    def __init__(self) -> None:
        self._by_number: list[dict[_Sized, None]] = [{} for _ in range(64)]

    def put(self, thing: _Sized, size: int | None) -> None:
        """*thing* has *size* bytes now; None if it can spare none of them."""
        number = None if size is None else (size >> _SIZE_BITS).bit_length()
        before = thing._size_number
        if number == before:
            return  # as nearly always
        if before is not None:
            del self._by_number[before][thing]
        if number is not None:
            self._by_number[number][thing] = None
        thing._size_number = number

    def largest(self) -> _Sized | None:
        """One of the largest, within a factor of two or 4 KiB; None if nobody can spare
        anything."""
        for things in reversed(self._by_number):
            if things:
                return next(iter(things))
        return None
