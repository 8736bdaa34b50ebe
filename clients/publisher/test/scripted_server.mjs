// An HTTP server that does what a test says, request by request: answers, or breaks the connection.
import { createServer } from 'node:http';

export class ScriptedServer {
  /** Each request as it came: { path, headers, events }. */
  requests = [];
  #script = [];
  #server = createServer((request, response) => this.#take(request, response));

  async start(t) {
    await new Promise((resolve) => { this.#server.listen(0, '127.0.0.1', resolve); });
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
    t.after(() => this.stop());
    return this;
  }

  stop() {
    this.#server.closeAllConnections();
    return new Promise((resolve) => { this.#server.close(resolve); });
  }

  /** What to do with the next requests, one each; after that all events are stored. */
  next(...acts) {
    this.#script.push(...acts);
    return this;
  }

  async #take(request, response) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const events = JSON.parse(Buffer.concat(chunks).toString() || '[]');
    this.requests.push({ path: request.url, headers: request.headers, events });
    if (request.url === '/hang') return;
    const act = this.#script.shift() ?? store;
    act(response, events, this);
  }

  seq = 0;
}

/** Stores all events of one org. */
export function store(response, events, server) {
  const places = events.map(({ service, id }) => ({ service, id, seq: (server.seq += 1), duplicate: false }));
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ cursor: `e-${server.seq}`, events: places }));
}

export const answer = (status, body, headers = {}) => (response) => {
  response.writeHead(status, { 'content-type': 'application/problem+json', ...headers });
  response.end(typeof body === 'string' ? body : JSON.stringify(body));
};

export const refuse = (status, code, more = {}, headers = {}) =>
  answer(status, { type: 'about:blank', title: '', status, code, detail: `the sentence of ${code}`, ...more }, headers);

/** A TCP reset before the answer. */
export const reset = (response) => response.socket.resetAndDestroy();

/** Promises 1,000 bytes, sends a few, resets. */
export const resetInTheMiddle = (response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': 1000 });
  response.write('{"cursor":"e-1",', () => response.socket.resetAndDestroy());
};

/** Never answers. */
export const hang = () => {};
