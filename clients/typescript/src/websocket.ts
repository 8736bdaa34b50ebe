// The stream over WebSocket. The token goes among the subprotocols, as browsers can set no header.

import type { Connection, OpenRequest, Transport, TransportSink } from './transport.js';

/** The part of the standard WebSocket that is used; the one of browsers, Node 22 and `ws` all have it. */
export interface WebSocketLike {
  /** Called when it is open. */
  onopen: ((event: never) => void) | null;
  /** Called with each message. */
  onmessage: ((event: never) => void) | null;
  /** Called before `onclose`, if it failed. */
  onerror: ((event: never) => void) | null;
  /** Called with code and reason. */
  onclose: ((event: never) => void) | null;
  /** Sends a text message. */
  send(text: string): void;
  /** Begins to close it. */
  close(code?: number, reason?: string): void;
}

/** The constructor of a WebSocket. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** The transport over WebSocket; by default with the WebSocket of the platform. */
export function webSocket(WebSocket: WebSocketConstructor = globalThis.WebSocket as unknown as WebSocketConstructor): Transport {
  return { kind: 'ws', open: (request, sink) => open(WebSocket, request, sink) };
}

function open(WebSocket: WebSocketConstructor, { url, token }: OpenRequest, sink: TransportSink): Connection {
  let socket: WebSocketLike;
  try {
    socket = new WebSocket(url.replace(/^http/, 'ws'), ['tidegate.v1', `tidegate.bearer.${token}`]);
  } catch (thrown) {
    // Its message may repeat the subprotocols, and so the token.
    throw new Error(`the platform refuses to open this WebSocket (${(thrown as Error | null)?.name})`);
  }
  // A socket whose peer is gone reports its end late or never, so nobody waits for that.
  const detach = () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
  };
  socket.onopen = () => sink.opened();
  socket.onmessage = ({ data }: { data: unknown }) => sink.frame(String(data));
  socket.onerror = () => {}; // `ws` throws if an error has no listener
  socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
    detach();
    // The gateway's close codes come with the name of its own code.
    const isOurs = /^(1009|101[123]|4...)$/.test(`${code}`);
    sink.closed({ close: code, code: (isOurs && reason) || null, message: reason || `the connection ended (${code})` });
  };
  return {
    send: (text) => socket.send(text),
    close: (code) => {
      detach();
      socket.close(code);
    },
  };
}
