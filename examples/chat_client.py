"""The other half of chat_server.py: the chat in a terminal, whatever happens to its connections.

    python examples/chat_client.py Ada --url ws://127.0.0.1:8000/

Each line goes to everybody; `/who` tells who is here, `/msg NAME TEXT` is for one member.  Lines
that are entered while the server is away are sent when it is back: kill it and start it again.
Ctrl-D, Ctrl-C or SIGTERM ends it.

Lines are kept until the server's endpoint has confirmed them (`confirm=True`), so one may arrive
twice, if the connection dies between a line and its confirmation.
"""

import argparse
import logging
import re
import signal
import sys
from urllib.parse import quote

import trio

import trioweb

# What could move the terminal's cursor; a server may be anybody's.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class NameTaken(Exception):
    pass


def show(line: str | bytes) -> None:
    text = line if isinstance(line, str) else line.decode(errors="replace")
    print(CONTROL.sub(" ", text), flush=True)


class Membership:
    """Joins the chat on each new connection, before any line is sent there."""

    def __init__(self) -> None:
        self.joined = False

    async def join(self, connection: trioweb.Connection) -> None:
        first = await connection.receive()
        if isinstance(first, str) and first.startswith("* Your name?"):
            if not self.joined:
                raise NameTaken("that name is taken, or is not one word of at most 20 letters")
            # The server may take us for there still.  An OSError is a reason to try again.
            raise OSError("the name is taken")
        show("* connected again; the latest lines once more:" if self.joined else "* connected")
        show(first)
        self.joined = True


async def show_all(messages: trioweb.Messages[str | bytes | trioweb.Event]) -> None:
    async for item in messages:
        match item:
            case trioweb.Lost(error=error):
                show(f"* {error}; what you enter now is sent when it is back")
            case str() | bytes():
                show(item)


async def stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        scope.cancel()


async def main(name: str, url: str) -> None:
    show(f"* connecting to {url}")
    async with trioweb.open_client(
        f"{url}?name={quote(name)}",
        on_open=Membership().join,
        outbox=trioweb.Outbox(confirm=True),
    ) as client:
        with client.messages(events=True) as messages:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(show_all, messages)
                nursery.start_soon(stop_on_signal, nursery.cancel_scope)
                # In a thread, as a terminal belongs to the shell, too, and must stay blocking.
                while line := await trio.to_thread.run_sync(
                    sys.stdin.readline, abandon_on_cancel=True
                ):
                    await client.send(line.rstrip())
                await client.flush()
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat in a terminal.")
    parser.add_argument("name")
    url = "ws://127.0.0.1:8000/"
    parser.add_argument("--url", default=url, help=f"of chat_server.py (default: {url})")
    arguments = parser.parse_args()
    # Each failed attempt is a warning; this chat tells of the connection itself.
    logging.getLogger("trioweb").setLevel(logging.ERROR)
    try:
        trio.run(main, arguments.name, arguments.url)
    except* (ValueError, NameTaken, trioweb.GaveUp, trioweb.Unsent) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sys.exit(f"chat_client: {error}")
    except* KeyboardInterrupt:
        sys.exit(130)  # a second Ctrl-C
