// Any input in any order: the session never throws, always has a deadline while it is wanted, stays bounded, hands
// events over in order, and is live again once the world behaves. (The fuzz of a whole world of gateways and networks
// is on the Rust side; tests/npm/session_agrees.mjs replays its runs here.)

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createSession, parseCursor } from '../../dist/session/session.js';
import { hello, iso } from './script.mjs';

const RUNS = Number(process.env.FUZZ_RUNS ?? 10_000);
const STEPS = 60;
const WALL = 1767225600000;

/** mulberry32 (Tommy Ettinger 2017), over u32. */
function prng(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** One run: what a driver would know, and what must always hold. */
class Run {
  now = 0;
  wall = WALL;
  position = -1; // of what was handed over
  open = null; // generations that are out
  request = null;
  page = null;
  last = { open: 0, request: 0, page: 0 };

  constructor(seed) {
    this.random = prng(seed);
    const pick = (...of) => of[Math.floor(this.random() * of.length)];
    this.pick = pick;
    this.session = createSession({
      transports: pick(['ws', 'sse'], ['ws'], ['sse'], ['sse', 'ws']), transport: null, cursor: pick(null, 'e1-20', 'e0-30-t'), tail: pick(null, 5),
      fill: pick(true, false), health: pick(true, false),
    });
    this.position = this.session.state.cursor?.seq ?? -1;
  }

  step(input) {
    const { state } = this.session;
    if (input.t === 'closed' && input.g === this.open) this.open = null;
    if ((input.t === 'token' || input.t === 'token_failed') && input.g === this.request) this.request = null;
    if ((input.t === 'page' || input.t === 'page_failed') && input.g === this.page) this.page = null;
    const out = this.session.step(input, this.now, this.wall, this.random());
    for (const output of out) this.output(output);
    this.hold(input);
    return state;
  }

  output(o) {
    assert.deepEqual(JSON.parse(JSON.stringify(o)), o);
    switch (o.t) {
      case 'open':
        assert.equal(this.open, null, 'two connections');
        assert.ok(o.g > this.last.open);
        this.open = this.last.open = o.g;
        break;
      case 'get_token':
        assert.equal(this.request, null, 'two callbacks');
        this.request = this.last.request = o.g;
        break;
      case 'history':
        assert.equal(this.page, null, 'two pages');
        this.page = this.last.page = o.g;
        break;
      case 'close':
        assert.equal(o.g, this.open);
        this.open = null;
        break;
      case 'cancel':
        assert.ok(o.g === this.request || o.g === this.page);
        if (o.g === this.request) this.request = null;
        else this.page = null;
        break;
      case 'event':
        assert.ok(o.event.seq > this.position, `event ${o.event.seq} after ${this.position}`);
        assert.ok(o.latency_ms === null || (o.latency_ms >= 0 && !o.replay));
        this.position = o.event.seq;
        break;
      case 'gap':
        assert.ok(o.prev <= Math.max(0, this.position) || this.position < 0);
        if (o.reason === 'epoch') this.position = o.seq;
        else this.position = Math.max(this.position, o.seq);
        break;
      case 'cursor': {
        const { seq } = parseCursor(o.cursor);
        assert.ok(seq >= this.position, `cursor ${seq} after ${this.position}`);
        this.position = seq;
        break;
      }
      case 'error':
        if (o.retry_in_ms) assert.ok(o.retry_in_ms >= 1000);
        break;
    }
  }

  hold(input) {
    const s = this.session.state;
    const due = this.session.deadline();
    assert.ok(due === null || (Number.isSafeInteger(due) && due >= 0));
    if (due === null) assert.ok(s.phase === 'idle' || s.phase === 'stopped' || (s.phase === 'backoff' && s.paused), `no deadline in ${s.phase}`);
    if (input.t === 'tick' && due !== null) assert.ok(due > this.now || s.phase === 'backoff', `due again at once in ${s.phase}`);
    assert.equal(s.connection, this.open);
    assert.equal(s.connection !== null, ['opening', 'hello', 'live', 'probe'].includes(s.phase), s.phase);
    assert.equal(s.request?.g ?? null, this.request);
    if (s.phase === 'auth') assert.notEqual(this.request, null);
    assert.equal(s.fill?.g ?? null, this.page);
    assert.ok(s.samples.length <= 8 && s.latencies.length <= 100 && s.unreported.latencies_ms.length <= 100 && (s.fill?.held.length ?? 0) <= 5000);
    assert.ok(s.remembered.length <= 14);
  }

  frame() {
    const { pick, random } = this;
    const c = this.session.state.cursor?.seq ?? 0;
    const near = () => Math.max(0, c + Math.floor(random() * 7) - 3);
    const prev = pick(c, c, c, near());
    const seq = Math.max(0, prev + Math.floor(random() * 4));
    const entry = (at) => ({ seq: at, timestamp: pick(iso(this.now), iso(this.now - 100), 'x', null), service: 's', event: 'e', id: pick(`i${at}`, 'same'), data: 1 });
    return pick(
      () => hello({ cursor: pick(`e1-${c}-t`, `e1-${c}-t`, `e1-${c}-u`, `e2-${c}-u`, `e2-${near()}-u`, 'none'), head: near(), token_expires_in_ms: pick(0, 5000, 3600000), ping_interval_ms: pick(0, 25000), server_time: pick(iso(this.now), null) }),
      () => ({ type: 'event', prev, ...entry(pick(seq, prev + 1)) }),
      () => ({ type: 'batch', prev, seq: seq + 1, events: [entry(seq), pick(entry(seq + 1), null, 7)] }),
      () => ({ type: 'batch', prev, seq: prev + 2, events: [entry(prev + 1), entry(prev + 2)] }),
      () => ({ type: 'ping', prev, seq, timestamp: iso(this.now) }),
      () => ({ type: 'gap', prev, seq: near(), epoch: pick('e1', 'e2', 'E'), filter: pick('t', null), reason: pick('retention', 'epoch', 'filter', 'slow_consumer') }),
      () => ({ type: 'pong', n: this.session.state.pings_sent, timestamp: pick(iso(this.now), 1) }),
      () => ({ type: 'status', code: pick('overloaded', 'degraded') }),
      () => ({ type: 'goaway', code: 'draining', retry_in_ms: pick(0, 5000, 'x') }),
      () => (random() < 0.7 ? { type: 'event', prev: c, ...entry(c + 1) } : { type: 'error', code: pick('token_expired', 'overloaded', 'evicted', 5), retry_in_ms: pick(0, 9000, undefined) }),
      () => (random() < 0.7 ? { type: 'event', prev: c, ...entry(c + 2) } : { type: 'hello', cursor: `e1-${c}-t` }),
      () => (random() < 0.7 ? { type: 'gap', prev: c, seq: c + 9, epoch: 'e1', reason: 'slow_consumer' } : { type: 'news' }),
      () => pick('', 5, null, [], 'text', { type: 'new' }, { type: 'constructor' }, { type: 7 }),
    )();
  }

  input() {
    const { pick, random } = this;
    const g = (name, value) => pick(value, value, value, this.last[name], Math.floor(random() * 9)) ?? 0;
    return pick(
      () => ({ t: 'connect' }), () => ({ t: 'connect' }), () => (random() < 0.2 ? { t: 'disconnect' } : { t: 'drained' }), () => ({ t: 'tick' }), () => ({ t: 'tick' }),
      () => ({ t: 'token', g: g('request', this.request), token: pick('a', 'b', ''), expires_in_ms: pick(null, undefined, 0, 5000, 1e9) }),
      () => ({ t: 'token', g: g('request', this.request), token: 'c' }),
      () => ({ t: 'token_failed', g: g('request', this.request), final: random() < 0.1, message: 'm' }),
      () => ({ t: 'opened', g: g('open', this.open) }),
      () => ({ t: 'frame', g: g('open', this.open), text: JSON.stringify(this.frame()) }), () => ({ t: 'frame', g: g('open', this.open), text: JSON.stringify(this.frame()) }),
      () => ({ t: 'frame', g: g('open', this.open), text: JSON.stringify(this.frame()) }), () => ({ t: 'frame', g: g('open', this.open), text: pick('{', 'null', '') }),
      () => ({ t: 'closed', g: g('open', this.open), close: pick(null, undefined, 1006, 4001, 4002, 4555), status: pick(null, undefined, 200, 401, 503), code: pick(null, undefined, 'token_expired', 'overloaded'), retry_in_ms: pick(null, undefined, 5000) }),
      () => ({ t: 'wake', reason: pick('visible', 'online', 'pageshow', 'resume', 'app') }), () => ({ t: 'offline' }), () => ({ t: 'suspend' }),
      () => ({ t: 'overflow' }), () => ({ t: 'drained' }),
      () => ({ t: 'page', g: g('page', this.page), text: JSON.stringify(pick({}, null, { events: [], cursor: `e1-${this.session.state.cursor?.seq ?? 0}-t`, has_more: pick(true, false) })) }),
      () => ({ t: 'page_failed', g: g('page', this.page) }),
    )();
  }

  pass() {
    const { pick, random } = this;
    const due = this.session.deadline();
    const ms = pick(0, 0, 1, 100, due === null ? 0 : Math.max(0, due - this.now), due === null ? 0 : Math.max(0, due - this.now), Math.floor(random() * 40000));
    this.now += ms;
    this.wall += ms + pick(0, 0, 0, 0, 0, 0, 0, 0, 2001, 3600000, -5000);
  }

  /** What a world that behaves gives the session next. */
  good() {
    const { phase, cursor, paused } = this.session.state;
    const frame = (frame) => ({ t: 'frame', g: this.open, text: JSON.stringify(frame) });
    switch (phase) {
      case 'idle': case 'stopped': return { t: 'connect' };
      case 'auth': return { t: 'token', g: this.request, token: 'good', expires_in_ms: 1e9 };
      case 'opening': return { t: 'opened', g: this.open };
      case 'hello': return frame(hello({ cursor: `e1-${cursor?.seq ?? 5}-t`, head: cursor?.seq ?? 5, server_time: iso(this.now) }));
      case 'backoff': return paused ? { t: 'drained' } : { t: 'tick' };
      default: return this.page === null ? frame({ type: 'news' }) : { t: 'page_failed', g: this.page };
    }
  }

  recover() {
    for (let i = 0; i < 40; i++) {
      const { phase } = this.session.state;
      if (phase === 'live' && this.page === null) return true;
      if (phase === 'backoff' && !this.session.state.paused) {
        const due = Math.max(this.now, this.session.deadline());
        this.wall += due - this.now;
        this.now = due;
      }
      this.step(this.good());
    }
    return false;
  }
}

test(`${RUNS} runs of any input in any order`, () => {
  for (let seed = 1; seed <= RUNS; seed++) {
    const run = new Run(seed);
    const inputs = [];
    try {
      for (let i = 0; i < STEPS; i++) {
        run.pass();
        const isLive = ['live', 'probe'].includes(run.session.state.phase);
        const input = run.random() < 0.4 ? run.input() : isLive ? { t: 'frame', g: run.open, text: JSON.stringify(run.frame()) } : run.good();
        inputs.push({ at: run.now, in: input });
        run.step(input);
      }
      assert.ok(run.recover(), `not live again, but ${run.session.state.phase}`);
    } catch (error) {
      console.error(`seed ${seed}, after:\n${inputs.slice(-12).map((input) => JSON.stringify(input)).join('\n')}`);
      throw error;
    }
  }
});
