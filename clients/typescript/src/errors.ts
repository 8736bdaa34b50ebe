// What goes wrong, as applications see it. README.md lists the codes.

import type { AnyEvent } from './events.js';

/** An error of a client. Tell errors apart by `code`. */
export class TidegateError extends Error {
  /** A word for programs: a code of the gateway (PROTOCOL.md), or one of the client's (README.md). */
  declare readonly code: string;
  /** Whether the client has stopped for good. */
  declare readonly fatal: boolean;
  /** How long the client waits before it tries again, if it does. */
  declare readonly retryInMs: number | null;
  /** The event that a handler or a schema failed on. */
  declare readonly event: AnyEvent | null;

  constructor(code: string, message: string, { cause, ...more }: { fatal?: boolean; retryInMs?: number | null; event?: AnyEvent | null; cause?: unknown } = {}) {
    super(message, { cause });
    Object.assign(this, { name: 'TidegateError', code, fatal: false, retryInMs: null, event: null, ...more });
  }
}

/**
 * Throw it in `getToken` if nobody is logged in: the client stops, and does not ask again. Any error with
 * `final: true` does the same, so that it works if a page holds two copies of this package.
 */
export class AuthError extends Error {
  override readonly name: string = 'AuthError';
  readonly final = true;
}

/** What was thrown, in words. */
export const words = (thrown: unknown): string => (thrown instanceof Error ? thrown.message : String(thrown));
