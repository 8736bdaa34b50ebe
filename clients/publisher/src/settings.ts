// The options, checked and with their defaults.

import { steadyClock } from './clock.js';
import { faultOfNames } from './names.js';
import type { Clock, PublisherOptions } from './types.js';

export interface Settings {
  address: string;
  key: string;
  org: string | null;
  maxBatch: number;
  maxBatchBytes: number;
  maxDelayMs: number;
  maxQueue: number;
  maxQueueBytes: number;
  retryForMs: number;
  requestTimeoutMs: number;
  fetch: typeof fetch;
  clock: Clock;
  random: () => number;
}

/** The names of all options. `satisfies` fails if one is missing. */
const NAMES = Object.keys({
  url: 0, key: 0, org: 0, maxBatch: 0, maxBatchBytes: 0, maxDelayMs: 0, maxQueue: 0, maxQueueBytes: 0, retryForMs: 0,
  requestTimeoutMs: 0, dedupWindowMs: 0, signal: 0, onOutcome: 0, logger: 0, fetch: 0, clock: 0, random: 0,
} satisfies Record<keyof PublisherOptions, 0>);

/** Throws a `TypeError` with a sentence for the first option that is wrong. */
export function settings<Events extends object>(options: PublisherOptions<Events>): Settings {
  const fault = faultOfNames(options, NAMES);
  if (fault !== null) throw wrong(fault);
  const { url, key, org } = options;
  const whole = (name: keyof PublisherOptions<Events>, value: unknown, fallback: number, least = 1) => {
    if (value === undefined) return fallback;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
    throw wrong(`${String(name)} must be a whole number of at least ${least}`);
  };
  if (key === undefined) throw wrong('key is missing; is the environment variable that holds it set?');
  if (typeof key !== 'string' || !/^[!-~]+$/.test(key)) {
    throw wrong('key must be an API key, such as tgk_..., without spaces or line breaks');
  }
  if (org !== undefined && !/^(?!\.)[\w.-]{1,64}$/.test(org)) {
    throw wrong('org must be 1 to 64 of A-Z a-z 0-9 . _ - and not start with a dot');
  }
  const maxDelayMs = whole('maxDelayMs', options.maxDelayMs, 5, 0);
  const retryForMs = whole('retryForMs', options.retryForMs, 240_000);
  if (retryForMs <= maxDelayMs) throw wrong('retryForMs must be more than maxDelayMs');
  const requestTimeoutMs = whole('requestTimeoutMs', options.requestTimeoutMs, 30_000);
  const dedupWindowMs = whole('dedupWindowMs', options.dedupWindowMs, 300_000);
  if (retryForMs + requestTimeoutMs >= dedupWindowMs) {
    const times = `retryForMs (${retryForMs}) and requestTimeoutMs (${requestTimeoutMs})`;
    throw wrong(`${times} together must be less than dedupWindowMs (${dedupWindowMs}), or a retry could store an event twice`);
  }
  return {
    address: `${base(url)}/v1/${org === undefined ? '' : `orgs/${org}/`}events`,
    key,
    org: org ?? null,
    maxBatch: whole('maxBatch', options.maxBatch, 100),
    maxBatchBytes: whole('maxBatchBytes', options.maxBatchBytes, 512 * 1024),
    maxDelayMs,
    maxQueue: whole('maxQueue', options.maxQueue, 10_000),
    maxQueueBytes: whole('maxQueueBytes', options.maxQueueBytes, 64 * 1024 * 1024),
    retryForMs,
    requestTimeoutMs,
    fetch: options.fetch ?? ((...request) => fetch(...request)),
    clock: options.clock ?? steadyClock(),
    random: options.random ?? Math.random,
  };
}

/** The address without a slash at its end. */
function base(url: unknown): string {
  const parsed = typeof url === 'string' && URL.canParse(url) ? new URL(url) : null;
  if (!parsed || !['http:', 'https:'].includes(parsed.protocol)) {
    throw wrong('url must be the address of the gateway, such as https://events.example.com');
  }
  if (parsed.username || parsed.password || parsed.search || parsed.hash) {
    throw wrong('url must have no user, password, query or fragment; the API key goes into key');
  }
  return parsed.href.replace(/\/+$/, '');
}

const wrong = (sentence: string) => new TypeError(`createPublisher: ${sentence}`);
