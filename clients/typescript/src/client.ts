// Drives a session (./session): carries out what it puts out, and gives it what happens. What to do is decided there.
// One timer serves all deadlines.

import { address, place } from './address.js';
import { systemClock } from './clock.js';
import { delivery } from './delivery.js';
import { TidegateError } from './errors.js';
import type { AnyEvent, StandardSchema } from './events.js';
import { health, show } from './health.js';
import { browserLifecycle, type LifecycleSignal } from './lifecycle.js';
import type { Client, ClientOptions, ClientStatus, Notice, Off } from './options.js';
import { recorder } from './recorder.js';
import { parseCursor, Session } from './session/session.js';
import type { Config, Input, Output, WireEvent } from './session/types.js';
import { eventStream } from './sse.js';
import { localStorageCursor, rememberedTransport, rememberTransport, type CursorStorage } from './storage.js';
import type { Connection, TransportEnd } from './transport.js';
import { webSocket, type WebSocketConstructor } from './websocket.js';

const QUEUE_MAX = 5_000;
const LINGER_MS = 1_000;
const PERSIST_MS = 1_000;
const TIMER_MAX_MS = 0x7fff_ffff;
const PAGE_EVENTS = 1_000;

type Of<T extends Output['t']> = Extract<Output, { t: T }>;

/** Makes a client of one org's stream. It does nothing until `connect`, `retain` or the first step of `events`. */
export function createClient(options: ClientOptions): Client {
  const { org, metricsKey = '__realtimeMetrics', maxQueue = QUEUE_MAX, logger, parse = JSON.parse, random = Math.random, observe } = options;
  if (typeof options.getToken !== 'function') throw new TypeError('getToken: give a function that returns a token');
  const where = place(options.url, org, options.services ?? []);
  const clock = options.clock ?? systemClock(options.keepAlive);
  const lifecycle = options.lifecycle === undefined ? browserLifecycle() : options.lifecycle;
  const fetch = options.fetch ?? ((url, request) => globalThis.fetch(url, request));
  const Socket = options.webSocket ?? (globalThis.WebSocket as unknown as WebSocketConstructor | undefined);
  const transports = options.transports ?? [...(Socket ? [webSocket(Socket)] : []), eventStream(fetch)];
  const storage: CursorStorage | null = options.storage && 'key' in options.storage ? localStorageCursor(options.storage.key) : (options.storage ?? null);
  const kinds = transports.map(({ kind }) => kind);
  const remembered = rememberedTransport(where.base);
  const config: Config = {
    transports: kinds, transport: remembered && kinds.includes(remembered) ? remembered : null,
    cursor: options.cursor ?? null, tail: options.tail ?? null, fill: options.fill ?? false,
    health: options.health !== undefined && random() < options.health,
  };
  let session = new Session(config, null, parse);
  let record = recorder(config, parse);

  // What the session asked for and has no answer yet.
  const inputs: Input[] = [];
  const aborts = new Map<number, AbortController>();
  const causes = new WeakMap<Input, unknown>();
  let isDriving = false;
  let connection: { g: number; it: Connection } | null = null;

  // The application.
  const errorHandlers = new Set<(error: TidegateError) => void>();
  const statusHandlers = new Set<(status: ClientStatus) => void>();
  const noticeHandlers = new Set<(notice: Notice) => void>();
  let error: TidegateError | null = null;
  let lastClose: { code: string; message: string; at: number } | null = null;
  let retryDue: number | null = null;
  let status: ClientStatus = Object.freeze({ state: 'disconnected', phase: 'idle', attempt: 0, retryAt: null, transport: null, error: null });
  let retained = 0;
  let isKept = false; // by `connect`
  let isReading = false; // the stored cursor
  let isStored = false; // it was read
  let isSuspended = false;
  let isDisposed = false;
  let unlisten: Off | null = null;
  let unshow: Off | null = null;

  // Times at which something is due, beside the session's.
  let lingerAt: number | null = null;
  let persistAt: number | null = null;
  let armed: { at: number; cancel: () => void } | null = null;

  let delivered: string | null = null;
  let persisted: string | null = null;
  const deliveries = delivery({
    clock,
    schemas: (options.schemas ?? {}) as Record<string, StandardSchema | undefined>,
    failed: fail,
    reached: (cursor) => {
      delivered = cursor;
      if (storage && persistAt === null) {
        persistAt = now() + PERSIST_MS;
        arm();
      }
    },
    drained: () => {
      if (session.state.paused) drive({ t: 'drained' });
    },
  });

  function now() {
    return Math.floor(clock.now());
  }

  // Calls what the application gave; what that throws must not stop us.
  function tell<T>(handlers: Iterable<(value: T) => void>, value: T) {
    for (const handler of [...handlers]) {
      try {
        handler(value);
      } catch (thrown) {
        console.error(thrown);
      }
    }
  }

  function fail(failure: TidegateError) {
    logger?.warn?.(failure.message, { code: failure.code, fatal: failure.fatal, retryInMs: failure.retryInMs });
    // An error in the application's code must be seen, even if nobody asked to.
    if (errorHandlers.size === 0 && (failure.fatal || failure.event || failure.code === 'handler')) console.error(failure);
    tell(errorHandlers, failure);
  }

  // --- Into the session.

  function drive(input: Input) {
    inputs.push(input);
    if (isDriving) return;
    isDriving = true;
    for (let next = inputs.shift(); next; next = inputs.shift()) step(next);
    isDriving = false;
    const { phase, paused } = session.state;
    if (deliveries.waiting() > maxQueue && !paused && (phase === 'live' || phase === 'probe' || phase === 'backoff')) return drive({ t: 'overflow' });
    changed();
    arm();
    deliveries.drain();
  }

  function step(input: Input) {
    const at = now();
    const wall = Math.floor(clock.wall());
    const draw = random();
    record.record(input, at, wall, draw, session.state);
    const outputs = session.step(input, at, wall, draw);
    if (input.t === 'closed' && input.g === connection?.g) connection = null;
    if (logger?.debug) logger.debug(input.t, { out: outputs.map(({ t }) => t), phase: session.state.phase });
    for (const output of outputs) {
      if (observe) tell([(each: Output) => observe(each, session.state)], output);
      perform(output, causes.get(input));
    }
  }

  // --- Out of the session.

  function perform(output: Output, cause: unknown) {
    switch (output.t) {
      case 'get_token': return void getToken(output);
      case 'open': return open(output);
      case 'close': {
        const closing = connection;
        connection = null;
        if (closing?.g === output.g) attempt(() => closing.it.close(output.code));
        return;
      }
      case 'cancel':
        aborts.get(output.g)?.abort();
        return void aborts.delete(output.g);
      case 'send': return attempt(() => connection?.it.send(JSON.stringify(output.frame)));
      case 'history': return void getPage(output);
      case 'transport': return rememberTransport(where.base, output.transport);
      case 'event': return deliveries.push({ event: streamEvent(output) });
      case 'gap': {
        const { prev, seq, epoch, reason, services } = output;
        return deliveries.push({ gap: { org, reason, from: prev, to: seq, epoch, services } });
      }
      case 'cursor': return deliveries.push({ cursor: output.cursor });
      case 'status': return tell(noticeHandlers, { code: output.code, message: output.message });
      case 'error': {
        const { code, message, fatal, retry_in_ms } = output;
        error = new TidegateError(code, message, { fatal, retryInMs: retry_in_ms, cause });
        lastClose = { code, message, at: Math.floor(clock.wall()) };
        fail(error);
        if (fatal) deliveries.push({ end: error });
        return;
      }
      case 'state':
        logger?.info?.(output.phase, { state: output.state, attempt: output.attempt, retryInMs: output.retry_in_ms });
    }
  }

  function attempt(act: () => void) {
    try {
      act();
    } catch {
      // The transport is gone; the session learns it from `closed`, or from silence.
    }
  }

  async function getToken({ g, reason }: Of<'get_token'>) {
    const abort = new AbortController();
    aborts.set(g, abort);
    let input: Input;
    try {
      const answer = await options.getToken({ reason, signal: abort.signal });
      const token = typeof answer === 'string' ? answer : (answer?.token ?? '');
      // Anything else would be an invalid header.
      if (token !== '' && !/^[\w.~+/=-]+$/.test(token)) throw new TypeError('the callback returned something that is not a token: a token has no spaces, quotes or braces');
      const life = typeof answer === 'string' ? null : (answer?.expiresInMs ?? null);
      input = { t: 'token', g, token, expires_in_ms: life === null ? null : Math.floor(life) };
    } catch (thrown) {
      const final = (thrown as { final?: unknown } | null)?.final === true;
      input = { t: 'token_failed', g, final, message: thrown instanceof Error ? thrown.message : String(thrown) };
      causes.set(input, thrown);
    }
    if (aborts.delete(g)) drive(input);
  }

  function open({ g, transport, token, cursor, tail, replaces }: Of<'open'>) {
    const url = address(where, 'stream', { cursor, tail, slow: options.slow, replaces });
    const sink = {
      opened: () => drive({ t: 'opened', g }),
      frame: (text: string) => drive({ t: 'frame', g, text }),
      closed: (end: TransportEnd) => drive({ t: 'closed', g, ...end }),
    };
    try {
      connection = { g, it: transports.find(({ kind }) => kind === transport)!.open({ url, token }, sink) };
    } catch (thrown) {
      sink.closed({ message: thrown instanceof Error ? thrown.message : String(thrown) });
    }
  }

  async function getPage({ g, after }: Of<'history'>) {
    const abort = new AbortController();
    aborts.set(g, abort);
    let input: Input = { t: 'page_failed', g };
    try {
      const answer = await fetch(address(where, 'events', { after, limit: PAGE_EVENTS }), {
        headers: { authorization: `Bearer ${session.state.token}` }, cache: 'no-store', redirect: 'error', signal: abort.signal,
      });
      if (answer.status === 200) input = { t: 'page', g, text: await answer.text() };
    } catch {
      // The session reports the gap instead.
    }
    if (aborts.delete(g)) drive(input);
  }

  function streamEvent({ event, replay, latency_ms }: Of<'event'>): AnyEvent {
    const { type: _type, org: _org, prev: _prev, ...fields } = event as WireEvent & { type?: unknown; org?: unknown; prev?: unknown };
    return { org, ...fields, replay, latencyMs: latency_ms } as AnyEvent;
  }

  // --- Status.

  function changed() {
    const s = session.state;
    const state = session.connectionState();
    if (state === 'connected' || s.phase === 'idle') error = null;
    const due = s.phase === 'backoff' ? s.timers.retry : null;
    const transport = s.connection === null ? null : s.transport;
    if (state === status.state && s.phase === status.phase && s.attempt === status.attempt && due === retryDue && transport === status.transport && error === status.error) return;
    retryDue = due;
    const retryAt = due === null ? null : Math.floor(clock.wall()) + due - now();
    status = Object.freeze({ state, phase: s.phase, attempt: s.attempt, retryAt, transport, error });
    tell(statusHandlers, status);
  }

  // --- The timer.

  function arm() {
    const deadline = isSuspended ? null : session.deadline();
    const times = [deadline, lingerAt, persistAt].filter((time) => time !== null);
    const at = Math.min(...times);
    // One that fires too early is armed anew then, which is cheaper than with each frame.
    if (times.length > 0 && armed && armed.at <= at) return;
    armed?.cancel();
    armed = times.length > 0 ? { at, cancel: clock.after(Math.min(TIMER_MAX_MS, Math.max(0, at - now())), fire) } : null;
  }

  function fire() {
    armed = null;
    const at = now();
    if (persistAt !== null && persistAt <= at) persist();
    if (lingerAt !== null && lingerAt <= at) {
      lingerAt = null;
      leave();
    }
    const deadline = session.deadline();
    if (!isSuspended && deadline !== null && deadline <= at) drive({ t: 'tick' });
    arm();
  }

  function persist() {
    persistAt = null;
    if (!storage || delivered === null || delivered === persisted) return;
    persisted = delivered;
    const failed = (thrown: unknown) => fail(new TidegateError('storage', `the cursor was not stored: ${String(thrown)}`, { cause: thrown }));
    try {
      Promise.resolve(storage.set(delivered)).catch(failed);
    } catch (thrown) {
      failed(thrown);
    }
  }

  // --- The page.

  function heard(signal: LifecycleSignal) {
    if (signal === 'hide') return persist();
    if (signal === 'suspend') persist();
    // Timers wait with the page: one that came before it is frozen would connect again.
    isSuspended = signal === 'suspend';
    drive(signal === 'offline' || signal === 'suspend' ? { t: signal } : { t: 'wake', reason: signal });
  }

  // --- What the application calls.

  function enter() {
    if (isDisposed || isReading) return;
    const { phase } = session.state;
    if (phase !== 'idle' && phase !== 'stopped') return;
    unshow ??= metricsKey === false ? () => {} : show(metricsKey, metrics);
    unlisten ??= lifecycle?.listen(heard) ?? null;
    isSuspended = false;
    if (!storage || isStored) return drive({ t: 'connect' });
    const start = (stored: string | null) => {
      isStored = true;
      isReading = false;
      if (parseCursor(stored)) {
        const from = { ...config, cursor: stored };
        session = new Session(from, null, parse);
        record = recorder(from, parse);
      }
      if (!isDisposed && (isKept || retained > 0)) drive({ t: 'connect' });
    };
    isReading = true;
    let stored: string | null | Promise<string | null> = null;
    try {
      stored = storage.get();
    } catch {
      // As if nothing had been stored.
    }
    if (stored instanceof Promise) stored.then(start, () => start(null));
    else start(stored);
  }

  function leave() {
    if (isKept || retained > 0) return;
    drive({ t: 'disconnect' });
    unlisten?.();
    unlisten = null;
    persist();
    arm();
  }

  const connect = () => {
    isKept = true;
    lingerAt = null;
    enter();
  };

  const disconnect = () => {
    isKept = false;
    drive({ t: 'disconnect' });
    unlisten?.();
    unlisten = null;
    persist();
  };

  const retain = () => {
    let isHeld = true;
    retained += 1;
    lingerAt = null;
    if (retained === 1) enter();
    return () => {
      if (!isHeld) return;
      isHeld = false;
      retained -= 1;
      if (retained > 0 || isDisposed) return;
      lingerAt = now() + LINGER_MS;
      arm();
    };
  };

  const metrics = () => health(session, { org, transport: status.transport, retryAt: status.retryAt, queue: deliveries.waiting(), lastClose });

  const listen = <T>(handlers: Set<(value: T) => void>, handler: (value: T) => void) => {
    const own = (value: T) => handler(value);
    handlers.add(own);
    return () => void handlers.delete(own);
  };

  return {
    org,
    on: deliveries.on as unknown as Client['on'],
    events: ((name: string, more = {}) => deliveries.events(name, more, retain)) as Client['events'],
    onGap: deliveries.onGap,
    onError: (handler) => listen(errorHandlers, handler),
    onStatus: (handler) => listen(statusHandlers, handler),
    onNotice: (handler) => listen(noticeHandlers, handler),
    subscribe: (handler) => listen(statusHandlers, () => handler()),
    getStatus: () => status,
    retain,
    connect,
    disconnect,
    reconnect: () => {
      if (isDisposed) return;
      if (retained === 0) isKept = true;
      drive({ t: 'disconnect' });
      enter();
    },
    dispose: () => {
      if (isDisposed) return;
      disconnect();
      isDisposed = true;
      lingerAt = persistAt = null;
      armed?.cancel();
      armed = null;
      unshow?.();
      deliveries.dispose();
      for (const handlers of [errorHandlers, statusHandlers, noticeHandlers]) handlers.clear();
    },
    metrics,
    dump: () => record.dump(),
    get cursor() {
      return delivered;
    },
  };
}
