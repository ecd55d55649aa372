"""The two loops over bytes, in C where that was built and can be loaded, otherwise in Python.

Both do the same, which `_frames_python` says; nothing else is here for others.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Final

from .._policy import Message

try:
    # By name: a linter of sources, which does not find this one, would take it for the package.
    _module = import_module("trioweb._protocol._frames_c")
except ImportError:
    from . import _frames_python as _module

mask: Final[Callable[[bytes, bytes], bytes]] = _module.mask
take_messages: Final[Callable[[bytes, int, bool, int, Iterator[bool], list[Message]], int]] = (
    _module.take_messages
)

# The language that they are written in: "C" or "Python".
LANGUAGE: Final = "C" if _module.__name__.endswith("_c") else "Python"
