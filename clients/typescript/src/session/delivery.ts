// Events on their way to the application. An event that was delivered before is dropped (rule R14). While a gap
// is filled from history, live events wait.

import { timeOf } from './clock.js';
import { formatCursor, isWhole, parseCursor } from './cursor.js';
import { DEDUP_MS, GENERATION_KEYS, GENERATION_MS, HELD_MAX, KEYS_MAX, LATENCIES_MAX, PAGE_MS } from './limits.js';
import { count, countDuplicate, emit, now, parse, s, wall } from './step.js';
import type { Cursor, Held, WireEvent } from './types.js';

export function take(held: Held): void {
  if (!s.fill) deliver(held);
  else if (s.fill.held.push(held) > HELD_MAX) fillFailed();
}

/** The cursor has moved. */
export function moved(): void {
  if (s.fill) s.fill.cursor = s.cursor!;
  else keep(s.cursor!);
}

const keep = (cursor: Cursor): void => emit({ t: 'cursor', cursor: formatCursor(cursor) });

function deliver({ event, replay, latency_ms }: Held): void {
  if (isRepeat(event)) return countDuplicate('repeats');
  s.events += 1;
  s.event_wall = wall;
  if (latency_ms !== null) {
    for (const ring of [s.latencies, s.unreported.latencies_ms]) if (ring.push(latency_ms) > LATENCIES_MAX) ring.shift();
  }
  emit({ t: 'event', event, replay, latency_ms });
}

// Within one chain of epochs the cursor alone decides. After a gap of reason `epoch` the same event may come under
// another seq. Keys are kept in generations of a minute, so that old ones go without a search.
function isRepeat({ service, source, id, timestamp }: WireEvent): boolean {
  const { remembered } = s;
  const key = [service, source, id].join('\0');
  const appended = timeOf(timestamp);
  const window = now < s.dedup_until ? Math.min(DEDUP_MS, s.dedup_window_ms) : 0;
  if (window > 0 && remembered.some(({ keys }) => Math.abs(appended - keys.get(key)!) < window)) return true;
  if (appended !== appended) return false;
  let last = remembered.at(-1);
  if (!last || now - last.born >= GENERATION_MS || last.keys.size >= GENERATION_KEYS) remembered.push((last = { born: now, keys: new Map() }));
  last.keys.set(key, appended);
  if (remembered.reduce((size, { keys }) => size + keys.size, 0) > KEYS_MAX) remembered.shift();
  s.timers.sweep ??= now + GENERATION_MS;
  return false;
}

export function sweep(): void {
  s.remembered = s.remembered.filter(({ born }) => now - born < DEDUP_MS + GENERATION_MS);
  s.timers.sweep = s.remembered.length > 0 ? now + GENERATION_MS : null;
}

/** Asks history for what a gap left out. */
export function askPage(): void {
  const fill = s.fill!;
  fill.g = ++s.generation;
  s.timers.page = now + PAGE_MS;
  emit({ t: 'history', g: fill.g, after: formatCursor(fill.after), to: fill.to });
}

/** What history cannot give either is a gap. So is a page that does not go on. */
export function page(text: string): void {
  const fill = s.fill!;
  const { after, to } = fill;
  let read: Record<string, unknown> = {};
  try {
    read = (parse(text) as typeof read) ?? read;
  } catch {}
  const cursor = read.gap == null ? parseCursor(read.cursor) : null;
  const { events } = read;
  if (!cursor || !isInOrder(events, after.seq, cursor.seq) || cursor.seq < (read.has_more === true ? after.seq + 1 : to)) return fillFailed();
  for (const event of events) if (event.seq <= to) deliver({ event, replay: true, latency_ms: null });
  fill.after = { ...cursor, seq: Math.min(cursor.seq, to) };
  if (cursor.seq >= to) return fillDone();
  keep(fill.after);
  askPage();
}

/** Whether these are events, in the order of their seqs, within (after, to]. */
export function isInOrder(events: unknown, after: number, to: number): events is WireEvent[] {
  return Array.isArray(events) && events.every((event) => isWhole(event?.seq) && event.seq > after && (after = event.seq) <= to);
}

function fillDone(): void {
  const { held, cursor } = s.fill!;
  s.fill = s.timers.page = null;
  held.forEach(deliver);
  keep(cursor);
}

/** The application is told of the gap, after all. */
export function fillFailed(): void {
  const { g, after, to, cursor, reason } = s.fill!;
  if (s.timers.page !== null) emit({ t: 'cancel', g });
  count('gaps');
  emit({ t: 'gap', prev: after.seq, seq: to, epoch: cursor.epoch, reason, services: null });
  fillDone();
}
