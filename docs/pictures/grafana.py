"""Draw the panels of docs/grafana.json, from what a Prometheus has scraped of programs of ours.

    python docs/pictures/grafana.py PROMETHEUS

PROMETHEUS is its server (in Debian's package `prometheus`), which is asked each panel's own
queries.  Takes two minutes, in which peers come and go, one does not read, and a broker is away for
a while.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib as mpl
import trio
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

import trioweb
from trioweb.testing import MemoryBroker

BOARD: Final = Path(__file__).parents[1] / "grafana.json"
PICTURE: Final = Path(__file__).parent / "grafana.png"
_SECONDS: Final = 120
# When the broker goes, and when it is back.
_AWAY: Final = (50, 80)
_ADDRESS: Final = "127.0.0.1:9097"  # Prometheus'
_RATE: Final = "10s"
_SLOW: Final = trioweb.Retain(max_messages=50, patience=1)
_CONFIGURATION: Final = """\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: trioweb
    static_configs:
      - targets: [{targets}]
"""


# What is scraped: two nodes, one with a store and one with a broker, and who uses them.


async def _serve(nursery: trio.Nursery, hub: trioweb.Hub, clients: list[trioweb.Client]) -> int:
    """Serve *hub*, and tell its numbers and those of the first client; return the port."""
    servers: list[trioweb.Server] = []

    async def handle(connection: trioweb.Connection) -> None:
        path, query = connection.request.path, connection.request.query
        if path == "/bug":
            raise RuntimeError("a bug")
        since = (query["epoch"], int(query["offset"])) if query else None
        slow = "latest" if path == "/latest" else "evict"
        topic = hub.topic(path[1:], retain=_SLOW, slow=slow)
        with topic.subscribe(connection, since=since):
            async for message in connection:
                topic.publish(message)

    async def http(request: trioweb.Request) -> trioweb.Response:
        if request.path != "/metrics":
            return trioweb.Response(404, "not here\n")
        page = await trioweb.metrics(
            hub=hub, server=servers[0], client=clients[0] if clients else None, topics=["prices"]
        )
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return trioweb.Response(200, page, [("Content-Type", kind)])

    heartbeat = trioweb.Heartbeat(interval=2, timeout=4)
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "hub": hub,
        "http": http,
        "heartbeat": heartbeat,
    }
    servers.append(await nursery.start(partial(trioweb.serve, handle, 0, **options)))
    assert servers[0].port is not None
    return servers[0].port


async def _come_and_go(url: str, hub: trioweb.Hub, dice: random.Random) -> None:
    """Peers that stay for a while, come back with their position, and sometimes too late."""
    while True:
        await trio.sleep(dice.expovariate(2))
        topic = hub.topic("prices")
        offset = max(0, topic.head - dice.choice((0, 5, 5000)))
        query = f"?epoch={topic.epoch}&offset={offset}" if dice.random() < 0.5 else ""
        with suppress(trioweb.TriowebError), trio.move_on_after(dice.expovariate(1 / 4)):
            async with trioweb.open_connection(f"{url}prices{query}") as connection:
                await connection.wait_closed()


async def _do_not_read(url: str, path: str) -> None:
    while True:
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rsplit(":", 1)[1][:-1]))
        head = f"GET /{path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        await stream.send_all(head.encode())
        await trio.sleep(25)
        await stream.aclose()


async def _do_wrong(url: str, dice: random.Random) -> None:
    """Requests that are refused, answered, or find a bug."""
    while True:
        await trio.sleep(dice.expovariate(0.7))
        path = dice.choice(("bug", "prices", "nowhere"))
        if path == "bug":
            with suppress(trioweb.TriowebError):
                async with trioweb.open_connection(f"{url}bug") as connection:
                    await connection.receive()
            continue
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n" if path == "prices" else ""
        stream = await trio.open_tcp_stream("127.0.0.1", int(url.rsplit(":", 1)[1][:-1]))
        await stream.send_all(f"GET /{path} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode())
        await stream.receive_some()
        await stream.aclose()


async def _publish(hub: trioweb.Hub, name: str, rate: float, size: int) -> None:
    dice = random.Random(name)
    while True:
        await trio.sleep(dice.expovariate(rate))
        with suppress(trioweb.TriowebError):
            hub.topic(name, retain=_SLOW).publish(dice.randbytes(size))


async def _talk(client: trioweb.Client) -> None:
    while True:
        await client.send("hello")
        await trio.sleep(0.4)


async def _run_programs(prometheus: str, directory: Path, draw: Callable[[str], None]) -> None:
    logging.disable(logging.ERROR)  # all that goes wrong does so on purpose
    dice = random.Random(4)
    broker = MemoryBroker()
    clients: list[trioweb.Client] = []
    async with (
        trioweb.open_hub(store=directory / "topics.db") as stored,
        trioweb.open_hub(broker=broker) as joined,
        trio.open_nursery() as nursery,
    ):
        ports = [await _serve(nursery, hub, clients) for hub in (stored, joined)]
        urls = [f"ws://127.0.0.1:{port}/" for port in ports]
        for url, hub in zip(urls, (stored, joined), strict=True):
            for _ in range(12):
                nursery.start_soon(_come_and_go, url, hub, dice)
            nursery.start_soon(_do_wrong, url, dice)
            nursery.start_soon(_publish, hub, "prices", 20, 300)
        for path in "large", "latest":
            nursery.start_soon(_do_not_read, urls[0], path)
            nursery.start_soon(_publish, stored, path, 50, 40_000)
        async with trioweb.open_client(f"{urls[1]}lobby") as client:
            clients.append(client)
            nursery.start_soon(_talk, client)
            targets = ", ".join(f"127.0.0.1:{port}" for port in ports)
            (directory / "prometheus.yml").write_text(_CONFIGURATION.format(targets=targets))
            command = [
                prometheus,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address={_ADDRESS}",
                "--log.level=error",
            ]
            nursery.start_soon(trio.run_process, command)
            await trio.sleep(_AWAY[0])
            broker.shut_down()
            await trio.sleep(_AWAY[1] - _AWAY[0])
            broker.start()
            await trio.sleep(_SECONDS - _AWAY[1])
            await trio.to_thread.run_sync(draw, f"http://{_ADDRESS}")
        nursery.cancel_scope.cancel()


# What is drawn.


def _ask(url: str, query: str, end: float) -> list[Any]:
    """What Prometheus has to say to *query*: for each series its labels and its points."""
    for name, value in {"$__rate_interval": _RATE, "$job": ".*", "$instance": ".*"}.items():
        query = query.replace(name, value)
    asked = urlencode({"query": query, "start": end - _SECONDS, "end": end, "step": 1})
    with urlopen(f"{url}/api/v1/query_range?{asked}", timeout=30) as answer:
        told = json.load(answer)
    found: list[Any] = told["data"]["result"]
    return found


def _now(url: str) -> float:
    with urlopen(f"{url}/api/v1/query?query=time()", timeout=30) as answer:
        return float(json.load(answer)["data"]["result"][1])


def _amount(unit: str) -> FuncFormatter:
    """How an axis in *unit*, one of Grafana's, is labelled."""
    if unit in ("bytes", "Bps"):
        units, step = ("B", "KiB", "MiB", "GiB"), 1024
    elif unit == "s":
        return FuncFormatter(lambda value, _: f"{value * 1000:g} ms")
    else:
        units, step = ("", "k", "M"), 1000

    def show(value: float, _: int) -> str:
        for name in units:
            if abs(value) < step or name == units[-1]:
                break
            value /= step
        return f"{value:.3g} {name}".rstrip() + ("/s" if unit == "Bps" else "")

    return FuncFormatter(show)


def _draw_panel(axes: Axes, panel: Any, url: str, end: float) -> None:
    axes.set_title(panel["title"], loc="left", fontsize=9, fontweight="bold")
    for target in panel["targets"]:
        for series in _ask(url, target["expr"], end):
            name = re.sub(
                r"\{\{(\w+)\}\}",
                lambda found, labels=series["metric"]: labels.get(found[1], ""),
                target["legendFormat"],
            )
            points = [(float(at) - end, float(value)) for at, value in series["values"]]
            axes.plot(*zip(*points, strict=True), linewidth=1.2, label=name)
    axes.set_xlim(-_SECONDS, 0)
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # the legend has room above the lines
    axes.set_xticks([-120, -90, -60, -30, 0], ["−2 min", "", "−1 min", "", "now"])
    axes.yaxis.set_major_formatter(_amount(panel["fieldConfig"]["defaults"]["unit"]))
    axes.tick_params(labelsize=7, length=0, colors="#5a6068")
    axes.grid(color="#e6e8eb", linewidth=0.7)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.legend(fontsize=6.5, frameon=False, loc="upper left", ncols=3, columnspacing=1)


def draw(url: str) -> None:
    """Draw all panels, where each of them stands on the dashboard."""
    board = json.loads(BOARD.read_text("utf-8"))
    panels = board["panels"]
    end = _now(url)
    rows = max(panel["gridPos"]["y"] // panel["gridPos"]["h"] for panel in panels) + 1
    mpl.use("Agg")
    figure, places = pyplot.subplots(rows, 3, figsize=(13, 2.3 * rows), layout="constrained")
    for panel in panels:
        at = panel["gridPos"]
        _draw_panel(places[at["y"] // at["h"], at["x"] // at["w"]], panel, url, end)
    # By these a test knows that the picture and the dashboard show the same.
    titles = json.dumps([panel["title"] for panel in panels], ensure_ascii=True)
    figure.savefig(PICTURE, dpi=110, metadata={"Description": titles})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trio.run(_run_programs, sys.argv[1], Path(folder), draw)
