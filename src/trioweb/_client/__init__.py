"""The client side: one connection now, what outlives connections on top of it."""

from ._open import Dial, open_connection

__all__ = ["Dial", "open_connection"]
