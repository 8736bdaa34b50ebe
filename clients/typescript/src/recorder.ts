// Keeps what went into a session of late. ./dump makes a test vector of it.

import type { Config, Input, State } from './session/types.js';

const STEPS_MAX = 200;
const CHARS_MAX = 1_000_000;

/** One step: what went in, when, and the random draw. */
export type Entry = [input: Input, at: number, wall: number, random: number];

/** Some steps with the state before the first. Maps in it only grow, so it has them with their size. */
export interface Segment { config: Config; start: unknown; entries: Entry[]; chars: number }

/** Keeps two segments: if the newer one is full, the older one goes. */
export function recorder(): { segments: Segment[]; record(config: Config, state: State, entry: Entry): void } {
  const segments: Segment[] = [];
  return {
    segments,
    record(config, state, entry) {
      let last = segments.at(-1);
      if (!last || last.entries.length >= STEPS_MAX / 2 || last.chars >= CHARS_MAX / 2) {
        segments.push(last = { config, start: copy(state), entries: [], chars: 0 });
        if (segments.length > 2) segments.shift();
      }
      last.entries.push(entry);
      if ('text' in entry[0]) last.chars += entry[0].text.length;
    },
  };
}

function copy(value: unknown): unknown {
  if (!value || typeof value !== 'object') return value;
  if (value instanceof Map) return { map: value, size: value.size };
  if (Array.isArray(value)) return value.map(copy);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, copy(part)]));
}
