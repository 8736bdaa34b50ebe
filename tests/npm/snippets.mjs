// Runs the snippets of a Markdown file against a gateway, to show that they work as they are. Only the
// address, org and credentials are replaced.
//
//   node tests/npm/snippets.mjs README.md target/debug/tidegate target/python/bin/python
//
// Needs Go, for one of them, and clients/typescript and clients/publisher built, for others.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { launch } from './browser.mjs';
import { Gateway, freePort, until } from './gateway.mjs';

const WANTED = ['react.tsx', 'websocket.js', 'eventsource.html', 'curl.sh', 'token.mjs', 'token.py', 'token.go'];
const LINES_MAX = 20; // about fifteen, or they are no snippets

const [file = 'README.md', program = 'target/debug/tidegate', python = 'python3'] = process.argv.slice(2);
const text = readFileSync(file, 'utf8');
const found = Object.fromEntries(
  [...text.matchAll(/<!-- snippet: (\S+) -->\n```\w*\n(.*?)\n```/gs)].map(([, name, body]) => [name, body]),
);
for (const name of WANTED) {
  assert.ok(found[name], `${file} has no snippet ${name}`);
  const lines = found[name].split('\n').length;
  assert.ok(lines <= LINES_MAX, `${name} has ${lines} lines, more than ${LINES_MAX}`);
}
assert.deepEqual(Object.keys(found).filter((name) => !WANTED.includes(name)), [], 'snippets that no test runs');

// Users serve their pages from another origin, such as that of Vite; so does this. The gateway is as `tidegate
// dev` starts it.
let page = '';
let tokens = 0; // that were asked for, as from a back-end; the first expires soon
const TOKEN_S = 5;
const site = createServer((request, answer) => {
  if (request.url === '/token') return answer.end((tokens += 1) === 1 ? gateway.expiring(TOKEN_S) : gateway.token);
  return answer.setHeader('content-type', 'text/html; charset=utf-8').end(page);
});
await new Promise((resolve) => { site.listen(0, '127.0.0.1', resolve); });
const origin = `http://127.0.0.1:${site.address().port}`;
const gateway = await new Gateway(program, '--no-feed').start();

function fill(snippet) {
  const filled = snippet
    .replaceAll('http://localhost:8080', gateway.url)
    .replaceAll('ws://localhost:8080', gateway.url.replace('http', 'ws'))
    .replaceAll('/orgs/dev/', `/orgs/${gateway.org}/`)
    .replaceAll('$TOKEN', gateway.token)
    .replaceAll('$KEY', gateway.publish_key);
  assert.ok(filled.includes(gateway.url.slice(4)) && !filled.includes('localhost'), 'a snippet names the gateway by localhost:8080');
  return filled;
}

/** A page's snippet, with the line that its user replaces. */
function page_(snippet) {
  tokens = 0;
  const own = `const getToken = async () => '${gateway.token}';`;
  const filled = fill(snippet);
  assert.ok(filled.includes(own), 'it says where its token comes from');
  return `<!doctype html><link rel="icon" href="data:,">${filled.replace(own, "const getToken = async () => (await fetch('/token')).text();")}`;
}

let number = 0;
const marked = (mark) => ({ service: 'staff', event: 'shift.started', id: `${mark}-${number += 1}`, data: { mark, number } });

async function browse(html) {
  const browser = await launch();
  const tab = await browser.newPage();
  const lines = [];
  const errors = [];
  tab.on('console', (message) => (message.type() === 'error' ? errors : lines).push(message.text()));
  tab.on('pageerror', (error) => errors.push(String(error)));
  page = html;
  await tab.goto(origin);
  return { browser, tab, lines, errors };
}

/** How often `mark`'s events stand in `lines`, by their number. */
const numbers = (lines, mark) => lines.filter((line) => line.includes(mark)).map((line) => Number(/number\\?"?:\s*(\d+)/.exec(line)?.[1]));

/** The page of a React user: what a bundler makes of the snippet. */
async function bundled(snippet) {
  const client = fileURLToPath(new URL('../../clients/typescript', import.meta.url));
  const { build } = createRequire(join(client, 'package.json'))('esbuild');
  const contents = `${snippet}\nimport { createRoot } from 'react-dom/client';\ncreateRoot(document.getElementById('root')).render(<App />);`;
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: client, loader: 'tsx' }, bundle: true, format: 'esm', jsx: 'automatic', write: false,
    define: { 'process.env.NODE_ENV': '"production"' },
  });
  return `<!doctype html><link rel="icon" href="data:,"><div id="root"></div><script type="module">${outputFiles[0].text.replaceAll('</script', '<\\/script')}</script>`;
}

const tests = {
  async 'react.tsx'() {
    const filled = page_(found['react.tsx']).replace(/^<!doctype html>.*?data:,">/, '');
    const { browser, tab, errors } = await browse(await bundled(filled));
    const shown = async () => numbers((await tab.locator('#root').innerText()).split('\n'), 'by-react');
    const state = () => tab.getAttribute('#root > ul', 'title');
    await until('it to be connected', async () => (await state()) === 'connected');
    const first = number + 1;
    for (let times = 0; times < 5; times += 1) await gateway.publish(marked('by-react'));
    await until('a new token', () => tokens > 1);
    await gateway.kill();
    await until('it to say so', async () => (await state()) === 'reconnecting');
    await gateway.restart();
    for (let times = 0; times < 5; times += 1) await gateway.publish(marked('by-react'));
    await until('what was published while it was away', async () => (await shown()).at(-1) === number);
    assert.deepEqual(await shown(), Array.from({ length: number - first + 1 }, (_, at) => first + at), 'each event once and in order');
    assert.equal((await tab.evaluate(() => window.__realtimeMetrics())).totalDisconnects, 1, 'the new token costs no connection');
    // The browser itself reports connections that are refused.
    assert.deepEqual(errors.filter((words) => !words.includes('WebSocket connection to')), []);
    await browser.close();
  },

  async 'websocket.js'() {
    const { browser, lines, errors } = await browse(page_(`<script>${found['websocket.js']}</script>`));
    const sent = [];
    const publish = async () => {
      const event = marked('by-websocket');
      await gateway.publish(event);
      sent.push(event.data.number);
    };
    // A stream without a cursor starts at the head of the moment when it opens.
    await until('the first event', async () => { await publish(); return lines.some((line) => line.includes('by-websocket')); });
    assert.deepEqual(errors, []);
    for (let times = 0; times < 5; times += 1) await publish();
    await until('the last event', () => numbers(lines, 'by-websocket').at(-1) === sent.at(-1));
    await until('a new token', async () => { await publish(); return tokens > 1; });
    assert.ok(errors.some((line) => line.includes('token_expired')), 'the console says why');
    await until('what was published meanwhile', () => numbers(lines, 'by-websocket').at(-1) === sent.at(-1));
    await gateway.kill();
    await gateway.restart();
    for (let times = 0; times < 5; times += 1) await publish();
    await until('what was published while it was away', () => numbers(lines, 'by-websocket').at(-1) === sent.at(-1));
    const got = numbers(lines, 'by-websocket');
    assert.deepEqual(got, sent.slice(sent.indexOf(got[0])), 'each event once and in order, over the new token and the restart');
    await browser.close();
  },

  async 'eventsource.html'() {
    await gateway.publish(marked('by-eventsource'));
    const { browser, tab, errors } = await browse(page_(found['eventsource.html']));
    const shown = async () => numbers((await tab.locator('body').innerText()).split('\n').reverse(), 'by-eventsource');
    await until('the event that was there before', async () => (await shown()).length > 0);
    assert.deepEqual(errors, []);
    const first = number;
    for (let times = 0; times < 5; times += 1) await gateway.publish(marked('by-eventsource'));
    await until('the last event', async () => (await shown()).at(-1) === number);
    await until('a new token', async () => { await gateway.publish(marked('by-eventsource')); return tokens > 1; });
    await until('what was published meanwhile', async () => (await shown()).at(-1) === number);
    await gateway.kill();
    await gateway.restart();
    for (let times = 0; times < 5; times += 1) await gateway.publish(marked('by-eventsource'));
    await until('what was published while it was away', async () => (await shown()).at(-1) === number);
    const wanted = Array.from({ length: number - first + 1 }, (_, at) => first + at);
    assert.deepEqual(await shown(), wanted, 'each event once and in order, over the restart');
    await browser.close();
  },

  async 'curl.sh'() {
    const shell = spawn('sh', ['-e', '-c', fill(found['curl.sh'])], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    let out = '';
    let words = '';
    shell.stdout.on('data', (chunk) => { out += chunk; });
    shell.stderr.on('data', (chunk) => { words += chunk; });
    let ended = false;
    shell.once('exit', () => { ended = true; });
    // The whole process group: the shell and its curl.
    const stop = () => { if (!ended) process.kill(-shell.pid, 'SIGKILL'); };
    process.once('exit', stop);
    await until('the published event to be streamed', () => {
      assert.ok(!ended, `curl.sh ended: ${out} ${words}`);
      return out.includes('"type":"hello"') && /data: .*"event":"invoice\.paid"/.test(out);
    });
    assert.match(out, /"duplicate":false/, 'it publishes');
    await gateway.publish(marked('by-curl'));
    await until('a live event', () => out.includes('by-curl'));
    stop();
  },
};

// Other requests of a page of another origin: history and cursors take the token in a header, for which
// browsers send a preflight.
tests['a page of a listed origin'] = async () => {
  const strict = await new Gateway(program, '--no-feed', '--set', `auth.origins=["${origin}"]`).start();
  await strict.publish(marked('by-fetch'));
  const { browser, tab } = await browse('<!doctype html><link rel="icon" href="data:,">');
  const ask = (url) => tab.evaluate(async ([address, token]) => {
    const answer = await fetch(address, { headers: { authorization: `Bearer ${token}` } });
    return answer.json();
  }, [url, strict.token]);
  assert.ok((await ask(`${strict.url}/v1/orgs/${strict.org}/cursor`)).cursor);
  assert.ok((await ask(`${strict.url}/v1/orgs/${strict.org}/events`)).events.length);
  await tab.goto(origin.replace('127.0.0.1', 'localhost'));
  await assert.rejects(ask(`${strict.url}/v1/orgs/${strict.org}/cursor`), /Failed to fetch/, 'an origin that is not listed');
  await browser.close();
};

// The token endpoints of a back-end. Each starts with the secret that `dev` keeps, and its token opens a stream.
const here = dirname(fileURLToPath(import.meta.url));
// What a Go program has around its handler.
const GO = (handler, port) => `package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

type user struct {
	ID, Org  string
	Services []string
}

func sessionUser(r *http.Request) *user { return &user{"alice", "dev", []string{"*"}} }

${handler}

func main() {
	http.HandleFunc("/", streamToken)
	log.Fatal(http.ListenAndServe("localhost:${port}", nil))
}
`;
const scratch = mkdtempSync(join(tmpdir(), 'tidegate-snippets-'));
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }));
const backEnds = {
  // In the package, so that its own name leads to it.
  'token.mjs': (code) => ['node', ['--input-type=module', '--eval', code], join(here, '../../clients/publisher')],
  'token.py': (code) => [python.includes('/') ? resolve(python) : python, ['-c', code], here],
  'token.go': (code) => {
    const main = join(scratch, 'main.go');
    writeFileSync(main, code);
    return ['go', ['run', main], join(here, '../go')];
  },
};
for (const [name, command] of Object.entries(backEnds)) {
  tests[name] = async () => {
    const port = freePort();
    const code = name === 'token.go' ? GO(found[name], port) : found[name].replace('3000', port);
    assert.ok(code.includes(port), `${name} listens on port 3000`);
    const [tool, words, cwd] = command(code);
    const [, secret] = /^secret = "(.*)"$/m.exec(readFileSync(join(gateway.dir, 'dev.toml'), 'utf8'));
    const server = spawn(tool, words, { cwd, env: { ...process.env, TIDEGATE_SECRET: secret }, stdio: ['ignore', 'ignore', 'pipe'], detached: true });
    let said = '';
    let ended = false;
    server.stderr.on('data', (chunk) => { said += chunk; });
    server.once('error', (error) => { said += error; ended = true; });
    server.once('exit', () => { ended = true; });
    const stop = () => { if (!ended) process.kill(-server.pid, 'SIGKILL'); };
    process.once('exit', stop);
    const token = await until('a token', () => {
      assert.ok(!ended, `${name} ended: ${said}`);
      return fetch(`http://localhost:${port}/stream-token`).then((answer) => answer.text(), () => '');
    });
    const { sub, org, services, exp } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.deepEqual({ sub, org, services }, { sub: 'alice', org: 'dev', services: ['*'] });
    const life = exp - Date.now() / 1000;
    assert.ok(life > 0 && life <= 601, `it lives ${life} s: exp is in seconds`);
    const answer = await fetch(`${gateway.url}/v1/orgs/dev/cursor`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(answer.status, 200, await answer.text());
    stop();
  };
}

for (const [name, run] of Object.entries(tests)) {
  await run();
  console.log(`ok ${name}`);
}
process.exit(0);
