"""Our server with all its doors to one topic: plain WebSockets, members in both formats, events.

What a member's frame has around its data is taken off the data, so that all get as many bytes.
"""

from functools import partial
from typing import Any, Final

from . import wire
from .doors import PLAIN, TOPIC
from .jobs import Job

# What stands around the data of a publication whose offset has four digits, about.
_AROUND: Final = {PLAIN: 0, "json": 61, "protobuf": 20, "events": 39}


async def serve_doors(job: Job) -> None:
    import trio

    import trioweb

    task = job.task
    text = "x" * (task.size - _AROUND[task.door])
    rules = trioweb.TopicRules(retain=trioweb.Retain(max_messages=max(task.publications, 1000)))

    async with (
        trioweb.open_hub() as hub,
        trioweb.open_topic_server(hub, topics={"": rules}) as topics,
        trio.open_nursery() as nursery,
    ):
        topic = hub.topic(TOPIC, retain=rules.retain)

        async def handler(connection: trioweb.Connection) -> None:
            job.connected()  # the load says when all of them are subscribed
            if connection.subprotocol is not None:
                await topics.handle(connection)
                return
            with topic.subscribe(connection):
                async for _ in connection:
                    pass

        async def http(request: trioweb.Request) -> trioweb.Response:
            job.connected()
            return trioweb.event_stream(request, topic)

        async def publish(message: str) -> None:
            if task.door in ("json", "protobuf"):
                topics.publish(TOPIC, text)
            else:
                topic.publish(text)

        for _ in range(task.publications):
            await publish("")
        options: dict[str, Any] = {"host": wire.HOST, "hub": hub, "http": http}
        options["subprotocols"] = topics.subprotocols
        server = await nursery.start(partial(trioweb.serve, handler, 0, **options))
        job.listening(server.port)
        await job.measure(publish)
