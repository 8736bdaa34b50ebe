// Pages of another origin in Chromium: native EventSource with the token in its address and in a cookie, the
// polyfill event-source-polyfill (it sends its cursor in the query, as `lastEventId`), a stream by fetch, and
// WebSocket. Each works if its origin is listed (over a SIGKILL, the polyfill over three; resumed by the browser
// itself), and fails if it is not. A temporary refusal is retried, a final one is not.
//
//   node tests/npm/eventsource.mjs target/debug/tidegate
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

import { launch } from './browser.mjs';
import { Gateway, until } from './gateway.mjs';

const [program = 'target/debug/tidegate'] = process.argv.slice(2);
const COOKIE = 'tidegate_session';

// A separate site; another name for it is another origin. It sets the cookie as a login would. Cookies ignore
// ports, so the browser sends it to the gateway on the same host, too.
let token = '';
const site = createServer((request, answer) => {
  answer.setHeader('content-type', 'text/html; charset=utf-8');
  if (request.url === '/login') answer.setHeader('set-cookie', `${COOKIE}=${token}; HttpOnly; SameSite=Strict; Path=/`);
  answer.end('<!doctype html><link rel="icon" href="data:,">');
});
await new Promise((resolve) => { site.listen(0, '127.0.0.1', resolve); });
const listed = `http://127.0.0.1:${site.address().port}`;
const strange = `http://localhost:${site.address().port}`;

const gateway = await new Gateway(
  program, '--no-feed',
  '--set', `auth.origins=["${listed}"]`, '--set', `auth.cookie="${COOKIE}"`, '--set', 'limits.connections_per_user=1',
).start();
token = gateway.token;
const stream = `${gateway.url}/v1/orgs/${gateway.org}/stream`;
const browser = await launch();
const polyfill = createRequire(import.meta.url).resolve('event-source-polyfill/src/eventsource.js');

/** A page of `origin` with a context of its own; its `window.got` holds what came. */
async function open(origin) {
  const context = await browser.newContext();
  const tab = await context.newPage();
  await tab.goto(`${origin}/login`);
  await tab.addScriptTag({ path: polyfill });
  assert.equal(await tab.evaluate(() => document.cookie), '', 'no script sees the cookie');
  return { tab, close: () => context.close() };
}

// What a page does with each transport. `got` takes every frame.
const roads = {
  'EventSource, token in the address': (address, secret) => {
    window.got = []; window.opened = 0; window.failed = 0;
    window.source = new EventSource(`${address}?access_token=${secret}`);
    source.onopen = () => { opened += 1; };
    source.onmessage = ({ data, lastEventId }) => got.push({ ...JSON.parse(data), lastEventId });
    source.onerror = () => { failed += 1; };
  },
  'EventSource, cookie': (address) => {
    window.got = []; window.opened = 0; window.failed = 0;
    window.source = new EventSource(address, { withCredentials: true });
    source.onopen = () => { opened += 1; };
    source.onmessage = ({ data, lastEventId }) => got.push({ ...JSON.parse(data), lastEventId });
    source.onerror = () => { failed += 1; };
  },
  'event-source-polyfill, token in a header': (address, secret) => {
    window.got = []; window.opened = 0; window.failed = 0;
    // Its first address asks for the head each time: its cursor must win over that.
    window.source = new EventSourcePolyfill(`${address}?cursor=&tail=0`, { headers: { Authorization: `Bearer ${secret}` } });
    source.onopen = () => { opened += 1; };
    source.onmessage = ({ data, lastEventId }) => got.push({ ...JSON.parse(data), lastEventId });
    source.onerror = () => { failed += 1; };
  },
  'event-source-polyfill, token in the address': (address, secret) => {
    window.got = []; window.opened = 0; window.failed = 0;
    window.source = new EventSourcePolyfill(`${address}?access_token=${secret}`);
    source.onopen = () => { opened += 1; };
    source.onmessage = ({ data, lastEventId }) => got.push({ ...JSON.parse(data), lastEventId });
    source.onerror = () => { failed += 1; };
  },
  'fetch, token in a header': (address, secret) => {
    window.got = []; window.opened = 0; window.failed = 0;
    window.source = { readyState: 0, close() { stop.abort(); } };
    const stop = new AbortController();
    let cursor = '';
    const run = async () => {
      const headers = { authorization: `Bearer ${secret}`, accept: 'text/event-stream', 'cache-control': 'no-cache' };
      if (cursor) headers['last-event-id'] = cursor;
      const answer = await fetch(address, { headers, signal: stop.signal });
      if (!answer.ok) throw new Error(answer.status);
      opened += 1;
      let text = '';
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        text += value;
        const parts = text.split('\n\n');
        text = parts.pop();
        for (const part of parts) {
          const id = /^id: (.*)$/m.exec(part)?.[1];
          if (id) cursor = id;
          const data = /^data: (.*)$/m.exec(part)?.[1];
          if (data) got.push({ ...JSON.parse(data), lastEventId: cursor });
        }
      }
    };
    const again = () => run().catch(() => { failed += 1; }).then(() => { if (!stop.signal.aborted) setTimeout(again, 500); });
    again();
  },
  'WebSocket, token in a subprotocol': (address, secret) => {
    window.got = []; window.opened = 0; window.failed = 0;
    let at;
    const connect = () => {
      const socket = new WebSocket(address.replace('http', 'ws') + (at ? `?cursor=${at.join('-')}` : ''), ['tidegate.v1', `tidegate.bearer.${secret}`]);
      window.source = socket;
      socket.onopen = () => { opened += 1; };
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === 'hello') at = frame.cursor.split('-');
        else if (frame.seq && at) at[1] = frame.seq;
        if (frame.type === 'ping') socket.send('{"type":"pong"}');
        got.push(frame);
      };
      socket.onclose = ({ code }) => { failed += 1; if (code < 4500) setTimeout(connect, 500); };
    };
    connect();
  },
};

const events = (tab) => tab.evaluate(() => window.got.flatMap((frame) => (frame.type === 'event' ? [frame] : frame.events ?? [])).map(({ id }) => id));
const types = (tab) => tab.evaluate(() => window.got.map(({ type, code }) => code ?? type));
let number = 0;
async function publish(count) {
  const ids = Array.from({ length: count }, () => `e-${number += 1}`);
  await gateway.publish(...ids.map((id) => ({ service: 'staff', event: 'shift.started', id, data: {} })));
  return ids;
}

for (const [name, road] of Object.entries(roads)) {
  const { tab, close } = await open(listed);
  await tab.evaluate(`(${road})(${JSON.stringify(stream)}, ${JSON.stringify(token)})`);
  await until(`${name}: hello`, async () => (await types(tab)).includes('hello'));
  const sent = await publish(3);
  await until(`${name}: live events`, async () => (await events(tab)).length >= 3);
  for (let cuts = name.startsWith('event-source-polyfill') ? 3 : 1; cuts > 0; cuts -= 1) {
    await tab.evaluate(() => { window.failed = 0; });
    await gateway.kill();
    await until(`${name}: the break`, () => tab.evaluate(() => window.failed > 0));
    await gateway.restart();
    sent.push(...await publish(3));
    await until(`${name}: what was published while it was away`, async () => (await events(tab)).length >= sent.length);
    sent.push(...await publish(2));
    await until(`${name}: live again`, async () => (await events(tab)).length >= sent.length);
  }
  assert.deepEqual(await events(tab), sent, `${name}: each event once and in order`);
  const hellos = await tab.evaluate(() => window.got.filter(({ type }) => type === 'hello'));
  assert.equal(hellos.at(-1).resumed, true, `${name}: resumed from its cursor`);
  await tab.evaluate(() => source.close());
  await close();
  await until(`${name}: its place`, async () => !(await gateway.isTaken()));

  const other = await open(strange);
  await other.tab.evaluate(`(${road})(${JSON.stringify(stream)}, ${JSON.stringify(token)})`);
  await until(`${name}: a failure`, () => other.tab.evaluate(() => window.failed > 0));
  const seen = await types(other.tab);
  assert.ok(seen.every((type) => type === 'forbidden'), `${name}: a page that is not listed sees ${seen}`);
  if (name.startsWith('EventSource')) assert.equal(await other.tab.evaluate(() => source.readyState), 2, `${name}: it gives up`);
  await other.close();
  console.log(`ok ${name}`);
}

// A temporary refusal: another connection of the same user holds the only slot. The browser retries by
// itself, and is let in when the slot is free.
for (const name of Object.keys(roads).filter((road) => road.startsWith('EventSource'))) {
  const holder = new AbortController();
  const held = await fetch(stream, { headers: { authorization: `Bearer ${token}` }, signal: holder.signal });
  assert.equal(held.status, 200);
  const { tab, close } = await open(listed);
  await tab.evaluate(`(${roads[name]})(${JSON.stringify(stream)}, ${JSON.stringify(token)})`);
  await until(`${name}: a second refusal`, async () => (await types(tab)).filter((type) => type === 'too_many_connections').length >= 2);
  holder.abort();
  await until(`${name}: to be let in`, async () => (await types(tab)).includes('hello'));
  await close();
  await until(`${name}: its place`, async () => !(await gateway.isTaken()));
  console.log(`ok ${name}: a refusal that passes`);
}

// A final one: the browser gives up for good, and reports it.
for (const [name, address] of [['a token that is none', `${stream}?access_token=x.y.z`], ['another org', `${gateway.url}/v1/orgs/other/stream?access_token=${token}`]]) {
  const { tab, close } = await open(listed);
  await tab.evaluate(`(${roads['EventSource, token in the address']})(${JSON.stringify(address)}, '')`.replace("?access_token=${secret}", ''));
  await until(`${name}: the end`, () => tab.evaluate(() => source.readyState === 2));
  assert.deepEqual(await types(tab), [], name);
  await close();
  console.log(`ok EventSource, ${name}: final`);
}

await browser.close();
process.exit(0);
