// The clock of a publisher that was given none.

import type { Clock } from './types.js';

/** A difference that is no rounding and no slow correction of the wall clock. */
const JUMP_MS = 1000;

/**
 * While a machine sleeps, `performance.now()` stands still on many systems, and a retry after that could come
 * later than the gateway remembers the id. So a jump of the wall clock counts as time that has passed.
 */
export function steadyClock(steady = () => performance.now(), wall = () => Date.now()): Clock {
  let slept = 0;
  let last = wall() - steady();
  return {
    now() {
      const apart = wall() - steady();
      if (apart - last > JUMP_MS) slept += apart - last;
      last = apart;
      return steady() + slept;
    },
    wall,
    setTimeout: (run, ms) => setTimeout(run, ms),
    clearTimeout: (timer) => clearTimeout(timer as Parameters<typeof clearTimeout>[0]),
  };
}
