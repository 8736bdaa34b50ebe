// What `createClient` takes and gives.

import type { Clock } from './clock.js';
import type { TidegateError } from './errors.js';
import type { EventName, EventsOf, Gap } from './events.js';
import type { Health } from './health.js';
import type { Lifecycle } from './lifecycle.js';
import type { Dump } from './dump.js';
import type { ConnectionState, Output, Phase, State, TokenReason } from './session/types.js';
import type { Validate } from './schemas.js';
import type { Fetch } from './sse.js';
import type { CursorStorage } from './storage.js';
import type { Transport, TransportKind } from './transport.js';
import type { WebSocketConstructor } from './websocket.js';

/** What `getToken` is called with. */
export interface TokenRequest {
  /** `initial`: the first one. `expired`: the last one is no longer good. `refresh`: the last one expires soon. */
  readonly reason: TokenReason;
  /** Aborted when the answer is no longer wanted, which includes 15 s without one. */
  readonly signal: AbortSignal;
}

/** A token with the time that it is good for. The gateway tells that too, so a plain string is enough. */
export interface TokenAnswer {
  readonly token: string;
  readonly expiresInMs?: number | null;
}

/** Where the client writes what it does; `console` is one. */
export interface Logger {
  /** Each change of the status. */
  info?(message: string, status: ClientStatus): void;
  /** Each error. If it is given, none goes to the console. */
  warn?(message: string, error: TidegateError): void;
}

/** What `createClient` takes. */
export interface ClientOptions {
  /** The gateway's base address: `https://events.example.com`. `wss:` is the same. In a page it may be relative. */
  url: string;
  /** The org whose events are wanted; the token must be of this org. */
  org: string;
  /** Only events of these services. Without it: all that the token allows. */
  services?: readonly string[] | undefined;
  /** Gets a token from your backend. Throw an `AuthError` if nobody is logged in; after any other error the client tries again. */
  getToken(request: TokenRequest): string | TokenAnswer | Promise<string | TokenAnswer>;
  /** Where to start: a cursor from your backend or of an earlier client. */
  cursor?: string | null | undefined;
  /** Without a cursor: start with the last events, at most so many (up to 1,000). Without both: only new events. */
  tail?: number | null | undefined;
  /** What the gateway does if this client is slow (PROTOCOL.md, "Slow readers"). By default `catch_up`. */
  slow?: 'catch_up' | 'skip' | 'latest' | undefined;
  /** Whether gaps of reason `slow_consumer` are filled from history. By default false. */
  fill?: boolean | undefined;
  /** Checks each event: returns the data to hand over, or throws. Then the event is reported as an error `schema`, and handed to nobody. `schemas` makes one of validators. */
  validate?: Validate | undefined;
  /** How many events may wait for handlers before the connection is closed until they are handled. By default 5,000. */
  maxQueue?: number | undefined;
  /** Keeps the cursor over reloads: `localStorageCursor(key)`, or your own. By default nothing is kept. */
  storage?: CursorStorage | null | undefined;
  /** The share of clients that report their health to the gateway, from 0 (the default) to 1. */
  health?: number | undefined;
  /** The name of the function in `window` that gives the health. By default `__realtimeMetrics`; false: none. */
  metricsKey?: string | false | undefined;
  logger?: Logger | null | undefined;
  /** The ways to the gateway, in order of preference. By default `[webSocket(), eventStream()]`, as far as the platform has them. */
  transports?: readonly Transport[] | undefined;
  /** The WebSocket of the default transports. Node 20 has none: take the one of `ws`. */
  webSocket?: WebSocketConstructor | undefined;
  /** The fetch of the default transports and of history. */
  fetch?: Fetch | undefined;
  /** What the page or app reports about itself. By default the browser's; null: nothing. */
  lifecycle?: Lifecycle | null | undefined;
  /** In Node: whether the client's timer keeps the process running. By default true. */
  keepAlive?: boolean | undefined;
  /** For tests. */
  clock?: Clock | undefined;
  /** For tests: draws from [0, 1). */
  random?: (() => number) | undefined;
  /** Reads the JSON of frames. Give one that keeps long numbers if you need them. */
  parse?: ((text: string) => unknown) | undefined;
  /** For tools: called for each output of the session before it is performed. `open` and `send` contain tokens. */
  observe?: ((output: Readonly<Output>, state: Readonly<State>) => void) | undefined;
}

/** The connection, as a page shows it. A new object whenever something in it changes, and frozen. */
export interface ClientStatus {
  readonly state: ConnectionState;
  readonly phase: Phase;
  /** Attempts since the connection was last stable. */
  readonly attempt: number;
  /** When the next attempt begins, in milliseconds since 1970. */
  readonly retryAt: number | null;
  readonly transport: TransportKind | null;
  /** The last error of a connection or token, until the client is connected again. */
  readonly error: TidegateError | null;
}

/** What the gateway says about itself: `log_halted`, `log_full`, `degraded`, `recovered`, ... (PROTOCOL.md, `status`). */
export interface Notice {
  readonly code: string;
  readonly message: string;
}

/** Ends what it was returned for. Calling it again does nothing. */
export type Off = () => void;

/** Which events a handler gets. */
export interface OnOptions {
  /** Only events of this service. */
  readonly service?: string | undefined;
}

/** How an iteration goes. */
export interface IterateOptions extends OnOptions {
  /** Ends the iteration. */
  readonly signal?: AbortSignal | undefined;
  /** How many events may wait in this iterator before the stream waits for it. By default 1: an event counts as handled once the next one is asked for. */
  readonly limit?: number | undefined;
}

/** Called for each event. The next event waits for the promise, if it returns one. */
export type Handler<E> = (event: E) => unknown;

/** One org's stream. All functions may be used without the object. */
export interface Client {
  readonly org: string;
  /** Calls `handler` for each event of that name, or of all names (`*`). */
  readonly on: <N extends EventName | '*'>(name: N, handler: Handler<EventsOf<N>>, options?: OnOptions) => Off;
  /**
   * The events as an async iteration. It keeps the client connected while it runs, and throws if the client stops for
   * good. It ends with `dispose`. On a client that has stopped it throws at once if something else retains the client;
   * otherwise it connects anew, as `retain` does. An iteration that is not read on holds the stream for all handlers:
   * leave it by `break`, `return()` or `signal`.
   */
  readonly events: <N extends EventName | '*'>(name: N, options?: IterateOptions) => AsyncIterableIterator<EventsOf<N>>;
  /** Calls `handler` if some events will not come, in its place among the events. Load your state again then. */
  readonly onGap: (handler: Handler<Gap>) => Off;
  /** Called for each error: of the connection, of a handler, of the token callback. If nobody listens, see README.md, "Errors". */
  readonly onError: (handler: (error: TidegateError) => void) => Off;
  /** Called when the status changes. */
  readonly onStatus: (handler: (status: ClientStatus) => void) => Off;
  /** Called when the gateway says something about itself. */
  readonly onNotice: (handler: (notice: Notice) => void) => Off;
  /** As `onStatus`, without an argument (for `useSyncExternalStore`). */
  readonly subscribe: (changed: () => void) => Off;
  /** The status now: the same object until something in it changes. */
  readonly getStatus: () => ClientStatus;
  /** Connects, and stays connected until the last `retain` is released; then waits 1 s before it disconnects. */
  readonly retain: () => Off;
  /** Connects, and stays connected until `disconnect`. */
  readonly connect: () => void;
  /** Events that have come are still handed over. `connect` goes on after them. */
  readonly disconnect: () => void;
  /** Closes the connection and opens another at once, with a new token. */
  readonly reconnect: () => void;
  /** Disconnects for good, and removes all that the client put into the page. Connecting after that is an error `disposed`. */
  readonly dispose: () => void;
  /** The health now. */
  readonly metrics: () => Health;
  /** The last steps (at most 200), without tokens, as a test vector; null before the first. `replay` of ./testing runs it. */
  readonly dump: () => Promise<Dump | null>;
  /** The position up to which the handlers have finished; null before the first connection. */
  readonly cursor: string | null;
}
