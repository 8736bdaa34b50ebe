// Makes a test vector (spec/README.md) of what a client has recorded. Only what went in is recorded: the rest is
// computed by running a session over it. Loaded when it is needed.

import type { Segment } from './recorder.js';
import { createSession } from './session/session.js';
import type { Config, Input, Output, State } from './session/types.js';

/** The last steps of a client: the state before them, what went in, and what came out. `replay` of ./testing runs it. */
export interface Dump {
  name: string;
  config: Config;
  /** Each `keys` in `remembered` is an object. */
  state: unknown;
  steps: DumpStep[];
}

/** One step. Times are milliseconds: `at` is monotonic, `wall` since 1970. */
export interface DumpStep {
  at: number;
  wall: number;
  random: number;
  in: Input;
  out: Output[];
  phase: string;
  deadline: number | null;
}

export function vector(segments: Segment[], parse: (text: string) => unknown): Dump | null {
  const [first] = segments;
  if (!first) return null;
  const { config, start } = first;
  const session = createSession(config, restore(start) as State, parse);
  const steps = segments.flatMap(({ entries }) => entries).map(([input, at, wall, random]) => ({
    at, wall, random, in: input, out: session.step(input, at, wall, random), phase: session.state.phase, deadline: session.deadline(),
  }));
  return redact({ name: 'a dump of a client', config, state: restore(start), steps });
}

interface Grown { map: Map<string, unknown>; size: number }

function restore(value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) return value.map(restore);
  const { map, size } = value as Partial<Grown>;
  if (map instanceof Map) return new Map([...map].slice(0, size));
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, restore(part)]));
}

// Gives each token a name, wherever it stands, and turns maps into objects.
function redact(dump: Dump): Dump {
  const names = new Map<string, string>();
  const learn = (token: unknown) => {
    if (typeof token === 'string' && token !== '' && !names.has(token)) names.set(token, `token-${names.size + 1}`);
  };
  learn((dump.state as State).token);
  for (const { in: input } of dump.steps) if (input.t === 'token') learn(input.token);
  const walk = (value: unknown): unknown => {
    if (typeof value === 'string') {
      const name = names.get(value);
      if (name) return name;
      let text = value;
      // A short one is a test's, and may be part of a word.
      for (const [token, label] of names) if (token.length >= 16) text = text.replaceAll(token, label);
      return text;
    }
    if (value instanceof Map) return Object.fromEntries(value);
    if (Array.isArray(value)) return value.map(walk);
    if (value === null || typeof value !== 'object' || Object.getPrototypeOf(value) === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, walk(part)]));
  };
  return walk(dump) as Dump;
}
