"""The server side: accept, admit, handle, drain."""

from ._admission import Accept
from ._serve import Server, ServerStatistics, serve, serve_listeners

__all__ = ["Accept", "Server", "ServerStatistics", "serve", "serve_listeners"]
