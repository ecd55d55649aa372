"""Traces of a chat, for OpenTelemetry: one span for each connection, and what it published.

    python -m pip install opentelemetry-sdk
    python examples/tracing.py --port 8000

Talk over it (`trioweb connect ws://127.0.0.1:8000/`), end it with Ctrl-C, and read the spans on
standard output; with another exporter than the console's they go to Jaeger, Tempo and the like.

A connection's span has as events what happened to it.  Each message is a span of its own within
that.  What is published reaches everybody in one pass, so a pass has a span, which *links* to the
messages that it delivered.
"""

import argparse
import signal
import time
from functools import partial

import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import trioweb

# Ends that are no fault.
FINE = {1000, 1001, 1005, 1012}
# Of so many messages without a pass it is remembered whose they are.
MAX_PUBLISHED = 10_000


class Traces(trioweb.Observer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._connections: dict[str, trace.Span] = {}
        self._published: dict[tuple[str, int], trace.SpanContext] = {}

    # What the server and the hub tell.

    def on_open(self, connection: trioweb.Connection) -> None:
        attributes = {"websocket.id": connection.id, "url.path": connection.request.path}
        self._connections[connection.id] = self._tracer.start_span(
            "websocket", kind=trace.SpanKind.SERVER, attributes=attributes
        )

    def on_end(self, connection: trioweb.Connection) -> None:
        span = self._connections.pop(connection.id)
        code = connection.close_code or 1006
        span.set_attribute("websocket.close_code", code)
        if code not in FINE:
            span.set_status(trace.StatusCode.ERROR, connection.close_reason)
        span.end()

    def on_stall(self, connection: trioweb.Connection, seconds: float) -> None:
        self._connections[connection.id].add_event("stalled", {"seconds": seconds})

    def on_eviction(self, connection: trioweb.Connection, topic: str) -> None:
        self._connections[connection.id].add_event("evicted", {"topic": topic})

    def on_refusal(self, remote: object, status: int, reason: str) -> None:
        span = self._tracer.start_span("refused")
        span.set_attributes({"http.response.status_code": status, "reason": reason})
        span.end()

    def on_pass(self, topic: str, offsets: range, seconds: float) -> None:
        whose = [self._published.pop((topic, offset), None) for offset in offsets]
        links = [trace.Link(context) for context in whose if context is not None]
        if links:
            end = time.time_ns()
            start = end - int(seconds * 1e9)
            span = self._tracer.start_span("delivered", links=links, start_time=start)
            span.set_attributes({"topic": topic, "publications": len(offsets)})
            span.end(end)

    # What the program does.

    def publish(self, connection: trioweb.Connection, topic: trioweb.Topic, text: str) -> None:
        """Publish *text*, which *connection* has sent."""
        within = trace.set_span_in_context(self._connections[connection.id])
        with self._tracer.start_as_current_span("publish", within) as span:
            offset = topic.publish(text)
            span.set_attributes({"topic": topic.name, "offset": offset})
            self._published[topic.name, offset] = span.get_span_context()
        if len(self._published) > MAX_PUBLISHED:
            self._published.pop(next(iter(self._published)))


class Chat:
    def __init__(self, traces: Traces, lobby: trioweb.Topic) -> None:
        self.traces = traces
        self.lobby = lobby

    async def handle(self, connection: trioweb.Connection) -> None:
        with self.lobby.subscribe(connection):
            async for message in connection:
                self.traces.publish(connection, self.lobby, str(message))


async def main(port: int, tracer: trace.Tracer) -> None:
    traces = Traces(tracer)
    async with trioweb.open_hub(observer=traces) as hub, trio.open_nursery() as nursery:
        chat = Chat(traces, hub.topic("lobby"))
        serve = partial(trioweb.serve, host="127.0.0.1", hub=hub, observer=traces)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            server: trioweb.Server = await nursery.start(serve, chat.handle, port)
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            async for _ in signals:
                break
        await server.drain(grace=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat that is traced.")
    parser.add_argument("--port", type=int, default=8000)
    provider = TracerProvider()
    # Exporters take their time, so they have a thread of their own.
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    try:
        trio.run(main, parser.parse_args().port, provider.get_tracer("tracing"))
    finally:
        provider.shutdown()
