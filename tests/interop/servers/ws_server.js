// Node's `ws` server, alone or mounted on an Express HTTP server; see common.py:
//
//     node ws_server.js alone|express PORT
//
// (It keeps no record.) Express answers GET /hello on the same port.
"use strict";

const http = require("node:http");
const { WebSocketServer } = require("ws");

const CLOSE_ME = "close me";
const [kind, port] = process.argv.slice(2);

function listening() {
  console.log(this.address().port);
}

const handleProtocols = (offered) => offered.has("chat") && "chat";

const options = { handleProtocols, perMessageDeflate: true };

let server;
if (kind === "express") {
  const application = require("express")();
  application.get("/hello", (request, response) => response.send("hello from Express"));
  const front = http.createServer(application);
  server = new WebSocketServer({ server: front, ...options });
  front.listen(Number(port), "127.0.0.1", listening);
} else {
  server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), ...options });
  server.on("listening", listening);
}

server.on("connection", (connection) => {
  connection.on("message", (data, isBinary) => {
    if (!isBinary && data.toString() === CLOSE_ME) {
      connection.close(4321, "see you ✓");
      return;
    }
    for (const peer of server.clients) peer.send(data, { binary: isBinary });
  });
  connection.on("close", (code, reason) => console.log(`closed ${code} ${reason}`));
});
