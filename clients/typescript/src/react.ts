'use client';
// React hooks over a client. The client is made outside React and lives there: the provider only says that a
// part of the page wants it connected. So StrictMode, hot reload and Suspense, which run effects twice, open
// one connection.

import {
  createContext, createElement, useCallback, useContext, useEffect, useInsertionEffect, useRef, useState, useSyncExternalStore,
  type FunctionComponentElement, type ProviderProps, type ReactNode,
} from 'react';

import type { Client, ClientStatus, ConnectionState, EventName, Gap, Health, Off, OnOptions, StreamEvent } from './index.js';

const ClientContext = createContext<Client | null>(null);

/** What a server renders, where there is no connection. */
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
export function TidegateProvider({ client, children }: TidegateProviderProps): FunctionComponentElement<ProviderProps<Client | null>> {
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

/** The events of a name; of all names for `*`. */
export type EventsOf<N extends EventName | '*'> = N extends EventName ? StreamEvent<N> : StreamEvent;

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

/** Calls `handler` for each event of that name (`*`: any). It causes no render; it may be a new function each time. */
export function useEvent<N extends EventName | '*'>(name: N, handler: (event: EventsOf<N>) => void, { service, enabled = true }: EventOptions = {}): void {
  const client = useRealtime();
  const latest = useLatest(handler);
  useEffect(() => {
    if (!enabled) return undefined;
    // Both forms of `on` at once: the types of TypeScript have no way to say that.
    const on = client.on as (name: string, handler: (event: never) => void, options: OnOptions) => Off;
    return on(name, (event: EventsOf<N>) => latest.current(event), { service });
  }, [client, name, service, enabled, latest]);
}

// Collects events and hands them over together.
function useBatches<N extends EventName | '*'>(name: N, take: (events: EventsOf<N>[]) => void, most: number, options: EventOptions): void {
  const waiting = useRef<EventsOf<N>[]>([]);
  const timer = useRef<ReturnType<typeof setTimeout> | null>(null);
  useEvent(name, (event) => {
    waiting.current.push(event);
    if (waiting.current.length > most) waiting.current.shift();
    timer.current ??= setTimeout(() => {
      timer.current = null;
      take(waiting.current.splice(0));
    }, RENDER_MS);
  }, options);
  useEffect(() => () => {
    if (timer.current !== null) clearTimeout(timer.current);
    timer.current = null;
    waiting.current = [];
  }, []);
}

/** The last events of that name since the component was mounted, oldest first; at most `limit` (50). */
export function useEvents<N extends EventName | '*'>(name: N, { limit = 50, ...options }: EventOptions & { limit?: number | undefined } = {}): readonly EventsOf<N>[] {
  const [events, setEvents] = useState<readonly EventsOf<N>[]>([]);
  useBatches(name, (fresh) => setEvents((before) => [...before, ...fresh].slice(-limit)), limit, options);
  return events;
}

/** A value that `reducer` makes of the value before and each event. */
export function useEventState<N extends EventName | '*', S>(name: N, reducer: (state: S, event: EventsOf<N>) => S, initial: S, options: EventOptions = {}): S {
  const [state, setState] = useState(initial);
  const latest = useLatest(reducer);
  useBatches(name, (fresh) => setState((before) => fresh.reduce((value, event) => latest.current(value, event), before)), Infinity, options);
  return state;
}

/** Calls `handler` for each gap: events in its range will not come, so load the state again. */
export function useGap(handler: (gap: Gap) => void): void {
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
