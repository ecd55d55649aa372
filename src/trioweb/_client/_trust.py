"""What a client trusts where it is told nothing: the system's authorities, loaded once.

Loading them takes some 30 to 40 ms and hundreds of KiB.  So it is done in a thread, and there is
one such context in the process, which nobody gets hold of to change it.
"""

from __future__ import annotations

import ssl
import threading

import trio

_lock = threading.Lock()
_context: ssl.SSLContext | None = None


async def default_context() -> ssl.SSLContext:
    """The context of all that is to be dialled over TLS without one of its own.

    Cancellation: the thread finishes, and what it has loaded is there for the next.
    Checkpoint: only if it is not loaded yet.
    """
    if _context is None:
        return await trio.to_thread.run_sync(_load, abandon_on_cancel=True)
    return _context


def _load() -> ssl.SSLContext:
    global _context
    with _lock:
        if _context is None:
            _context = ssl.create_default_context()
        return _context
