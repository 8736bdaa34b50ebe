// The client of a Tidegate gateway for browsers, Node, Deno and Bun. Importing it does nothing.

export { createClient } from './client.js';
export { webSocket, type WebSocketConstructor, type WebSocketLike } from './websocket.js';
export { eventStream, type Fetch } from './sse.js';
export { browserLifecycle, type Lifecycle, type LifecycleSignal } from './lifecycle.js';
export { localStorageCursor, type CursorStorage } from './storage.js';
export { systemClock, type Clock } from './clock.js';
export { AuthError, TidegateError } from './errors.js';
export * from './events.js';
export type * from './options.js';
export type * from './transport.js';
export type { Health, HealthExtra } from './health.js';
export * from './schemas.js';
export type { Dump, DumpStep } from './dump.js';
export type {
  ClientFrame, Config as SessionConfig, ConnectionState, Cursor, Held, Input, Output, Phase, State, Timers, Transport as SessionTransport, TokenReason, WireEvent,
} from './session/types.js';
