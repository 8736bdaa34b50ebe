// The client against a real gateway, over both transports. TIDEGATE names the program; without it these are left out.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import WebSocket from 'ws';
import { createClient, eventStream, webSocket } from '@tidegate/client';
import { Gateway, until } from '../../../tests/npm/gateway.mjs';

const program = process.env.TIDEGATE;
const TRANSPORTS = { ws: () => [webSocket(WebSocket)], sse: () => [eventStream()] };

const clients = [];
function reader(gateway, kind, options = {}) {
  const client = createClient({ url: gateway.url, org: gateway.org, getToken: () => gateway.token, transports: TRANSPORTS[kind](), ...options });
  clients.push(client);
  const own = { client, seen: [], errors: [], gaps: [] };
  client.onError((error) => own.errors.push(error));
  client.onGap((gap) => own.gaps.push(gap));
  client.on('*', (event) => { own.seen.push(event); });
  client.connect();
  return own;
}

const connected = (client) => until('the connection', () => client.getStatus().state === 'connected');
const many = (count, from = 0) => Array.from({ length: count }, (_, index) => ({ service: 'finance', event: 'invoice.paid', id: `inv-${from + index}`, data: { number: from + index } }));
const numbers = (events) => events.map(({ data }) => data.number);
const range = (count) => Array.from({ length: count }, (_, index) => index);

for (const kind of program ? ['ws', 'sse'] : []) {
  test(`over ${kind}`, async (suite) => {
    let gateway;
    before(async () => { gateway = await new Gateway(program, '--no-feed').start(); });
    after(async () => {
      for (const client of clients.splice(0)) client.dispose();
      await gateway.kill();
    });

    await suite.test('events in order, over a gateway that is killed and started again', async () => {
      const { client, seen, errors, gaps } = reader(gateway, kind);
      await connected(client);
      await gateway.publish(...many(500));
      await until('500 events', () => seen.length === 500);
      await gateway.kill();
      await until('the loss', () => client.getStatus().state === 'reconnecting');
      await gateway.restart();
      await gateway.publish(...many(500, 500));
      await until('all events', () => seen.length >= 1000);
      assert.deepEqual(numbers(seen), range(1000));
      assert.deepEqual(gaps, []);
      assert.equal(errors[0].fatal, false);
      const health = client.metrics();
      assert.equal(health.totalDisconnects, 1);
      assert.equal(health.eventsReceived, 1000);
      assert.equal(health.duplicatesDetected, 0);
      assert.ok(health.lastEventAt >= health.lastConnectedAt);
      assert.equal(health.extra.transport, kind);
      client.dispose();
    });

    await suite.test('a slow handler loses nothing', async () => {
      const { client, seen, errors } = reader(gateway, kind, { maxQueue: 50 });
      await connected(client);
      const late = [];
      client.on('*', async ({ data }) => {
        await new Promise((resolve) => { setImmediate(resolve); });
        late.push(data.number);
      });
      for (let round = 0; round < 5; round += 1) await gateway.publish(...many(200, 10_000 + round * 200));
      await until('all events', () => late.length >= 1000);
      assert.deepEqual(late, range(1000).map((number) => number + 10_000));
      assert.equal(seen.length, 1000);
      assert.ok(errors.some(({ code }) => code === 'overflow'));
      client.dispose();
    });

    await suite.test('a token is renewed without a loss', async () => {
      const reasons = [];
      const { client, seen, errors } = reader(gateway, kind, {
        getToken: ({ reason }) => {
          reasons.push(reason);
          return reason === 'refresh' ? gateway.token : gateway.expiring(8);
        },
      });
      await connected(client);
      await until('the renewal', () => reasons.includes('refresh'));
      await until('the connection', () => client.getStatus().state === 'connected');
      await gateway.publish(...many(1, 20_000));
      await until('the event', () => seen.length === 1);
      assert.deepEqual(reasons, ['initial', 'refresh']);
      assert.equal(client.metrics().totalDisconnects, 0);
      assert.deepEqual(errors, []);
      client.dispose();
    });

    await suite.test('a token of another org is refused for good, and the iteration says why', async () => {
      const { client } = reader(gateway, kind, { org: 'other' });
      await assert.rejects((async () => { for await (const _ of client.events('*')); })(), { code: 'forbidden', fatal: true });
      assert.equal(client.getStatus().phase, 'stopped');
      client.dispose();
    });

    await suite.test('tokens that have expired stop it at the third', async () => {
      let calls = 0;
      const { client, errors } = reader(gateway, kind, { getToken: () => { calls += 1; return gateway.expiring(-60); }, random: () => 0 });
      await until('the stop', () => client.getStatus().phase === 'stopped');
      assert.equal(calls, 3);
      assert.equal(errors.at(-1).code, 'auth');
      client.dispose();
    });

    await suite.test('a cursor of a log that never was gives a gap, and the client goes on', async () => {
      const { client, gaps, seen } = reader(gateway, kind, { cursor: 'never0was-7' });
      await until('the gap', () => gaps.length > 0);
      assert.equal(gaps[0].reason, 'epoch');
      await connected(client);
      const count = seen.length;
      await gateway.publish(...many(1, 30_000));
      await until('the event', () => seen.length > count);
      client.dispose();
    });

    await suite.test('only the services that are asked for, and the last events with `tail`', async () => {
      await gateway.publish({ service: 'staff', event: 'joined', data: { number: 1 } }, { service: 'finance', event: 'invoice.paid', data: { number: 2 } }, { service: 'staff', event: 'joined', data: { number: 3 } });
      const { client, seen } = reader(gateway, kind, { services: ['staff'], tail: 2 });
      await until('the events', () => seen.length === 2);
      assert.deepEqual(seen.map(({ service, data, replay }) => [service, data.number, replay]), [['staff', 1, true], ['staff', 3, true]]);
      client.dispose();
    });

    await suite.test('a disposed client holds nothing at the gateway', async () => {
      const { client } = reader(gateway, kind);
      await connected(client);
      client.dispose();
      await until('the end of the stream', async () => !(await gateway.isTaken()));
    });
  });
}

// What stands at the address of a gateway that is not there.
for (const [name, answer, code, isFatal] of [
  ['a page of somebody else', (_, response) => response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>Hello</h1>'), 'refused', true],
  ['a redirect', (_, response) => response.writeHead(302, { location: 'https://example.com/' }).end(), 'closed', false],
  ['a proxy without a server', (_, response) => response.writeHead(502, { 'retry-after': '7' }).end('bad gateway'), 'refused', false],
  ['nothing found', (_, response) => response.writeHead(404).end(), 'refused', true],
]) {
  test(`over sse, ${name}`, async () => {
    const server = createServer(answer).listen(0, '127.0.0.1');
    await new Promise((resolve) => { server.once('listening', resolve); });
    const client = createClient({ url: `http://127.0.0.1:${server.address().port}`, org: 'dev', getToken: () => 't', transports: [eventStream()], random: () => 0 });
    const error = await new Promise((resolve) => {
      client.onError(resolve);
      client.connect();
    });
    assert.equal(error.code, code);
    assert.equal(error.fatal, isFatal);
    if (name.includes('proxy')) assert.ok(error.retryInMs >= 7000, `${error.retryInMs}`);
    if (isFatal) assert.equal(error.retryInMs, null);
    client.dispose();
    server.close();
    server.closeAllConnections();
  });
}

test('over sse, an event whose characters come byte by byte, and a date to come back at', async () => {
  const hello = { type: 'hello', connection_id: 'a-1', protocol: 1, org: 'dev', services: ['*'], filter: 'all', epoch: 'e1', cursor: 'e1-0-all', head: 0, ping_interval_ms: 25_000, resumed: false, token_expires_in_ms: 600_000 };
  const event = { type: 'event', org: 'dev', prev: 0, seq: 1, service: 's', event: 'a', id: '1', timestamp: '2026-01-01T00:00:00.000Z', data: 'größer 😀 …' };
  const requests = [];
  const server = createServer(async (request, response) => {
    requests.push(request);
    if (requests.length > 1) return response.writeHead(503, { 'retry-after': new Date(Date.now() + 40_000).toUTCString() }).end();
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const byte of Buffer.from(`\ufeffdata: ${JSON.stringify(hello)}\r\n\r\ndata: ${JSON.stringify(event)}\r\n\r\n`)) {
      response.write(Buffer.of(byte));
      await new Promise((resolve) => { setImmediate(resolve); });
    }
    response.end();
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => { server.once('listening', resolve); });
  const client = createClient({ url: `http://127.0.0.1:${server.address().port}`, org: 'dev', getToken: () => 'a-token', transports: [eventStream()], random: () => 0 });
  const errors = [];
  client.onError((error) => errors.push(error));
  for await (const { data } of client.events('a')) {
    assert.equal(data, event.data);
    break;
  }
  client.connect();
  await until('the second end', () => errors.length === 2);
  assert.equal(requests[0].headers.authorization, 'Bearer a-token');
  assert.equal(requests[0].headers.accept, 'text/event-stream');
  assert.ok(!requests[0].url.includes('a-token'));
  assert.equal(requests[1].url, '/v1/orgs/dev/stream?cursor=e1-1-all&replaces=a-1');
  assert.ok(errors[1].retryInMs >= 38_000, `${errors[1].retryInMs}`);
  client.dispose();
  server.close();
  server.closeAllConnections();
});

test('without a WebSocket, and with nothing given, the stream comes over sse', { skip: !program || 'WebSocket' in globalThis }, async () => {
  const gateway = await new Gateway(program, '--no-feed').start();
  const client = createClient({ url: gateway.url, org: gateway.org, getToken: () => gateway.token });
  client.connect();
  await connected(client);
  assert.equal(client.getStatus().transport, 'sse');
  client.dispose();
  await gateway.kill();
});
