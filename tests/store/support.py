"""What tests of stores share: a place for one, and what a kill would leave of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from trioweb import Hub
from trioweb._topics._store._keeping import Store
from trioweb._topics._store._node import StoreNode
from trioweb._topics._store._opening import journal_path


def store_of(hub: Hub) -> Store:
    node = hub._node
    assert isinstance(node, StoreNode)
    return node.store


def journal_of(path: Path) -> Path:
    return Path(journal_path(str(path)))


def copy_as_killed(hub: Hub, to: Path) -> Path:
    """The files as a SIGKILL would leave them now, in the directory *to*; the path of the store."""
    store = store_of(hub)
    path = Path(store._database.path)
    to.mkdir()
    with store._database.lock:
        for name in (path, journal_of(path), path.with_name(f"{path.name}-wal")):
            if name.exists():
                shutil.copy(name, to / name.name)
    return to / path.name
