// The reader's side of a unified stream, for the page that the gateway serves.
//
// `Stream` decides: facts (with their time) in, effects out; it has no clock, socket or randomness of its
// own. `Link` carries the effects out over a WebSocket or an EventSource and holds the one timer. It
// implements rules R1 to R5 and R14 (docs/rules.md).

import { CODES } from './codes.js';

/** Reconnect delays before jitter; the last one repeats. */
export const DELAYS_MS = [1, 2, 5, 10, 30, 60, 120, 240, 300].map((s) => s * 1000);
const JITTER_MS = 5_000;
const DELAY_MIN_MS = 1_000;
const HINT_MAX_MS = 300_000;
const STABLE_MS = 10_000; // live this long before the delays start over: accept-then-close must not loop at 1 s
const HELLO_TIMEOUT_MS = 10_000;
const PING_INTERVAL_MS = 25_000; // if hello has none
const PING_TIMEOUT_MS = 10_000;
const LATE_MS = 2_000; // a timer this late means that the page was suspended; frames may be waiting
const LATE_GRACE_MS = 5_000;
const KEYS_KEPT_MS = 300_000;
const KEYS_MAX = 10_000;
const LATENCIES_MAX = 100;

/** The code of each close code; of two codes with the same one, the first of the table. */
export const CLOSE_NAMES = {};
for (const [name, { close }] of Object.entries(CODES)) if (close !== null) CLOSE_NAMES[close] ??= name;

// `token_expired` asks for a new token first. This page got one token and cannot get another, so here the
// code is final.
const FINAL = new Set(Object.keys(CODES).filter((name) => CODES[name].retry !== 'yes'));

/** Whether a stream with this end must not be opened again. A code's name counts before its number. */
export function isFinal({ code, close, status }) {
  if (code) return FINAL.has(code);
  if (status) return status === 204 || (status >= 400 && status < 500 && status !== 408 && status !== 429);
  return FINAL.has(CLOSE_NAMES[close]) || (close >= 4500 && close <= 4999);
}

/**
 * The window from which a reconnect delay is drawn uniformly. Clamping `base ± jitter` instead would put
 * half of all clients on exactly one second. A hint of the server raises the lower edge, never lowers it.
 */
export function delayWindow(attempt, hint = 0) {
  const base = DELAYS_MS[Math.min(attempt, DELAYS_MS.length - 1)];
  const low = Math.max(DELAY_MIN_MS, base - JITTER_MS, Math.min(hint, HINT_MAX_MS));
  return [low, Math.max(base, Math.min(hint, HINT_MAX_MS)) + JITTER_MS];
}

/** `<epoch>-<seq>[-<tag>]` to its parts, or null. */
export function parseCursor(text) {
  const parts = /^([0-9a-z]{1,32})-(0|[1-9][0-9]{0,15})(?:-([0-9a-z]{1,16}))?$/.exec(text ?? '');
  const seq = Number(parts?.[2]);
  return parts && Number.isSafeInteger(seq) ? { epoch: parts[1], seq, tag: parts[3] ?? null } : null;
}

/** JSON, with each number that JavaScript would change (`1.10`, 20 digits) as it was written, if the browser can. */
export function parseExactly(text) {
  return JSON.parse(text, (_, value, context) => {
    const written = typeof value === 'number' ? context?.source ?? String(value) : '';
    return typeof value === 'number' && written !== String(value) && JSON.rawJSON ? JSON.rawJSON(written) : value;
  });
}

/** The text of a cursor. */
export function formatCursor({ epoch, seq, tag }) {
  return tag ? `${epoch}-${seq}-${tag}` : `${epoch}-${seq}`;
}

/**
 * One stream's state. `phase` is connecting, catching_up, live, waiting or closed.
 *
 * Facts: `start`, `frame`, `closed`, `wake`, `tick`, `stop`. Each takes the monotonic time `now`
 * (and `wall`, epoch ms, for facts with a date) and returns effects: `open`, `close`, `send`,
 * `event` (with the number of `hidden` positions before it), `resumed`, `gap`, `hole`, `fault`, `status`.
 */
export class Stream {
  phase = 'closed';
  reason = null; // why it is waiting or closed: { code, message }
  cursor = null;
  hello = null; // the last one
  origin = 0; // the seq where this connection began, to show progress
  retryAt = null;
  attempt = 0;
  chain = 0; // grows with each gap of reason `epoch`
  offset = -Infinity; // server clock minus ours
  counts = { events: 0, hidden: 0, duplicates: 0, gaps: 0, holes: 0, disconnects: 0 };
  latencies = [];
  lastConnectedAt = null;
  lastDisconnectedAt = null;
  lastEventAt = null;
  #random;
  #openedAt = -Infinity;
  #notBefore = -Infinity; // the server's hint; no attempt comes earlier
  #liveSince = null;
  #silentAt = null; // if no frame comes until then, the connection is dead
  #leaveAt = null;
  #keys = new Map(); // (service, source, id) -> where and when it was seen; oldest first

  constructor({ cursor = null, random = Math.random } = {}) {
    this.cursor = cursor;
    this.#random = random;
  }

  /** Opens the stream at once. */
  start(now) {
    this.phase = 'connecting';
    this.retryAt = this.#leaveAt = this.#liveSince = null;
    this.#openedAt = now;
    this.#silentAt = now + HELLO_TIMEOUT_MS;
    return [{ do: 'open', cursor: this.cursor && formatCursor(this.cursor) }];
  }

  /** The next time at which `tick` has something to do. */
  deadline() {
    const times = [this.retryAt, this.#silentAt, this.#leaveAt];
    if (this.#liveSince !== null && this.attempt > 0) times.push(this.#liveSince + STABLE_MS);
    const due = times.filter((t) => t !== null);
    return due.length ? Math.min(...due) : null;
  }

  /** The time `deadline` has come. */
  tick(now, wall) {
    if (this.retryAt !== null && now >= this.retryAt) return this.start(now);
    if (this.#leaveAt !== null && now >= this.#leaveAt) {
      // The moment to leave was drawn at random already, so it is not spread again.
      return this.#lose({ code: 'draining', message: 'the node asked us to move' }, now, wall, DELAY_MIN_MS);
    }
    if (this.#liveSince !== null && now >= this.#liveSince + STABLE_MS) this.attempt = 0;
    if (this.#silentAt !== null && now >= this.#silentAt) {
      if (now - this.#silentAt > LATE_MS) {
        this.#silentAt = now + LATE_GRACE_MS;
        return [];
      }
      return this.#lose({ code: 'silence', message: 'nothing was heard in time' }, now, wall);
    }
    return [];
  }

  /** The network or the page came back: the next attempt may come sooner, but not at once with all others. */
  wake(now) {
    if (this.phase === 'waiting') {
      const soonest = Math.max(now, this.#notBefore, this.#openedAt + DELAY_MIN_MS) + this.#random() * 1000;
      this.retryAt = Math.min(this.retryAt, soonest);
    }
    return [];
  }

  /** The end: by the user, which does not count as a disconnect, or with a final `reason`. */
  stop(now, wall, reason = null) {
    if (reason) this.#lost(wall);
    this.retryAt = this.#silentAt = this.#leaveAt = this.#liveSince = null;
    this.phase = 'closed';
    this.reason = reason;
    return [{ do: 'close' }];
  }

  /** The transport ended: `{ close, code, message }`, as much as is known. */
  closed(end, now, wall) {
    const number = end.status ? `http ${end.status}` : end.close >= 3000 ? `close ${end.close}` : 'lost';
    const code = end.code ?? CLOSE_NAMES[end.close] ?? number;
    const reason = { code, message: end.message || '' };
    return isFinal(end) ? this.stop(now, wall, reason) : this.#lose(reason, now, wall);
  }

  /** A frame arrived. */
  frame(frame, now, wall) {
    const early = this.phase === 'connecting' && !['hello', 'error', 'goaway'].includes(frame.type);
    if (early) return this.#fault(`a ${frame.type} came before hello`, now, wall);
    if (this.phase !== 'connecting') this.#listen(now);
    switch (frame.type) {
      case 'hello': return this.#greet(frame, now, wall);
      case 'gap': return this.#gap(frame, now, wall);
      case 'event': return this.#advance(frame, [frame], now, wall);
      case 'batch': return this.#advance(frame, frame.events, now, wall);
      case 'ping':
        this.#setClock(frame.timestamp, wall);
        return [...this.#advance(frame, [], now, wall), { do: 'send', frame: { type: 'pong' } }];
      case 'status': return [{ do: 'status', code: frame.code, message: frame.message }];
      case 'goaway':
        this.#leaveAt = now + this.#random() * (frame.retry_in_ms ?? 0);
        return [{ do: 'status', code: frame.code, message: 'moving to another node' }];
      case 'error':
        return isFinal(frame)
          ? this.stop(now, wall, { code: frame.code, message: frame.message })
          : this.#lose({ code: frame.code, message: frame.message }, now, wall, 0, frame.retry_in_ms);
      default: return []; // unknown frames of a newer gateway are ignored
    }
  }

  /** The health of this stream, as `window.__realtimeMetrics()` shows it. */
  metrics() {
    const connected = this.phase === 'live' || this.phase === 'catching_up';
    const trying = this.phase === 'waiting' || (this.phase === 'connecting' && this.attempt > 0);
    return {
      connectionState: connected ? 'connected' : trying ? 'reconnecting' : 'disconnected',
      lastConnectedAt: this.lastConnectedAt,
      lastDisconnectedAt: this.lastDisconnectedAt,
      totalDisconnects: this.counts.disconnects,
      reconnectAttempts: this.attempt,
      eventsReceived: this.counts.events,
      eventLatencyMs: [...this.latencies],
      duplicatesDetected: this.counts.duplicates,
      lastEventAt: this.lastEventAt,
    };
  }

  // hello says where this connection starts, not where the head is (R3). A start above our cursor without a
  // gap would lose events silently. A start below it only repeats events, which are dropped.
  #greet(frame, now, wall) {
    const start = parseCursor(frame.cursor);
    if (!start || (this.cursor && start.seq > this.cursor.seq)) {
      return this.#fault(`hello starts at ${frame.cursor}, our cursor is ${this.cursor?.seq}`, now, wall);
    }
    const resumed = this.cursor !== null;
    this.cursor = resumed ? { ...start, seq: this.cursor.seq } : start;
    this.origin = this.cursor.seq;
    this.hello = frame;
    this.reason = null;
    this.lastConnectedAt = wall;
    this.offset = -Infinity; // another node, another clock
    this.#setClock(frame.server_time, wall);
    this.#listen(now);
    this.#checkCaughtUp(now);
    return resumed ? [{ do: 'resumed', from: this.cursor.seq, head: frame.head }] : [];
  }

  // R2: after a change of epoch the new seqs may be lower than ours; within one epoch the cursor never goes
  // back. Events before `prev` were lost on the way, and come by resuming.
  #gap(frame, now, wall) {
    const from = this.cursor.seq;
    if (frame.prev > from) return this.#hole(frame.prev, now, wall);
    const fresh = frame.reason === 'epoch';
    const seq = fresh ? frame.seq : Math.max(frame.seq, from);
    this.cursor = { epoch: frame.epoch, seq, tag: frame.filter ?? this.cursor.tag ?? null };
    if (fresh) this.chain += 1;
    this.counts.gaps += 1;
    this.#checkCaughtUp(now);
    return [{ do: 'gap', reason: frame.reason, from: frame.prev, to: frame.seq, epoch: frame.epoch, count: frame.count ?? null }];
  }

  #hole(prev, now, wall) {
    const at = this.cursor.seq;
    this.counts.holes += 1;
    const hole = { do: 'hole', from: at, to: prev };
    return [hole, ...this.#lose({ code: 'hole', message: `${at} to ${prev} did not arrive` }, now, wall)];
  }

  #advance({ prev, seq }, events, now, wall) {
    const at = this.cursor.seq;
    if (!(prev <= seq) || !Array.isArray(events)) return this.#fault('a frame has no valid prev, seq or events', now, wall);
    if (prev > at) return this.#hole(prev, now, wall);
    const effects = [];
    let place = at;
    for (const event of events) {
      const hidden = this.#hide(place, event.seq - 1);
      place = Math.max(place, event.seq);
      if (event.seq <= at || this.#sameAgain(event, now)) this.counts.duplicates += 1;
      else effects.push({ do: 'event', event, live: this.#count(event, wall), hidden });
    }
    this.#hide(place, seq);
    if (seq > at) this.cursor = { ...this.cursor, seq };
    this.#checkCaughtUp(now);
    return effects;
  }

  // Positions without an event hold what this reader may not see, or nothing: the wire does not tell which.
  #hide(from, to) {
    const count = Math.max(0, to - from);
    this.counts.hidden += count;
    return count;
  }

  // Every timestamp was made before it arrived, so the least delayed one is nearest to the truth, and a late
  // one changes nothing. hello alone can be late by everything that a page does while it loads.
  #setClock(stamp, wall) {
    const offset = Date.parse(stamp) - wall;
    if (offset > this.offset) this.offset = offset;
  }

  // Latency is measured only on live events: a replayed one may be an hour old.
  #count(event, wall) {
    const live = event.seq > this.hello.head;
    this.counts.events += 1;
    this.lastEventAt = wall;
    this.#setClock(event.timestamp, wall);
    const latency = wall + this.offset - Date.parse(event.timestamp);
    if (live && Number.isFinite(latency)) {
      this.latencies.push(latency);
      if (this.latencies.length > LATENCIES_MAX) this.latencies.shift();
    }
    return live;
  }

  // Without a change of epoch, the cursor alone decides. After one, the same event may come under a new seq;
  // it is the same only if both were appended within the window (R14).
  #sameAgain(event, now) {
    const key = JSON.stringify([event.service, event.source ?? '', event.id]);
    const appended = Date.parse(event.timestamp);
    const window = Math.min(KEYS_KEPT_MS, this.hello?.dedup_window_ms ?? KEYS_KEPT_MS);
    for (const [oldest, { heard }] of this.#keys) {
      if (this.#keys.size < KEYS_MAX && now - heard < KEYS_KEPT_MS) break;
      this.#keys.delete(oldest);
    }
    const before = this.#keys.get(key);
    if (before && before.chain !== this.chain && Math.abs(appended - before.appended) < window) return true;
    this.#keys.delete(key);
    this.#keys.set(key, { chain: this.chain, appended, heard: now });
    return false;
  }

  #listen(now) {
    this.#silentAt = now + (this.hello.ping_interval_ms ?? PING_INTERVAL_MS) + PING_TIMEOUT_MS;
  }

  #checkCaughtUp(now) {
    this.phase = this.cursor.seq >= this.hello.head ? 'live' : 'catching_up';
    if (this.phase !== 'live') this.#liveSince = null;
    else this.#liveSince ??= now;
  }

  #fault(message, now, wall) {
    return [{ do: 'fault', message }, ...this.#lose({ code: 'protocol', message }, now, wall)];
  }

  #lose(reason, now, wall, delay = 0, hint = 0) {
    if (this.#liveSince !== null && now - this.#liveSince >= STABLE_MS) this.attempt = 0;
    this.#lost(wall);
    this.#silentAt = this.#leaveAt = this.#liveSince = null;
    const [low, high] = delayWindow(this.attempt, hint);
    this.#notBefore = hint ? now + low : -Infinity;
    this.phase = 'waiting';
    this.reason = reason;
    this.retryAt = now + (delay || low + (high - low) * this.#random());
    this.attempt += 1;
    return [{ do: 'close' }];
  }

  #lost(wall) {
    if (this.phase !== 'live' && this.phase !== 'catching_up') return;
    this.counts.disconnects += 1;
    this.lastDisconnectedAt = wall;
  }
}

/** The address of an org's stream. */
export function streamUrl(origin, { org, services, cursor, tail, token }) {
  const query = new URLSearchParams();
  if (services.length) query.set('services', services.join(','));
  if (cursor) query.set('cursor', cursor);
  else if (tail) query.set('tail', tail);
  if (token) query.set('access_token', token);
  return `${origin}/v1/orgs/${encodeURIComponent(org)}/stream${query.size ? `?${query}` : ''}`;
}

function openWebSocket(target, sink) {
  const url = streamUrl(location.origin.replace(/^http/, 'ws'), { ...target, token: null });
  const socket = new WebSocket(url, ['tidegate.v1', `tidegate.bearer.${target.token}`]);
  socket.onmessage = ({ data }) => sink.frame(data);
  socket.onclose = ({ code, reason }) => sink.closed({ close: code, message: reason });
  return { send: (frame) => socket.send(JSON.stringify(frame)), close: () => socket.close(1000) };
}

// EventSource would reconnect by itself, with its first address, beside our own reconnects. So it is closed
// at its first error. It hides the status of a refusal, so the status is requested once.
function openEventSource(target, sink) {
  const url = streamUrl(location.origin, target);
  const source = new EventSource(url);
  const asking = new AbortController();
  source.onmessage = ({ data }) => sink.frame(data);
  source.onerror = async () => {
    const refused = source.readyState === EventSource.CLOSED;
    source.close();
    sink.closed(refused ? await askWhy(url, asking) : { message: 'the event stream ended' });
  };
  return { send() {}, close: () => { source.close(); asking.abort(); } };
}

async function askWhy(url, asking) {
  try {
    const answer = await fetch(url, { headers: { accept: 'text/event-stream' }, signal: asking.signal });
    if (answer.status === 204) return { status: 204, message: 'the gateway refused this stream' };
    if (answer.ok) return { message: 'the event stream ended' };
    const problem = await answer.json().catch(() => ({}));
    return { code: problem.code, status: answer.status, message: problem.detail ?? problem.title ?? '' };
  } catch {
    return { message: 'the gateway cannot be reached' };
  } finally {
    asking.abort();
  }
}

/** Drives one `Stream` over one transport at a time. `on` gets every effect, then `changed`. */
export class Link {
  #target; #on; #transport = null; #timer = null;

  /** `target`: org, services, token, tail, transport (`ws` or `sse`). */
  constructor(target, stream, on) {
    this.#target = target;
    this.#on = on;
    this.stream = stream;
  }

  start() { this.#run(this.stream.start(performance.now())); }
  stop() { this.#run(this.stream.stop(performance.now(), Date.now())); }
  wake() { this.#run(this.stream.wake(performance.now())); }

  #run(effects) {
    for (const effect of effects) {
      if (effect.do === 'open') this.#open(effect.cursor);
      else if (effect.do === 'close') this.#close();
      else if (effect.do === 'send') this.#transport?.send(effect.frame);
      else this.#on(effect);
    }
    clearTimeout(this.#timer);
    const deadline = this.stream.deadline();
    if (deadline !== null) {
      const tick = () => this.#run(this.stream.tick(performance.now(), Date.now()));
      this.#timer = setTimeout(tick, Math.max(0, deadline - performance.now()));
    }
    this.#on({ do: 'changed' });
  }

  // A late event from an old transport must not end its successor.
  #open(cursor) {
    this.#close();
    const current = (act) => (fact) => {
      if (this.#transport === transport) this.#run(act(fact, performance.now(), Date.now()));
    };
    const read = (text, now, wall) => {
      let frame;
      try { frame = parseExactly(text); } catch { return this.stream.closed({ message: 'a frame was not JSON' }, now, wall); }
      return this.stream.frame(frame, now, wall);
    };
    const sink = { frame: current(read), closed: current((end, now, wall) => this.stream.closed(end, now, wall)) };
    const open = this.#target.transport === 'sse' ? openEventSource : openWebSocket;
    let transport = null;
    try {
      transport = this.#transport = open({ ...this.#target, cursor }, sink);
    } catch {
      // Only a token or an org that no request can carry gets here.
      this.#run(this.stream.stop(performance.now(), Date.now(), { code: 'bad_request', message: 'the token or org is malformed' }));
    }
  }

  #close() {
    const transport = this.#transport;
    this.#transport = null;
    transport?.close();
  }
}
