// Runs a recorded session anew and finds the first difference. Test vectors (spec/README.md) and `client.dump()`
// have the same form, so a bug report is a test.

import type { Health } from '../health.js';
import { createSession, type Session } from '../session/session.js';
import type { Config, Input, State } from '../session/types.js';

/** A recorded session, or what one must do. */
export interface Vector {
  readonly name: string;
  /** The rules and known failures that it is for. */
  readonly rules?: readonly string[];
  readonly config: Partial<Config>;
  /** The state before the first step. In `remembered`, each `keys` is an object. */
  readonly state?: unknown;
  readonly steps: readonly VectorStep[];
  /** The health of the client after the last step, as far as it matters. */
  readonly metrics?: Partial<Metrics>;
}

/** One step: what goes in, and what must come out. */
export interface VectorStep {
  /** Monotonic milliseconds. */
  readonly at: number;
  /** Milliseconds since 1970; `WALL_START + at` if absent. */
  readonly wall?: number;
  /** 0.5 if absent. */
  readonly random?: number;
  readonly in: Input;
  readonly out: readonly unknown[];
  readonly phase: string;
  readonly deadline: number | null;
}

/** The nine of the health that a session knows by itself. */
export type Metrics = Omit<Health, 'extra'>;

/** Where a vector and the session first differ. */
export interface Difference {
  /** Counted from 0; the number of steps if it is in `metrics`. */
  readonly step: number;
  readonly field: 'out' | 'phase' | 'deadline' | 'metrics';
  readonly expected: unknown;
  readonly found: unknown;
}

/** 2026-01-01T00:00:00Z. */
export const WALL_START = 1_767_225_600_000;

const CONFIG: Config = { transports: ['ws', 'sse'], transport: null, cursor: null, tail: null, fill: false, health: false };

/** The first difference, or null. Texts for people (`message`) are not compared. */
export function replay(vector: Vector): Difference | null {
  const session = createSession({ ...CONFIG, ...vector.config }, vector.state == null ? undefined : revive(vector.state));
  for (const [step, { at, wall = WALL_START + at, random = 0.5, in: input, ...expected }] of vector.steps.entries()) {
    const out = session.step(input, at, wall, random);
    const found = { out, phase: session.state.phase, deadline: session.deadline() };
    for (const field of ['out', 'phase', 'deadline'] as const) {
      if (!isSame(expected[field], found[field])) return { step, field, expected: expected[field], found: found[field] };
    }
  }
  const found = metricsOf(session);
  for (const [name, value] of Object.entries(vector.metrics ?? {})) {
    if (!isSame(value, found[name as keyof Metrics])) return { step: vector.steps.length, field: 'metrics', expected: vector.metrics, found };
  }
  return null;
}

/** The health that applications see, of the session alone. */
export function metricsOf({ state: s, connectionState }: Session): Metrics {
  return {
    connectionState: connectionState(), lastConnectedAt: s.connected_wall, lastDisconnectedAt: s.disconnected_wall,
    totalDisconnects: s.disconnects, reconnectAttempts: s.attempt, eventsReceived: s.events, eventLatencyMs: [...s.latencies],
    duplicatesDetected: s.overlaps + s.repeats, lastEventAt: s.event_wall,
  };
}

function revive(json: unknown): State {
  const state = structuredClone(json) as State;
  for (const generation of state.remembered) generation.keys = new Map(Object.entries(generation.keys));
  return state;
}

function isSame(a: unknown, b: unknown): boolean {
  if (typeof a !== 'object' || a === null || typeof b !== 'object' || b === null) return a === b;
  if (Array.isArray(a) || Array.isArray(b)) return Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((part, i) => isSame(part, b[i]));
  const isForPeople = 't' in a && (a.t === 'error' || a.t === 'status');
  const names = (object: object) => Object.keys(object).filter((name) => !(isForPeople && name === 'message'));
  return names(a).length === names(b).length && names(a).every((name) => Object.hasOwn(b, name) && isSame(a[name as keyof typeof a], b[name as keyof typeof b]));
}
