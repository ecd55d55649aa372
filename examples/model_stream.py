"""The answer of a language model, streamed: a reload in mid-answer goes on where it was.

    python examples/model_stream.py --port 8000

Open the address that it prints, ask something, and reload the page while the answer comes; or
ask and read with curl:

    curl -d 'What is a nursery?' http://127.0.0.1:8000/runs       (it answers with a path: /runs/…)
    curl -N http://127.0.0.1:8000PATH

Each run is a topic, and the task that writes its answer lives in the program's own nursery, not
in a connection's.  So the answer goes on while nobody reads it, any number of peers may read it,
and whoever comes back says how far it has it: an EventSource by `Last-Event-ID`, a WebSocket by
`?since=EPOCH:OFFSET`; its messages are `["EPOCH:OFFSET", publication]`.  A run can be read for
ten minutes after its end, by whoever knows its path; with `--store FILE` as long as it is stored,
though the program was killed in between.  An answer that was cut off by that says so at its end.

The model is simulated; put yours into `Run.answer`.  Ctrl-C or SIGTERM ends all softly.
"""

import argparse
import json
import re
import secrets
import signal
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import trio

import trioweb

PAGE = Path(__file__).with_suffix(".html").read_bytes()
MAX_QUESTION_BYTES = 2000
MAX_PIECES = 2000  # of an answer; none of them leaves the topic before the run is forgotten
MAX_RUNS = 500  # that are answered or can still be read
KEEP_SECONDS = 600
NO_SUCH_RUN = 4404  # a browser's WebSocket shows its page no status, but the code of a Close
RETAIN = trioweb.Retain(max_messages=MAX_PIECES + 1)
CUT_OFF = "the program was started again in the middle of this answer"
POSITION = re.compile(r"([0-9a-f]{1,64}):([0-9]{1,18})")
# Says of nothing that the peer has it, so it gets all, and is told that something may be missing.
NOWHERE = ("", 0)


class ModelError(Exception):
    """The model cannot go on."""


def model(question: str) -> Iterator[str]:
    """The words of an answer.  One may ask this model to fail."""
    text = (
        f"You ask: “{question}” A nursery is a block that does not end before the tasks that were "
        "started in it. So a task lives as long as the block whose nursery it is in, and the "
        "question is always: whose? This answer is written in a nursery of the whole program. "
        "Your connection only reads it. Cut it, reload the page, change from a stream of events "
        "to a WebSocket: the next word comes behind the last one that you have, and none twice."
    )
    for number, word in enumerate(text.split()):
        if number == 20 and question == "fail":
            raise ModelError("the model has failed, as it was asked to")
        yield word if number == 0 else f" {word}"


class Run:
    """An answer as a topic.

    Its publications are JSON: `{"text": …}` for each piece, and at last `{"end": …}`, with what
    went wrong, or "" if nothing did.
    """

    def __init__(self, topic: trioweb.Topic) -> None:
        self.topic = topic

    def publish(self, **message: str) -> None:
        self.topic.publish(json.dumps(message), kind="json")

    async def answer(self, question: str, pace: float) -> None:
        try:
            # Of a model with an asynchronous API: `async for`.
            for piece in islice(model(question), MAX_PIECES):
                await trio.sleep(pace)
                self.publish(text=piece)
        except ModelError as error:  # which ends this run, and no other
            self.publish(end=str(error))
        else:
            self.publish(end="")

    def encode(self, publication: trioweb.Publication) -> str:
        """What a WebSocket gets; once for all of them."""
        return f'["{self.topic.epoch}:{publication.offset}", {publication.message!s}]'

    async def watch(self, connection: trioweb.Connection) -> None:
        since: tuple[str, int] | int = 0  # the whole answer
        if given := connection.request.query.get("since"):
            match = POSITION.fullmatch(given)
            since = (match[1], int(match[2])) if match else NOWHERE
        with self.topic.subscribe(connection, since=since, encode=self.encode) as subscription:
            if not subscription.recovered:
                # Ahead of what is there, as nothing is written before the next checkpoint.
                connection.send_nowait(json.dumps([None, {"gap": subscription.skipped}]))
            await connection.wait_closed()


class Runs:
    """The runs by path, and the nursery that they are answered in."""

    def __init__(
        self, hub: trioweb.Hub, nursery: trio.Nursery, pace: float, *, is_stored: bool
    ) -> None:
        self.is_stored = is_stored
        self.hub = hub
        self.nursery = nursery
        self.pace = pace
        self.runs: dict[str, Run] = {}

    async def keep(self, path: str, question: str) -> None:
        await self.runs[path].answer(question, self.pace)
        await self.forget(path)

    async def forget(self, path: str) -> None:
        await trio.sleep(KEEP_SECONDS)
        del self.runs[path]

    async def find(self, path: str) -> Run | None:
        if path in self.runs or not self.is_stored:
            return self.runs.get(path)
        topic = self.hub.topic(path, retain=RETAIN)
        if not topic.head:
            return None
        # What an earlier process has left in the store.
        await topic.load(history=1)
        if path not in self.runs:  # as others may ask for it, too
            self.runs[path] = run = Run(topic)
            if not any(
                '"end"' in str(last.message) for last in topic.history(reverse=True, count=1)
            ):
                run.publish(end=CUT_OFF)
            self.nursery.start_soon(self.forget, path)
        return self.runs[path]

    async def http(self, request: trioweb.Request) -> trioweb.Response:
        match request.method, request.path:
            case "GET", "/":
                return trioweb.Response(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})
            case "GET", path if run := await self.find(path):
                return trioweb.event_stream(request, run.topic, history=MAX_PIECES + 1)
            case "POST", "/runs":
                body = await request.body(MAX_QUESTION_BYTES)
                question = " ".join(body.decode(errors="replace").split())
                if not question:
                    return trioweb.Response(400, "Ask something.\n")
                if len(self.runs) >= MAX_RUNS:
                    return trioweb.Response(503, "Too many runs.\n", {"Retry-After": "60"})
                path = f"/runs/{secrets.token_urlsafe(16)}"
                self.runs[path] = Run(self.hub.topic(path, retain=RETAIN))
                self.nursery.start_soon(self.keep, path, question)
                return trioweb.Response(201, f"{path}\n")
            case _:
                return trioweb.Response(404, "There is no such run (any more).\n")

    async def watch(self, connection: trioweb.Connection) -> None:
        run = await self.find(connection.request.path)
        if run is None:
            await connection.aclose(NO_SUCH_RUN, "no such run")
        else:
            await run.watch(connection)


async def main(port: int, pace: float, store: str | None) -> None:
    async with trioweb.open_hub(store=store) as hub, trio.open_nursery() as nursery:
        runs = Runs(hub, nursery, pace, is_stored=store is not None)
        serve = partial(trioweb.serve, runs.watch, host="127.0.0.1", http=runs.http, hub=hub)
        server: trioweb.Server = await nursery.start(serve, port)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            await anext(signals)
        # Outside of the block above, so that a second Ctrl-C stops at once.
        await server.drain()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A model's answers as topics.")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds for each word")
    parser.add_argument("--store", help="a file that keeps the answers over a restart")
    arguments = parser.parse_args()
    trio.run(main, arguments.port, arguments.pace, arguments.store)
