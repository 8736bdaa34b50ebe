// The rules of continuity, on the page's own client. Run: node --test crates/tidegate-server/assets/tests/
import assert from 'node:assert/strict';
import test from 'node:test';

import { DELAYS_MS, Stream, delayWindow, formatCursor, isFinal, parseCursor, streamUrl } from '../stream.js';

const WALL = Date.parse('2026-11-24T09:00:00.000Z');
const iso = (ms) => new Date(WALL + ms).toISOString();
const hello = (cursor, head, more = {}) => ({
  type: 'hello', connection_id: 'c', protocol: 1, org: 'acme', services: ['*'], filter: 't', epoch: 'e', cursor, head,
  dedup_window_ms: 120_000, resumed: false, ping_interval_ms: 25_000, server_time: iso(0), ...more,
});
const happened = (seq, more = {}) => ({ service: 's', event: 'x', id: `i${seq}`, seq, timestamp: iso(seq), data: { seq }, ...more });
const event = (prev, seq, more) => ({ type: 'event', org: 'acme', prev, ...happened(seq, more) });
const batch = (prev, seq, seqs) => ({ type: 'batch', prev, seq, timestamp: iso(seq), events: seqs.map((s) => happened(s)) });
const ping = (prev, seq) => ({ type: 'ping', prev, seq, timestamp: iso(0) });
const gap = (prev, seq, reason, epoch = 'e') => ({ type: 'gap', prev, seq, epoch, filter: 't', reason });

/** A stream that is live at `cursor`, with a clock that the test moves. */
function at(cursor = 'e-10-t', head = 10, draws = [0.5]) {
  const stream = new Stream({ random: () => draws[0] });
  const now = { ms: 0 };
  const here = {
    stream, now, draws,
    start: () => stream.start(now.ms),
    frame: (frame) => stream.frame(frame, now.ms, WALL + now.ms),
    closed: (end) => stream.closed(end, now.ms, WALL + now.ms),
    tick: () => stream.tick(now.ms, WALL + now.ms),
    until: (ms) => { now.ms = ms; return stream.tick(ms, WALL + ms); },
    seqs: (effects) => effects.filter((e) => e.do === 'event').map((e) => e.event.seq),
    place: () => formatCursor(stream.cursor),
  };
  here.start();
  if (cursor) here.frame(hello(cursor, head));
  return here;
}
const kinds = (effects) => effects.map((e) => e.do);

test('R2: a frame is taken by inequality, so shared bytes fit readers at different places', () => {
  const s = at();
  assert.deepEqual(s.seqs(s.frame(event(10, 11))), [11]);
  assert.deepEqual(s.seqs(s.frame(batch(8, 14, [9, 11, 13]))), [13]);
  assert.equal(s.place(), 'e-14-t');
  assert.equal(s.stream.counts.duplicates, 2);
  assert.deepEqual(s.frame(event(3, 12)), []);
  assert.equal(s.place(), 'e-14-t');
  assert.equal(s.stream.counts.duplicates, 3);
});

test('R1: a ping moves the cursor over what is hidden, and is answered', () => {
  const s = at();
  assert.deepEqual(s.frame(ping(10, 25)), [{ do: 'send', frame: { type: 'pong' } }]);
  assert.equal(s.place(), 'e-25-t');
  assert.deepEqual(kinds(s.frame(ping(20, 22))), ['send']);
  assert.equal(s.place(), 'e-25-t');
});

test('what a reader may not see is counted by its places; what it has seen is not', () => {
  const s = at();
  s.frame(ping(10, 25));
  assert.equal(s.stream.counts.hidden, 15);
  const effects = s.frame(batch(8, 31, [9, 26, 28, 31]));
  assert.deepEqual(effects.map(({ event: { seq }, hidden }) => [seq, hidden]), [[26, 0], [28, 1], [31, 2]]);
  assert.equal(s.stream.counts.hidden, 18);
  s.frame(event(31, 32));
  s.frame(batch(20, 32, [26, 28]));
  s.frame(gap(32, 40, 'retention'));
  assert.equal(s.stream.counts.hidden, 18, 'a gap is no secret');
});

test('R2: a hole is resumed from before it; a ping betrays a lost tail', () => {
  for (const frame of [event(12, 13), batch(11, 13, [12, 13]), ping(12, 12)]) {
    const s = at();
    const effects = s.frame(frame);
    assert.deepEqual(kinds(effects).slice(0, 2), ['hole', 'close']);
    assert.deepEqual(effects[0], { do: 'hole', from: 10, to: frame.prev });
    assert.equal(s.stream.phase, 'waiting');
    assert.deepEqual(s.until(s.stream.retryAt), [{ do: 'open', cursor: 'e-10-t' }]);
  }
});

test('R2: a gap of reason epoch is crossed before any comparison, downwards too', () => {
  const s = at('e-500-t', 500);
  const [shown] = s.frame(gap(500, 0, 'epoch', 'f'));
  assert.deepEqual(shown, { do: 'gap', reason: 'epoch', from: 500, to: 0, epoch: 'f', count: null });
  assert.deepEqual(s.seqs(s.frame(event(0, 1))), [1]);
  assert.equal(s.place(), 'f-1-t');
});

test('a gap of retention or slowness moves on; within one life it never steps back', () => {
  const s = at();
  s.frame(gap(10, 40, 'retention'));
  assert.equal(s.place(), 'e-40-t');
  assert.deepEqual(s.seqs(s.frame(event(40, 41))), [41]);
  s.frame(gap(20, 30, 'slow_consumer'));
  assert.equal(s.place(), 'e-41-t');
  assert.equal(s.stream.counts.gaps, 2);
});

test('R2: what lies before a gap and did not come is a hole: the gap comes again after resuming', () => {
  for (const reason of ['slow_consumer', 'retention', 'epoch']) {
    const s = at();
    assert.deepEqual(kinds(s.frame(gap(50, 60, reason, 'f'))), ['hole', 'close']);
    assert.equal(s.place(), 'e-10-t');
    assert.equal(s.stream.counts.gaps, 0);
  }
});

test('R4: a gap of reason filter moves nothing but the tag', () => {
  const s = at();
  s.frame({ ...gap(10, 10, 'filter'), filter: 'u', services: ['finance'] });
  assert.equal(s.place(), 'e-10-u');
});

test('R3: hello starts where we stand; ahead of us without a gap it is a fault', () => {
  const s = at();
  s.closed({ close: 1006 });
  s.until(s.stream.retryAt);
  assert.deepEqual(kinds(s.frame(hello('e-12-t', 20))), ['fault', 'close']);
  assert.equal(s.place(), 'e-10-t');
  s.until(s.stream.retryAt);
  assert.deepEqual(kinds(s.frame(hello('g-10-t', 10))), ['resumed'], 'a plain restart: new epoch, same place');
  assert.equal(s.place(), 'g-10-t');
  s.frame(hello('g-7-t', 10));
  assert.deepEqual(s.seqs(s.frame(batch(7, 11, [8, 11]))), [11], 'what comes again is dropped');
});

test('a frame before hello, without prev, or without its parts is a fault', () => {
  const s = at(null);
  assert.deepEqual(kinds(s.frame(event(0, 1))), ['fault', 'close']);
  for (const frame of [{ type: 'event', seq: 11 }, { type: 'batch', prev: 10, seq: 11 }, event(12, 11)]) {
    assert.deepEqual(kinds(at().frame(frame)), ['fault', 'close']);
  }
  assert.deepEqual(at().frame({ type: 'weather' }), []);
});

test('R14: keys are asked only across epochs, and only of events appended close together', () => {
  const s = at();
  s.frame(event(10, 11, { id: 'a', timestamp: iso(0) }));
  assert.deepEqual(s.seqs(s.frame(event(11, 12, { id: 'a', timestamp: iso(10) }))), [12], 'one chain: the cursor decides');
  s.frame(gap(12, 0, 'epoch', 'f'));
  assert.deepEqual(s.seqs(s.frame(event(0, 1, { id: 'a', timestamp: iso(20) }))), []);
  assert.equal(s.place(), 'f-1-t');
  assert.deepEqual(s.seqs(s.frame(event(1, 2, { id: 'a', source: 'other', timestamp: iso(20) }))), [2]);
  assert.deepEqual(s.seqs(s.frame(event(2, 3, { id: 'a', timestamp: iso(6 * 60_000) }))), [3], 'the same id, rightly, later');
});

test('a stream is live once it reaches the head of hello; replays are no latency', () => {
  const s = at('e-0-t', 2);
  assert.equal(s.stream.phase, 'catching_up');
  s.now.ms = 3_600_000;
  s.frame(batch(0, 2, [1, 2]));
  assert.equal(s.stream.phase, 'live');
  assert.deepEqual(s.stream.latencies, []);
  s.frame(event(2, 3, { timestamp: iso(3_599_993) }));
  assert.deepEqual(s.stream.latencies, [7]);
});

test('latency is corrected by the clock of hello, and of what came faster than it', () => {
  const s = at(null);
  s.frame(hello('e-0-t', 0, { server_time: iso(-5_000) }));
  s.now.ms = 1_000;
  s.frame(event(0, 1, { timestamp: iso(-4_012) }));
  assert.deepEqual(s.stream.latencies, [12]);
  s.frame({ ...ping(1, 1), timestamp: iso(-3_980) });
  s.frame(event(1, 2, { timestamp: iso(-4_012) }));
  assert.deepEqual(s.stream.latencies, [12, 32]);
});

test('delays are drawn from the allowed window, never under a second', () => {
  assert.deepEqual(DELAYS_MS.map((_, i) => delayWindow(i)), [
    [1000, 6000], [1000, 7000], [1000, 10_000], [5000, 15_000], [25_000, 35_000],
    [55_000, 65_000], [115_000, 125_000], [235_000, 245_000], [295_000, 305_000],
  ]);
  assert.deepEqual(delayWindow(50), [295_000, 305_000]);
  assert.deepEqual(delayWindow(0, 20_000), [20_000, 25_000], 'a hint is never undercut');
  assert.deepEqual(delayWindow(8, 1e9), [300_000, 305_000], 'nor does it park us for ever');
  for (const draw of [0, 0.999]) {
    const s = at('e-10-t', 10, [draw]);
    s.closed({ close: 1006 });
    assert.ok(s.stream.retryAt >= 1000 && s.stream.retryAt <= 6000);
  }
});

test('the delays start over only after ten seconds live', () => {
  const s = at('e-10-t', 10, [0]);
  s.closed({ close: 1006 });
  s.until(s.stream.retryAt);
  s.frame(hello('e-10-t', 10));
  s.now.ms += 9_999;
  s.closed({ close: 1006 });
  assert.equal(s.stream.attempt, 2);
  s.until(s.stream.retryAt);
  s.frame(hello('e-10-t', 10));
  s.until(s.stream.deadline());
  assert.equal(s.stream.attempt, 0);
  assert.equal(s.stream.metrics().reconnectAttempts, 0);
  assert.equal(s.stream.metrics().totalDisconnects, 2);
});

test('final codes stop, the others come back', () => {
  for (const close of [1009, 4001, 4551, 4552, 4553, 4554, 4555, 4556, 4700]) assert.ok(isFinal({ close }), `${close}`);
  for (const close of [1000, 1001, 1006, 1011, 1012, 1013, 4002, 4003, 4004, 4005, 4006, 4400]) assert.ok(!isFinal({ close }), `${close}`);
  for (const status of [204, 400, 401, 403, 404]) assert.ok(isFinal({ status }), `${status}`);
  for (const status of [200, 408, 429, 500, 502, 503]) assert.ok(!isFinal({ status }), `${status}`);
  const s = at();
  assert.deepEqual(s.frame({ type: 'error', code: 'revoked', message: 'gone' }), [{ do: 'close' }]);
  assert.deepEqual([s.stream.phase, s.stream.reason.code, s.stream.deadline()], ['closed', 'revoked', null]);
  assert.equal(s.stream.counts.disconnects, 1);
});

test('an error that may be retried is, not before its hint, nor by impatience', () => {
  const s = at('e-10-t', 10, [0]);
  s.frame({ type: 'error', code: 'overloaded', message: '', retry_in_ms: 8_000 });
  assert.deepEqual([s.stream.phase, s.stream.retryAt], ['waiting', 8_000]);
  s.stream.wake(10);
  assert.equal(s.stream.retryAt, 8_000);
});

test('goaway is followed within its time, then a second passes', () => {
  const s = at('e-10-t', 10, [0.5]);
  s.frame({ type: 'goaway', code: 'draining', retry_in_ms: 4_000 });
  assert.equal(s.stream.deadline(), 2_000);
  assert.deepEqual(s.seqs(s.frame(event(10, 11))), [11], 'until then the stream goes on');
  assert.deepEqual(s.until(2_000), [{ do: 'close' }]);
  assert.deepEqual(s.until(3_000), [{ do: 'open', cursor: 'e-11-t' }]);
});

test('silence is a loss, but a late timer first lets waiting frames speak', () => {
  const s = at();
  assert.equal(s.stream.deadline(), 35_000);
  assert.deepEqual(s.until(35_000), [{ do: 'close' }]);
  const asleep = at();
  assert.deepEqual(asleep.until(600_000), []);
  assert.equal(asleep.stream.deadline(), 605_000);
  asleep.frame(ping(10, 10));
  assert.equal(asleep.stream.deadline(), 635_000);
  const mute = at(null);
  assert.deepEqual(mute.until(10_000), [{ do: 'close' }], 'no hello in time');
});

test('waking tries soon, never within a second of the last attempt', () => {
  const s = at('e-10-t', 10, [0]);
  s.now.ms = 60_000;
  s.draws[0] = 0.9;
  s.closed({ close: 1006 });
  s.stream.wake(60_100);
  assert.ok(s.stream.retryAt <= 61_100);
  s.until(s.stream.retryAt);
  const opened = s.now.ms;
  s.closed({ close: 1006 });
  s.stream.wake(opened);
  assert.ok(s.stream.retryAt >= opened + 1000);
});

test('a stop by the user is no disconnect and leaves nothing to do', () => {
  const s = at();
  assert.deepEqual(s.stream.stop(5, WALL), [{ do: 'close' }]);
  assert.deepEqual([s.stream.counts.disconnects, s.stream.deadline()], [0, null]);
});

test('health has exactly its nine fields', () => {
  const s = at();
  assert.deepEqual(Object.keys(s.stream.metrics()), [
    'connectionState', 'lastConnectedAt', 'lastDisconnectedAt', 'totalDisconnects', 'reconnectAttempts',
    'eventsReceived', 'eventLatencyMs', 'duplicatesDetected', 'lastEventAt',
  ]);
  for (let seq = 11; seq <= 150; seq += 1) s.frame(event(seq - 1, seq));
  assert.equal(s.stream.metrics().eventLatencyMs.length, 100);
  assert.equal(s.stream.metrics().connectionState, 'connected');
  s.closed({});
  assert.equal(s.stream.metrics().connectionState, 'reconnecting');
  assert.equal(new Stream().metrics().connectionState, 'disconnected');
});

test('cursor text has one form; seq is exact below 2^53', () => {
  for (const good of ['a-0', '0z9-12', 'abc-9007199254740991-f00']) assert.equal(formatCursor(parseCursor(good)), good);
  for (const bad of [null, '', 'a', 'a-', 'a-01', 'a-1-', 'a-1-b-c', 'A-1', 'a-9007199254740992']) assert.equal(parseCursor(bad), null);
});

test('a stream is asked for by cursor, else by tail', () => {
  const target = { org: 'a.b', services: ['x', 'y'], tail: 50, token: null };
  assert.equal(streamUrl('ws://h', { ...target, cursor: null }), 'ws://h/v1/orgs/a.b/stream?services=x%2Cy&tail=50');
  assert.equal(streamUrl('ws://h', { ...target, services: [], cursor: 'e-1-t' }), 'ws://h/v1/orgs/a.b/stream?cursor=e-1-t');
});
