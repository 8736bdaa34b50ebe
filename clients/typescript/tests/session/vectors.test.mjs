// The session does what the test vectors say: those written by hand (named/), which this also finds stale, and
// those that the fuzzer of the Rust side wrote (generated-NN.json).

import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';

import { FINAL_CODES } from '../../dist/session/codes.js';
import { replay } from '../../dist/testing/replay.js';
import { files } from './named.mjs';

const SPEC = new URL('../../../../spec/', import.meta.url);
const VECTORS = new URL('vectors/', SPEC);
const COMMAND = 'npm run build && WRITE_VECTORS=1 node --test tests/session/vectors.test.mjs';

// A step in a line, so that a change shows what has changed.
function format(vectors) {
  const one = ({ steps, ...rest }) => {
    const head = JSON.stringify(rest).slice(1, -1);
    return `{${head},"steps":[\n${steps.map((step) => JSON.stringify(step)).join(',\n')}\n]}`;
  };
  return `[\n${vectors.map(one).join(',\n')}\n]\n`;
}

test('each file of named vectors is fresh', () => {
  for (const [subject, vectors] of Object.entries(files)) {
    const url = new URL(`${subject}.json`, VECTORS);
    if (process.env.WRITE_VECTORS) writeFileSync(url, format(vectors));
    assert.ok(readFileSync(url, 'utf8') === format(vectors), `spec/vectors/${subject}.json is stale; make it anew with: ${COMMAND}`);
  }
});

test('there are enough named vectors, each with what it is for', () => {
  const all = Object.values(files).flat();
  assert.ok(all.length >= 80, `${all.length}`);
  assert.equal(new Set(all.map(({ name }) => name)).size, all.length, 'two vectors have one name');
  for (const { name, rules, steps } of all) assert.ok(rules.length > 0 && steps.length > 0, name);
  for (const rule of ['R2', 'R3', 'R4', 'R5', 'R14']) assert.ok(all.some(({ rules }) => rules.includes(rule)), rule);
});

for (const file of readdirSync(VECTORS).filter((name) => name.endsWith('.json')).sort()) {
  test(`spec/vectors/${file}`, () => {
    for (const vector of JSON.parse(readFileSync(new URL(file, VECTORS), 'utf8'))) {
      assert.deepEqual(replay(vector), null, vector.name);
    }
  });
}

test('the final codes are those of spec/codes.json that a stream can end with', () => {
  const { codes } = JSON.parse(readFileSync(new URL('codes.json', SPEC), 'utf8'));
  const final = codes.filter(({ close, retry }) => close !== null && retry === 'no');
  assert.deepEqual([...FINAL_CODES].sort(), final.map(({ name }) => name).sort());
  // The session goes by the number where it has no code: final are 4500 to 4999, and 1009.
  for (const { close, retry, name } of codes) if (close !== null) assert.equal(close >= 4500 || close === 1009, retry === 'no', name);
  assert.equal(codes.find(({ name }) => name === 'token_expired').close, 4001);
});
