// The handlers that an application has given, by the name of what they are for.

import type { Off, OnOptions } from './options.js';

// Names that no event can have.
export const GAP = ' gap';
export const ERROR = ' error';
export const STATUS = ' status';
export const NOTICE = ' notice';
/** No more events come: with the error that stopped the client, or null. */
export const END = ' end';

export interface Emitter {
  on(name: string, handler: (value: never) => unknown, options?: OnOptions): Off;
  /** Calls the handlers of a name in the order in which they were given. Returns what is to be waited for, if anything. */
  emit(name: string, value: object | null): Promise<unknown> | undefined;
  has(name: string): boolean;
  clear(): void;
}

interface Entry { handler: ((value: never) => unknown) | null; service: string | undefined }

/** `failed` is called for each handler that throws or rejects. */
export function emitter(failed: (thrown: unknown, name: string, value: object | null) => void): Emitter {
  const lists = new Map<string, Entry[]>();
  return {
    on(name, handler, options) {
      const entry: Entry = { handler, service: options?.service };
      // A new list each time: one may be under way.
      lists.set(name, [...(lists.get(name) ?? []), entry]);
      return () => {
        entry.handler = null;
        lists.set(name, lists.get(name)?.filter((other) => other !== entry) ?? []);
      };
    },
    emit(name, value) {
      const list = lists.get(name);
      if (!list) return undefined;
      let waits: Promise<unknown>[] | undefined;
      for (const { handler, service } of list) {
        if (!handler || (service && service !== (value as { service?: string }).service)) continue;
        try {
          const result = handler(value as never) as Promise<unknown> | undefined;
          if (result?.then) (waits ??= []).push(Promise.resolve(result).catch((thrown: unknown) => failed(thrown, name, value)));
        } catch (thrown) {
          failed(thrown, name, value);
        }
      }
      return waits && Promise.all(waits);
    },
    has: (name) => !!lists.get(name)?.length,
    clear: () => lists.clear(),
  };
}
