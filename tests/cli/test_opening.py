"""TLS, the handshake and the way there, as the options of `trioweb connect` have them."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import trioweb
from tests.cli.support import Site, connect, run

pytestmark = pytest.mark.network


class Authority:
    """A certificate authority of our own, with files of what it has issued."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.file = self.write("ca.pem", self.ca.cert_pem)

    def write(self, name: str, *blobs: trustme.Blob) -> str:
        path = self.folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    def server_context(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def wss(site: Site) -> str:
    return site.url.replace("ws:", "wss:")


async def test_connect_trusts_the_authority_that_it_is_told(
    site: Site, authority: Authority
) -> None:
    await site.start(site.listen, ssl_context=authority.server_context("127.0.0.1"))
    code, _, errors = await run(connect(wss(site), "--ca", authority.file), b"a\n")
    assert (code, errors) == (0, "connected\n")
    # Another attempt without it would end as the first one.
    code, output, errors = await run(connect(wss(site)), b"a\n")
    assert (code, output) == (1, "")
    assert errors.startswith("failed: gave up after 1 attempt: TLS with 127.0.0.1:")
    assert "; --ca FILE trusts its authority, --insecure any server" in errors
    assert errors.count("\n") == 1


async def test_connect_trusts_anybody_with_insecure(site: Site, authority: Authority) -> None:
    await site.start(site.listen, ssl_context=authority.server_context("elsewhere.example"))
    code, _, errors = await run(connect(wss(site), "--insecure"), b"a\n")
    assert (code, errors) == (0, "connected\n")


@pytest.mark.parametrize("separate", [False, True], ids=["one file", "two files"])
async def test_connect_shows_its_certificate(
    site: Site, authority: Authority, separate: bool
) -> None:
    context = authority.server_context("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)
    await site.start(site.listen, ssl_context=context)
    own = authority.ca.issue_cert("client.example")
    options = ["--ca", authority.file, "--cert"]
    if separate:
        options.append(authority.write("chain.pem", *own.cert_chain_pems))
        options += ["--key", authority.write("key.pem", own.private_key_pem)]
    else:
        options.append(authority.write("both.pem", own.private_key_and_cert_chain_pem))
    code, _, errors = await run(connect(wss(site), *options), b"a\n")
    assert (code, errors) == (0, "connected\n")
    without = connect(wss(site), "--ca", authority.file, "--max-attempts", "1")
    assert (await run(without, b"a\n"))[0] == 1


async def test_connect_asks_for_another_host_at_the_address_of_the_url(
    site: Site, authority: Authority
) -> None:
    await site.start(site.listen, ssl_context=authority.server_context("site.example"))
    options = ["--ca", authority.file, "--host-header", "site.example:8443"]
    url = wss(site).replace("//", "//user:word@") + "path?a=b"
    code, _, errors = await run(connect(url, *options), b"a\n")
    assert (code, errors) == (0, "connected\n")
    [request] = site.requests
    assert request.headers["host"] == "site.example:8443"
    assert (request.path, request.query) == ("/path", {"a": "b"})
    assert request.headers["authorization"].startswith("Basic ")


async def test_connect_offers_compression_if_it_is_told(site: Site) -> None:
    await site.start(site.listen, compression=trioweb.Deflate())
    for options in [], ["--compression"]:
        assert (await run(connect(site.url, *options), b"a\n"))[0] == 0
    plain, compressed = site.requests
    assert "sec-websocket-extensions" not in plain.headers
    assert "permessage-deflate" in compressed.headers["sec-websocket-extensions"]


async def test_connect_goes_through_the_proxy_that_it_is_told(
    site: Site, nursery: trio.Nursery
) -> None:
    """Which does not know the name, but where to go."""
    await site.start(site.listen)
    heads: list[bytes] = []

    async def proxy(stream: trio.SocketStream) -> None:
        async with stream, await trio.open_tcp_stream("127.0.0.1", site.port) as server:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some()
            heads.append(head)
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")

            async def forward(source: trio.SocketStream, target: trio.SocketStream) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for data in source:
                        await target.send_all(data)
                    await target.send_eof()

            async with trio.open_nursery() as both:
                both.start_soon(forward, stream, server)
                both.start_soon(forward, server, stream)

    [listener] = await nursery.start(partial(trio.serve_tcp, proxy, 0, host="127.0.0.1"))
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    options = ["--proxy", f"http://user:word@{address}"]
    code, _, errors = await run(connect("ws://site.example/", *options), b"a\n")
    assert (code, errors) == (0, "connected\n")
    assert await site.heard(1) == ["a"]
    [head] = heads
    assert head.startswith(b"CONNECT site.example:80 HTTP/1.1\r\n")
    environment = {"HTTPS_PROXY": f"http://{address}", "NO_PROXY": "", "no_proxy": ""}
    assert (await run(connect("ws://site.example/"), b"a\n", **environment))[0] == 0
    assert len(heads) == 2
    alone = connect("ws://site.invalid/", "--proxy", "none", "--max-attempts", "1")
    assert (await run(alone, b"a\n", **environment))[0] == 1
    assert len(heads) == 2
