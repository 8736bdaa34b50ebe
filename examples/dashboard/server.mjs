// The back-end of the dashboard: it serves the page, makes tokens for its users, and publishes what happens in
// the company. Run it beside `tidegate dev`: npm start
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';

import { createPublisher } from '@tidegate/publisher';
import { mintToken } from '@tidegate/publisher/token';
import { createServer as createVite } from 'vite';

import { Company } from './company.mjs';

const port = Number(process.env.PORT ?? 5173);
const gateway = process.env.TIDEGATE_URL ?? 'http://localhost:8080';
const { secret, key } = credentials();
const org = 'dev';
const SERVICES = ['billing', 'fulfilment'];
const EVERY_MS = Number(process.env.EVERY_MS ?? 900);

// `tidegate dev` keeps its secret and a key in .tidegate-dev/dev.toml of the directory that it runs in.
function credentials() {
  if (process.env.TIDEGATE_SECRET && process.env.TIDEGATE_KEY) return { secret: process.env.TIDEGATE_SECRET, key: process.env.TIDEGATE_KEY };
  for (let dir = process.cwd(); ; dir = dirname(dir)) {
    const file = join(dir, '.tidegate-dev', 'dev.toml');
    if (existsSync(file)) {
      const text = readFileSync(file, 'utf8');
      const value = (name) => new RegExp(`^${name} = "(.*)"$`, 'm').exec(text)?.[1];
      return { secret: value('secret'), key: value('publish_key') };
    }
    if (dir === dirname(dir)) {
      console.error('No .tidegate-dev/dev.toml was found here or above: start `tidegate dev` in the root of the repository first, or set TIDEGATE_SECRET and TIDEGATE_KEY.');
      process.exit(1);
    }
  }
}

const company = new Company();
const publisher = createPublisher({ url: gateway, key, org });
let complaint = '';

async function publish(events) {
  const outcomes = await Promise.all(events.map((event) => publisher.publish(event)));
  const failed = outcomes.find(({ status }) => status !== 'stored' && status !== 'duplicate');
  const words = failed ? `The gateway did not take an event: ${failed.status} ${failed.code ?? ''} ${failed.message ?? ''}` : '';
  if (words && words !== complaint) console.error(words);
  complaint = words;
}

// In a real back-end: the user of the session cookie.
const sessionUser = () => 'alice';

const token = () => mintToken({ secret, org, user: sessionUser(), services: SERVICES, expiresInS: 600 });

const routes = {
  // A page asks for a token when it connects, and again before it expires.
  'GET /api/token': async () => ({ token: await token() }),
  // Cursor first, then state: what happens in between comes by the stream and is applied twice, never lost.
  'GET /api/state': async () => {
    const answer = await fetch(`${gateway}/v1/orgs/${org}/cursor?services=${SERVICES}`, { headers: { authorization: `Bearer ${await token()}` } });
    if (!answer.ok) throw new Error(`the gateway answered ${answer.status} to a request for its cursor`);
    const { cursor } = await answer.json();
    return { cursor, ...company.state() };
  },
  'POST /api/pay': async (query) => {
    const events = company.pay(query.get('invoice') ?? '');
    if (events) await publish(events);
    return { paid: events !== null };
  },
  'POST /api/rush': async () => {
    for (let n = 0; n < 100; n += 1) await publish(company.next());
    return {};
  },
};

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  const route = routes[`${request.method} ${pathname}`];
  if (!route) return vite.middlewares(request, response);
  try {
    const answer = JSON.stringify(await route(searchParams));
    response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' }).end(answer);
  } catch (error) {
    response.writeHead(503, { 'content-type': 'application/json' }).end(JSON.stringify({ error: String(error.message ?? error) }));
  }
});
const vite = await createVite({ server: { middlewareMode: true, hmr: { server } }, appType: 'spa', root: import.meta.dirname });
server.listen(port, 'localhost', () => console.log(`The dashboard is at http://localhost:${port}`));

const timer = setInterval(() => publish(company.next()), EVERY_MS);
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, async () => {
  clearInterval(timer);
  await publisher.close({ timeoutMs: 2_000 });
  process.exit();
});
