// One WebSocket in the hands of javascript.py: through the interface that browsers, Node and `ws`
// have in common, which here must not know where it runs.
//
// A text message is a string, a binary one {base64: …}.
"use strict";

class Socket {
  constructor(...parameters) {
    this.socket = new WebSocket(...parameters);
    this.socket.binaryType = "arraybuffer";
    this.arrived = [];
    this.wake = () => {};
    this.opened = new Promise((resolve, reject) => {
      this.socket.addEventListener("open", resolve);
      this.socket.addEventListener("error", () => reject(new Error("it did not open")));
    });
    this.socket.addEventListener("message", ({ data }) => this.note({ message: encode(data) }));
    this.ended = new Promise((resolve) => {
      this.socket.addEventListener("close", ({ code, reason }) => {
        this.note({ close: [code, reason] });
        resolve();
      });
    });
  }

  note(item) {
    this.arrived.push(item);
    this.wake();
  }

  async open() {
    await this.opened;
    return [this.socket.protocol, this.socket.extensions];
  }

  // The next message, or the close.
  async next() {
    while (!this.arrived.length) await new Promise((resolve) => { this.wake = resolve; });
    return this.arrived.shift();
  }

  send(message) {
    this.socket.send(decode(message));
  }

  async close(code, reason) {
    this.socket.close(code, reason);
    await this.ended;
  }
}

function encode(data) {
  if (typeof data === "string") return data;
  let text = "";
  for (const byte of new Uint8Array(data)) text += String.fromCharCode(byte);
  return { base64: btoa(text) };
}

function decode(message) {
  if (typeof message === "string") return message;
  return Uint8Array.from(atob(message.base64), (character) => character.charCodeAt(0));
}

if (typeof module !== "undefined") module.exports = Socket;
