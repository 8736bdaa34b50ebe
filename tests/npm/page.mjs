// The gateway's own page in Chromium, over a SIGKILL: no event is missing, repeated or out of order on an
// open page.
//
//   node tests/npm/page.mjs target/debug/tidegate target/page.png
import assert from 'node:assert/strict';

import { launch } from './browser.mjs';
import { Gateway, until } from './gateway.mjs';

const [program = 'target/debug/tidegate', picture = 'target/page.png'] = process.argv.slice(2);

const gateway = await new Gateway(program).start(); // with its feed
const browser = await launch();
const tab = await browser.newPage({ viewport: { width: 1280, height: 1100 } });
const errors = [];
tab.on('pageerror', (error) => errors.push(String(error)));

// The rows of the page, oldest first, each event by its seq.
const shown = () => tab.$$eval('#rows > li', (rows) => rows.reverse()
  .map((row) => row.querySelector('.seq')?.textContent.slice(1)).filter(Boolean).map(Number));
const metrics = () => tab.evaluate(() => window.__realtimeMetrics());
const figure = async (id) => Number((await tab.textContent(`#${id}`)).replace(/\D/g, ''));

async function check(events) {
  const before = (await gateway.history()).at(-1).seq;
  await until('the page to reach the log', async () => (await shown()).at(-1) >= before);
  const seqs = await shown();
  const log = (await gateway.history()).map((event) => event.seq);
  const from = log.indexOf(seqs[0]);
  assert.ok(from >= 0, 'the first row is in the log');
  assert.deepEqual(seqs, log.slice(from, from + seqs.length), 'the rows are the log, in order');
  const { eventsReceived, duplicatesDetected } = await metrics();
  assert.ok(eventsReceived >= events, `${eventsReceived} events were received, of ${events}`);
  assert.equal(duplicatesDetected, 0, 'nothing came twice');
  assert.equal(await figure('gaps'), 0, 'no gap was declared');
  assert.equal(await figure('holes'), 0, 'no hole was found');
}

await tab.goto(`${gateway.url}/#token=${gateway.token}&org=${gateway.org}`);
await until('the page to be live', async () => (await tab.textContent('#phase')) === 'Live');
await until('a first event', async () => (await metrics()).eventsReceived > 0);
assert.ok(!(await tab.evaluate(() => location.href)).includes('token'), 'the token has left the address');
await gateway.publish({ service: 'staff', event: 'before.kill', data: { n: 1 } });
await check(1);
assert.equal((await metrics()).connectionState, 'connected');
const first = (await metrics()).eventsReceived;

for (let kills = 1; kills <= 2; kills += 1) {
  await gateway.kill();
  await until('the page to notice', async () => (await metrics()).connectionState !== 'connected');
  await gateway.restart();
  await gateway.publish(...Array.from({ length: 20 }, (_, n) => ({ service: 'finance', event: 'while.away', data: { n } })));
  await until('the page to be live again', async () => (await tab.textContent('#phase')) === 'Live');
  await check(first + 20 * kills);
  assert.equal((await metrics()).totalDisconnects, kills);
}

// The other transport continues at the same cursor.
await tab.check('#transport [value=sse]', { force: true });
await until('the page to be live over SSE', async () => (await tab.textContent('#phase')) === 'Live');
await gateway.publish({ service: 'orders', event: 'over.sse', data: { a: '<b>text</b>' } });
await check(first + 41);
assert.equal((await metrics()).totalDisconnects, 2, 'changing the transport is no disconnect');

await tab.screenshot({ path: picture });
assert.deepEqual(errors, []);
await browser.close();
console.log(`ok page: ${(await shown().catch(() => [])).length || 'all'} rows, ${first} events before the first kill; picture in ${picture}`);
process.exit(0);
