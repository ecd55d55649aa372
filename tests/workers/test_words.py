"""What a parent and a worker say arrives as it was said, in whatever pieces."""

from __future__ import annotations

import pytest

from trioweb import Position, Publisher, Retain
from trioweb._protocol._frames import SERVER_FORM, encode_message
from trioweb._topics._commands import (
    Answer,
    Ask,
    Command,
    Done,
    Entry,
    Load,
    Loaded,
    Ping,
    Publish,
    Push,
    Refusal,
    Standing,
    Stored,
    Subscribe,
    Unsubscribe,
    entry_of,
)
from trioweb._topics._details import NOTHING, details_of
from trioweb._workers._pipe import Splitter, pack
from trioweb._workers._words import (
    hear_answers,
    hear_command,
    hear_pushes,
    say_answer,
    say_command,
    say_entry,
    say_published,
    say_pushes,
)

RETAIN = Retain(max_messages=3, max_age=0.5, patience=0)
PLAIN = entry_of("node:1", encode_message("a", SERVER_FORM), None, NOTHING)
FULL = entry_of(
    "node:2",
    encode_message(b"\0" * 70_000, SERVER_FORM),
    "sk\udc80ip",
    details_of(True, False, "key", {"a": "b"}, Publisher("ann", b"info")),
)
COMMANDS: list[Command] = [
    Publish("news", RETAIN, 7, PLAIN, False),
    Publish("né\0ws", Retain(), 2**40, FULL, True),
    Subscribe("news", RETAIN, "epoch", 4, "node:1"),
    Unsubscribe("news"),
    Ask("news", RETAIN, "epoch", 4, "node:1"),
    Load("news", RETAIN, 0, 4),
    Ping(),
]
ANSWERS: list[Answer] = [
    Position("epoch", 9),
    Standing("epoch", 9, 2, 8, [Stored(8, PLAIN, 0.25), Stored(9, FULL, 0)]),
    Loaded("epoch", 8, [Stored(8, FULL, 1)]),
    Refusal("no room"),
    Done(),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: type(one).__name__)
def test_command_is_heard_as_it_was_said(command: Command) -> None:
    [words] = Splitter().feed(pack(say_command(command)))
    assert hear_command(words) == command


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda one: type(one).__name__)
def test_answer_is_heard_as_it_was_said(answer: Answer) -> None:
    [words] = Splitter().feed(pack(say_answer(answer)))
    assert list(hear_answers(words)) == [answer]


def test_several_publications_are_answered_at_a_time() -> None:
    [words] = Splitter().feed(pack(say_published("epoch", 9, 3)))
    assert hear_answers(words) == [Position("epoch", offset) for offset in (9, 10, 11)]


@pytest.mark.parametrize("entries", [[PLAIN], [FULL], [PLAIN, FULL]])
def test_pushes_are_heard_as_they_were_said(entries: list[Entry]) -> None:
    said = say_pushes("news", "epoch", 3, [say_entry(entry) for entry in entries])
    [words] = Splitter().feed(pack(said))
    assert hear_pushes(words) == [
        Push("news", "epoch", Stored(offset, entry, 0)) for offset, entry in enumerate(entries, 3)
    ]


@pytest.mark.parametrize("size", [1, 3, 1000, 2**20])
def test_pieces_of_any_size_make_the_same_words(size: int) -> None:
    data = b"".join(pack(say_command(command)) for command in COMMANDS)
    splitter = Splitter()
    found = [
        words
        for start in range(0, len(data), size)
        for words in splitter.feed(data[start : start + size])
    ]
    assert list(map(hear_command, found)) == COMMANDS
