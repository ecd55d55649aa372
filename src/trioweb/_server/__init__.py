"""The server side: accept, admit, handle, drain."""

from ._admission import Accept, Admit
from ._counts import ServerStatistics
from ._events import event_stream
from ._front import Http
from ._serve import serve, serve_listeners
from ._server import Server
from ._settings import Handler

__all__ = [
    "Accept",
    "Admit",
    "Handler",
    "Http",
    "Server",
    "ServerStatistics",
    "event_stream",
    "serve",
    "serve_listeners",
]
