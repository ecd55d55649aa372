"""The pytest plugin: a network for each test, the same one each time, and what to do if it fails.

Rules kept here: a test's seed comes from its name, or from the command line; a failure says how
to see it again.  Works with pytest-trio's autojump clock, and needs neither pytest-trio nor
hypothesis itself.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator

import pytest

from ._network import Network
from ._scheduling import deterministic

_MARKER = "network_conditions"


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
    options = {"seed": zlib.crc32(request.node.name.encode())}
    if marker := request.node.get_closest_marker(_MARKER):
        options |= marker.kwargs
    if (chosen := request.config.getoption("--network-seed")) is not None:
        options["seed"] = chosen
    made = Network(**options)
    with deterministic(made.seed):
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    used = getattr(item, "funcargs", {}).get("network")
    if report.failed and isinstance(used, Network):
        again = f"pytest '{item.nodeid}' --network-seed={used.seed}"
        trace = used.trace.tail(item.config.getoption("--network-trace"))
        report.sections.append(("network", f"run it again with: {again}\n{trace}"))
    return report
