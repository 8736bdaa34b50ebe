// Thousands of events through a gateway that fails in every way, over seeds. Time is the test's.
//
//   TIDEGATE_SEEDS=5000 node --test test/fuzz.test.mjs     more seeds
//   TIDEGATE_SEED=17 node --test test/fuzz.test.mjs        one of them
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { createPublisher } from '../dist/index.js';
import { draws, ManualClock } from './manual_clock.mjs';
import { answered, ModelGateway, problem } from './model_gateway.mjs';

const SEEDS = Number(process.env.TIDEGATE_SEEDS ?? 300);

/** A gateway that fails `often` of the time. */
function failing(random, clock, often) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const broken = (code) => { throw Object.assign(new TypeError('fetch failed'), { cause: { code } }); };
  const before = [
    () => broken('ECONNREFUSED'), () => broken('ECONNRESET'),
    () => answered(503, problem(503, 'overloaded', 'no room', { retry_in_ms: 1000 })),
    () => answered(503, problem(503, 'draining', 'shutting down'), { 'retry-after': '2' }),
    () => answered(429, problem(429, 'rate_limited', 'too many'), { 'retry-after': '1' }),
    () => answered(502, '<html>bad gateway</html>'),
    () => answered(200, '<html>welcome</html>'),
    () => answered(401, problem(401, 'unauthorized', 'no such key')),
    () => answered(408, problem(408, 'request_timeout', 'too slow')),
  ];
  const after = [
    () => broken('ECONNRESET'), () => answered(504, problem(504, 'unknown', 'not known')),
    () => answered(504, ''), () => answered(500, problem(500, 'internal', 'a fault')), () => answered(200, '{"cursor":"e-1"'),
  ];
  const orgs = [problem(429, 'rate_limited', 'too many', { retry_in_ms: 700 }), problem(503, 'overloaded', 'no room', { retry_in_ms: 50 })];
  const failsOrg = () => (random() < often ? pick(orgs) : null);
  const fails = async (stage, signal) => {
    // Slow, and sometimes never.
    const slow = random() < often / 4 ? 60_000 : Math.floor(random() * 40);
    await new Promise((resolve, reject) => {
      const timer = clock.setTimeout(resolve, slow);
      signal.addEventListener('abort', () => { clock.clearTimeout(timer); reject(signal.reason); });
    });
    return random() < often ? pick(stage === 'before' ? before : after)() : null;
  };
  return { fails, failsOrg };
}

async function run(seed) {
  const random = draws(seed);
  const clock = new ManualClock();
  const dice = (chance) => random() < chance;
  const up = (most) => 1 + Math.floor(random() * most);
  const isNamed = dice(0.5);
  const often = [0, 0.1, 0.5, 0.9][Math.floor(random() * 4)];
  const gateway = new ModelGateway({
    ...failing(random, clock, often),
    limits: { events: dice(0.3) ? up(20) : 1000, bytes: dice(0.3) ? 300 + up(3000) : 4 << 20, eventBytes: 250, orgs: dice(0.3) ? up(3) : 100 },
    forbidden: (org, service) => service === 'secret',
  });
  const outcomes = [];
  const retryForMs = [300, 5000, 240_000][up(3) - 1];
  const publisher = createPublisher({
    url: 'http://gateway', key: 'tgk_1_2', org: isNamed ? undefined : 'acme', clock, random, fetch: gateway.fetch,
    maxBatch: up(30), maxBatchBytes: 200 + up(4000), maxDelayMs: up(20) - 1, maxQueue: up(60), retryForMs,
    onOutcome: (outcome, event) => outcomes.push([event, outcome]),
  });
  const events = Array.from({ length: up(200) }, (_, n) => ({
    service: dice(0.05) ? 'secret' : `s${up(3)}`, event: 'e', data: { n, text: 'x'.repeat(dice(0.03) ? 400 : up(80)) },
    ...(isNamed && { org: `org${up(4)}` }), ...(dice(0.05) && { bad: true }), ...(dice(0.1) && { id: `id-${up(10)}` }),
  }));
  const published = [];
  for (const event of events) {
    published.push(dice(0.1) ? publisher.tryPublish(event) : publisher.publish(event));
    if (dice(0.2)) await clock.step();
    if (dice(0.02)) void publisher.flush();
  }
  const isCut = dice(0.3);
  const left = await clock.until(publisher.close({ timeoutMs: isCut ? up(2000) : 10_000_000 }));
  const settled = await clock.until(Promise.all(published));

  assert.equal(outcomes.length, events.length, 'one outcome for each event');
  assert.equal(publisher.pending, 0);
  assert.equal(clock.timers, 0, 'no timer is left');
  if (!isCut) assert.deepEqual(left, []);
  const stored = new Map(gateway.stored.map((event) => [`${event.org} ${event.service} ${event.id}`, event]));
  assert.equal(stored.size, gateway.stored.length, 'nothing is stored twice');
  for (const [at, event] of events.entries()) {
    const outcome = settled[at];
    const found = stored.get(`${event.org ?? 'acme'} ${event.service} ${outcome.id}`);
    const isThere = found?.data.n === event.data.n;
    if (outcome.status === 'stored') assert.ok(isThere && found.seq === outcome.seq && outcome.cursor === `e-${found.seq}`);
    if (outcome.status === 'duplicate') assert.ok(found && found.seq === outcome.seq);
    if (outcome.status === 'refused') assert.ok(!isThere, `refused (${outcome.code}), and yet stored`);
    if (event.bad && outcome.code === 'invalid') assert.equal(outcome.pointer, '/bad');
    const isFaulty = event.bad || event.service === 'secret' || event.id || event.data.text.length > 200;
    if (outcome.status === 'refused' && !outcome.retryable && outcome.code !== 'unauthorized') assert.ok(isFaulty, `refused for the fault of another: ${JSON.stringify(outcome)}`);
  }
  // Without faults nothing is left out.
  if (often === 0 && !isCut && retryForMs === 240_000) {
    for (const { status, code, detail } of settled) assert.ok(['stored', 'duplicate'].includes(status) || ['invalid', 'forbidden', 'id_conflict', 'too_large', 'queue_full'].includes(code), `${status} ${code}: ${detail}`);
  }
  // In the order of publishing, for each org and service.
  const last = new Map();
  for (const { org, service, data } of gateway.stored) {
    const lane = `${org} ${service}`;
    assert.ok((last.get(lane) ?? -1) < data.n, `an event of ${lane} was overtaken`);
    last.set(lane, data.n);
  }
  return { requests: gateway.requests.length, events: events.length };
}

test('whatever the gateway does: each event once, in order, with a true outcome', async () => {
  const only = process.env.TIDEGATE_SEED;
  const seeds = only ? [Number(only)] : Array.from({ length: SEEDS }, (_, seed) => seed);
  for (const seed of seeds) {
    try {
      await run(seed);
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
});
