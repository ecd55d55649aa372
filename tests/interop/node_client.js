// A client in Node, `ws` or its built-in one, for javascript.py to command:
//
//     node node_client.js ws|built-in URL PARAMETERS
//
// PARAMETERS is JSON: {subprotocols: […], headers: {…}}. Each line on standard input is a call of a
// method of Socket as JSON, [NAME, ARGUMENT…], and answered by a line: {value: …} or {error: …}.
// The end of the input ends it.
"use strict";

const { once } = require("node:events");
const { createInterface } = require("node:readline");
const Socket = require("./socket.js");

const [kind, url, parameters] = process.argv.slice(2);
const { subprotocols, headers } = JSON.parse(parameters);

// What only `ws` lets a program do.
class WsSocket extends Socket {
  async ping(payload) {
    this.socket.ping(payload);
    const [answer] = await once(this.socket, "pong");
    return answer.toString();
  }

  sendFragments(parts) {
    parts.forEach((part, number) => this.socket.send(part, { fin: number === parts.length - 1 }));
  }
}

let socket;
if (kind === "ws") {
  globalThis.WebSocket = require("ws");
  socket = new WsSocket(url, subprotocols, { headers });
} else {
  socket = new Socket(url, { protocols: subprotocols, headers });
}

(async () => {
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, ...given] = JSON.parse(line);
    let answer;
    try {
      answer = { value: await socket[name](...given) };
    } catch (error) {
      answer = { error: String(error.stack) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  process.exit();
})();
