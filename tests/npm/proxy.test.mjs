// Each fault of the proxy does to a connection what its name says.
//
//   node --test tests/npm/proxy.test.mjs
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { test } from 'node:test';

import { Proxy } from './proxy.mjs';

/** A server that repeats what it hears and keeps how its connections end. */
const echo = (port, ends = []) => createServer((socket) => {
  socket.on('data', (chunk) => socket.write(chunk));
  socket.on('error', (error) => ends.push(error.code));
  socket.on('end', () => ends.push('end'));
}).listen(port, '127.0.0.1');

/** Such a server with a proxy before it. */
async function setUp(t) {
  const ends = [];
  const server = echo(0, ends);
  await once(server, 'listening');
  const proxy = await new Proxy(`http://127.0.0.1:${server.address().port}`).listen();
  t.after(() => { proxy.close(); server.close(); });
  return { proxy, ends, server };
}

async function client(proxy) {
  const socket = connect(new URL(proxy.url).port, '127.0.0.1');
  const heard = { text: '', chunks: 0, fault: undefined };
  socket.on('error', ({ code }) => { heard.fault ??= code; });
  socket.on('data', (chunk) => { heard.text += chunk; heard.chunks += 1; });
  await once(socket, 'connect');
  const says = async (words) => {
    const all = heard.text.length + words.length;
    socket.write(words);
    while (heard.text.length < all) await once(socket, 'data');
  };
  return { socket, heard, says };
}

test('pass, delay and trickle bring every byte in order', async (t) => {
  const { proxy } = await setUp(t);
  const { heard, says, socket } = await client(proxy);
  await says('GET /v1/orgs/dev/stream HTTP/1.1\r\n');
  proxy.mode = 'delay';
  proxy.delayMs = 30;
  const began = performance.now();
  await says('abc');
  assert.ok(performance.now() - began >= 55, 'each way takes the delay');
  assert.ok(proxy.counts.delayed >= 2);
  proxy.mode = 'trickle';
  const chunks = heard.chunks;
  await says('0123456789'.repeat(20));
  assert.ok(proxy.counts.singles >= 400);
  assert.ok(heard.chunks > chunks + 2, 'more than one read');
  proxy.mode = 'pass';
  const long = 'x'.repeat(3_000_000);
  await says(long);
  assert.equal(heard.text, `GET /v1/orgs/dev/stream HTTP/1.1\r\nabc${'0123456789'.repeat(20)}${long}`);
  assert.deepEqual([proxy.attempts('ws'), proxy.attempts('sse')], [0, 1]);
  socket.destroy();
});

for (const [way, near, far] of [['rst', 'ECONNRESET', 'ECONNRESET'], ['fin', undefined, 'end']]) {
  test(`cut by ${way}: both sides hear of it`, async (t) => {
    const { proxy, ends, server } = await setUp(t);
    const { socket, heard, says } = await client(proxy);
    await says('a');
    assert.equal(proxy.cut(way), 1);
    await new Promise((resolve) => { socket.once('close', resolve); });
    assert.equal(heard.fault, near);
    while (await new Promise((resolve) => { server.getConnections((_, count) => resolve(count)); }) > 0);
    assert.deepEqual(ends, [far]);
    assert.equal(proxy.open.size, 0);
    assert.equal(proxy.counts.cut, 1);
  });
}

test('swallow: both sides stay open and hear nothing, also after it; new connections pass then', async (t) => {
  const { proxy, ends } = await setUp(t);
  const dead = await client(proxy);
  await dead.says('a');
  proxy.mode = 'swallow';
  dead.socket.write('lost');
  const also = await client(proxy);
  also.socket.write('lost too');
  while (proxy.counts.swallowed < 12) await new Promise((resolve) => { setImmediate(resolve); });
  proxy.mode = 'pass';
  const alive = await client(proxy);
  await alive.says('b');
  dead.socket.write('late');
  while (proxy.counts.swallowed < 16) await new Promise((resolve) => { setImmediate(resolve); });
  assert.equal(dead.heard.text, 'a');
  assert.equal(also.heard.text, '');
  assert.deepEqual(ends, []);
  assert.equal(dead.socket.readyState, 'open');
  // The end of one side is not told to the other.
  dead.socket.end();
  await alive.says('c');
  assert.deepEqual(ends, []);
  for (const { socket } of [dead, also, alive]) socket.destroy();
});

test('refuse: the port is closed for new connections only, and opens again', async (t) => {
  const { proxy } = await setUp(t);
  const old = await client(proxy);
  await old.says('a');
  proxy.mode = 'refuse';
  await assert.rejects(client(proxy), { code: 'ECONNREFUSED' });
  await old.says('b');
  proxy.mode = 'pass';
  const other = await client(proxy);
  await other.says('c');
  for (const { socket } of [old, other]) socket.destroy();
});

test('blocked upgrades are reset, other requests are not', async (t) => {
  const { proxy, ends } = await setUp(t);
  proxy.blocksUpgrades = true;
  const plain = await client(proxy);
  await plain.says('GET /v1/orgs/dev/stream HTTP/1.1\r\n\r\n');
  const upgrade = await client(proxy);
  upgrade.socket.write('GET /v1/orgs/dev/stream HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n');
  await new Promise((resolve) => { upgrade.socket.once('close', resolve); });
  assert.equal(upgrade.heard.fault, 'ECONNRESET');
  assert.deepEqual([proxy.attempts('ws'), proxy.attempts('sse'), proxy.counts.blocked], [1, 1, 1]);
  await plain.says('more');
  assert.ok(!ends.includes('end'));
  plain.socket.destroy();
});

test('a target that is gone resets the client, and is found again', async (t) => {
  const { proxy, server } = await setUp(t);
  const { port } = server.address();
  server.close();
  const { socket, heard } = await client(proxy);
  socket.write('a');
  await new Promise((resolve) => { socket.once('close', resolve); });
  assert.equal(heard.fault, 'ECONNRESET');
  const again = echo(port);
  t.after(() => again.close());
  await once(again, 'listening');
  const other = await client(proxy);
  await other.says('b');
  other.socket.destroy();
});
