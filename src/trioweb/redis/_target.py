"""Where the URL of an engine leads.  Pure."""

from __future__ import annotations

from dataclasses import field
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from .._dataclass import dataclass

_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and what it is to be told at first.

    Attributes:
        path: of a Unix socket; None for *host* and *port*.
        credentials: user and password, None for none.  Never shown.
    """

    host: str
    port: int
    path: str | None
    is_secure: bool
    database: int
    credentials: tuple[str, str] | None = field(repr=False)

    @property
    def name(self) -> str:
        """What tells it from others: where it is, without a secret."""
        where = f"{self.host}:{self.port}" if self.path is None else self.path
        return f"{where}/{self.database}"


def parse_target(url: str, port: int = _PORT) -> Target:
    """Take *url* apart; where it has no port, that is *port*.

    Raises:
        ValueError: it leads nowhere.  It is not repeated: it may hold a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("RedisBroker: url must begin with redis://, rediss:// or unix://")
    if parts.fragment or (parts.query and parts.scheme != "unix"):
        raise ValueError("RedisBroker: url has a query or a fragment, which mean nothing here")
    path, database = None, parts.path.removeprefix("/")
    if parts.scheme == "unix":
        path = unquote(parts.path)
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        database = query.pop("db", ["0"])[0]
        if not path or parts.hostname or query:
            raise ValueError("RedisBroker: url must be as unix:///path/to/socket?db=0")
    if database and not (database.isascii() and database.isdigit()):
        raise ValueError("RedisBroker: url must end with the number of a database, or with none")
    try:
        given = parts.port
    except ValueError:
        raise ValueError("RedisBroker: url has a port that is none") from None
    credentials = None
    if parts.password is not None:
        credentials = unquote(parts.username or "default"), unquote(parts.password)
    return Target(
        parts.hostname or "localhost",
        given or port,
        path,
        parts.scheme == "rediss",
        int(database or 0),
        credentials,
    )
