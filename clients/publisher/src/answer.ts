// What an answer of the gateway means for each event of the request. Pure; the same table is tested in Rust
// (spec/publish-answers.json).

import { ASKED_MS_MAX, retryAfterMs } from './delay.js';
import type { FieldError } from './types.js';

/** What is asked about an event. */
export interface Sent {
  id: string;
  service: string;
  /** Only if the events name their orgs. */
  org: string | null;
}

export interface Answer {
  status: number;
  retryAfter: string | null;
  location: string | null;
  body: string;
}

/** Why an event was not taken. */
export interface Why {
  code: string;
  detail: string;
  limit?: string;
}

/**
 * What becomes of one event:
 * - `stored`: the gateway has it.
 * - `refused`: final, and because of this event alone.
 * - `rest`: refused with others, without a fault of its own: send it again at once.
 * - `again`: send it again after a delay. `isKnown`: it is certainly not stored by this request.
 * - `split`: one of its `among` (the request, or the events of its org) has a fault, and which is not said: send
 *   fewer at a time. `by`: in halves; for each service on its own; or from now on never so many `events`, `bytes`
 *   or `orgs` in one request.
 */
export type Verdict =
  | { kind: 'stored'; seq: number; cursor: string; duplicate: boolean }
  | { kind: 'refused'; why: Why; errors?: FieldError[] }
  | { kind: 'rest' }
  | { kind: 'again'; why: Why; isKnown: boolean; askedMs: number; among: Among }
  | { kind: 'split'; by: 'half' | 'service' | 'events' | 'bytes' | 'orgs'; why: Why; among: Among };

export type Among = 'request' | 'org';

type Json = Record<string, unknown>;

interface Problem {
  why: Why;
  status: number;
  /** Whether the gateway itself has answered. */
  isOurs: boolean;
  askedMs: number;
  errors: Json[];
}

/** One verdict for each event, in the order of the request. `wall` is now, in milliseconds since 1970. */
export function read(answer: Answer, sent: readonly Sent[], wall: number): Verdict[] {
  const body = object(parsed(answer.body));
  const asked = retryAfterMs(answer.retryAfter, wall);
  if (answer.status >= 200 && answer.status < 300) {
    const stored = answer.status === 200 || answer.status === 207 ? readPlaces(body, sent) : null;
    const why = { code: `http_${answer.status}`, detail: 'something answered that is no Tidegate gateway: check the url' };
    return stored ?? sent.map(() => ({ kind: 'again', why, isKnown: false, askedMs: asked, among: 'request' }));
  }
  const whole = problemOf(body, answer.status, asked);
  // 0: what some runtimes show of a redirect.
  if (answer.status < 400) {
    const why = { ...whole.why, detail: `the address redirects to ${answer.location ?? 'another'}: give that one as the url` };
    return sent.map(() => ({ kind: 'refused', why }));
  }
  const orgs = new Map(objects(body?.orgs).map((entry) => [entry.org, object(entry.problem)]));
  if (orgs.size === 0) return judge(whole, sent, 'request');
  return byOrg(sent, (org, events) => judge(problemOf(orgs.get(org) ?? body, answer.status, asked), events, 'org'));
}

/** An answer with a place for each event; null if it is not that. */
function readPlaces(body: Json | null, sent: readonly Sent[]): Verdict[] | null {
  const places = objects(body?.events);
  if (!body || places.length !== sent.length || places.some((place, at) => place.id !== sent[at]?.id)) return null;
  const orgs = new Map(objects(body.orgs).map((entry) => [entry.org, entry]));
  const refused = new Map<string, Verdict[]>();
  byOrg(sent, (org, events) => {
    const problem = object(orgs.get(org)?.problem);
    if (org !== null && problem) refused.set(org, judge(problemOf(problem, Number(problem.status), 0), events, 'org'));
    return [];
  });
  const verdicts = sent.map(({ org }, at): Verdict | undefined => {
    const { seq, duplicate } = places[at] ?? {};
    const cursor = org === null ? body.cursor : orgs.get(org)?.cursor;
    if (typeof seq !== 'number') return org === null ? undefined : refused.get(org)?.shift();
    const [, epoch] = /^([0-9a-z]{1,32})-\d+(-[0-9a-z]{1,16})?$/.exec(text(cursor)) ?? [];
    if (epoch === undefined) return undefined;
    return { kind: 'stored', seq, cursor: `${epoch}-${seq}`, duplicate: duplicate === true };
  });
  return verdicts.every((verdict) => verdict !== undefined) ? verdicts : null;
}

/** What a refusal of `events`, which were refused together, means for each. */
function judge(problem: Problem, events: readonly Sent[], among: Among): Verdict[] {
  const { why, status, isOurs, askedMs } = problem;
  if (isAgain(status, why.code)) {
    const isKnown = status === 429 || (isOurs && status !== 504 && why.code !== 'internal');
    return events.map(() => ({ kind: 'again', why, isKnown, askedMs, among }));
  }
  const faults = faultsOf(problem.errors, events.length);
  if (faults.size > 0) {
    return events.map((_, at) => {
      const errors = faults.get(at);
      const [first] = errors ?? [];
      if (!errors || !first) return { kind: 'rest' };
      const { detail, limit } = first;
      return { kind: 'refused', why: limit === undefined ? { code: why.code, detail } : { code: why.code, detail, limit }, errors };
    });
  }
  const by = splitBy(problem, events);
  const said = isOurs ? { ...why, detail: withoutIndex(why.detail, events.length === 1 ? 'the event' : 'an event') } : why;
  return events.map(() => (by ? { kind: 'split', by, why: said, among } : { kind: 'refused', why: said }));
}

/**
 * A sentence of the gateway with `name` for each "event 7": the gateway counts the events of one request, which the
 * application does not know.
 */
function withoutIndex(sentence: string, name: string): string {
  return sentence.replace(/\bevent \d+\b/g, name);
}

function isAgain(status: number, code: string): boolean {
  return [408, 425, 429].includes(status) || status >= 500 || code === 'in_progress';
}

/** How events that were refused together are taken apart; null if that is of no use. */
function splitBy({ why, status, isOurs }: Problem, events: readonly Sent[]): 'half' | 'service' | 'events' | 'bytes' | 'orgs' | null {
  if (events.length < 2) return null;
  // What a key covers depends on org and service alone.
  if (status === 403 && isOurs) return events.every((event) => isAlike(event, events[0])) ? null : 'service';
  if (status === 413 && why.limit === 'limits.events_per_batch') return 'events';
  if (status === 413 && why.limit === 'limits.request_bytes') return 'bytes';
  if (status === 413 && why.limit === 'limits.orgs_per_batch') return 'orgs';
  return [409, 413, 422].includes(status) ? 'half' : null;
}

export function isAlike(one: Sent, other: Sent | undefined): boolean {
  return one.org === other?.org && one.service === other.service;
}

/** The faults of each event, by its index, with pointers into the event. */
function faultsOf(errors: readonly Json[], count: number): Map<number, FieldError[]> {
  const faults = new Map<number, FieldError[]>();
  for (const error of errors) {
    const found = /^\/(\d+)(\/.*)?$/s.exec(text(error.pointer));
    const at = Number(found?.[1] ?? count);
    if (at >= count) continue;
    const fault: FieldError = { pointer: found?.[2] ?? '', code: text(error.code), detail: text(error.detail) };
    if (typeof error.limit === 'string') fault.limit = error.limit;
    const known = faults.get(at);
    if (known) known.push(fault);
    else faults.set(at, [fault]);
  }
  return faults;
}

function problemOf(body: Json | null | undefined, status: number, askedMs: number): Problem {
  const isOurs = typeof body?.code === 'string' && typeof body.detail === 'string';
  const asked = typeof body?.retry_in_ms === 'number' ? body.retry_in_ms : 0;
  const why: Why = isOurs
    ? { code: text(body.code), detail: text(body.detail) }
    : { code: `http_${status}`, detail: `HTTP ${status} without a code of Tidegate; something before the gateway may have sent it` };
  if (isOurs && typeof body.limit === 'string') why.limit = body.limit;
  return { why, status, isOurs, askedMs: Math.min(Math.max(asked, askedMs), ASKED_MS_MAX), errors: objects(body?.errors) };
}

/** `judges` the events of each org together, and returns the verdicts in the order of the request. */
function byOrg(sent: readonly Sent[], judges: (org: string | null, events: Sent[]) => Verdict[]): Verdict[] {
  const parts = new Map<string | null, Sent[]>();
  for (const event of sent) {
    const part = parts.get(event.org);
    if (part) part.push(event);
    else parts.set(event.org, [event]);
  }
  const verdicts = new Map([...parts].map(([org, events]) => [org, judges(org, events)]));
  return sent.flatMap(({ org }) => verdicts.get(org)?.shift() ?? []);
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

function object(value: unknown): Json | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : null;
}

function objects(value: unknown): Json[] {
  return Array.isArray(value) ? value.map(object).filter((entry) => entry !== null) : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
