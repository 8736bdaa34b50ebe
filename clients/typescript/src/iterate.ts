// Events as an async iteration.

import { END, type Emitter } from './emitter.js';
import type { TidegateError } from './errors.js';
import type { IterateOptions, Off } from './options.js';

/** Holds the stream while the reader of the iteration has `limit` events in hand. */
export async function* iterate<E>(on: Emitter['on'], retain: () => Off, over: () => { error: TidegateError | null } | undefined, name: string, { service, signal, limit = 1 }: IterateOptions = {}): AsyncIterableIterator<E> {
  const buffer: E[] = [];
  let ended: { error: TidegateError | null } | undefined;
  let wake: Off | undefined;
  let goOn: Off | undefined;
  const end = (error: TidegateError | null) => {
    ended ??= { error };
    wake?.();
  };
  const abort = () => end(null);
  const offs = [
    on(name, (event: E) => {
      buffer.push(event);
      wake?.();
      return buffer.length < limit ? undefined : new Promise<void>((resolve) => { goOn = resolve; });
    }, { service }),
    on(END, end),
    () => signal?.removeEventListener('abort', abort),
    () => goOn?.(),
  ];
  signal?.addEventListener('abort', abort);
  if (signal?.aborted) abort();
  else {
    offs.push(retain());
    ended ??= over();
  }
  try {
    while (!signal?.aborted) {
      if (buffer.length > 0) {
        yield buffer[0]!;
        buffer.shift();
        goOn?.();
      } else if (!ended) await new Promise<void>((resolve) => { wake = resolve; });
      else if (ended.error) throw ended.error;
      else return;
    }
  } finally {
    for (const off of offs) off();
  }
}
