// Against a real gateway: the binary that TIDEGATE names (default: target/debug/tidegate).
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { createPublisher } from '../dist/index.js';
import { mintToken } from '../dist/token.js';
import { Gateway, until } from '../../../tests/npm/gateway.mjs';

const program = process.env.TIDEGATE ?? new URL('../../../target/debug/tidegate', import.meta.url).pathname;
const event = (n, more = {}) => ({ service: 'finance', event: 'invoice.paid', data: { n }, ...more });
let gateway;

before(async () => { gateway = await new Gateway(program, '--no-feed').start(); });
after(async () => { await gateway.kill(); });

const publisherOf = (t, options = {}) => {
  const publisher = createPublisher({ url: gateway.url, key: gateway.publish_key, org: gateway.org, ...options });
  t.after(() => publisher.close({ timeoutMs: 0 }));
  return publisher;
};

test('stored, then a duplicate, in the log once, and the cursor is a place to start', async (t) => {
  const publisher = publisherOf(t);
  const first = await publisher.publish(event(1, { id: 'inv-1', key: 'inv', time: new Date(0) }));
  assert.equal(first.status, 'stored');
  const again = await publisher.publish(event(1, { id: 'inv-1', key: 'inv', time: new Date(0) }));
  assert.deepEqual({ ...again, status: 'stored' }, first);
  assert.equal(again.status, 'duplicate');
  const second = await publisher.publish(event(2));
  const page = await fetch(`${gateway.url}/v1/orgs/${gateway.org}/events?after=${first.cursor}`, { headers: { authorization: `Bearer ${gateway.token}` } });
  const { events, gap } = await page.json();
  assert.equal(gap, undefined);
  assert.deepEqual(events.map(({ seq, id }) => [seq, id]), [[second.seq, second.id]]);
});

test('faulty events of a batch are refused, each with its pointer; the others are stored', async (t) => {
  const publisher = publisherOf(t, { maxDelayMs: 0 });
  await publisher.publish(event(0, { id: 'taken' }));
  const outcomes = await Promise.all([
    event(1), event(2, { service: '.hidden' }), event(3, { user: ['alice'] }), event(4, { id: 'taken' }),
    event(5, { org: 'other' }), { service: 'finance', event: 'invoice.paid' }, event(7, { data: 'x'.repeat(300_000) }), event(8),
  ].map((one) => publisher.publish(one)));
  const told = outcomes.map(({ status, code, pointer, errors, limit }) => [status, code, pointer ?? limit, errors?.[0].code]);
  assert.deepEqual(told, [
    ['stored', undefined, undefined, undefined],
    ['refused', 'invalid', '/service', 'format'],
    ['refused', 'invalid', '/user', 'unknown_field'],
    ['refused', 'id_conflict', undefined, undefined],
    ['refused', 'invalid', '/org', 'mismatch'],
    ['refused', 'invalid', '/data', 'required'],
    ['refused', 'too_large', 'limits.event_bytes', undefined],
    ['stored', undefined, undefined, undefined],
  ]);
  assert.match(outcomes[2].detail, /users/, 'the gateway names the field that was meant');
  assert.match(outcomes[3].detail, /^the id of the event was used /, 'no index in a request that nobody sees');
  assert.match(outcomes[6].detail, /^the event \(\d+ bytes\) is larger than limits\.event_bytes/);
});

test('several orgs with one key, and what the key does not cover', async (t) => {
  const key = execFileSync(program, ['key', 'create', '--data-dir', gateway.dir, '--org', 'a', '--org', 'b', '--services', 'finance', '--json'], { encoding: 'utf8' });
  const { key: secret } = JSON.parse(key);
  await until('the gateway to take the new key', async () => (await fetch(`${gateway.url}/v1/events`, {
    method: 'POST', headers: { authorization: `Bearer ${secret}`, 'content-type': 'application/json' }, body: '[]',
  })).status === 422);
  const publisher = createPublisher({ url: gateway.url, key: secret, maxDelayMs: 0 });
  t.after(() => publisher.close({ timeoutMs: 0 }));
  const outcomes = await Promise.all([
    event(1, { org: 'a', id: 'x' }), event(2, { org: 'b' }), event(3, { org: 'c' }), event(4, { org: 'a', service: 'staff' }),
    event(5), event(6, { org: 'a', id: 'x' }), event(7, { org: 'b' }),
  ].map((one) => publisher.publish(one)));
  assert.deepEqual(outcomes.map(({ status, code, pointer }) => [status, code ?? '', pointer ?? '']), [
    ['stored', '', ''], ['stored', '', ''], ['refused', 'forbidden', ''], ['refused', 'forbidden', ''],
    ['refused', 'invalid', '/org'], ['refused', 'id_conflict', ''], ['stored', '', ''],
  ]);
  assert.match(outcomes[5].detail, /^the id of the event was used /);
});

test('limits of the gateway that are lower than those of the publisher', async (t) => {
  const small = await new Gateway(program, '--no-feed', '--set', 'limits.events_per_batch=7', '--set', 'limits.request_bytes="2KiB"', '--set', 'limits.event_bytes="1KiB"').start();
  t.after(() => small.kill());
  const publisher = createPublisher({ url: small.url, key: small.publish_key, org: small.org, maxDelayMs: 0 });
  const outcomes = await Promise.all(Array.from({ length: 100 }, (_, n) => publisher.publish(event(n, { data: { n, text: 'x'.repeat(n === 50 ? 5000 : 300) } }))));
  assert.deepEqual(outcomes.flatMap(({ status }, n) => (status === 'stored' ? [] : n)), [50]);
  assert.deepEqual((await small.history()).map(({ data }) => data.n), Array.from({ length: 100 }, (_, n) => n).filter((n) => n !== 50), 'in order');
  await publisher.close();
});

test('the gateway is killed under load, five times: each event is stored once, in order, and every promise settles', async (t) => {
  const publisher = publisherOf(t, { maxQueue: 500, maxBatch: 50 });
  const published = [];
  let kills = 0;
  let isDone = false;
  const killer = (async () => {
    for (; kills < 5; kills += 1) {
      const from = published.length;
      await until('load', () => published.length > from + 700);
      await gateway.kill();
      await gateway.restart();
    }
    isDone = true;
  })();
  for (let n = 0; !isDone; n += 1) {
    await publisher.ready();
    published.push(publisher.publish(event(n, { service: `load${n % 3}` })));
    if (n % 50 === 0) await new Promise((resolve) => { setImmediate(resolve); });
  }
  await killer;
  assert.deepEqual(await publisher.close(), []);
  const outcomes = await Promise.all(published);
  for (const { status, detail } of outcomes) assert.ok(['stored', 'duplicate'].includes(status), detail);
  const log = (await gateway.history()).filter(({ service }) => service.startsWith('load'));
  assert.equal(log.length, outcomes.length);
  const places = new Map(log.map(({ seq, id, data }) => [id, { seq, n: data.n }]));
  for (const [n, { id, seq }] of outcomes.entries()) assert.deepEqual(places.get(id), { seq, n });
  for (const service of ['load0', 'load1', 'load2']) {
    const numbers = log.filter((one) => one.service === service).map(({ data }) => data.n);
    assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b));
  }
  assert.ok(outcomes.some(({ attempts }) => attempts > 1), 'the kills hit requests');
});

test('mintToken: the gateway takes it, with kid, iss and aud too', async (t) => {
  const [, secret] = /^secret = "(.*)"$/m.exec(readFileSync(join(gateway.dir, 'dev.toml'), 'utf8'));
  const asked = async (at, token) => {
    const answer = await fetch(`${at.url}/v1/orgs/dev/cursor`, { headers: { authorization: `Bearer ${token}` } });
    return [answer.status, (await answer.json()).detail];
  };
  const claims = { secret, org: 'dev', user: 'alice', services: ['finance'], expiresInS: 600 };
  assert.deepEqual(await asked(gateway, await mintToken(claims)), [200, undefined]);
  const [status, detail] = await asked(gateway, await mintToken({ ...claims, secret: 'x'.repeat(32) }));
  assert.equal(status, 401, detail);
  const strict = await new Gateway(program, '--no-feed', '--set', 'auth.issuer="shop"', '--set', 'auth.audience="events"').start();
  t.after(() => strict.kill());
  const [, other] = /^secret = "(.*)"$/m.exec(readFileSync(join(strict.dir, 'dev.toml'), 'utf8'));
  const own = { ...claims, secret: new TextEncoder().encode(other) };
  assert.equal((await asked(strict, await mintToken(own)))[0], 401);
  assert.deepEqual(await asked(strict, await mintToken({ ...own, iss: 'shop', aud: 'events' })), [200, undefined]);
});
