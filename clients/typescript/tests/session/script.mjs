// Writes test vectors of the client session (spec/README.md) by running it and asserting, step by step, what a
// person expected. An expectation names each output in a short form, see `brief`; the vector holds all of it.

import assert from 'node:assert/strict';

import { createSession } from '../../dist/session/session.js';
import { metricsOf } from '../../dist/testing/replay.js';

export const WALL = 1767225600000; // 2026-01-01T00:00:00.000Z
export const iso = (at) => new Date(WALL + at).toISOString();

const CONFIG = { transports: ['ws', 'sse'], transport: null, cursor: null, tail: null, fill: false, health: false };

/** An output in a line. Left out are texts for people and what is usual. */
export function brief(o) {
  const words = {
    get_token: () => [o.g, o.reason],
    open: () => [o.g, o.transport, o.token, o.cursor ?? '-', o.tail !== null && `tail=${o.tail}`, o.replaces && `replaces=${o.replaces}`],
    close: () => [o.g, o.code],
    cancel: () => [o.g],
    send: () => [o.frame.type, o.frame.n ?? o.frame.token ?? (o.frame.type === 'health' && JSON.stringify(Object.values(o.frame).slice(1)))],
    history: () => [o.g, o.after, `..${o.to}`],
    transport: () => [o.transport],
    hello: () => [o.connection_id, o.head, o.resumed && 'resumed', o.renewed && 'renewed', o.sync],
    event: () => [o.event.seq, o.replay && 'replay', o.latency_ms],
    gap: () => [`${o.prev}..${o.seq}`, o.epoch, o.reason, o.services?.join(',')],
    cursor: () => [o.cursor],
    status: () => [o.code],
    error: () => [o.code, o.fatal && 'fatal', o.retry_in_ms],
    state: () => [o.state, o.phase, o.attempt, o.retry_in_ms !== null && `in ${o.retry_in_ms}`],
  }[o.t]();
  return [o.t, ...words].filter((word) => word !== null && word !== undefined && word !== false).join(' ');
}

export class Script {
  now = 0;
  g = null; // of the last `open`
  steps = [];
  #slept = 0;
  #random = null;

  constructor(name, rules, { state, ...config } = {}) {
    Object.assign(this, { name, rules, config, start: state });
    this.session = createSession({ ...CONFIG, ...config }, state && revive(state));
  }

  at(ms) {
    assert.ok(ms >= this.now, `${this.name}: ${ms} lies before ${this.now}`);
    this.now = ms;
    return this;
  }

  after(ms) {
    return this.at(this.now + ms);
  }

  /** Time passes, but the monotonic clock stands still. */
  sleep(ms) {
    this.#slept += ms;
    return this;
  }

  /** The draw of the next step. */
  random(value) {
    this.#random = value;
    return this;
  }

  step(input, ...expected) {
    const random = this.#random ?? 0.5;
    this.#random = null;
    const wall = WALL + this.now + this.#slept;
    const out = this.session.step(input, this.now, wall, random);
    assert.deepEqual(out.map(brief), expected, `${this.name}, step ${this.steps.length + 1} at ${this.now}: ${JSON.stringify(input)}`);
    this.g = out.findLast(({ t }) => t === 'open')?.g ?? this.g;
    const step = { at: this.now, wall, random, in: input, out: JSON.parse(JSON.stringify(out)), phase: this.session.state.phase, deadline: this.session.deadline() };
    if (step.wall === WALL + step.at) delete step.wall;
    if (random === 0.5) delete step.random;
    this.steps.push(step);
    return this;
  }

  /** The phase and the deadline after the last step; a deadline from the last step on, if it is given as text. */
  is(phase, deadline) {
    const { phase: found, deadline: due } = this.steps.at(-1);
    assert.equal(found, phase, `${this.name}: phase after step ${this.steps.length}`);
    if (deadline !== undefined) assert.equal(due, typeof deadline === 'string' ? this.now + Number(deadline) : deadline, `${this.name}: deadline after step ${this.steps.length}`);
    return this;
  }

  /** Goes to the deadline. */
  tick(...expected) {
    return this.at(Math.max(this.now, this.session.deadline())).step({ t: 'tick' }, ...expected);
  }

  /** Time passes with signs of life and nothing else; timers are on time. */
  quiet(until) {
    for (let next = this.now; next < until;) {
      const due = this.session.deadline() ?? Infinity;
      next = Math.min(until, due, this.now + 20000);
      this.at(next);
      if (next === due) this.step({ t: 'tick' });
      this.frame({ type: 'news' });
    }
    return this;
  }

  connect(...expected) {
    return this.step({ t: 'connect' }, ...expected);
  }

  token(g, token, expires_in_ms, ...expected) {
    return this.step({ t: 'token', g, token, ...(expires_in_ms === null ? {} : { expires_in_ms }) }, ...expected);
  }

  opened(...expected) {
    return this.step({ t: 'opened', g: this.g }, ...expected);
  }

  /** What the transport says of an end. */
  closed(how, ...expected) {
    return this.step({ t: 'closed', g: this.g, ...how }, ...expected);
  }

  frame(frame, ...expected) {
    return this.step({ t: 'frame', g: this.g, text: typeof frame === 'string' ? frame : JSON.stringify(frame) }, ...expected);
  }

  /** From idle to live: asked at 0, the token at 100, open at 200, hello at 300. */
  live({ token_life = null, ...more } = {}) {
    const begin = this.now;
    const { cursor = null, tail = null, transport = null, transports = ['ws'] } = this.config;
    const by = transport ?? transports[0];
    const first = hello({ server_time: iso(begin + 200 + this.#slept), ...(cursor?.split('-').length === 3 ? { cursor } : {}), ...more });
    return this.connect('get_token 1 initial', 'state disconnected auth 0')
      .after(100).token(1, 'token-1', token_life, `open 2 ${by} token-1 ${cursor ?? '-'}${tail === null ? '' : ` tail=${tail}`}`, 'state disconnected opening 0')
      .after(100).opened('state disconnected hello 0')
      .after(100).frame(
        first, `hello c-1 ${first.head}${first.resumed ? ' resumed' : ''}`, ...(cursor === first.cursor ? [] : [`cursor ${first.cursor}`]),
        ...(by === 'ws' ? ['send ping 1'] : []), 'state connected live 0',
      )
      .is('live', begin + 300 + Math.min(10000, Math.max(1000, Math.floor(first.token_expires_in_ms * 0.8))));
  }

  /** From backoff to live again, 100 ms after the attempt began. */
  again({ g, attempt = 1, cursor = 'e1-5-t', number = 2, transport = 'ws', token = 'token-1', connection_id = `c-${number}`, isKept = true, ...more }) {
    const moved = more.cursor !== undefined && more.cursor !== cursor;
    return this.tick(`open ${g} ${transport} ${token} ${cursor} replaces=c-${number - 1}`, `state reconnecting opening ${attempt}`)
      .opened(`state reconnecting hello ${attempt}`)
      .after(100).frame(
        hello({ cursor, connection_id, resumed: true, server_time: iso(this.now - 100 + 50), ...more }),
        ...(isKept ? [] : [`transport ${transport}`]), `hello ${connection_id} ${more.head ?? 5} resumed`, ...(moved ? [`cursor ${more.cursor}`] : []),
        ...(transport === 'ws' ? [`send ping ${this.session.state.pings_sent + 1}`] : []), `state connected live ${attempt}`,
      );
  }

  /** The gateway answers the ping with this number; its clock shows what this one does. */
  pong(n, ...expected) {
    const sent = this.session.state.ping?.sent_at ?? this.now;
    return this.frame({ type: 'pong', n, timestamp: iso(this.#slept + sent + Math.floor((this.now - sent) / 2)) }, ...expected);
  }

  vector({ metrics = false } = {}) {
    const { name, rules, config, steps, start } = this;
    return { name, rules, config, ...(start ? { state: start } : {}), steps, ...(metrics ? { metrics: metricsOf(this.session) } : {}) };
  }
}

function revive(state) {
  const copy = structuredClone(state);
  for (const generation of copy.remembered) generation.keys = new Map(Object.entries(generation.keys));
  return copy;
}

// --- Frames as the gateway writes them.

export const hello = (more = {}) => ({
  type: 'hello', connection_id: 'c-1', protocol: 1, org: 'dev', services: ['*'], filter: 't', epoch: 'e1', cursor: 'e1-5-t', head: 5, dedup_window_ms: 300000,
  ping_interval_ms: 25000, resumed: false, token_expires_in_ms: 3600000, server_time: iso(200), ...more,
});

/** An event published at this time. */
export const entry = (seq, at = 0, more = {}) => ({ seq, timestamp: iso(at), service: 's', event: 'e', id: `i${seq}`, data: {}, ...more });
export const event = (prev, seq, at, more) => ({ type: 'event', org: 'dev', prev, ...entry(seq, at, more) });
export const batch = (prev, seq, ...events) => ({ type: 'batch', org: 'dev', prev, seq, timestamp: iso(0), events: events.map((e) => (typeof e === 'number' ? entry(e) : e)) });
export const ping = (prev, seq) => ({ type: 'ping', prev, seq, timestamp: iso(0) });
export const gap = (prev, seq, reason, more = {}) => ({ type: 'gap', prev, seq, epoch: 'e1', filter: 't', reason, ...more });
export const error = (code, more = {}) => ({ type: 'error', code, message: `a sentence about ${code}`, ...more });

/** Collects the vectors of one subject: `add(name, rules, config, write, options)`. */
export function subject() {
  const vectors = [];
  const add = (name, rules, config, write, options) => {
    const script = new Script(name, rules, config);
    write(script);
    vectors.push(script.vector(options));
  };
  return { vectors, add };
}
