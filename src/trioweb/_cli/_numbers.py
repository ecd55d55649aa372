"""Converters of options into numbers, for argparse, which say what would be right."""

from __future__ import annotations

import argparse
from typing import Any, Final


class Number:
    """A converter for argparse: text into a number of *kind* from *low* to *high*.

    Args:
        what: what would be right, for whoever gave something else.
    """

    def __init__(self, kind: type[int] | type[float], low: float, high: float, what: str) -> None:
        self._kind = kind
        self._range = low, high
        self._what = what

    def __call__(self, text: str) -> Any:
        low, high = self._range
        try:
            number = self._kind(text)
        except ValueError:
            number = self._kind(-1)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {self._what}")
        return number


port: Final = Number(int, 0, 65535, "a port from 0 to 65535")
whole: Final = Number(int, 1, 2**63, "a whole number from 1 on")
count: Final = Number(int, 0, 2**63, "a whole number from 0 on")
seconds: Final = Number(float, 0, 86400, "a number of seconds from 0 to 86400")
