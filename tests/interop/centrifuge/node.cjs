// node node.cjs URL json|protobuf [REGEX]: the checks in Node; a line for each, and their count.
const WebSocket = require('ws');
const [url, format, only] = process.argv.slice(2);
const { Centrifuge } = format === 'protobuf' ? require('centrifuge/build/protobuf') : require('centrifuge');
require('./checks.js');
const env = {
  Centrifuge, url, options: { websocket: WebSocket }, limit: 2 ** 20,
  report: (name, error, ms) => console.log(error ? 'FAIL' : 'ok', name, `${ms} ms`, error || ''),
};
if (format === 'protobuf') {
  env.pack = x => Buffer.from(JSON.stringify(x));
  env.unpack = x => JSON.parse(Buffer.from(x).toString());
}
globalThis.checkCentrifuge(env, only).then(results => {
  const bad = results.filter(result => result[1]).length;
  console.log(`${results.length - bad} passed, ${bad} failed`);
  process.exit(bad ? 1 : 0);
});
