// How many events a second a page takes while it keeps 60 frames a second: Chromium, a server that sends at
// rising rates in messages each 10 ms, and a page that counts the events and the intervals between its frames.
// Beside it centrifuge-js, with the same events on Centrifugo's wire.
//
//   npm ci && node page.mjs
import { createServer } from 'node:http';
import { existsSync } from 'node:fs';

import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import { WebSocketServer } from 'ws';

import { centrifugo, tidegate } from './wire.mjs';

const RATES = [2_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 120_000];
const SECONDS = 4;
const EVERY_MS = 10;
const BATCH_MAX = 100;

const pages = {
  tidegate: `
    import { createClient } from '../dist/index.js';
    const client = createClient({ url: location.origin, org: 'dev', getToken: () => 'token', maxQueue: 1e6 });
    client.on('*', () => { window.seen += 1; });
    client.connect();`,
  centrifugo: `
    import { Centrifuge } from 'centrifuge';
    const client = new Centrifuge(location.origin.replace('http', 'ws') + '/centrifugo');
    client.newSubscription('dev').on('publication', () => { window.seen += 1; }).subscribe();
    client.connect();`,
};
const scripts = {};
for (const [name, contents] of Object.entries(pages)) {
  const { outputFiles } = await build({ stdin: { contents, resolveDir: import.meta.dirname }, bundle: true, format: 'esm', target: 'es2022', minify: true, write: false });
  scripts[name] = outputFiles[0].text;
}

const frames = `
  window.seen = 0;
  window.frames = [];
  let last = performance.now();
  const frame = (now) => { window.frames.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);`;
const server = createServer((request, response) => {
  const name = request.url.slice(1);
  if (name in scripts) response.writeHead(200, { 'content-type': 'text/html' }).end(`<!doctype html><title>${name}</title><script>${frames}</script><script type="module">${scripts[name]}</script>`);
  else response.writeHead(404).end();
}).listen(0, '127.0.0.1');
await new Promise((resolve) => { server.once('listening', resolve); });
const origin = `http://127.0.0.1:${server.address().port}`;
let socket = null;
new WebSocketServer({ server, handleProtocols: () => 'tidegate.v1' }).on('connection', (opened, request) => {
  socket = opened;
  if (request.url.startsWith('/centrifugo')) opened.on('message', (text) => { const reply = centrifugo.reply(String(text)); if (reply) opened.send(reply); });
  else opened.send(tidegate.hello);
});

const program = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => existsSync(path));
const browser = await chromium.launch({ executablePath: program, args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] });

/** Sends at `rate` for some seconds; what the page made of it. */
async function run(name, wire, rate) {
  const tab = await browser.newPage();
  socket = null;
  await tab.goto(`${origin}/${name}`);
  while (!socket) await tab.waitForTimeout(20);
  await tab.waitForTimeout(500);
  await tab.evaluate(() => { window.frames.length = 0; });
  let seq = 0;
  const began = performance.now();
  await new Promise((resolve) => {
    const timer = setInterval(() => {
      const due = Math.floor(Math.min(SECONDS * 1000, performance.now() - began) * rate / 1000);
      while (seq < due) {
        const to = Math.min(due, seq + BATCH_MAX);
        socket.send(wire.frame(seq + 1, to));
        seq = to;
      }
      if (performance.now() - began >= SECONDS * 1000) {
        clearInterval(timer);
        resolve();
      }
    }, EVERY_MS);
  });
  const { seen, frames: intervals } = await tab.evaluate(() => ({ seen: window.seen, frames: window.frames.slice() }));
  await tab.close();
  const long = intervals.filter((ms) => ms > 50).length;
  const fps = (intervals.length / intervals.reduce((sum, ms) => sum + ms, 0)) * 1000;
  return { fps, long, share: seen / seq };
}

console.log('            @tidegate/client             centrifuge-js');
console.log('events/s    fps  over 50 ms  handled     fps  over 50 ms  handled');
for (const rate of RATES) {
  const results = [];
  for (const [name, wire] of [['tidegate', tidegate], ['centrifugo', centrifugo]]) results.push(await run(name, wire, rate));
  const cells = results.map(({ fps, long, share }) => `${fps.toFixed(1).padStart(6)} ${String(long).padStart(10)} ${`${(share * 100).toFixed(0)} %`.padStart(9)}`);
  console.log(`${String(rate).padStart(8)} ${cells.join('  ')}`);
}
await browser.close();
server.close();
