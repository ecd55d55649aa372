// node restart.cjs PORT COMMAND...: a server that is ended in three ways, under a stock client.
const WebSocket = require('ws');
const { Centrifuge } = require('centrifuge');
const { spawn } = require('child_process');
const [port, ...command] = process.argv.slice(2);
const sleep = ms => new Promise(r => setTimeout(r, ms));
const start = () => new Promise(r => {
  const server = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
  server.stdout.once('data', () => r(server));
});
const until = async (f, what, ms = 20000) => {
  const end = Date.now() + ms;
  while (!f()) {
    if (Date.now() > end) throw new Error('timed out: ' + what);
    await sleep(10);
  }
};
(async () => {
  let server = await start();
  const c = new Centrifuge(`ws://127.0.0.1:${port}/`, {
    websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 200, maxServerPingDelay: 500,
  });
  const log = [], subscribed = [], publications = [];
  for (const name of ['connecting', 'connected', 'disconnected'])
    c.on(name, x => log.push([name, x.code, x.reason]));
  const s = c.newSubscription('chat:restart');
  s.on('subscribed', x => subscribed.push(x));
  s.on('publication', p => publications.push(p.data));
  s.subscribe();
  c.connect();
  await s.ready();
  await s.publish(1);
  await until(() => publications.length === 1, 'publication');
  for (const signal of ['SIGTERM', 'SIGKILL']) {
    const n = subscribed.length, before = log.length;
    server.kill(signal);
    await new Promise(r => server.once('exit', r));
    server = await start();
    await until(() => subscribed.length === n + 1, 'subscribed again');
    const [, code, reason] = log.slice(before).find(e => e[0] === 'connecting');
    const { wasRecovering, recovered } = subscribed.at(-1);
    console.log(JSON.stringify([signal, code, reason, wasRecovering, recovered]));
    await s.publish(signal);
    await until(() => publications.at(-1) === signal, 'publication again');
  }
  const before = log.length;
  await sleep(3500);
  console.log(JSON.stringify(['idle', log.slice(before)]));
  const n = subscribed.length;
  server.kill('SIGSTOP');
  await until(() => log.length > before, 'no ping');
  const [, code, reason] = log[before];
  server.kill('SIGCONT');
  await until(() => subscribed.length > n, 'back');
  console.log(JSON.stringify(['SIGSTOP', code, reason, true, subscribed.at(-1).recovered]));
  server.kill('SIGKILL');
  process.exit();
})();
