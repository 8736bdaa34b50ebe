// The step under way: the state that it changes, its arguments, and what comes out. All other files of this
// directory are functions of these variables. A step runs from `enter` to its end without a break, so sessions
// do not meet here.

import { parseCursor } from './cursor.js';
import { DEDUP_MS, PING_INTERVAL_MS } from './limits.js';
import type { ClientFrame, Config, Output, State } from './types.js';

export let s: State;
export let config: Config;
export let parse: (text: string) => unknown;
/** Monotonic milliseconds. */
export let now: number;
/** Milliseconds since 1970. */
export let wall: number;
/** Drawn uniformly from [0, 1); a step uses it at most once. */
export let random: number;
let out: Output[];

export function enter(...step: [State, Config, typeof parse, number, number, number]): Output[] {
  [s, config, parse, now, wall, random] = step;
  return (out = []);
}

/** A frame of the gateway, as far as it has been checked. */
export type Frame = Record<string, unknown>;

export function initial(config: Config): State {
  const home = config.transport ?? config.transports[0]!;
  return {
    phase: 'idle', generation: 0,
    timers: { token: null, phase: null, silence: null, stable: null, refresh: null, leave: null, retry: null, page: null, sweep: null, report: null },
    attempt: 0, tried: false, not_before: null, paused: false, postponed: false,
    connection: null, transport: home, home, kept: home, open_at: null, hello_at: null, moving: false, before_hello: 0, short_lives: 0,
    token: null, token_until: 0, request: null, refusals: 0, asked: false,
    cursor: parseCursor(config.cursor), connection_id: null, head: 0, ping_interval_ms: PING_INTERVAL_MS, dedup_window_ms: DEDUP_MS, fill: null,
    dedup_until: 0, remembered: [],
    ping: null, pings_sent: 0, pings_heard: 0, pinged_at: null, samples: [], last_now: 0, last_wall: 0,
    connected_wall: null, disconnected_wall: null, event_wall: null,
    disconnects: 0, events: 0, overlaps: 0, repeats: 0, holes: 0, gaps: 0, latencies: [],
    unreported: unreported(), reported_at: null,
  };
}

export const unreported = (): State['unreported'] => ({ latencies_ms: [], disconnects: 0, duplicates: 0, holes: 0, gaps: 0 });

export const isOpen = ({ phase }: State): boolean => phase === 'live' || phase === 'probe';

export function emit(output: Output): void {
  out.push(output);
}

export const send = (frame: ClientFrame): void => emit({ t: 'send', frame });

export function report(code: string, message: string, retry_in_ms: number | null, fatal = false): void {
  emit({ t: 'error', code, message, fatal, retry_in_ms });
}

/** Counts it for the application and for the next `health` frame. */
export function count(name: 'disconnects' | 'holes' | 'gaps'): void {
  s[name] += 1;
  s.unreported[name] += 1;
}

export function countDuplicate(name: 'overlaps' | 'repeats'): void {
  s[name] += 1;
  s.unreported.duplicates += 1;
}
