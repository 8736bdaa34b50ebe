import assert from 'node:assert/strict';
import { test } from 'node:test';

import { steadyClock } from '../dist/clock.js';

test('time that the machine slept has passed; a wall clock that is corrected a little, or set back, changes nothing', () => {
  let [steady, wall] = [0, 1_000_000];
  const { now } = steadyClock(() => steady, () => wall);
  const pass = (awake, on = awake) => { steady += awake; wall += on; return now(); };
  assert.equal(pass(10), 10);
  assert.equal(pass(10, 600_010), 600_020, 'asleep for ten minutes');
  assert.equal(pass(100, 900), 600_120);
  assert.equal(pass(100, -5_000), 600_220);
  assert.equal(pass(100), 600_320);
});
