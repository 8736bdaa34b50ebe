// How many of 50,000 clients come back within the same 100 ms when all lose their connections at once and the
// gateway stays away, for the first three attempts: the session's delay (drawn from the window that is allowed)
// against the plain clamp max(1 s, base ± 5 s), which puts all that fall below a second on exactly one second.
//
//   node clients/typescript/bench/herd.mjs [clients]
import { delay } from '../dist/session/session.js';

const CLIENTS = Number(process.argv[2] ?? 50_000);
const BASES_MS = [1_000, 2_000, 5_000, 10_000];
const JITTER_MS = 5_000;
const BUCKET_MS = 100;

// mulberry32: the same draws in each run.
let seed = 1;
const random = () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
};

const clamp = (attempt) => Math.max(1_000, BASES_MS[attempt] + Math.floor((random() * 2 - 1) * JITTER_MS));
const window = (attempt) => delay(attempt, random(), 0);

/** The most arrivals in any 100 ms, wherever it begins. */
function peak(times) {
  times.sort((a, b) => a - b);
  let most = 0;
  for (let first = 0, last = 0; last < times.length; last += 1) {
    while (times[last] - times[first] >= BUCKET_MS) first += 1;
    most = Math.max(most, last - first + 1);
  }
  return most;
}

console.log(`${CLIENTS} clients cut at once; most of them back within any ${BUCKET_MS} ms`);
console.log('attempt  plain clamp  this client  ratio');
const at = { clamp: new Array(CLIENTS).fill(0), window: new Array(CLIENTS).fill(0) };
for (let attempt = 0; attempt < 3; attempt += 1) {
  at.clamp = at.clamp.map((time) => time + clamp(attempt));
  at.window = at.window.map((time) => time + window(attempt));
  const [plain, ours] = [peak([...at.clamp]), peak([...at.window])];
  console.log(`${String(attempt + 1).padStart(7)}${String(plain).padStart(13)}${String(ours).padStart(13)}${(plain / ours).toFixed(1).padStart(7)}`);
}
