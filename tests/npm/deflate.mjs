// Shared compression against the inflaters of others: Node's `ws` (zlib), and the WebSocket that the
// runtime brings, where it does (Bun, later versions of Node). Readers join and leave while events flow; every one must see every event as it was
// published, and compressed frames must be worth it.
// Usage: node deflate.mjs <path of the tidegate binary>
import assert from 'node:assert/strict';
import { Gateway } from './gateway.mjs';
import { get } from 'node:http';
import { constants, createGunzip } from 'node:zlib';
import WS from 'ws';

const gateway = await new Gateway(process.argv[2], '--no-feed', '--set', 'limits.connections_per_user=100').start();
const stream = (query = '') => `${gateway.url.replace('http', 'ws')}/v1/orgs/${gateway.org}/stream?services=finance${query}`;
const protocols = ['tidegate.v1', `tidegate.bearer.${gateway.token}`];

let published = 0;
const expected = new Map();
async function publish(count) {
  const events = Array.from({ length: count }, () => {
    published += 1;
    const data = { number: published, customer: `c-${published % 17}`, note: 'Zahlung erhalten ✓ '.repeat(published % 4), amount_cents: (published * 7919) % 100_000 };
    return { service: 'finance', event: 'invoice.paid', id: `e-${published}`, data };
  });
  const answer = await fetch(`${gateway.url}/v1/orgs/${gateway.org}/events`, {
    method: 'POST',
    headers: { authorization: `Bearer ${gateway.publish_key}`, 'content-type': 'application/json' },
    body: JSON.stringify(events),
  });
  assert.equal(answer.status, 200);
  (await answer.json()).events.forEach(({ seq }, index) => expected.set(seq, JSON.stringify(events[index].data)));
}

class Reader {
  constructor(name, open) {
    Object.assign(this, { name, seen: new Map(), wire: 0, failed: null });
    this.socket = open(this);
    this.ready = new Promise((resolve, reject) => { this.resolve = resolve; this.reject = reject; });
  }

  message(text) {
    const frame = JSON.parse(text);
    if (frame.type === 'hello') { this.first = Number(frame.cursor.split('-')[1]) + 1; this.resolve(); }
    if (frame.type === 'error') this.reject(new Error(`${this.name}: ${text}`));
    for (const event of frame.type === 'batch' ? frame.events : frame.type === 'event' ? [frame] : []) {
      assert.equal(this.seen.has(event.seq), false, `${this.name} saw ${event.seq} twice`);
      this.seen.set(event.seq, JSON.stringify(event.data));
    }
  }

  missing() {
    return [...expected].filter(([seq, data]) => seq >= this.first && this.seen.get(seq) !== data).map(([seq]) => seq);
  }
}

const byWs = (query, options = {}) => new Reader(`ws ${query}`, (reader) => {
  const socket = new WS(stream(query), protocols, options);
  socket.on('message', (data) => reader.message(data.toString()));
  socket.on('error', (error) => { reader.failed = error; reader.reject?.(error); });
  return socket;
});
const byRuntime = () => typeof WebSocket === 'undefined' ? [] : [new Reader('runtime', (reader) => {
  const socket = new WebSocket(stream(), protocols);
  socket.onmessage = ({ data }) => reader.message(data);
  socket.onerror = (event) => { reader.failed = event.error ?? new Error('error'); reader.reject?.(reader.failed); };
  return socket;
})];

/** Over SSE, with or without `Content-Encoding: gzip`. */
const bySse = (coding) => new Reader(`sse ${coding}`, (reader) => {
  const headers = { accept: 'text/event-stream', authorization: `Bearer ${gateway.token}`, 'accept-encoding': coding };
  const request = get(stream().replace('ws', 'http'), { headers }, (response) => {
    reader.coding = response.headers['content-encoding'];
    response.on('data', (chunk) => { reader.wire += chunk.length; });
    let body = response;
    if (reader.coding === 'gzip') {
      // What is there is given out at once, as browsers do.
      body = response.pipe(createGunzip({ flush: constants.Z_SYNC_FLUSH }));
    }
    let text = '';
    body.setEncoding('utf8').on('data', (chunk) => {
      const frames = (text + chunk).split('\n\n');
      text = frames.pop();
      for (const data of frames.map((frame) => /^data: (.*)$/m.exec(frame)?.[1])) if (data) reader.message(data);
    });
    body.on('error', (error) => { reader.failed = error; });
  });
  request.on('error', (error) => { reader.failed ??= error; });
  return { close: () => request.destroy() };
});

const gzipped = bySse('gzip, deflate');
const identity = bySse('identity');
const readers = [gzipped, identity, bySse('gzip;q=0'), byWs(''), byWs('&deflate=0'), byWs('', { perMessageDeflate: false }), byWs('', { perMessageDeflate: { serverNoContextTakeover: true } }), ...byRuntime()];
await Promise.all(readers.map((reader) => reader.ready));
const [, , refusing, compressed, declined, plain, alone] = readers;
assert.deepEqual([gzipped.coding, identity.coding, refusing.coding], ['gzip', undefined, undefined]);
assert.match(compressed.socket.extensions, /permessage-deflate/);
assert.match(alone.socket.extensions, /permessage-deflate/);
assert.equal(declined.socket.extensions, '');
assert.equal(plain.socket.extensions, '');

for (let round = 0; round < 60; round += 1) {
  for (let index = 0; index < 10; index += 1) await publish(1);
  await publish(1 + (round % 30));
  if (round % 6 === 3) {
    readers.push(byWs(''), ...byRuntime(), byWs(`&tail=${round}`));
    await Promise.all(readers.map((reader) => reader.ready));
  }
}
const deadline = Date.now() + 30_000;
while (readers.some((reader) => reader.missing().length > 0)) {
  for (const { name, failed } of readers) assert.equal(failed, null, `${name}: ${failed?.message}`);
  assert.ok(Date.now() < deadline, `not all arrived: ${readers.map((reader) => `${reader.name} ${reader.missing().length}`)}`);
  await new Promise((resolve) => setTimeout(resolve, 10));
}
if (process.versions.bun === undefined) {
  const wire = ({ socket }) => socket._socket.bytesRead;
  const share = (reader) => Math.round((100 * wire(reader)) / wire(plain));
  console.log(`${published} events, ${readers.length} readers; wire bytes: ${share(compressed)} % in shared context, ${share(alone)} % without`);
  assert.ok(wire(compressed) < 0.3 * wire(plain), `${wire(compressed)} of ${wire(plain)} bytes`);
  assert.ok(wire(alone) < wire(plain));
  console.log(`SSE: ${Math.round((100 * gzipped.wire) / identity.wire)} % of the plain body as gzip`);
  assert.ok(gzipped.wire < 0.7 * identity.wire);
}
for (const reader of readers) { reader.failed = 'closed'; reader.socket.close(); }
await gateway.stop?.();
process.exit(0);
