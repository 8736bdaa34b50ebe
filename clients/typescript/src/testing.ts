// For tests of applications: a gateway without a network, and a clock that a test moves.

import { nextTurn, type Clock } from './clock.js';
import { formatCursor, parseCursor } from './session/session.js';
import type { ClientFrame, Cursor, WireEvent } from './session/types.js';
import type { Connection, Transport, TransportEnd, TransportKind, TransportSink } from './transport.js';

export { replay, type Difference, type Metrics, type Vector, type VectorStep } from './testing/replay.js';

/** A clock that stands still until a test moves it. */
export interface ManualClock extends Clock {
  /** Moves it, and runs each timer at its time. Lets promises settle in between. */
  advance(ms: number): Promise<void>;
  /** The machine sleeps: the wall clock moves, the monotonic clock and timers do not. */
  sleep(ms: number): void;
}

/** Makes a clock that begins at 0, and at `wall` since 1970 (by default 2026-01-01). */
export function manualClock(wall = 1_767_225_600_000): ManualClock {
  let now = 0;
  let ahead = wall;
  let timers: { at: number; fn: () => void }[] = [];
  return {
    now: () => now,
    wall: () => now + ahead,
    after: (ms, fn) => {
      const timer = { at: now + ms, fn };
      timers.push(timer);
      return () => { timers = timers.filter((other) => other !== timer); };
    },
    advance: async (ms) => {
      const end = now + ms;
      await settled();
      for (;;) {
        const [next] = timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
        if (!next) break;
        timers = timers.filter((timer) => timer !== next);
        now = Math.max(now, next.at);
        next.fn();
        await settled();
      }
      now = end;
      await settled();
    },
    sleep: (ms) => { ahead += ms; },
  };
}

/** Waits until all that is under way has been done, as far as it needs no timer and no network. */
export async function settled(): Promise<void> {
  for (let turns = 0; turns < 4; turns += 1) await nextTurn();
}

/** An event to publish; what is left out is made up. */
export interface FakeEvent {
  event: string;
  data?: unknown;
  service?: string;
  id?: string;
  [field: string]: unknown;
}

/** One connection to a `fakeTransport`. */
export interface FakeConnection {
  readonly url: URL;
  readonly token: string;
  /** The frames that the client sent. */
  readonly sent: readonly ClientFrame[];
  /** Whether the client and the gateway both hold it. */
  readonly isOpen: boolean;
}

/** How a `fakeTransport` behaves. */
export interface FakeTransportOptions {
  /** By default `ws`. */
  kind?: TransportKind;
  /** For the times in frames, and for `delay`. */
  clock?: Clock;
  /** How long a token is good for, by `hello`. By default an hour. */
  tokenExpiresInMs?: number;
}

/** A gateway with one log. Give it to `createClient` as a transport. */
export interface FakeTransport extends Transport {
  /** All connections, the oldest first. */
  readonly connections: readonly FakeConnection[];
  /** Appends events, and sends them to all open connections. Returns their positions. */
  publish(...events: FakeEvent[]): number[];
  /** Sends a frame as it is. */
  frame(frame: object): void;
  /** The gateway asks whether the client is there, and says that all up to here has been sent. */
  ping(): void;
  /** Ends all open connections. */
  drop(end?: TransportEnd): void;
  /** From now on nothing arrives, in both directions, until `mute(false)`: what is sent meanwhile is lost. */
  mute(isMuted?: boolean): void;
  /** Whatever the gateway sends arrives so much later. */
  delay(ms: number): void;
  /** Attempts to connect fail with this end, until `refuse(null)`. */
  refuse(end: TransportEnd | null): void;
  /** Removes events from the log, up to and including that position: a client that resumes before it gets a gap. */
  forget(seq: number): void;
  /** The gateway loses its log: a client that resumes gets a gap of reason `epoch`. Ends all connections. */
  lose(): void;
}

interface Peer extends FakeConnection { sink: TransportSink; position: number; isOpen: boolean; sent: ClientFrame[] }

/** Makes a gateway in memory. */
export function fakeTransport({ kind = 'ws', clock, tokenExpiresInMs = 3_600_000 }: FakeTransportOptions = {}): FakeTransport {
  const wall = () => new Date(clock?.wall() ?? Date.now()).toISOString();
  const peers: Peer[] = [];
  let log: WireEvent[] = [];
  let head = 0;
  let removed = 0;
  let incarnation = 1;
  let isMuted = false;
  let delayMs = 0;
  let refusal: TransportEnd | null = null;
  const epoch = () => `e${incarnation}`;
  const open = () => peers.filter(({ isOpen }) => isOpen);

  function later(act: () => void) {
    if (delayMs === 0) return act();
    if (clock) clock.after(delayMs, act);
    else setTimeout(act, delayMs);
  }

  function send(to: Peer, frame: object) {
    if (isMuted) return;
    later(() => {
      if (to.isOpen) to.sink.frame(JSON.stringify(frame));
    });
  }

  function greet(to: Peer, presented: Cursor | null, isResumed: boolean) {
    const start = presented ?? { epoch: epoch(), seq: head, tag: 'all' };
    send(to, {
      type: 'hello', connection_id: `fake-${peers.length}`, protocol: 1, org: 'fake', services: ['*'], filter: 'all', epoch: start.epoch,
      cursor: formatCursor({ ...start, tag: start.tag ?? 'all' }), head, dedup_window_ms: 300_000, ping_interval_ms: 25_000, resumed: isResumed,
      token_expires_in_ms: tokenExpiresInMs, server_time: wall(),
    });
  }

  function begin(to: Peer) {
    if (!to.isOpen) return;
    if (refusal) return end(to, refusal);
    if (isMuted) return;
    to.sink.opened();
    const presented = parseCursor(to.url.searchParams.get('cursor'));
    const tail = Number(to.url.searchParams.get('tail') ?? 0);
    const isKnown = presented?.epoch === epoch() && presented.seq <= head;
    to.position = presented ? presented.seq : (log.at(-tail - 1)?.seq ?? removed);
    if (!presented && tail === 0) to.position = head;
    greet(to, presented ?? { epoch: epoch(), seq: to.position, tag: 'all' }, isKnown && to.position >= removed);
    if (presented && !isKnown) gap(to, 'epoch', removed);
    else if (to.position < removed) gap(to, 'retention', removed);
    for (const event of log) if (event.seq > to.position) sendEvent(to, event);
  }

  function gap(to: Peer, reason: string, seq: number) {
    send(to, { type: 'gap', prev: to.position, seq, epoch: epoch(), filter: 'all', reason });
    to.position = seq;
  }

  function sendEvent(to: Peer, event: WireEvent) {
    send(to, { type: 'event', org: 'fake', prev: to.position, ...event });
    to.position = event.seq;
  }

  function end(to: Peer, how: TransportEnd) {
    if (!to.isOpen) return;
    to.isOpen = false;
    to.sink.closed(how);
  }

  return {
    kind,
    connections: peers,
    open: ({ url, token }, sink): Connection => {
      const to: Peer = { url: new URL(url), token, sent: [], isOpen: true, sink, position: 0 };
      peers.push(to);
      queueMicrotask(() => later(() => begin(to)));
      return {
        send: (text) => {
          if (isMuted) return;
          const frame = JSON.parse(text) as ClientFrame;
          to.sent.push(frame);
          if (frame.type === 'ping') send(to, { type: 'pong', n: frame.n, timestamp: wall() });
          if (frame.type === 'auth') greet(to, { epoch: epoch(), seq: to.position, tag: 'all' }, true);
        },
        close: () => { to.isOpen = false; },
      };
    },
    publish: (...events) => events.map((fields) => {
      head += 1;
      const event: WireEvent = { service: 'test', id: `id-${incarnation}-${head}`, timestamp: wall(), data: null, ...fields, seq: head };
      log.push(event);
      for (const to of open()) sendEvent(to, event);
      return head;
    }),
    frame: (frame) => {
      for (const to of open()) send(to, frame);
    },
    ping: () => {
      for (const to of open()) send(to, { type: 'ping', prev: to.position, seq: head, timestamp: wall() });
    },
    drop: (how = { close: 1006, message: 'the connection was dropped' }) => {
      for (const to of open()) end(to, how);
    },
    mute: (on = true) => { isMuted = on; },
    delay: (ms) => { delayMs = ms; },
    refuse: (how) => { refusal = how; },
    forget: (seq) => {
      removed = Math.max(removed, Math.min(seq, head));
      log = log.filter((event) => event.seq > removed);
    },
    lose: () => {
      incarnation += 1;
      log = [];
      head = removed = 0;
      for (const to of open()) end(to, { close: 1006 });
    },
  };
}
