// What a transport is: one connection at a time between the client and a gateway. `webSocket` and `eventStream`
// are the two that ship; ./testing has one that a test scripts.

import type { Transport as Kind } from './session/types.js';

/** `ws` or `sse`. */
export type TransportKind = Kind;

/** A connection to be opened. */
export interface OpenRequest {
  /** The address of the stream with its query, without the token; `https:` or `http:`. */
  readonly url: string;
  readonly token: string;
}

/** How a connection ended, as far as the transport knows. */
export interface TransportEnd {
  /** WebSocket close code. */
  close?: number | null;
  /** HTTP status, and the code of its problem. */
  status?: number | null;
  code?: string | null;
  retry_in_ms?: number | null;
  message?: string;
}

/** Where a transport reports what happens. After `closed`, nothing more is reported. */
export interface TransportSink {
  opened(): void;
  frame(text: string): void;
  closed(end: TransportEnd): void;
}

/** An open connection, or one that is being opened. */
export interface Connection {
  send(text: string): void;
  /** Closes it at once; nothing is reported after that. */
  close(code: number): void;
}

/** A way to the gateway. */
export interface Transport {
  readonly kind: TransportKind;
  open(request: OpenRequest, sink: TransportSink): Connection;
}
