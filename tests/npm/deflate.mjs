// Shared compression against third-party inflaters: Node's `ws`, Bun and Chromium over WebSocket, zlib over
// SSE. Readers join while events flow, some of them targeted; each must see every event that it may see as it
// was published, and no other, and compression must save bytes.
// Usage: node deflate.mjs <path of the tidegate binary>
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { get } from 'node:http';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { constants, createGunzip } from 'node:zlib';
import WS from 'ws';
import { launch } from './browser.mjs';
import { Gateway } from './gateway.mjs';

const gateway = await new Gateway(process.argv[2], '--no-feed', '--set', 'limits.connections_per_user=100',
  '--set', 'ping.interval=1h').start(); // these clients do not answer pings
const stream = (query = '') => `${gateway.url.replace('http', 'ws')}/v1/orgs/${gateway.org}/stream?services=finance${query}`;
const protocols = ['tidegate.v1', `tidegate.bearer.${gateway.token}`];

let published = 0;
const expected = new Map();
const hidden = new Set();
const { sub: user } = JSON.parse(Buffer.from(gateway.token.split('.')[1], 'base64url'));
async function publish(count, users) {
  const events = Array.from({ length: count }, () => {
    published += 1;
    const data = { number: published, customer: `c-${published % 17}`, note: 'Zahlung erhalten ✓ '.repeat(published % 4), amount_cents: (published * 7919) % 100_000 };
    return { service: 'finance', event: 'invoice.paid', id: `e-${published}`, users, data };
  });
  const answer = await fetch(`${gateway.url}/v1/orgs/${gateway.org}/events`, {
    method: 'POST',
    headers: { authorization: `Bearer ${gateway.publish_key}`, 'content-type': 'application/json' },
    body: JSON.stringify(events),
  });
  assert.equal(answer.status, 200);
  for (const [index, { seq }] of (await answer.json()).events.entries()) {
    if (users?.includes(user) ?? true) expected.set(seq, JSON.stringify(events[index].data));
    else hidden.add(seq);
  }
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
      assert.equal(hidden.has(event.seq), false, `${this.name} saw ${event.seq}, which is another's`);
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

/** The address of the gateway by way of a proxy of this reader alone, which counts what it gets. */
async function counted(reader) {
  const { hostname, port } = new URL(gateway.url);
  const proxy = createServer((near) => {
    const far = connect(port, hostname);
    for (const end of [near, far]) end.on('error', () => { near.destroy(); far.destroy(); });
    far.on('data', (chunk) => { reader.wire += chunk.length; });
    near.pipe(far).pipe(near);
  });
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  proxy.unref();
  return `127.0.0.1:${proxy.address().port}`;
}
const through = (address, query = '') => stream(query).replace(new URL(gateway.url).host, address);

/** What makes a reader fail, said once. */
const guard = (reader, act) => act().catch((error) => { reader.failed ??= error; reader.reject?.(error); });

const directory = fileURLToPath(new URL('.', import.meta.url));
const bun = `${directory}node_modules/@oven/bun-linux-${{ x64: 'x64', arm64: 'aarch64' }[process.arch]}/bin/bun`;
assert.ok(existsSync(bun), `${bun} is missing: npm ci --prefix tests/npm --ignore-scripts`);
const children = [];
process.once('exit', () => children.forEach((child) => child.kill('SIGKILL')));
const byBun = (query = '') => new Reader(`bun ${query}`, (reader) => {
  guard(reader, async () => {
    const child = spawn(bun, [`${directory}deflate_reader.mjs`, through(await counted(reader), query), ...protocols], { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(child);
    child.once('exit', () => { reader.failed ??= new Error('it ended'); });
    createInterface(child.stdout).on('line', (line) => {
      if (reader.extensions === undefined) reader.extensions = line;
      else reader.message(line);
    });
  });
  return { close() {} };
});

const browser = await launch();
const byChromium = (query = '') => new Reader(`chromium ${query}`, (reader) => {
  guard(reader, async () => {
    const page = await browser.newPage();
    const address = await counted(reader);
    // A page of the address that it connects to: the gateway's own origin.
    await page.goto(`http://${address}/openapi.json`);
    reader.wire = 0;
    await page.exposeFunction('heard', (text) => reader.message(text));
    await page.exposeFunction('ended', (why) => { reader.failed ??= new Error(why); });
    reader.extensions = await page.evaluate(([url, names]) => new Promise((resolve) => {
      const socket = new WebSocket(url, names);
      socket.onopen = () => resolve(socket.extensions);
      socket.onmessage = ({ data }) => window.heard(data);
      socket.onclose = ({ code }) => { resolve(''); window.ended(`closed: ${code}`); };
    }), [through(address, query), protocols]);
  });
  return { close() {} };
});

/** Over SSE, with or without `Content-Encoding: gzip`. */
const bySse = (coding) => new Reader(`sse ${coding}`, (reader) => {
  const headers = { accept: 'text/event-stream', authorization: `Bearer ${gateway.token}`, 'accept-encoding': coding };
  const request = get(stream().replace('ws', 'http'), { headers }, (response) => {
    reader.coding = response.headers['content-encoding'];
    response.on('data', (chunk) => { reader.wire += chunk.length; });
    let body = response;
    if (reader.coding === 'gzip') {
      // Emits what has been inflated at once, as browsers do.
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
const readers = [gzipped, identity, bySse('gzip;q=0'), byWs(''), byWs('&deflate=0'), byWs('', { perMessageDeflate: false }), byWs('', { perMessageDeflate: { serverNoContextTakeover: true } }), byBun(), byChromium()];
await Promise.all(readers.map((reader) => reader.ready));
const [, , refusing, compressed, declined, plain, alone, inBun, inChromium] = readers;
assert.deepEqual([gzipped.coding, identity.coding, refusing.coding], ['gzip', undefined, undefined]);
assert.match(compressed.socket.extensions, /permessage-deflate/);
for (const { extensions } of [alone.socket, inBun, inChromium]) assert.match(extensions, /permessage-deflate/);
assert.equal(declined.socket.extensions, '');
assert.equal(plain.socket.extensions, '');

for (let round = 0; round < 60; round += 1) {
  for (let index = 0; index < 10; index += 1) await publish(1);
  await publish(1 + (round % 30));
  // Targeted frames go between the frames that all share.
  if (round % 5 === 4) await publish(1, [user, 'another']);
  if (round % 5 === 2) await publish(1, ['another']);
  if (round % 6 === 3) {
    readers.push(byWs(''), byWs(`&tail=${round}`));
    if (round % 12 === 3) readers.push(byBun(), byBun(`&tail=${round}`), byChromium(), byChromium(`&tail=${round}`));
    await Promise.all(readers.map((reader) => reader.ready));
  }
}
const deadline = Date.now() + 30_000;
while (readers.some((reader) => reader.missing().length > 0)) {
  for (const { name, failed } of readers) assert.equal(failed, null, `${name}: ${failed?.message}`);
  assert.ok(Date.now() < deadline, `not all arrived: ${readers.map((reader) => `${reader.name} ${reader.missing().length}`)}`);
  await new Promise((resolve) => setTimeout(resolve, 10));
}
const wire = ({ socket, wire: counted }) => socket._socket?.bytesRead ?? counted;
const share = (reader) => Math.round((100 * wire(reader)) / wire(plain));
console.log(`${published} events, ${readers.length} readers; wire bytes: ${share(compressed)} % in shared context (Bun ${share(inBun)} %, Chromium ${share(inChromium)} %), ${share(alone)} % without`);
for (const reader of [compressed, inBun, inChromium]) {
  assert.ok(wire(reader) < 0.3 * wire(plain), `${reader.name}: ${wire(reader)} of ${wire(plain)} bytes`);
}
assert.ok(wire(alone) < wire(plain));
console.log(`SSE: ${Math.round((100 * gzipped.wire) / identity.wire)} % of the plain body as gzip`);
assert.ok(gzipped.wire < 0.7 * identity.wire);
await browser.close();
process.exit(0);
