"""Converters of options into numbers, for argparse, which say what would be right."""

from __future__ import annotations

import argparse
from typing import Any


def number(kind: type[int] | type[float], low: float, high: float, what: str) -> Any:
    """A converter for argparse that says what would be right."""

    def convert(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(-1)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return number

    return convert


port = number(int, 0, 65535, "a port from 0 to 65535")
whole = number(int, 1, 2**63, "a whole number from 1 on")
count = number(int, 0, 2**63, "a whole number from 0 on")
seconds = number(float, 0, 86400, "a number of seconds from 0 to 86400")
