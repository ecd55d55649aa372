// The `ws` package under measurement: each line of standard input is published to all.
//
//     node node_server.js TASK        (see task.py)
"use strict";

const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const path = require("node:path");
const readline = require("node:readline");
const { WebSocket, WebSocketServer } = require("ws");

const task = JSON.parse(process.argv[2]);

function createServer() {
  if (!task.tls) return http.createServer();
  const pem = fs.readFileSync(path.join(task.scratch, "certificate.pem"));
  return https.createServer({ key: pem, cert: pem });
}

const server = createServer();
// A threshold below what is sent, as every other peer compresses it.
const perMessageDeflate = task.deflate ? { threshold: 0 } : false;
const sockets = new WebSocketServer({ server, perMessageDeflate });

sockets.on("connection", (socket) => {
  if (task.kind === "echo") {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  } else {
    socket.on("message", (data) => data.toString());
  }
  socket.on("error", () => {}); // the load leaves without a closing handshake
});

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  for (const socket of sockets.clients) {
    if (socket.readyState === WebSocket.OPEN) socket.send(line);
  }
}).on("close", () => process.exit());

server.listen({ host: "127.0.0.1", port: 0, backlog: 1024 }, () => {
  console.log(server.address().port);
});
