"""Live scores for a page that uses stock centrifuge-js: who watches, what was missed, calls.

    python examples/scores.py --port 8000

Open the address that it prints.  The page is bundled with the SDK at the first start, which needs
npm (Debian's packages nodejs and npm) and its registry; nothing of it is kept here.  The server
needs `trioweb[centrifuge]`.

Each match is a topic.  Press "Cut the connection", or stop the network: the SDK comes back, says
how far it has each topic, and gets what it missed.  Kill the server and start it again: the page
is told that what it has belongs to another life of the topics, and reads what there is now.

The matches are simulated; put yours into `Match.play`.  Ctrl-C or SIGTERM ends all softly.
"""

import argparse
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

import trioweb

HERE = Path(__file__).with_suffix("")
PAGE = HERE / "index.html"
SCRIPT = HERE / "page.js"
PACKAGE = HERE / "package.json"
BUNDLE = HERE / "build" / "page.js"
INSTALL = ("npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock")
BUILD = ("npm", "run", "--silent", "build")
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
TEAMS = (("Ada Athletic", "Babbage City"), ("Curie Rovers", "Darwin United"))
MINUTES = 90
MAX_NAME = 40
RULES = trioweb.TopicRules(
    retain=trioweb.Retain(max_messages=500), history=True, presence=True, join_leave=True
)


def bundle() -> None:
    """Have npm make what browsers load, unless that is there and newer than what it is made of."""
    sources = max(path.stat().st_mtime for path in (SCRIPT, PACKAGE))
    if BUNDLE.exists() and BUNDLE.stat().st_mtime >= sources:
        return
    print("bundling the page with npm", file=sys.stderr)
    for command in (INSTALL, BUILD):
        try:
            subprocess.run(command, cwd=HERE, check=True, stdout=sys.stderr, timeout=300)
        except FileNotFoundError:
            sys.exit("scores: there is no npm on the path (apt-get install nodejs npm)")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            sys.exit(f"scores: {error}")


class Match:
    """A match as a topic; each of its publications is the whole score, and what has happened."""

    def __init__(self, number: int, home: str, away: str) -> None:
        self.topic = f"match:{number}"
        self.home = home
        self.away = away
        self.goals = {home: 0, away: 0}
        self.cheers = {home: 0, away: 0}
        self.minute = 0

    def score(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "minute": self.minute,
            "teams": [
                {"name": name, "goals": self.goals[name], "cheers": self.cheers[name]}
                for name in (self.home, self.away)
            ],
        }

    def publish(self, server: trioweb.TopicServer, what: str) -> None:
        server.publish(self.topic, self.score() | {"what": what})

    async def play(self, server: trioweb.TopicServer, pace: float, chance: random.Random) -> None:
        while True:
            self.goals = dict.fromkeys(self.goals, 0)
            for self.minute in range(1, MINUTES + 1):
                await trio.sleep(pace)
                if chance.random() < 0.05:
                    team = chance.choice((self.home, self.away))
                    self.goals[team] += 1
                    self.publish(server, f"Goal for {team}!")
                else:
                    self.publish(server, "")
            self.publish(server, "Full time.")


class Scores:
    """What the callables of the topic server share."""

    def __init__(self) -> None:
        self.matches = [Match(number, *teams) for number, teams in enumerate(TEAMS, 1)]
        self.server: trioweb.TopicServer | None = None

    def rules(self, name: str) -> trioweb.TopicRules | None:
        return RULES if any(match.topic == name for match in self.matches) else None

    async def on_connect(
        self, member: trioweb.Member, request: trioweb.ConnectRequest
    ) -> trioweb.Welcome:
        """Take anybody's word for their name; a real program asks for a token."""
        data = request.data if isinstance(request.data, dict) else {}
        name = str(data.get("name") or "somebody")[:MAX_NAME]
        return trioweb.Welcome(user=name)

    async def list_matches(self, member: trioweb.Member, data: Any) -> Any:
        return [match.score() for match in self.matches]

    async def cheer(self, member: trioweb.Member, data: Any) -> Any:
        """Cheer for a team; returns how often that was done, and everybody is told."""
        for match in self.matches:
            if isinstance(data, str) and data in match.cheers:
                match.cheers[data] += 1
                assert self.server is not None
                match.publish(self.server, f"{member.user} cheers for {data}.")
                return match.cheers[data]
        raise trioweb.Refuse(1404, "there is no such team")

    async def cut(self, member: trioweb.Member, data: Any) -> None:
        """Send the caller's connection away, as if the network had failed."""
        member.dismiss(3011, "force reconnect")


async def http(request: trioweb.Request) -> trioweb.Response:
    path = {"/": PAGE, "/page.js": BUNDLE}.get(request.path)
    if path is None:
        return trioweb.Response(404, "There is only / here.\n")
    body = await trio.Path(path).read_bytes()
    headers = {"Content-Type": TYPES[path.suffix], "Cache-Control": "no-cache"}
    return trioweb.Response(200, body, headers)


async def main(port: int, pace: float) -> None:
    scores = Scores()
    async with (
        trioweb.open_hub() as hub,
        trioweb.open_topic_server(
            hub,
            topics=scores.rules,
            on_connect=scores.on_connect,
            calls={"matches": scores.list_matches, "cheer": scores.cheer, "cut": scores.cut},
        ) as topics,
        trio.open_nursery() as nursery,
    ):
        scores.server = topics
        serve = partial(
            trioweb.serve,
            topics.handle,
            port,
            host="127.0.0.1",
            http=http,
            hub=hub,
            subprotocols=topics.subprotocols,
            # The protocol has pings of its own, each 25 s.
            heartbeat=trioweb.Heartbeat(interval=35),
            limits=trioweb.Limits(max_message_bytes=65536),
        )
        server: trioweb.Server = await nursery.start(serve)
        for match in scores.matches:
            nursery.start_soon(match.play, topics, pace, random.Random())
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            await anext(signals)
        # Outside of the block above, so that a second Ctrl-C stops at once.
        await server.drain(code=3001, reason="shutdown")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Live scores for a page with centrifuge-js.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    parser.add_argument("--pace", type=float, default=1, help="seconds for a minute of a match")
    arguments = parser.parse_args()
    bundle()
    trio.run(main, arguments.port, arguments.pace)
