"""Our own server, for comparison: it only records; see `common`."""

from functools import partial

import trio

import trioweb
from tests.interop.servers.common import arguments, say, say_closed

PORT, TLS, RECORD = arguments()


async def record(connection: trioweb.Connection) -> None:
    assert RECORD is not None
    async for message in connection:
        if not RECORD.write(str(message)):
            await trio.sleep_forever()
    say_closed(connection.close_code, connection.close_reason)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server: trioweb.Server = await nursery.start(
            partial(trioweb.serve, record, PORT, host="127.0.0.1", ssl_context=TLS)
        )
        say(server.port)


trio.run(main)
