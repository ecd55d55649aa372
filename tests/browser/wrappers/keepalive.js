// A wrapper as applications have it: JSON over a socket that says who it is when it opens, keeps
// itself alive with a message of its own, and puts aside what cannot be sent until it is back.
"use strict";

function openFeed(url, identity, { keepalive = 5000, retry = 3000, resend = 1000 } = {}) {
  const feed = { failed: [], received: [], onmessage: () => {}, socket: null };
  let stopped = false;
  let alive;

  function connect() {
    const socket = new WebSocket(url);
    feed.socket = socket;
    socket.onopen = () => {
      socket.send(JSON.stringify({ identity }));
      alive = setInterval(() => socket.send(JSON.stringify({ keepalive: "live" })), keepalive);
      setTimeout(sendFailed, resend);
    };
    socket.onmessage = (event) => {
      feed.received.push(event.data);
      feed.onmessage(event.data);
    };
    socket.onclose = () => {
      clearInterval(alive);
      if (!stopped) setTimeout(connect, retry);
    };
    // Node's client ends the program where a browser only logs.
    socket.onerror = () => {};
  }

  function sendFailed() {
    const again = feed.failed;
    feed.failed = [];
    again.forEach(feed.send);
  }

  feed.send = (value) => {
    if (feed.socket.readyState === WebSocket.OPEN) feed.socket.send(JSON.stringify(value));
    else feed.failed.push(value);
  };
  feed.stop = () => {
    stopped = true;
    feed.socket.close();
  };
  connect();
  return feed;
}

if (typeof module !== "undefined") module.exports = openFeed;
