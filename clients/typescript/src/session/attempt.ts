// Connections come and go: how an attempt begins, how each kind of end is taken, and when the next one follows
// (PROTOCOL.md, "Ending and coming back").

import { formatCursor, wholeOr } from './cursor.js';
import { CLOSE_DONE, CLOSE_FAULT, DELAY_MIN_MS, HINT_MAX_MS, JITTER_MS, OPEN_MS, REFUSALS_MAX, SHORT_MS, STABLE_MS } from './limits.js';
import { config, count, emit, isOpen, now, random, report, s, wall } from './step.js';
import { cancelToken, getToken, refreshLater } from './token.js';
import type { Phase, TokenReason } from './types.js';

const DELAYS_S = [1, 2, 5, 10, 30, 60, 120, 240, 300];

/**
 * The delay is drawn from the window of 5 s to both sides of the base, never under 1 s nor under the hint. (If it
 * were drawn first and then raised to 1 s, half of all clients would come back in the same millisecond.)
 */
export function delay(attempt: number, random: number, hint: number): number {
  const base = Math.max((DELAYS_S[attempt] ?? 300) * 1000, hint);
  const low = Math.max(DELAY_MIN_MS, base - JITTER_MS, hint);
  return low + Math.floor(random * (base + JITTER_MS - low + 1));
}

/** `retry_in_ms` of the gateway. */
export const hintOf = (value: unknown): number => Math.min(wholeOr(value, 0), HINT_MAX_MS);

/** When another attempt may begin at the soonest. */
export const soonest = (): number => Math.max(now, s.open_at === null ? 0 : s.open_at + DELAY_MIN_MS, s.not_before ?? 0);

export function begin(): void {
  s.timers.retry = null;
  s.transport = s.home;
  if (s.token !== null && now < s.token_until) return open();
  s.phase = 'auth';
  getToken(s.asked ? 'expired' : 'initial');
}

export function open(): void {
  const { cursor, transport } = s;
  s.phase = 'opening';
  s.connection = ++s.generation;
  s.open_at = now;
  s.timers.phase = now + OPEN_MS;
  emit({
    t: 'open', g: s.connection, transport, token: s.token!,
    cursor: cursor && formatCursor(cursor), tail: cursor ? null : config.tail, replaces: s.connection_id,
  });
}

/** Ends the connection, if there is one, and all that depends on it. */
export function leave(code: number): void {
  const { timers, fill } = s;
  if (s.connection !== null) emit({ t: 'close', g: s.connection, code });
  s.connection = s.hello_at = s.ping = null;
  s.moving = false;
  timers.phase = timers.silence = timers.stable = timers.refresh = timers.leave = timers.retry = timers.report = null;
  if (fill) {
    // Nothing that was held back was handed over, so the stream resumes before it.
    emit({ t: 'cancel', g: fill.g });
    s.cursor = fill.after;
    s.fill = timers.page = null;
  }
}

const life = (): number => (s.hello_at === null ? 0 : now - s.hello_at);

/** Once a stream has been open for 10 s, the delays start over. */
export function settle(): void {
  if (life() < STABLE_MS) return;
  s.attempt = s.refusals = 0;
  s.timers.stable = null;
}

/** Counts the loss of a connection that was live, or that took the place of one. */
function lost(): void {
  s.tried = true;
  settle();
  if (life() >= SHORT_MS) s.short_lives = 0;
  if (!isOpen(s) && !s.moving) return;
  count('disconnects');
  s.disconnected_wall = wall;
}

/** Ends the connection or attempt, and waits for the next. */
export function wait(code: number): void {
  lost();
  leave(code);
  s.phase = 'backoff';
}

export function lose(code: string, message: string, hint = 0): void {
  wait(CLOSE_FAULT);
  const ms = delay(s.attempt, random, hint);
  s.not_before = hint > 0 ? now + hint : null;
  s.attempt += 1;
  s.timers.retry = now + ms;
  report(code, message, ms);
}

/** An end without a word of the gateway: something on the way may not let this transport pass. */
export function bareEnd(code: string, message: string, hint = 0): void {
  const other = config.transports.find((transport) => transport !== s.transport);
  if (s.hello_at === null) {
    s.before_hello += 1;
    if (s.before_hello >= 2 && other && s.transport === s.home && hint === 0) {
      // At once: if the other one opens now, the network is not what fails.
      const { moving } = s;
      leave(CLOSE_FAULT);
      report(code, message, 0);
      s.tried = true;
      s.moving = moving;
      s.transport = other;
      return open();
    }
  } else if (life() < SHORT_MS) {
    s.short_lives += 1;
    if (s.short_lives >= 2 && other) {
      s.short_lives = 0;
      s.home = other;
    }
  }
  lose(code, message, hint);
}

/** The gateway sent what it should not. */
export const broken = (what: string): void => lose('protocol', `faulty frame: ${what}`);

export function hole(): void {
  count('holes');
  lose('hole', 'a frame is missing');
}

export function end(phase: Phase): void {
  leave(CLOSE_DONE);
  cancelToken();
  s.phase = phase;
}

export function stop(code: string, message: string): void {
  lost();
  end('stopped');
  report(code, message, null, true);
}

/** The gateway has said why it ended the stream. */
export function ended(code: string, message: string, hint: number, isFinal: boolean): void {
  s.before_hello = 0;
  if (code === 'token_expired') {
    settle();
    s.token = null;
    s.refusals += 1;
    if (s.refusals === 1 && hint === 0) {
      wait(CLOSE_FAULT);
      report(code, message, 0);
      return begin();
    }
    if (s.refusals >= REFUSALS_MAX) return stop('auth', 'three tokens in a row had expired');
  } else if (isFinal) return stop(code, message);
  lose(code, message, hint);
}

/** The callback gave no token. */
export function tokenFailed(reason: TokenReason, message: string): void {
  if (s.phase === 'auth') return lose('token', message);
  report('token', message, null);
  if (reason === 'refresh') refreshLater();
}
