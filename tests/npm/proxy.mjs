// A TCP proxy with faults between a page and a gateway. What it does with bytes and connections is switched
// while it runs; `counts` and `requests` say what it did. It reads nothing of the protocol except the first
// line of each request, which it keeps so that tests can count attempts.
//
//   const proxy = await new Proxy(gateway.url).listen();
//   proxy.mode = 'trickle';   // what happens to bytes from now on
//   proxy.cut('rst');         // ends what is open now
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { setImmediate as turn, setTimeout as pause } from 'node:timers/promises';

import { freePort } from './gateway.mjs';

const MODES = ['pass', 'delay', 'trickle', 'swallow', 'refuse'];
const WAITING_MAX = 1 << 20; // bytes that wait in one direction before its sender is paused

/** One direction of one connection: chunks go out in the order in which they came. */
class Direction {
  #proxy; #pair; #from; #to; #last = Promise.resolve(); #waiting = 0;

  constructor(proxy, pair, from, to, count) {
    Object.assign(this, { count });
    this.#proxy = proxy;
    this.#pair = pair;
    this.#from = from;
    this.#to = to;
    from.on('data', (chunk) => this.#take(chunk));
    from.on('end', () => { if (from === pair.far) proxy.counts.dropped += 1; });
    from.on('end', () => this.#next(() => { if (!pair.lost) to.end(); }));
    from.on('error', () => { if (!pair.lost) pair.reset(); });
    // After its last bytes, but not if this side of a half-open connection goes: the other must not notice.
    from.on('close', () => { proxy.open.delete(pair); if (!pair.lost) this.#next(() => to.destroySoon()); });
  }

  #take(chunk) {
    const due = this.#proxy.mode === 'delay' ? performance.now() + this.#proxy.delayMs : 0;
    this.#waiting += chunk.length;
    if (this.#waiting > WAITING_MAX) this.#from.pause();
    this.#next(async () => {
      await this.#give(chunk, due);
      this.#waiting -= chunk.length;
      if (this.#waiting <= WAITING_MAX) this.#from.resume();
    });
  }

  #next(act) { this.#last = this.#last.then(act, act); }

  async #give(chunk, due) {
    const { counts } = this.#proxy;
    if (due > 0) {
      counts.delayed += 1;
      await pause(Math.max(0, due - performance.now()), undefined, { ref: false });
    }
    let sent = 0;
    while (sent < chunk.length) {
      if (this.#proxy.mode === 'swallow') this.#pair.lost = true;
      if (this.#pair.lost) {
        counts.swallowed += chunk.length - sent;
        return;
      }
      const single = this.#proxy.mode === 'trickle';
      const part = single ? chunk.subarray(sent, sent + 1) : chunk.subarray(sent);
      sent += part.length;
      counts[this.count] += part.length;
      if (this.#to.destroyed) return;
      if (!this.#to.write(part)) await Promise.race([once(this.#to, 'drain'), once(this.#to, 'close')]).catch(() => {});
      if (single) {
        counts.singles += 1;
        await turn(); // the next byte is a write of its own
      }
    }
  }
}

/** The two sockets of one connection. */
class Pair {
  lost = false; // bytes of it are gone, so it stays half-open until an end closes it

  constructor(proxy, near, far) {
    Object.assign(this, { near, far });
    for (const socket of [near, far]) socket.setNoDelay(true);
    new Direction(proxy, this, near, far, 'up');
    new Direction(proxy, this, far, near, 'down');
  }

  reset() { for (const socket of [this.near, this.far]) socket.resetAndDestroy(); }

  /** An orderly end on both sides, after what was written. */
  finish() { for (const socket of [this.near, this.far]) socket.destroySoon(); }
}

export class Proxy {
  #target; #server = null; #port; #mode = 'pass';
  delayMs = 300;
  /** Resets WebSocket upgrades, as a middlebox does that knows HTTP alone. */
  blocksUpgrades = false;
  open = new Set();
  /** The first line of each request, in order, and whether it asks for WebSocket. */
  requests = [];
  /** `dropped`: connections that the target ended in order. */
  counts = { accepted: 0, cut: 0, blocked: 0, dropped: 0, swallowed: 0, delayed: 0, singles: 0, up: 0, down: 0 };

  /** `target`: an http address; its port may be closed and opened again. */
  constructor(target) { this.#target = new URL(target); }

  get url() { return `http://127.0.0.1:${this.#port}`; }

  get mode() { return this.#mode; }

  /**
   * pass: bytes go through. delay: each after `delayMs`. trickle: one byte a write. swallow: both sides stay
   * open and neither hears of the other again, also after the mode has changed. refuse: the port is closed
   * for new connections, those that are open pass.
   */
  set mode(mode) {
    if (!MODES.includes(mode)) throw new Error(`no mode of the proxy: ${mode}`);
    const refused = this.#mode === 'refuse';
    this.#mode = mode;
    if (mode === 'swallow') for (const pair of this.open) pair.lost = true;
    if (mode === 'refuse') { this.#server?.close(); this.#server = null; }
    else if (refused) this.#serve();
  }

  async listen() {
    for (let tries = 1; ; tries += 1) {
      this.#port = freePort();
      const server = this.#serve();
      try {
        await once(server, 'listening');
        return this;
      } catch (error) {
        if (tries === 5) throw error;
      }
    }
  }

  /** Ends every open connection at once, `rst` by a reset or `fin` in order. Returns how many. */
  cut(way) {
    const pairs = [...this.open];
    for (const pair of pairs) {
      if (way === 'rst') pair.reset();
      else pair.finish();
    }
    this.counts.cut += pairs.length;
    return pairs.length;
  }

  /** How often a stream was asked for so far, over WebSocket or over SSE. */
  attempts(transport) { return this.requests.filter(({ line, upgrade }) => /^GET \S+\/stream/.test(line) && upgrade === (transport === 'ws')).length; }

  close() { this.mode = 'refuse'; this.cut('rst'); }

  #serve() {
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (near) => this.#accept(near));
    this.#server.unref();
    this.#server.listen(Number(this.#port), '127.0.0.1');
    return this.#server;
  }

  #accept(near) {
    this.counts.accepted += 1;
    const look = (chunk) => {
      const head = chunk.toString('latin1');
      const [line] = /^[A-Z]+ \S+ HTTP\/1\.1(?=\r\n)/.exec(head) ?? [];
      if (!line) return; // what belongs to an earlier one
      const upgrade = /^upgrade: websocket\r$/im.test(head);
      this.requests.push({ line, upgrade });
      if (!upgrade) return;
      near.removeListener('data', look);
      if (!this.blocksUpgrades) return;
      this.counts.blocked += 1;
      pair.reset();
    };
    near.on('data', look);
    const far = connect({ host: this.#target.hostname, port: Number(this.#target.port), allowHalfOpen: true });
    const pair = new Pair(this, near, far);
    if (this.#mode === 'swallow') pair.lost = true;
    this.open.add(pair);
    near.resume();
  }
}
