// What goes into a session and what comes out of it, and the state between. All of it is plain JSON, because
// test vectors (spec/vectors) are made of it. Names are those of the vectors, the same in Rust and TypeScript.
// Times are whole milliseconds: `now` is monotonic, `wall` is since 1970.

/** `ws`: WebSocket. `sse`: server-sent events. */
export type Transport = 'ws' | 'sse';

/**
 * - `idle`: not wanted. `stopped`: ended for good, by a final code.
 * - `auth`: waits for the application's token. `opening`: waits for the transport. `hello`: for the first frame.
 * - `live`: frames come. `probe`: as `live`, but the connection may be dead.
 * - `backoff`: waits until the next attempt.
 */
export type Phase = 'idle' | 'auth' | 'opening' | 'hello' | 'live' | 'probe' | 'backoff' | 'stopped';

/** The state as applications see it. */
export type ConnectionState = 'connected' | 'disconnected' | 'reconnecting';

/** Why the application is asked for a token: the first one, one in place of an expired one, or a renewal in time. */
export type TokenReason = 'initial' | 'expired' | 'refresh';

/** How a session behaves. */
export interface Config {
  /** In order of preference. */
  transports: Transport[];
  /** The one to begin with: what an earlier session of this tab found out. */
  transport: Transport | null;
  /** Where to start. */
  cursor: string | null;
  /** Without a cursor: start with the last events, at most so many. */
  tail: number | null;
  /** Whether gaps of slow readers are filled from history. */
  fill: boolean;
  /** Whether this client sends `health` frames. */
  health: boolean;
}

/** A fact. `g` is the generation that the output had to which this is the answer; others are dropped. */
export type Input =
  | { t: 'connect' }
  | { t: 'disconnect' }
  | { t: 'token'; g: number; token: string; expires_in_ms?: number | null }
  /** The callback failed; `final`: nobody is logged in, so trying again is of no use. */
  | { t: 'token_failed'; g: number; final: boolean; message: string }
  /** WebSocket: open. SSE: answered with 200 and an event stream. */
  | { t: 'opened'; g: number }
  /** The connection, which tabs share, is one of this kind from here on. */
  | { t: 'switched'; g: number; transport: Transport }
  | { t: 'frame'; g: number; text: string }
  /** The transport failed or ended. `close`: WebSocket close code; `status`, `code`: HTTP status and its problem's code. */
  | { t: 'closed'; g: number; close?: number | null; status?: number | null; code?: string | null; retry_in_ms?: number | null; message?: string }
  /** The page is visible again, the network is back, ...: the connection may be dead, or may work again. */
  | { t: 'wake'; reason: 'visible' | 'online' | 'pageshow' | 'resume' | 'app' }
  | { t: 'offline' }
  /** The page goes to sleep: leave the connection. */
  | { t: 'suspend' }
  /** `deadline()` has come. */
  | { t: 'tick' }
  /** The application is too far behind. */
  | { t: 'overflow' }
  /** It has handled all that was waiting. */
  | { t: 'drained' }
  /** A page of history, as the gateway answered it. */
  | { t: 'page'; g: number; text: string }
  | { t: 'page_failed'; g: number };

/** What the driver must do, in this order. */
export type Output =
  /** Ask the application for a token. */
  | { t: 'get_token'; g: number; reason: TokenReason }
  | { t: 'open'; g: number; transport: Transport; token: string; cursor: string | null; tail: number | null; replaces: string | null }
  /** Close that transport and forget it. */
  | { t: 'close'; g: number; code: number }
  /** Give up that request (a token, a page). */
  | { t: 'cancel'; g: number }
  | { t: 'send'; frame: ClientFrame }
  | { t: 'history'; g: number; after: string; to: number }
  /** Use this transport from now on, also after a reload. */
  | { t: 'transport'; transport: Transport }
  | { t: 'hello'; connection_id: string; services: string[]; head: number; cursor: string; resumed: boolean; renewed: boolean; sync: string | null }
  | { t: 'event'; event: WireEvent; replay: boolean; latency_ms: number | null }
  | { t: 'gap'; prev: number; seq: number; epoch: string; reason: string; services: string[] | null }
  /** All before this has been handed over: the position to keep. */
  | { t: 'cursor'; cursor: string }
  | { t: 'status'; code: string; message: string }
  | { t: 'error'; code: string; message: string; fatal: boolean; retry_in_ms: number | null }
  /** Comes last, if something in it has changed. */
  | { t: 'state'; state: ConnectionState; phase: Phase; attempt: number; retry_in_ms: number | null };

/** What a client sends. */
export type ClientFrame =
  | { type: 'pong' }
  | { type: 'ping'; n: number }
  | { type: 'auth'; token: string }
  | { type: 'health'; latencies_ms: number[]; disconnects: number; duplicates: number; holes: number; gaps: number };

/** An event as it stands in a frame. */
export interface WireEvent {
  seq: number;
  timestamp?: string;
  service?: string;
  event?: string;
  id?: string;
  source?: string;
  data?: unknown;
  [field: string]: unknown;
}

/** A position: `epoch-seq-tag` as text. */
export interface Cursor { epoch: string; seq: number; tag: string | null }

/** When something is due, or null. */
export interface Timers {
  token: number | null; // the token callback takes too long
  phase: number | null; // opening, hello and probe last at most until then
  silence: number | null;
  stable: number | null; // the delays start over
  refresh: number | null; // a new token is due
  leave: number | null; // after goaway
  retry: number | null;
  page: number | null; // a page of history takes too long
  sweep: number | null;
  report: number | null; // a health frame is due
}

/** An event on its way to the application. */
export interface Held { event: WireEvent; replay: boolean; latency_ms: number | null }

/** All that a session knows. */
export interface State {
  phase: Phase;
  generation: number; // the last one given out
  timers: Timers;
  attempt: number; // delays drawn since the last stable connection
  tried: boolean; // an attempt has failed, or a connection was lost, since `connect`
  not_before: number | null; // the gateway's hint
  paused: boolean; // the application is behind
  postponed: boolean; // late timers got more time
  // The connection.
  connection: number | null; // its generation
  transport: Transport; // of this connection or the next
  home: Transport; // the one to begin an attempt with
  kept: Transport; // the one that the driver was told to keep
  open_at: number | null; // when the last one was opened
  hello_at: number | null; // when its first hello came
  moving: boolean; // from one connection to the next without a loss
  before_hello: number; // bare failures before hello, in a row
  short_lives: number; // bare ends soon after hello, in a row
  // The token.
  token: string | null;
  token_until: number; // a new connection may use it until then
  request: { g: number; reason: TokenReason } | null;
  refusals: number;
  asked: boolean; // a token was had once
  // The stream.
  cursor: Cursor | null;
  connection_id: string | null;
  head: number;
  ping_interval_ms: number;
  dedup_window_ms: number;
  fill: { g: number; after: Cursor; to: number; reason: string; held: Held[]; cursor: Cursor } | null;
  // Client-side dedup after a gap of reason `epoch` (R14).
  dedup_until: number;
  remembered: { born: number; keys: Map<string, number> }[]; // oldest first; key -> append time
  // The clock.
  ping: { n: number; sent_at: number } | null;
  pings_sent: number;
  pings_heard: number; // on this connection
  pinged_at: number | null; // when the last of ours was sent
  samples: { rtt: number; offset: number }[]; // the last eight
  last_now: number;
  last_wall: number;
  // Health.
  connected_wall: number | null;
  disconnected_wall: number | null;
  event_wall: number | null;
  disconnects: number;
  events: number;
  overlaps: number; // events at or below the cursor
  repeats: number; // events known by id after a change of epoch
  holes: number;
  gaps: number;
  latencies: number[];
  unreported: { latencies_ms: number[]; disconnects: number; duplicates: number; holes: number; gaps: number };
  reported_at: number | null;
}
