// The stream over server-sent events, read by fetch: EventSource can send no header, hides why it was refused, and
// reconnects by itself beside us.

import { words } from './errors.js';
import { textOf } from './session/cursor.js';
import { sseParser } from './sse-parser.js';
import type { Connection, OpenRequest, Transport, TransportEnd, TransportSink } from './transport.js';

/** The part of the standard fetch that is used. */
export type Fetch = (url: string, options: RequestInit) => Promise<Response>;

/** The transport over server-sent events; by default with the fetch of the platform. */
export function eventStream(fetch: Fetch = (...request) => globalThis.fetch(...request)): Transport {
  return { kind: 'sse', open: (request, sink) => open(fetch, request, sink) };
}

function open(fetch: Fetch, { url, token }: OpenRequest, sink: TransportSink): Connection {
  const stop = new AbortController();
  const { signal } = stop;
  const end = (closed: TransportEnd) => {
    if (signal.aborted) return;
    stop.abort();
    sink.closed(closed);
  };
  read(fetch, url, token, signal, sink).then(end, (error: unknown) => end({ message: `the event stream failed: ${words(error)}` }));
  return { send: () => {}, close: () => stop.abort() };
}

async function read(fetch: Fetch, url: string, token: string, signal: AbortSignal, sink: TransportSink): Promise<TransportEnd> {
  const answer = await fetch(url, {
    headers: { accept: 'text/event-stream', authorization: `Bearer ${token}` },
    cache: 'no-store', redirect: 'manual', signal,
  });
  // Browsers hide the status of a redirect: it is 0.
  if (/^(0|3..)$/.test(`${answer.status}`)) {
    return { message: 'the address redirects; give the final one' };
  }
  if (answer.status !== 200) return refusal(answer);
  if (!/^text\/event-stream\b/i.test(answer.headers.get('content-type') ?? '')) {
    return { status: 200, message: 'the answer is not an event stream' };
  }
  if (signal.aborted || !answer.body) return {};
  sink.opened();
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  const take = sseParser((data) => {
    if (!signal.aborted) sink.frame(data);
  });
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { message: 'the event stream ended' };
    take(decoder.decode(value, { stream: true }));
  }
}

async function refusal(answer: Response): Promise<TransportEnd> {
  const { status } = answer;
  const problem = (await answer.json().catch(() => null)) as { code?: unknown; detail?: string; retry_in_ms?: number } | null;
  // Seconds, or a date (RFC 9110, 10.2.3).
  const after = answer.headers.get('retry-after') ?? '';
  const wait = Number(after) * 1000 || Date.parse(after) - Date.now() || 0;
  return {
    status,
    code: textOf(problem?.code) || null, // others than the gateway send numbers
    retry_in_ms: Math.ceil(Math.max(problem?.retry_in_ms ?? 0, wait)),
    message: problem?.detail ?? `status ${status} without a word of the gateway`,
  };
}
