// How long to wait before the next try.

const FIRST_MS = 200;
const LONGEST_MS = 10_000;
/** No gateway asks for more; a proxy that does would silence the publisher. */
export const ASKED_MS_MAX = 3_600_000;

/**
 * Exponential backoff: drawn from the upper half of 200 ms, 400 ms, ... up to 10 s, so that publishers that lost
 * the same gateway do not come back together. Never shorter than `askedMs`, which the gateway asked for.
 * `failures` counts from 1; `random` is in [0, 1).
 */
export function delayMs(failures: number, random: number, askedMs: number): number {
  const most = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failures - 1, 16));
  return Math.max(Math.floor(most / 2 + (most / 2) * random), askedMs);
}

/** The value of `Retry-After` (RFC 9110, section 10.2.3) in milliseconds; 0 if it has none that can be read. */
export function retryAfterMs(value: string | null, wall: number): number {
  const text = value?.trim() ?? '';
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const date = /[a-z]/i.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? 0 : Math.max(0, date - wall);
}
