// What the page's panels make of a form and of a stream. Run: node --test crates/tidegate-server/assets/tests/
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';

import { client, curlPublish, curlStream, eventSource, quote, webSocket } from '../snippets.js';
import { bodyOf, namesIn, outcome, userOf } from '../try.js';

const HOSTILE = `it's "$HOME" \\ \`id\` </script> é`;
const stream = { origin: 'http://localhost:8080', org: 'dev', token: 'a.b.c', services: ['finance', 'orders'] };

test('a body keeps the data as it was written, and its names as JSON', () => {
  const form = { service: ' finance ', event: 'paid', data: '{"n": 12345678901234567890, "e": 1e2}', users: '' };
  assert.equal(bodyOf(form), '{"service":"finance","event":"paid","data":{"n": 12345678901234567890, "e": 1e2}}');
  assert.deepEqual(JSON.parse(bodyOf({ ...form, users: 'bob, alice  bob', data: '' })), { service: 'finance', event: 'paid', users: ['bob', 'alice'], data: null });
  assert.deepEqual(JSON.parse(bodyOf({ ...form, service: HOSTILE, data: JSON.stringify(HOSTILE) })).service, HOSTILE);
  for (const data of ['{', "{'a':1}", '1}, "users":["x"]', 'undefined']) assert.throws(() => bodyOf({ ...form, data }), SyntaxError);
});

test('what was stored but is not shown is explained', () => {
  const asked = { service: 'finance', users: '', user: 'dev', shown: [] };
  assert.equal(outcome({ seq: 7, duplicate: false }, asked), 'Stored as #7.');
  assert.equal(outcome({ seq: 7, duplicate: true }, asked), 'Stored before, as #7.');
  assert.match(outcome({ seq: 7 }, { ...asked, users: 'alice' }), /^Stored as #7\. Only alice can see it; this page is dev\.$/);
  assert.equal(outcome({ seq: 7 }, { ...asked, users: 'alice, dev' }), 'Stored as #7.');
  assert.match(outcome({ seq: 7 }, { ...asked, shown: ['orders'] }), /filter of this page hides it/);
  assert.equal(outcome({ seq: 7 }, { ...asked, shown: ['finance'] }), 'Stored as #7.');
});

test('the user of a token is read, never trusted', () => {
  const token = (claims) => `e30.${Buffer.from(claims).toString('base64url')}.x`;
  assert.equal(userOf(token('{"sub":"zoë?>"}')), 'zoë?>');
  for (const bad of [token('{"sub":1}'), token('{}'), token('{'), 'x', '', 'a.%%.b']) assert.equal(userOf(bad), null);
  assert.deepEqual(namesIn(' a,b  a\n,c '), ['a', 'b', 'c']);
});

test('a shell gets each word as it was, and nothing of it runs', () => {
  const echo = (text) => execFileSync('sh', ['-c', `printf %s ${quote(text)}`], { encoding: 'utf8' });
  for (const text of [HOSTILE, "'", '', "a'; touch /tmp/x; '"]) assert.equal(echo(text), text);
  const line = curlPublish({ origin: stream.origin, org: 'dev', key: 'tgk_1', body: JSON.stringify({ data: HOSTILE }) });
  const words = execFileSync('sh', ['-c', `curl() { printf '%s\\n' "$@"; }; ${line}`], { encoding: 'utf8' }).split('\n');
  assert.equal(words[0], 'http://localhost:8080/v1/orgs/dev/events');
  assert.ok(words.includes('Authorization: Bearer tgk_1') && words.includes(JSON.stringify({ data: HOSTILE })));
  assert.match(curlStream(stream), /^curl -N 'http:\/\/localhost:8080\/v1\/orgs\/dev\/stream\?services=finance,orders&tail=10' /);
});

// Lets promises that have settled go on.
const settle = () => new Promise((resolve) => { setImmediate(resolve); });

test('scripts ask for what is on the screen, and come back at their cursor with a new token', async () => {
  const asked = [];
  class WebSocket {
    constructor(...words) { asked.push(words); WebSocket.last = this; }
    send(text) { asked.push(text); }
  }
  const timers = [];
  const said = [];
  const log = { log: (...words) => said.push(words), warn() {}, error: (...words) => said.push(words) };
  const later = (act, ms) => timers.push({ act, ms });
  // The line that a user replaces.
  const renewing = (code) => code.replace(/^const getToken = async \(\) => ('.*');/, 'let tokens = 0; const getToken = async () => $1 + ++tokens;');
  new Function('WebSocket', 'setTimeout', 'console', renewing(webSocket({ ...stream, token: HOSTILE })))(WebSocket, later, log);
  await settle();
  const hear = (frame) => WebSocket.last.onmessage({ data: JSON.stringify(frame) });
  hear({ type: 'hello', cursor: 'e-5-t' });
  hear({ type: 'batch', prev: 4, seq: 9, events: [{ seq: 5, event: 'old', data: 0 }, { seq: 9, event: 'x', data: 1 }] });
  hear({ type: 'error', code: 'token_expired', message: 'Get a new one.', retry_in_ms: 9000 });
  WebSocket.last.onclose({ code: 4001 });
  assert.ok(timers[0].ms >= 9000, 'not before the gateway wants it');
  timers.pop().act();
  await settle();
  assert.deepEqual(asked, [
    ['ws://localhost:8080/v1/orgs/dev/stream?services=finance,orders&tail=10', ['tidegate.v1', `tidegate.bearer.${HOSTILE}1`]],
    ['ws://localhost:8080/v1/orgs/dev/stream?services=finance,orders&cursor=e-9-t', ['tidegate.v1', `tidegate.bearer.${HOSTILE}2`]],
  ]);
  assert.deepEqual(said.splice(0), [['x', 1], ['token_expired', 'Get a new one.']]);
  WebSocket.last.onclose({ code: 4551 });
  assert.deepEqual(timers, [], 'a final refusal');

  const opened = [];
  class EventSource {
    static CLOSED = 2;
    constructor(url) { opened.push(url); EventSource.last = this; }
  }
  new Function('EventSource', 'setTimeout', 'console', renewing(eventSource({ ...stream, services: [] })))(EventSource, later, log);
  await settle();
  const message = (frame, lastEventId) => EventSource.last.onmessage({ data: JSON.stringify(frame), lastEventId });
  message({ type: 'hello' }, 'e-5-t');
  message({ type: 'event', event: 'x', data: 1 }, 'e-6-t');
  message({ type: 'error', code: 'overloaded', message: 'Later.' }, '');
  assert.deepEqual(said.splice(0), [['x', 1], ['overloaded', 'Later.']]);
  EventSource.last.onerror();
  assert.deepEqual(timers, [], 'it comes back by itself');
  for (const soon of [true, false]) {
    EventSource.last.readyState = 2;
    EventSource.last.onerror();
    const { act, ms } = timers.pop();
    assert.equal(ms < 60_000, soon, 'a token that has expired, then a new one that is refused as well');
    act();
    await settle();
  }
  const address = 'http://localhost:8080/v1/orgs/dev/stream?';
  assert.deepEqual(opened, [`${address}tail=10&access_token=a.b.c1`, `${address}cursor=e-6-t&access_token=a.b.c2`, `${address}cursor=e-6-t&access_token=a.b.c3`]);
  assert.ok(!webSocket({ ...stream, token: '</script>' }).includes('</script>'), 'it can stand in a page');
});

test('the module of the client asks for what is on the screen', async () => {
  const code = client({ ...stream, token: HOSTILE });
  assert.match(code, /^import \{ createClient \} from '@tidegate\/client';\n/);
  const given = [];
  const made = { on() {}, onGap() {}, connect: () => given.push('connect') };
  new Function('createClient', code.replace(/^import.*\n/, ''))((options) => { given.push(options); return made; });
  const [{ getToken, ...options }, last] = given;
  assert.deepEqual(options, { url: 'http://localhost:8080', org: 'dev', tail: 10, services: ['finance', 'orders'] });
  assert.equal(await getToken(), HOSTILE);
  assert.equal(last, 'connect');
  assert.ok(!client({ ...stream, services: [] }).includes('services'));
});
