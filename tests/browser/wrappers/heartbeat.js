// A wrapper as applications have it: a watched socket. It says "ping" at a steady pace and closes
// when nothing whatever has come back for too long. The paces are arguments; the defaults are
// those found in use.
"use strict";

class HeartbeatSocket {
  constructor(url, { interval = 2000, timeout = 10000 } = {}) {
    this.interval = interval;
    this.timeout = timeout;
    this.onmessage = () => {};
    this.onclose = () => {};
    this.pongs = 0;
    this.timedOut = false;
    this.ws = new WebSocket(url);
    this.ws.onopen = () => {
      this.beat = setInterval(() => this.ws.send("ping"), this.interval);
      this.watch();
    };
    this.ws.onmessage = (event) => {
      this.watch();
      if (event.data === "pong") this.pongs++;
      else this.onmessage(event.data);
    };
    this.ws.onclose = (event) => {
      clearInterval(this.beat);
      clearTimeout(this.deadline);
      this.onclose(event);
    };
  }

  watch() {
    clearTimeout(this.deadline);
    this.deadline = setTimeout(() => {
      this.timedOut = true;
      this.ws.close();
    }, this.timeout);
  }

  send(data) {
    this.ws.send(data);
  }

  close() {
    this.ws.close();
  }
}

if (typeof module !== "undefined") module.exports = HeartbeatSocket;
