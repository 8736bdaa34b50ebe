// What a developer does with the gateway's page in Chromium: publish by its form, copy its code and run it,
// filter, pause, look for what is missing, on a wide screen and on a narrow one.
//
//   node tests/npm/page_tools.mjs target/debug/tidegate
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

import { launch } from './browser.mjs';
import { Gateway, until } from './gateway.mjs';

const [program = 'target/debug/tidegate'] = process.argv.slice(2);

const gateway = await new Gateway(program, '--no-feed').start();
const browser = await launch();
const context = await browser.newContext({ viewport: { width: 1280, height: 1000 }, permissions: ['clipboard-read', 'clipboard-write'] });
const tab = await context.newPage();
const errors = [];
tab.on('pageerror', (error) => errors.push(String(error)));

const text = (id) => tab.textContent(`#${id}`);
const visible = (id) => tab.isVisible(`#${id}`);
const rows = () => tab.$$eval('#rows > li', (all) => all.map((row) => row.textContent));
const isLive = () => until('the page to be live', async () => (await text('phase')) === 'Live');
const row = (words) => until(`a row with ${words}`, async () => (await rows()).some((line) => line.includes(words)));
const filter = async (words) => { await tab.fill('#services', words); await tab.press('#services', 'Enter'); };

async function publish(fields) {
  for (const [name, value] of Object.entries(fields)) await tab.fill(`#publish-form [name=${name}]`, value);
  await tab.click('#publish-form [type=submit]');
  await until('an answer', async () => (await text('publish-said')) !== '');
  return text('publish-said');
}

async function copied(id) {
  await tab.evaluate(() => navigator.clipboard.writeText(''));
  await tab.click(`[data-copies=${id}]`);
  return until('a copy', () => tab.evaluate(() => navigator.clipboard.readText()));
}

const tests = {
  async 'the form publishes, and explains what the page does not show'() {
    await tab.goto(`${gateway.url}/#token=${gateway.token}&org=${gateway.org}&key=${gateway.publish_key}`);
    await isLive();
    const address = await tab.evaluate(() => location.href);
    assert.ok(!address.includes('token') && !address.includes('key'), 'the secrets have left the address');
    await tab.press('#publish summary', 'Enter'); // with the keyboard
    assert.match(await publish({ service: 'finance', event: 'big', data: '{"n":12345678901234567890,"amount":1.10}' }), /^Stored as #\d+\.$/);
    await row('{"n":12345678901234567890,"amount":1.10}');
    await tab.reload();
    await isLive();
    await row('{"n":12345678901234567890,"amount":1.10}');
    await tab.press('#publish summary', 'Enter');
    const raw = await fetch(`${gateway.url}/v1/orgs/${gateway.org}/events`, { headers: { authorization: `Bearer ${gateway.token}` } });
    assert.match(await raw.text(), /"data":\{"n":12345678901234567890,"amount":1\.10\}/, 'no digit is lost');
    assert.match(await publish({ service: 'finance', data: '{' }), /^Data is not JSON/);
    assert.match(await publish({ data: '{}', event: 'a b' }), /^Refused \(\w+\): .*event/);
    assert.match(await publish({ event: 'secret', users: 'alice' }), /Only alice can see it; this page is dev/);
    assert.match(await publish({ event: 'mine', users: 'alice, dev' }), /^Stored as #\d+\.$/);
    await row('mine');
    const all = await rows();
    assert.match(all[all.findIndex((line) => line.includes('mine')) + 1], /^1 hidden#\d+: for other users/, 'in its place');
    assert.equal(await text('hidden'), '1');
    assert.ok(!(await rows()).some((line) => line.includes('secret')));
  },

  async 'the copied curl line and the copied scripts work'() {
    await publish({ event: 'typed', users: '', data: `{"it's":"$HOME \`id\`"}` });
    const line = await copied('publish-code');
    assert.ok(!(await text('publish-code')).includes(gateway.publish_key) && line.includes(gateway.publish_key), 'only a copy has the key');
    assert.match(execFileSync('sh', ['-c', line], { encoding: 'utf8', stdio: 'pipe' }), /"duplicate":false/);
    assert.equal((await gateway.history()).filter(({ data }) => data["it's"] === '$HOME `id`').length, 2);

    // A page of a front end's own development server, as it stands: `dev` lets it in.
    let page = '';
    const site = createServer((_, answer) => answer.setHeader('content-type', 'text/html; charset=utf-8').end(page));
    await new Promise((resolve) => { site.listen(0, 'localhost', resolve); });
    await tab.press('#subscribe summary', 'Enter');
    await filter('finance');
    await isLive();
    for (const way of ['websocket', 'eventsource']) {
      await tab.check(`#ways [value=${way}]`, { force: true });
      page = `<!doctype html><link rel="icon" href="data:,"><script>${await copied('subscribe-code')}</script>`;
      const other = await context.newPage();
      const lines = [];
      other.on('console', (message) => lines.push(message.text()));
      await other.goto(`http://localhost:${site.address().port}`);
      await until('the events that were there', () => lines.some((words) => words.startsWith('typed')));
      await gateway.publish({ service: 'orders', event: 'others', data: 1 }, { service: 'finance', event: `live-${way}`, data: 1 });
      await until('a live event', () => lines.some((words) => words.startsWith(`live-${way}`)));
      assert.ok(!lines.some((words) => words.startsWith('others')), 'it has the filter of the page');
      await other.close();
    }
    site.close();
    await tab.check('#ways [value=curl]', { force: true });
    const shell = spawn('sh', ['-c', await copied('subscribe-code')], { stdio: ['ignore', 'pipe', 'ignore'], detached: true });
    const stop = () => { try { process.kill(-shell.pid, 'SIGKILL'); } catch { /* it ended */ } };
    process.once('exit', stop);
    let out = '';
    shell.stdout.on('data', (chunk) => { out += chunk; });
    await until('the stream in a shell', () => /"type":"hello"[^]*live-websocket/.test(out));
    stop();
  },

  async 'a filter that cannot be, that finds nothing, or that is not allowed'() {
    await filter('fi/nance');
    await until('the fault to be named', () => visible('filter-fault'));
    assert.match(await text('filter-fault'), /“fi\/nance” cannot be a service/);
    assert.equal(await text('phase'), 'Live', 'the stream goes on');
    assert.ok(!(await visible('retry')));

    await filter('fiance');
    await until('the name to be called unknown', () => visible('unknown'));
    assert.match(await text('unknown'), /No event of “fiance” .*finance/);
    assert.ok(!(await visible('filter-fault')));
    await tab.click('#unknown button:text-is("finance")');
    await row('typed');
    assert.ok(!(await visible('unknown')));
    await filter('fiance');
    await until('the name to be called unknown', () => visible('unknown'));
    await gateway.publish({ service: 'fiance', event: 'now.it.exists', data: 1 });
    await row('now.it.exists');
    await until('the word to go', async () => !(await visible('unknown')));

    // The token of a user who may see one service.
    const secret = /^secret = "(.*)"$/m.exec(readFileSync(join(gateway.dir, 'dev.toml'), 'utf8'))[1];
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const claims = `${part({ alg: 'HS256' })}.${part({ sub: 'narrow', org: gateway.org, services: ['finance'], exp: Math.floor(Date.now() / 1000) + 600 })}`;
    const narrow = `${claims}.${createHmac('sha256', secret).update(claims).digest('base64url')}`;
    await tab.goto('about:blank');
    await tab.goto(`${gateway.url}/#token=${narrow}&org=${gateway.org}&key=${gateway.publish_key}`);
    await until('the filter to be refused', async () => (await text('phase')) === 'Closed');
    assert.match(await text('why'), /^The filter “fiance” was refused: .* forbidden$/);
    assert.equal(await text('retry'), 'Show all services');
    await tab.click('#retry');
    await isLive();
    assert.equal(await text('granted'), 'finance');
    await tab.goto('about:blank');
    await tab.goto(`${gateway.url}/#token=${gateway.token.slice(0, -8)}AAAAAAAA&org=${gateway.org}`);
    await until('a bad token to be asked for', async () => (await text('retry')) === 'New token');
  },

  async 'pause says how many wait; a gap is shown also then'() {
    await tab.goto('about:blank');
    await tab.goto(`${gateway.url}/#token=${gateway.token}&org=${gateway.org}`);
    await until('the gap after the narrow token', async () => (await text('verdict')) === 'gaps declared below');
    assert.ok(await visible('gap-card'));
    await tab.click('#reset');
    await until('no gap', async () => (await text('verdict')) === 'nothing missed');
    assert.ok(!(await visible('gap-card')));
    await isLive();
    await tab.press('#pause', 'Enter');
    await until('the word', () => visible('waiting'));
    await gateway.publish(...Array.from({ length: 250 }, (_, n) => ({ service: 'orders', event: 'many', data: n })));
    await until('the count', async () => /250 events wait.*\(the last 200\)/.test(await text('waiting')));
    assert.ok(!(await rows()).some((line) => line.includes('many')));

    // A log that is gone: the position of the page is not in the next one.
    await gateway.kill();
    for (const name of readdirSync(gateway.dir)) if (!/^(dev\.toml|keys\.toml.*)$/.test(name)) rmSync(join(gateway.dir, name), { recursive: true });
    await gateway.restart();
    await until('the gap', async () => (await text('gaps')) === '1');
    assert.ok(await visible('gap-card'), 'although the rows are paused');
    assert.equal(await text('verdict'), 'gaps declared below');
    await tab.click('#waiting');
    await row('many');
    assert.ok(!(await visible('waiting')));
    await filter('orders');
    await isLive();
    assert.ok(!(await visible('gap-card')));
    assert.equal(await text('verdict'), 'nothing missed', 'of another stream');
  },

  async 'the page fits a phone'() {
    await tab.setViewportSize({ width: 390, height: 844 });
    for (const id of ['publish', 'subscribe']) await tab.evaluate((name) => { document.getElementById(name).open = true; }, id);
    const [inside, screen] = await tab.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    assert.ok(inside <= screen, 'nothing is wider than the screen');
    const [title, theme] = await Promise.all(['h1', '#theme'].map((name) => tab.locator(name).boundingBox()));
    assert.ok(theme.x > 195 && theme.x + theme.width <= 390 && theme.y < title.y + title.height && title.y < theme.y + theme.height, 'the theme button is beside the title');
    const ground = () => tab.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const before = await ground();
    await tab.click('#theme');
    assert.notEqual(await ground(), before);
    const unnamed = await tab.$$eval('button, input, textarea', (all) => all
      .filter((node) => !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()))
      .map((node) => node.outerHTML));
    assert.deepEqual(unnamed, [], 'every control has a name');
  },
};

for (const [name, run] of Object.entries(tests)) {
  await run();
  assert.deepEqual(errors, []);
  console.log(`ok ${name}`);
}
await browser.close();
process.exit(0);
