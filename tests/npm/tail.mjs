// Followers of a stream, over SIGKILL: `tidegate tail` and the example client on both transports, with and
// without compressed batches. They must print what `tidegate publish` sends, each event once and in order.
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

publish(10); // before the followers begin
const { url, org, token } = gateway;
const followers = {
  'tidegate tail': [program, ['tail', '--json', '--tail', '5', '--data-dir', gateway.dir]],
  'tidegate tail, ws': [program, ['tail', '--json', '--tail', '5', '--transport', 'ws', '--data-dir', gateway.dir]],
  'client.py ws': ['python3', ['examples/client.py', 'ws', url, org, token, 'tail=5', 'auth=subprotocol']],
  'client.py sse': ['python3', ['examples/client.py', 'sse', url, org, token, 'tail=5']],
  'client.py ws, gzip': ['python3', ['examples/client.py', 'ws', url, org, token, 'tail=5', 'batch=gzip']],
  'client.py sse, gzip': ['python3', ['examples/client.py', 'sse', url, org, token, 'tail=5', 'batch=gzip']],
};
const running = Object.entries(followers).map(([name, [command, args]]) => {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const follower = { name, got: [], words: '', ended: false };
  process.once('exit', () => child.kill('SIGKILL'));
  child.stderr.on('data', (chunk) => { follower.words = (follower.words + chunk).slice(-2000); });
  child.once('exit', () => { follower.ended = true; });
  createInterface(child.stdout).on('line', (line) => follower.got.push(JSON.parse(line)));
  return follower;
});
const reach = () => until('every follower to print the last event', () => running.every(({ name, got, words, ended }) => {
  assert.ok(!ended, `${name} ended: ${words}`);
  return got.at(-1)?.id === `invoice-${sent}`;
}));

await reach();
publish(500);
await reach();
for (let kills = 0; kills < 2; kills += 1) {
  await gateway.kill();
  await gateway.restart();
  publish(500);
  await reach();
}
const expected = Array.from({ length: sent - 5 }, (_, at) => `invoice-${at + 6}`);
for (const { name, got } of running) {
  assert.deepEqual(got.filter(({ type }) => type === 'gap'), [], `${name}: no gap was declared`);
  assert.deepEqual(got.map(({ id }) => id), expected, name);
  console.log(`ok ${name}: ${got.length} events over two kills`);
}
process.exit(0);
