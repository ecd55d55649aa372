"""Hubs of several processes and machines, joined by a Redis or Valkey: `RedisBroker`.

`_broker` is what programs hold, `_target` where a URL leads, `_greeting` how a connection begins,
`_link` that connection as a node sees it; `_entries` says how a publication looks there, `_names`
how the keys are called, and `_scripts` has the rules of an engine, which are those of
`trioweb._engine`, in Lua.  Only what is imported from here needs hiredis.
"""

from __future__ import annotations

try:
    # The first that tells a push from a reply is 3.2.
    from hiredis import PushNotification as _needed  # noqa: F401 - here it is missed once
except ImportError as exc:
    raise ImportError("trioweb.redis needs hiredis 3.2: pip install 'trioweb[redis]'") from exc

from .._public import show_in as _show_in
from ._broker import Options, RedisBroker
from ._engine import Credentials

__all__ = ["Credentials", "Options", "RedisBroker"]

_show_in(__name__, map(globals().get, __all__))
