// The last steps of a session, as a test vector (spec/README.md). Only what went in is kept: the rest is computed
// by running a session over it.

import { Session } from './session/session.js';
import type { Config, Input, Output, State } from './session/types.js';

const STEPS_MAX = 200;
const CHARS_MAX = 1_000_000;

/** A recorded session: the steps that led here, what they caused, and the state before the first of them. */
export interface Dump {
  name: string;
  config: Config;
  /** Each `keys` in `remembered` is an array of pairs. */
  state: unknown;
  steps: DumpStep[];
}

export interface DumpStep {
  at: number;
  wall: number;
  random: number;
  in: Input;
  out: Output[];
  phase: string;
  deadline: number | null;
}

interface Entry { input: Input; at: number; wall: number; random: number }
interface Segment { start: State; entries: Entry[]; chars: number }

export interface Recorder {
  record(input: Input, at: number, wall: number, random: number, state: State): void;
  dump(): Dump;
}

/** Keeps two segments, each with the state at its start, and drops the older one when the newer is full. */
export function recorder(config: Config, parse: (text: string) => unknown): Recorder {
  let older: Segment | null = null;
  let newer: Segment | null = null;
  return {
    record: (input, at, wall, random, state) => {
      if (!newer || newer.entries.length >= STEPS_MAX / 2 || newer.chars >= CHARS_MAX / 2) {
        older = newer;
        newer = { start: copy(state), entries: [], chars: 0 };
      }
      newer.entries.push({ input, at, wall, random });
      newer.chars += 'text' in input ? input.text.length : 0;
    },
    dump: () => {
      const segments = [older, newer].filter((segment) => segment !== null);
      const start = segments[0]?.start ?? new Session(config).state;
      const session = new Session(config, copy(start), parse);
      const steps = segments.flatMap(({ entries }) => entries).map(({ input, at, wall, random }) => ({
        at, wall, random, in: input, out: session.step(input, at, wall, random), phase: session.state.phase, deadline: session.deadline(),
      }));
      return redact({ name: 'a dump of a client', config, state: start, steps });
    },
  };
}

function copy<T>(value: T): T {
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) return value.map(copy) as T;
  if (value instanceof Map) return new Map(value) as T;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, copy(part)])) as T;
}

// Gives each token a name, wherever it stands, and turns maps into arrays.
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
    if (value instanceof Map) return [...value];
    if (Array.isArray(value)) return value.map(walk);
    if (value === null || typeof value !== 'object' || Object.getPrototypeOf(value) === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, walk(part)]));
  };
  return walk(dump) as Dump;
}
