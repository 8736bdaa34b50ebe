// What the page keeps of a stream, over the built client and a socket that the test drives. Continuity itself is
// held by spec/vectors. Run: node --test crates/tidegate-server/assets/tests/
import assert from 'node:assert/strict';
import test from 'node:test';

class Socket {
  static all = [];
  sent = [];
  constructor(url, protocols) {
    Object.assign(this, { url, protocols });
    Socket.all.push(this);
  }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code) { this.closed = code; }
}
globalThis.WebSocket = Socket;
globalThis.location = { origin: 'http://gateway.test' };
const { Live, parseExactly } = await import('../live.js');

const turn = () => new Promise((resolve) => { setImmediate(resolve); });
const iso = (ms) => new Date(Date.now() + ms).toISOString();
const hello = (cursor, head, more = {}) => ({
  type: 'hello', connection_id: 'c-1', protocol: 1, org: 'acme', services: ['*'], filter: 't', epoch: 'e', cursor, head,
  dedup_window_ms: 120_000, resumed: false, ping_interval_ms: 25_000, token_expires_in_ms: 600_000, server_time: iso(0), ...more,
});
const happened = (seq) => ({ service: 's', event: 'x', id: `i${seq}`, seq, timestamp: iso(0), data: { seq } });
const event = (prev, seq) => ({ type: 'event', org: 'acme', prev, ...happened(seq) });
const batch = (prev, seq, seqs) => ({ type: 'batch', prev, seq, timestamp: iso(0), events: seqs.map(happened) });
const ping = (prev, seq) => ({ type: 'ping', prev, seq, timestamp: iso(0) });
const gap = (prev, seq, reason, epoch = 'e') => ({ type: 'gap', prev, seq, epoch, filter: 't', reason });

/** A stream that is live at `cursor`. */
async function at(t, cursor = 'e-10-t', head = 10, before = null, more = {}) {
  const heard = [];
  const live = new Live({ org: 'acme', services: [], token: 'a.b.c', tail: 50, cursor, transport: 'ws', ...more }, (effect) => heard.push(effect), before);
  t.after(() => live.stop());
  live.start();
  await turn();
  const socket = Socket.all.at(-1);
  const here = {
    live, socket, heard,
    frame(frame) {
      heard.length = 0;
      socket.onmessage({ data: JSON.stringify(frame) });
      return heard.filter((effect) => effect.do !== 'changed');
    },
  };
  socket.onopen({});
  here.frame(hello(cursor, head));
  return here;
}

test('what a reader may not see is counted by its places; what it has seen is not', async (t) => {
  const { live, frame } = await at(t);
  frame(ping(10, 25));
  assert.equal(live.hidden, 15);
  const effects = frame(batch(8, 31, [9, 26, 28, 31]));
  assert.deepEqual(effects.map(({ event: { seq }, hidden }) => [seq, hidden]), [[26, 0], [28, 1], [31, 2]]);
  assert.equal(live.hidden, 18);
  frame(event(31, 32));
  frame(batch(20, 32, [26, 28]));
  frame(gap(32, 40, 'retention'));
  assert.equal(live.hidden, 18, 'a gap is no secret');
  frame(gap(40, 3, 'epoch', 'f'));
  assert.deepEqual(frame(event(3, 5)).map(({ hidden }) => hidden), [1]);
  assert.equal(live.hidden, 19);
});

test('a stream catches up until its cursor reaches the head of hello', async (t) => {
  const { live, frame } = await at(t, 'e-10-t', 14);
  assert.equal(live.phase, 'catching_up');
  assert.deepEqual(frame(event(10, 12)).map((effect) => effect.live), [false]);
  assert.equal(live.phase, 'catching_up');
  frame(ping(12, 14));
  assert.equal(live.phase, 'live');
  assert.deepEqual(frame(event(14, 15)).map((effect) => effect.live), [true]);
  assert.equal(live.metrics().eventLatencyMs.length, 1);
});

test('a hole is shown where it begins, and the stream waits', async (t) => {
  const { live, frame, socket } = await at(t);
  assert.deepEqual(frame(event(12, 13)), [{ do: 'hole', from: 10 }]);
  assert.deepEqual([live.phase, live.reason.code, socket.closed], ['waiting', 'hole', 4000]);
  assert.ok(live.retryAt > Date.now());
});

test('a stream that goes on over another transport keeps its place and its figures', async (t) => {
  const first = await at(t);
  first.frame(event(10, 12));
  first.live.stop();
  const { live, socket, frame } = await at(t, 'e-12-t', 12, first.live);
  assert.match(socket.url, /^ws:\/\/gateway\.test\/v1\/orgs\/acme\/stream\?cursor=e-12-t$/);
  frame(event(12, 13));
  const { eventsReceived, totalDisconnects, extra } = live.metrics();
  assert.deepEqual([eventsReceived, totalDisconnects, live.hidden, extra.gaps], [2, 0, 1, 0]);
});

test('health has its nine fields', async (t) => {
  const { live } = await at(t);
  const { extra, ...nine } = live.metrics();
  assert.deepEqual(Object.keys(nine), [
    'connectionState', 'lastConnectedAt', 'lastDisconnectedAt', 'totalDisconnects', 'reconnectAttempts',
    'eventsReceived', 'eventLatencyMs', 'duplicatesDetected', 'lastEventAt',
  ]);
});

test('a token that has expired closes the stream with a sentence', async () => {
  const claims = Buffer.from(JSON.stringify({ exp: Math.floor(Date.now() / 1000) - 60 })).toString('base64url');
  for (const [token, says] of [[`a.${claims}.c`, 'The token has expired'], ['not "a" token', /^This is not a token/]]) {
    const live = new Live({ org: 'acme', services: [], token, tail: 0, cursor: null, transport: 'ws' }, () => {});
    live.start();
    await turn();
    assert.deepEqual([live.phase, live.reason.code], ['closed', 'auth']);
    assert.match(live.reason.message, new RegExp(says));
    live.stop();
  }
});

test('numbers that JavaScript would change are kept as they were written, if it can', () => {
  const text = '{"a":1.10,"b":12345678901234567890,"c":7}';
  assert.equal(JSON.stringify(parseExactly(text)), JSON.rawJSON ? text : JSON.stringify(JSON.parse(text)));
});
