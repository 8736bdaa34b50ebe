// The CPU that a client needs for an event, in Node: frames are handed to it as its socket would. Beside it
// centrifuge-js, with the same events on Centrifugo's wire. The client checks continuity, remembers ids and
// measures latency; centrifuge-js trusts offsets. Process CPU time, the least of five runs each.
//
//   npm ci && node cost.mjs
import { Centrifuge } from 'centrifuge';

import { createClient } from '../dist/index.js';
import { centrifugo, tidegate } from './wire.mjs';

const EVENTS = 100_000;
const RUNS = 5;
const turn = () => new Promise((resolve) => { setImmediate(resolve); });

/** A socket whose messages the benchmark hands over. */
class Socket {
  static last = null;
  readyState = 1;
  sent = () => {};
  constructor() {
    Socket.last = this;
    setImmediate(() => this.onopen?.({}));
  }
  send(text) { this.sent(text); }
  close() {}
  addEventListener(name, handler) { this[`on${name}`] = handler; }
}

async function measure(frames, count, take) {
  await turn();
  globalThis.gc?.();
  const before = process.cpuUsage();
  for (let n = 0; n < frames.length; n += 1) {
    take(frames[n]);
    if (n % 16 === 15) await turn(); // a socket's messages come over several turns of the loop
  }
  while (count() < EVENTS) await turn();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / EVENTS;
}

async function ours(frames) {
  let seen = 0;
  const client = createClient({ url: 'http://localhost', org: 'dev', getToken: () => 'token', webSocket: Socket, lifecycle: null, keepAlive: false });
  client.on('*', () => { seen += 1; });
  Socket.last = null;
  client.connect();
  while (!Socket.last) await turn();
  const socket = Socket.last;
  await turn();
  await turn();
  socket.onmessage({ data: tidegate.hello });
  const spent = await measure(frames, () => seen, (data) => socket.onmessage({ data }));
  client.dispose();
  return spent;
}

async function theirs(frames) {
  let seen = 0;
  const client = new Centrifuge('ws://localhost/connection/websocket', { websocket: Socket });
  const subscription = client.newSubscription('dev');
  subscription.on('publication', () => { seen += 1; });
  Socket.last = null;
  subscription.subscribe();
  client.connect();
  while (!Socket.last) await turn();
  const socket = Socket.last;
  socket.sent = (text) => {
    const reply = centrifugo.reply(text);
    if (reply) setImmediate(() => socket.onmessage({ data: reply }));
  };
  await new Promise((resolve) => { subscription.once('subscribed', resolve); });
  const spent = await measure(frames, () => seen, (data) => socket.onmessage({ data }));
  client.disconnect();
  return spent;
}

const least = async (run, frames) => {
  const spent = [];
  for (let n = 0; n < RUNS; n += 1) spent.push(await run(frames));
  return Math.min(...spent);
};

console.log('us of CPU an event      @tidegate/client  centrifuge-js');
for (const size of [1, 10, 100]) {
  const cut = (wire) => Array.from({ length: EVENTS / size }, (_, n) => wire.frame(n * size + 1, (n + 1) * size));
  const [a, b] = [await least(ours, cut(tidegate)), await least(theirs, cut(centrifugo))];
  console.log(`${String(size).padStart(3)} in a message ${a.toFixed(2).padStart(22)} ${b.toFixed(2).padStart(14)}`);
}
