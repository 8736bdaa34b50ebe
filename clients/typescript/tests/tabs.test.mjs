// Tabs over one gateway in memory: locks as a browser has them, and real channels.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { createClient, systemClock } from '@tidegate/client';
import { tabs } from '@tidegate/client/tabs';
import { fakeTransport } from '@tidegate/client/testing';
import { until } from '../../../tests/npm/gateway.mjs';

/** Web Locks as far as they are used: one lock, `ifAvailable`, `steal`, `signal`. */
function fakeLocks() {
  let holder = null;
  const waiting = [];
  const next = () => {
    if (!holder && waiting.length > 0) run(waiting.shift());
  };
  const run = (entry) => {
    holder = entry;
    Promise.resolve(entry.act({})).then((value) => {
      if (holder === entry) holder = null;
      entry.resolve(value);
      next();
    });
  };
  return {
    request: (_name, { ifAvailable, steal, signal }, act) => new Promise((resolve, reject) => {
      const entry = { act, resolve, reject };
      if (steal) {
        const before = holder;
        holder = null;
        before?.reject(new DOMException('stolen', 'AbortError'));
        run(entry);
      } else if (ifAvailable && holder) resolve(act(null));
      else {
        waiting.push(entry);
        signal?.addEventListener('abort', () => {
          if (!waiting.includes(entry)) return;
          waiting.splice(waiting.indexOf(entry), 1);
          reject(new DOMException('aborted', 'AbortError'));
        });
        next();
      }
    }),
  };
}

let count = 0;
const opened = [];
after(() => opened.forEach(({ client }) => client.dispose()));

function browser({ locks = fakeLocks(), gateway = fakeTransport(), transport = gateway } = {}) {
  const name = `test-${(count += 1)}`;
  const tab = (options = {}) => {
    const own = { seen: [], gaps: [], errors: [], hidden: false, frozen: false };
    const channel = (key) => {
      const real = new BroadcastChannel(key);
      const wrapper = { postMessage: (message) => !own.frozen && real.postMessage(message), close: () => real.close(), onmessage: null };
      real.onmessage = (event) => !own.frozen && wrapper.onmessage?.(event);
      return wrapper;
    };
    own.client = createClient({
      url: 'https://gateway.test', org: 'acme', getToken: () => 'token', lifecycle: null, random: () => 0,
      transports: tabs({ name, transports: [transport].flat(), locks, channel, isHidden: () => own.hidden }), ...options,
    });
    own.client.on('*', ({ seq }) => own.seen.push(seq));
    own.client.onGap((gap) => own.gaps.push(gap));
    own.client.onError((error) => own.errors.push(error));
    own.client.connect();
    opened.push(own);
    return own;
  };
  const open = () => gateway.connections.filter(({ isOpen }) => isOpen).length;
  return { gateway, tab, open };
}

const connected = (...own) => until('connections', () => own.every(({ client }) => client.getStatus().state === 'connected'));
const saw = (own, ...seqs) => until(`${seqs}, not ${own.seen}`, () => own.seen.join() === seqs.join(), 3_000);

test('tabs have one connection, and each sees all events', async () => {
  const { gateway, tab, open } = browser();
  const first = tab();
  await connected(first);
  gateway.publish({ event: 'a' });
  const second = tab();
  const third = tab();
  await connected(second, third);
  gateway.publish({ event: 'a' }, { event: 'a' });
  await saw(first, 1, 2, 3);
  await saw(second, 2, 3);
  await saw(third, 2, 3);
  assert.equal(open(), 1);
  assert.equal(gateway.connections.length, 1);
});

test('if the leading tab is closed, another leads, and nobody notices', async () => {
  const { gateway, tab, open } = browser();
  const first = tab();
  await connected(first);
  const second = tab();
  const third = tab();
  await connected(second, third);
  gateway.publish({ event: 'a' });
  await saw(third, 1);
  first.client.dispose();
  gateway.publish({ event: 'a' }); // while nobody is connected
  await until('the next leader', () => open() === 1);
  gateway.publish({ event: 'a' });
  await saw(second, 1, 2, 3);
  await saw(third, 1, 2, 3);
  assert.deepEqual([second, third].flatMap(({ errors, gaps }) => [...errors, ...gaps]), []);
  assert.equal(second.client.metrics().totalDisconnects + third.client.metrics().totalDisconnects, 0);
});

test('if the connection ends, all reconnect and share again', async () => {
  const { gateway, tab, open } = browser();
  const first = tab();
  await connected(first);
  const second = tab();
  await connected(second);
  gateway.publish({ event: 'a' });
  await saw(second, 1);
  gateway.drop();
  await until('the loss', () => second.client.getStatus().state === 'reconnecting' && first.client.getStatus().state === 'reconnecting');
  gateway.publish({ event: 'a' });
  await connected(first, second);
  await saw(first, 1, 2);
  await saw(second, 1, 2);
  assert.equal(open(), 1);
});

test('a hidden leader lets go if another tab is seen', async () => {
  const { gateway, tab, open } = browser();
  const first = tab();
  await connected(first);
  first.hidden = true;
  const second = tab();
  await connected(second);
  await until('the new leader', () => gateway.connections.length === 2 && open() === 1);
  gateway.publish({ event: 'a' });
  await saw(first, 1);
  await saw(second, 1);
  second.client.dispose();
  gateway.publish({ event: 'a' });
  await saw(first, 1, 2);
  assert.deepEqual(first.errors, []);
});

test('a leader that is frozen loses the lead, and takes no harm when it wakes', async () => {
  const { gateway, tab, open } = browser();
  const first = tab();
  await connected(first);
  first.frozen = true;
  const second = tab();
  await connected(second);
  gateway.publish({ event: 'a' });
  await saw(second, 1);
  first.frozen = false;
  gateway.publish({ event: 'a' });
  await saw(second, 1, 2);
  assert.equal(open(), 1);
});

test('a tab that is too far behind, or wants a tail, has its own connection', async () => {
  const { gateway, tab, open } = browser();
  gateway.publish({ event: 'a' }, { event: 'a' });
  const first = tab();
  await connected(first);
  const second = tab({ cursor: 'e1-0' });
  await saw(second, 1, 2);
  const third = tab({ tail: 1 });
  await saw(third, 2);
  assert.equal(open(), 3);
});

test('a follower that asks whether the leader is there gets the answer of the gateway', async () => {
  const { gateway, tab } = browser();
  const first = tab();
  await connected(first);
  const second = tab();
  await connected(second);
  await until('a round trip', () => second.client.metrics().extra.rttMs !== null);
  assert.equal(gateway.connections.length, 1);
});

test('a final end stops all', async () => {
  const { gateway, tab } = browser();
  const first = tab();
  await connected(first);
  const second = tab();
  await connected(second);
  gateway.frame({ type: 'error', code: 'revoked', message: 'logged out' });
  await until('the stop', () => [first, second].every(({ client }) => client.getStatus().phase === 'stopped'));
  assert.equal(second.errors[0].code, 'revoked');
});

test('where Web Locks or channels are forbidden, each tab has its own connection', async () => {
  const { tab, open } = browser({ locks: { request: () => Promise.reject(new DOMException('forbidden', 'SecurityError')) } });
  const all = [tab(), tab()];
  await connected(...all);
  assert.equal(open(), 2);
  const gateway = fakeTransport();
  const channel = () => { throw new DOMException('forbidden', 'SecurityError'); };
  const alone = tab({ transports: tabs({ name: 'x', transports: [gateway], locks: fakeLocks(), channel, isHidden: () => false }) });
  await connected(alone);
  assert.equal(gateway.connections.length, 1);
  assert.deepEqual([...all, alone].flatMap(({ errors }) => errors), []);
});

test('a follower of an event stream that asks whether the leader is there gets an answer', async () => {
  const gateway = fakeTransport({ kind: 'sse' });
  const sse = { kind: 'sse', open: (request, sink) => ({ ...gateway.open(request, sink), send: () => {} }) };
  const ws = fakeTransport();
  ws.refuse({ close: 1006 });
  const { tab } = browser({ gateway, transport: [ws, sse] });
  const first = tab();
  await connected(first);
  let wake;
  const pongs = [];
  const second = tab({ lifecycle: { listen: (heard) => { wake = heard; return () => {}; } }, parse: (text) => {
    const frame = JSON.parse(text);
    if (frame.type === 'pong') pongs.push(frame);
    return frame;
  } });
  await connected(second);
  await until('the first answer', () => pongs.length === 1);
  wake('visible');
  assert.equal(second.client.getStatus().phase, 'probe');
  await until('the end of the probe', () => second.client.getStatus().phase === 'live', 3_000);
  assert.deepEqual(second.errors, []);
  assert.equal(second.client.metrics().totalDisconnects, 0);
});

test('a follower renews its own token, and leads with the new one', async () => {
  const gateway = fakeTransport({ tokenExpiresInMs: 1_500 });
  const { tab } = browser({ gateway });
  const first = tab();
  await connected(first);
  let asked = 0;
  const second = tab({ getToken: () => `second-${(asked += 1)}` });
  await connected(second);
  await until('the renewal', () => asked === 2, 3_000);
  await connected(second);
  first.client.dispose();
  await until('the next leader', () => gateway.connections.length === 2, 3_000);
  assert.match(gateway.connections[1].token, /^second-[^1]/);
  assert.deepEqual(second.errors, []);
});

test('without Web Locks each tab has its own connection', () => {
  const transports = [fakeTransport()];
  assert.equal(tabs({ name: 'x', transports }), transports);
});

/** A gateway that can restart without loss: the log goes on under another epoch, and `hello` says so. */
function restarting() {
  const gateway = fakeTransport();
  let starts = 1;
  const open = ({ url, token }, sink) => gateway.open(
    { url: url.replace(/cursor=e\d+/, 'cursor=e1'), token },
    { ...sink, frame: (text) => sink.frame(text.replaceAll('"e1', `"e${starts}`)) },
  );
  const restart = () => {
    starts += 1;
    gateway.drop();
  };
  return { gateway, transport: { kind: 'ws', open }, restart };
}

test('after restarts of the gateway that lost nothing, tabs share again, also one that was away', async () => {
  const { restart, ...more } = restarting();
  const { gateway, tab, open } = browser(more);
  const first = tab();
  await connected(first);
  const second = tab();
  const third = tab();
  await connected(second, third);
  gateway.publish({ event: 'a' });
  for (const own of [first, second, third]) await saw(own, 1);
  third.client.disconnect();
  gateway.publish({ event: 'a' });
  await saw(second, 1, 2);
  for (let count = 0; count < 2; count += 1) {
    restart();
    gateway.publish({ event: 'a' });
    await connected(first, second);
  }
  third.client.connect();
  await connected(third);
  gateway.publish({ event: 'a' });
  for (const own of [first, second, third]) await saw(own, 1, 2, 3, 4, 5);
  assert.equal(open(), 1);
  assert.match(third.client.cursor, /^e3-5-/);
  assert.deepEqual([first, second, third].flatMap(({ gaps, client }) => [...gaps, client.metrics().duplicatesDetected]), [0, 0, 0]);
});

test('a tab that stands beyond what the leader had when the epoch changed has its own connection', async () => {
  const { restart, ...more } = restarting();
  const { gateway, tab, open } = browser(more);
  gateway.publish({ event: 'a' });
  const first = tab();
  await connected(first);
  restart();
  await connected(first);
  gateway.publish({ event: 'a' });
  await saw(first, 2);
  const second = tab({ cursor: 'e1-2' });
  await connected(second);
  assert.equal(open(), 2);
});

/** WebSocket is blocked; the gateway's clock runs a minute ahead. */
function withoutWebSocket() {
  const clock = systemClock();
  const gateway = fakeTransport({ kind: 'sse', clock: { ...clock, wall: () => clock.wall() + 60_000 } });
  const ws = fakeTransport();
  ws.refuse({ close: 1006 });
  return { ws, gateway, sse: { kind: 'sse', open: (request, sink) => ({ ...gateway.open(request, sink), send: () => {} }) } };
}

test('a follower that takes the lead goes by the transport that worked for the leader', async () => {
  const { ws, sse, gateway } = withoutWebSocket();
  const { tab, open } = browser({ gateway, transport: [ws, sse] });
  const first = tab();
  await connected(first);
  const second = tab();
  await connected(second);
  const tries = ws.connections.length;
  first.client.dispose();
  await until('the next leader', () => gateway.connections.length === 2 && second.client.getStatus().transport === 'sse');
  gateway.publish({ event: 'a' });
  await saw(second, 1);
  assert.equal(second.client.metrics().totalDisconnects, 0);
  gateway.drop();
  await until('the loss', () => second.client.getStatus().state === 'reconnecting');
  await connected(second);
  assert.equal(open(), 1);
  assert.equal(ws.connections.length, tries, 'it does not try the other one, now or later');
});

test('followers of an event stream know the gateway\'s clock from the leader', async () => {
  for (const blocked of [true, false]) {
    const { ws, sse, gateway } = withoutWebSocket();
    const { tab } = browser({ gateway, transport: blocked ? [ws, sse] : [sse] });
    const all = [tab()];
    await connected(all[0]);
    all.push(tab());
    await connected(all[1]);
    await until('the clock', () => all[1].client.metrics().extra.clockOffsetMs !== null);
    for (const { client } of all) assert.equal(Math.round(client.metrics().extra.clockOffsetMs / 30_000), 2);
    gateway.publish({ event: 'a' });
    await saw(all[1], 1);
    assert.equal(all[1].client.metrics().eventLatencyMs.length, 1);
  }
});
