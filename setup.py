"""What pyproject.toml cannot say about the build: the one module in C.

It is optional: without a compiler or Python's headers the installation goes on without it, and a
wheel that is made so says that it is pure Python.  One wheel serves every Python from 3.11 on; only
free-threaded ones need their own, since they have no stable ABI that setuptools could build for.
"""

import re
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")
frames = Extension(
    "trioweb._protocol._frames_c",
    ["src/trioweb/_protocol/_frames_c.c"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")] if stable_abi else [],
    py_limited_api=stable_abi,
    # It calls nothing of the C library's, and a linker that leaves that out leaves nothing by which
    # auditwheel could tell glibc from musl.
    extra_link_args=["-Wl,--no-as-needed"] if sys.platform == "linux" else [],
    optional=True,
)


class Wheel(bdist_wheel):
    """A wheel that is tagged for what is in it."""

    def run(self) -> None:
        self.run_command("build")
        build = self.get_finalized_command("build_ext")
        if not all(Path(module).exists() for module in build.get_outputs()):
            self.distribution.ext_modules = None
            self.root_is_pure = True
            self.py_limited_api = False
        super().run()


def description() -> str:
    """The README as an index shows it, which has no files that it could lead to: a link to one is
    its text there, and a picture is nothing."""
    text = Path(__file__).with_name("README.md").read_text("utf-8")
    text = re.sub(r"(?s)<picture>.*?</picture>\n\n", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


# What an earlier build left in build/ would come along, modules that are gone since included.
with TemporaryDirectory() as fresh:
    setup(
        long_description=description(),
        long_description_content_type="text/markdown",
        ext_modules=[frames],
        cmdclass={"bdist_wheel": Wheel},
        options={
            "build": {"build_base": fresh},
            "bdist_wheel": {"py_limited_api": "cp311"} if stable_abi else {},
        },
    )
