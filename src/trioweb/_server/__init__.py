"""The server side: accept, admit, handle, drain."""

from ._admission import Accept
from ._counts import ServerStatistics
from ._serve import serve, serve_listeners
from ._server import Server

__all__ = ["Accept", "Server", "ServerStatistics", "serve", "serve_listeners"]
