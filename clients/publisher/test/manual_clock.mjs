// A clock that tests move, and random draws from a seed.

export class ManualClock {
  #now = 0;
  #timers = [];

  now() { return this.#now; }

  wall() { return 1_764_000_000_000 + this.#now; }

  setTimeout(run, ms) {
    const timer = { at: this.#now + ms, run };
    this.#timers.push(timer);
    return timer;
  }

  clearTimeout(timer) { this.#timers = this.#timers.filter((other) => other !== timer); }

  get timers() { return this.#timers.length; }

  /** Moves to the next timer and runs it; false if there is none. Lets what is ready run first. */
  async step() {
    await new Promise((resolve) => { setImmediate(resolve); });
    const next = this.#timers.reduce((first, timer) => (first && first.at <= timer.at ? first : timer), null);
    if (!next) return false;
    this.#now = Math.max(this.#now, next.at);
    this.clearTimeout(next);
    next.run();
    return true;
  }

  /** Goes on until `done` has settled; an error if nothing is left that could settle it. */
  async until(done) {
    let over = false;
    const ended = () => { over = true; };
    done.then(ended, ended);
    for (let idle = 0; !over; ) {
      idle = (await this.step()) ? 0 : idle + 1;
      if (idle > 20) throw new Error('nothing is left to wait for, and it has not settled');
    }
    return done;
  }
}

/** Numbers in [0, 1) from a seed (mulberry32). */
export function draws(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
