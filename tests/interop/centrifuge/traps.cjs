// node traps.cjs URL: what the stock client makes of Close codes and reasons, a line for each.
const WebSocket = require('ws');
const { Centrifuge } = require('centrifuge');
const url = process.argv[2];
const cases = [
  [3503, ''], [3503, 'force disconnect'], [4500, '{"reason":"x","reconnect":true}'],
  [3503, '123'], [3503, 'null'], [1013, 'slow consumer'], [1008, 'policy'], [1012, ''],
];
const until = async (f) => {
  const end = Date.now() + 10000;
  while (!f()) {
    if (Date.now() > end) throw new Error('timed out');
    await new Promise(r => setTimeout(r, 5));
  }
};
(async () => {
  for (const [code, reason] of cases) {
    const c = new Centrifuge(url, { websocket: WebSocket, minReconnectDelay: 10, maxReconnectDelay: 20 });
    const log = [];
    for (const name of ['connecting', 'connected', 'disconnected'])
      c.on(name, x => log.push(name + (x.code === undefined ? '' : ` ${x.code} ${x.reason}`)));
    c.connect();
    await c.ready();
    c.rpc('ctl.disconnect', { code, reason }).catch(() => {});
    await until(() => log.length >= 4 || log.some(line => line.startsWith('disconnected')));
    console.log(JSON.stringify([code, reason, log.slice(2)]));
    c.disconnect();
  }
  process.exit();
})();
