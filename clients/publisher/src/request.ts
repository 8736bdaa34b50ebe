// One request: the events as a body, and the answer or what went wrong.

import type { Answer } from './answer.js';
import type { Entry } from './queue.js';

export type Attempt =
  | { kind: 'answer'; answer: Answer }
  /** No answer came. `isKnown`: there was no connection, so nothing can have been stored. */
  | { kind: 'broken'; detail: string; isKnown: boolean };

/** What fails before a request is sent: codes of Node and Bun, and a part of Deno's sentence. */
const NO_CONNECTION = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'UND_ERR_CONNECT_TIMEOUT', 'ConnectionRefused'];
const NO_CONNECTION_IN_DENO = 'client error (Connect)';

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
    return { kind: 'broken', ...fault(error) };
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

/** `fetch` hides the fault of the socket in `cause`. */
function fault(error: unknown): { detail: string; isKnown: boolean } {
  const { message, code } = fields(error);
  const cause = fields(fields(error).cause);
  const codes = [code, cause.code].filter((found) => typeof found === 'string');
  const words = [cause.code, cause.message, message, error].find((word) => typeof word === 'string' && word !== '');
  return {
    detail: `no answer came: ${String(words ?? 'the request failed')}`,
    isKnown: codes.some((found) => NO_CONNECTION.includes(found)) || String(cause.message).includes(NO_CONNECTION_IN_DENO),
  };
}

function fields(value: unknown): { message?: unknown; code?: unknown; cause?: unknown } {
  return typeof value === 'object' && value !== null ? value : {};
}
