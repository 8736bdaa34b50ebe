// The same script under Node, Bun and Deno, against a server that breaks connections: their `fetch` words faults
// differently. A runtime that is not there is skipped. DENO names a Deno that is not in the path.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { answer, refuse, reset, resetInTheMiddle, ScriptedServer } from './scripted_server.mjs';

const path = (from) => fileURLToPath(new URL(from, import.meta.url));
const buns = ['x64', 'aarch64'].map((machine) => path(`../../../tests/npm/node_modules/@oven/bun-linux-${machine}/bin/bun`));
const RUNTIMES = {
  node: [process.execPath],
  bun: [buns.find((bun) => existsSync(bun)) ?? 'bun', 'run'],
  deno: [process.env.DENO ?? 'deno', 'run', '--allow-net', '--allow-env'],
};

for (const [name, [program, ...words]] of Object.entries(RUNTIMES)) {
  const version = spawnSync(program, ['--version'], { encoding: 'utf8' }).stdout?.split('\n')[0];
  test(`${name} ${version ?? ''}`, { skip: version === undefined && 'it is not installed' }, async (t) => {
    const server = await new ScriptedServer().start(t);
    const closed = await new ScriptedServer().start(t);
    await closed.stop();
    server.next(reset, resetInTheMiddle, refuse(503, 'draining', {}, { 'retry-after': '0' }), answer(302, '', { location: '/elsewhere' }));
    const child = spawn(program, [...words, path('./runtime_script.mjs'), server.url, closed.url], { stdio: ['ignore', 'pipe', 'inherit'] });
    let out = '';
    child.stdout.on('data', (chunk) => { out += chunk; });
    assert.equal(await new Promise((resolve) => { child.once('close', resolve); }), 0);
    assert.deepEqual(out.trim().split('\n'), [
      'unknown http_0 or http_302 after 4',
      'stored after 1', 'stored after 1',
      'refused unreachable',
      'unknown unreachable',
      'unknown aborted',
      'token 3',
    ]);
  });
}
