"""What a person may want to run, one session each: `nox -l` lists them.

Every session builds its own environment from PyPI; what comes from elsewhere (other Pythons,
Chromium, Node) must be installed. Arguments after `--` go to the tool that the session runs.
"""

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "typing"]
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
# Explicitly: under CI nox would make a missing interpreter a failure.
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# With the one that runs nox, so that a Python newer than this list still gets its tests.
PYTHONS = list(dict.fromkeys(["3.11", "3.12", "3.13", "3.14", THIS_PYTHON]))
HERE = ("-m", "not browser and not node")  # what needs nothing but Python


def group(name: str) -> list[str]:
    """Return the requirements of one dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on every installed Python."""
    session.install(".", *group("tests"))
    session.run("pytest", *HERE, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and show which lines and branches they reach (htmlcov/index.html)."""
    session.install("-e", ".", *group("tests"))
    session.env["COVERAGE_FILE"] = str(Path(session.create_tmp()).resolve() / ".coverage")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *HERE, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--quiet", "--fail-under=0")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, and that each layer imports only from layers below it."""
    session.install("-e", ".", *group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package and its tests, strictly."""
    session.install("-e", ".", *group("typing"))
    session.run("mypy", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run each example for real."""
    session.install(".[cli]", *group("tests"))
    session.run("pytest", *HERE, "tests/examples", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Try the server with a real Chromium and with Node's ws client."""
    if shutil.which("chromium") is None:
        session.error("no chromium on the path: apt-get install chromium")
    if shutil.which("npm") is None:
        session.error("no npm on the path: apt-get install nodejs npm")
    session.install(".", *group("tests"), *group("browser"))
    node = Path(session.create_tmp()).resolve() / "node"
    node.mkdir(exist_ok=True)
    shutil.copy("tests/node/package.json", node)
    with session.chdir(node):
        session.run("npm", "install", "--no-audit", "--no-fund", external=True)
    # Where `require("ws")` finds it.
    session.env["NODE_PATH"] = str(node / "node_modules")
    session.run("pytest", "-m", "browser or node", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Start the broadcast server with its chat page."""
    session.install(".[cli]")
    session.run("trioweb", "serve", *session.posargs)
