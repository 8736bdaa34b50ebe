// What outlives a page: the cursor (only if the application wants it), and in a tab which transport works.

import type { TransportKind } from './transport.js';

/** Keeps the cursor over reloads. `set` gets positions whose events the handlers have finished. */
export interface CursorStorage {
  /** The stored cursor, or null. Called once. If it fails or takes 5 s, the client connects without it. */
  get(): string | null | Promise<string | null>;
  /** Stores it; called at most once a second, and when the page is hidden or the client disconnects; not before the last call is done. */
  set(cursor: string): void | Promise<void>;
}

/**
 * Keeps the cursor in localStorage. The key should name the user, so that nobody resumes where another one stopped.
 * Tabs that handle events for themselves need a key each: a slow tab that is loaded again would go on where the
 * fastest one was.
 */
export function localStorageCursor(key: string): CursorStorage {
  return {
    get: () => attempt(() => localStorage.getItem(key)),
    set: (cursor) => void attempt(() => localStorage.setItem(key, cursor)),
  };
}

const transportKey = (base: string) => `tidegate:transport:${base}`;

export const rememberedTransport = (base: string): string | null => attempt(() => sessionStorage.getItem(transportKey(base)));

export function rememberTransport(base: string, kind: TransportKind): void {
  attempt(() => sessionStorage.setItem(transportKey(base), kind));
}

// Storage may be absent, full, or forbidden by the user.
function attempt<T>(act: () => T): T | null {
  try {
    return act();
  } catch {
    return null;
  }
}
