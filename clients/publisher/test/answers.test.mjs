// What each answer means for each event: spec/publish-answers.json, which the Rust publisher runs, too.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { read } from '../dist/answer.js';

const { wall, cases } = JSON.parse(readFileSync(new URL('../../../spec/publish-answers.json', import.meta.url), 'utf8'));
const NAMES = { is_known: 'isKnown', asked_ms: 'askedMs' };
const named = (verdict) => Object.fromEntries(Object.entries(verdict).map(([name, value]) => [NAMES[name] ?? name, value]));

for (const { name, sent, answer, verdicts } of cases) {
  test(name, () => {
    const body = typeof answer.body === 'string' ? answer.body : JSON.stringify(answer.body);
    const { status, retry_after: retryAfter, location } = answer;
    const events = sent.map(([id, service, org]) => ({ id, service, org }));
    assert.deepEqual(read({ status, retryAfter, location, body }, events, wall), verdicts.map(named));
  });
}

test('there are cases', () => assert.ok(cases.length > 40));
