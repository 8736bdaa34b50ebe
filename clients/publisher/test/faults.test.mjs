// One fault at a time, over real sockets against a scripted server. Where a test has to wait for a delay, the clock is
// the test's; nothing here measures time.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';

import { createPublisher } from '../dist/index.js';
import { answer, hang, refuse, reset, resetInTheMiddle, ScriptedServer, store } from './scripted_server.mjs';

const KEY = 'tgk_test_secret';
const event = (n, more = {}) => ({ service: 'finance', event: 'invoice.paid', data: { n }, ...more });

/** A clock that stands still but for its timers: each takes 5 ms, and the time it was asked for passes. */
function hasty() {
  const waits = [];
  let now = 0;
  return {
    waits,
    now: () => now,
    wall: () => Date.now(),
    setTimeout: (run, ms) => {
      // Those of requests, which are not waited for.
      if (ms >= 30_000) return setTimeout(run, ms);
      waits.push(ms);
      return setTimeout(() => { now += ms; run(); }, Math.min(ms, 5));
    },
    clearTimeout: (timer) => clearTimeout(timer),
  };
}

async function start(t, options = {}) {
  const server = await new ScriptedServer().start(t);
  const clock = hasty();
  const logged = [];
  const publisher = createPublisher({
    url: server.url, key: KEY, org: 'acme', clock, random: () => 0.5, logger: { warn: (line) => logged.push(line) }, ...options,
  });
  t.after(() => publisher.close({ timeoutMs: 0 }));
  return { server, publisher, clock, logged };
}

const idsOf = (request) => request.events.map(({ id }) => id);

test('events of one turn share a request, with key, ids and order', async (t) => {
  const { server, publisher } = await start(t, { maxDelayMs: 0 });
  const outcomes = await Promise.all([1, 2, 3].map((n) => publisher.publish(event(n))));
  assert.equal(server.requests.length, 1);
  const [{ path, headers, events }] = server.requests;
  assert.equal(path, '/v1/orgs/acme/events');
  assert.equal(headers.authorization, `Bearer ${KEY}`);
  assert.equal(headers['content-type'], 'application/json');
  assert.deepEqual(events.map(({ data }) => data.n), [1, 2, 3]);
  for (const { id } of events) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.deepEqual(outcomes, events.map(({ id }, at) => ({ status: 'stored', id, seq: at + 1, cursor: `e-${at + 1}`, attempts: 1 })));
});

test('an id of the caller is kept, and an event is sent as it was when it was published', async (t) => {
  const { server, publisher } = await start(t);
  const mutable = event(1, { id: 'inv-1', time: new Date(0), key: undefined });
  const outcome = publisher.publish(mutable);
  mutable.data.n = 2;
  assert.equal((await outcome).id, 'inv-1');
  assert.deepEqual(server.requests[0].events, [event(1, { id: 'inv-1', time: '1970-01-01T00:00:00.000Z' })]);
});

for (const [what, act] of [['before the answer', reset], ['in the middle of the answer', resetInTheMiddle]]) {
  test(`a connection that is reset ${what}: again, with the same bytes`, async (t) => {
    const { server, publisher } = await start(t);
    server.next(act, act);
    const outcome = await publisher.publish(event(1));
    assert.equal(outcome.status, 'stored');
    assert.equal(outcome.attempts, 3);
    const [first, ...others] = server.requests;
    for (const other of others) assert.deepEqual(other.events, first.events);
  });
}

test('a gateway that cannot be reached', async (t) => {
  const server = await new ScriptedServer().start(t);
  await server.stop();
  const clock = hasty();
  const publisher = createPublisher({ url: server.url, key: KEY, org: 'acme', clock, retryForMs: 2000 });
  const outcome = await publisher.publish(event(1));
  assert.equal(outcome.status, 'refused', 'nothing was sent, so nothing is in doubt');
  assert.equal(outcome.code, 'unreachable');
  assert.equal(outcome.retryable, true);
  assert.match(outcome.detail, /ECONNREFUSED/);
  assert.ok(outcome.attempts > 1);
});

test('Retry-After and retry_in_ms are never undercut; without them the delays grow', async (t) => {
  const { server, publisher, clock } = await start(t, { maxDelayMs: 0 });
  server.next(
    refuse(503, 'overloaded', {}, { 'retry-after': '7' }),
    refuse(429, 'rate_limited', { retry_in_ms: 2500 }, { 'retry-after': '1' }),
    refuse(503, 'draining'),
    refuse(503, 'draining'),
    answer(502, '<html>'),
    refuse(503, 'overloaded', {}, { 'retry-after': new Date(Date.now() + 20_000).toUTCString() }),
  );
  assert.equal((await publisher.publish(event(1))).status, 'stored');
  const [asked, larger, third, fourth, fifth, date] = clock.waits;
  assert.deepEqual([asked, larger, third, fourth, fifth], [7000, 2500, 600, 1200, 2400]);
  assert.ok(date > 18_000 && date <= 20_000, `${date}`);
});

test('504 until the time is over: unknown, with the id', async (t) => {
  const { server, publisher } = await start(t, { retryForMs: 1000 });
  server.next(...Array(20).fill(refuse(504, 'unknown', { ids: ['x'] })));
  const outcome = await publisher.publish(event(1));
  const { id } = server.requests[0].events[0];
  assert.deepEqual({ status: outcome.status, id: outcome.id, code: outcome.code }, { status: 'unknown', id, code: 'unknown' });
  assert.equal(outcome.attempts, server.requests.length);
});

test('503 until the time is over: refused, and may be published again', async (t) => {
  const { server, publisher } = await start(t, { retryForMs: 1000 });
  server.next(...Array(20).fill(refuse(503, 'log_halted', { limit: 'limits.x' })));
  const { status, code, retryable, limit } = await publisher.publish(event(1));
  assert.deepEqual({ status, code, retryable, limit }, { status: 'refused', code: 'log_halted', retryable: true, limit: 'limits.x' });
});

test('a wait that is longer than what is left is not waited for', async (t) => {
  const { server, publisher, clock } = await start(t, { retryForMs: 10_000, maxDelayMs: 0 });
  server.next(refuse(503, 'log_halted', {}, { 'retry-after': '3600' }));
  const [first, second] = await Promise.all([publisher.publish(event(1)), publisher.publish(event(2))]);
  assert.deepEqual([first.code, second.code], ['log_halted', 'log_halted']);
  // Nor is the gateway asked meanwhile.
  const third = await publisher.publish(event(3));
  assert.deepEqual([third.code, third.attempts, third.retryable], ['log_halted', 0, true]);
  assert.equal(server.requests.length, 1);
  assert.deepEqual(clock.waits, []);
});

for (const [status, code] of [[400, 'bad_request'], [401, 'unauthorized'], [403, 'forbidden'], [404, 'not_found'], [405, 'method_not_allowed'], [415, 'unsupported_media'], [422, 'request_conflict']]) {
  test(`${status} ${code} is final`, async (t) => {
    const { server, publisher, logged } = await start(t);
    server.next(refuse(status, code));
    const { id, ...outcome } = await publisher.publish(event(1));
    assert.deepEqual(outcome, { status: 'refused', code, detail: `the sentence of ${code}`, retryable: false, attempts: 1 });
    assert.equal(server.requests.length, 1);
    assert.equal(logged.length, 1);
    assert.ok(!logged[0].includes('secret'), 'no key in the log');
    assert.equal((await publisher.publish(event(2))).status, 'stored', 'later events are not concerned');
  });
}

test('422 in the middle: the faulty event is refused with its pointer, the others are stored', async (t) => {
  const { server, publisher, logged } = await start(t, { maxDelayMs: 0 });
  const errors = [
    { pointer: '/1/service', code: 'format', detail: 'service must be ...' },
    { pointer: '/1/data/a~1b', code: 'format', detail: 'a number ...', limit: 'limits.depth' },
  ];
  server.next(refuse(422, 'invalid', { errors }));
  const [one, two, three] = await Promise.all([1, 2, 3].map((n) => publisher.publish(event(n))));
  assert.deepEqual([one.status, three.status], ['stored', 'stored']);
  assert.equal(two.pointer, '/service');
  assert.equal(two.detail, 'service must be ...');
  assert.deepEqual(two.errors, [
    { pointer: '/service', code: 'format', detail: 'service must be ...' },
    { pointer: '/data/a~1b', code: 'format', detail: 'a number ...', limit: 'limits.depth' },
  ]);
  assert.deepEqual(idsOf(server.requests[1]), [one.id, three.id]);
  assert.deepEqual(logged, ['1 of 3 events are refused: invalid: service must be ...']);
});

test('409 without a pointer: the conflicting event is found in few requests, and in order', async (t) => {
  const { server, publisher } = await start(t, { maxDelayMs: 0 });
  const guard = (response, events) => {
    server.next(guard);
    if (events.some(({ data }) => data.n === 37)) refuse(409, 'id_conflict')(response);
    else store(response, events, server);
  };
  server.next(guard);
  const outcomes = await Promise.all(Array.from({ length: 100 }, (_, n) => publisher.publish(event(n))));
  const refused = outcomes.flatMap(({ status }, at) => (status === 'refused' ? at : []));
  assert.deepEqual(refused, [37]);
  assert.equal(outcomes[37].code, 'id_conflict');
  const seqs = outcomes.filter(({ status }) => status === 'stored').map(({ seq }) => seq);
  assert.deepEqual(seqs, Array.from({ length: 99 }, (_, at) => at + 1), 'in the order of publishing');
  assert.ok(server.requests.length <= 1 + 2 * Math.ceil(Math.log2(100)), `${server.requests.length} requests`);
});

test('403 because of one service: the others are stored', async (t) => {
  const { server, publisher } = await start(t, { maxDelayMs: 0 });
  const guard = (response, events) => {
    server.next(guard);
    if (events.some(({ service }) => service === 'staff')) refuse(403, 'forbidden')(response);
    else store(response, events, server);
  };
  server.next(guard);
  const services = ['finance', 'staff', 'orders', 'staff', 'finance'];
  const outcomes = await Promise.all(services.map((service, n) => publisher.publish(event(n, { service }))));
  assert.deepEqual(outcomes.map(({ status }) => status), ['stored', 'refused', 'stored', 'refused', 'stored']);
  assert.equal(server.requests.length, 4, 'the batch, then one request for each service');
});

test('413 splits: by number and size for good, and finds the one event that is too large', async (t) => {
  const { server, publisher } = await start(t, { maxDelayMs: 0 });
  const guard = (response, events) => {
    server.next(guard);
    if (events.length > 3) return refuse(413, 'too_large', { limit: 'limits.events_per_batch' })(response);
    if (events.some(({ data }) => data.n === 5)) return refuse(413, 'too_large', { limit: 'limits.event_bytes' })(response);
    return store(response, events, server);
  };
  server.next(guard);
  const outcomes = await Promise.all(Array.from({ length: 8 }, (_, n) => publisher.publish(event(n))));
  assert.deepEqual(outcomes.flatMap(({ status }, at) => (status === 'refused' ? at : [])), [5]);
  assert.equal(outcomes[5].limit, 'limits.event_bytes');
  const before = server.requests.length;
  await Promise.all([1, 2, 3, 4].map((n) => publisher.publish(event(n + 10))));
  assert.deepEqual(server.requests.slice(before).map(({ events }) => events.length), [2, 2], 'the limit of requests is remembered');
});

test('413 of something before the gateway, which says no limit, splits, too', async (t) => {
  const { server, publisher } = await start(t, { maxDelayMs: 0 });
  server.next(answer(413, '<html>'));
  const outcomes = await Promise.all([1, 2, 3, 4].map((n) => publisher.publish(event(n))));
  assert.ok(outcomes.every(({ status }) => status === 'stored'));
  assert.deepEqual(server.requests.map(({ events }) => events.length), [4, 2, 2]);
});

test('events that name their org: 207 is read for each event', async (t) => {
  const { server, publisher } = await start(t, { org: undefined, maxDelayMs: 0 });
  const problem = (code, status, more) => ({ type: 'about:blank', title: '', status, code, detail: code, ...more });
  server.next((response, events) => answer(207, {
    orgs: [
      { org: 'a', cursor: 'ea-2' },
      { org: 'b', problem: problem('rate_limited', 429, { retry_in_ms: 9000 }) },
      { org: 'c', problem: problem('id_conflict', 409) },
    ],
    events: events.map(({ org, service, id }, at) => ({ org, service, id, ...(org === 'a' ? { seq: at + 1, duplicate: at > 0 } : { code: 'x' }) })),
  })(response), (response, events) => answer(200, {
    orgs: [{ org: 'c', cursor: 'ec-7' }], events: events.map(({ id }) => ({ org: 'c', id, seq: 7, duplicate: false })),
  })(response), (response, events) => {
    assert.deepEqual(events.map(({ org }) => org), ['c']);
    refuse(409, 'id_conflict')(response);
  }, (response, events) => answer(200, {
    orgs: [{ org: 'b', cursor: 'eb-9' }], events: events.map(({ id }) => ({ org: 'b', id, seq: 9, duplicate: false })),
  })(response));
  const outcomes = await Promise.all(['a', 'a', 'b', 'c', 'c'].map((org, n) => publisher.publish(event(n, { org }))));
  assert.deepEqual(server.requests.map(({ path }) => path), Array(4).fill('/v1/events'));
  assert.deepEqual(outcomes.map(({ id, attempts, ...rest }) => rest), [
    { status: 'stored', seq: 1, cursor: 'ea-1' },
    { status: 'duplicate', seq: 2, cursor: 'ea-2' },
    { status: 'stored', seq: 9, cursor: 'eb-9' },
    { status: 'stored', seq: 7, cursor: 'ec-7' },
    { status: 'refused', code: 'id_conflict', detail: 'the sentence of id_conflict', retryable: false },
  ]);
  assert.deepEqual(idsOf(server.requests[3]), [outcomes[2].id], 'the org that has to wait does not hold up the others');
});

test('a refusal after a try in doubt leaves the doubt, unless it is about the event itself', async (t) => {
  const { server, publisher } = await start(t);
  server.next(reset, refuse(401, 'unauthorized'));
  const revoked = await publisher.publish(event(1));
  assert.deepEqual([revoked.status, revoked.code], ['unknown', 'unauthorized']);
  server.next(reset, refuse(422, 'invalid'));
  const invalid = await publisher.publish(event(2));
  assert.deepEqual([invalid.status, invalid.code], ['refused', 'invalid']);
});

test('a redirect is not followed, so the key goes nowhere else', async (t) => {
  const { server, publisher } = await start(t);
  server.next(answer(302, '', { location: 'https://elsewhere.example' }));
  const { status, code, detail } = await publisher.publish(event(1));
  assert.deepEqual([status, code], ['refused', 'http_302']);
  assert.match(detail, /redirects to https:\/\/elsewhere\.example/);
  assert.equal(server.requests.length, 1);
});

test('something that answers 200 and is no gateway', async (t) => {
  const { server, publisher } = await start(t, { retryForMs: 500 });
  server.next(...Array(20).fill(answer(200, '<html>welcome</html>')));
  const { status, detail } = await publisher.publish(event(1));
  assert.equal(status, 'unknown');
  assert.match(detail, /no Tidegate gateway: check the url/);
});

test('a full queue: publish waits, tryPublish refuses, ready says when', async (t) => {
  const { server, publisher } = await start(t, { maxQueue: 2, maxDelayMs: 0 });
  let release;
  server.next((response, events) => { release = () => store(response, events, server); });
  const first = [1, 2].map((n) => publisher.publish(event(n)));
  const third = publisher.publish(event(3));
  assert.equal(publisher.pending, 2);
  const refused = await publisher.tryPublish(event(4));
  assert.deepEqual([refused.status, refused.code, refused.retryable], ['refused', 'queue_full', true]);
  let isReady = false;
  const ready = publisher.ready().then(() => { isReady = true; });
  while (!release) await new Promise((resolve) => { setImmediate(resolve); });
  assert.equal(isReady, false);
  release();
  await ready;
  const outcomes = await Promise.all([...first, third]);
  assert.deepEqual(outcomes.map(({ seq }) => seq), [1, 2, 3]);
  assert.deepEqual(server.requests.map(({ events }) => events.length), [2, 1]);
  assert.equal((await publisher.tryPublish(event(5))).status, 'stored');
});

test('the queue is bounded in bytes, too', async (t) => {
  const { server, publisher } = await start(t, { maxQueueBytes: 1000, maxDelayMs: 0 });
  const outcomes = await Promise.all([1, 2, 3].map((n) => publisher.publish(event(n, { data: 'x'.repeat(1000) }))));
  assert.ok(outcomes.every(({ status }) => status === 'stored'));
  assert.deepEqual(server.requests.map(({ events }) => events.length), [1, 1, 1]);
});

test('a batch ends at maxBatch and maxBatchBytes', async (t) => {
  const { server, publisher } = await start(t, { maxBatch: 3, maxBatchBytes: 1000, maxDelayMs: 0 });
  await Promise.all([1, 2, 3, 4].map((n) => publisher.publish(event(n))));
  await Promise.all([1, 2, 3, 4].map((n) => publisher.publish(event(n, { data: 'é'.repeat(n === 3 ? 2000 : 150) }))));
  assert.deepEqual(server.requests.map(({ events }) => events.length), [3, 1, 2, 1, 1], 'one that is longer is sent alone');
});

test('flush sends at once and waits for the outcomes', async (t) => {
  const { server, publisher } = await start(t, { maxDelayMs: 3_000_000, retryForMs: 4_000_000, dedupWindowMs: 5_000_000 });
  let outcome;
  publisher.publish(event(1)).then((found) => { outcome = found; });
  await publisher.flush();
  assert.equal(outcome.status, 'stored');
  assert.equal(server.requests.length, 1);
});

test('close flushes, takes no more, and is the same when called twice', async (t) => {
  const { publisher } = await start(t, { maxDelayMs: 3_000_000, retryForMs: 4_000_000, dedupWindowMs: 5_000_000, maxQueue: 1 });
  const before = [1, 2].map((n) => publisher.publish(event(n)));
  const closing = publisher.close({ timeoutMs: 60_000 });
  const late = await publisher.publish(event(3));
  assert.deepEqual([late.status, late.code, late.attempts], ['refused', 'closed', 0]);
  assert.deepEqual(await closing, []);
  assert.equal(publisher.close(), closing);
  assert.deepEqual((await Promise.all(before)).map(({ status }) => status), ['stored', 'stored'], 'also one that waited for room');
  await publisher.ready();
  await publisher.flush();
});

test('close with work left tells what became of it', async (t) => {
  const { server, publisher } = await start(t, { maxBatch: 1, maxDelayMs: 0, maxQueue: 2, clock: undefined });
  server.next(hang);
  const published = [1, 2, 3].map((n) => publisher.publish(event(n)));
  while (server.requests.length === 0) await new Promise((resolve) => { setImmediate(resolve); });
  const left = await publisher.close({ timeoutMs: 20 });
  assert.deepEqual(left.map(({ status, code, attempts }) => [status, code, attempts]), [
    ['unknown', 'closed', 1], ['refused', 'closed', 0], ['refused', 'closed', 0],
  ]);
  assert.deepEqual(await Promise.all(published), left);
  assert.equal(publisher.pending, 0);
});

test('an aborted signal ends everything at once', async (t) => {
  const controller = new AbortController();
  const { server, publisher } = await start(t, { maxBatch: 1, maxDelayMs: 0, signal: controller.signal });
  server.next(hang);
  const published = [1, 2].map((n) => publisher.publish(event(n)));
  while (server.requests.length === 0) await new Promise((resolve) => { setImmediate(resolve); });
  controller.abort();
  const outcomes = await Promise.all(published);
  assert.deepEqual(outcomes.map(({ status, code }) => [status, code]), [['unknown', 'aborted'], ['refused', 'aborted']]);
  assert.equal((await publisher.publish(event(3))).code, 'aborted');
  await publisher.ready();
  assert.deepEqual(await publisher.close(), outcomes);
  const never = createPublisher({ url: server.url, key: KEY, org: 'acme', signal: controller.signal });
  assert.equal((await never.publish(event(4))).code, 'aborted');
});

test('a signal that aborts while a delay runs ends it, too', async (t) => {
  const controller = new AbortController();
  const { server, publisher } = await start(t, { clock: undefined, signal: controller.signal, logger: { warn: () => controller.abort() } });
  server.next(refuse(503, 'overloaded', {}, { 'retry-after': '100' }));
  const { status, code } = await publisher.publish(event(1));
  assert.deepEqual([status, code], ['refused', 'aborted']);
});

test('a request that takes too long is given up and sent again', async (t) => {
  const { server, publisher, logged } = await start(t, { clock: undefined, requestTimeoutMs: 50 });
  server.next(hang);
  const { status, attempts } = await publisher.publish(event(1));
  assert.deepEqual([status, attempts], ['stored', 2]);
  assert.match(logged[0], /it took longer than 50 ms/);
});

test('what is no event is refused, and what is injected and throws breaks nothing', async (t) => {
  const seen = [];
  const onOutcome = (outcome, of) => { seen.push([outcome, of]); throw new Error('a fault of the application'); };
  const { publisher, logged } = await start(t, { onOutcome });
  const circle = event(1);
  circle.data.circle = circle;
  for (const bad of [event(1, { data: 1n }), circle, null, undefined, 'text', [event(1)]]) {
    const { status, code, retryable } = await publisher.publish(bad);
    assert.deepEqual([status, code, retryable], ['refused', 'not_an_event', false]);
  }
  for (const [data, says] of [[() => 1, 'a function'], [Symbol('x'), 'a symbol'], [undefined, 'undefined']]) {
    const { status, code, detail } = await publisher.publish(event(1, { data }));
    assert.deepEqual([status, code, detail], ['refused', 'not_an_event', `data is ${says}, which JSON cannot hold; give null if there is none`]);
  }
  const good = event(2);
  const outcome = await publisher.publish(good);
  assert.equal(outcome.status, 'stored');
  assert.deepEqual(seen.at(-1), [outcome, good]);
  assert.ok(logged.includes('onOutcome threw: Error: a fault of the application'));
  const broken = createPublisher({
    url: 'http://gateway', key: KEY, org: 'acme', maxDelayMs: 0,
    fetch: async () => { throw new Error('no'); }, random: () => { throw new Error('no dice'); }, logger: { warn: () => { throw new Error(); } },
  });
  const { status, code, detail } = await broken.publish(event(3));
  assert.deepEqual([status, code], ['unknown', 'aborted']);
  assert.match(detail, /no dice/);
});

test('a process whose publisher is idle ends; one with work left does not', async (t) => {
  const { spawn } = await import('node:child_process');
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      held.push(response);
      if (held.length === 1) refuse(503, 'overloaded', {}, { 'retry-after': '1' })(response);
      else response.writeHead(200).end(JSON.stringify({ cursor: 'e-1', events: [{ service: 's', id: 'a', seq: 1, duplicate: false }] }));
    });
  });
  const held = [];
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  t.after(() => { server.closeAllConnections(); server.close(); });
  const code = `
    import { createPublisher } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
    const publisher = createPublisher({ url: 'http://127.0.0.1:${server.address().port}', key: 'k', org: 'o' });
    publisher.publish({ service: 's', event: 'e', id: 'a', data: 1 }).then(({ status }) => console.log(status));`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', (chunk) => { out += chunk; });
  assert.equal(await new Promise((resolve) => { child.once('exit', resolve); }), 0);
  assert.equal(out, 'stored\n');
});

test('wrong options are named', () => {
  const make = (more) => () => createPublisher({ url: 'http://gateway', key: KEY, ...more });
  assert.throws(make({ url: 'gateway:8080' }), /createPublisher: url must be the address of the gateway/);
  assert.throws(make({ url: undefined }), /url must be/);
  assert.throws(make({ url: 'http://u:p@gateway' }), /url must have no user/);
  assert.throws(make({ url: 'http://gateway?x=1' }), /url must have no user/);
  assert.throws(make({ key: '' }), /key must be an API key/);
  assert.throws(make({ key: 'tgk_1\n' }), /line breaks/);
  assert.throws(make({ org: 'a/b' }), /org must be/);
  assert.throws(make({ key: undefined }), /key is missing; is the environment variable/);
  assert.throws(make({ retryForMS: 1000 }), { message: 'createPublisher: "retryForMS" is no option; did you mean retryForMs?' });
  assert.throws(make({ maxBach: 1 }), /did you mean maxBatch\?/);
  assert.throws(make({ colour: 1 }), /"colour" is no option; the options are url, key, org, /);
  for (const nothing of [undefined, null, 'http://gateway']) {
    assert.throws(() => createPublisher(nothing), { message: 'createPublisher: give the options as an object: { url, key, ... }' });
  }
  assert.throws(make({ maxBatch: 0 }), /maxBatch must be a whole number of at least 1/);
  assert.throws(make({ maxQueue: '10' }), /maxQueue must be/);
  assert.throws(make({ retryForMs: 5 }), /retryForMs must be more than maxDelayMs/);
  assert.throws(make({ retryForMs: 270_000 }), {
    message: 'createPublisher: retryForMs (270000) and requestTimeoutMs (30000) together must be less than dedupWindowMs (300000), '
      + 'or a retry could store an event twice',
  });
  assert.throws(make({ requestTimeoutMs: 60_000 }), /requestTimeoutMs \(60000\)/);
  assert.throws(make({ dedupWindowMs: 60_000 }), /dedupWindowMs \(60000\)/);
  assert.ok(make({ retryForMs: 3_600_000, dedupWindowMs: 7_200_000 })());
});
