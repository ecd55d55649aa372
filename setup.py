"""What pyproject.toml cannot say about the build: the one module in C.

It is optional: without a compiler or Python's headers the installation goes on without it.  One
wheel serves every Python from 3.11 on; only free-threaded ones need their own, since they have no
stable ABI that setuptools could build for.
"""

import sysconfig

from setuptools import Extension, setup

stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "trioweb._mask",
            ["src/trioweb/_mask.c"],
            define_macros=[("Py_LIMITED_API", "0x030b0000")] if stable_abi else [],
            py_limited_api=stable_abi,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
)
