// node nodes.cjs URL URL FORMAT: two servers that a broker joins, with a client at each.
// When it has written "ready", whoever started it kills the second server.
const WebSocket = require('ws');
const protobuf = process.argv[4] === 'protobuf';
const { Centrifuge } = require(protobuf ? 'centrifuge/build/protobuf' : 'centrifuge');
const pack = x => protobuf ? new TextEncoder().encode(JSON.stringify(x)) : x;
const unpack = x => protobuf ? JSON.parse(new TextDecoder().decode(x)) : x;
const tell = (...what) => console.log(JSON.stringify(what));
const until = async (f, what, ms = 40000) => {
  const end = Date.now() + ms;
  while (!f()) {
    if (Date.now() > end) throw new Error('timed out: ' + what);
    await new Promise(r => setTimeout(r, 10));
  }
};
const events = [];
const come = async (url, user) => {
  const client = new Centrifuge(url, { websocket: WebSocket, data: pack({ user }) });
  const topic = client.newSubscription('chat:nodes', { joinLeave: true });
  for (const kind of ['join', 'leave']) topic.on(kind, x => events.push([user, kind, x.info.user]));
  topic.on('publication', x => events.push([user, 'publication', unpack(x.data)]));
  topic.subscribe();
  client.connect();
  await topic.ready();
  return topic;
};
(async () => {
  const ada = await come(process.argv[2], 'ada'), bob = await come(process.argv[3], 'bob');
  for (const topic of [ada, bob]) {
    // A server answers a subscriber before the others know of it.
    let clients = {};
    while (Object.keys(clients).length < 2) ({ clients } = await topic.presence());
    tell('presence', Object.values(clients).map(x => x.user).sort());
    const { numClients, numUsers } = await topic.presenceStats();
    tell('stats', numClients, numUsers);
  }
  await ada.publish(pack('hello'));
  await until(() => events.filter(e => e[1] === 'publication').length === 2, 'publications');
  const { publications } = await bob.history({ limit: 10 });
  tell('history', publications.map(x => [unpack(x.data), x.info.user]));
  await until(() => events.some(e => e[1] === 'join'), 'join');
  tell('events', events.filter(e => e[1] !== 'publication'));
  console.log('ready');
  await until(() => events.some(e => e[1] === 'leave'), 'leave');
  const { clients } = await ada.presence();
  tell('left', events.filter(e => e[1] === 'leave'), Object.values(clients).map(x => x.user));
  process.exit();
})();
