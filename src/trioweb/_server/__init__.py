"""The server side: accept, admit, handle, drain."""

from ._admission import Accept
from ._serve import serve, serve_listeners
from ._server import Server, ServerStatistics

__all__ = ["Accept", "Server", "ServerStatistics", "serve", "serve_listeners"]
