// Event stream clients of other people, each used as its documentation says: they follow one gateway through
// the end of their first token and three SIGKILLs. At the first the port is closed for a while, at the second a proxy answers 502 in its place, at
// the third the connection breaks within a long frame. Each gets every event once and in order, or a gap is
// declared. One more reads lines as Go's bufio.Scanner does by default.
//
//   node tests/npm/clients.mjs target/debug/tidegate target/python/bin/python target/go/follow target/java
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer as createSite } from 'node:http';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';

import { launch } from './browser.mjs';
import { Gateway, freePort, until } from './gateway.mjs';

const [
  program = 'target/debug/tidegate', python = 'target/python/bin/python', go = 'target/go/follow', java = 'target/java',
] = process.argv.slice(2);
const PLACE = new URL('./clients/', import.meta.url);

// What the page shows is what runs here.
const root = new URL('../../', import.meta.url);
const shown = [...readFileSync(new URL('docs/clients.md', root), 'utf8').matchAll(/<!-- snippet: (\S+) (\S+) -->\n```\w+\n([^]*?)\n```/g)];
for (const [, file, name, code] of shown) {
  const [, rest] = readFileSync(new URL(file, root), 'utf8').split(`snippet: ${name}\n`);
  const [runs] = rest.split(/\n\s*(?:\/\/|#) end\n/);
  // The Java class goes on with what is of no interest there.
  assert.equal(code.replace(/\n}$/, '').trim(), runs.replace(/\n}\n?$/, '').trim(), `docs/clients.md shows other code than ${file}`);
}
assert.equal(shown.length, 7);

/** Stands between one client and the gateway, as a network or a proxy does. */
class Relay {
  #server; #port; #pairs = new Set(); #refuses = false; #left = Infinity;
  refusals = 0;
  wasCut = false;

  constructor(port) { this.#port = port; }

  get url() { return `http://127.0.0.1:${this.#port}`; }

  /** Takes connections, and passes them on to the gateway at `port`. */
  async up(port) {
    this.#refuses = false;
    this.#left = Infinity;
    if (this.#server) return;
    this.#server = createServer((client) => {
      if (this.#refuses) {
        this.refusals += 1;
        client.on('error', () => {}).resume().end('HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
        return;
      }
      const gateway = connect(port, '127.0.0.1');
      const pair = [client, gateway];
      this.#pairs.add(pair);
      const end = () => { this.#pairs.delete(pair); gateway.destroy(); client.destroySoon(); };
      for (const side of pair) side.on('error', end).on('close', end);
      client.on('data', (chunk) => gateway.write(chunk));
      gateway.on('data', (chunk) => {
        client.write(chunk.subarray(0, this.#left));
        this.#left -= chunk.length;
        if (this.#left > 0) return;
        this.wasCut = true;
        this.down();
        end();
      });
    });
    await new Promise((resolve, reject) => { this.#server.once('error', reject).listen(this.#port, '127.0.0.1', resolve); });
  }

  /** Closes the port. What was on its way arrives. */
  down() {
    this.#server?.close();
    this.#server = null;
  }

  /** Answers 502 to every request from here on. */
  refuse() { this.#refuses = true; }

  /** Breaks the connection after so many bytes more from the gateway, and closes the port. */
  cutAfter(bytes) { this.#left = bytes; }
}

// The pages' site: the modules of the packages by name, as a bundler would find them.
const packages = {
  '@microsoft/fetch-event-source': '@microsoft/fetch-event-source/lib/esm/index.js',
  'reconnecting-eventsource': 'reconnecting-eventsource/build/esm/reconnecting-eventsource.js',
  'sse.js': 'sse.js/lib/sse.js',
};
const imports = Object.fromEntries(Object.entries(packages).map(([name, file]) => [name, `/node_modules/${file}`]));
const site = createSite((request, answer) => {
  if (request.url === '/') {
    answer.setHeader('content-type', 'text/html');
    answer.end(`<!doctype html><link rel="icon" href="data:,"><script type="importmap">${JSON.stringify({ imports })}</script>`);
    return;
  }
  if (request.url.startsWith('/token/')) {
    // As a back-end does: a new one at each call. The first expires soon.
    const client = clients[request.url.slice('/token/'.length)];
    client.tokens += 1;
    answer.end(client.tokens === 1 ? gateway.expiring(TOKEN_S) : gateway.token);
    return;
  }
  answer.setHeader('content-type', 'text/javascript');
  const path = request.url.startsWith('/node_modules/') ? `..${request.url}` : `.${request.url}`;
  // Modules of these packages name each other without the end of the file's name.
  answer.end(readFileSync(new URL(/\.m?js$/.test(path) ? path : `${path}.js`, PLACE)));
});
await new Promise((resolve) => { site.listen(0, '127.0.0.1', resolve); });
const origin = `http://127.0.0.1:${site.address().port}`;

const gateway = await new Gateway(
  program, '--no-feed', '--set', `auth.origins=["${origin}"]`, '--set', 'limits.connections_per_user=50',
).start();
const port = new URL(gateway.url).port;
const TOKEN_S = 5;
const browser = await launch();

/** A client in a process of its own that prints what it gets. */
function process_(command, ...before) {
  return (address, tokens, client) => {
    const child = spawn(command, [...before, address, tokens], { stdio: ['ignore', 'pipe', 'pipe'] });
    process.once('exit', () => child.kill('SIGKILL'));
    createInterface(child.stdout).on('line', (line) => client.got.push(JSON.parse(line)));
    child.stderr.on('data', (words) => { client.words += words; });
    child.once('error', (error) => { client.ended = `${error}`; });
    child.once('exit', (status) => { client.ended = `it exited with ${status}`; });
  };
}

/** A client in a page. */
function page(file) {
  return async (address, tokens, client) => {
    const tab = await (await browser.newContext()).newPage();
    tab.on('console', (message) => { client.words += `${message.text()}\n`; });
    tab.on('pageerror', (error) => { client.ended = `${error}`; });
    await tab.exposeFunction('handle', (frame) => { client.got.push(frame); });
    await tab.goto(origin);
    tab.evaluate(async ([file, address, tokens]) => {
      const { follow } = await import(file);
      const getToken = async () => (await fetch(tokens)).text();
      await follow(address, getToken, (frame) => window.handle(frame));
    }, [`/${file}`, address, tokens]).catch((error) => { client.ended = `${error}`; });
  };
}

const starts = {
  'npm @microsoft/fetch-event-source': page('fetch-event-source.mjs'),
  'npm reconnecting-eventsource': page('reconnecting-eventsource.mjs'),
  'npm sse.js': page('sse.js.mjs'),
  'npm eventsource': process_(process.execPath, new URL('eventsource.mjs', PLACE).pathname),
  'PyPI httpx-sse': process_(python, new URL('../python/follow_httpx_sse.py', import.meta.url).pathname),
  'Go r3labs/sse': process_(go, 'r3labs'),
  'Go bufio.Scanner': process_(go, 'scanner'),
  'Java okhttp-sse': process_('java', '-cp', `${java}/*`, new URL('../java/Follow.java', import.meta.url).pathname),
};
const clients = [];
for (const [name, start] of Object.entries(starts)) {
  const client = { name, got: [], words: '', tokens: 0, relay: new Relay(freePort()) };
  const tokens = `${origin}/token/${clients.push(client) - 1}`;
  await client.relay.up(port);
  await start(`${client.relay.url}/v1/orgs/${gateway.org}/stream`, tokens, client);
}

const events = ({ got }) => got.flatMap((frame) => (frame.type === 'event' ? [frame] : frame.events ?? []));

/** Waits until `look` is true of every client. */
async function all(what, look) {
  const results = await Promise.allSettled(clients.map((client) => until(`${client.name}: ${what}`, () => {
    if (client.ended) throw new Error(`${client.name}: it ended before ${what}: ${client.ended}`);
    return look(client);
  }).catch(({ message }) => {
    throw new Error(`${message}\n  it got ${events(client).length} events, at last ${JSON.stringify(client.got.at(-1))?.slice(0, 300)}\n${client.words}`);
  })));
  const failures = results.filter(({ reason }) => reason).map(({ reason }) => reason.message);
  if (failures.length > 0) throw new Error(failures.join('\n'));
}

const sent = [];
async function publish(...data) {
  const events = data.map((data) => ({ service: 'staff', event: 'shift.started', id: `e-${sent.push(data)}`, data }));
  await gateway.publish(...events);
}
const arrived = (what) => all(what, (client) => events(client).length >= sent.length);

await all('hello', ({ got }) => got.some(({ type }) => type === 'hello'));
await publish(1, 2, 3);
await arrived('live events');

const renewed = ({ tokens, got }) => tokens > 1 && got.filter(({ type }) => type === 'hello').length > 1;
await until('the end of each first token', async () => {
  await publish('while tokens expire');
  return clients.every((client) => client.ended || renewed(client));
}).catch(() => {}); // the next line says whose
await all('a stream with its second token', renewed);
await arrived('what came while tokens expired');

for (const { relay } of clients) relay.down();
await gateway.kill();
await gateway.restart();
await publish('while the port was closed', 'and another');
for (const { relay } of clients) await relay.up(port);
await arrived('what came while the port was closed');
await publish('live again');
await arrived('live events after the first cut');

for (const { relay } of clients) relay.refuse();
await gateway.kill();
await all('a refusal', ({ relay }) => relay.refusals > 0);
await gateway.restart();
// More than one frame holds.
await publish(...Array.from({ length: 300 }, (_, number) => `${number} `.repeat(200)));
for (const { relay } of clients) await relay.up(port);
await arrived('what came while a proxy answered 502');
await publish('live again');
await arrived('live events after the second cut');

for (const { relay } of clients) relay.cutAfter(60_000);
const noise = () => Math.random().toString(36).slice(2);
await publish(Array.from({ length: 5000 }, (_, number) => [number, noise(), { '"': `,[${noise()}` }]));
await all('a cut within a frame', ({ relay }) => relay.wasCut);
await gateway.kill();
await gateway.restart();
for (const { relay } of clients) await relay.up(port);
await arrived('the long event, whole');
await publish('live again', 'the end');
await arrived('live events after the third cut');

for (const client of clients) {
  const got = events(client);
  assert.deepEqual(got.map(({ id }) => id), sent.map((_, index) => `e-${index + 1}`), `${client.name}: each event once and in order`);
  assert.deepEqual(got.map(({ data }) => data), sent, `${client.name}: whole`);
  assert.deepEqual(client.got.filter(({ type }) => type === 'gap'), [], `${client.name}: nothing is missing`);
  const hellos = client.got.filter(({ type }) => type === 'hello');
  assert.ok(hellos.length >= 4 && hellos.at(-1).resumed, `${client.name}: resumed`);
  console.log(`ok ${client.name}`);
}
await browser.close();
process.exit(0);
