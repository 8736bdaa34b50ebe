// Compiles and runs the examples of README.md, and that of docs/clients.md, against a gateway. Only the address and the credentials are theirs.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Gateway, until } from '../../../tests/npm/gateway.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const program = process.env.TIDEGATE ?? join(here, '../../target/debug/tidegate');
// Inside the package, so that its own name leads to it.
const scratch = join(here, 'test/readme_scratch');
const text = readFileSync(join(here, 'README.md'), 'utf8');
const guide = readFileSync(join(here, '../../docs/clients.md'), 'utf8');
const examples = (from) => [...from.matchAll(/<!-- snippet: (\S+)\.ts -->\n```ts\n(.*?)\n```/gs)];
const found = examples(text).concat(examples(guide).filter(([, name]) => name === 'publisher'));
const WANTED = ['publish', 'outcome', 'loop', 'shutdown', 'token', 'publisher'];
/** What the examples take from Node. */
const NODE = 'declare const process: { env: Record<string, string | undefined>; exit(code: number): never; once(signal: string, run: () => void): void };\n';
let gateway;
let secret;

before(async () => {
  assert.deepEqual(found.map(([, name]) => name), WANTED);
  assert.equal(text.match(/^```/gm).length / 2, examples(text).length, 'every block is an example that runs');
  gateway = await new Gateway(program, '--no-feed').start();
  [, secret] = /^secret = "(.*)"$/m.exec(readFileSync(join(gateway.dir, 'dev.toml'), 'utf8'));
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch);
  writeFileSync(join(scratch, 'node.d.ts'), NODE);
  for (const [, name, code] of found) writeFileSync(join(scratch, `${name}.ts`), `${code.replaceAll('http://localhost:8080', gateway.url)}\nexport {};\n`);
  writeFileSync(join(scratch, 'tsconfig.json'), '{"extends":"../../tsconfig.json","compilerOptions":{"rootDir":".","outDir":".","declaration":false},"include":["."],"exclude":[]}');
  execFileSync(process.execPath, [join(here, 'node_modules/typescript/bin/tsc'), '--project', scratch], { stdio: 'inherit' });
});

after(async () => {
  rmSync(scratch, { recursive: true, force: true });
  await gateway.kill();
});

function start(name) {
  const child = spawn(process.execPath, [join(scratch, `${name}.js`)], {
    env: { ...process.env, TIDEGATE_KEY: gateway.publish_key, TIDEGATE_SECRET: secret }, stdio: ['ignore', 'pipe', 'pipe'],
  });
  const run = { child, out: '', said: '' };
  child.stdout.on('data', (chunk) => { run.out += chunk; });
  child.stderr.on('data', (chunk) => { run.said += chunk; });
  run.ended = new Promise((resolve) => { child.once('close', resolve); });
  return run;
}

async function output(name) {
  const run = start(name);
  assert.equal(await run.ended, 0, run.said);
  assert.equal(run.said, '');
  return run.out;
}

test('publish.ts', async () => {
  assert.equal(await output('publish'), 'stored\n');
  assert.ok((await gateway.history()).some(({ event, data }) => event === 'invoice.paid' && data.amount === '1200.00'));
});

test('outcome.ts', async () => {
  assert.match(await output('outcome'), /^invalid \/service service must be 1 to 64 /);
});

test('publisher.ts of docs/clients.md', async () => {
  assert.equal(await output('publisher'), 'inv-60 stored\ninv-60 duplicate\ninv-61 invalid /event\n');
});

test('loop.ts', async () => {
  assert.equal(await output('loop'), '0\n');
  const numbers = (await gateway.history()).filter(({ event }) => event === 'invoice.made').map(({ data }) => data.number);
  assert.deepEqual(numbers, Array.from({ length: 12_000 }, (_, at) => at + 1));
});

test('shutdown.ts', async () => {
  // It has nothing to keep it running; a server would.
  writeFileSync(join(scratch, 'served.js'), "import './shutdown.js';\nsetInterval(() => {}, 1000);\nconsole.log('ready');\n");
  const run = start('served');
  await until('it to run', () => run.out.includes('ready'));
  run.child.kill('SIGTERM');
  assert.equal(await run.ended, 0, run.said);
});

test('token.ts', async () => {
  const token = (await output('token')).trim();
  const answer = await fetch(`${gateway.url}/v1/orgs/dev/cursor`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 200, await answer.text());
});
