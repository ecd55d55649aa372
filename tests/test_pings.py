"""Pings under way."""

from __future__ import annotations

from trioweb._protocol._pings import Ping, Pings


def sent(count: int) -> tuple[Pings, list[Ping]]:
    """So many pings, one a second from 1 on."""
    pings = Pings(b"\x01\x02\x03\x04")
    return pings, [pings.make(number, None) for number in range(1, count + 1)]


def test_each_payload_is_another_one_and_begins_with_the_key() -> None:
    _, made = sent(300)
    assert len({ping.payload for ping in made}) == 300
    assert all(ping.payload.startswith(b"\x01\x02\x03\x04") for ping in made)
    assert all(len(ping.payload) <= 125 for ping in made)


def test_pong_answers_its_ping_and_all_before_it() -> None:
    pings, made = sent(3)
    assert pings.answered(made[1].payload, 10) == made[:2]
    assert [ping.round_trip for ping in made] == [9, 8, None]
    assert len(pings) == 1
    assert pings.answered(made[2].payload, 11) == made[2:]
    assert len(pings) == 0


def test_pong_of_no_ping_answers_none() -> None:
    pings, made = sent(1)
    assert pings.answered(b"unasked", 2) == []
    assert pings.answered(made[0].payload, 2) == made
    assert pings.answered(made[0].payload, 3) == []  # nor one that was answered
    assert made[0].round_trip == 1


def test_forgotten_ping_is_not_answered() -> None:
    pings, made = sent(2)
    pings.forget(made[1])
    pings.forget(made[1])
    assert pings.answered(made[1].payload, 5) == []
    assert pings.answered(made[0].payload, 5) == made[:1]
    assert made[1].round_trip is None
