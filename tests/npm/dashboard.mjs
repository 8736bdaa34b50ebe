// examples/dashboard in Chromium: it is built, then served by its own back-end beside a gateway. Events arrive,
// an invoice is paid, 100 things happen at once, the gateway is killed and comes back, and loses its log.
//
//   node tests/npm/dashboard.mjs target/debug/tidegate [a directory for screenshots]
//
// Needs both packages of clients/ built, and examples/dashboard installed.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { launch } from './browser.mjs';
import { freePort, Gateway, until } from './gateway.mjs';

const [program = 'target/debug/tidegate', pictures = 'target'] = process.argv.slice(2);
const KEPT = ['dev.toml', 'keys.toml']; // the rest of the gateway's directory is its log
const example = fileURLToPath(new URL('../../examples/dashboard', import.meta.url));

execFileSync('npm', ['run', '--silent', 'build'], { cwd: example, stdio: 'inherit' });

const gateway = await new Gateway(program, '--no-feed').start();
const [, secret] = /^secret = "(.*)"$/m.exec(readFileSync(join(gateway.dir, 'dev.toml'), 'utf8'));

// Nothing happens in the company but what this test asks for.
async function serve() {
  const port = freePort();
  const server = spawn(process.execPath, ['server.mjs'], {
    cwd: example, stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, PORT: port, TIDEGATE_URL: gateway.url, VITE_TIDEGATE_URL: gateway.url, TIDEGATE_SECRET: secret, TIDEGATE_KEY: gateway.publish_key, EVERY_MS: 2 ** 31 - 1 },
  });
  process.once('exit', () => server.kill('SIGKILL'));
  let words = '';
  server.stdout.on('data', (chunk) => { words += chunk; });
  await until('the example to serve', () => {
    assert.equal(server.exitCode, null, 'the example runs');
    return words.includes('The dashboard is at');
  });
  return `http://localhost:${port}`;
}

const site = await serve();
const browser = await launch();
const tab = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const errors = [];
tab.on('pageerror', (error) => errors.push(String(error)));

const badge = async () => (await tab.textContent('.badge').catch(() => null)) ?? '';
const isLive = () => until('the page to be live', async () => (await badge()) === 'Live');
const cells = (selector) => tab.$$eval(selector, (all) => all.map((row) => row.textContent));
const figure = (label) => tab.textContent(`.figure:has(span:text-is("${label}")) strong`);
const press = (name, inside = '') => tab.click(`${inside} button:text-is("${name}")`);

/** What the page shows, and what it should show by the back-end's state: the invoices, the orders, the open ones. */
async function shown() {
  const invoices = await tab.$$eval('tbody tr', (rows) => rows.map((row) => `${row.cells[0].textContent} ${row.className}`));
  const orders = await tab.$$eval('.orders li', (rows) => rows.map((row) => `${row.querySelector('small').textContent.split(' ')[0]} ${row.querySelector('.tag').textContent}`));
  return JSON.stringify([invoices, orders, await figure('Open invoices'), await figure('To ship')]);
}
async function due() {
  const { invoices, orders } = await (await fetch(`${site}/api/state`)).json();
  const count = (list, wanted) => String(list.filter(({ status }) => status === wanted).length);
  return JSON.stringify([
    invoices.slice(0, 12).map(({ invoice, status }) => `${invoice} ${status}`), orders.slice(0, 10).map(({ order, status }) => `${order} ${status}`),
    count(invoices, 'open'), count(orders, 'paid'),
  ]);
}
async function isTrue() {
  const wanted = await due();
  try {
    await until('the page to show the state', async () => (await shown()) === wanted, 20_000);
  } catch (error) {
    throw new Error(`${error.message}\n${await shown()}\n${wanted}`);
  }
}
const rush = async () => {
  const answered = tab.waitForResponse((answer) => answer.url().endsWith('/api/rush') && answer.ok(), { timeout: 60_000 });
  await press('Rush of 100');
  return answered;
};

async function photograph() {
  for (const scheme of ['light', 'dark']) {
    for (const width of [1280, 390]) {
      await tab.emulateMedia({ colorScheme: scheme });
      await tab.setViewportSize({ width, height: 900 });
      const over = await tab.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(over, 0, `the page fits ${width} px`);
      await tab.screenshot({ path: join(pictures, `dashboard-${scheme}-${width}.png`) });
    }
  }
  await tab.emulateMedia({ colorScheme: 'light' });
  await tab.setViewportSize({ width: 1280, height: 900 });
}

const tests = {
  async 'events arrive as they happen'() {
    await tab.goto(site);
    await isLive();
    assert.match(await tab.textContent('.events'), /Nothing has happened/);
    await rush();
    await until('events', async () => (await cells('.events li code')).length === 8);
    await isTrue();
    assert.match(await tab.textContent('.health'), /Transportws/);
  },

  async 'a paid invoice is shown as paid when its event comes'() {
    const row = tab.locator('tbody tr.open').first();
    const number = await row.locator('td').first().textContent();
    const before = Number((await figure('Open invoices')));
    await row.getByRole('button').click();
    await until('the row to be paid', async () => (await cells('tbody tr.paid')).some((words) => words.startsWith(number)));
    assert.equal(Number(await figure('Open invoices')), before - 1);
    await isTrue();
  },

  async 'it fits a wide and a narrow screen, light and dark'() {
    await photograph();
  },

  async 'a killed gateway comes back with nothing missing'() {
    await gateway.kill();
    await until('a countdown', async () => /^Reconnecting in \d+ s/.test(await badge()));
    const rushed = rush(); // the publisher holds the events until the gateway is back
    await gateway.restart();
    await rushed;
    await isLive();
    await isTrue();
    assert.equal(await tab.isVisible('.gap'), false, 'no gap');
    await until('the health panel', async () => /Disconnects1/.test(await tab.textContent('.health')));
    assert.match(await tab.textContent('.health'), /Duplicates dropped0/);
  },

  async 'Disconnect and Connect'() {
    await press('Disconnect');
    await until('the page to have let go', async () => (await badge()) === 'Not connected');
    await rush();
    await press('Connect');
    await isLive();
    await isTrue();
  },

  async 'a gateway that lost its log is a gap, and the banner loads the state again'() {
    await gateway.kill();
    for (const name of readdirSync(gateway.dir)) if (!KEPT.includes(name)) rmSync(join(gateway.dir, name), { recursive: true });
    await gateway.restart();
    await until('the banner', () => tab.isVisible('.gap'));
    assert.match(await tab.textContent('.gap'), /new log \(epoch\)/);
    await press('Load again', '.gap');
    await until('the page to be new', async () => !(await tab.isVisible('.gap')) && (await badge()) === 'Live');
    await rush();
    await isTrue();
  },
};

for (const [name, run] of Object.entries(tests)) {
  await run();
  console.log(`ok: ${name}`);
}
assert.deepEqual(errors, [], 'no error in the page');
await browser.close();
process.exit();
