"""The admin's door to what runs: figures, lists and changes, over the project's own protocol."""

from ._admin import PAGE_PATH, SOCKET_PATH, Admin, open_admin
from ._together import Colleagues

__all__ = ["PAGE_PATH", "SOCKET_PATH", "Admin", "Colleagues", "open_admin"]
