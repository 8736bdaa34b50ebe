// The client over a gateway in memory and a clock that the test moves.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { AuthError, browserLifecycle, createClient, eventStream, localStorageCursor, schemas, TidegateError, webSocket } from '@tidegate/client';
import { fakeTransport, manualClock, replay, settled } from '@tidegate/client/testing';

function setUp(options = {}, transportOptions = {}) {
  const clock = manualClock();
  const gateway = fakeTransport({ clock, ...transportOptions });
  const client = createClient({
    url: 'https://gateway.test', org: 'acme', getToken: () => 'token-of-a-test-user', transports: [gateway],
    lifecycle: null, clock, random: () => 0.5, ...options,
  });
  const seen = [];
  const errors = [];
  const gaps = [];
  client.onError((error) => errors.push(error));
  client.onGap((gap) => gaps.push(gap));
  return { clock, gateway, client, seen, errors, gaps };
}

const ids = (events) => events.map(({ seq }) => seq);

test('events come in order, with their fields', async () => {
  const { gateway, client, seen } = setUp();
  client.on('*', (event) => seen.push(event));
  client.connect();
  await settled();
  gateway.publish({ event: 'invoice.paid', service: 'finance', id: 'inv-1', data: { amount: '12.00' }, key: 'k' }, { event: 'b' });
  await settled();
  assert.deepEqual(ids(seen), [1, 2]);
  const [first] = seen;
  assert.deepEqual(
    { ...first, timestamp: null },
    { org: 'acme', service: 'finance', event: 'invoice.paid', id: 'inv-1', data: { amount: '12.00' }, key: 'k', seq: 1, timestamp: null, replay: false, latencyMs: 0 },
  );
  assert.equal(client.cursor, 'e1-2-all');
});

test('a lost connection resumes after the last event, and nothing comes twice', async () => {
  const { clock, gateway, client, seen, errors } = setUp();
  client.on('*', (event) => seen.push(event));
  client.connect();
  await settled();
  gateway.publish({ event: 'a' }, { event: 'a' });
  await settled();
  gateway.drop();
  assert.equal(client.getStatus().state, 'reconnecting');
  gateway.publish({ event: 'a' });
  await clock.advance(6_000);
  assert.equal(client.getStatus().state, 'connected');
  assert.deepEqual(ids(seen), [1, 2, 3]);
  assert.equal(seen[2].replay, true);
  assert.equal(gateway.connections[1].url.searchParams.get('cursor'), 'e1-2-all');
  assert.equal(errors.length, 1);
  assert.equal(client.metrics().totalDisconnects, 1);
});

test('handlers hear only their event and service, and nothing after they are taken off', async () => {
  const { gateway, client } = setUp();
  const heard = [];
  const off = client.on('a', ({ seq }) => heard.push(`a${seq}`));
  client.on('a', ({ seq }) => heard.push(`finance${seq}`), { service: 'finance' });
  client.on('*', ({ seq }) => heard.push(`*${seq}`));
  client.connect();
  await settled();
  gateway.publish({ event: 'a', service: 'finance' }, { event: 'a', service: 'staff' }, { event: 'b' });
  await settled();
  off();
  off();
  gateway.publish({ event: 'a' });
  await settled();
  assert.deepEqual(heard, ['a1', 'finance1', '*1', 'a2', '*2', '*3', '*4']);
  client.on('c', () => late());
  const late = client.on('c', () => heard.push('taken off a moment ago'));
  gateway.publish({ event: 'c' });
  await settled();
  assert.equal(heard.at(-1), '*5');
});

test('a handler that throws or rejects does not stop the stream', async () => {
  const { gateway, client, seen, errors } = setUp();
  const reason = new Error('no such element');
  client.on('a', () => { throw reason; });
  client.on('a', async () => { throw reason; });
  client.on('a', (event) => seen.push(event));
  client.connect();
  await settled();
  gateway.publish({ event: 'a' }, { event: 'a' });
  await settled();
  assert.deepEqual(ids(seen), [1, 2]);
  assert.deepEqual(errors.map(({ code, event }) => [code, event.seq]), [['handler', 1], ['handler', 1], ['handler', 2], ['handler', 2]]);
  assert.equal(errors[0].cause, reason);
  assert.ok(errors[0] instanceof TidegateError);
  assert.equal(client.getStatus().state, 'connected');
});

test('an error in a handler is seen even if nobody listens', async () => {
  const shown = mock.method(console, 'error', () => {});
  const clock = manualClock();
  const gateway = fakeTransport({ clock });
  const client = createClient({ url: 'https://gateway.test', org: 'acme', getToken: () => 't', transports: [gateway], lifecycle: null, clock });
  client.on('a', () => { throw new Error('x'); });
  client.connect();
  await settled();
  gateway.publish({ event: 'a' });
  await settled();
  shown.mock.restore();
  assert.equal(shown.mock.calls[0].arguments[0].code, 'handler');
  client.dispose();
});

test('the next event waits for the promise of a handler', async () => {
  const { gateway, client } = setUp();
  const heard = [];
  let done = null;
  client.on('a', async ({ seq }) => {
    heard.push(`begin ${seq}`);
    await new Promise((resolve) => { done = resolve; });
    heard.push(`end ${seq}`);
  });
  client.connect();
  await settled();
  gateway.publish({ event: 'a' }, { event: 'a' });
  await settled();
  assert.deepEqual(heard, ['begin 1']);
  assert.equal(client.metrics().extra.queue, 2);
  assert.equal(client.cursor, 'e1-0-all', 'the cursor does not move before the handler is done');
  done();
  await settled();
  assert.deepEqual(heard, ['begin 1', 'end 1', 'begin 2']);
  assert.equal(client.cursor, 'e1-1-all');
  done();
  await settled();
  assert.equal(client.metrics().extra.queue, 0);
});

test('over maxQueue waiting, the connection is closed; once all is handled, the stream goes on after them', async () => {
  const { clock, gateway, client, seen, errors } = setUp({ maxQueue: 10 });
  let goOn = null;
  const gate = new Promise((resolve) => { goOn = resolve; });
  client.on('a', async (event) => {
    await gate;
    seen.push(event);
  });
  client.connect();
  await settled();
  for (let count = 0; count < 15; count += 1) gateway.publish({ event: 'a' });
  await settled();
  assert.equal(client.getStatus().phase, 'backoff');
  assert.deepEqual(errors.map(({ code, fatal }) => [code, fatal]), [['overflow', false]]);
  assert.equal(gateway.connections[0].isOpen, false);
  await clock.advance(600_000);
  assert.equal(gateway.connections.length, 1, 'it does not come back while events wait');
  goOn();
  await clock.advance(10_000);
  assert.equal(client.getStatus().state, 'connected');
  assert.deepEqual(ids(seen), Array.from({ length: 15 }, (_, index) => index + 1));
  assert.equal(client.metrics().duplicatesDetected, 0);
});

test('a gap stands in order among the events', async () => {
  const { clock, gateway, client } = setUp();
  const heard = [];
  client.on('*', ({ seq }) => heard.push(seq));
  client.onGap(({ reason, from, to }) => heard.push(`${reason} ${from} ${to}`));
  client.connect();
  await settled();
  gateway.publish({ event: 'a' });
  await settled();
  gateway.drop();
  gateway.publish({ event: 'a' }, { event: 'a' }, { event: 'a' });
  gateway.forget(3);
  await clock.advance(6_000);
  gateway.lose();
  gateway.publish({ event: 'a' });
  await clock.advance(6_000);
  assert.deepEqual(heard, [1, 'retention 1 3', 4, 'epoch 4 0', 1]);
});

test('an error of the user that is final stops the client, and says so', async () => {
  for (const thrown of [new AuthError('nobody is logged in'), Object.assign(new Error('nobody is logged in'), { final: true })]) {
    let calls = 0;
    const { clock, client, errors } = setUp({ getToken: () => { calls += 1; throw thrown; } });
    client.connect();
    await clock.advance(3_600_000);
    assert.equal(calls, 1);
    assert.deepEqual(client.getStatus(), { state: 'disconnected', phase: 'stopped', attempt: 0, retryAt: null, transport: null, error: errors[0] });
    assert.equal(errors[0].code, 'auth');
    assert.equal(errors[0].fatal, true);
    assert.equal(errors[0].message, 'nobody is logged in');
    assert.equal(errors[0].cause, thrown);
  }
});

for (const [name, getToken] of [
  ['rejects', async () => { throw new Error('503'); }],
  ['throws', () => { throw new Error('503'); }],
  ['hangs', () => new Promise(() => {})],
  ['returns nothing', () => undefined],
  ['returns no text', () => ({ token: undefined })],
  ['returns an object as text', () => '[object Object]'],
  ['returns an expired token', () => ({ token: 'old', expiresInMs: 0 })],
]) {
  test(`a token callback that ${name} is asked again`, async () => {
    let calls = 0;
    const { clock, client, errors } = setUp({ getToken: (request) => { calls += 1; return calls > 2 ? 'good' : getToken(request); } });
    client.connect();
    await clock.advance(60_000);
    assert.equal(client.getStatus().state, 'connected');
    assert.equal(calls, 3);
    assert.deepEqual(errors.map(({ code }) => code), ['token', 'token']);
  });
}

test('a token that hangs is called off, and its late answer changes nothing', async () => {
  const requests = [];
  const { clock, gateway, client } = setUp({
    getToken: (request) => new Promise((resolve) => { requests.push({ ...request, resolve }); }),
  });
  client.connect();
  await clock.advance(15_000);
  assert.equal(requests[0].signal.aborted, true);
  await clock.advance(6_000);
  requests[0].resolve('late');
  await settled();
  assert.equal(gateway.connections.length, 0);
  requests[1].resolve('good');
  await settled();
  assert.deepEqual(gateway.connections.map(({ token }) => token), ['good']);
  assert.deepEqual(requests.map(({ reason }) => reason), ['initial', 'initial']);
});

test('a token is renewed in place before it expires', async () => {
  let count = 0;
  const { clock, gateway, client } = setUp({ getToken: () => `token-${(count += 1)}` }, { tokenExpiresInMs: 10_000 });
  client.connect();
  await clock.advance(8_500);
  assert.equal(gateway.connections.length, 1);
  assert.deepEqual(gateway.connections[0].sent.filter(({ type }) => type === 'auth'), [{ type: 'auth', token: 'token-2' }]);
});

test('a status is frozen, stays the same object while nothing changes, and says when it tries again', async () => {
  const { clock, gateway, client } = setUp();
  const first = client.getStatus();
  let calls = 0;
  const off = client.subscribe(() => { calls += 1; });
  assert.ok(Object.isFrozen(first));
  client.connect();
  await settled();
  const live = client.getStatus();
  assert.notEqual(live, first);
  gateway.publish({ event: 'a' });
  await settled();
  assert.equal(client.getStatus(), live, 'events do not change it');
  gateway.drop();
  const status = client.getStatus();
  assert.equal(status.phase, 'backoff');
  assert.equal(status.error.code, 'closed');
  assert.equal(status.retryAt, clock.wall() + 3_500);
  await clock.advance(4_000);
  assert.equal(client.getStatus().error, null);
  off();
  const before = calls;
  client.disconnect();
  assert.equal(calls, before);
});

test('retain connects, and the last release disconnects after a second', async () => {
  const { clock, gateway, client } = setUp();
  const release = client.retain();
  const other = client.retain();
  await settled();
  release();
  release();
  await clock.advance(5_000);
  assert.equal(client.getStatus().state, 'connected');
  other();
  await clock.advance(900);
  const again = client.retain();
  await clock.advance(5_000);
  assert.equal(client.getStatus().state, 'connected');
  assert.equal(gateway.connections.length, 1, 'a page that takes the client away and back keeps its connection');
  again();
  await clock.advance(1_000);
  assert.equal(client.getStatus().phase, 'idle');
  client.connect();
  await settled();
  client.retain()();
  await clock.advance(5_000);
  assert.equal(client.getStatus().state, 'connected', '`connect` holds it, too');
});

test('an iteration gives all events in order and holds the stream while it works', async () => {
  const { gateway, client } = setUp();
  const stop = new AbortController();
  const seen = [];
  const reading = (async () => {
    for await (const event of client.events('*', { signal: stop.signal })) {
      seen.push([event.seq, client.metrics().extra.queue]);
      await settled();
    }
  })();
  await settled();
  assert.equal(client.getStatus().state, 'connected', 'it connects by itself');
  gateway.publish({ event: 'a' }, { event: 'b' }, { event: 'a' });
  for (let turns = 0; turns < 10; turns += 1) await settled();
  stop.abort();
  await reading;
  assert.deepEqual(seen, [[1, 3], [2, 2], [3, 1]]);
});

test('an iteration that is left lets the others go on', async () => {
  const { gateway, client, seen } = setUp();
  client.on('*', (event) => seen.push(event));
  const reading = (async () => {
    for await (const event of client.events('a')) if (event.seq === 1) return event.seq;
    return null;
  })();
  await settled();
  gateway.publish({ event: 'a' }, { event: 'a' }, { event: 'a' });
  assert.equal(await reading, 1);
  await settled();
  assert.deepEqual(ids(seen), [1, 2, 3]);
});

test('an iteration gives what came, and then throws what stopped the client', async () => {
  const { gateway, client } = setUp();
  const seen = [];
  const reading = (async () => { for await (const { seq } of client.events('*')) seen.push(seq); })();
  await settled();
  gateway.publish({ event: 'a' }, { event: 'a' });
  gateway.frame({ type: 'error', code: 'revoked', message: 'the token was revoked' });
  await assert.rejects(reading, { code: 'revoked', fatal: true });
  assert.deepEqual(seen, [1, 2]);
});

test('dispose ends iterations, closes, and lets nothing happen any more', async () => {
  const { clock, gateway, client, seen } = setUp();
  client.on('*', (event) => seen.push(event));
  const reading = (async () => { for await (const event of client.events('a')) seen.push(event); })();
  await settled();
  gateway.publish({ event: 'b' });
  client.dispose();
  client.dispose();
  await reading;
  assert.equal(gateway.connections[0].isOpen, false);
  const count = seen.length;
  client.connect();
  client.retain();
  client.reconnect();
  await clock.advance(600_000);
  assert.equal(gateway.connections.length, 1);
  assert.equal(seen.length, count);
});

test('a handler may disconnect, reconnect and dispose', async () => {
  for (const act of ['disconnect', 'reconnect', 'dispose']) {
    const { clock, gateway, client, seen } = setUp();
    client.on('a', (event) => {
      seen.push(event);
      if (event.seq === 1) client[act]();
    });
    client.connect();
    await settled();
    gateway.publish({ event: 'a' }, { event: 'a' });
    await clock.advance(10_000);
    assert.deepEqual(ids(seen), act === 'dispose' ? [1] : act === 'reconnect' ? [1, 2] : [1], act);
    assert.equal(client.getStatus().state, act === 'reconnect' ? 'connected' : 'disconnected');
    client.dispose();
  }
});

test('data that its schema refuses is an error, and the rest goes on', async () => {
  const validate = async (value) => (typeof value?.amount === 'string' ? { value: { amount: Number(value.amount) } } : { issues: [{ message: 'must be text', path: ['amount'] }] });
  const { gateway, client, seen, errors } = setUp({ validate: schemas({ 'invoice.paid': { '~standard': { version: 1, vendor: 'test', validate } } }) });
  client.on('*', (event) => seen.push(event));
  client.connect();
  await settled();
  gateway.publish({ event: 'invoice.paid', data: { amount: 12 } }, { event: 'invoice.paid', data: { amount: '12' } }, { event: 'other' });
  await settled();
  assert.deepEqual(seen.map(({ data }) => data), [{ amount: 12 }, null]);
  assert.equal(seen[0].seq, 2);
  assert.equal(errors[0].code, 'schema');
  assert.equal(errors[0].event.seq, 1);
  assert.match(errors[0].message, /amount: must be text/);
});

test('a stored cursor is where the next client begins; only handled events move it', async () => {
  const kept = { value: null, writes: 0 };
  const storage = { get: async () => kept.value, set: async (cursor) => { kept.value = cursor; kept.writes += 1; } };
  const first = setUp({ storage });
  let goOn = null;
  first.client.on('*', ({ seq }) => (seq === 3 ? new Promise((resolve) => { goOn = resolve; }) : undefined));
  first.client.connect();
  await settled();
  first.gateway.publish({ event: 'a' }, { event: 'a' }, { event: 'a' });
  await first.clock.advance(1_000);
  assert.equal(kept.value, 'e1-2-all');
  assert.equal(kept.writes, 1, 'written once a second');
  goOn();
  await settled();
  first.client.disconnect();
  assert.equal(kept.value, 'e1-3-all', 'written when it disconnects');

  const second = setUp({ storage, transports: [first.gateway] });
  second.client.on('*', (event) => second.seen.push(event));
  first.gateway.publish({ event: 'a' });
  second.client.connect();
  await settled();
  assert.deepEqual(ids(second.seen), [4]);
});

test('storage that fails or holds nonsense does not stop the client', async () => {
  for (const get of [() => { throw new Error('denied'); }, async () => { throw new Error('denied'); }, () => 'nonsense', () => 7]) {
    const { clock, gateway, client, errors } = setUp({ storage: { get, set: async () => { throw new Error('full'); } } });
    client.connect();
    await settled();
    gateway.publish({ event: 'a' });
    await clock.advance(2_000);
    assert.equal(client.getStatus().state, 'connected');
    assert.equal(errors[0].code, 'storage');
  }
});

test('signals of the page reach the session; listeners go with the connection', async () => {
  let say = null;
  let listening = 0;
  const lifecycle = { listen: (on) => { say = on; listening += 1; return () => { listening -= 1; }; } };
  const { clock, gateway, client } = setUp({ lifecycle });
  assert.equal(listening, 0);
  client.connect();
  await settled();
  assert.equal(listening, 1);
  say('suspend');
  assert.equal(gateway.connections[0].isOpen, false);
  await clock.advance(600_000);
  assert.equal(gateway.connections.length, 1, 'a page that is put aside does not connect');
  say('pageshow');
  await clock.advance(0);
  assert.equal(client.getStatus().state, 'connected');
  gateway.mute();
  say('visible');
  assert.equal(client.getStatus().phase, 'probe');
  await clock.advance(5_000);
  assert.equal(client.getStatus().error.code, 'silence');
  client.disconnect();
  assert.equal(listening, 0);
});

test('a page reports what happens to it, and listeners go when nobody listens', () => {
  assert.equal(browserLifecycle(), null, 'no page here');
  const page = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  const names = ['addEventListener', 'removeEventListener', 'document'];
  for (const name of ['addEventListener', 'removeEventListener']) globalThis[name] = page[name].bind(page);
  globalThis.document = document;
  try {
    const heard = [];
    const off = browserLifecycle().listen((signal) => heard.push(signal));
    const say = () => {
      for (const [target, name, fields] of [
        [document, 'visibilitychange', {}], [page, 'offline', {}], [page, 'online', {}], [page, 'pagehide', { persisted: true }], [page, 'pagehide', { persisted: false }],
        [page, 'pageshow', { persisted: true }], [page, 'pageshow', { persisted: false }], [document, 'resume', {}],
      ]) target.dispatchEvent(Object.assign(new Event(name), fields));
      document.visibilityState = 'hidden';
      document.dispatchEvent(new Event('visibilitychange'));
    };
    say();
    assert.deepEqual(heard, ['visible', 'offline', 'online', 'suspend', 'hide', 'pageshow', 'resume', 'hide']);
    off();
    say();
    assert.equal(heard.length, 8);
  } finally {
    for (const name of names) delete globalThis[name];
  }
});

test('a cursor is kept in localStorage, and the transport that works in sessionStorage', async () => {
  const store = () => {
    const map = new Map();
    return { map, getItem: (key) => map.get(key) ?? null, setItem: (key, value) => void map.set(key, value) };
  };
  const before = Object.getOwnPropertyDescriptors(globalThis);
  for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(globalThis, name, { value: store(), configurable: true });
  try {
    const clock = manualClock();
    const [ws, sse] = ['ws', 'sse'].map((kind) => fakeTransport({ kind, clock }));
    const options = { storage: localStorageCursor('cursor of anna'), transports: [ws, sse], clock };
    const first = setUp(options);
    ws.refuse({ close: 1006 });
    first.client.connect();
    await clock.advance(20_000);
    assert.equal(first.client.getStatus().transport, 'sse', 'two failures before hello');
    sse.publish({ event: 'a' });
    await settled();
    first.client.dispose();
    assert.equal(localStorage.getItem('cursor of anna'), 'e1-1-all');
    assert.deepEqual([...sessionStorage.map.values()], ['sse']);

    const attempts = ws.connections.length;
    const second = setUp(options);
    second.client.connect();
    await settled();
    assert.equal(second.client.getStatus().transport, 'sse');
    assert.equal(ws.connections.length, attempts, 'a reload of the page begins with what works');
    assert.equal(sse.connections.at(-1).url.searchParams.get('cursor'), 'e1-1-all');
    second.client.dispose();
  } finally {
    for (const name of ['localStorage', 'sessionStorage']) {
      if (before[name]) Object.defineProperty(globalThis, name, before[name]);
      else delete globalThis[name];
    }
  }
});

test('a gap of a slow client is filled from history, in order before what came meanwhile', async () => {
  const asked = [];
  const pages = [
    { events: [{ seq: 2, event: 'a', service: 's', id: 'x2', data: 2 }], cursor: 'e1-2-all', has_more: true },
    { events: [{ seq: 3, event: 'a', service: 's', id: 'x3', data: 3 }], cursor: 'e1-3-all', has_more: false },
  ];
  const { gateway, client, seen, gaps } = setUp({
    fill: true, services: ['s'],
    fetch: async (url, { headers }) => {
      asked.push([String(url), headers.authorization]);
      await settled();
      return Response.json(pages[asked.length - 1]);
    },
  });
  client.on('*', (event) => seen.push(event));
  client.connect();
  await settled();
  gateway.publish({ event: 'a' });
  gateway.frame({ type: 'gap', prev: 1, seq: 3, epoch: 'e1', filter: 'all', reason: 'slow_consumer' });
  gateway.frame({ type: 'event', prev: 3, seq: 4, event: 'a', service: 's', id: 'x4', timestamp: '2026-01-01T00:00:00.000Z', data: 4 });
  for (let turns = 0; turns < 6; turns += 1) await settled();
  assert.deepEqual(ids(seen), [1, 2, 3, 4]);
  assert.deepEqual(gaps, []);
  assert.deepEqual(asked.map(([url]) => url), [1, 2].map((seq) => `https://gateway.test/v1/orgs/acme/events?services=s&after=e1-${seq}-all&limit=1000`));
  assert.equal(asked[0][1], 'Bearer token-of-a-test-user');
});

test('the health of all clients stands in the window while they live', async () => {
  globalThis.window = globalThis;
  try {
    const { gateway, client } = setUp();
    const other = setUp({ org: 'beta' });
    assert.equal(globalThis.__realtimeMetrics, undefined, 'nothing before the first connection');
    client.connect();
    other.client.connect();
    await settled();
    gateway.publish({ event: 'a' });
    await settled();
    const { extra, ...nine } = globalThis.__realtimeMetrics();
    assert.deepEqual(Object.keys(nine), [
      'connectionState', 'lastConnectedAt', 'lastDisconnectedAt', 'totalDisconnects', 'reconnectAttempts', 'eventsReceived', 'eventLatencyMs', 'duplicatesDetected', 'lastEventAt',
    ]);
    assert.equal(nine.eventsReceived, 1);
    assert.equal(extra.org, 'acme');
    assert.deepEqual(globalThis.__realtimeMetrics.clients.map((each) => each.extra.org), ['acme', 'beta']);
    assert.doesNotThrow(() => JSON.stringify(globalThis.__realtimeMetrics()));
    client.dispose();
    assert.equal(globalThis.__realtimeMetrics().extra.org, 'beta');
    other.client.dispose();
    assert.equal('__realtimeMetrics' in globalThis, false);
  } finally {
    delete globalThis.window;
  }
});

test('a dump holds the last steps and no token', async () => {
  let count = 0;
  const { clock, gateway, client } = setUp({ getToken: () => `secret-token-number-${(count += 1)}` }, { tokenExpiresInMs: 60_000 });
  client.connect();
  await clock.advance(50_000);
  for (let index = 0; index < 150; index += 1) gateway.publish({ event: 'a' });
  gateway.drop();
  await clock.advance(6_000);
  const dump = await client.dump();
  const text = JSON.stringify(dump);
  assert.ok(dump.steps.length > 100 && dump.steps.length <= 200, `${dump.steps.length} steps`);
  assert.ok(!text.includes('secret'));
  assert.ok(text.includes('token-2'));
  assert.equal(dump.steps.at(-1).phase, 'live');
  assert.equal(replay(dump), null, 'it does the same again');
  for (let index = 0; index < 450; index += 1) gateway.publish({ event: 'a' });
  const { length } = (await client.dump()).steps;
  assert.ok(length > 100 && length <= 200, `${length} steps`);
  const changed = structuredClone(dump);
  changed.steps[50].phase = 'hello';
  assert.deepEqual(replay(changed), { step: 50, field: 'phase', expected: 'hello', found: 'live' });
  client.on('*', () => {});
  gateway.publish({ event: 'a', data: 'x'.repeat(2_000_000) });
  gateway.publish({ event: 'a' });
  assert.ok((await client.dump()).steps.length < 200);
  assert.deepEqual(JSON.parse(JSON.stringify(dump)), dump, 'it is plain JSON');
});

test('a logger or a tool that throws stops nothing', async () => {
  const shown = mock.method(console, 'error', () => {});
  const broken = () => { throw new Error('a broken logger'); };
  const { clock, gateway, client, seen } = setUp({ logger: { info: broken, warn: broken }, observe: broken });
  client.on('*', (event) => seen.push(event));
  client.on('*', broken);
  client.connect();
  await settled();
  gateway.publish({ event: 'a' });
  gateway.drop();
  await clock.advance(6_000);
  gateway.publish({ event: 'a' });
  await settled();
  shown.mock.restore();
  assert.deepEqual(ids(seen), [1, 2]);
  assert.equal(client.getStatus().state, 'connected');
});

test('reconnect, or disconnect and connect, in a handler of errors, notices and statuses connects', async () => {
  for (const again of [(client) => client.reconnect(), (client) => { client.disconnect(); client.connect(); }]) {
    for (const when of ['onError', 'onNotice', 'onStatus']) {
      const { clock, gateway, client } = setUp();
      client.connect();
      await settled();
      let calls = 0;
      client[when](() => {
        if ((calls += 1) === 1) again(client);
      });
      if (when === 'onNotice') gateway.frame({ type: 'status', code: 'degraded', message: 'm' });
      else gateway.drop();
      await clock.advance(60_000);
      assert.equal(client.getStatus().state, 'connected', when);
      assert.ok(calls > 0);
      client.disconnect();
      await settled();
      assert.equal(client.getStatus().phase, 'idle');
    }
  }
});

test('no message repeats a token', async () => {
  const { clock, client, errors } = setUp({ getToken: () => 'SECRET/=' });
  client.connect();
  await clock.advance(10);
  assert.equal(errors[0].code, 'token');
  assert.doesNotMatch(errors[0].message, /SECRET/);
  class Refusing {
    constructor(url, protocols) { throw new SyntaxError(`The subprotocol '${protocols[1]}' is invalid.`); }
  }
  const other = setUp({ getToken: () => 'SECRET', transports: [webSocket(Refusing)] });
  other.client.connect();
  await other.clock.advance(10);
  assert.equal(other.errors[0].code, 'closed');
  assert.match(other.errors[0].message, /SyntaxError/);
  assert.doesNotMatch(JSON.stringify([other.errors[0].message, other.client.metrics()]), /SECRET/);
});

test('an iteration of a client that has stopped throws; of one that is disposed, it ends', async () => {
  const { gateway, client } = setUp();
  client.retain();
  await settled();
  gateway.drop({ close: 4503, code: 'revoked', message: 'no longer' });
  await settled();
  await assert.rejects(client.events('*').next(), { code: 'revoked' });
  client.dispose();
  assert.equal((await client.events('*').next()).done, true);
});

test('storage that does not answer is an error after 5 s, and the client connects', async () => {
  const { clock, client, errors } = setUp({ storage: { get: () => new Promise(() => {}), set: () => {} } });
  client.connect();
  await clock.advance(6_000);
  assert.deepEqual(errors.map(({ code }) => code), ['storage']);
  assert.equal(client.getStatus().state, 'connected');
});

test('cursors are stored one at a time, the newest next, and again after a failure', async () => {
  const calls = [];
  const { clock, gateway, client } = setUp({
    storage: { get: () => null, set: (cursor) => new Promise((resolve, reject) => calls.push({ cursor, resolve, reject })) },
  });
  client.on('*', () => {});
  client.connect();
  await clock.advance(2_000);
  for (let count = 0; count < 3; count += 1) {
    gateway.publish({ event: 'a' });
    await clock.advance(2_000);
  }
  assert.deepEqual(calls.map(({ cursor }) => cursor), ['e1-0-all']);
  calls[0].resolve();
  await settled();
  assert.deepEqual(calls.map(({ cursor }) => cursor), ['e1-0-all', 'e1-3-all']);
  calls[1].reject(new Error('full'));
  await clock.advance(10_000);
  assert.deepEqual(calls.map(({ cursor }) => cursor), ['e1-0-all', 'e1-3-all', 'e1-3-all']);
});

test('wrong options are refused with a sentence', () => {
  const good = { url: 'https://gateway.test', org: 'acme', getToken: () => 't' };
  for (const [change, words] of [
    [{ url: 'gateway.test' }, /base address/],
    [{ url: 'localhost:8080' }, /base address/],
    [{ url: 'ftp://gateway.test' }, /base address/],
    [{ url: 'https://gateway.test/?a=b' }, /base address/],
    [{ url: 'https://gateway.test/v1/orgs/acme/stream' }, /base address/],
    [{ org: 'a/b' }, /^org: "a\/b" is not a name of 1 to 64/],
    [{ org: undefined }, /org/],
    [{ cursor: 'head' }, /cursor: "head"/],
    [{ services: ['ok', 'not ok'] }, /^services: \["ok","not ok"\] is not a list of names of 1 to 64/],
  ]) assert.throws(() => createClient({ ...good, ...change }), (error) => error instanceof TypeError && words.test(error.message), JSON.stringify(change));
  for (const url of ['https://gateway.test', 'wss://gateway.test/', 'http://localhost:8080', 'ws://localhost:8080/realtime/']) createClient({ ...good, url });
});

/** What a client without `onError` writes into the console while `act` runs. */
async function shownBy(options, act) {
  const shown = mock.method(console, 'error', () => {});
  const clock = manualClock();
  const gateway = fakeTransport({ clock });
  const client = createClient({ url: 'https://gateway.test', org: 'acme', getToken: () => 'token', transports: [gateway], lifecycle: null, clock, random: () => 0.5, ...options });
  try {
    await act({ client, clock, gateway });
  } finally {
    shown.mock.restore();
    client.dispose();
  }
  return shown.mock.calls.map(({ arguments: [error] }) => error);
}

test('what a developer must see stands in the console once if nobody listens', async () => {
  let calls = 0;
  const reason = new Error('503');
  const full = { get: () => null, set: () => { throw new Error('full'); } };
  const shown = await shownBy({ maxQueue: 1, storage: full, getToken: () => { if ((calls += 1) < 4) throw reason; return 'token'; } }, async ({ client, clock, gateway }) => {
    client.on('a', () => new Promise((resolve) => { clock.after(20_000, resolve); }));
    client.connect();
    await clock.advance(120_000);
    assert.equal(client.getStatus().state, 'connected');
    gateway.drop();
    await clock.advance(20_000);
    for (let count = 0; count < 2; count += 1) {
      gateway.publish({ event: 'a' }, { event: 'a' }, { event: 'a' });
      await clock.advance(120_000);
    }
  });
  assert.deepEqual(shown.map(({ code, message }) => `${code}: ${message}`), [
    'token: 503 (getToken)', 'storage: the cursor was not stored: full', 'overflow: too many events wait for a handler or an iteration',
  ]);
  assert.equal(shown[0].cause, reason);
});

test('before the first connection all errors stand in the console, with the address', async () => {
  const shown = await shownBy({}, async ({ client, clock, gateway }) => {
    gateway.refuse({ close: 1006, message: 'the connection ended (1006)' });
    client.connect();
    await clock.advance(120_000);
  });
  assert.deepEqual(shown.map(({ code, message }) => `${code}: ${message}`), ['closed: the connection ended (1006) (https://gateway.test)']);
});

test('with a logger, errors go there and not into the console', async () => {
  const warned = [];
  const shown = await shownBy({ getToken: () => undefined, logger: { warn: (message) => warned.push(message) } }, async ({ client, clock }) => {
    client.connect();
    await clock.advance(5_000);
  });
  assert.deepEqual(shown, []);
  assert.deepEqual([...new Set(warned)], ['undefined is not a token (getToken)']);
});

test('an error of a token says what came in its place, and no token', async () => {
  for (const [answer, words] of [
    [undefined, 'undefined'], [null, 'null'], ['', '""'], [7, '"number"'], [{}, '{}'], [{ token: '' }, '{"token":""}'],
    [{ access_token: 'SECRET', expires_in: 600, user: { name: 'SECRET' } }, '{"access_token":"string","expires_in":"number","user":{"name":"string"}}'],
    ['SECRET/=', 'text that is not of A-Z a-z 0-9 . _ - ~ +'], [{ token: 'SECRET SECRET' }, 'text that is not of A-Z a-z 0-9 . _ - ~ +'],
  ]) {
    const { clock, client, errors } = setUp({ getToken: () => answer });
    client.connect();
    await clock.advance(10);
    assert.equal(errors[0].message, `${words} is not a token (getToken)`);
    client.dispose();
  }
});

test('an event stream that is none says where', async () => {
  for (const [answer, words] of [
    [() => new Response('<html>'), 'the answer is not an event stream'], [() => new Response('no', { status: 404 }), 'status 404 without a word of the gateway'],
    [() => new Response(null, { status: 302 }), 'the address redirects; give the final one'], [() => { throw new TypeError('fetch failed'); }, 'the event stream failed: fetch failed'],
  ]) {
    const { client, errors } = setUp({ transports: [eventStream(async () => answer())] });
    client.connect();
    await settled();
    assert.equal(errors[0].message, `${words} (https://gateway.test)`);
    client.dispose();
  }
});

test('connect after dispose is an error', async () => {
  const shown = await shownBy({}, async ({ client }) => {
    client.connect();
    client.dispose();
    client.connect();
    client.retain();
  });
  assert.deepEqual(shown.map(({ code }) => code), ['disposed']);
});

test('a client that is disposed while its cursor is read is no error', async () => {
  const shown = await shownBy({ storage: { get: async () => null, set: () => {} } }, async ({ client }) => {
    client.retain();
    client.dispose();
    await settled();
  });
  assert.deepEqual(shown, []);
});
