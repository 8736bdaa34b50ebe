// `tidegate publish` and `tidegate tail` over SIGKILL: what one sends the other prints, each event once
// and in order.
//
//   node tests/npm/tail.mjs target/debug/tidegate
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { Gateway, until } from './gateway.mjs';

const [program = 'target/debug/tidegate'] = process.argv.slice(2);

const gateway = await new Gateway(program, '--no-feed').start();
let sent = 0;
function publish(count) {
  const lines = Array.from({ length: count }, () => JSON.stringify({ service: 'finance', event: 'invoice.paid', id: `invoice-${sent += 1}`, data: { sent } }));
  const file = join(gateway.dir, 'events.ndjson');
  writeFileSync(file, `${lines.join('\n')}\n`);
  execFileSync(program, ['publish', '--data-dir', gateway.dir, '--file', file], { stdio: 'pipe' });
}

publish(10); // before the tail begins
const tail = spawn(program, ['tail', '--json', '--tail', '5', '--data-dir', gateway.dir], { stdio: ['ignore', 'pipe', 'pipe'] });
process.once('exit', () => tail.kill('SIGKILL'));
let words = '';
tail.stderr.on('data', (chunk) => { words = (words + chunk).slice(-2000); });
let ended = false;
tail.once('exit', () => { ended = true; });
const got = [];
createInterface(tail.stdout).on('line', (line) => got.push(JSON.parse(line)));
const reach = () => until('the tail to print the last event', () => {
  assert.ok(!ended, `tidegate tail ended: ${words}`);
  return got.at(-1)?.id === `invoice-${sent}`;
});

await reach();
publish(500);
await reach();
for (let kills = 0; kills < 2; kills += 1) {
  await gateway.kill();
  await gateway.restart();
  publish(500);
  await reach();
}
assert.deepEqual(got.filter(({ type }) => type === 'gap'), [], 'no gap was declared');
assert.deepEqual(got.map(({ id }) => id), Array.from({ length: sent - 5 }, (_, at) => `invoice-${at + 6}`));
console.log(`ok tidegate tail: ${got.length} events over two kills`);
process.exit(0);
