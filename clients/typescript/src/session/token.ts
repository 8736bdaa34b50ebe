// Tokens: the application's callback is asked once at a time, and its answer may come late, or never.

import { REFRESH_AGAIN_MAX_MS, REFRESH_AGAIN_MIN_MS, TOKEN_MS } from './limits.js';
import { emit, isOpen, now, s } from './step.js';
import type { TokenReason } from './types.js';

export function getToken(reason: TokenReason): void {
  if (s.request) return; // its answer serves this purpose too
  s.request = { g: ++s.generation, reason };
  s.timers.token = now + TOKEN_MS;
  emit({ t: 'get_token', ...s.request });
}

export function cancelToken(): void {
  if (s.request) emit({ t: 'cancel', g: s.request.g });
  s.request = s.timers.token = null;
}

/** Asks again after a quarter of the time that is left, so that there are several more tries before the token expires. */
export function refreshLater(): void {
  if (!isOpen(s) || s.request) return;
  const quarter = Math.floor((s.token_until - now) / 4);
  s.timers.refresh = now + Math.min(REFRESH_AGAIN_MAX_MS, Math.max(REFRESH_AGAIN_MIN_MS, quarter));
}
