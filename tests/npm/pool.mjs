// Publishers that pool connections, around the end of the time for which the gateway keeps an idle one: none
// of their requests may meet the close. They obey `Keep-Alive: timeout=`, as Node's clients do.
//
//   node tests/npm/pool.mjs <address for publishing> <API key>
//
// The gateway must be started with limits.idle_timeout=4s and limits.first_frame_timeout=2s.

import assert from 'node:assert/strict';
import http from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';

const [address, key] = process.argv.slice(2);
const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
const event = JSON.stringify({ service: 's', event: 'e', data: 1 });

function byAgent(agent) {
  return new Promise((resolve, reject) => {
    const request = http.request(address, { method: 'POST', agent, headers }, (response) => {
      response.resume().on('end', () => resolve({ status: response.statusCode, hint: response.headers['keep-alive'] }));
    });
    request.on('error', reject).end(event);
  });
}

async function byFetch() {
  const response = await fetch(address, { method: 'POST', headers, body: event });
  await response.text();
  return { status: response.status, hint: response.headers.get('keep-alive') };
}

// (An agent without a `timeout` of its own ignores the server's.)
// Each lane publishes, waits, and publishes again over what its pool has kept. The waits lie around the time
// that the gateway tells (2 s) and around its own end (4 s).
const lanes = [];
for (let at = 0; at < 300; at++) {
  const pause = (at % 2 === 0 ? 4000 : 2000) - 40 + (at * 80) / 300;
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1, timeout: 60_000 });
  lanes.push(async () => {
    const first = await byAgent(agent);
    assert.deepEqual(first, { status: 200, hint: 'timeout=2' });
    await wait(pause);
    assert.equal((await byAgent(agent)).status, 200);
    agent.destroy();
  });
}
for (const pause of [1500, 2000, 3990, 4000, 4010]) {
  lanes.push(async () => {
    assert.equal((await byFetch()).status, 200);
    await wait(pause);
    assert.equal((await byFetch()).status, 200);
  });
}
const failed = (await Promise.allSettled(lanes.map((lane) => lane()))).filter((lane) => lane.status === 'rejected');
assert.equal(failed.length, 0, `${failed.length} of ${lanes.length} failed: ${failed[0]?.reason}`);
console.log(`ok pool: ${lanes.length} clients around the end of their connections`);
