// The options, checked and with their defaults.

import { steadyClock } from './clock.js';
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

/** Throws a `TypeError` with a sentence for the first option that is wrong. */
export function settings<Events extends object>(options: PublisherOptions<Events>): Settings {
  const { url, key, org } = options;
  const whole = (name: keyof Settings & keyof PublisherOptions<Events>, value: unknown, fallback: number, least = 1) => {
    if (value === undefined) return fallback;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
    throw wrong(`${String(name)} must be a whole number of at least ${least}`);
  };
  if (typeof key !== 'string' || !/^[!-~]+$/.test(key)) {
    throw wrong('key must be an API key, such as tgk_..., without spaces or line breaks');
  }
  if (org !== undefined && !/^(?!\.)[\w.-]{1,64}$/.test(org)) {
    throw wrong('org must be 1 to 64 of A-Z a-z 0-9 . _ - and not start with a dot');
  }
  const maxDelayMs = whole('maxDelayMs', options.maxDelayMs, 5, 0);
  const retryForMs = whole('retryForMs', options.retryForMs, 240_000);
  if (retryForMs <= maxDelayMs) throw wrong('retryForMs must be more than maxDelayMs');
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
    requestTimeoutMs: whole('requestTimeoutMs', options.requestTimeoutMs, 30_000),
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
