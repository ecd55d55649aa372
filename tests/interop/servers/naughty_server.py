"""An aiohttp server that misbehaves, as the path asks; see `common` for the rest.

The first `times` requests (without it, all) are treated so, and those that follow well.  For
each request it writes when it came, by the clock that all processes share, and its credentials.
"""

import asyncio
import time

from aiohttp import web

from tests.interop.servers.aiohttp_server import main, talk
from tests.interop.servers.common import say

requests = 0


async def misbehave(request: web.Request) -> web.StreamResponse:
    global requests
    requests += 1
    say(f"{time.monotonic()} {request.headers.get('Authorization', '')}")
    if requests > int(request.query.get("times", requests)):
        return await talk(request)
    connection = web.WebSocketResponse()
    match request.match_info["how"]:
        case "close":
            await connection.prepare(request)
            await connection.close()
        case "hang-up":
            assert request.transport is not None
            request.transport.abort()
        case "silence":
            await asyncio.Event().wait()
        case "deafness":
            await connection.prepare(request)
            await asyncio.Event().wait()
        case status:
            headers = {"Retry-After": request.query.get("retry-after", "0")}
            return web.Response(status=int(status), headers=headers)
    return connection


application = web.Application()
application.router.add_get("/{how}", misbehave)
asyncio.run(main(application))
