// The stream over WebSocket. The token goes among the subprotocols, as browsers can set no header.

import type { Connection, OpenRequest, Transport, TransportSink } from './transport.js';

/** The part of the standard WebSocket that is used; the one of browsers, Node 22 and `ws` all have it. */
export interface WebSocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

/** The constructor of a WebSocket. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** The transport over WebSocket; by default with the WebSocket of the platform. */
export function webSocket(WebSocket: WebSocketConstructor = globalThis.WebSocket as unknown as WebSocketConstructor): Transport {
  return { kind: 'ws', open: (request, sink) => open(WebSocket, request, sink) };
}

function open(WebSocket: WebSocketConstructor, { url, token }: OpenRequest, sink: TransportSink): Connection {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), ['tidegate.v1', `tidegate.bearer.${token}`]);
  // A socket whose peer is gone reports its end late or never, so nobody waits for that. `ws` throws if an error
  // has no listener.
  const detach = () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
  };
  socket.onopen = () => sink.opened();
  socket.onmessage = ({ data }: { data: unknown }) => sink.frame(String(data));
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
    detach();
    sink.closed({ close: code, message: reason || `the connection ended (${code})` });
  };
  return {
    send: (text) => socket.send(text),
    close: (code) => {
      detach();
      socket.close(code);
    },
  };
}
