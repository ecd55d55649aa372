// What Node's `ws` client does with the server, one scenario a run:
//
//     node scenarios.js NAME ws://HOST:PORT
//
// Says "done" if all was as expected, otherwise which assertion failed. (Node ends with 0 also when
// nothing is left that could ever happen.) Each scenario has topics of its own. The wrappers are the
// browser tests' own files, unchanged.
"use strict";

const assert = require("node:assert/strict");
const { once } = require("node:events");
const WebSocket = require("ws");

globalThis.WebSocket = WebSocket;
const HeartbeatSocket = require("../browser/wrappers/heartbeat.js");
const openFeed = require("../browser/wrappers/keepalive.js");
const SharedSocket = require("../browser/wrappers/shared.js");

const [name, server] = process.argv.slice(2);

// A client that keeps what arrives until somebody asks: text as strings, binary as buffers.
async function open(path, options) {
  const ws = new WebSocket(server + path, options);
  const arrived = [];
  let wake = () => {};
  ws.on("message", (data, isBinary) => {
    arrived.push(isBinary ? data : data.toString());
    wake();
  });
  ws.next = async () => {
    while (!arrived.length) await new Promise((resolve) => { wake = resolve; });
    return arrived.shift();
  };
  ws.end = once(ws, "close").then(([code, reason]) => [code, reason.toString()]);
  await once(ws, "open");
  return ws;
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}

const scenarios = {
  async broadcast() {
    const [ada, bob] = [await open("/broadcast"), await open("/broadcast")];
    const large = "é".repeat(250_000);
    for (const message of ["text ✓", Buffer.from([0, 127, 255]), "", Buffer.alloc(0), large]) {
      ada.send(message);
      assert.deepEqual(await bob.next(), message);
      assert.deepEqual(await ada.next(), message);
    }
    bob.send("and back");
    assert.equal(await ada.next(), "and back");
    ada.close();
    bob.close();
  },

  async states_and_close_codes() {
    const ws = new WebSocket(server + "/close");
    const end = once(ws, "close");
    assert.equal(ws.readyState, WebSocket.CONNECTING);
    await once(ws, "open");
    assert.equal(ws.readyState, WebSocket.OPEN);
    ws.close(4001, "enough");
    assert.equal(ws.readyState, WebSocket.CLOSING);
    assert.equal((await end)[0], 4001);
    assert.equal(ws.readyState, WebSocket.CLOSED);

    const bare = await open("/close");
    bare.close();
    assert.equal((await bare.end)[0], 1005);
  },

  // Against a server that compresses.
  async compression() {
    for (const perMessageDeflate of [
      { threshold: 0 },
      { threshold: 0, clientNoContextTakeover: true, serverNoContextTakeover: true },
      { threshold: 0, serverMaxWindowBits: 9, clientMaxWindowBits: 9 },
      { threshold: 0, serverMaxWindowBits: 15, clientMaxWindowBits: 12 },
    ]) {
      const ws = await open("/compression", { perMessageDeflate });
      const { params } = ws._extensions["permessage-deflate"];
      assert.equal(params.server_no_context_takeover, true);
      assert.equal(params.server_max_window_bits, perMessageDeflate.serverMaxWindowBits);
      assert.equal(params.client_max_window_bits, perMessageDeflate.clientMaxWindowBits);
      for (const message of ["text ✓", "é".repeat(250_000), "", Buffer.alloc(2 ** 20), "again"]) {
        // Twice: the second refers to the first, if there is context takeover.
        for (const _ of [1, 2]) {
          ws.send(message);
          assert.deepEqual(await ws.next(), message);
        }
      }
      assert.ok(ws._socket.bytesRead < 2 ** 16 && ws._socket.bytesWritten < 2 ** 16);
      ws.close();
    }
    const refused = await open("/compression", { perMessageDeflate: { serverMaxWindowBits: 8 } });
    assert.equal(refused.extensions, "");
    refused.close();
  },

  async heartbeat_wrapper() {
    const other = await open("/heartbeat");
    const feed = new HeartbeatSocket(server + "/heartbeat", { interval: 50, timeout: 2000 });
    const got = [];
    feed.onmessage = (data) => got.push(data);
    await until(() => feed.pongs >= 50);
    assert.equal(feed.timedOut, false);
    feed.send("after the pings");
    assert.equal(await other.next(), "after the pings");
    await until(() => got.length);
    assert.deepEqual(got, ["after the pings"]);
    feed.close();
    other.close();
  },

  async keepalive_wrapper() {
    const other = await open("/keepalive");
    const feed = openFeed(server + "/keepalive", "me", { keepalive: 20, retry: 200, resend: 100 });
    assert.equal(await other.next(), '{"identity":"me"}');
    feed.socket.terminate();
    await until(() => feed.socket.readyState === WebSocket.CLOSED);
    feed.send({ n: 1 });
    feed.send({ n: 2 });
    assert.equal(feed.failed.length, 2);
    // Some keepalives go by before what failed is sent again.
    for (const expected of ['{"identity":"me"}', '{"n":1}', '{"n":2}']) {
      assert.equal(await other.next(), expected);
    }
    assert.deepEqual(feed.failed, []);
    feed.stop();
    other.close();
  },

  async shared_wrapper() {
    const first = SharedSocket.get(server + "/shared", { pause: 100 });
    const second = SharedSocket.get(server + "/shared");
    assert.equal(first, second);
    const got = [[], []];
    first.listen((data) => got[0].push(data));
    second.listen((data) => got[1].push(data));
    await until(() => first.ws.readyState === WebSocket.OPEN);
    first.ws.terminate();
    await until(() => first.tried === 1 && first.ws.readyState === WebSocket.CLOSED);
    await until(() => first.ws.readyState === WebSocket.OPEN);
    first.send("to all listeners");
    await until(() => got[0].length && got[1].length);
    assert.deepEqual(got, [["to all listeners"], ["to all listeners"]]);
    assert.equal(first.tried, 0);
    first.tries = 0;
    first.ws.close();
  },
};

scenarios[name]().then(
  () => console.log("done"),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
