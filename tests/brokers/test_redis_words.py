"""What is said to a Redis without one: URLs, names, entries, arguments."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st

from trioweb import Publisher, Retain
from trioweb._protocol._frames import SERVER_FORM, encode_message
from trioweb._topics._commands import Command, Load, Publish, Subscribe, entry_of
from trioweb._topics._details import details_of
from trioweb.redis import RedisBroker
from trioweb.redis._entries import name_once, read_push, read_stored, write_entry
from trioweb.redis._greeting import read_scripts
from trioweb.redis._names import Names
from trioweb.redis._share import ALONE, Share
from trioweb.redis._target import parse_target
from trioweb.redis._words import Words

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "is_secure", "database", "credentials"),
    [
        ("redis://", "localhost", 6379, None, False, 0, None),
        ("redis://10.0.0.5/3", "10.0.0.5", 6379, None, False, 3, None),
        ("redis://[::1]:7000", "::1", 7000, None, False, 0, None),
        ("rediss://ann:p%40ss@a.example/", "a.example", 6379, None, True, 0, ("ann", "p@ss")),
        ("redis://:secret@a", "a", 6379, None, False, 0, ("default", "secret")),
        ("unix:///run/a%20b?db=2", "localhost", 6379, "/run/a b", False, 2, None),
    ],
)
def test_urls_lead_somewhere(
    url: str,
    host: str,
    port: int,
    path: str | None,
    is_secure: bool,
    database: int,
    credentials: tuple[str, str] | None,
) -> None:
    target = parse_target(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert (target.is_secure, target.database) == (is_secure, database)
    assert target.credentials == credentials
    assert "p@ss" not in repr(RedisBroker(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@a",
        "redis://:secret@a/b",
        "redis://:secret@a?db=2",
        "redis://:secret@a#b",
        "unix://:secret@a/b",
        "unix:",
        "unix:/a?x=1",
    ],
)
def test_urls_that_lead_nowhere_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="RedisBroker: url") as caught:
        RedisBroker(url)
    assert "secret" not in str(caught.value)


async def _dial(host: str, port: int) -> None: ...


async def _credentials() -> tuple[str, str]:
    return "ann", "secret"


@pytest.mark.parametrize(
    ("url", "arguments", "error"),
    [
        ("redis://a", {"prefix": ""}, ValueError),
        ("redis://a", {"prefix": "a{b}"}, ValueError),
        ("redis://a", {"idle": 0}, ValueError),
        ("redis://a", {"ssl_context": True}, TypeError),
        ("redis://a", {"credentials": ("a", "b")}, TypeError),
        ("redis://a:b@c", {"credentials": _credentials}, ValueError),
        ("unix:///a", {"dial": _dial}, ValueError),
    ],
)
def test_arguments_that_cannot_work_are_refused(
    url: str, arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error, match="RedisBroker: "):
        RedisBroker(url, **arguments)  # type: ignore[arg-type]


@given(st.text(max_size=20), st.integers(0, 15))
def test_a_channel_says_its_topic(topic: str, database: int) -> None:
    names = Names("app", database)
    assert names.topic(names.channel(topic)) == topic


@given(
    st.one_of(TEXT, st.binary(max_size=200), st.text("{}:1 ", max_size=70_000)),
    st.sampled_from(["", "json", "string"]),
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    st.none() | st.builds(Publisher, TEXT, st.binary(max_size=5)),
)
def test_an_entry_is_read_as_it_was_written(
    message: str | bytes,
    kind: str,
    skip: str | None,
    key: str | None,
    tags: dict[str, str] | None,
    publisher: Publisher | None,
) -> None:
    is_text = isinstance(message, str)
    details = details_of(
        is_text and kind == "json", is_text and kind == "string", key, tags, publisher
    )
    entry = entry_of("node:7", encode_message(message, SERVER_FORM), skip, details)
    words = [word.encode() if isinstance(word, str) else word for word in write_entry(entry)]
    # As the script stores and pushes them.
    stored = read_stored(5000, [b"12-0", [b"z", b"9", b"a", b"3500", *words]])
    assert stored == (12, entry, 1.5)
    assert stored.entry.details.size == details.size
    names = Names("app", 0)
    pairs = zip(words[::2], words[1::2], strict=True)
    data = b"12 epoch " + b"".join(b"%b%d:%b" % (a, len(b), b) for a, b in pairs)
    push = read_push(names, names.channel("news"), data)
    assert push == ("news", "epoch", (12, entry, 0))


def test_what_is_published_once_has_names_that_do_not_meet() -> None:
    def name(key: str | None, publisher: str | None) -> bytes:
        who = None if publisher is None else Publisher(publisher)
        return name_once(details_of(False, False, key, None, who))

    assert name(None, "a") == b""
    found = {name("1:a", None), name("a", ""), name("a", "1"), name("1a", ""), name("", "1a")}
    assert len(found) == 5


def test_the_scripts_come_with_the_package() -> None:
    names = ["count", "enter", "leave", "load", "members", "place", "publish", "reap", "renew"]
    assert sorted(read_scripts()) == names
    for script in read_scripts().values():
        assert script.startswith("-- ")


def test_who_lacks_hiredis_is_told_what_to_install() -> None:
    program = "import sys; sys.modules['hiredis'] = None; import trioweb, trioweb.redis"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ImportError: trioweb.redis needs hiredis 3.2: pip install 'trioweb[redis]'" in (
        ended.stderr
    )


@given(
    st.text(max_size=20),
    st.one_of(TEXT, st.binary(max_size=200), st.text(min_size=200, max_size=300)),
    st.integers(1, 2**40),
    st.booleans(),
    st.none() | TEXT,
    st.none() | TEXT,
)
def test_a_publication_that_is_put_together_is_what_hiredis_packs(
    topic: str,
    message: str | bytes,
    number: int,
    is_retry: bool,
    key: str | None,
    skip: str | None,
) -> None:
    names, share = Names("app", 3), Share("", ALONE, 1)
    words = Words("node", "run", {"publish": b"1" * 40}, names, share, durable=True, idle=60)
    retain = Retain(max_messages=7, max_age=1.5)
    details = details_of(False, False, key, None, None)
    entry = entry_of(f"node:{number}", encode_message(message, SERVER_FORM), skip, details)
    keys = *names.keys(topic), names.node(topic, "node")
    retry = b"1" if is_retry else b"0"
    in_full: tuple[Any, ...] = (
        *(*words._evaluate("publish", topic, retain, keys), names.channel(topic)),
        *(number, retry, entry.size, name_once(details), *write_entry(entry)),
    )
    for _ in range(2):
        said = words.say(Publish(topic, retain, number, entry, is_retry))[0]
        assert said == pack_command(in_full)


@given(st.text(max_size=20), st.sampled_from(["place", "load"]), st.integers(0, 2**40))
def test_a_question_that_is_put_together_is_what_hiredis_packs(
    topic: str, script: str, offset: int
) -> None:
    names, share = Names("app", 3), Share("", ALONE, 1)
    scripts = {"place": b"1" * 40, "load": b"2" * 40}
    words = Words("node", "run", scripts, names, share, durable=True, idle=60)
    retain = Retain(max_messages=7, max_age=1.5)
    command: Command = Subscribe(topic, retain, "epoch", offset, "node:1")
    asked: tuple[Any, ...] = ("epoch", offset, "node:1", 2**14)
    channel: tuple[Any, ...] = b"SUBSCRIBE", names.channel(topic)
    subscribed = pack_command(channel)
    if script == "load":
        command, asked, subscribed = Load(topic, retain, 0, offset), (0, offset), b""
    in_full = (*words._evaluate(script, topic, retain, names.keys(topic)), *asked)
    # The first is put together, and the second has something ready.
    for _ in range(2):
        assert words.say(command)[0] == subscribed + pack_command(in_full)
