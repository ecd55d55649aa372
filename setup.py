"""What pyproject.toml cannot say about the build: the one module in C.

It is optional: without a compiler or Python's headers the installation goes on without it.  One
wheel serves every Python from 3.11 on; only free-threaded ones need their own, since they have no
stable ABI that setuptools could build for.
"""

import sysconfig
from tempfile import TemporaryDirectory

from setuptools import Extension, setup

stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")
mask = Extension(
    "trioweb._protocol._mask_c",
    ["src/trioweb/_protocol/_mask_c.c"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")] if stable_abi else [],
    py_limited_api=stable_abi,
    optional=True,
)
# What an earlier build left in build/ would come along, modules that are gone since included.
with TemporaryDirectory() as fresh:
    setup(
        ext_modules=[mask],
        options={
            "build": {"build_base": fresh},
            "bdist_wheel": {"py_limited_api": "cp311"} if stable_abi else {},
        },
    )
