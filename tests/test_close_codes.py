"""The close codes, and which of them may be sent."""

from __future__ import annotations

from trioweb._close_codes import CloseCode, is_wire_code


def test_is_wire_code_knows_the_registry() -> None:
    """RFC 6455 section 7.4: what is reserved must not be sent."""
    for code in CloseCode:
        assert is_wire_code(code) is (code not in (CloseCode.NO_STATUS, CloseCode.ABNORMAL))
    assert [code for code in range(6000) if is_wire_code(code)] == [
        *range(1000, 1004),
        *range(1007, 1015),
        *range(3000, 5000),
    ]
