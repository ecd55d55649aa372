// The page of scores.py, with centrifuge-js as npm has it.

import { Centrifuge } from "centrifuge";

const LINES = 50; // of each match
const $ = (id) => document.getElementById(id);
const name = new URLSearchParams(location.search).get("name") ?? `guest ${Math.ceil(Math.random() * 999)}`;
const centrifuge = new Centrifuge(`${location.origin.replace(/^http/, "ws")}/connection/websocket`, {
  data: { name },
  // So that whoever tries the button does not wait.
  minReconnectDelay: 100,
});

class Match {
  constructor(topic) {
    this.topic = topic;
    this.offset = 0; // of the last publication that is shown
    this.node = $("match").content.cloneNode(true).firstElementChild;
    this.node.setAttribute("aria-label", topic);
    this.watching = new Map(); // client → user
    $("matches").append(this.node);
    this.subscription = centrifuge.newSubscription(topic, { joinLeave: true });
    this.subscription.on("publication", (publication) => this.take(publication));
    this.subscription.on("subscribed", (context) => this.begin(context));
    this.subscription.on("join", ({ info }) => this.come(info));
    this.subscription.on("leave", ({ info }) => this.go(info));
    this.subscription.subscribe();
  }

  part(name) {
    return this.node.querySelector(`.${name}`);
  }

  async begin({ wasRecovering, recovered }) {
    if (wasRecovering && recovered) {
      const had = this.offset;
      this.tell("");
      // The server has said where it is; what comes up to there was missed.
      const { offset: head } = await this.subscription.history({ limit: 0 });
      this.missed = { from: had, to: head };
      this.showRecovery();
    } else {
      if (wasRecovering) this.tell("The server has begun anew: what was missed cannot be had.");
      // A newcomer, and whoever could not recover, reads what there is.
      this.offset = 0;
      this.part("log").replaceChildren();
      const { publications } = await this.subscription.history({ limit: LINES, reverse: true });
      for (const publication of publications.reverse()) this.take(publication);
    }
    const { clients } = await this.subscription.presence();
    this.watching = new Map(Object.values(clients).map(({ client, user }) => [client, user]));
    this.showWatching();
  }

  take({ offset, data }) {
    // What history has told may come as a publication, too.
    if (offset <= this.offset) return;
    if (this.offset && offset !== this.offset + 1) this.holes = (this.holes ?? 0) + 1;
    this.offset = offset;
    this.node.dataset.offset = offset;
    this.node.dataset.holes = this.holes ?? 0;
    this.show(data);
    if (data.what) {
      const line = document.createElement("li");
      line.textContent = `${data.minute}′ ${data.what}`;
      const log = this.part("log");
      log.append(line);
      if (log.childElementCount > LINES) log.firstChild.remove();
      log.scrollTop = log.scrollHeight;
    }
    this.showRecovery();
  }

  show({ minute, teams: [home, away] }) {
    this.part("score").textContent = `${home.name} ${home.goals} – ${away.goals} ${away.name}`;
    this.part("minute").textContent = `${minute}′`;
    const cheers = this.part("cheers");
    if (!cheers.childElementCount)
      for (const team of [home, away]) {
        const button = document.createElement("button");
        button.onclick = () => cheer(team.name);
        cheers.append(button, " ");
      }
    [home, away].forEach((team, index) => {
      cheers.children[index].textContent = `${team.name}! ${team.cheers}`;
    });
  }

  showRecovery() {
    if (!this.missed) return;
    const { from, to } = this.missed;
    this.tell(`${to - from} missed, ${Math.min(this.offset, to) - from} recovered`);
    if (this.offset >= to) this.missed = undefined;
  }

  come({ client, user }) {
    this.watching.set(client, user);
    this.showWatching();
  }

  go({ client }) {
    this.watching.delete(client);
    this.showWatching();
  }

  showWatching() {
    this.part("watching").textContent = `Watching: ${[...new Set(this.watching.values())].sort().join(", ")}`;
  }

  tell(text) {
    this.part("recovery").textContent = text;
  }
}

async function cheer(team) {
  try {
    const { data: times } = await centrifuge.rpc("cheer", team);
    $("state").textContent = `${team} was cheered for ${times} times`;
  } catch (error) {
    $("state").textContent = `not cheered: ${error.message}`;
  }
}

const matches = new Map();
centrifuge.on("connecting", ({ reason }) => { $("state").textContent = `connecting: ${reason}`; });
centrifuge.on("disconnected", ({ reason }) => { $("state").textContent = `disconnected: ${reason}`; });
centrifuge.on("connected", async () => {
  $("state").textContent = "connected";
  const { data } = await centrifuge.rpc("matches", null);
  for (const score of data) {
    if (!matches.has(score.topic)) matches.set(score.topic, new Match(score.topic));
    matches.get(score.topic).show(score);
  }
});
$("cut").onclick = () => centrifuge.rpc("cut", null).catch(() => {}); // it has no answer
centrifuge.connect();
