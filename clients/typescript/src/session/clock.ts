// What the gateway's clock shows, how late events are, and whether the connection is still alive.

import { COUNT_MAX, LATENCY_MAX_MS, PING_MIN_MS, PROBE_MS, REPORT_MS, SAMPLES_MAX, SILENCE_MS } from './limits.js';
import { now, s, send, unreported } from './step.js';
import type { State } from './types.js';
import type { Frame } from './step.js';

/** A frame has come, so the next one is due in a while. */
export function listen(): void {
  s.timers.silence = now + s.ping_interval_ms + SILENCE_MS;
}

/**
 * Finds out whether the connection is alive. A reader of an event stream cannot ask; it waits a little longer if
 * the gateway's ping is overdue.
 */
export function probe(): void {
  if (s.phase === 'live' && (s.transport === 'ws' || now > s.timers.silence! - SILENCE_MS)) startProbe();
}

export function startProbe(): void {
  s.phase = 'probe';
  s.timers.silence = null;
  s.timers.phase = now + PROBE_MS;
  if (s.transport === 'ws') ask();
}

/**
 * A timer that comes late shows that the page was suspended, not that the gateway is silent: what it sent may be
 * waiting. So what is due gets a little more time, once (hidden pages have late timers always).
 */
export function late(): void {
  probe();
  let isPostponed = false;
  for (const name of ['token', 'phase', 'page'] as const) {
    if (s.postponed || !isDue(name)) continue;
    s.timers[name] = now + PROBE_MS;
    isPostponed = true;
  }
  s.postponed = isPostponed;
}

export const isDue = (name: keyof State['timers']): boolean => (s.timers[name] ?? Infinity) <= now;

/** The answer is a sample of the gateway's clock. */
export function ask(): void {
  s.ping = { n: ++s.pings_sent, sent_at: now };
  s.pinged_at = now;
  send({ type: 'ping', n: s.pings_sent });
}

/**
 * The gateway's own ping is a good moment: until there are enough samples, and then at times. Those pings come in
 * bursts if many events are hidden, but frames of ours are limited.
 */
export function askAtPing(): void {
  s.pings_heard += 1;
  if (now - (s.pinged_at ?? -Infinity) >= PING_MIN_MS && (s.samples.length < SAMPLES_MAX || s.pings_heard % 10 === 0)) ask();
}

export function ponged({ n, timestamp }: Frame): void {
  if (n !== s.ping?.n) return;
  sample(s.ping!.sent_at, timestamp);
  s.ping = null;
}

/** The gateway's clock was read in the middle of the round trip, to within half of it (Cristian 1989). */
export function sample(sent: number, timestamp: unknown): void {
  const rtt = now - sent;
  const offset = timeOf(timestamp) - sent - Math.floor(rtt / 2);
  if (offset === offset && s.samples.push({ rtt, offset }) > SAMPLES_MAX) s.samples.shift();
}

/** The sample with the shortest round trip. The offset is the gateway's clock minus `now`. */
export function clock({ samples }: State): State['samples'][number] | null {
  return samples.reduce<State['samples'][number] | null>((best, sample) => (best && best.rtt <= sample.rtt ? best : sample), null);
}

/** Null if nothing is known, or a clock was set. */
export function latency(timestamp: unknown): number | null {
  const ms = now + (clock(s)?.offset ?? NaN) - timeOf(timestamp);
  return Math.abs(ms) <= LATENCY_MAX_MS ? Math.max(0, ms) : null;
}

let lastText: unknown;
let lastTime = NaN;

/** A time of the gateway as a number, or NaN. Neighbours often have the same. */
export function timeOf(timestamp: unknown): number {
  if (timestamp !== lastText) lastTime = Date.parse((lastText = timestamp) as string);
  return lastTime;
}

/** When the first `health` frame of this connection is due. */
export function planHealth(): void {
  s.timers.report = Math.max(now, s.reported_at ?? 0) + REPORT_MS;
}

export function sendHealth(): void {
  const frame = { type: 'health' as const, ...s.unreported };
  for (const name of ['disconnects', 'duplicates', 'holes', 'gaps'] as const) frame[name] = Math.min(frame[name], COUNT_MAX);
  send(frame);
  s.unreported = unreported();
  s.reported_at = now;
  planHealth();
}
