// The nginx of packaging/nginx in front of a gateway, from outside through TLS: WebSocket, event streams over
// HTTP/2, EventSource in Chromium over restarts, bodies, and the content of the logs. The file runs as it is;
// only its ports, paths and name are replaced.
//
//   node tests/npm/nginx.mjs target/debug/tidegate target/nginx.png
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import WebSocket from 'ws';

import { launch } from './browser.mjs';
import { Gateway, freePort, until } from './gateway.mjs';

const [program = 'target/debug/tidegate', picture = 'target/nginx.png'] = process.argv.slice(2);
const SNIPPET = 'packaging/nginx/tidegate.conf';
const PER_ADDRESS = 60;

const reference = execFileSync(program, ['config', 'reference'], { encoding: 'utf8' });
const default_of = (key) => reference.split(`### \`${key}\``)[1].match(/- Default: `"?([^"`]+)/)[1];

// A page of another origin, as applications are.
const site = createServer((_, answer) => answer.setHeader('content-type', 'text/html; charset=utf-8').end('<!doctype html><link rel="icon" href="data:,"><ul id="events"></ul>'));
await new Promise((resolve) => { site.listen(0, '127.0.0.1', resolve); });
const elsewhere = `http://127.0.0.1:${site.address().port}`;

const gateway = await new Gateway(
  program, '--no-feed', '--set', `auth.origins=["${elsewhere}"]`,
  '--set', 'ping.interval="1s"', '--set', 'ping.timeout="900ms"',
  '--set', 'limits.connections_per_user=1000', '--set', `limits.connections_per_address=${PER_ADDRESS}`,
  '--set', 'listen.trusted_proxies=["127.0.0.1/32"]',
  // The gateway compresses nothing here, so a compressed answer was compressed, and buffered, by nginx.
  '--set', 'compression.enabled=false',
).start();
const { org, token, publish_key: key } = gateway;
const secrets = [token, key];

const dir = mkdtempSync(join(tmpdir(), 'tidegate-nginx-'));
const logs = { access: join(dir, 'access.log'), error: join(dir, 'error.log'), main: join(dir, 'main.log') };
const children = [];
process.once('exit', () => {
  // nginx's master ends its workers on SIGTERM, not on SIGKILL; they write until they have ended.
  for (const child of children) child.kill('SIGTERM');
  rmSync(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
});
const read = (file) => { try { return readFileSync(file, 'utf8'); } catch { return ''; } };

/** `text` with each `from` replaced; every one must be there. */
function replaced(text, changes) {
  for (const [from, to] of changes) {
    assert.ok(text.includes(from), `${SNIPPET} has no ${from}`);
    text = text.replaceAll(from, to);
  }
  return text;
}

execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '1',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
  '-keyout', join(dir, 'privkey.pem'), '-out', join(dir, 'fullchain.pem')], { stdio: 'pipe' });
const ca = readFileSync(join(dir, 'fullchain.pem'));

/** An nginx with the snippet, in front of what listens at `upstream`. */
class Nginx {
  async start(...what) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#launch(...what);
      } catch (error) {
        // Usually a port that is in use.
        if (tries === 3) throw error;
      }
    }
  }

  async #launch(upstream, change = (text) => text) {
    const prefix = mkdtempSync(join(dir, 'prefix-'));
    this.port = freePort();
    const plain = freePort();
    const snippet = replaced(readFileSync(SNIPPET, 'utf8'), [
      ['    listen [::]:443 ssl http2 default_server;\n', ''], ['    listen [::]:443 ssl http2;\n', ''], ['    listen [::]:80;\n', ''],
      ['listen 443 ssl', `listen 127.0.0.1:${this.port} ssl`], ['listen 80;', `listen 127.0.0.1:${plain};`],
      ['server 127.0.0.1:8080;', `server ${upstream};`],
      ['server_name gateway.example.com;', 'server_name localhost;'],
      ['/etc/tidegate/tls/', `${dir}/`],
      ['/var/log/nginx/tidegate.access.log', logs.access], ['/var/log/nginx/tidegate.error.log', logs.error],
      // It is longer than a ping interval by the same factor.
      ['proxy_read_timeout 90s;', 'proxy_read_timeout 3s;'],
    ]);
    writeFileSync(join(prefix, 'tidegate.conf'), change(snippet));
    const temps = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `  ${name}_temp_path ${prefix}/${name};`);
    writeFileSync(join(prefix, 'nginx.conf'), `${process.getuid() === 0 ? 'user root;' : ''}
daemon off;
worker_processes 1;
worker_shutdown_timeout 1s;
pid ${prefix}/nginx.pid;
error_log ${logs.main} notice;
events { worker_connections 1024; }
http {
${temps.join('\n')}
  gzip on;
  gzip_types *;
  access_log off;
  include ${prefix}/tidegate.conf;
}
`);
    // nginx itself must accept the file.
    execFileSync('nginx', ['-t', '-q', '-p', prefix, '-c', 'nginx.conf', '-e', logs.main], { stdio: 'pipe' });
    this.child = spawn('nginx', ['-p', prefix, '-c', 'nginx.conf', '-e', logs.main], { stdio: ['ignore', 'ignore', 'pipe'] });
    let words = '';
    this.child.stderr.on('data', (chunk) => { words += chunk; });
    children.push(this.child);
    await until('nginx to listen', () => {
      assert.equal(this.child.exitCode, null, `nginx ended: ${words}`);
      return new Promise((resolve) => {
        const socket = connect(this.port, '127.0.0.1', () => { socket.destroy(); resolve(true); });
        socket.once('error', () => resolve(false));
      });
    });
    this.plain = `http://127.0.0.1:${plain}`;
    this.url = `https://localhost:${this.port}`;
    return this;
  }
}

const nginx = await new Nginx().start(new URL(gateway.url).host);
const path = (what) => `/v1/orgs/${org}/${what}`;
const bearer = (what) => ({ authorization: `Bearer ${what}` });

/** A whole answer over HTTP/1.1. `body` may be a list of chunks: sent without a length. */
function ask(where, { method = 'GET', headers = {}, body, at = nginx } = {}) {
  return new Promise((resolve, reject) => {
    const request = https.request(`${at.url}${where}`, { method, headers, ca, agent: false, lookup: loopback });
    request.once('error', reject);
    request.once('response', (answer) => {
      let text = '';
      answer.on('data', (chunk) => { text += chunk; });
      answer.once('error', reject);
      answer.once('end', () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
    });
    if (Array.isArray(body)) body.forEach((chunk) => request.write(chunk));
    else if (body !== undefined) request.write(body);
    request.end();
  });
}
function loopback(_, options, done) { return options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4); }

/** A whole answer over HTTP/2. */
function ask2(session, where, headers, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':path': where, ...headers }, { endStream: body === undefined });
    let status;
    let text = '';
    stream.setEncoding('utf8');
    stream.once('response', (head) => { status = head[':status']; });
    stream.on('data', (chunk) => { text += chunk; });
    stream.once('end', () => resolve({ status, text }));
    stream.once('error', reject);
    if (body !== undefined) stream.end(body);
  });
}

/** An HTTP/2 connection of its own. */
async function session2(more = {}) {
  const session = http2.connect(nginx.url, { ca, lookup: loopback, ...more });
  await new Promise((resolve, reject) => { session.once('connect', resolve); session.once('error', reject); });
  assert.equal(session.alpnProtocol, 'h2', 'nginx speaks HTTP/2');
  return session;
}

/** The frames of an event stream, as they arrive. */
function frames(source, follow) {
  const stream = Object.assign(follow, { frames: [], status: 0, ended: false });
  let text = '';
  const take = (chunk) => {
    text += chunk;
    const whole = text.split('\n\n');
    text = whole.pop();
    for (const event of whole) {
      const data = event.split('\n').find((line) => line.startsWith('data:'));
      if (data) stream.frames.push(JSON.parse(data.slice(5)));
    }
  };
  source.setEncoding('utf8');
  source.on('data', take);
  for (const end of ['close', 'end', 'error']) source.once(end, () => { stream.ended = true; });
  return stream;
}

function stream2(session, query = '', headers = bearer(token)) {
  const source = session.request({ ':path': path(`stream${query}`), accept: 'text/event-stream', ...headers });
  const stream = frames(source, { close: () => source.close() });
  source.once('response', (head) => { stream.status = head[':status']; stream.headers = head; });
  return stream;
}

function stream1() {
  const stream = {};
  const request = https.get(`${nginx.url}${path('stream')}`, { ca, agent: false, lookup: loopback, headers: { ...bearer(token), 'accept-encoding': 'gzip' } }, (answer) => {
    frames(answer, stream);
    stream.status = answer.statusCode;
    stream.headers = answer.headers;
  });
  request.on('error', () => { stream.ended = true; });
  stream.close = () => request.destroy();
  return stream;
}

function socket(protocols, headers, query = '') {
  const ws = new WebSocket(`${nginx.url.replace('https', 'wss')}${path(`stream${query}`)}`, protocols, { ca, headers, lookup: loopback });
  const stream = { ws, frames: [], code: 0, words: '' };
  ws.on('message', (data) => {
    const frame = JSON.parse(data);
    stream.frames.push(frame);
    if (frame.type === 'ping') ws.send('{"type":"pong"}');
  });
  ws.on('close', (code) => { stream.code = code; });
  ws.on('error', (error) => { stream.words = String(error); });
  return stream;
}

const events = (stream) => stream.frames.flatMap((frame) => frame.events ?? (frame.type === 'event' ? [frame] : []));
const ids = (stream) => events(stream).map(({ id }) => id);
const hello = (stream) => stream.frames.find(({ type }) => type === 'hello');
let number = 0;
const event = (more = {}) => ({ service: 'finance', event: 'invoice.paid', id: `invoice-${number += 1}`, data: { number }, ...more });

/** Publishes through nginx; the ids. */
async function publish(...list) {
  const answer = await ask(path('events'), { method: 'POST', headers: { ...bearer(key), 'content-type': 'application/json' }, body: JSON.stringify(list) });
  assert.equal(answer.status, 200, answer.text);
  return list.map(({ id }) => id);
}

/** A body of exactly `size` bytes: events of 200 KiB, and white space. */
function body(size) {
  const list = Array.from({ length: 19 }, () => event({ data: 'x'.repeat(200 << 10) }));
  const text = JSON.stringify(list);
  assert.ok(text.length < size);
  return `${text.slice(0, -1)}${' '.repeat(size - text.length)}]`;
}

const tests = {
  async 'TLS 1.2 and 1.3, HTTP/2, and nothing for other names'() {
    const curl = (...more) => execFileSync('curl', ['-sS', '-o', '/dev/null', '-w', '%{http_version} %{http_code}', '--cacert', join(dir, 'fullchain.pem'), ...more], { encoding: 'utf8', stdio: 'pipe' });
    const where = `${nginx.url}${path('cursor')}`;
    const here = ['--resolve', `localhost:${nginx.port}:127.0.0.1`, '-H', `Authorization: Bearer ${token}`];
    assert.equal(curl(...here, '--tlsv1.3', where), '2 200');
    assert.equal(curl(...here, '--tls-max', '1.2', where), '2 200');
    assert.throws(() => curl(...here, '--tls-max', '1.1', '--ciphers', 'DEFAULT@SECLEVEL=0', where), 'TLS 1.1');
    assert.throws(() => curl('--connect-to', `other.example:443:127.0.0.1:${nginx.port}`, '-k', 'https://other.example/v1/'), /unrecognized name/, 'another name');
    assert.equal(curl(`${nginx.plain}${path('cursor')}`, '-H', 'Host: localhost'), '1.1 403', 'plain HTTP');
    for (const hidden of ['/metrics', '/readyz', '/', '/v1/../metrics']) assert.equal((await ask(hidden)).status, 404, hidden);
  },

  async 'timeouts stand behind those of the gateway'() {
    const text = readFileSync(SNIPPET, 'utf8');
    const seconds = (name) => Number(text.match(new RegExp(`\\b${name} (\\d+)s;`))[1]);
    const of = (name) => Number(default_of(name).match(/^(\d+)s$/)[1]);
    assert.ok(seconds('proxy_read_timeout') > 2 * of('ping.interval') + of('ping.timeout'));
    assert.ok(seconds('send_timeout') > of('limits.write_timeout'));
    assert.ok(seconds('proxy_send_timeout') > of('limits.write_timeout'));
    // The one of `upstream`, which comes first.
    assert.ok(seconds('keepalive_timeout') < of('limits.idle_timeout'));
    assert.equal(default_of('limits.request_bytes'), `${text.match(/client_max_body_size (\d+)m;/)[1]}MiB`);
    assert.ok(Number(text.match(/large_client_header_buffers \d+ (\d+)k;/)[1]) > Number(default_of('limits.token_bytes').match(/^(\d+)KiB$/)[1]));
  },

  async 'WebSocket with a header, with a subprotocol, and with the longest token'() {
    const services = Array.from({ length: 88 }, (_, at) => `service-${at}-${'x'.repeat(52)}`).concat('finance').join(',');
    const long = execFileSync(program, ['token', 'create', '--data-dir', gateway.dir, '--org', org, '--user', 'long', '--services', services], { encoding: 'utf8' }).trim();
    assert.ok(long.length > 7500 && long.length <= 8192, `${long.length} bytes`);
    secrets.push(long);
    const streams = [
      socket([], bearer(token)),
      socket(['tidegate.v1', `tidegate.bearer.${token}`]),
      socket(['tidegate.v1', `tidegate.bearer.${long}`]),
      socket(['tidegate.v1']), // the token in the first frame
    ];
    streams[3].ws.on('open', () => streams[3].ws.send(JSON.stringify({ type: 'auth', token })));
    await until('four hellos', () => streams.every((stream) => hello(stream) || assert.equal(stream.words, '')));
    const sent = await publish(event(), event());
    await until('the events', () => streams.every((stream) => ids(stream).length === 2));
    for (const stream of streams) {
      assert.deepEqual(ids(stream), sent);
      stream.ws.close();
    }
    const refused = socket(['tidegate.v1', 'tidegate.bearer.no-token']);
    await until('the close code of a refusal', () => refused.code);
    assert.equal(refused.code, 4551);
    const big = await session2();
    const [answer] = await Promise.all([ask2(big, path('cursor'), bearer(long))]);
    assert.equal(answer.status, 200, answer.text);
    const inUrl = stream2(big, `?access_token=${long}`, {});
    await until('the longest token in an address', () => hello(inUrl));
    big.destroy();
  },

  async 'a page of the gateway\'s own origin may connect, another may not'() {
    const own = socket([], { ...bearer(token), origin: nginx.url });
    const other = socket([], { ...bearer(token), origin: 'https://evil.example' });
    const listed = socket([], { ...bearer(token), origin: elsewhere });
    await until('two hellos and a refusal', () => (own.code ? assert.fail('Host came without its port') : hello(own) && hello(listed) && other.code));
    assert.equal(other.code, 4552);
    own.ws.close();
    listed.ws.close();
  },

  async 'what the gateway is told of a caller'() {
    const seen = [];
    const upstream = createServer((request, answer) => { seen.push(request.headers); answer.end(); });
    upstream.on('upgrade', (request, stream) => { seen.push(request.headers); stream.destroy(); });
    await new Promise((resolve) => { upstream.listen(0, '127.0.0.1', resolve); });
    const at = await new Nginx().start(`127.0.0.1:${upstream.address().port}`);
    const said = { 'x-forwarded-for': '203.0.113.7, 198.51.100.9', forwarded: 'for=203.0.113.7', origin: 'https://app.example', cookie: 'a=b', 'last-event-id': '1-2-3' };
    const tell = async (headers) => { await ask(path('stream'), { headers: { ...said, ...headers }, at }); return seen.at(-1); };
    const plain = await tell({});
    assert.equal(plain['x-forwarded-for'], '127.0.0.1', 'who calls is what nginx saw');
    assert.equal(plain.forwarded, undefined);
    assert.equal(plain.host, new URL(at.url).host, 'with its port');
    for (const kept of ['origin', 'cookie', 'last-event-id']) assert.equal(plain[kept], said[kept]);
    const h2c = await tell({ connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAMAAABkAAQAoAAAAAIAAAAA' });
    assert.equal(h2c.upgrade, undefined, 'no upgrade but to WebSocket');
    assert.notEqual(h2c.connection, 'upgrade');
    const ws = await tell({ connection: 'keep-alive, Upgrade', upgrade: 'WebSocket' });
    assert.deepEqual([ws.upgrade, ws.connection], ['websocket', 'upgrade']);
    at.child.kill('SIGTERM');

    // The parts in comments: another proxy in front, and publishers only from inside.
    const behind = await new Nginx().start(`127.0.0.1:${upstream.address().port}`, (text) => {
      const lines = /    #   set_real_ip_from [^]*?real_ip_recursive on;\n/.exec(text)[0];
      const block = /    # location ~ [^]*?\n    # }\n/.exec(text)[0];
      return text.replace(lines, lines.replaceAll('#', '').replace('192.0.2.0/24', '127.0.0.0/8')).replace(block, block.replace(/^    # /gm, '    '));
    });
    const call = async (method) => {
      const before = seen.length;
      const answer = await ask(path('events'), { method, headers: said, at: behind });
      return [answer.status, seen.slice(before).map((headers) => headers['x-forwarded-for'])];
    };
    assert.deepEqual(await call('GET'), [200, ['198.51.100.9']], 'the last address that the proxy in front did not know to be one');
    assert.deepEqual(await call('OPTIONS'), [200, ['198.51.100.9']]);
    assert.deepEqual(await call('POST'), [403, []], 'a publisher from outside');
    behind.child.kill('SIGTERM');
    upstream.close();
  },

  async 'an event is there before the next is published, over HTTP/2 and HTTP/1.1'() {
    const session = await session2();
    const streams = [stream2(session), stream2(session, `?access_token=${token}`, { 'accept-encoding': 'gzip' }), stream1()];
    await until('hellos', () => streams.every((stream) => stream.frames && hello(stream)));
    for (const { headers } of streams) {
      assert.equal(headers['content-type'], 'text/event-stream; charset=utf-8');
      assert.equal(headers['content-encoding'], undefined, 'nginx does not compress a stream');
    }
    for (let times = 1; times <= 20; times += 1) {
      const [id] = await publish(event());
      await until(`event ${times}`, () => streams.every((stream) => ids(stream).length === times));
      assert.ok(streams.every((stream) => ids(stream).at(-1) === id));
    }
    streams[2].close();
    session.destroy();
  },

  async 'forty streams over one HTTP/2 connection'() {
    const session = await session2();
    const streams = Array.from({ length: 40 }, () => stream2(session));
    await until('forty hellos', () => streams.every(hello));
    const sent = await publish(event(), event(), event());
    await until('forty times three events', () => streams.every((stream) => ids(stream).length === 3));
    for (const stream of streams) assert.deepEqual(ids(stream), sent);
    session.destroy();
  },

  async 'a quiet stream outlives the read timeout by its pings'() {
    const session = await session2();
    const [sse, ws] = [stream2(session), socket([], bearer(token))];
    const pings = (stream) => stream.frames.filter(({ type }) => type === 'ping').length;
    await until('more pings than fit into the read timeout', () => {
      assert.ok(!sse.ended && !ws.code, 'both are open');
      return pings(sse) >= 7 && pings(ws) >= 7;
    });
    session.destroy();
    ws.ws.close();
  },

  async 'bodies up to the limit, and 413 above'() {
    const limit = 4 << 20;
    const headers = { ...bearer(key), 'content-type': 'application/json' };
    const post = (size, more = {}, list = false) => {
      const text = body(size);
      return ask(path('events'), { method: 'POST', headers: { ...headers, ...(list ? {} : { 'content-length': size }), ...more }, body: list ? [text.slice(0, 1 << 20), text.slice(1 << 20)] : text });
    };
    assert.equal((await post(limit)).status, 200, 'with a length');
    assert.equal((await post(limit, {}, true)).status, 200, 'without one');
    const session = await session2();
    const post2 = (size) => ask2(session, path('events'), { ':method': 'POST', ...headers }, body(size));
    assert.equal((await post2(limit)).status, 200, 'over HTTP/2');
    for (const answer of [await post(limit + 1), await post(limit + 1, {}, true), await post2(limit + 1)]) {
      assert.equal(answer.status, 413, answer.text);
      assert.equal(JSON.parse(answer.text).limit, 'limits.request_bytes');
    }
    // A publisher without rights gets the refusal, however much it is still sending.
    for (let times = 0; times < 5; times += 1) assert.equal((await post(limit, bearer('tgk_nobody_nothing'))).status, 401);
    session.destroy();
  },
};

// How the gateway counts clients: one address of loopback reaches the limit per address, and neither another
// one nor nginx's own does; what clients claim about themselves changes nothing.
tests['the address that counts is the caller\'s, whatever it says'] = async () => {
  const from = async (address, headers = {}) => {
    const session = await session2({ localAddress: address });
    return { session, open: () => stream2(session, '', { ...bearer(token), ...headers }) };
  };
  const here = await from('127.0.0.2');
  const streams = Array.from({ length: PER_ADDRESS }, here.open);
  await until('as many streams as one address may have', () => streams.every(hello));
  for (const spoofed of [{}, { 'x-forwarded-for': '203.0.113.7' }, { 'x-forwarded-for': '203.0.113.7, 198.51.100.9' }, { forwarded: 'for=203.0.113.7' }]) {
    const one = await from('127.0.0.2', spoofed);
    const refused = one.open();
    await until('a refusal', () => refused.status && refused.ended);
    assert.equal(refused.status, 429, `an address that is full, which says ${JSON.stringify(spoofed)}`);
    one.session.destroy();
  }
  const other = await from('127.0.0.3', { 'x-forwarded-for': '127.0.0.2' });
  const stream = other.open();
  await until('a stream from another address', () => hello(stream));
  other.session.destroy();
  here.session.destroy();
};

tests['EventSource in Chromium comes back by itself, from its own origin and another'] = async () => {
  const browser = await launch();
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const tabs = [];
  for (const origin of [nginx.url, elsewhere]) {
    const tab = await context.newPage();
    await tab.goto(`${origin}/`); // nginx's 404 is a page of its origin as any other
    await tab.evaluate((address) => {
      document.body.innerHTML = '<h1>Through nginx</h1><ol id="events"></ol>';
      window.got = [];
      window.errors = 0;
      window.told = [];
      window.source = new EventSource(address);
      window.source.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (['gap', 'error', 'hello'].includes(frame.type)) window.told.push(frame);
        for (const event of frame.events ?? (frame.type === 'event' ? [frame] : [])) {
          window.got.push(event.id);
          document.getElementById('events').insertAdjacentHTML('beforeend', `<li>${event.event} ${event.id}</li>`);
        }
      };
      window.source.onerror = () => { window.errors += 1; };
    }, `${nginx.url}${path('stream')}?access_token=${token}`);
    tabs.push(tab);
  }
  const look = (name) => Promise.all(tabs.map((tab) => tab.evaluate(`window.${name}`)));
  const hellos = async (count) => (await look('told')).every((told) => told.filter(({ type }) => type === 'hello').length >= count);
  await until('both to be live', () => hellos(1));
  const protocol = await tabs[0].evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol);
  assert.equal(protocol, 'h2');
  const sent = await publish(event(), event());
  await until('the first events', async () => (await look('got')).every((got) => got.length === sent.length));
  for (let times = 1; times <= 2; times += 1) {
    await gateway.kill();
    // Several attempts while nothing listens.
    const before = await look('errors');
    await until('two tries in vain', async () => (await look('errors')).every((errors, at) => errors >= before[at] + 3));
    assert.deepEqual(await look('source.readyState'), [0, 0], 'neither has given up');
    await gateway.restart();
    sent.push(...await publish(event(), event(), event()));
    await until('what was published while they were away', async () => (await look('got')).every((got) => got.length >= sent.length));
  }
  // A reload of nginx ends the streams of its old workers, after worker_shutdown_timeout.
  const before = (await look('told')).map((told) => told.length);
  nginx.child.kill('SIGHUP');
  await until('both to be live through the new worker', async () => (await look('told')).every((told, at) => told.slice(before[at]).some(({ type }) => type === 'hello')));
  sent.push(...await publish(event()));
  await until('an event through the new worker', async () => (await look('got')).every((got) => got.length >= sent.length));
  for (const got of await look('got')) assert.deepEqual(got, sent, 'each once and in order');
  for (const told of await look('told')) {
    assert.ok(!told.some(({ type }) => type === 'gap'), 'no gap');
    assert.ok(told.some(({ type, code }) => type === 'error' && code === 'draining'), 'nginx has said why');
  }
  await tabs[0].screenshot({ path: picture });
  await browser.close();
};

tests['what nginx answers while the gateway is away'] = async () => {
  await gateway.kill();
  const session = await session2();
  const away = await ask2(session, path('stream'), { accept: 'text/event-stream', ...bearer(token) });
  assert.equal(away.status, 503, 'who can read a status gets one');
  assert.equal(JSON.parse(away.text).code, 'draining');
  const native = await ask2(session, path(`stream?access_token=${token}`), { accept: 'text/event-stream', origin: 'https://app.example' });
  assert.equal(native.status, 200);
  assert.match(native.text, /^data: \{"type":"error","code":"draining"[^\n]*\}\n\n$/);
  const post = await ask2(session, path('events'), { ':method': 'POST', ...bearer(key), 'content-type': 'application/json' }, JSON.stringify(event()));
  assert.equal(post.status, 504);
  assert.equal(JSON.parse(post.text).code, 'unknown');
  const ws = socket([], bearer(token));
  await until('the upgrade to fail', () => ws.words);
  session.destroy();
  await gateway.restart();
};

// Last, because it reads what all other tests have left.
tests['no token and no key in any log'] = async () => {
  const all = { ...Object.fromEntries(Object.entries(logs).map(([name, file]) => [name, read(file)])), gateway: gateway.log };
  assert.match(all.access, /"GET \/v1\/orgs\/dev\/stream HTTP\/2.0" 200/, 'requests are logged');
  assert.match(all.access, / 200 .*upstream=502/, 'and what failed behind nginx');
  for (const [name, text] of Object.entries(all)) {
    for (const secret of secrets) {
      // The signature alone would reveal the token, and so would half of it.
      assert.ok(!text.includes(secret.slice(-24)), `${name} holds a secret`);
    }
    assert.ok(!/access_token|bearer/i.test(text), `${name} has no query and no header`);
  }
};

for (const [name, run] of Object.entries(tests)) {
  await run();
  console.log(`ok ${name}`);
}
process.exit(0);
