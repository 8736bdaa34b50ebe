// Which events go into the next request and when, and what an answer changes. It has no clock, no randomness and
// no IO: `publisher.ts` drives it.
//
// Events of one org and service never overtake each other: a batch is taken in the order of arrival, what has to be
// sent again goes back to its place, and the next batch is taken only after the answer.

import { isAlike, type Verdict, type Why } from './answer.js';
import { delayMs } from './delay.js';
import type { FieldError, Outcome, Refused } from './types.js';

/** Events that may share a request with each other alone, because one of them has a fault that is looked for. */
type Group = object;

/** An event that is not settled. */
export interface Entry {
  readonly id: string;
  readonly org: string | null;
  readonly service: string;
  /** The event as JSON. */
  readonly bytes: Uint8Array;
  /** When it came into the queue, and until when it is tried. */
  at: number;
  deadline: number;
  attempts: number;
  /** Whether an earlier try may have stored it. */
  isInDoubt: boolean;
  last: Why | null;
  group: Group | null;
}

export interface Limits {
  events: number;
  bytes: number;
  orgs: number;
  delayMs: number;
}

/** No event is sent before `until`. */
interface Hold {
  until: number;
  failures: number;
  why: Why;
}

export type Settled<E> = [entry: E, outcome: Outcome];

/** The size of a body: its brackets, and a comma after each event but the last. */
export const bodyBytes = (entries: readonly Entry[]) =>
  entries.reduce((bytes, entry) => bytes + entry.bytes.length + 1, 1);

/**
 * These codes are about the event itself: an earlier try with the same bytes was not taken either. Others (a key that
 * was revoked, say) leave a doubt.
 */
const OF_THE_EVENT = ['bad_request', 'too_large', 'unsupported_media', 'invalid', 'id_conflict'];

export class Queue<E extends Entry> {
  #waiting: E[] = [];
  #bytes = 0;
  readonly #limits: Limits;
  #hold: Hold | null = null;
  readonly #holds = new Map<string | null, Hold>();

  constructor(limits: Limits) {
    this.#limits = { ...limits };
  }

  get size() {
    return this.#waiting.length;
  }

  add(entry: E) {
    this.#waiting.push(entry);
    this.#bytes += entry.bytes.length;
  }

  /** Whether the events make a request that needs to wait for no others. */
  isFull(now: number): boolean {
    return (this.#hold?.until ?? 0) <= now && this.#isBatch(this.#waiting.length, this.#bytes);
  }

  #isBatch(events: number, bytes: number) {
    return events >= this.#limits.events || bytes >= this.#limits.bytes;
  }

  /** When to call `expire` and `take` next; null if nothing waits. `isUrgent`: events do not wait for others. */
  deadline(now: number, isUrgent: boolean): number | null {
    let expiry = Infinity;
    let due = Infinity;
    let [events, bytes] = [0, 0];
    for (const entry of this.#waiting) {
      expiry = Math.min(expiry, entry.deadline);
      const held = this.#heldUntil(entry);
      const waits = isUrgent || entry.attempts > 0 ? entry.at : entry.at + this.#limits.delayMs;
      due = Math.min(due, Math.max(held, waits));
      if (held > now) continue;
      events += 1;
      bytes += entry.bytes.length;
    }
    if (this.#isBatch(events, bytes)) return now;
    return this.#waiting.length > 0 ? Math.min(due, expiry) : null;
  }

  #heldUntil(entry: E) {
    return Math.max(this.#hold?.until ?? 0, this.#holds.get(entry.org)?.until ?? 0);
  }

  /** The events that cannot be tried again within their time. */
  expire(now: number): Settled<E>[] {
    const isLate = (entry: E) => Math.max(now, this.#heldUntil(entry)) >= entry.deadline;
    const late = this.#waiting.filter(isLate);
    if (late.length > 0) this.#set(this.#waiting.filter((entry) => !isLate(entry)));
    return late.map((entry) => {
      const why = entry.last ?? this.#hold?.why ?? this.#holds.get(entry.org)?.why;
      return [entry, givenUp(entry, why ?? { code: 'expired', detail: 'its time (retryForMs) was over while it waited' })];
    });
  }

  clear() {
    this.#set([]);
  }

  #set(waiting: E[]) {
    this.#waiting = waiting;
    this.#bytes = waiting.reduce((bytes, entry) => bytes + entry.bytes.length, 0);
  }

  /** The events of the next request; none if all are held. They are out of the queue until `settle`. */
  take(now: number): E[] {
    const taken: E[] = [];
    const rest: E[] = [];
    const orgs = new Set<string | null>();
    // Whose events have one in `rest`: later ones must not overtake it.
    const passed = new Set<string>();
    let bytes = 1;
    for (const [at, entry] of this.#waiting.entries()) {
      const isLong = bytes + entry.bytes.length + 1 > this.#limits.bytes;
      if (taken.length > 0 && (taken.length >= this.#limits.events || isLong)) {
        rest.push(...this.#waiting.slice(at));
        break;
      }
      const lane = `${entry.org ?? ''}/${entry.service}`;
      const isOut =
        passed.has(lane) ||
        this.#heldUntil(entry) > now ||
        (taken[0] && entry.group !== taken[0].group) ||
        (!orgs.has(entry.org) && orgs.size >= this.#limits.orgs);
      if (isOut) {
        rest.push(entry);
        passed.add(lane);
        continue;
      }
      taken.push(entry);
      orgs.add(entry.org);
      bytes += entry.bytes.length + 1;
    }
    this.#set(rest);
    for (const entry of taken) entry.attempts += 1;
    return taken;
  }

  /** Takes the verdicts on a request; returns the events that are settled. `random` gives numbers in [0, 1). */
  settle(entries: readonly E[], verdicts: readonly Verdict[], now: number, random: () => number): Settled<E>[] {
    const settled: Settled<E>[] = [];
    const back: E[] = [];
    const held = new Map<string | null | undefined, { why: Why; askedMs: number }>();
    const split = new Map<string | null | undefined, { by: string; entries: E[] }>();
    for (const [at, entry] of entries.entries()) {
      const verdict = verdicts[at] ?? { kind: 'rest' };
      if (verdict.kind === 'stored') {
        const { kind, duplicate, ...place } = verdict;
        settled.push([entry, { status: duplicate ? 'duplicate' : kind, id: entry.id, ...place, attempts: entry.attempts }]);
      } else if (verdict.kind === 'refused') {
        settled.push([entry, refused(entry, verdict.why, verdict.errors)]);
      } else {
        back.push(entry);
      }
      if (verdict.kind !== 'again' && verdict.kind !== 'split') continue;
      const scope = verdict.among === 'org' ? entry.org : undefined;
      entry.last = verdict.why;
      if (verdict.kind === 'split') {
        const whole = split.get(scope) ?? { by: verdict.by, entries: [] };
        whole.entries.push(entry);
        split.set(scope, whole);
      } else {
        entry.isInDoubt ||= !verdict.isKnown;
        held.set(scope, verdict);
      }
    }
    this.#holdAll(entries, held, now, random);
    for (const whole of split.values()) this.#split(whole.by, whole.entries);
    // `take` left no earlier event of their org and service behind.
    this.#set([...back, ...this.#waiting]);
    return settled;
  }

  #holdAll(
    entries: readonly E[],
    held: Map<string | null | undefined, { why: Why; askedMs: number }>,
    now: number,
    random: () => number,
  ) {
    const holdOf = (before: Hold | null | undefined, scope: string | null | undefined): Hold | null => {
      const found = held.get(scope);
      if (!found) return null;
      const failures = (before?.failures ?? 0) + 1;
      return { until: now + delayMs(failures, random(), found.askedMs), failures, why: found.why };
    };
    this.#hold = holdOf(this.#hold, undefined);
    if (this.#hold) return;
    for (const org of new Set(entries.map((entry) => entry.org))) {
      const hold = holdOf(this.#holds.get(org), org);
      if (hold) this.#holds.set(org, hold);
      else this.#holds.delete(org);
    }
  }

  #split(by: string, entries: readonly E[]) {
    const halfOf = (count: number) => Math.max(1, Math.floor(count / 2));
    if (by === 'events') this.#limits.events = Math.min(this.#limits.events, halfOf(entries.length));
    if (by === 'bytes') this.#limits.bytes = Math.min(this.#limits.bytes, halfOf(bodyBytes(entries)));
    if (by === 'orgs') this.#limits.orgs = Math.min(this.#limits.orgs, halfOf(new Set(entries.map(({ org }) => org)).size));
    if (by === 'half') {
      const middle = Math.ceil(entries.length / 2);
      for (const half of [entries.slice(0, middle), entries.slice(middle)]) {
        const group = {};
        for (const entry of half) entry.group = group;
      }
    }
    if (by === 'service') {
      for (const entry of entries) entry.group = entries.find((other) => isAlike(entry, other)) ?? null;
    }
  }
}

/** What becomes of an event that is not tried again. */
export function givenUp(entry: Entry, { code, detail, limit }: Why): Outcome {
  const { id, attempts } = entry;
  const tries = attempts === 1 ? '1 try' : `${attempts} tries`;
  const sentence = attempts > 0 ? `given up after ${tries}: ${detail}` : detail;
  if (entry.isInDoubt) return { status: 'unknown', id, code, detail: sentence, attempts };
  const outcome: Refused = { status: 'refused', id, code, detail: sentence, retryable: true, attempts };
  return limit === undefined ? outcome : { ...outcome, limit };
}

function refused(entry: Entry, { code, detail, limit }: Why, errors: readonly FieldError[] | undefined): Outcome {
  const { id, attempts } = entry;
  if (entry.isInDoubt && !OF_THE_EVENT.includes(code)) {
    return { status: 'unknown', id, code, detail: `an earlier try may have stored it; the last: ${detail}`, attempts };
  }
  const outcome: Refused = { status: 'refused', id, code, detail, retryable: false, attempts };
  if (errors?.[0]) Object.assign(outcome, { pointer: errors[0].pointer, errors });
  return limit === undefined ? outcome : { ...outcome, limit };
}
