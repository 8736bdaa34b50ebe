// The client in other runtimes, against a real gateway that is killed and started again. TIDEGATE names the
// gateway, DENO a deno; bun is the one of tests/npm. What is not there is left out.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Gateway } from '../../../tests/npm/gateway.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const program = process.env.TIDEGATE;
const bun = join(here, `../../../tests/npm/node_modules/@oven/bun-linux-${{ x64: 'x64', arm64: 'aarch64' }[process.arch]}/bin/bun`);
const RUNTIMES = [
  ['node', process.execPath, [], 'WebSocket' in globalThis ? ['ws', 'sse'] : ['sse']],
  ['bun', bun, [], ['ws', 'sse']],
  ['deno', process.env.DENO ?? 'no deno', ['run', '--allow-net', '--allow-read', '--allow-env'], ['ws', 'sse']],
];

for (const [name, path, before, kinds] of RUNTIMES) {
  for (const kind of kinds) {
    test(`${name} over ${kind}`, { skip: !program || !existsSync(path) }, async () => {
      const gateway = await new Gateway(program, '--no-feed').start();
      const child = spawn(path, [...before, join(here, 'runtime_reader.mjs'), gateway.url, gateway.org, gateway.token, '200', kind], { stdio: ['ignore', 'pipe', 'inherit'] });
      const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
      const batch = (from) => Array.from({ length: 100 }, (_, index) => ({ service: 'finance', event: 'invoice.paid', data: { number: from + index } }));
      assert.equal((await lines.next()).value, kind);
      await gateway.publish(...batch(0));
      await gateway.kill();
      await gateway.restart();
      await gateway.publish(...batch(100));
      assert.equal((await lines.next()).value, kind, 'it connects again');
      assert.deepEqual(JSON.parse((await lines.next()).value), Array.from({ length: 200 }, (_, number) => number));
      const status = child.exitCode ?? await new Promise((resolve) => { child.once('exit', resolve); });
      assert.equal(status, 0);
      await gateway.kill();
    });
  }
}
