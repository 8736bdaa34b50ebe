'use client';
// React hooks over a client. The client is made outside React and lives there: the provider only says that a
// part of the page wants it connected. So StrictMode, hot reload and Suspense, which run effects twice, open
// one connection.

import {
  createContext, createElement, useCallback, useContext, useEffect, useInsertionEffect, useRef, useState, useSyncExternalStore,
  type ReactElement, type ReactNode,
} from 'react';

import type { Client, ClientStatus, ConnectionState, EventName, EventsOf, Gap, Health, Off, OnOptions } from './index.js';

const ClientContext = createContext<Client | null>(null);

/** The status during server rendering, when there is no connection. */
const ON_SERVER: ClientStatus = Object.freeze({ state: 'disconnected', phase: 'idle', attempt: 0, retryAt: null, transport: null, error: null });
const onServer = () => ON_SERVER;

/** How long events are collected before a list or a state is rendered with them: a frame of a 60 Hz screen. */
const RENDER_MS = 16;

/** Properties of {@link TidegateProvider}. */
export interface TidegateProviderProps {
  /** Made by `createClient`, outside of components. */
  client: Client;
  children?: ReactNode;
}

/**
 * Gives the client to the hooks below, and keeps it connected while it is mounted. It neither makes nor
 * disposes of it. The connection stays open for a second after the last provider is gone, so that one that is
 * mounted again finds it.
 */
export function TidegateProvider({ client, children }: TidegateProviderProps): ReactElement {
  useEffect(() => client.retain(), [client]);
  return createElement(ClientContext.Provider, { value: client }, children);
}

/** The client of the nearest {@link TidegateProvider}. */
export function useRealtime(): Client {
  const client = useContext(ClientContext);
  if (!client) throw new Error('this component is not inside a <TidegateProvider client={...}>');
  return client;
}

/** The connection: its state, the attempt, when the next one comes, the last error. Renders at each change of these. */
export function useConnection(): ClientStatus {
  const client = useRealtime();
  return useSyncExternalStore(client.subscribe, client.getStatus, onServer);
}

/** `connected`, `reconnecting` or `disconnected`. Renders only if that changes. */
export function useConnectionState(): ConnectionState {
  const client = useRealtime();
  const state = useCallback(() => client.getStatus().state, [client]);
  return useSyncExternalStore(client.subscribe, state, () => ON_SERVER.state);
}

/** Which events a hook takes. */
export interface EventOptions {
  /** Only those of this service. */
  service?: string | undefined;
  /** `false`: none for now. */
  enabled?: boolean | undefined;
}

// The newest handler without a new subscription. An insertion effect runs before those of children.
function useLatest<T>(value: T): { readonly current: T } {
  const latest = useRef(value);
  useInsertionEffect(() => {
    latest.current = value;
  });
  return latest;
}

// Both forms of `on` at once: the types of TypeScript have no way to say that.
function listen<N extends EventName | '*'>(client: Client, name: N, handler: (event: EventsOf<N>) => unknown, options: OnOptions): Off {
  return (client.on as (name: string, handler: (event: never) => unknown, options: OnOptions) => Off)(name, handler, options);
}

/** Calls `handler` for each event of that name (`*`: any). It causes no render; it may be a new function each time. */
export function useEvent<N extends EventName | '*'>(name: N, handler: (event: EventsOf<N>) => unknown, { service, enabled = true }: EventOptions = {}): void {
  const client = useRealtime();
  const latest = useLatest(handler);
  useEffect(() => (enabled ? listen(client, name, (event) => latest.current(event), { service }) : undefined), [client, name, service, enabled, latest]);
}

// A value made of events, which are collected and then taken together. It belongs to a client, a name and a
// service: with another one it starts anew, so that no user is shown what another one has got.
function useCollected<N extends EventName | '*', S>(name: N, take: (value: S, events: EventsOf<N>[]) => S, initial: S, { service, enabled = true }: EventOptions): S {
  const client = useRealtime();
  const latest = useLatest({ take, initial });
  const [kept, keep] = useState({ client, name, service, value: initial });
  const isOf = (it: typeof kept) => it.client === client && it.name === name && it.service === service;
  useEffect(() => {
    if (!enabled) return undefined;
    let waiting: EventsOf<N>[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    const flush = () => {
      clearTimeout(timer);
      timer = undefined;
      const events = waiting;
      waiting = [];
      if (events.length > 0) keep((before) => ({ client, name, service, value: latest.current.take(isOf(before) ? before.value : latest.current.initial, events) }));
    };
    const off = listen(client, name, (event) => {
      waiting.push(event);
      timer ??= setTimeout(flush, RENDER_MS);
    }, { service });
    // What has come so far counts, also if `enabled` becomes false now.
    return () => {
      off();
      flush();
    };
  }, [client, name, service, enabled, latest]);
  return isOf(kept) ? kept.value : initial;
}

const NONE: readonly never[] = [];

/** The last events of that name since the component was mounted, oldest first; at most `limit` (50). */
export function useEvents<N extends EventName | '*'>(name: N, { limit = 50, ...options }: EventOptions & { limit?: number | undefined } = {}): readonly EventsOf<N>[] {
  return useCollected<N, readonly EventsOf<N>[]>(name, (before, fresh) => (limit > 0 ? [...before, ...fresh].slice(-limit) : NONE), NONE, options);
}

/** A value that `reducer` makes of the value before and each event. Its first value is `initial`, also for another client or name. */
export function useEventState<N extends EventName | '*', S>(name: N, reducer: (state: S, event: EventsOf<N>) => S, initial: S, options: EventOptions = {}): S {
  return useCollected<N, S>(name, (before, fresh) => fresh.reduce((value, event) => reducer(value, event), before), initial, options);
}

/** Calls `handler` for each gap: events in its range will not come, so load the state again. */
export function useGap(handler: (gap: Gap) => unknown): void {
  const client = useRealtime();
  const latest = useLatest(handler);
  useEffect(() => client.onGap((gap) => latest.current(gap)), [client, latest]);
}

/** The health figures, read anew each `intervalMs`; null on a server and in the first render. */
export function useHealth(intervalMs = 1000): Health | null {
  const client = useRealtime();
  const [health, setHealth] = useState<Health | null>(null);
  useEffect(() => {
    const read = () => setHealth(client.metrics());
    read();
    const timer = setInterval(read, intervalMs);
    return () => clearInterval(timer);
  }, [client, intervalMs]);
  return health;
}
