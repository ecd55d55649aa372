"""RFC 6455 section 5.3: `mask`, in C where that was built and can be loaded, otherwise in Python.

Both do the same, and nothing else is here for others.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Final

try:
    # By name: a linter of sources, which does not find this one, would take it for the package.
    _module = import_module("trioweb._protocol._mask_c")
except ImportError:
    from . import _mask_python as _module

mask: Final[Callable[[bytes, bytes], bytes]] = _module.mask
