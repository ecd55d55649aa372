// node doors.cjs PORT SECRET json|protobuf: a stock client at `trioweb serve`, with rules and tokens;
// a line of JSON for each thing that it sees.
const WebSocket = require('ws');
const crypto = require('crypto');
const [port, secret, format] = process.argv.slice(2);
const { Centrifuge } = format === 'protobuf' ? require('centrifuge/build/protobuf') : require('centrifuge');

const pack = x => format === 'protobuf' ? Buffer.from(JSON.stringify(x)) : x;
const unpack = x => format === 'protobuf' ? JSON.parse(Buffer.from(x).toString()) : x;
const say = (...what) => console.log(JSON.stringify(what));
const encoded = what => Buffer.from(JSON.stringify(what)).toString('base64url');
const now = () => Math.floor(Date.now() / 1000);

function token(claims, key = secret) {
  const body = `${encoded({ alg: 'HS256', typ: 'JWT' })}.${encoded(claims)}`;
  return `${body}.${crypto.createHmac('sha256', key).update(body).digest('base64url')}`;
}

function client(options) {
  return new Centrifuge(`ws://127.0.0.1:${port}/connection/websocket`, { websocket: WebSocket, ...options });
}

function seen(emitter, ...names) {
  return new Promise(resolve => {
    for (const name of names) emitter.once(name, event => resolve([name, event]));
  });
}

async function subscribed(to, topic) {
  const subscription = to.newSubscription(topic);
  const told = seen(subscription, 'subscribed', 'unsubscribed');
  subscription.subscribe();
  const [name, event] = await told;
  return [subscription, name, event.code ?? 0];
}

async function main() {
  const ann = client({ token: token({ sub: 'ann', exp: now() + 600, channels: ['hidden:a'] }) });
  const connected = seen(ann, 'connected');
  const granted = seen(ann, 'subscribed');
  ann.connect();
  await connected;
  say('granted', (await granted)[1].channel);

  const [chat, ...how] = await subscribed(ann, 'chat:a');
  say('chat', ...how);
  for (const headers of [{ Authorization: `Bearer ${token({ sub: 'bob' })}` }, {}]) {
    const came = seen(chat, 'publication');
    const answer = await fetch(`http://127.0.0.1:${port}/chat:a`, {
      method: 'POST', body: '{"by":"POST"}', headers: { 'Content-Type': 'application/json', ...headers },
    });
    say('POST', answer.status, answer.ok ? unpack((await came)[1].data) : null);
  }
  const plain = new WebSocket(`ws://127.0.0.1:${port}/chat:a`, { headers: { Cookie: `trioweb_token=${token({})}` } });
  const frames = [];
  plain.on('message', data => frames.push(data.toString()));
  await seen(plain, 'open');
  await chat.publish(pack({ hello: 'all' }));
  while (!frames.includes('{"hello":"all"}')) await seen(plain, 'message');
  say('plain', frames);
  say('presence', Object.values((await chat.presence()).clients).map(({ user }) => user).sort());
  plain.close();

  const [news, ...read] = await subscribed(ann, 'news:a');
  say('news', ...read, await news.publish(pack(1)).catch(error => error.code));
  say('nothing', ...(await subscribed(ann, 'nothing:a')).slice(1));
  ann.disconnect();

  const forger = client({ token: token({ sub: 'ann' }, 'another secret of the same length') });
  const gone = seen(forger, 'disconnected');
  forger.connect();
  say('forged', (await gone)[1].code);

  // As a browser's cookie; its end ends the connection, and the next one brings another.
  let cookie = token({ sub: 'eve', exp: now() + 2 });
  class WithCookie extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { headers: { Cookie: `trioweb_token=${cookie}` } });
    }
  }
  const eve = client({ websocket: WithCookie });
  const first = seen(eve, 'connected');
  eve.connect();
  await first;
  const lost = seen(eve, 'connecting'), back = seen(eve, 'connected');
  cookie = token({ sub: 'eve', exp: now() + 600 });
  say('expired', (await lost)[1].code);
  await back;
  say('back', (await subscribed(eve, 'chat:a'))[1]);
  process.exit(0);
}

main().catch(error => { say(String(error)); process.exit(1); });
