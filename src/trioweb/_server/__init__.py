"""The server side: accept, admit, handle, drain."""

from ._admission import Accept
from ._counts import ServerStatistics
from ._events import event_stream
from ._serve import serve, serve_listeners
from ._server import Server

__all__ = ["Accept", "Server", "ServerStatistics", "event_stream", "serve", "serve_listeners"]
