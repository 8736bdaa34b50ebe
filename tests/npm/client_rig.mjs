// What the tests of the client in browsers stand on: one gateway, one site with the page (client_page.js), a
// publisher, and visits: each is the page in an engine with a client of its own, whose way to the gateway is a
// proxy of its own. The ledger of a visit is compared with the gateway's history.
import assert from 'node:assert/strict';
import { createReadStream, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

import { Gateway, until } from './gateway.mjs';
import { Proxy } from './proxy.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const PACKAGE = fileURLToPath(new URL('../../clients/typescript', import.meta.url));
const CLIENT = join(PACKAGE, 'dist');
const PAGE = `<!doctype html><html lang="en"><meta charset="utf-8"><title>Tidegate</title><link rel="icon" href="data:,">
<script type="module" src="/client_page.js"></script><h1>Events</h1>`;

/** The nine that every page may rely on. */
const HEALTH = ['connectionState', 'lastConnectedAt', 'lastDisconnectedAt', 'totalDisconnects', 'reconnectAttempts', 'eventsReceived', 'eventLatencyMs', 'duplicatesDetected', 'lastEventAt'];

/** client_page_react.js with React, as it is in development, and the built hooks. */
async function bundled() {
  const { build } = createRequire(join(PACKAGE, 'package.json'))('esbuild');
  const { outputFiles: [{ text }] } = await build({
    entryPoints: [join(HERE, 'client_page_react.js')], bundle: true, write: false, format: 'esm', target: 'es2022',
    define: { 'process.env.NODE_ENV': '"development"' },
    nodePaths: [join(PACKAGE, 'node_modules')], alias: { '@tidegate/client/react': join(CLIENT, 'react.js') },
  });
  return text;
}

export class Rig {
  #visits = []; #site; #react; #last = 0; #head = 0;

  static async start(program) {
    const rig = new Rig();
    if (!existsSync(CLIENT)) throw new Error('the client is not built: npm ci && npm run build in clients/typescript');
    rig.#react = await bundled();
    rig.gateway = await new Gateway(program, '--no-feed', ...[
      // A page that is silent is noticed after 7 s, a gateway that is silent after 19 s.
      'ping.interval="4s"', 'ping.timeout="3s"', 'limits.connections_per_user=100', 'compression.exclude_services=["sealed"]',
    ].flatMap((setting) => ['--set', setting])).start();
    rig.#site = createServer((request, answer) => rig.#answer(request, answer));
    await new Promise((resolve) => { rig.#site.listen(0, 'localhost', resolve); });
    return rig;
  }

  #answer(request, answer) {
    const { pathname, searchParams } = new URL(request.url, 'http://localhost');
    answer.setHeader('cache-control', 'no-cache'); // `no-store` would keep pages out of the back/forward cache
    const [, visit] = /^\/token\/(\d+)$/.exec(pathname) ?? [];
    if (visit) return this.#visits[visit].answerToken(searchParams.get('reason'), answer);
    if (pathname === '/elsewhere') return answer.setHeader('content-type', 'text/html; charset=utf-8').end('<!doctype html><title>Elsewhere</title><link rel="icon" href="data:,">');
    if (pathname === '/') return answer.setHeader('content-type', 'text/html; charset=utf-8').end(PAGE);
    if (pathname === '/client_page_react.js') return answer.setHeader('content-type', 'text/javascript; charset=utf-8').end(this.#react);
    const file = pathname.startsWith('/client/') ? join(CLIENT, normalize(pathname.slice('/client'.length))) : join(HERE, 'client_page.js');
    if (!existsSync(file)) return answer.writeHead(404).end();
    answer.setHeader('content-type', 'text/javascript; charset=utf-8');
    return createReadStream(file).pipe(answer);
  }

  get site() { return `http://localhost:${this.#site.address().port}`; }

  /** Publishes events with ids of their own until the gateway has taken them, also if it is down meanwhile. Returns the answer. */
  async publish(count, fields = () => ({})) {
    const events = Array.from({ length: count }, () => {
      const number = this.#last += 1;
      return { service: 'finance', event: 'invoice.paid', id: `e-${number}`, data: { number, customer: `c-${number % 17}`, note: 'Zahlung erhalten ✓ '.repeat(number % 4) }, ...fields(number) };
    });
    for (const deadline = Date.now() + 60_000; ;) {
      try {
        const answer = await this.gateway.publish(...events);
        this.#head = Math.max(this.#head, ...answer.events.map(({ seq }) => seq));
        return answer;
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await new Promise((resolve) => { setTimeout(resolve, 30); });
      }
    }
  }

  /** The last seq that was published. */
  get head() { return this.#head; }

  /** Publishes an event every few milliseconds, until it is stopped. */
  flow(fields, everyMs = 20) {
    let isOn = true;
    const ended = (async () => {
      while (isOn) {
        await this.publish(1, fields);
        await new Promise((resolve) => { setTimeout(resolve, everyMs); });
      }
    })();
    return { stop: () => { isOn = false; return ended; } };
  }

  /**
   * Opens the page with a client in it that starts after all that has been published. `token`: what the token
   * endpoint answers: a text, a status, or a function of the reason and the number of the request that gives one
   * of these or a promise. `options` are those of the client, and of `begin` in client_page.js. `prepare` may
   * switch the proxy before the client begins.
   */
  async visit(engine, { token = () => this.gateway.token, ...options } = {}, prepare = () => {}) {
    const { cursor } = await this.publish(1, () => ({ event: 'mark' }));
    const proxy = await new Proxy(this.gateway.url).listen();
    prepare(proxy);
    const visit = new Visit(this, proxy, token);
    const address = `${this.site}/?visit=${this.#visits.push(visit) - 1}`;
    visit.page = await engine.open(address);
    await visit.begin(address, cursor, options);
    return visit;
  }

  close() {
    for (const { proxy } of this.#visits) proxy.close();
    this.#site.close();
  }
}

class Visit {
  #taken = []; #token;
  tokens = { asked: 0, aborted: 0 };

  constructor(rig, proxy, token) {
    Object.assign(this, { rig, proxy });
    this.#token = token;
  }

  async answerToken(reason, answer) {
    this.tokens.asked += 1;
    answer.once('close', () => { if (!answer.writableFinished) this.tokens.aborted += 1; });
    const given = typeof this.#token === 'function' ? await this.#token(reason, this.tokens.asked) : this.#token;
    if (typeof given === 'number') answer.writeHead(given).end();
    else answer.end(given);
  }

  /** Makes the client, in a page that has just been loaded; it starts after `mark`. */
  async begin(address, mark, options) {
    Object.assign(this, { address, mark, options });
    await until('the page', () => this.page.evaluate(() => typeof window.begin === 'function'));
    const { org } = this.rig.gateway;
    await this.page.evaluate((all) => window.begin(all), { url: this.proxy.url, org, cursor: this.mark, ...options });
  }

  /** Loads the page again in its tab, and makes a client that starts after all that has been published. */
  async reload() {
    const { cursor } = await this.rig.publish(1, () => ({ event: 'mark' }));
    this.#taken = [];
    await this.page.goto(this.address);
    await this.begin(this.address, cursor, this.options);
  }

  /** What the page has to report. Its ledger is whole, though only what is new is fetched. */
  async report() {
    const report = await this.page.evaluate((from) => window.report(from), this.#taken.length);
    this.#taken.push(...report.ledger);
    return { ...report, ledger: this.#taken };
  }

  /** A report for people who look for a fault. */
  #tell({ health, status, errors, states, faults, reasons, handled, sockets } = {}) {
    return JSON.stringify({ health: { ...health, eventLatencyMs: undefined }, status, errors, states, faults, reasons, handled, sockets, counts: this.proxy.counts, requests: this.proxy.requests }, null, 1);
  }

  /** Waits for a report of which `look` is true. */
  async when(what, look, patience) {
    let report;
    try {
      return await until(what, async () => { report = await this.report(); return look(report) && report; }, patience, 100);
    } catch (error) {
      throw new Error(`${error.message}: ${this.#tell(report)}`);
    }
  }

  /** Waits until the client is live (again), after so many connections were lost. */
  live(disconnects = 0) {
    return this.when(`the client to be live after ${disconnects} disconnects`, ({ health }) => health?.connectionState === 'connected' && health.totalDisconnects >= disconnects);
  }

  /**
   * Waits until everything published so far has come, and compares: nothing is missing, nothing came twice, the
   * order is kept, content is as published, no gap was told. Then compares the health with the ledger and with
   * what the test knows: how often the connection was lost (if it does not know: what the page was told), and how
   * many attempts the client counts. `health`: false leaves that out.
   */
  async settle({ disconnects, attempts, health = true } = {}) {
    const { head } = this.rig;
    const last = (ledger) => ledger.findLast(({ seq }) => seq)?.seq ?? 0;
    // The last events may be hidden from this reader, so the truth is the history.
    const truth = (await this.rig.gateway.history(this.mark)).filter(({ seq }) => seq <= head);
    const due = truth.at(-1)?.seq ?? 0;
    const report = await this.when(`event ${due}`, ({ ledger }) => last(ledger) >= due, 90_000);
    assert.deepEqual(report.faults, [], 'no error in the page');
    assert.deepEqual(report.ledger.filter(({ gap }) => gap), [], 'no gap was told');
    const line = ({ seq, service, event, id, data }) => `${seq} ${service} ${event} ${id} ${JSON.stringify(data)}`;
    const had = report.ledger.filter(({ seq }) => seq <= head).map(line);
    const wanted = truth.map(line);
    if (had.join('\n') !== wanted.join('\n')) {
      const [has, wants] = [new Set(had), new Set(wanted)];
      assert.fail(`the ledger is not the history: missing ${JSON.stringify(wanted.filter((each) => !has.has(each)).slice(0, 3))}, `
        + `too many ${JSON.stringify(had.filter((each) => !wants.has(each)).slice(0, 3))}, twice ${had.length - has.size}, ${had.length} of ${wanted.length}`);
    }
    if (!health) return report;
    try {
      this.#isTrue(report, disconnects, attempts);
    } catch (error) {
      throw new Error(`the health is not true: ${error.message}\n${this.#tell(report)}`);
    }
    return report;
  }

  #isTrue({ health, ledger, handled, now, states }, known, attempts) {
    const disconnects = known ?? states.filter((state) => state === 'reconnecting').length;
    assert.deepEqual(Object.keys(health), [...HEALTH, 'extra']);
    assert.equal(health.connectionState, 'connected');
    assert.equal(health.totalDisconnects, disconnects);
    if (attempts !== undefined) assert.equal(health.reconnectAttempts, attempts);
    assert.equal(health.eventsReceived, handled + health.extra.queue);
    assert.equal(health.duplicatesDetected, 0, 'the gateway sends nothing again');
    assert.equal(health.extra.holes, 0);
    assert.equal(health.extra.gaps, 0);
    const live = ledger.filter(({ latencyMs }) => latencyMs !== null);
    if (health.extra.queue === 0) assert.deepEqual(health.eventLatencyMs, live.slice(-100).map(({ latencyMs }) => latencyMs));
    assert.ok(health.eventLatencyMs.every((ms) => Number.isInteger(ms) && ms >= 0));
    if (handled > 0) assert.ok(health.lastEventAt <= now && health.lastEventAt >= ledger[0].at - 60_000);
    assert.ok(health.lastConnectedAt <= now);
    if (disconnects === 0) assert.equal(health.lastDisconnectedAt, null);
    else assert.ok(health.lastConnectedAt >= health.lastDisconnectedAt);
  }

  async close() {
    await this.page.close();
    this.proxy.close();
  }
}

