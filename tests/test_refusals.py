"""Errors that programs raise to say no: what could not be told is refused at once."""

from __future__ import annotations

import pytest

from trioweb import Dismiss, Refuse, Reject


@pytest.mark.parametrize("status", [100, 101, 200, 299, 600, -1])
def test_reject_refuses_a_status_that_is_no_refusal(status: int) -> None:
    with pytest.raises(ValueError, match=rf"Reject\(status={status}\): must be .* 300 to 599"):
        Reject(status)
    for good in (300, 599):
        assert Reject(good).status == good


def test_reject_encodes_text_at_once() -> None:
    """So that what cannot be sent is found out where it was written."""
    assert Reject(403, "grüße").body == "grüße".encode()
    assert Reject(403, bytearray(b"x")).body == b"x"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogate"):
        Reject(403, "\ud800")


@pytest.mark.parametrize("code", [99, 2000])
def test_refuse_takes_only_codes_of_errors(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        Refuse(code)


@pytest.mark.parametrize("code", [2999, 5000])
def test_dismiss_takes_only_codes_of_the_protocol_and_of_applications(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        Dismiss(code)
