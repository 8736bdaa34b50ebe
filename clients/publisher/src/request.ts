// One request: the events as a body, and the answer or what went wrong.

import type { Answer } from './answer.js';
import { type Fault, faultOf } from './fault.js';
import type { Entry } from './queue.js';

export type Attempt =
  | { kind: 'answer'; answer: Answer }
  | { kind: 'broken'; fault: Fault };

export function body(entries: readonly Entry[]): Uint8Array<ArrayBuffer> {
  const length = entries.reduce((bytes, entry) => bytes + entry.bytes.length + 1, 1);
  const whole = new Uint8Array(length).fill(0x2c); // commas
  whole[0] = 0x5b;
  whole[length - 1] = 0x5d;
  let at = 1;
  for (const { bytes } of entries) {
    whole.set(bytes, at);
    at += bytes.length + 1;
  }
  return whole;
}

/** Sends `body`. Ends when `signal` aborts, even if `send` does not listen to it; never rejects. */
export async function attempt(
  send: typeof fetch,
  url: string,
  key: string,
  body: Uint8Array<ArrayBuffer>,
  signal: AbortSignal,
): Promise<Attempt> {
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
  const answer = exchange(send, url, key, body, signal);
  // The one that loses the race may still reject.
  answer.catch(() => {});
  aborted.catch(() => {});
  try {
    return { kind: 'answer', answer: await Promise.race([answer, aborted]) };
  } catch (error) {
    return { kind: 'broken', fault: faultOf(error, url) };
  }
}

async function exchange(
  send: typeof fetch,
  url: string,
  key: string,
  body: Uint8Array<ArrayBuffer>,
  signal: AbortSignal,
): Promise<Answer> {
  const response = await send(url, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body,
    // A redirect would become a GET, or take the key elsewhere.
    redirect: 'manual',
    signal,
  });
  return {
    status: response.status,
    retryAfter: response.headers.get('retry-after'),
    location: response.headers.get('location'),
    body: await response.text(),
  };
}
