// Node's `ws` server, alone or mounted on an Express HTTP server; see common.py:
//
//     node ws_server.js alone|express PORT [--certificate FILE]
//
// (It keeps no record.) Express answers GET /hello on the same port.
"use strict";

const { readFileSync } = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { WebSocketServer } = require("ws");

const CLOSE_ME = "close me";
const PING_ME = "ping me";
const SHOW_HEADER = "show header";
const HEADER = "x-colour";
const FRAGMENT_ME = "fragment me";
const FRAGMENTS = ["one ", "", "mess", "age"];
const [kind, port, , certificate] = process.argv.slice(2);

let application;
if (kind === "express") {
  application = require("express")();
  application.get("/hello", (request, response) => response.send("hello from Express"));
}
const pem = certificate && readFileSync(certificate);
const front = pem
  ? https.createServer({ key: pem, cert: pem }, application)
  : http.createServer(application);
const handleProtocols = (offered) => offered.has("chat") && "chat";
const options = { handleProtocols, perMessageDeflate: true };
const server = new WebSocketServer({ server: front, ...options });
front.listen(Number(port), "127.0.0.1", () => console.log(front.address().port));

server.on("connection", (connection, request) => {
  connection.on("message", (data, isBinary) => {
    switch (isBinary || data.toString()) {
      case CLOSE_ME:
        connection.close(4321, "see you ✓");
        break;
      case PING_ME:
        connection.once("pong", () => connection.send("ponged"));
        connection.ping();
        break;
      case SHOW_HEADER:
        connection.send(request.headers[HEADER]);
        break;
      case FRAGMENT_ME:
        FRAGMENTS.forEach((part, number) => {
          connection.send(part, { fin: number === FRAGMENTS.length - 1 });
        });
        break;
      default:
        for (const peer of server.clients) peer.send(data, { binary: isBinary });
    }
  });
  connection.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
});
