// What a transport is: one connection at a time between the client and a gateway. `webSocket` and `eventStream`
// are the two that ship; ./testing has one that a test scripts.

/** `ws` or `sse`. */
export type TransportKind = 'ws' | 'sse';

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
  /** The connection is open: the WebSocket is, or the answer is an event stream. */
  opened(): void;
  /** For connections that are shared: from here on it is one of that kind. */
  switched?(kind: TransportKind): void;
  /** A frame came, as it is on the wire. */
  frame(text: string): void;
  /** The connection failed or ended. */
  closed(end: TransportEnd): void;
}

/** An open connection, or one that is being opened. */
export interface Connection {
  /** Sends a frame. */
  send(text: string): void;
  /** Closes it at once; nothing is reported after that. */
  close(code: number): void;
}

/** A way to the gateway. */
export interface Transport {
  readonly kind: TransportKind;
  /** Begins to connect. */
  open(request: OpenRequest, sink: TransportSink): Connection;
}
