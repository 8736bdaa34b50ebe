// One client's session: what it does with each fact, as a state machine without IO. It has no clock, no timer
// and no randomness; `step` gets all three. The same machine in Rust is crates/tidegate-protocol/src/client;
// spec/vectors holds both to the same outputs. It implements rules R1 to R5 and R14 (docs/rules.md).

import { CODES, CLOSE_CODES } from './codes.js';
import type { ClientFrame, Config, Cursor, Held, Input, Output, Phase, State, TokenReason, Timers, WireEvent } from './types.js';

const DELAYS_MS = [1, 2, 5, 10, 30, 60, 120, 240, 300].map((s) => s * 1000);
const JITTER_MS = 5_000;
const DELAY_MIN_MS = 1_000;
const HINT_MAX_MS = 3_600_000;
const STABLE_MS = 10_000;
const TOKEN_MS = 15_000;
const OPEN_MS = 10_000;
const HELLO_MS = 10_000;
const PROBE_MS = 5_000;
const SILENCE_MS = 10_000; // beyond a ping interval
const PING_INTERVAL_MS = 25_000;
const PING_INTERVAL_MAX_MS = 3_600_000;
const UNCONFIRMED_MS = 60_000; // how long a token of unknown life is taken for good
const PAGE_MS = 15_000;
const JUMP_MS = 2_000;
const SHORT_MS = 5_000;
const REPORT_MS = 30_000;
const LATENCIES_MAX = 100;
const SAMPLES_MAX = 8;
const HELD_MAX = 5_000;
const DEDUP_MS = 300_000;
const GENERATION_MS = 60_000;
const GENERATION_KEYS = 2_000;
const KEYS_MAX = 10_000;
const COUNT_MAX = 1_000_000;
const CLOSE_DONE = 1000;
const CLOSE_FAULT = 4000;

type Of<T extends Input['t']> = Extract<Input, { t: T }>;
type Frame = Record<string, unknown> & { type: string };

/** The window from which a delay is drawn: 5 s to both sides of the base, never under 1 s nor under the hint. */
export function delay(attempt: number, random: number, hint: number): number {
  const asked = Math.min(hint, HINT_MAX_MS);
  const base = Math.max(DELAYS_MS[Math.min(attempt, DELAYS_MS.length - 1)]!, asked);
  const low = Math.max(DELAY_MIN_MS, base - JITTER_MS, asked);
  return low + Math.floor(random * (base + JITTER_MS - low + 1));
}

export function parseCursor(text: unknown): Cursor | null {
  const parts = typeof text === 'string' ? /^([0-9a-z]{1,32})-(0|[1-9][0-9]{0,15})(?:-([0-9a-z]{1,16}))?$/.exec(text) : null;
  const seq = Number(parts?.[2]);
  return parts && Number.isSafeInteger(seq) ? { epoch: parts[1]!, seq, tag: parts[3] ?? null } : null;
}

export const formatCursor = ({ epoch, seq, tag }: Cursor): string => (tag === null ? `${epoch}-${seq}` : `${epoch}-${seq}-${tag}`);

const isSeq = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
const isFinalStatus = (status: number) => !(status === 408 || status === 429 || status >= 500);

function initial(config: Config): State {
  const home = config.transport ?? config.transports[0]!;
  return {
    phase: 'idle', generation: 0,
    timers: { token: null, phase: null, silence: null, stable: null, refresh: null, leave: null, retry: null, page: null, sweep: null, report: null },
    attempt: 0, tried: false, not_before: null, paused: false, postponed: false,
    connection: null, transport: home, home, open_at: null, hello_at: null, moving: false, before_hello: 0, short_lives: 0, tried_other: false,
    token: null, token_until: 0, request: null, refusals: 0, asked: false,
    cursor: parseCursor(config.cursor), connection_id: null, head: 0, ping_interval_ms: PING_INTERVAL_MS, dedup_window_ms: DEDUP_MS, fill: null,
    dedup_until: 0, remembered: [],
    ping: null, pings_sent: 0, pings_heard: 0, samples: [], last_now: 0, last_wall: 0,
    connected_wall: null, disconnected_wall: null, event_wall: null,
    disconnects: 0, events: 0, overlaps: 0, repeats: 0, holes: 0, gaps: 0, latencies: [],
    unreported: { latencies_ms: [], disconnects: 0, duplicates: 0, holes: 0, gaps: 0 }, reported_at: null,
    said: 'idle disconnected 0',
  };
}

export class Session {
  readonly state: State;
  #config: Config;
  #parse: (text: string) => unknown;
  // The step under way.
  #now = 0;
  #wall = 0;
  #random = 0;
  #out: Output[] = [];

  /** `parse` reads the JSON of frames; a driver may give one that keeps long numbers. */
  constructor(config: Config, state: State | null = null, parse: (text: string) => unknown = JSON.parse) {
    this.#config = config;
    this.state = state ?? initial(config);
    this.#parse = parse;
  }

  /** When `tick` is due, or null. */
  deadline(): number | null {
    let due: number | null = null;
    for (const at of Object.values(this.state.timers) as (number | null)[]) if (at !== null && (due === null || at < due)) due = at;
    return due;
  }

  /** The state that applications see. */
  connectionState() {
    const { phase, moving, tried } = this.state;
    if (phase === 'live' || phase === 'probe' || moving) return 'connected';
    return phase !== 'idle' && phase !== 'stopped' && tried ? 'reconnecting' : 'disconnected';
  }

  /** Takes one fact. `random` is drawn uniformly from [0, 1); a step uses it at most once. */
  step(input: Input, now: number, wall: number, random: number): Output[] {
    const s = this.state;
    const jump = wall - s.last_wall - (now - s.last_now) > JUMP_MS && s.last_wall !== 0;
    const due = this.deadline();
    const isLate = input.t === 'tick' && due !== null && now - due > JUMP_MS;
    [this.#now, this.#wall, this.#random, this.#out] = [now, wall, random, []];
    [s.last_now, s.last_wall] = [now, wall];
    if (jump) {
      // The machine slept: the token may have expired, and clocks may have been set.
      s.token_until = 0;
      s.samples = [];
      s.ping = null;
    }
    if (jump) this.#wake('resume');
    if (isLate) this.#late();
    else if (input.t === 'tick') s.postponed = false;
    // Each cell of this table is there by type.
    const cell = TABLE[s.phase][input.t] as (session: Session, input: Input) => void;
    cell(this, input);
    this.#say();
    return this.#out;
  }

  // --- The cells of the table.

  static connect(self: Session): void {
    const s = self.state;
    Object.assign(s, { attempt: 0, refusals: 0, tried: false, paused: false, not_before: null, before_hello: 0, short_lives: 0 });
    self.#begin();
  }

  static disconnect(self: Session): void {
    const s = self.state;
    if (self.#isOpen()) s.disconnected_wall = self.#wall;
    self.#leave(CLOSE_DONE);
    self.#cancelToken();
    s.phase = 'idle';
  }

  static token(self: Session, { g, token, expires_in_ms }: Of<'token'>): void {
    const s = self.state;
    if (s.request?.g !== g) return;
    const { reason } = s.request;
    s.request = s.timers.token = null;
    const life = expires_in_ms ?? UNCONFIRMED_MS;
    if (token === '' || life <= 0) {
      self.#tokenFailed(reason, token === '' ? 'the callback returned no token' : 'the callback returned a token that has expired');
      return;
    }
    s.token = token;
    s.token_until = self.#now + life;
    s.asked = true;
    if (s.phase === 'auth') self.#open();
    else if (self.#isOpen() && reason === 'refresh') {
      if (s.transport === 'ws') {
        self.#send({ type: 'auth', token });
      } else {
        // An event stream takes no frames of ours, so the new token needs a new one.
        self.#leave(CLOSE_DONE);
        s.moving = true;
        self.#open();
      }
    }
  }

  static tokenFailed(self: Session, { g, final, message }: Of<'token_failed'>): void {
    const s = self.state;
    if (s.request?.g !== g) return;
    const { reason } = s.request;
    s.request = s.timers.token = null;
    if (final) self.#stop('auth', message);
    else self.#tokenFailed(reason, message);
  }

  static opened(self: Session, { g }: Of<'opened'>): void {
    if (g !== self.state.connection) return;
    self.state.phase = 'hello';
    self.state.timers.phase = self.#now + HELLO_MS;
  }

  static frame(self: Session, { g, text }: Of<'frame'>): void {
    const s = self.state;
    if (g !== s.connection) return;
    let frame: Frame;
    try {
      frame = self.#parse(text) as Frame;
    } catch {
      return self.#broken('a frame is not JSON');
    }
    if (typeof frame?.type !== 'string') return self.#broken('a frame has no type');
    const isGreeted = s.hello_at !== null;
    if (isGreeted) {
      if (s.phase === 'probe') {
        s.phase = 'live';
        s.timers.phase = null;
      }
      self.#listen();
    }
    switch (frame.type) {
      case 'hello': return self.#hello(frame);
      case 'error': return self.#error(String(frame.code ?? ''), String(frame.message ?? ''), hint(frame.retry_in_ms));
      case 'goaway':
        s.timers.leave = self.#now + Math.floor(self.#random * hint(frame.retry_in_ms));
        return self.#emit({ t: 'status', code: String(frame.code ?? ''), message: '' });
      case 'event': case 'batch': case 'ping': case 'gap': case 'status': case 'pong':
        if (!isGreeted) return self.#broken(`a ${frame.type} came before hello`);
        break;
      default: return; // of a newer gateway
    }
    switch (frame.type) {
      case 'event': return self.#advance(frame, [frame as unknown as WireEvent]);
      case 'batch': return self.#advance(frame, frame.events);
      case 'ping': return self.#pinged(frame);
      case 'gap': return self.#gap(frame);
      case 'pong': return self.#ponged(frame);
      default:
        self.#emit({ t: 'status', code: String(frame.code ?? ''), message: String(frame.message ?? '') });
        // The gateway could not check the new token: ask for another in a while.
        if (frame.code === 'overloaded') self.#refreshLater();
    }
  }

  static closed(self: Session, input: Of<'closed'>): void {
    const s = self.state;
    if (input.g !== s.connection) return;
    s.connection = null;
    const { close = null, status = null, retry_in_ms = null } = input;
    const message = input.message ?? '';
    const name = input.code != null && input.code in CODES ? input.code : close !== null ? (CLOSE_CODES[close] ?? null) : null;
    if (name !== null) self.#error(name, message, hint(retry_in_ms));
    else if (status !== null && isFinalStatus(status)) self.#stop('refused', message);
    else if (close !== null && ((close >= 4500 && close <= 4999) || close === 1009)) self.#stop('refused', message);
    else if (status !== null || (close !== null && close >= 4000)) self.#lose('refused', message, hint(retry_in_ms));
    else self.#bareEnd('closed', message, hint(retry_in_ms));
  }

  static wake(self: Session, { reason }: Of<'wake'>): void {
    self.#wake(reason);
  }

  static offline(self: Session): void {
    self.#probe();
  }

  static suspend(self: Session): void {
    const s = self.state;
    self.#lost();
    self.#leave(CLOSE_DONE);
    s.phase = 'backoff';
    s.timers.retry = Math.max(self.#now, s.open_at === null ? 0 : s.open_at + DELAY_MIN_MS);
  }

  static tick(self: Session): void {
    const s = self.state;
    const isDue = (name: keyof Timers) => s.timers[name] !== null && s.timers[name]! <= self.#now;
    if (isDue('token')) {
      const { reason } = s.request!;
      self.#cancelToken();
      self.#tokenFailed(reason, 'the token callback did not answer in 15 s');
    }
    if (isDue('phase')) {
      if (s.phase === 'probe') self.#lose('silence', 'nothing was heard in time', 0);
      else if (s.phase === 'hello' && s.transport === 'sse') self.#bareEnd('sse_buffered', 'the event stream is open, but nothing comes: something on the way holds it back', 0);
      else self.#bareEnd('timeout', 'the gateway does not answer', 0);
    }
    if (isDue('silence')) self.#startProbe();
    if (isDue('stable')) self.#settle();
    if (isDue('refresh')) {
      s.timers.refresh = null;
      self.#getToken('refresh');
    }
    if (isDue('leave')) self.#lose('draining', 'the gateway asked this client to reconnect', 0);
    if (isDue('retry')) self.#begin();
    if (isDue('page')) self.#fillFailed();
    if (isDue('sweep')) self.#sweep();
    if (isDue('report')) self.#report();
  }

  static overflow(self: Session): void {
    const s = self.state;
    self.#lost();
    self.#leave(CLOSE_FAULT);
    s.phase = 'backoff';
    s.paused = true;
    self.#emit({ t: 'error', code: 'overflow', message: 'the application is too slow; the stream goes on when it has caught up', fatal: false, retry_in_ms: null });
  }

  static overflowWaiting(self: Session): void {
    self.state.paused = true;
    self.state.timers.retry = null;
  }

  static drained(self: Session): void {
    const s = self.state;
    if (!s.paused) return;
    s.paused = false;
    s.timers.retry = Math.max(self.#now, (s.open_at ?? 0) + DELAY_MIN_MS, s.not_before ?? 0);
  }

  static page(self: Session, { g, text }: Of<'page'>): void {
    const { fill } = self.state;
    if (fill?.g !== g) return;
    let page: { events?: unknown; cursor?: unknown; has_more?: unknown; gap?: unknown };
    try {
      page = self.#parse(text) as typeof page;
    } catch {
      return self.#fillFailed();
    }
    const cursor = parseCursor(page?.cursor);
    const events = page?.events;
    // What history cannot give either is a gap; so is a page that does not go on.
    if (!cursor || !Array.isArray(events) || page.gap != null) return self.#fillFailed();
    const after = fill.after.seq;
    let place = after;
    for (const event of events as WireEvent[]) {
      if (!isSeq(event?.seq) || event.seq <= place) return self.#fillFailed();
      place = event.seq;
    }
    if (cursor.seq < place || (page.has_more === true && cursor.seq <= after)) return self.#fillFailed();
    for (const event of events as WireEvent[]) if (event.seq <= fill.to) self.#deliver({ event, replay: true, latency_ms: null });
    fill.after = { ...cursor, seq: Math.min(cursor.seq, fill.to) };
    if (page.has_more === true && fill.after.seq < fill.to) {
      self.#emit({ t: 'cursor', cursor: formatCursor(fill.after) });
      self.#askPage();
    } else {
      self.#fillDone();
    }
  }

  static pageFailed(self: Session, { g }: Of<'page_failed'>): void {
    if (self.state.fill?.g === g) self.#fillFailed();
  }

  static ignore(): void {}

  // --- Attempts.

  #begin(): void {
    const s = this.state;
    s.timers.retry = null;
    s.tried_other = false;
    s.transport = s.home;
    if (s.token !== null && this.#now < s.token_until) this.#open();
    else {
      s.phase = 'auth';
      this.#getToken(s.asked ? 'expired' : 'initial');
    }
  }

  #getToken(reason: TokenReason): void {
    const s = this.state;
    if (s.request !== null) return; // one at a time: the answer to the earlier request serves this one too
    s.request = { g: ++s.generation, reason };
    s.timers.token = this.#now + TOKEN_MS;
    this.#emit({ t: 'get_token', ...s.request });
  }

  #open(): void {
    const s = this.state;
    s.phase = 'opening';
    s.connection = ++s.generation;
    s.open_at = this.#now;
    s.hello_at = null;
    s.timers.phase = this.#now + OPEN_MS;
    this.#emit({
      t: 'open', g: s.connection, transport: s.transport, token: s.token!,
      cursor: s.cursor && formatCursor(s.cursor), tail: s.cursor ? null : this.#config.tail, replaces: s.connection_id,
    });
  }

  // Ends the connection, if there is one, and all that depends on it.
  #leave(code: number): void {
    const s = this.state;
    const { timers } = s;
    if (s.connection !== null) this.#emit({ t: 'close', g: s.connection, code });
    s.connection = s.hello_at = s.ping = null;
    s.moving = false;
    timers.phase = timers.silence = timers.stable = timers.refresh = timers.leave = timers.retry = timers.report = null;
    if (s.fill) {
      // Nothing that was held back was handed over, so the stream resumes before it.
      this.#emit({ t: 'cancel', g: s.fill.g });
      s.cursor = s.fill.after;
      s.fill = timers.page = null;
    }
  }

  // Counts the loss of a connection that was live, or that took the place of one.
  #lost(): void {
    const s = this.state;
    s.tried = true;
    if (!this.#isOpen() && !s.moving) return;
    if (s.hello_at !== null && this.#now - s.hello_at >= STABLE_MS) this.#settle();
    if (s.hello_at !== null && this.#now - s.hello_at >= SHORT_MS) s.short_lives = 0;
    s.disconnects += 1;
    s.unreported.disconnects += 1;
    s.disconnected_wall = this.#wall;
  }

  // Ends the connection or attempt, and waits for the next.
  #lose(code: string, message: string, hint: number): void {
    const s = this.state;
    this.#lost();
    this.#leave(CLOSE_FAULT);
    s.not_before = hint > 0 ? this.#now + Math.min(hint, HINT_MAX_MS) : null;
    const wait = delay(s.attempt, this.#random, hint);
    s.attempt += 1;
    s.phase = 'backoff';
    s.timers.retry = this.#now + wait;
    this.#emit({ t: 'error', code, message, fatal: false, retry_in_ms: wait });
  }

  // An end without a word of the gateway: something on the way may not let this transport pass.
  #bareEnd(code: string, message: string, hint: number): void {
    const s = this.state;
    const other = this.#config.transports.find((transport) => transport !== s.transport);
    if (s.hello_at === null) {
      s.before_hello += 1;
      if (s.before_hello >= 2 && other && !s.tried_other) {
        // At once: if the other one opens now, the network is not what fails.
        const { moving } = s;
        s.tried = true;
        this.#leave(CLOSE_FAULT);
        s.moving = moving;
        s.tried_other = true;
        s.transport = other;
        this.#emit({ t: 'error', code, message, fatal: false, retry_in_ms: 0 });
        this.#open();
        return;
      }
    } else if (this.#now - s.hello_at < SHORT_MS) {
      s.short_lives += 1;
      if (s.short_lives >= 2 && other) {
        s.short_lives = 0;
        s.home = other;
        this.#emit({ t: 'transport', transport: other });
      }
    }
    this.#lose(code, message, hint);
  }

  #stop(code: string, message: string): void {
    const s = this.state;
    this.#lost();
    this.#leave(CLOSE_DONE);
    this.#cancelToken();
    s.phase = 'stopped';
    this.#emit({ t: 'error', code, message, fatal: true, retry_in_ms: null });
  }

  // The gateway ended the stream with one of its codes.
  #error(code: string, message: string, hint: number): void {
    const s = this.state;
    if (code === 'token_expired') {
      s.token = null;
      s.token_until = 0;
      if (s.hello_at !== null && this.#now - s.hello_at >= STABLE_MS) this.#settle();
      s.refusals += 1;
      if (s.refusals >= 3) return this.#stop('auth', 'the gateway refused three tokens in a row: they had expired');
      if (s.refusals === 1 && hint === 0) {
        this.#lost();
        this.#leave(CLOSE_FAULT);
        this.#emit({ t: 'error', code, message, fatal: false, retry_in_ms: 0 });
        return this.#begin();
      }
      return this.#lose(code, message, hint);
    }
    if (CODES[code] === false) return this.#stop(code, message);
    this.#lose(code, message, hint);
  }

  #broken(message: string): void {
    this.#lose('protocol', message, 0);
  }

  #wake(reason: string): void {
    const s = this.state;
    if (s.phase === 'live') this.#probe();
    if (s.phase !== 'backoff' || s.paused || s.timers.retry === null) return;
    s.attempt = 0;
    const spread = reason === 'online' ? Math.floor(this.#random * 1000) : 0;
    const soonest = Math.max(this.#now, (s.open_at ?? 0) + DELAY_MIN_MS, s.not_before ?? 0) + spread;
    s.timers.retry = Math.min(s.timers.retry, soonest);
  }

  // A reader of an event stream cannot ask; it waits a little longer if the gateway's ping is overdue.
  #probe(): void {
    const { phase, transport, timers } = this.state;
    if (phase === 'live' && (transport === 'ws' || this.#now > timers.silence! - SILENCE_MS)) this.#startProbe();
  }

  // A timer that comes late tells that the page was suspended, not that the gateway is silent: what it sent may
  // be waiting. So what is due gets a little more time, once (hidden pages have late timers always).
  #late(): void {
    const s = this.state;
    this.#probe();
    if (!s.postponed) for (const name of ['token', 'phase', 'page'] as const) {
      const at = s.timers[name];
      if (at !== null && at <= this.#now) s.timers[name] = this.#now + PROBE_MS;
    }
    s.postponed = !s.postponed;
  }

  #startProbe(): void {
    const s = this.state;
    if (s.phase === 'live') {
      s.phase = 'probe';
      s.timers.phase = this.#now + PROBE_MS;
      if (s.transport === 'ws') this.#ask();
    }
    s.timers.silence = null;
  }

  #listen(): void {
    const s = this.state;
    s.timers.silence = this.#now + s.ping_interval_ms + SILENCE_MS;
  }

  #settle(): void {
    const s = this.state;
    s.attempt = s.refusals = 0;
    s.timers.stable = null;
  }

  // --- Tokens.

  #tokenFailed(reason: TokenReason, message: string): void {
    if (this.state.phase === 'auth') return this.#lose('token', message, 0);
    this.#emit({ t: 'error', code: 'token', message, fatal: false, retry_in_ms: null });
    if (reason === 'refresh') this.#refreshLater();
  }

  // A quarter of what is left, so that there are several more tries before the token expires.
  #refreshLater(): void {
    const s = this.state;
    if (!this.#isOpen() || s.request !== null) return;
    const left = Math.max(0, s.token_until - this.#now);
    s.timers.refresh = this.#now + Math.min(60_000, Math.max(5_000, Math.floor(left / 4)));
  }

  #cancelToken(): void {
    const s = this.state;
    if (s.request) this.#emit({ t: 'cancel', g: s.request.g });
    s.request = s.timers.token = null;
  }

  // --- Frames.

  // R3: hello.cursor is where this connection begins to account for events. Above the cursor, something would
  // be lost in silence.
  #hello(frame: Frame): void {
    const s = this.state;
    const start = parseCursor(frame.cursor);
    if (!start) return this.#broken('hello has no valid cursor');
    if (s.cursor && start.seq > s.cursor.seq) return this.#broken('hello skips what was not seen');
    const isRenewed = s.hello_at !== null;
    const before = s.cursor && formatCursor(s.cursor);
    s.cursor = { epoch: start.epoch, seq: s.cursor ? s.cursor.seq : start.seq, tag: start.tag };
    s.phase = 'live';
    s.head = isSeq(frame.head) ? frame.head : 0;
    s.ping_interval_ms = isSeq(frame.ping_interval_ms) ? Math.min(frame.ping_interval_ms, PING_INTERVAL_MAX_MS) : PING_INTERVAL_MS;
    s.dedup_window_ms = isSeq(frame.dedup_window_ms) ? frame.dedup_window_ms : DEDUP_MS;
    s.connection_id = typeof frame.connection_id === 'string' ? frame.connection_id : null;
    const life = isSeq(frame.token_expires_in_ms) ? frame.token_expires_in_ms : UNCONFIRMED_MS;
    s.token_until = this.#now + life;
    s.timers.refresh = this.#now + Math.floor((life * 4) / 5);
    if (isRenewed) {
      s.refusals = 0;
    } else {
      s.hello_at = this.#now;
      s.connected_wall = this.#wall;
      s.timers.phase = null;
      s.timers.stable = this.#now + STABLE_MS;
      if (s.transport !== s.home) {
        s.home = s.transport;
        this.#emit({ t: 'transport', transport: s.transport });
      }
      s.before_hello = 0;
      s.moving = false;
      s.not_before = null;
      s.pings_heard = 0;
      s.samples = [];
      this.#sample(s.open_at!, frame.server_time);
    }
    this.#listen();
    this.#emit({
      t: 'hello', connection_id: s.connection_id ?? '', services: Array.isArray(frame.services) ? frame.services.map(String) : [],
      head: s.head, resumed: frame.resumed === true, renewed: isRenewed,
    });
    if (formatCursor(s.cursor) !== before) this.#moved();
    if (!isRenewed && s.transport === 'ws') {
      this.#ask();
      if (this.#config.health) s.timers.report = Math.max(this.#now, s.reported_at ?? 0) + REPORT_MS;
    }
  }

  // R2: a gap is handled before any comparison of its seq; only one of reason `epoch` may lower the cursor.
  #gap(frame: Frame): void {
    const s = this.state;
    const { prev, seq, epoch } = frame;
    const reason = String(frame.reason ?? '');
    if (!isSeq(prev) || !isSeq(seq) || typeof epoch !== 'string' || !/^[0-9a-z]{1,32}$/.test(epoch)) return this.#broken('a gap has no valid prev, seq or epoch');
    const before = s.cursor!;
    if (prev > before.seq) return this.#hole();
    const tag = typeof frame.filter === 'string' ? frame.filter : null;
    if (reason === 'epoch') {
      s.cursor = { epoch, seq, tag };
      s.dedup_until = this.#now + DEDUP_MS;
    } else {
      s.cursor = { epoch, seq: Math.max(seq, before.seq), tag };
      if (seq <= before.seq && reason !== 'filter') return this.#moved(); // no news
    }
    if (reason === 'slow_consumer' && this.#config.fill && s.fill === null) {
      s.fill = { g: 0, after: before, to: seq, reason, held: [], cursor: s.cursor };
      return this.#askPage();
    }
    // A second gap while one is being filled: give up the first, so that all is told in order.
    if (s.fill) this.#fillFailed();
    s.gaps += 1;
    s.unreported.gaps += 1;
    const services = Array.isArray(frame.services) ? frame.services.map(String) : null;
    this.#emit({ t: 'gap', prev, seq, epoch, reason, services });
    this.#moved();
  }

  #hole(): void {
    this.state.holes += 1;
    this.state.unreported.holes += 1;
    this.#lose('hole', 'a frame is missing; the stream resumes before it', 0);
  }

  // R2: event, batch and ping over (prev, seq].
  #advance({ prev, seq }: Frame, events: unknown): void {
    const s = this.state;
    if (!isSeq(prev) || !isSeq(seq) || !Array.isArray(events)) return this.#broken('a frame has no valid prev, seq or events');
    let place = -1;
    for (const event of events as WireEvent[]) {
      if (!isSeq(event?.seq) || event.seq <= place || event.seq > seq) return this.#broken('the events of a frame are out of order');
      place = event.seq;
    }
    const before = s.cursor!.seq;
    if (prev > before) return this.#hole();
    for (const event of events as WireEvent[]) {
      if (event.seq <= before) {
        s.overlaps += 1;
        s.unreported.duplicates += 1;
        continue;
      }
      const replay = event.seq <= s.head;
      this.#take({ event, replay, latency_ms: replay ? null : this.#latency(event.timestamp) });
    }
    if (seq > before) {
      s.cursor = { ...s.cursor!, seq };
      this.#moved();
    }
  }

  #pinged(frame: Frame): void {
    const s = this.state;
    const { connection } = s;
    this.#advance(frame, []);
    if (s.connection !== connection) return; // a hole
    if (s.transport !== 'ws') return;
    this.#send({ type: 'pong' });
    s.pings_heard += 1;
    if (s.samples.length < SAMPLES_MAX || s.pings_heard % 10 === 0) this.#ask();
  }

  // --- Delivery.

  #take(held: Held): void {
    const { fill } = this.state;
    if (!fill) this.#deliver(held);
    else {
      fill.held.push(held);
      if (fill.held.length > HELD_MAX) this.#fillFailed();
    }
  }

  #moved(): void {
    const s = this.state;
    if (s.fill) s.fill.cursor = s.cursor!;
    else this.#emit({ t: 'cursor', cursor: formatCursor(s.cursor!) });
  }

  #deliver({ event, replay, latency_ms }: Held): void {
    const s = this.state;
    if (this.#isRepeat(event)) {
      s.repeats += 1;
      s.unreported.duplicates += 1;
      return;
    }
    s.events += 1;
    s.event_wall = this.#wall;
    if (latency_ms !== null) {
      for (const ring of [s.latencies, s.unreported.latencies_ms]) {
        ring.push(latency_ms);
        if (ring.length > LATENCIES_MAX) ring.shift();
      }
    }
    this.#emit({ t: 'event', event, replay, latency_ms });
  }

  // R14: within one chain of epochs the cursor alone decides. After a gap of reason `epoch` the same event may
  // come under another seq.
  #isRepeat(event: WireEvent): boolean {
    const s = this.state;
    const now = this.#now;
    const key = `${event.service ?? ''}\0${event.source ?? ''}\0${event.id ?? ''}`;
    const appended = Date.parse(String(event.timestamp));
    if (now < s.dedup_until) {
      for (const { keys } of s.remembered) {
        const before = keys.get(key);
        if (before !== undefined && Math.abs(appended - before) < Math.min(DEDUP_MS, s.dedup_window_ms)) return true;
      }
    }
    if (Number.isNaN(appended)) return false;
    let last = s.remembered.at(-1);
    if (!last || now - last.born >= GENERATION_MS || last.keys.size >= GENERATION_KEYS) s.remembered.push(last = { born: now, keys: new Map() });
    last.keys.set(key, appended);
    let size = 0;
    for (const { keys } of s.remembered) size += keys.size;
    if (size > KEYS_MAX) s.remembered.shift();
    s.timers.sweep ??= now + GENERATION_MS;
    return false;
  }

  #sweep(): void {
    const s = this.state;
    s.remembered = s.remembered.filter(({ born }) => this.#now - born < DEDUP_MS + GENERATION_MS);
    s.timers.sweep = s.remembered.length > 0 ? this.#now + GENERATION_MS : null;
  }

  // --- Filling a gap from history.

  #askPage(): void {
    const fill = this.state.fill!;
    fill.g = ++this.state.generation;
    this.state.timers.page = this.#now + PAGE_MS;
    this.#emit({ t: 'history', g: fill.g, after: formatCursor(fill.after), to: fill.to });
  }

  #fillDone(): void {
    const s = this.state;
    const { held, cursor } = s.fill!;
    s.fill = s.timers.page = null;
    for (const event of held) this.#deliver(event);
    this.#emit({ t: 'cursor', cursor: formatCursor(cursor) });
  }

  #fillFailed(): void {
    const s = this.state;
    const { g, after, to, reason, cursor } = s.fill!;
    if (s.timers.page !== null) this.#emit({ t: 'cancel', g });
    s.gaps += 1;
    s.unreported.gaps += 1;
    this.#emit({ t: 'gap', prev: after.seq, seq: to, epoch: cursor.epoch, reason, services: null });
    this.#fillDone();
  }

  // --- The clock and health.

  #ask(): void {
    const s = this.state;
    s.ping = { n: ++s.pings_sent, sent_at: this.#now };
    this.#send({ type: 'ping', n: s.pings_sent });
  }

  #ponged(frame: Frame): void {
    const s = this.state;
    if (s.ping === null || frame.n !== s.ping.n) return;
    this.#sample(s.ping.sent_at, frame.timestamp);
    s.ping = null;
  }

  // The gateway's clock was read in the middle of the round trip, to within half of it (Cristian 1989).
  #sample(sent: number, timestamp: unknown): void {
    const s = this.state;
    const server = Date.parse(String(timestamp));
    if (Number.isNaN(server)) return;
    const rtt = this.#now - sent;
    s.samples.push({ rtt, offset: server - sent - Math.floor(rtt / 2) });
    if (s.samples.length > SAMPLES_MAX) s.samples.shift();
  }

  /** The sample with the shortest round trip; the offset is the gateway's clock minus `now`. */
  clock(): { rtt: number; offset: number } | null {
    let best: { rtt: number; offset: number } | null = null;
    for (const sample of this.state.samples) if (!best || sample.rtt < best.rtt) best = sample;
    return best;
  }

  #latency(timestamp: unknown): number | null {
    const clock = this.clock();
    const appended = Date.parse(String(timestamp));
    return clock && !Number.isNaN(appended) ? Math.max(0, this.#now + clock.offset - appended) : null;
  }

  #report(): void {
    const s = this.state;
    const { latencies_ms, ...counts } = s.unreported;
    const frame: ClientFrame = { type: 'health', latencies_ms, ...counts };
    for (const name of ['disconnects', 'duplicates', 'holes', 'gaps'] as const) frame[name] = Math.min(counts[name], COUNT_MAX);
    this.#send(frame);
    s.unreported = { latencies_ms: [], disconnects: 0, duplicates: 0, holes: 0, gaps: 0 };
    s.reported_at = this.#now;
    s.timers.report = this.#now + REPORT_MS;
  }

  // --- Output.

  #isOpen(): boolean {
    return this.state.phase === 'live' || this.state.phase === 'probe';
  }

  #emit(output: Output): void {
    this.#out.push(output);
  }

  #send(frame: ClientFrame): void {
    this.#emit({ t: 'send', frame });
  }

  #say(): void {
    const s = this.state;
    const state = this.connectionState();
    const said = `${s.phase} ${state} ${s.attempt}`;
    if (said === s.said) return;
    s.said = said;
    const retry = s.phase === 'backoff' && s.timers.retry !== null ? Math.max(0, s.timers.retry - this.#now) : null;
    this.#emit({ t: 'state', state, phase: s.phase, attempt: s.attempt, retry_in_ms: retry });
  }
}

function hint(value: unknown): number {
  return isSeq(value) ? Math.min(value, HINT_MAX_MS) : 0;
}

type Table = { [P in Phase]: { [T in Input['t']]: (self: Session, input: Of<T>) => void } };

const { ignore } = Session;
// What most phases do.
const ROW: Table['idle'] = {
  connect: ignore, disconnect: Session.disconnect,
  token: Session.token, token_failed: Session.tokenFailed,
  opened: ignore, frame: ignore, closed: ignore,
  wake: ignore, offline: ignore, suspend: ignore, tick: Session.tick, overflow: ignore, drained: ignore,
  page: ignore, page_failed: ignore,
};
const OPEN: Table['live'] = {
  ...ROW, frame: Session.frame, closed: Session.closed, offline: Session.offline, wake: Session.wake,
  suspend: Session.suspend, overflow: Session.overflow, page: Session.page, page_failed: Session.pageFailed,
};
const TABLE: Table = {
  idle: { ...ROW, connect: Session.connect, disconnect: ignore },
  stopped: { ...ROW, connect: Session.connect },
  auth: { ...ROW, suspend: Session.suspend },
  opening: { ...ROW, opened: Session.opened, frame: Session.frame, closed: Session.closed, suspend: Session.suspend },
  hello: { ...ROW, frame: Session.frame, closed: Session.closed, suspend: Session.suspend },
  live: OPEN,
  probe: OPEN,
  backoff: { ...ROW, wake: Session.wake, overflow: Session.overflowWaiting, drained: Session.drained },
};
