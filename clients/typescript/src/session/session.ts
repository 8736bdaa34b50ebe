// One client's session: what it does with each fact, as a state machine without IO. It has no clock, no timer
// and no randomness; `step` gets all three. The same machine in Rust is crates/tidegate-protocol/src/client;
// spec/vectors holds both to the same outputs. It implements rules R2 to R5 and R14 (docs/rules.md).

import { bareEnd, begin, broken, end, ended, hintOf, leave, lose, open, settle, soonest, stop, tokenFailed, wait } from './attempt.js';
import { clock, isDue, late, listen, probe, sendHealth, startProbe } from './clock.js';
import { fillFailed, page, sweep } from './delivery.js';
import { CLOSE_DONE, CLOSE_FAULT, HELLO_MS, JUMP_MS, UNCONFIRMED_MS } from './limits.js';
import { emit, enter, initial, isOpen, now, parse, random, report, s, send, wall, type Frame } from './step.js';
import { EARLY, FRAMES } from './stream.js';
import { cancelToken, getToken } from './token.js';
import type { Config, ConnectionState, Input, Output, Phase, State, Timers } from './types.js';

export { delay } from './attempt.js';
export { formatCursor, parseCursor } from './cursor.js';

export interface Session {
  readonly state: State;
  /** Takes one fact. `random` is drawn uniformly from [0, 1); a step uses it at most once. */
  step(input: Input, now: number, wall: number, random: number): Output[];
  /** When `tick` is due, or null. */
  deadline(): number | null;
  /** The state that applications see. */
  connectionState(): ConnectionState;
  /** What is known of the gateway's clock: it shows `now + offset`, to within half of `rtt`. */
  clock(): { rtt: number; offset: number } | null;
}

/** `state` is that of an earlier session; `parse` reads the JSON of frames, for drivers that keep long numbers. */
export function createSession(config: Config, state: State = initial(config), parse: (text: string) => unknown = JSON.parse): Session {
  return {
    state,
    step(input, now, wall, random) {
      const out = enter(state, config, parse, now, wall, random);
      const { phase, attempt, timers: { retry } } = s;
      const seen = connectionState(s);
      const overdue = input.t === 'tick' ? now - deadline(s) : 0;
      const slept = s.last_wall && wall - s.last_wall - (now - s.last_now);
      s.last_now = now;
      s.last_wall = wall;
      if (slept > JUMP_MS) woke(slept);
      if (slept > JUMP_MS || overdue > JUMP_MS) late();
      else if (input.t === 'tick') s.postponed = false;
      (TABLE[s.phase][input.t] as (input: Input) => void)(input);
      if (phase !== s.phase || attempt !== s.attempt || retry !== s.timers.retry || seen !== connectionState(s)) say();
      return out;
    },
    deadline() {
      const due = deadline(state);
      return due < Infinity ? due : null;
    },
    connectionState: () => connectionState(state),
    clock: () => clock(state),
  };
}

function deadline({ timers }: State): number {
  let due = Infinity;
  for (const name in timers) due = Math.min(due, timers[name as keyof Timers] ?? due);
  return due;
}

function say(): void {
  const { phase, attempt, timers: { retry } } = s;
  emit({ t: 'state', state: connectionState(s), phase, attempt, retry_in_ms: retry && Math.max(0, retry - now) });
}

function connectionState(s: State): ConnectionState {
  if (isOpen(s) || s.moving) return 'connected';
  return s.tried && s.phase !== 'idle' && s.phase !== 'stopped' ? 'reconnecting' : 'disconnected';
}

/** The machine slept for so long, and `now` stood still. So what depends on the gateway's time is due earlier, and the token may have expired. */
function woke(slept: number): void {
  s.token_until = 0;
  s.samples = [];
  s.ping = null;
  for (const name of ['silence', 'refresh'] as const) {
    const at = s.timers[name];
    if (at !== null) s.timers[name] = Math.max(now, at - slept);
  }
  wake({ t: 'wake', reason: 'resume' });
}

// --- What is done with each input.

type Of<T extends Input['t']> = Extract<Input, { t: T }>;

function ignore(): void {}

function connect(): void {
  // Another user may be logged in now, so it begins with a new token.
  Object.assign(s, { attempt: 0, refusals: 0, tried: false, paused: false, before_hello: 0, short_lives: 0, token: null, asked: false });
  if (now >= (s.not_before ?? 0)) return begin();
  s.phase = 'backoff';
  s.timers.retry = s.not_before;
}

function disconnect(): void {
  if (connectionState(s) === 'connected') s.disconnected_wall = wall;
  end('idle');
}

/** The answer to the request that is out, or to an earlier one, which counts for nothing. */
function token(input: Of<'token'> | Of<'token_failed'>): void {
  if (s.request?.g !== input.g) return;
  const { reason } = s.request;
  s.request = s.timers.token = null;
  if (input.t === 'token_failed') return input.final ? stop('auth', input.message) : tokenFailed(reason, input.message);
  const { token, expires_in_ms } = input;
  const life = expires_in_ms ?? UNCONFIRMED_MS;
  if (token === '' || life <= 0) return tokenFailed(reason, 'the token has expired');
  s.token = token;
  s.token_until = now + life;
  s.asked = true;
  if (s.phase === 'auth') return open();
  if (!isOpen(s) || reason !== 'refresh') return;
  if (s.transport === 'ws') return send({ type: 'auth', token });
  // An event stream takes no frames, so the new token needs a new one.
  leave(CLOSE_DONE);
  s.moving = true;
  open();
}

function opened({ g }: Of<'opened'>): void {
  if (g !== s.connection) return;
  s.phase = 'hello';
  s.timers.phase = now + HELLO_MS;
}

/** The hello that follows makes it the one to begin with. */
function switched({ g, transport }: Of<'switched'>): void {
  if (g === s.connection) s.transport = transport;
}

function frame({ g, text }: Of<'frame'>): void {
  if (g !== s.connection) return;
  let frame: Frame;
  try {
    frame = parse(text) as Frame;
  } catch {
    return broken('no JSON');
  }
  const type = frame?.type;
  if (typeof type !== 'string') return broken('no type');
  if (s.hello_at !== null) {
    if (s.phase === 'probe') {
      s.phase = 'live';
      s.timers.phase = null;
    }
    listen();
  }
  if (!Object.hasOwn(FRAMES, type)) return;
  if (s.hello_at === null && !EARLY.includes(type)) return broken(`${type} before hello`);
  FRAMES[type]!(frame);
}

function closed({ g, close = null, status = null, code = null, retry_in_ms, message = '' }: Of<'closed'>): void {
  if (g !== s.connection) return;
  s.connection = null;
  const hint = hintOf(retry_in_ms);
  // Browsers do not see the status of a WebSocket that is refused, so it counts for nothing.
  const seen = s.transport === 'sse' ? status : null;
  const number = close ?? 0;
  // A status without a code is not the gateway's word. Where a gateway was heard before, it passes: a proxy is being
  // changed, or the network asks for a login. Otherwise the address is probably wrong. 204 ends any event stream.
  const isForeign = code === null && seen !== 204 && s.connected_wall !== null;
  const isFinal = seen !== null ? !(seen === 408 || seen === 429 || seen >= 500 || isForeign) : number >= 4500 || number === 1009;
  if (number === 4001) ended('token_expired', message, hint, isFinal);
  else if (code === null && seen === null && number < 4000 && !isFinal) bareEnd('closed', message, hint);
  else ended(code ?? 'refused', message, hint, isFinal);
}

function wake({ reason }: Of<'wake'>): void {
  probe();
  if (s.timers.retry === null) return; // also if the application is behind
  s.attempt = 0;
  // The network comes back for a whole office at once.
  const spread = reason === 'online' ? Math.floor(random * 1000) : 0;
  s.timers.retry = Math.min(s.timers.retry, soonest() + spread);
}

function suspend(): void {
  wait(CLOSE_DONE);
  s.timers.retry = soonest();
}

function tick(): void {
  if (isDue('token')) {
    const { reason } = s.request!;
    cancelToken();
    tokenFailed(reason, 'no answer in 15 s');
  }
  if (isDue('phase')) {
    if (s.phase === 'probe') lose('silence', 'nothing was heard');
    else if (s.phase === 'hello' && s.transport === 'sse') bareEnd('sse_buffered', 'something on the way holds the event stream back');
    else bareEnd('timeout', 'the gateway does not answer');
  }
  if (isDue('silence')) startProbe();
  if (isDue('stable')) settle();
  if (isDue('refresh')) {
    s.timers.refresh = null;
    getToken('refresh');
  }
  if (isDue('leave')) lose('draining', 'the gateway asked to reconnect');
  if (isDue('retry')) begin();
  if (isDue('page')) fillFailed();
  if (isDue('sweep')) sweep();
  if (isDue('report')) sendHealth();
}

function overflow(): void {
  wait(CLOSE_FAULT);
  s.paused = true;
  report('overflow', 'too many events wait for a handler or an iteration', null);
}

function overflowWaiting(): void {
  s.paused = true;
  s.timers.retry = null;
}

function drained(): void {
  if (!s.paused) return;
  s.paused = false;
  s.timers.retry = soonest();
}

function pageCame(input: Of<'page'> | Of<'page_failed'>): void {
  if (s.fill?.g !== input.g) return;
  s.timers.page = null;
  if (input.t === 'page') page(input.text);
  else fillFailed();
}

type Table = { [P in Phase]: { [T in Input['t']]: (input: Of<T>) => void } };

// What most phases do.
const ROW: Table['idle'] = {
  connect: ignore, disconnect, token, token_failed: token, opened: ignore, switched: ignore, frame: ignore, closed: ignore, wake: ignore,
  offline: ignore, suspend: ignore, tick, overflow: ignore, drained: ignore, page: ignore, page_failed: ignore,
};
const HELLO: Table['hello'] = { ...ROW, frame, closed, suspend };
const OPEN: Table['live'] = { ...HELLO, wake, switched, offline: probe, overflow, page: pageCame, page_failed: pageCame };
const TABLE: Table = {
  idle: { ...ROW, connect },
  stopped: { ...ROW, connect },
  auth: { ...ROW, suspend },
  opening: { ...HELLO, opened },
  hello: HELLO,
  live: OPEN,
  probe: OPEN,
  backoff: { ...ROW, wake, overflow: overflowWaiting, drained },
};
