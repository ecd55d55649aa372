"""A chat: names, join and leave notices, history for newcomers, private messages.

    python examples/chat_server.py --port 8000

Open the address that it prints in some browser windows, or use any WebSocket client:

    websocat 'ws://127.0.0.1:8000/?name=Ada'

Whoever comes without a free `?name=` is asked for one.  A line goes to everybody, `/msg NAME
TEXT` to one member, `/who` tells who is here.  Ctrl-C or SIGTERM ends the chat softly.

It speaks plain text, so that whatever has a WebSocket is a client of it, down to `websocat`, and
the page needs no SDK.  What clients of the Centrifuge protocol bring by themselves (who is here,
what was missed) is written out here instead: `scores.py` has a page that has it from there.

One handler runs for each connection, and what it registers it registers for the length of a
`with` block: however a connection ends, its member has left.
"""

import argparse
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

import trioweb

PAGE = Path(__file__).with_suffix(".html").read_bytes()
# Nobody can have the name "*", so nobody can write what looks like a notice.
NAME = re.compile(r"[\w-]{1,20}")
# Control characters and line ends: a member could forge somebody else's line with them.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
HELP = "* /who tells who is here, /msg NAME TEXT is for one member only"


def one_line(message: str | bytes) -> str:
    text = message if isinstance(message, str) else message.decode(errors="replace")
    return CONTROL.sub(" ", text).strip()


class Chat:
    def __init__(self, lobby: trioweb.Topic) -> None:
        self.lobby = lobby
        self.members: dict[str, trioweb.Connection] = {}

    async def handle(self, connection: trioweb.Connection) -> None:
        name = await self.ask_name(connection)
        with self.membership(name, connection), self.lobby.subscribe(connection, history=20):
            async for message in connection:
                line = one_line(message)
                match line.split(maxsplit=2):
                    case []:
                        pass
                    case ["/who"]:
                        await connection.send("* here: " + ", ".join(sorted(self.members)))
                    case ["/msg", to, text]:
                        await connection.send(self.whisper(to, f"{name} → {to}: {text}"))
                    case [command, *_] if command.startswith("/"):
                        await connection.send(HELP)
                    case _:
                        self.lobby.publish(f"{name}: {line}")

    async def ask_name(self, connection: trioweb.Connection) -> str:
        name = connection.request.query.get("name", "")
        while not NAME.fullmatch(name) or name in self.members:
            await connection.send("* Your name? One word, and not the name of a member.")
            name = one_line(await connection.receive())
        return name

    @contextmanager
    def membership(self, name: str, connection: trioweb.Connection) -> Iterator[None]:
        self.members[name] = connection
        self.lobby.publish(f"* {name} joined")
        try:
            yield
        finally:
            del self.members[name]
            self.lobby.publish(f"* {name} left")

    def whisper(self, to: str, line: str) -> str:
        """Send *line* to one member; return what to tell the sender."""
        try:
            # Not `send`: that waits for a peer that does not read, and the sender with it.
            self.members[to].send_nowait(line)
        except KeyError:
            return f"* {to} is not here"
        except (trio.WouldBlock, trioweb.ConnectionClosed):
            return f"* {to} cannot be reached now"
        return line


async def http(request: trioweb.Request) -> trioweb.Response:
    if request.path != "/":
        return trioweb.Response(404, "There is only / here.\n")
    return trioweb.Response(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})


async def main(port: int) -> None:
    async with trioweb.open_hub() as hub, trio.open_nursery() as nursery:
        serve = partial(
            trioweb.serve,
            Chat(hub.topic("lobby")).handle,
            port,
            host="127.0.0.1",
            http=http,
            limits=trioweb.Limits(max_message_bytes=4000),
            hub=hub,
        )
        server: trioweb.Server = await nursery.start(serve)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            await anext(signals)
        # Outside of the block above, so that a second Ctrl-C stops at once.
        await server.drain()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat for browsers and WebSocket clients.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    trio.run(main, parser.parse_args().port)
