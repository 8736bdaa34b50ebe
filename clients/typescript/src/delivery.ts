// Hands events to handlers: one after the other, in slices, so that a page keeps answering.

import { nextTurn, type Clock } from './clock.js';
import { TidegateError } from './errors.js';
import type { AnyEvent, Gap, StandardSchema } from './events.js';
import type { Handler, IterateOptions, Off, OnOptions } from './options.js';

const SLICE_MS = 8; // half a frame at 60 Hz
const COMPACT = 1_024;

type Item = { event: AnyEvent } | { gap: Gap } | { cursor: string } | { end: TidegateError | null };
interface Entry { handler: Handler<AnyEvent>; service: string | undefined; isOn: boolean }

export interface Delivery {
  /** How many events wait. */
  readonly waiting: () => number;
  push(item: Item): void;
  /** Begins to hand over, if it is not doing so. */
  drain(): void;
  on(name: string, handler: Handler<AnyEvent>, options?: OnOptions): Off;
  onGap(handler: Handler<Gap>): Off;
  events(name: string, options: IterateOptions, retain: () => Off): AsyncIterableIterator<AnyEvent>;
  /** Forgets what waits, all handlers, and ends all iterations. */
  dispose(): void;
}

export interface DeliveryHost {
  clock: Clock;
  schemas: Readonly<Record<string, StandardSchema | undefined>>;
  failed(error: TidegateError): void;
  /** All before this has been handled. */
  reached(cursor: string): void;
  /** Nothing waits. */
  drained(): void;
}

export function delivery({ clock, schemas, failed, reached, drained }: DeliveryHost): Delivery {
  let items: Item[] = [];
  let head = 0;
  let events = 0;
  let isBusy = false;
  let isDisposed = false;
  const handlers = new Map<string, Entry[]>();
  const gapHandlers = new Set<Handler<Gap>>();
  const endings = new Set<(error: TidegateError | null) => void>();

  const fail = (error: unknown, event: AnyEvent | null) =>
    failed(new TidegateError('handler', `a handler failed: ${error instanceof Error ? error.message : String(error)}`, { event, cause: error }));

  // Calls all, and returns what is to be awaited, if anything.
  function call<T>(list: Iterable<Handler<T>>, value: T, event: AnyEvent | null): Promise<unknown> | null {
    let waits: Promise<unknown>[] | null = null;
    for (const handler of list) {
      try {
        const result = handler(value);
        if (typeof (result as PromiseLike<unknown> | null)?.then === 'function') {
          (waits ??= []).push(Promise.resolve(result).catch((error: unknown) => fail(error, event)));
        }
      } catch (error) {
        fail(error, event);
      }
    }
    return waits && Promise.all(waits);
  }

  function* wanting(event: AnyEvent): Generator<Handler<AnyEvent>> {
    for (const name of [event.event, '*']) {
      for (const { handler, service, isOn } of handlers.get(name) ?? []) {
        if (isOn && (service === undefined || service === event.service)) yield handler;
      }
    }
  }

  async function validated(event: AnyEvent, schema: StandardSchema): Promise<AnyEvent | null> {
    try {
      const result = await schema['~standard'].validate(event.data);
      if (!result.issues) return { ...event, data: result.value };
      const issues = result.issues.map(({ message, path }) => {
        const where = (path ?? []).map((part) => String(typeof part === 'object' ? part.key : part)).join('.');
        return where ? `${where}: ${message}` : message;
      });
      failed(new TidegateError('schema', `the data of ${event.event} (${event.id}) is not what its schema says: ${issues.join('; ')}`, { event }));
    } catch (error) {
      failed(new TidegateError('schema', `the schema of ${event.event} failed: ${error instanceof Error ? error.message : String(error)}`, { event, cause: error }));
    }
    return null;
  }

  async function run(): Promise<void> {
    let until = clock.now() + SLICE_MS;
    for (let item = items[head]; item && !isDisposed; item = items[head]) {
      head += 1;
      if (head === items.length || (head >= COMPACT && head * 2 >= items.length)) {
        items = items.slice(head);
        head = 0;
      }
      if ('cursor' in item) {
        reached(item.cursor);
        continue;
      }
      if ('end' in item) {
        for (const end of endings) end(item.end);
        continue;
      }
      let waits: Promise<unknown> | null = null;
      if ('gap' in item) waits = call(gapHandlers, item.gap, null);
      else {
        const schema = schemas[item.event.event];
        const event = schema ? await validated(item.event, schema) : item.event;
        if (event) waits = call(wanting(event), event, event);
      }
      if (waits) await waits;
      if ('event' in item) events -= 1;
      if (clock.now() >= until) {
        await nextTurn();
        until = clock.now() + SLICE_MS;
      }
    }
  }

  function drain() {
    if (isBusy || isDisposed || items.length === 0) return;
    isBusy = true;
    // It rejects only if a callback of the host throws.
    const finish = () => {
      isBusy = false;
      if (items.length > 0) drain();
      else if (!isDisposed) drained();
    };
    void run().then(finish);
  }

  const on: Delivery['on'] = (name, handler, options) => {
    const entry: Entry = { handler, service: options?.service, isOn: true };
    handlers.set(name, [...(handlers.get(name) ?? []), entry]);
    return () => {
      if (!entry.isOn) return;
      entry.isOn = false;
      const left = (handlers.get(name) ?? []).filter((other) => other !== entry);
      if (left.length > 0) handlers.set(name, left);
      else handlers.delete(name);
    };
  };

  async function* iterate(name: string, { service, signal, limit = 1 }: IterateOptions, retain: () => Off): AsyncIterableIterator<AnyEvent> {
    if (signal?.aborted || isDisposed) return;
    const buffer: AnyEvent[] = [];
    const now: { wake?: () => void; goOn?: () => void; ended?: { error: TidegateError | null } } = {};
    const end = (error: TidegateError | null) => {
      now.ended ??= { error };
      now.wake?.();
    };
    const abort = () => end(null);
    const off = on(name, (event) => {
      buffer.push(event);
      now.wake?.();
      return buffer.length < limit ? undefined : new Promise<void>((resolve) => { now.goOn = resolve; });
    }, { service });
    endings.add(end);
    signal?.addEventListener('abort', abort);
    const release = retain();
    try {
      for (;;) {
        const event = buffer[0];
        if (event && !signal?.aborted && !isDisposed) {
          yield event;
          buffer.shift();
          now.goOn?.();
        } else if (now.ended) break;
        else await new Promise<void>((resolve) => { now.wake = resolve; });
      }
      if (now.ended.error) throw now.ended.error;
    } finally {
      off();
      endings.delete(end);
      signal?.removeEventListener('abort', abort);
      now.goOn?.();
      release();
    }
  }

  return {
    waiting: () => events,
    push: (item) => {
      items.push(item);
      if ('event' in item) events += 1;
    },
    drain,
    on,
    onGap: (handler) => {
      const own: Handler<Gap> = (gap) => handler(gap);
      gapHandlers.add(own);
      return () => void gapHandlers.delete(own);
    },
    events: iterate,
    dispose: () => {
      isDisposed = true;
      items = [];
      head = events = 0;
      handlers.clear();
      gapHandlers.clear();
      for (const end of endings) end(null);
    },
  };
}
