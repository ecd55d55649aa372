"""Messages that are answered here, and reach nobody: what the answer to each is.

Pure: how an answer is sent is the link's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from .._policy import Message

# NOTE: Text and bytes never meet in a mapping: ASCII text and the same bytes have one hash, and
# under `python -bb` to compare them raises.  So whether it is text goes before each.
_Key: TypeAlias = tuple[bool, Message]
# None: it is swallowed.
Replies: TypeAlias = Mapping[_Key, Message | None]


def reply_key(message: Message) -> _Key:
    """What the reply to *message* stands under in `Replies`."""
    return isinstance(message, str), message


class Unanswered(list[Message]):
    """Messages, but for those that *answer* has answered when it was asked about each."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Callable[[Message], bool]) -> None:
        super().__init__()
        self._answer = answer

    def append(self, message: Message) -> None:
        if not self._answer(message):
            super().append(message)
