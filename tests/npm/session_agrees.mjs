// The client session in Rust and in TypeScript agree, output for output. The Rust side runs it in simulated worlds
// (crates/tidegate-protocol/examples/session_runs.rs) and prints each run as a vector; this runs them anew.
// Usage: node session_agrees.mjs <path of the program session_runs> [first seed] [seeds]
// The TypeScript client must be built (npm run build in clients/typescript).
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { replay } from '../../clients/typescript/dist/testing/replay.js';

const [program, first = 0, seeds = 10_000] = process.argv.slice(2);
const last = Number(first) + Number(seeds);
const child = spawn(program, [String(first), String(last)], { stdio: ['ignore', 'pipe', 'inherit'] });
const ended = once(child, 'exit');

let runs = 0;
let steps = 0;
for await (const line of createInterface({ input: child.stdout })) {
  const vector = JSON.parse(line);
  const difference = replay(vector);
  if (difference) {
    const { step, field, expected, found } = difference;
    const { at, in: input } = vector.steps[step];
    console.error(`${vector.name}, step ${step} (at ${at}, in ${JSON.stringify(input)}): another ${field}`);
    console.error(`  Rust        ${JSON.stringify(expected)}\n  TypeScript  ${JSON.stringify(found)}`);
    console.error(`The run as a vector: ${program} ${vector.name.split(' ')[1]} ${Number(vector.name.split(' ')[1]) + 1}`);
    child.kill();
    process.exit(1);
  }
  runs += 1;
  steps += vector.steps.length;
}
const [code] = await ended;
assert.equal(code, 0, 'session_runs failed');
assert.equal(runs, Number(seeds));
console.log(`${runs} runs of the session, ${steps} steps: Rust and TypeScript agree`);
