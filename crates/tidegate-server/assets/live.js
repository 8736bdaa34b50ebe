// What the page shows of a stream, kept from what its client reports. The client (client.js, built from
// clients/typescript) decides everything; here are only words and sums for the page.

import { AuthError, createClient, eventStream, formatCursor, parseCursor, webSocket } from './client.js';

export { formatCursor, parseCursor };

/** JSON, with each number that JavaScript would change (`1.10`, 20 digits) as it was written, if the browser can. */
export function parseExactly(text) {
  return JSON.parse(text, (_, value, context) => {
    const written = typeof value === 'number' ? context?.source ?? String(value) : '';
    return typeof value === 'number' && written !== String(value) && JSON.rawJSON ? JSON.rawJSON(written) : value;
  });
}

const PHASES = { auth: 'connecting', opening: 'connecting', hello: 'connecting', live: 'live', probe: 'live', backoff: 'waiting', idle: 'closed', stopped: 'closed' };
// Errors of which the stream itself tells nothing more: the state says that it was lost.
const LOSSES = new Set(['hole', 'protocol']);

/** When a token expires, in milliseconds since 1970; never, if it does not say so. */
function expiry(token) {
  try {
    return JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'))).exp * 1000 || Infinity;
  } catch {
    return Infinity;
  }
}

/**
 * One org's stream as the page shows it. `on` gets `event` (with the number of `hidden` positions before it),
 * `gap`, `hole`, `resumed`, `fault`, `status`, and `changed` after each change.
 */
export class Live {
  phase = 'closed'; // connecting, catching_up, live, waiting or closed
  reason = null; // why it is waiting or closed: { code, message }
  cursor = null;
  hello = null; // of the last connection: head, services, connection_id, sync
  origin = 0; // the seq where this connection began, to show progress
  retryAt = null;
  attempt = 0;
  hidden = 0;
  client;
  #on;
  #place = null; // the seq up to which all is shown or hidden
  #before = null; // the health of the connections before this one, of the same stream

  /** `target`: org, services, token, tail, cursor, transport (`ws` or `sse`). `before`: the one that this continues. */
  constructor({ org, services, token, tail, cursor, transport }, on, before = null) {
    this.#on = on;
    this.cursor = before?.cursor ?? parseCursor(cursor);
    this.hello = before?.hello ?? null;
    this.hidden = before?.hidden ?? 0;
    this.#before = before?.metrics() ?? null;
    this.#place = this.cursor?.seq ?? null;
    this.client = createClient({
      url: location.origin, org, services, tail, metricsKey: false, parse: parseExactly,
      cursor: this.cursor && formatCursor(this.cursor),
      transports: [transport === 'sse' ? eventStream() : webSocket()],
      // The page was given one token. While it is good it serves for a renewal too.
      getToken() {
        if (!/^[\w.~+/=-]+$/.test(token)) throw new AuthError('This is not a token: it has characters that no token has');
        if (Date.now() < expiry(token)) return token;
        throw new AuthError('The token has expired');
      },
      observe: (output, state) => this.#heard(output, state),
    });
    this.client.onStatus(() => this.#changed());
    this.client.onError(() => {}); // `observe` has them
  }

  start() { this.client.connect(); }
  retry() { if (this.phase === 'closed') this.client.connect(); else this.client.reconnect(); }
  stop() { this.client.dispose(); }

  /** Of all connections of this stream, whatever their transport. */
  metrics() {
    const now = this.client.metrics();
    const before = this.#before;
    if (!before) return now;
    const sum = { ...now, extra: { ...now.extra } };
    for (const name of ['totalDisconnects', 'eventsReceived', 'duplicatesDetected']) sum[name] += before[name];
    for (const name of ['holes', 'gaps']) sum.extra[name] += before.extra[name];
    for (const name of ['lastConnectedAt', 'lastDisconnectedAt', 'lastEventAt']) sum[name] ??= before[name];
    sum.eventLatencyMs = [...before.eventLatencyMs, ...now.eventLatencyMs].slice(-100);
    return sum;
  }

  #heard(output, state) {
    switch (output.t) {
      case 'hello': {
        const start = parseCursor(output.cursor);
        const from = this.#place;
        this.hello = { ...output, head: output.head };
        this.#place ??= start.seq;
        this.origin = this.#place;
        this.reason = null;
        if (from !== null && !output.renewed) this.#on({ do: 'resumed', from, head: output.head });
        break;
      }
      case 'event': {
        const hidden = this.#hide(output.event.seq - 1);
        this.#place = output.event.seq;
        this.#on({ do: 'event', event: output.event, live: !output.replay, hidden });
        return;
      }
      // Positions of a gap hold no secret: their events are gone.
      case 'gap':
        this.#place = output.reason === 'epoch' ? output.seq : Math.max(this.#place, output.seq);
        this.#on({ do: 'gap', reason: output.reason, from: output.prev, to: output.seq, epoch: output.epoch, count: null });
        return;
      case 'cursor':
        this.cursor = parseCursor(output.cursor);
        this.#hide(this.cursor.seq);
        this.#place = this.cursor.seq;
        break;
      case 'status':
        this.#on({ do: 'status', code: output.code, message: output.message });
        return;
      case 'error':
        this.reason = { code: output.code, message: output.message };
        if (output.code === 'hole') this.#on({ do: 'hole', from: this.#place });
        else if (LOSSES.has(output.code)) this.#on({ do: 'fault', message: output.message });
        break;
      default: return;
    }
    this.#show(state);
  }

  // Positions without an event hold what this reader may not see, or nothing: the wire does not tell which.
  #hide(to) {
    const count = Math.max(0, to - this.#place);
    this.hidden += count;
    return count;
  }

  #changed() {
    const { phase, attempt, retryAt } = this.client.getStatus();
    this.#show({ phase });
    this.attempt = attempt;
    this.retryAt = retryAt;
    this.#on({ do: 'changed' });
  }

  #show({ phase }) {
    this.phase = PHASES[phase];
    if (this.phase === 'live' && this.cursor && this.cursor.seq < this.hello.head) this.phase = 'catching_up';
    this.#on({ do: 'changed' });
  }
}
