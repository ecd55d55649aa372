"""The load's own RFC 6455."""

from __future__ import annotations

import socket

import pytest

from benchmarks import wire


@pytest.mark.parametrize("size", range(126))
def test_unmasked_is_what_was_masked(size: int) -> None:
    payload = bytes(range(size))
    assert wire.unmasked(wire.client_frame(wire.TEXT, payload)) == payload


@pytest.mark.parametrize("answer", [b"\x88\x02\x03\xe8", b"\x81\x01x\x88\x00", b""], ids=repr)
def test_close_waits_for_the_peers_close_or_its_end(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        wire.close([(ours, b"")])
        assert theirs.recv(100) == wire.client_frame(wire.CLOSE, b"\x03\xe8")
        assert theirs.recv(100) == b""
    assert ours.fileno() == -1
