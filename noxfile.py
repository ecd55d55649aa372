"""What a person may want to run, one session each: `nox -l` lists them.

Every session builds its own environment from PyPI; what comes from elsewhere (other Pythons,
Chromium, Node) must be installed. Arguments after `--` go to the tool that the session runs.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from nox.command import CommandFailed

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
# What needs more than Python; `interop` runs it.
_OTHERS = (
    "brokers or browser or node or proxy or centrifuge or curl or front or systemd or promtool"
)
HERE = ("-m", f"not ({_OTHERS})")
QUICK = ("-m", f"not ({_OTHERS} or slow)")
SLOW = ("-m", f"slow and not ({_OTHERS})")
IN_MEMORY = ("-m", f"not ({_OTHERS} or slow or network or redis)")
# What differs between Pythons differs between the oldest and the newest, too: on those between them
# the tests do without processes and sockets.
BETWEEN = ("3.12",)
# What sessions of their own run: minutes of programs, pages and other people's libraries, which
# depend on no Python and reach no other lines.
ELSEWHERE = ("--ignore=tests/docs", "--ignore=tests/examples", "--ignore=tests/interop")
OTHERS = "--others"


def group(name: str) -> list[str]:
    """Return the requirements of one dependency group."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def folder(session: nox.Session) -> Path:
    """A folder of the session's own.

    Not nox's, by which the tests would have their temporary files in there, too: the path of a
    Unix socket has 107 bytes at the most, and a checkout may lie deep.
    """
    path = Path(session.virtualenv.location).resolve() / "folder"
    path.mkdir(exist_ok=True)
    return path


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on every installed Python, but for those that have a session of their own.

    With `-- --others` not on the Python that runs nox, where `coverage` runs the same.
    """
    arguments = [argument for argument in session.posargs if argument != OTHERS]
    if session.python == THIS_PYTHON and OTHERS in session.posargs:
        session.skip("`coverage` runs these")
    session.install(".", *group("tests"))
    is_between = session.python in BETWEEN and session.python != THIS_PYTHON
    session.run("pytest", *(IN_MEMORY if is_between else QUICK), *ELSEWHERE, *arguments)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take more than a few seconds each."""
    session.install(".", *group("tests"))
    session.run("pytest", *SLOW, *ELSEWHERE, *session.posargs)


@nox.session
def oldest_pytest(session: nox.Session) -> None:
    """Try the pytest plugin under the oldest pytest that pytest-trio works with."""
    session.install(".", "pytest==7.2.*", "pytest-trio>=0.8")
    settings = ("-c", "tests/testing/oldest.ini")
    session.run("pytest", *settings, "tests/testing/test_fixture.py", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run `tests` on this Python; which lines and branches do they reach (htmlcov/index.html)?"""
    # As `tests` has it: what is installed is compiled once, and not by each process of a test.
    session.install(".", *group("tests"))
    session.env["COVERAGE_FILE"] = str(folder(session) / ".coverage")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *QUICK, *ELSEWHERE, *session.posargs)
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
    """Try the server and its pages in a real Chromium."""
    require(session, "chromium", "node", "npm", "nginx", "haproxy", "caddy")
    session.install(".", *group("tests"), *group("browser"))
    install_node_packages(session)
    session.run("pytest", "--all-peers", "-m", "browser", *session.posargs)


@nox.session
def interop(session: nox.Session) -> None:
    """Try it with other people's: Node, Python's libraries, proxies, servers; but for `browser`."""
    require(session, "node", "npm", "tinyproxy", "microsocks", "curl")
    require(session, "nginx", "haproxy", "caddy", "systemd-analyze", "redis-server")
    session.install(".", *group("tests"))
    install_node_packages(session)
    session.env["PROMTOOL"] = find_promtool(session)
    where = ("-m", "not browser", "tests/interop", "tests/node", "tests/examples/test_nodes.py")
    session.run("pytest", "--all-peers", *where, *session.posargs)
    node = ("-m", "node and not browser", "tests/docs")
    session.run("pytest", "--all-peers", *node, *session.posargs)
    redis = ("-m", "redis and not slow and not brokers", "tests/brokers")
    session.run("pytest", "--all-peers", *redis, *session.posargs)


def install_node_packages(session: nox.Session) -> None:
    """Install what we use of Node's, where `require` finds it."""
    node = folder(session) / "node"
    node.mkdir(exist_ok=True)
    shutil.copy("tests/node/package.json", node)
    with session.chdir(node):
        session.run("npm", "install", "--no-audit", "--no-fund", external=True)
    session.env["NODE_PATH"] = str(node / "node_modules")


def find_promtool(session: nox.Session) -> str:
    """Where promtool is; on Debian it is unpacked, as the package starts a server if installed."""
    found = shutil.which("promtool")
    if found is None:
        where = folder(session) / "prometheus"
        where.mkdir(exist_ok=True)
        found = str(where / "usr" / "bin" / "promtool")
        if not Path(found).exists():
            require(session, "apt-get", "dpkg-deb")
            with session.chdir(where):
                session.run("apt-get", "download", "prometheus", external=True)
                for package in where.glob("*.deb"):
                    session.run("dpkg-deb", "-x", str(package), ".", external=True)
    return found


def require(session: nox.Session, *programs: str) -> None:
    """End the session unless these are on the path; say which packages of Debian's bring them."""
    packages = {"node": "nodejs", "systemd-analyze": "systemd"}
    missing = [
        packages.get(program, program)
        for program in programs
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if missing:
        session.error(f"something is missing: apt-get install {' '.join(missing)}")


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the module in C under AddressSanitizer and UndefinedBehaviorSanitizer."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        session.skip("needs Linux and gcc")
    flags = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
    session.install(".", *group("tests"))
    session.install("--force-reinstall", "--no-deps", ".", env={"CC": "gcc", "CFLAGS": flags})
    libraries = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    env = {
        "LD_PRELOAD": " ".join(libraries),
        # What the interpreter itself keeps until it ends is no leak of ours.
        "ASAN_OPTIONS": "detect_leaks=0",
        # So that each object is an allocation that is watched, and not a part of a pool.
        "PYTHONMALLOC": "malloc",
    }
    session.run("python", "-m", "tests.packaging", "--in-c", env=env)
    tests = ("tests/test_speedups.py", "tests/test_frames.py", "tests/fuzz")
    # What counts memory, time or references is not for this.
    less = ("-k", "not takes_no_longer and not allocates and not subinterpreter and not bomb")
    session.run("pytest", *less, *tests, *session.posargs, env=env)


@nox.session
def wheels(session: nox.Session) -> None:
    """Make the wheels, with the module in C and without, and the sdist; check what they are."""
    session.install("auditwheel", "abi3audit")
    [in_c] = build_all(session).glob("*-abi3-*.whl")
    session.run("abi3audit", "--strict", "--summary", str(in_c))
    session.run("auditwheel", "show", str(in_c))


def build_all(session: nox.Session) -> Path:
    """Build what is released, and check that it is what its names say; where it is."""
    session.install("build")
    dist = folder(session) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    build = ("python", "-m", "build", "--outdir", str(dist))
    session.run(*build, silent=True)
    session.run(*build, "--wheel", env={"CC": "false"}, silent=True)
    session.run("python", "-m", "tests.packaging", *map(str, sorted(dist.iterdir())))
    return dist


@nox.session
def release(session: nox.Session) -> None:
    """Go through what must hold before a release, and publish nothing."""
    session.install("twine")
    dist = build_all(session)
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    # Whoever has no compiler gets it from the sdist, too.
    [sdist] = dist.glob("*.tar.gz")
    session.install("--force-reinstall", str(sdist), env={"CC": "false"})
    session.run("trioweb", "--version")
    session.run("git", "diff", "--exit-code", "--stat", "HEAD", external=True)
    session.run("python", "-m", "tests.packaging.release", PYPROJECT["project"]["version"])


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of `docs/`, whose links must lead somewhere; run it, and ask its search."""
    require(session, "node")
    session.install(".[cli]", *group("docs"), *group("tests"))
    session.env["SITE"] = "build/docs"  # whose search is asked
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-b", "html", "docs", "build/docs")
    session.run("pytest", *HERE, "tests/docs", "tests/examples/test_readme.py", *session.posargs)


@nox.session
def simulation(session: nox.Session) -> None:
    """Run trioweb for a month of virtual time while everything goes wrong; then its mutants."""
    session.install(".", *group("tests"))
    session.run("python", "-m", "tests.simulation.runner", *session.posargs)
    session.run("pytest", "-m", "slow", "tests/simulation")


@nox.session
def brokers(session: nox.Session) -> None:
    """Break real servers of a broker in every way, again and again, while hubs publish a lot."""
    require(session, "redis-server")
    session.install(".", *group("tests"))
    session.run("pytest", "-m", "redis", "tests/brokers", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """Run the Autobahn testsuite against trioweb and its peers; with `-- --ours` only trioweb."""
    python2 = find_python2()
    if python2 is None:
        session.skip("the Autobahn testsuite needs a Python 2.7, on the path or under pyenv")
    # The last series that makes environments for Python 2.7.
    session.install(".", *group("tests"), "virtualenv<20.22")
    where = folder(session)
    suite = where / "autobahn"
    seeds = ("--pip", "20.3.4", "--setuptools", "44.0.0", "--wheel", "0.36.2")
    session.run("virtualenv", "--quiet", "--python", python2, *seeds, str(suite), silent=True)
    install = (str(suite / "bin" / "pip"), "--quiet", "install", "--no-build-isolation")
    # Without build isolation Twisted finds what it is built with only if that is there before.
    session.run(*install, "incremental==16.10.1", external=True, silent=True)
    requirements = "tests/conformance/requirements.txt"
    session.run(*install, "-r", requirements, external=True, silent=True)
    wstest = str(suite / "bin" / "wstest")
    session.run(
        "python", "-m", "tests.conformance", wstest, str(where / "reports"), *session.posargs
    )


def find_python2() -> str | None:
    """Return a Python 2.7 that runs, if there is one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for python in shutil.which("python2.7"), *map(str, root.glob("versions/2.7*/bin/python2.7")):
        # pyenv puts programs on the path for Pythons that it then does not run.
        if python and subprocess.run([python, "-V"], capture_output=True).returncode == 0:
            return python
    return None


@nox.session
def fuzz(session: nox.Session) -> None:
    """Hunt for inputs that trioweb does not stand; `-- --seconds 600 frames` for longer."""
    try:
        session.install("--only-binary", "atheris", *group("fuzz"))
    except CommandFailed:
        session.skip("atheris has no wheel for this Python and system")
    session.install(".", *group("tests"))
    # Kept, so that the next run goes on where this one ends.
    corpus = folder(session) / "corpus"
    session.run("python", "-m", "tests.fuzz", "--corpus", str(corpus), *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory beside other libraries (half an hour; leave the machine alone)."""
    session.install(".", *group("bench"))
    if shutil.which("npm") is None:
        session.warn("no npm on the path (apt-get install nodejs npm): without Node's ws")
    else:
        install_node_packages(session)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Start the broadcast server with its chat page."""
    session.install(".[cli]")
    session.run("trioweb", "serve", *session.posargs)
