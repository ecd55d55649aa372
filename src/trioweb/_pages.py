"""Pages that are one file each: how they are read, and what a browser lets them do."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Final

_HEADERS: Final = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-cache"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


def read_page(package: str, name: str) -> str:
    """The text of the page *name* that is a part of *package*."""
    return files(package).joinpath(name).read_text("utf-8")


def page_headers(page: str) -> tuple[tuple[str, str], ...]:
    """Those that *page* is sent with: nothing may be loaded, only its own code runs, it may talk to
    its own host only, and no other page may have it in a frame."""

    def digest(tag: str) -> str:
        _, _, rest = page.partition(f"<{tag}>")
        body = rest.partition(f"</{tag}>")[0].encode()
        return f"'sha256-{b64encode(sha256(body).digest()).decode()}'"

    policy = (
        f"default-src 'none'; style-src {digest('style')}; script-src {digest('script')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return (*_HEADERS, ("Content-Security-Policy", policy))
