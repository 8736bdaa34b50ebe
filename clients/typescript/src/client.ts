// Drives a session (./session): carries out what it puts out, and gives it what happens. What to do is decided there.
// One timer serves all deadlines.

import { address, baseOf, type Place } from './address.js';
import { check } from './check.js';
import { systemClock } from './clock.js';
import { emitter, END, ERROR, GAP, NOTICE, STATUS } from './emitter.js';
import { TidegateError, words } from './errors.js';
import type { AnyEvent } from './events.js';
import { health, show } from './health.js';
import { iterate } from './iterate.js';
import { browserLifecycle, type LifecycleSignal } from './lifecycle.js';
import { LINGER_MS, PERSIST_AGAIN_MS, PERSIST_MS, RESTORE_MS, TIMER_MAX_MS } from './limits.js';
import type { Client, ClientOptions, ClientStatus, Off } from './options.js';
import { queue } from './queue.js';
import { quietly } from './quietly.js';
import { recorder } from './recorder.js';
import { textOf } from './session/cursor.js';
import { createSession, parseCursor } from './session/session.js';
import type { Config, Input, Output } from './session/types.js';
import { eventStream } from './sse.js';
import { rememberedTransport, rememberTransport } from './storage.js';
import type { Connection, TransportEnd } from './transport.js';
import { webSocket, type WebSocketConstructor } from './websocket.js';

const PLACED = /^(token|closed|timeout|refused|sse_buffered)$/; // errors that say where: the address may be wrong
const SHOWN = /^(token|handler|schema|storage|overflow|sse_buffered|disposed)$/; // errors that a developer mends

type Of<T extends Output['t']> = Extract<Output, { t: T }>;

/** What waits for handlers: an event or a gap, or the end; `cursor` is the position that is reached with it. */
interface Item { name: string; value: object; cursor?: string }

/** Makes a client of one org's stream. It does nothing until `connect`, `retain` or the first step of `events`. */
export function createClient(options: ClientOptions): Client {
  check(options);
  const {
    org, services = [], getToken, cursor = null, tail = null, slow, fill = false, maxQueue = 5_000, storage, metricsKey = '__realtimeMetrics', logger,
    parse = JSON.parse, random = Math.random, observe, validate, lifecycle = browserLifecycle(), clock = systemClock(options.keepAlive),
    fetch = (...request) => globalThis.fetch(...request), webSocket: Socket = globalThis.WebSocket as unknown as WebSocketConstructor,
    transports = [...(Socket ? [webSocket(Socket)] : []), eventStream(fetch)],
  } = options;
  const where: Place = { base: baseOf(options.url)!, org, services };
  const kinds = transports.map(({ kind }) => kind);
  const remembered = rememberedTransport(where.base);
  let config: Config = {
    transports: kinds, transport: kinds.find((kind) => kind === remembered) ?? null, cursor, tail, fill,
    health: random() < (options.health ?? 0),
  };
  let session = createSession(config, undefined, parse);
  const { segments, record } = recorder();

  let driving: (() => void)[] | null = null; // while it does, what is to follow
  const aborts = new Map<number, AbortController>(); // of requests to the application and to history
  let connection: { g: number; it: Connection } | null = null;

  const shown = new Set<string>(); // codes of errors, in the console
  let error: TidegateError | null = null;
  let lastClose: { code: string; message: string; at: number } | null = null;
  let retry: number | null = null;
  let status = {} as ClientStatus;
  let isWanted = false; // by `connect`
  let retained = 0;
  let isRestored = !storage; // the stored cursor was read
  let isSuspended = false;
  let isDisposed = false;
  let unlisten: Off | undefined;
  let hide: Off | undefined;

  // When something is due that is not the session's; Infinity: never.
  let lingerAt = Infinity;
  let persistAt = Infinity;
  let armedAt = Infinity;
  let disarm: Off | undefined;

  let delivered: string | null = null;
  let persisted: string | null = null;
  let isStoring = false;

  const now = () => Math.floor(clock.now());
  const wall = () => Math.floor(clock.wall());

  // --- To the application.

  const { on, emit, has, clear } = emitter((thrown, name, value) => {
    // A handler of errors that fails must not be called with its own failure.
    if (name === ERROR) console.error(thrown);
    else fail('handler', `a handler failed: ${words(thrown)}`, { cause: thrown, event: 'data' in value! ? (value as AnyEvent) : null });
  });

  // A logger or a tool that fails must not stop the client.
  function safely(act: () => void) {
    try {
      act();
    } catch (thrown) {
      console.error(thrown);
    }
  }

  function fail(code: string, message: string, more?: ConstructorParameters<typeof TidegateError>[2]) {
    const failure = new TidegateError(code, message, more);
    // A developer must see these even if nobody asked to. Before the first connection all count, as `url` may be wrong.
    if (logger?.warn) safely(() => logger.warn!(message, failure));
    else if (!has(ERROR) && (failure.fatal || ((session.state.connected_wall === null || SHOWN.test(code)) && !shown.has(code)))) {
      if (code !== 'handler' && code !== 'schema') shown.add(code);
      console.error(failure);
    }
    emit(ERROR, failure);
    return failure;
  }

  const waiting = queue<Item>(
    clock,
    ({ name, value }) => {
      if (name === END || name === GAP) return emit(name, value);
      if (!validate) return deliver(value as AnyEvent);
      return (async () => validate(value as AnyEvent))().then(
        (data) => deliver({ ...(value as AnyEvent), data }),
        (thrown: unknown) => void fail('schema', words(thrown), { cause: thrown, event: value as AnyEvent }),
      );
    },
    ({ cursor: reached }) => {
      if (reached) arrive(reached);
    },
    () => {
      if (session.state.paused) drive({ t: 'drained' });
    },
  );

  function deliver(event: AnyEvent) {
    const own = emit(event.event, event);
    const all = emit('*', event);
    return own && all ? Promise.all([own, all]) : (own ?? all);
  }

  // All before this position has been handled.
  function arrive(reached: string) {
    delivered = reached;
    if (!storage || persistAt < Infinity) return;
    persistAt = now() + PERSIST_MS;
    arm();
  }

  function persist() {
    persistAt = Infinity;
    const reached = delivered;
    // One at a time, or a slow one could overwrite a later one.
    if (!storage || reached === persisted || isStoring) return;
    isStoring = true;
    (async () => storage.set(reached!))().then(
      () => {
        isStoring = false;
        persisted = reached;
        if (delivered !== reached && persistAt === Infinity) persist();
      },
      (thrown: unknown) => {
        isStoring = false;
        fail('storage', `the cursor was not stored: ${words(thrown)}`, { cause: thrown });
        if (persistAt < Infinity || isIdle()) return;
        persistAt = now() + PERSIST_AGAIN_MS;
        arm();
      },
    );
  }

  // --- Into the session.

  const drive = (input: Input, cause?: unknown) => run(() => step(input, cause));

  // What a handler asks for in the midst of a step is done after it.
  function run(act: () => void): void {
    if (driving) return void driving.push(act);
    driving = [];
    try {
      act();
      for (let next = driving.shift(); next; next = driving.shift()) next();
    } finally {
      driving = null;
    }
    if (isDisposed) return;
    const { phase, paused } = session.state;
    if (waiting.size() > maxQueue && !paused && (phase === 'live' || phase === 'probe' || phase === 'backoff')) return drive({ t: 'overflow' });
    changed();
    arm();
    waiting.drain();
  }

  function step(input: Input, cause: unknown) {
    const at = now();
    const today = wall();
    const draw = random();
    record(config, session.state, [input, at, today, draw]);
    const outputs = session.step(input, at, today, draw);
    if (input.t === 'closed' && input.g === connection?.g) connection = null;
    for (const output of outputs) {
      safely(() => observe?.(output, session.state));
      perform(output, cause);
    }
  }

  // --- Out of the session.

  function perform(output: Output, cause: unknown): unknown {
    switch (output.t) {
      case 'event': return waiting.push({ name: output.event.event!, value: streamEvent(output) });
      case 'gap': return waiting.push({ name: GAP, value: { org, reason: output.reason, from: output.prev, to: output.seq, epoch: output.epoch, services: output.services } });
      case 'cursor': {
        const last = waiting.last();
        return last ? (last.cursor = output.cursor) : arrive(output.cursor);
      }
      case 'get_token': return request(output.g, (signal) => token(output, signal), (thrown) => ({
        t: 'token_failed', g: output.g, final: (thrown as { final?: unknown } | null)?.final === true, message: words(thrown),
      }));
      case 'history': return request(output.g, (signal) => page(output, signal), () => ({ t: 'page_failed', g: output.g }));
      case 'cancel': return aborts.get(output.g)?.abort();
      case 'open': return open(output);
      // If the transport is gone, the session learns it from `closed`, or from silence.
      case 'close':
        quietly(() => connection?.it.close(output.code));
        connection = null;
        return;
      case 'send': return quietly(() => connection?.it.send(JSON.stringify(output.frame)));
      case 'transport': return rememberTransport(where.base, output.transport);
      case 'status': return emit(NOTICE, output);
      case 'error': {
        const { code, fatal, retry_in_ms } = output;
        const message = PLACED.test(code) ? `${output.message} (${code === 'token' ? 'getToken' : where.base})` : output.message;
        lastClose = { code, message, at: wall() };
        error = fail(code, message, { fatal, retryInMs: retry_in_ms, cause });
        if (fatal) waiting.push({ name: END, value: error });
      }
    }
  }

  // Asks somebody outside. An answer that is no longer wanted is dropped.
  async function request(g: number, act: (signal: AbortSignal) => Promise<Input>, failed: (thrown: unknown) => Input) {
    const abort = new AbortController();
    aborts.set(g, abort);
    let input: Input;
    let cause: unknown;
    try {
      input = await act(abort.signal);
    } catch (thrown) {
      input = failed((cause = thrown));
    }
    aborts.delete(g);
    if (!abort.signal.aborted) drive(input, cause);
  }

  async function token({ g, reason }: Of<'get_token'>, signal: AbortSignal): Promise<Input> {
    const answer = await getToken({ reason, signal });
    const text = textOf(typeof answer === 'string' ? answer : answer?.token);
    // Of these signs alone can both a header and a subprotocol consist. The token must not stand in a message: it shows types.
    if (!/^[\w.~+-]+$/.test(text)) {
      throw new TypeError(`${text ? 'text that is not of A-Z a-z 0-9 . _ - ~ +' : JSON.stringify(answer, (_name, value) => value && (typeof value === 'object' ? value : typeof value))} is not a token`);
    }
    return { t: 'token', g, token: text, expires_in_ms: (answer as { expiresInMs?: number } | null)?.expiresInMs ?? null };
  }

  async function page({ g, after }: Of<'history'>, signal: AbortSignal): Promise<Input> {
    const answer = await fetch(address(where, 'events', { after, limit: 1_000 }), {
      headers: { authorization: `Bearer ${session.state.token}` }, cache: 'no-store', redirect: 'error', signal,
    });
    const text = await answer.text();
    return answer.ok ? { t: 'page', g, text } : { t: 'page_failed', g };
  }

  function open({ g, transport, token: bearer, cursor: after, tail: most, replaces }: Of<'open'>) {
    const closed = (end: TransportEnd) => drive({ t: 'closed', g, ...end });
    try {
      connection = {
        g,
        it: transports.find(({ kind }) => kind === transport)!.open(
          { url: address(where, 'stream', { cursor: after, tail: most, slow, replaces }), token: bearer },
          { opened: () => drive({ t: 'opened', g }), frame: (text) => drive({ t: 'frame', g, text }), switched: (to) => drive({ t: 'switched', g, transport: to }), closed },
        ),
      };
    } catch (thrown) {
      closed({ message: words(thrown) });
    }
  }

  function streamEvent({ event: from, replay, latency_ms }: Of<'event'>) {
    const { service, event, id, seq, timestamp, data } = from;
    const to: Record<string, unknown> = { org, service, event, id, seq, timestamp, data, replay, latencyMs: latency_ms };
    for (const name of ['key', 'time', 'source', 'subject', 'targeted']) if (name in from) to[name] = from[name];
    return to;
  }

  function changed() {
    const { phase, attempt, timers, connection: isUp, transport: kind } = session.state;
    const state = session.connectionState();
    if (state === 'connected' || phase === 'idle') error = null;
    const transport = isUp === null ? null : kind;
    if (state === status.state && phase === status.phase && attempt === status.attempt && timers.retry === retry && transport === status.transport && error === status.error) return;
    retry = timers.retry;
    status = Object.freeze({ state, phase, attempt, retryAt: retry && wall() + retry - now(), transport, error });
    safely(() => logger?.info?.(phase, status));
    emit(STATUS, status);
  }

  // --- The timer.

  // A session that does not run has only old keys to forget, which can wait; a process of Node can then end.
  const deadline = () => (isSuspended || isIdle() ? Infinity : session.deadline() ?? Infinity);

  function isIdle() {
    const { phase } = session.state;
    return phase === 'idle' || phase === 'stopped';
  }

  function arm() {
    const at = isDisposed ? Infinity : Math.min(lingerAt, persistAt, deadline());
    // One that comes too early is set again then, which is cheaper than with each frame.
    if (armedAt <= at && at < Infinity) return;
    disarm?.();
    armedAt = at;
    disarm = at < Infinity ? clock.after(Math.min(TIMER_MAX_MS, Math.max(0, at - now())), fire) : undefined;
  }

  function fire() {
    armedAt = Infinity;
    const at = now();
    if (persistAt <= at) persist();
    if (lingerAt <= at) leave();
    if (deadline() <= at) drive({ t: 'tick' });
    arm();
  }

  // --- What the page reports, and what the application calls.

  function heard(signal: LifecycleSignal) {
    if (signal === 'hide' || signal === 'suspend') persist();
    if (signal === 'hide') return;
    // A timer that came before the page is frozen would connect again.
    isSuspended = signal === 'suspend';
    drive(signal === 'offline' || signal === 'suspend' ? { t: signal } : { t: 'wake', reason: signal });
  }

  function enter() {
    lingerAt = Infinity;
    if (isDisposed) return void fail('disposed', 'the client was disposed; make a new one');
    run(() => {
      if (isDisposed || !isIdle() || !(isWanted || retained > 0)) return;
      if (metricsKey) hide ??= show(metricsKey, metrics);
      if (!isRestored) return restore();
      unlisten ??= lifecycle?.listen(heard);
      isSuspended = false;
      step({ t: 'connect' }, undefined);
    });
  }

  // The stored cursor is read once. If it is not a cursor, or does not come, that is as if there were none.
  let restoring: Promise<void> | undefined;
  function restore() {
    restoring ??= new Promise<string | null>((resolve, reject) => {
      const off = clock.after(RESTORE_MS, () => reject(new Error('no answer in 5 s')));
      (async () => storage!.get())().then(resolve, reject).finally(off);
    }).catch((thrown: unknown) => {
      fail('storage', `the cursor was not read: ${words(thrown)}`, { cause: thrown });
      return null;
    }).then((stored) => {
      if (parseCursor(stored)) {
        config = { ...config, cursor: stored };
        session = createSession(config, undefined, parse);
      }
      isRestored = true;
      if (!isDisposed) enter();
    });
  }

  function leave() {
    lingerAt = Infinity;
    run(() => {
      step({ t: 'disconnect' }, undefined);
      unlisten?.();
      unlisten = undefined;
    });
    persist();
  }

  function connect() {
    isWanted = true;
    enter();
  }

  function disconnect() {
    isWanted = false;
    leave();
  }

  function retain() {
    let isHeld = true;
    if ((retained += 1) === 1) enter();
    return () => {
      if (isHeld && (retained -= 1) === 0 && !isWanted) {
        lingerAt = now() + LINGER_MS;
        arm();
      }
      isHeld = false;
    };
  }

  // Whether nothing will come to an iteration that begins now. The first `retain` starts a stopped client again.
  function over() {
    if (isDisposed) return { error: null };
    return session.state.phase === 'stopped' && retained > 1 ? { error } : undefined;
  }

  changed();

  const metrics = () => health(session, { org, transport: status.transport, retryAt: status.retryAt, queue: waiting.size(), lastClose });

  return {
    org,
    on: on as Client['on'],
    events: (name: string, more?: object) => iterate<never>(on, retain, over, name, more),
    onGap: (handler) => on(GAP, handler),
    onError: (handler) => on(ERROR, handler),
    onStatus: (handler) => on(STATUS, handler),
    onNotice: (handler) => on(NOTICE, handler),
    subscribe: (handler) => on(STATUS, () => handler()),
    getStatus: () => status,
    retain,
    connect,
    disconnect,
    reconnect() {
      drive({ t: 'disconnect' });
      if (retained === 0) isWanted = true;
      enter();
    },
    dispose() {
      disconnect();
      isDisposed = true;
      arm();
      hide?.();
      waiting.clear();
      emit(END, null);
      clear();
    },
    metrics,
    dump: async () => (await import('./dump.js')).vector(segments, parse),
    get cursor() {
      return delivered;
    },
  };
}
