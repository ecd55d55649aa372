// A wrapper as applications have it: one socket for the whole program, whoever asks for it, with a
// list of listeners that are all handed each message. It tries a few times and then gives up.
"use strict";

class SharedSocket {
  static instance = null;

  static get(url, options) {
    SharedSocket.instance ??= new SharedSocket(url, options);
    return SharedSocket.instance;
  }

  constructor(url, { tries = 5, pause = 3000 } = {}) {
    this.url = url;
    this.tries = tries;
    this.pause = pause;
    this.tried = 0;
    this.gaveUp = false;
    this.listeners = [];
    this.connect();
  }

  connect() {
    this.ws = new WebSocket(this.url);
    this.ws.onopen = () => { this.tried = 0; };
    this.ws.onmessage = ({ data }) => this.listeners.forEach((listener) => listener(data));
    this.ws.onerror = () => {};
    this.ws.onclose = () => {
      if (this.tried === this.tries) {
        this.gaveUp = true;
        return;
      }
      this.tried++;
      this.timer = setTimeout(() => this.connect(), this.pause);
    };
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  send(data) {
    this.ws.send(data);
  }
}

if (typeof module !== "undefined") module.exports = SharedSocket;
