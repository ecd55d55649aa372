"""The pytest plugin: a network for each test, the same one each time, and what to do if it fails.

Every run of pytest in an environment that has trioweb loads this module, whether it tests trioweb's
users or not.  So it stands beside the package, and imports nothing but pytest until a test asks for
the fixture: it costs other runs nothing, and a coverage tool sees trioweb being imported.

Rules kept here: a test's seed comes from its name, or from the command line; a failure says how to
see it again.  Works with pytest-trio's autojump clock, needs neither pytest-trio nor hypothesis
itself, and runs on pytest 7 as on those after it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from trioweb.testing import Network

_MARKER: Final = "network_conditions"
# The network of a test, under whichever name its fixture goes.
_USED: Final = pytest.StashKey["Network"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trioweb", "networks in memory")
    group.addoption(
        "--network-seed",
        type=int,
        metavar="SEED",
        help="seed of the `network` fixture, instead of one from each test's name",
    )
    group.addoption(
        "--network-trace",
        type=int,
        default=40,
        metavar="EVENTS",
        help="how many events of the network a failure shows (%(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(seed, latency, jitter, bandwidth, segment, max_bytes): "
        "what the `network` fixture is like; see trioweb.testing.Network",
    )


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A `trioweb.testing.Network`, seeded from the test's name; its run is deterministic."""
    import zlib

    from trioweb.testing import Network, deterministic

    options: dict[str, Any] = {"seed": zlib.crc32(request.node.name.encode())}
    if marker := request.node.get_closest_marker(_MARKER):
        options |= marker.kwargs
    if (chosen := request.config.getoption("--network-seed")) is not None:
        options["seed"] = chosen
    made = request.node.stash[_USED] = Network(**options)
    with deterministic(made.seed):
        yield made


# In the older form, which pytest 7 and pytest 9 both know.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    report = (yield).get_result()
    used = item.stash.get(_USED, None)
    if report.failed and used is not None:
        again = f"pytest '{item.nodeid}' --network-seed={used.seed}"
        trace = used.trace.tail(item.config.getoption("--network-trace"))
        report.sections.append(("network", f"run it again with: {again}\n{trace}"))
